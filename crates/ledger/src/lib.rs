//! The ledger: what was reserved, paid and refused, durable before anything is signed.
//!
//! bursar must not sign, order or send anything before its record is durable. [`Ledger`] enforces that: it checks the
//! limits, records the operation, makes it durable, and only then answers. Every engine makes the same decisions with
//! the same code. The durable ones keep a journal: a hash chain of JSON lines whose Merkle tree is signed for auditors.
//!
//! # Main types
//!
//! * [`Ledger`]: the operations of a payment (`reserve`, or `hold` and `arm`; then `finish`), of its approval, and
//!   queries.
//! * [`Reservation`]: permission to sign exactly one payment, once. Only the ledger makes one, once the payment is
//!   durable; it cannot be copied, and a rail consumes it.
//! * [`Embedded`]: the engine for one machine. The journal (`audit/seg-*.jsonl`) is its write-ahead log and the only
//!   source of truth. One writer thread decides every operation in order, makes a batch durable with one sync, then
//!   answers. sled holds an index over the journal, which can be deleted at any time.
//! * `Postgres` (feature `postgres`): the engine for a ledger in a database that several proxies share.
//! * [`memory::Memory`]: the engine for tests, without a disk.
//! * [`Payment`]: one payment, as its entries in the journal define it.
//!
//! # Example
//!
//! `store.url` in bursar.toml selects the engine. A URL that contains a password is rejected:
//!
//! ```
//! use bursar_ledger::database_url::DatabaseUrl;
//!
//! let url = DatabaseUrl::parse("postgres://bursar@db.example.com/ledger").unwrap();
//! assert_eq!((url.host.as_str(), url.port), ("db.example.com", 5432));
//! assert!(url.is_encrypted(), "with a verified certificate, unless the database is on this machine");
//!
//! assert!(DatabaseUrl::parse("postgres://bursar:secret@db.example.com/ledger").is_err());
//! ```
//!
//! # Reading order
//!
//! 1. [`model`]: states, requests and answers. [`payment`]: one payment.
//! 2. [`counters`], [`buckets`], [`spending`] and [`book`]: the arithmetic, pure. `decisions`: what all engines share.
//! 3. [`entry`]: the bytes of an entry. [`journal`] and [`scan`]: the files.
//! 4. `writer`, `index`, `recovery`, `embedded`: the engine for one machine.
//! 5. `postgres`: the engine for a shared ledger.
//! 6. [`tree`] and [`note`] (pure), `checkpoints` (files), `signing` (when), `resume` and `reread` (what a start skips,
//!    and checks afterwards): what makes the journal an audit log.
//! 7. [`read`], [`findings`], [`lines`], [`follow`]: readers in other processes, without a lock. [`compared`]: whether what
//!    they read is what was signed.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::float_arithmetic,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod book;
pub mod buckets;
mod checkpoints;
pub mod compared;
pub mod counters;
pub mod database_url;
mod decisions;
pub mod disclosure;
mod embedded;
pub mod entry;
pub mod findings;
pub mod follow;
pub mod format;
mod index;
pub mod journal;
pub mod key;
pub mod lines;
pub mod memory;
mod merge;
pub mod model;
pub mod note;
mod options;
pub mod pauses;
pub mod payment;
mod pipeline;
#[cfg(feature = "postgres")]
mod postgres;
pub mod pruned;
mod queue;
pub mod read;
mod reason;
mod recovery;
mod refusals;
mod replay;
mod reread;
mod resume;
pub mod scan;
mod signing;
pub mod spend;
pub mod spending;
mod standing;
pub mod text;
mod timekeeping;
pub mod tree;
mod writer;

use std::pin::Pin;

use jiff::Timestamp;

use bursar_core::policy::PauseScope;

pub use bursar_core::payment_id::PaymentId;
pub use checkpoints::CheckpointError;
pub use compared::{Compared, Comparison};
pub use counters::Usage;
pub use embedded::Embedded;
pub use key::KeyHold;
pub use model::{
    Alarm, Alarms, ApprovalError, ApprovalRow, ApprovalState, ApprovalStep, Approvals, Arm, ArmedNonce, Arming, Denied,
    Event, Hold, Issued, LedgerError, Outcome, Outflow, RefusalRecord, Requested, Reservation, Reserve, ReserveError,
    Resolution, Signer, Source, State, Terms, Vote,
};
pub use options::{CheckpointInterval, Options, ShowStart, StartStep, UNSIGNED_MAX};
pub use pauses::{Pause, Paused};
pub use payment::{Finding, Payment};
#[cfg(feature = "postgres")]
pub use postgres::{Access, Postgres};
pub use read::{
    Explained, PaymentRecord, ReadError, RecordedPayments, Refused, compare, read_explained, read_pauses, read_payments,
};
pub use reason::Reason;
pub use recovery::OpenError;
pub use refusals::ANY_HOST;
pub use spending::Spending;
pub use standing::{Open, Seen, Standing, read_standing};

/// The result of a ledger method. It is ready once the operation is durable.
pub type LedgerFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A ledger that several engines implement: on this machine's disk, in a database that several proxies share, or, for
/// tests, in memory. All of them keep the same invariants, which one test suite checks for each.
pub trait Ledger: Send + Sync + 'static {
    /// Books every charge or none, arms the payment, and returns once that is durable. Nothing may be signed before.
    ///
    /// Dropping the future is safe: the ledger takes back a reservation that was not received.
    fn reserve(&self, reserve: Reserve) -> LedgerFuture<'_, Result<Reservation, ReserveError>>;

    /// Books every charge or none, to set money aside while a person decides. Later it is armed or released. Dropping
    /// the future is safe.
    fn hold(&self, hold: Hold) -> LedgerFuture<'_, Result<(), ReserveError>>;

    /// Turns held money into a payment. The limits are checked again, without the payment's own hold, and its charges
    /// move to the current windows in the same step (R219). If the limits refuse it, it stays held. An approval named
    /// in `arming` is used up; if the payment waits for an approval, it must be named.
    fn arm(&self, rid: PaymentId, arming: Arming) -> LedgerFuture<'_, Result<Reservation, ReserveError>>;

    /// Records what an external signer has chosen for a payment that was armed for it. Only then may the credential be
    /// made and sent. The reservation is used up either way: after an error nothing may be sent, and the payment has to
    /// be finished by its id. Once the operation is queued, it may be recorded even if the future is dropped.
    fn issued(&self, reservation: Reservation, issued: Issued) -> LedgerFuture<'_, Result<Reservation, LedgerError>>;

    /// Records a step of an approval, or returns why that is not possible. Granting uses up the evidence (R45). Once
    /// the operation is queued, it is recorded even if the future is dropped.
    fn approval(&self, step: ApprovalStep) -> LedgerFuture<'_, Result<(), LedgerError>>;

    /// Approvals that have not ended, oldest first, and denials that are remembered.
    fn approvals(&self) -> LedgerFuture<'_, Result<Approvals, LedgerError>>;

    /// Records how a payment ended; a release also ends its approval. Repeating the state that the payment already has
    /// is fine; any other transition outside the state machine is an error.
    fn finish(&self, rid: PaymentId, outcome: Outcome) -> LedgerFuture<'_, Result<(), LedgerError>>;

    /// Records how an operator resolves a payment with an unknown outcome, with an `admin.action` that says who and
    /// why.
    fn resolve(
        &self,
        rid: PaymentId,
        resolution: Resolution,
        who: String,
        why: String,
    ) -> LedgerFuture<'_, Result<(), LedgerError>>;

    /// Records what the chain says about a payment that was settled on the merchant's receipt, or a dispute about one
    /// whose outcome is unknown.
    fn record_finding(&self, rid: PaymentId, finding: Finding) -> LedgerFuture<'_, Result<(), LedgerError>>;

    /// Records an event that is not a payment.
    fn append(&self, event: Event) -> LedgerFuture<'_, Result<(), LedgerError>>;

    /// Stops the payments of `scope`, at once: before this returns, and whether or not the disk takes the record. The
    /// record is waited for a moment only; if it is not there then, the ledger goes on trying. A scope that is paused
    /// already keeps its first pause.
    fn pause(&self, scope: PauseScope, who: String, why: String) -> LedgerFuture<'_, Paused>;

    /// Lifts the pause of exactly this scope, once that is durable. Returns it, or `None` if the scope is not paused.
    fn resume(
        &self,
        scope: PauseScope,
        who: String,
        why: String,
    ) -> LedgerFuture<'_, Result<Option<Pause>, LedgerError>>;

    /// The pauses in force, oldest first, and whether each is on record. Does not wait.
    fn pauses(&self) -> Vec<(Pause, bool)>;

    /// The widest pause that stops payments by this agent of this group to this host. Does not wait: the task that is
    /// about to sign asks.
    fn pause_on(&self, agent: &str, group: Option<&str>, host: &str) -> Option<Pause>;

    /// Queues a refusal for the journal. Does not wait, and loses none (R62).
    fn refused(&self, denial: RefusalRecord);

    /// One payment, in any state.
    fn get(&self, rid: PaymentId) -> LedgerFuture<'_, Result<Option<Payment>, LedgerError>>;

    /// What caps of these scopes are compared with, as one moment of the ledger saw it.
    fn spending(&self, scopes: &[&str]) -> LedgerFuture<'_, Result<Spending, LedgerError>>;

    /// The counters of these scopes, for all windows that charges have named. Decisions about calendar windows use
    /// [`Ledger::spending`].
    fn usage(&self, scopes: &[&str]) -> LedgerFuture<'_, Result<Vec<Usage>, LedgerError>>;

    /// The counters of these scopes together with what is open in them, in one step of the writer.
    fn standing(&self, scopes: &[&str]) -> LedgerFuture<'_, Result<Seen, LedgerError>>;

    /// Payments that are held, armed or unknown, oldest first.
    fn open_items(&self) -> LedgerFuture<'_, Result<Vec<Payment>, LedgerError>>;

    /// Payments that were settled on the merchant's receipt and that the chain has not confirmed yet, oldest first.
    fn unconfirmed(&self) -> LedgerFuture<'_, Result<Vec<PaymentId>, LedgerError>>;

    /// The idempotency keys that payments hold, in no particular order.
    fn keys(&self) -> LedgerFuture<'_, Result<Vec<KeyHold>, LedgerError>>;

    /// The time that decides which window is current: wall time, as long as it is plausible (R63).
    fn now(&self) -> Timestamp;

    /// Writes what is pending and releases the ledger's resources. Later calls on any handle fail.
    fn close(&self) -> LedgerFuture<'_, ()>;
}

//! The books: what was promised, paid and refused, durable before anything is signed.
//!
//! The journal (`audit/seg-*.jsonl`) is write-ahead log and only truth; sled is an index over it that can be deleted. One
//! writer thread decides every operation in order, makes a batch durable with one sync, then answers. Reading order: `model`
//! (words), `counters` and `book` (arithmetic), `entry` (bytes), `journal` (disk), `writer`, `index`, `recovery`, `embedded`,
//! `read`. Books that several proxies share are in `postgres`. What makes the journal an audit log: `tree` and `note` (pure), `checkpoints` (their files), `signing` (when),
//! `resume` and `reread` (what a start believes, and what it checks afterwards).
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
mod checkpoints;
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
pub mod payment;
#[cfg(feature = "postgres")]
mod postgres;
pub mod pruned;
mod queue;
pub mod read;
mod recovery;
mod refusals;
mod reread;
mod resume;
pub mod scan;
mod signing;
pub mod text;
mod timekeeping;
pub mod tree;
mod writer;

use std::pin::Pin;

use jiff::Timestamp;

pub use bursar_core::payment_id::PaymentId;
pub use checkpoints::CheckpointError;
pub use decisions::Usage;
pub use embedded::{Embedded, Options};
pub use key::KeyHold;
pub use model::{
    Alarm, Alarms, ApprovalError, ApprovalRow, ApprovalState, ApprovalStep, Approvals, Arm, ArmedNonce, Arming, Denied,
    Event, Finding, Hold, Issued, LedgerError, Outcome, Outflow, RefusalRecord, Requested, Reservation, Reserve,
    ReserveError, Resolution, Signer, Source, State, Terms, Vote,
};
pub use payment::Payment;
#[cfg(feature = "postgres")]
pub use postgres::{Access, Postgres};
pub use read::{Books, Explained, PaymentRecord, ReadError, Refused, read_explained, read_payments};
pub use recovery::OpenError;
pub use signing::CheckpointInterval;

/// What a method answers, once it is on disk.
pub type LedgerFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Books that several engines can keep: on this machine's disk, in a database that several proxies share, or, for tests, in
/// memory. All of them keep the same invariants, and one suite of tests holds them to it.
pub trait Ledger: Send + Sync + 'static {
    /// Books every charge or none, arms the payment, and returns when that is durable. Only then may anything be signed.
    ///
    /// Dropping the future is safe: the ledger takes back what was not handed out.
    fn reserve(&self, reserve: Reserve) -> LedgerFuture<'_, Result<Reservation, ReserveError>>;

    /// Books every charge or none, while somebody decides. What is held is armed or released; dropping the future is safe.
    fn hold(&self, hold: Hold) -> LedgerFuture<'_, Result<(), ReserveError>>;

    /// Turns held money into a payment. The limits are checked again, the payment's own hold aside; its charges move to the
    /// windows of now in the same step (R219). Denied, it stays held. An approval that it names is used up by it; one
    /// that the payment waits for must be named.
    fn arm(&self, rid: PaymentId, arming: Arming) -> LedgerFuture<'_, Result<Reservation, ReserveError>>;

    /// Records what a signer elsewhere has chosen for a payment that was armed for it. Only then may the credential be made and
    /// sent. The reservation is used up either way: after an error nothing may be sent, and the payment has to be finished by its
    /// id. What has begun to wait may be recorded even if the future is dropped.
    fn issued(&self, reservation: Reservation, issued: Issued) -> LedgerFuture<'_, Result<Reservation, LedgerError>>;

    /// Records what happens to an approval, or says why that cannot happen. Evidence is used up by being granted here
    /// (R45). What has begun to wait is recorded even if the future is dropped.
    fn approval(&self, step: ApprovalStep) -> LedgerFuture<'_, Result<(), LedgerError>>;

    /// Approvals that have not ended, oldest first, and refusals that are remembered.
    fn approvals(&self) -> LedgerFuture<'_, Result<Approvals, LedgerError>>;

    /// Records how a payment ended; a release ends its approval, too. The state that it is in already is fine; any other move
    /// that the states do not have is an error.
    fn finish(&self, rid: PaymentId, outcome: Outcome) -> LedgerFuture<'_, Result<(), LedgerError>>;

    /// Records an operator's word about an open payment, with `admin.action`, who and why.
    fn resolve(
        &self,
        rid: PaymentId,
        resolution: Resolution,
        who: String,
        why: String,
    ) -> LedgerFuture<'_, Result<(), LedgerError>>;

    /// Records what the chain says of a payment that a merchant's word has settled, or a dispute about one in doubt.
    fn record_finding(&self, rid: PaymentId, finding: Finding) -> LedgerFuture<'_, Result<(), LedgerError>>;

    /// Records what is no payment.
    fn append(&self, event: Event) -> LedgerFuture<'_, Result<(), LedgerError>>;

    /// Leaves a refusal for the journal. Does not wait and loses none (R62).
    fn refused(&self, denial: RefusalRecord);

    /// One payment in whatever state.
    fn get(&self, rid: PaymentId) -> LedgerFuture<'_, Result<Option<Payment>, LedgerError>>;

    /// The counters of these scopes, all windows.
    fn usage(&self, scopes: &[&str]) -> LedgerFuture<'_, Result<Vec<Usage>, LedgerError>>;

    /// Payments that are held, armed or unknown, oldest first.
    fn open_items(&self) -> LedgerFuture<'_, Result<Vec<Payment>, LedgerError>>;

    /// Payments that a merchant's word has settled and that the chain has not been heard about, oldest first.
    fn unconfirmed(&self) -> LedgerFuture<'_, Result<Vec<PaymentId>, LedgerError>>;

    /// The idempotency keys that payments hold, in no order.
    fn keys(&self) -> LedgerFuture<'_, Result<Vec<KeyHold>, LedgerError>>;

    /// The time that windows go by: wall time, as long as it can be believed (R63).
    fn now(&self) -> Timestamp;

    /// Writes what waits and lets go. Later calls on any handle fail.
    fn close(&self) -> LedgerFuture<'_, ()>;
}

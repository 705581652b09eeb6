//! The books: what was promised, paid and refused, durable before anything is signed.
//!
//! The journal (`audit/seg-*.jsonl`) is write-ahead log and only truth; sled is an index over it that can be deleted. One
//! writer thread decides every operation in order, makes a batch durable with one sync, then answers. Reading order: `model`
//! (words), `book` (arithmetic), `entry` (bytes), `journal` (disk), `writer`, `index`, `recovery`, `read`.

pub mod book;
pub mod disclosure;
pub mod entry;
mod index;
pub mod journal;
pub mod key;
mod merge;
pub mod model;
pub mod payment;
pub mod read;
mod recovery;
mod refusals;
pub mod rid;
pub mod scan;
pub mod text;
mod writer;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use key::KeyHold;
pub use model::{
    Arm, By, Denial, Event, LedgerError, Outcome, Reservation, Reserve, ReserveError, Resolution, State, Terms,
};
pub use payment::Payment;
pub use read::{Books, PaymentRecord, ReadError, Refused, read_payments};
pub use recovery::OpenError;
pub use rid::Rid;
pub use writer::Usage;

use crate::clock::SharedClock;
use journal::{Faults, SEGMENT_BYTES};
use writer::{Found, Op, Shared, Writer};

/// Operations that may wait for the writer; further callers wait for room.
const QUEUE: usize = 1024;

/// Below this much free disk nothing new is reserved; what is open can still be finished (digest §1.2, rule 8).
const MIN_FREE_BYTES: u64 = 256 << 20;

/// How the ledger runs. [`Options::new`] is what production uses.
pub struct Options {
    pub clock: SharedClock,
    pub min_free_bytes: u64,
    pub segment_bytes: u64,
    /// For tests of a failing disk.
    pub faults: Option<Box<dyn Faults>>,
}

impl Options {
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            min_free_bytes: MIN_FREE_BYTES,
            segment_bytes: SEGMENT_BYTES,
            faults: None,
        }
    }
}

/// A handle on the one writer. When the last one is dropped the ledger closes by itself.
#[derive(Clone)]
pub struct Ledger {
    ops: mpsc::Sender<Op>,
    shared: Arc<Shared>,
    clock: SharedClock,
    dir: Arc<Path>,
}

impl Ledger {
    /// Opens the ledger in `dir`, repairs what a stop left behind, and starts its threads. Blocks; it reads the journal.
    pub fn open(dir: &Path, mut options: Options) -> Result<Self, OpenError> {
        let opening = recovery::open(dir, &mut options)?;
        let (ops, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let Options {
            clock, min_free_bytes, ..
        } = options;
        let start = |source| OpenError::Io {
            what: "start the writer of",
            path: dir.to_owned(),
            source,
        };
        let writer = Writer::new(
            opening,
            dir.to_owned(),
            clock.clone(),
            min_free_bytes,
            shared.clone(),
            ops.downgrade(),
        )
        .map_err(start)?;
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(start)?;
        Ok(Self {
            ops,
            shared,
            clock,
            dir: dir.into(),
        })
    }

    /// Books every charge or none, arms the payment, and returns when that is on disk. Only then may anything be signed.
    ///
    /// Dropping the future is safe: the ledger takes back what was not handed out.
    pub async fn reserve(&self, reserve: Reserve) -> Result<Reservation, ReserveError> {
        let delivery = self.ask(|reply| Op::Reserve(Box::new(reserve), reply)).await;
        let delivery = delivery.map_err(|error| ReserveError::Failed(error.to_string()))??;
        delivery
            .take()
            .ok_or_else(|| ReserveError::Failed("the reservation was lost".to_owned()))
    }

    /// Records how a payment ended. `unknown` twice is fine; any other move that the states do not have is an error.
    pub async fn finish(&self, rid: Rid, outcome: Outcome) -> Result<(), LedgerError> {
        self.ask(|reply| Op::Finish(rid, outcome, reply)).await?
    }

    /// Records an operator's word about an open payment, with `admin.action`, who and why.
    pub async fn resolve(&self, rid: Rid, resolution: Resolution, who: String, why: String) -> Result<(), LedgerError> {
        self.ask(|reply| Op::Resolve {
            rid,
            resolution,
            who,
            why,
            reply,
        })
        .await?
    }

    /// Records what is no payment.
    pub async fn append(&self, event: Event) -> Result<(), LedgerError> {
        self.ask(|reply| Op::Append(event, reply)).await?
    }

    /// Leaves a refusal for the journal. Does not wait and loses none (Ruling 62).
    pub fn refused(&self, denial: Denial) {
        self.shared.refuse(denial, self.clock.now());
        // A full queue needs no wake: the writer is about to look.
        let _ = self.ops.try_send(Op::Wake);
    }

    /// One payment in whatever state.
    pub async fn get(&self, rid: Rid) -> Result<Option<Payment>, LedgerError> {
        let indexed = match self.ask(|reply| Op::Find(rid, reply)).await? {
            Found::Open(payment) => return Ok(Some(*payment)),
            Found::Failed(error) => return Err(error),
            Found::Elsewhere(indexed) => indexed,
        };
        if let Some(indexed) = indexed
            && let Ok(payment) = indexed.await
        {
            return Ok(payment);
        }
        let dir = self.dir.clone();
        let found = tokio::task::spawn_blocking(move || read::find(&dir, rid)).await;
        let found = found.map_err(|error| LedgerError::Failed(error.to_string()))?;
        found.map_err(|error| LedgerError::Failed(error.to_string()))
    }

    /// The counters of these scopes, all windows.
    pub async fn usage(&self, scopes: &[&str]) -> Result<Vec<Usage>, LedgerError> {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.ask(|reply| Op::Usage(scopes, reply)).await?
    }

    /// Payments that are held, armed or unknown, oldest first.
    pub async fn open_items(&self) -> Result<Vec<Payment>, LedgerError> {
        self.ask(Op::OpenItems).await?
    }

    /// The idempotency keys that payments hold, in no order.
    pub async fn keys(&self) -> Result<Vec<KeyHold>, LedgerError> {
        self.ask(Op::Keys).await?
    }

    /// Writes what waits and releases the directory. Later calls on any handle fail.
    pub async fn close(&self) {
        // It was closed already, then.
        let _ = self.ask(Op::Close).await;
    }

    async fn ask<T>(&self, op: impl FnOnce(oneshot::Sender<T>) -> Op) -> Result<T, LedgerError> {
        let stopped = || LedgerError::Failed("the ledger has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        self.ops.send(op(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }
}

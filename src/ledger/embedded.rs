//! The ledger of one machine: a journal, a writer thread, and an index (digest §1.2).

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::journal::{Faults, SEGMENT_BYTES};
use super::key::KeyHold;
use super::model::{
    Alarm, Alarms, Arming, Denial, Event, Finding, Hold, LedgerError, Outcome, Reservation, Reserve, ReserveError,
    Resolution,
};
use super::payment::Payment;
use super::recovery::{self, OpenError};
use super::rid::Rid;
use super::signing::Rhythm;
use super::timekeeping::Timekeeper;
use super::writer::{Delivery, Found, Op, Shared, Writer};
use super::{Answer, Ledger, Usage, read};
use crate::clock::SharedClock;

/// Operations that may wait for the writer; further callers wait for room.
const QUEUE: usize = 1024;

/// Below this much free disk nothing new is reserved; what is open can still be finished (digest §1.2, rule 8).
const MIN_FREE_BYTES: u64 = 256 << 20;

/// How the ledger runs. [`Options::new`] is what production uses.
pub struct Options {
    pub clock: SharedClock,
    pub min_free_bytes: u64,
    pub segment_bytes: u64,
    pub alarms: Alarms,
    pub signing: Rhythm,
    /// For tests of a failing disk.
    pub faults: Option<Box<dyn Faults>>,
}

impl Options {
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            min_free_bytes: MIN_FREE_BYTES,
            segment_bytes: SEGMENT_BYTES,
            alarms: Arc::new(|_: Alarm| {}),
            signing: Rhythm::default(),
            faults: None,
        }
    }
}

/// A handle on the one writer. When the last one is dropped the ledger closes by itself.
#[derive(Clone)]
pub struct Embedded {
    ops: mpsc::Sender<Op>,
    shared: Arc<Shared>,
    time: Arc<Timekeeper>,
    dir: Arc<Path>,
}

impl Embedded {
    /// Opens the ledger in `dir`, repairs what a stop left behind, and starts its threads. Blocks; it reads the journal.
    pub fn open(dir: &Path, mut options: Options) -> Result<Self, OpenError> {
        let opening = recovery::open(dir, &mut options)?;
        let (ops, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let latest = opening.book.latest().map(|latest| latest.timestamp());
        let time = Arc::new(Timekeeper::new(options.clock.clone(), latest));
        let start = |source| OpenError::Io {
            what: "start the writer of",
            path: dir.to_owned(),
            source,
        };
        let writer = Writer::new(
            opening,
            dir.to_owned(),
            options,
            time.clone(),
            shared.clone(),
            ops.downgrade(),
        );
        let writer = writer.map_err(start)?;
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(start)?;
        Ok(Self {
            ops,
            shared,
            time,
            dir: dir.into(),
        })
    }

    async fn delivered<T>(
        &self,
        op: impl FnOnce(oneshot::Sender<Result<Delivery<T>, ReserveError>>) -> Op,
    ) -> Result<T, ReserveError> {
        let delivery = self.ask(op).await;
        let delivery = delivery.map_err(|error| ReserveError::Failed(error.to_string()))??;
        delivery
            .take()
            .ok_or_else(|| ReserveError::Failed("the reservation was lost".to_owned()))
    }

    async fn ask<T>(&self, op: impl FnOnce(oneshot::Sender<T>) -> Op) -> Result<T, LedgerError> {
        let stopped = || LedgerError::Failed("the ledger has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        self.ops.send(op(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }

    async fn find(&self, rid: Rid) -> Result<Option<Payment>, LedgerError> {
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
}

impl Ledger for Embedded {
    fn reserve(&self, reserve: Reserve) -> Answer<'_, Result<Reservation, ReserveError>> {
        Box::pin(self.delivered(|reply| Op::Reserve(Box::new(reserve), reply)))
    }

    fn hold(&self, hold: Hold) -> Answer<'_, Result<(), ReserveError>> {
        Box::pin(self.delivered(|reply| Op::Hold(Box::new(hold), reply)))
    }

    fn arm(&self, rid: Rid, arming: Arming) -> Answer<'_, Result<Reservation, ReserveError>> {
        Box::pin(self.delivered(move |reply| Op::Arm(rid, Box::new(arming), reply)))
    }

    fn finish(&self, rid: Rid, outcome: Outcome) -> Answer<'_, Result<(), LedgerError>> {
        Box::pin(async move { self.ask(|reply| Op::Finish(rid, outcome, reply)).await? })
    }

    fn resolve(
        &self,
        rid: Rid,
        resolution: Resolution,
        who: String,
        why: String,
    ) -> Answer<'_, Result<(), LedgerError>> {
        let op = move |reply| Op::Resolve {
            rid,
            resolution,
            who,
            why,
            reply,
        };
        Box::pin(async move { self.ask(op).await? })
    }

    fn record_finding(&self, rid: Rid, finding: Finding) -> Answer<'_, Result<(), LedgerError>> {
        Box::pin(async move { self.ask(|reply| Op::Finding(rid, finding, reply)).await? })
    }

    fn append(&self, event: Event) -> Answer<'_, Result<(), LedgerError>> {
        Box::pin(async move { self.ask(|reply| Op::Append(event, reply)).await? })
    }

    fn refused(&self, denial: Denial) {
        self.shared.refuse(denial, self.time.read().now);
        // A full queue needs no wake: the writer is about to look.
        let _ = self.ops.try_send(Op::Wake);
    }

    fn get(&self, rid: Rid) -> Answer<'_, Result<Option<Payment>, LedgerError>> {
        Box::pin(self.find(rid))
    }

    fn usage(&self, scopes: &[&str]) -> Answer<'_, Result<Vec<Usage>, LedgerError>> {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        Box::pin(async move { self.ask(|reply| Op::Usage(scopes, reply)).await? })
    }

    fn open_items(&self) -> Answer<'_, Result<Vec<Payment>, LedgerError>> {
        Box::pin(async move { self.ask(Op::OpenItems).await? })
    }

    fn unconfirmed(&self) -> Answer<'_, Result<Vec<Rid>, LedgerError>> {
        Box::pin(async move { self.ask(Op::Unconfirmed).await? })
    }

    fn keys(&self) -> Answer<'_, Result<Vec<KeyHold>, LedgerError>> {
        Box::pin(async move { self.ask(Op::Keys).await? })
    }

    fn now(&self) -> Timestamp {
        self.time.for_windows()
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            // It was closed already, then.
            let _ = self.ask(Op::Close).await;
        })
    }
}

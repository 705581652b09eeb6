//! The ledger of one machine: a journal, a writer thread, and an index (R201).

use std::path::Path;
use std::sync::Arc;

use super::model::LedgerError;
use super::options::Options;
use super::pauses::InForce;
use super::payment::Payment;
use super::queue::{Queue, Queued};
use super::recovery::{self, OpenError};
use super::timekeeping::Timekeeper;
use super::writer::{Found, Op, Writer};
use super::{LedgerFuture, read};
use bursar_core::payment_id::PaymentId;

/// A handle on the one writer. When the last one is dropped, the ledger closes by itself.
#[derive(Clone)]
pub struct Embedded {
    queue: Queue,
    dir: Arc<Path>,
}

impl Embedded {
    /// Opens the ledger in `dir`, repairs what the last stop left behind, and starts its threads. Blocks while it reads
    /// the journal.
    pub fn open(dir: &Path, mut options: Options) -> Result<Self, OpenError> {
        let opening = recovery::open(dir, &mut options)?;
        let latest = opening.book.latest().map(|latest| latest.timestamp());
        let (queue, ops) = Queue::new(Timekeeper::new(options.clock.clone(), latest));
        *queue.shared.pauses_mut() = InForce::of(opening.book.pauses().clone());
        let start = |source| OpenError::Io {
            what: "start the writer of",
            path: dir.to_owned(),
            source,
        };
        let writer = Writer::new(
            opening,
            dir.to_owned(),
            options,
            queue.time.clone(),
            queue.shared.clone(),
            queue.wake(),
        );
        let writer = writer.map_err(start)?;
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(ops))
            .map_err(start)?;
        Ok(Self { queue, dir: dir.into() })
    }

    async fn find_here(&self, rid: PaymentId) -> Result<Option<Payment>, LedgerError> {
        let indexed = match self.queue.ask(|reply| Op::Find(rid, reply)).await? {
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

impl Queued for Embedded {
    fn queue(&self) -> &Queue {
        &self.queue
    }

    fn find(&self, rid: PaymentId) -> LedgerFuture<'_, Result<Option<Payment>, LedgerError>> {
        Box::pin(self.find_here(rid))
    }
}

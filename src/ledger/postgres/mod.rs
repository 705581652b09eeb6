//! Books in a PostgreSQL database that several proxies share (ledger digest §1.4).
//!
//! Each process has one task that writes (`engine`). It takes what is queued, locks the rows that this is about in a fixed
//! order (`transaction`, `rows`, `session`), decides every operation with the same code as the embedded ledger, against a book
//! of just those rows (`batch`), and commits payments, counters and audit entries together. The entries are this node's own
//! log (`log`); what a node is, and what becomes of the items of one that is gone, is in `node` and `takeover`. The database's
//! clock decides who is gone, this machine's which window a payment falls into.

mod asks;
mod batch;
mod connect;
mod engine;
mod log;
mod node;
mod outage;
mod policy;
mod reads;
mod rows;
mod schema;
mod session;
mod takeover;
mod transaction;

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::RootCertStore;
use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::checkpoints::Checkpoints;
use super::embedded::Options;
use super::journal::Journal;
use super::key::KeyHold;
use super::model::{
    Arming, Denial, Event, Finding, Hold, LedgerError, Outcome, Reservation, Reserve, ReserveError, Resolution,
};
use super::payment::Payment;
use super::recovery::{self, OpenError};
use super::rid::Rid;
use super::timekeeping::Timekeeper;
use super::writer::decide::Space;
use super::writer::ops::{Delivery, Found, Op, Shared};
use super::{Answer, Ledger, Usage};
use crate::config::operator::Place;
use connect::{NoWay, Way};
use engine::Engine;
use log::LocalLog;
use node::Identity;
use outage::Outage;

/// Operations that may wait for the writer; further callers wait for room.
const QUEUE: usize = 1024;

/// How to reach the shared books.
pub struct Access {
    pub place: Place,
    pub password: Option<SecretString>,
    /// Who may vouch for the database, where the connection is encrypted.
    pub roots: RootCertStore,
}

/// A handle on the one writer of this process. When the last one is dropped the ledger closes by itself.
#[derive(Clone)]
pub struct Postgres {
    ops: mpsc::Sender<Op>,
    shared: Arc<Shared>,
    time: Arc<Timekeeper>,
}

impl Postgres {
    /// Opens this node's log in `dir` and the shared books. A database that is away is no error: nothing can be reserved
    /// until it is back. One that is there and cannot be used is.
    pub async fn open(dir: &Path, access: Access, mut options: Options) -> Result<Self, OpenError> {
        let lock = recovery::take(dir)?;
        let identity = Identity::load(dir).map_err(OpenError::Shared)?;
        let mut latest = None;
        let checkpoints = Checkpoints::read(dir)?;
        let (scanned, tree) = recovery::read_log(dir, &checkpoints, &mut |line| {
            latest = Some(line.head.ts.timestamp());
        })?;
        let (journal, torn) = Journal::at_end(
            &dir.join("audit"),
            scanned,
            tree,
            options.clock.now(),
            options.segment_bytes,
            options.faults.take(),
        )?;
        if identity.is_none() && journal.chain().next_seq > 0 {
            return Err(OpenError::Shared(format!(
                "{} has books of its own, and they would not count in the database. Make another data directory (`bursar init \
                 --dir DIR`) for the shared books, and let limits there allow for what was spent here; or write url = \
                 \"embedded\" to go on with these",
                dir.display()
            )));
        }
        let failed = |source| OpenError::Io {
            what: "start the log of",
            path: dir.to_owned(),
            source,
        };
        let Access { place, password, roots } = access;
        if place.sslmode == crate::config::operator::Sslmode::Disable && !place.is_local() {
            tracing::warn!(
                "store.url says sslmode=disable: whoever is between this machine and the database can read and change the books"
            );
        }
        let way = Way::new(&place, password.as_ref(), roots)
            .map_err(|error| OpenError::Shared(format!("TLS could not be set up: {error}")))?;
        let (ops, queue) = mpsc::channel(QUEUE);
        let (shared, time) = (
            Arc::new(Shared::default()),
            Arc::new(Timekeeper::new(options.clock.clone(), latest)),
        );
        let mut engine = Engine {
            _lock: lock,
            way,
            identity,
            epoch: None,
            log: LocalLog::start(journal, dir, checkpoints, options.signing).map_err(failed)?,
            torn,
            mine: policy::Mine::default(),
            session: None,
            time: time.clone(),
            space: Space::new(dir.to_owned(), options.min_free_bytes),
            alarms: options.alarms,
            shared: shared.clone(),
            wake: ops.downgrade(),
            jumped: None,
            known: HashSet::new(),
            backlog: VecDeque::new(),
            unclear: None,
            stopped: None,
            outage: Outage::none(),
            next_beat: Instant::now(),
            dir: dir.to_owned(),
        };
        match engine.establish().await {
            Ok(()) => {}
            Err(NoWay::Refused(why)) => return Err(OpenError::Shared(why)),
            Err(down) => {
                engine.went_down(&down);
            }
        }
        tokio::spawn(engine.run(queue));
        Ok(Self { ops, shared, time })
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
}

impl Ledger for Postgres {
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
        Box::pin(async move {
            match self.ask(|reply| Op::Find(rid, reply)).await? {
                Found::Open(payment) => Ok(Some(*payment)),
                Found::Elsewhere(_) => Ok(None),
                Found::Failed(error) => Err(error),
            }
        })
    }

    fn usage(&self, scopes: &[&str]) -> Answer<'_, Result<Vec<Usage>, LedgerError>> {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        Box::pin(async move { self.ask(|reply| Op::Usage(scopes, reply)).await? })
    }

    /// This node's; a silent node's become somebody's here.
    fn open_items(&self) -> Answer<'_, Result<Vec<Payment>, LedgerError>> {
        Box::pin(async move { self.ask(Op::OpenItems).await? })
    }

    fn unconfirmed(&self) -> Answer<'_, Result<Vec<Rid>, LedgerError>> {
        Box::pin(async move { self.ask(Op::Unconfirmed).await? })
    }

    /// All nodes'.
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

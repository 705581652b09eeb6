//! A ledger in a PostgreSQL database that several proxies share (R207).
//!
//! Each process has one task that writes (`engine`, and its loop in `run`). It takes what is queued, locks the rows
//! involved in a fixed order (`transaction`, `rows`, `session`, `approvals`), decides every operation with the same
//! code as the embedded ledger, against a book of just those rows (`batch`), and commits payments, counters and audit
//! entries together. The entries form this node's own log (`log`). `node` and `takeover` define what a node is, and
//! what happens to the payments of one that is gone. The database's clock decides which node is gone; this machine's
//! clock decides which window a payment falls into.

mod approvals;
mod asks;
mod batch;
mod commit;
mod connect;
mod engine;
mod kept;
mod log;
mod node;
mod outage;
mod policy;
mod reads;
mod reconnect;
mod rows;
mod run;
mod schema;
mod session;
mod takeover;
mod transaction;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;

use rustls::ClientConfig;
use secrecy::SecretString;
use tokio::time::Instant;

use super::LedgerFuture;
use super::checkpoints::Checkpoints;
use super::journal::Journal;
use super::model::LedgerError;
use super::options::Options;
use super::payment::Payment;
use super::queue::{Queue, Queued};
use super::recovery::{self, OpenError};
use super::timekeeping::Timekeeper;
use super::writer::decide::Space;
use super::writer::ops::{Found, Op};
use crate::database_url::DatabaseUrl;
use bursar_core::payment_id::PaymentId;
use connect::{Connector, NoConnection};
use engine::Engine;
use log::LocalLog;
use node::Identity;
use outage::Outage;

/// The `ev` of the entry that an operator's confirmation of the clock makes.
const CLOCK_ACCEPTED: &str = "clock.accepted";

/// How to reach the shared ledger.
pub struct Access {
    pub database: DatabaseUrl,
    pub password: Option<SecretString>,
    /// Verifies the database's certificate if the connection is encrypted.
    pub tls: ClientConfig,
}

/// A handle on the one writer of this process. When the last one is dropped, the ledger closes by itself.
#[derive(Clone)]
pub struct Postgres(Queue);

impl Postgres {
    /// Opens this node's log in `dir` and the shared ledger. A database that is down is not an error: nothing can be
    /// reserved until it is back. A database that answers but cannot be used is an error.
    pub async fn open(dir: &Path, access: Access, mut options: Options) -> Result<Self, OpenError> {
        let lock = recovery::take(dir)?;
        let identity = Identity::load(dir).map_err(OpenError::Shared)?;
        let mut latest = None;
        let checkpoints = Checkpoints::read(dir)?;
        let (scanned, tree) = recovery::read_log(dir, &checkpoints, &mut |line| {
            // Like the book of the embedded ledger: how far the clock has been, unless an operator has confirmed it
            // since.
            let seen = Some(line.head.ts.timestamp());
            latest = if line.head.ev == CLOCK_ACCEPTED {
                seen
            } else {
                latest.max(seen)
            };
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
                "{} already holds a ledger of its own, which would not count in the database. Create another data \
                 directory (`bursar init --dir DIR`) for the shared ledger, and allow in its limits for what was spent \
                 here; or write url = \"embedded\" to continue with this ledger",
                dir.display()
            )));
        }
        let failed = |source| OpenError::Io {
            what: "start the log of",
            path: dir.to_owned(),
            source,
        };
        let Access {
            database,
            password,
            tls,
        } = access;
        if database.sslmode == crate::database_url::Sslmode::Disable && !database.is_local() {
            tracing::warn!(
                "store.url says sslmode=disable: anyone between this machine and the database can read and change the \
                 ledger"
            );
        }
        let connector = Connector::new(&database, password.as_ref(), tls);
        let (queue, ops) = Queue::new(Timekeeper::new(options.clock.clone(), latest));
        let mut engine = Engine {
            _lock: lock,
            connector,
            identity,
            epoch: None,
            log: LocalLog::start(journal, dir, checkpoints, &options).map_err(failed)?,
            torn,
            mine: policy::Mine::default(),
            session: None,
            time: queue.time.clone(),
            space: Space::new(dir.to_owned(), options.min_free_bytes),
            alarms: options.alarms,
            shared: queue.shared.clone(),
            wake: queue.wake(),
            jumped: None,
            known: HashSet::new(),
            open: HashMap::new(),
            backlog: VecDeque::new(),
            unclear: None,
            stopped: None,
            outage: Outage::none(),
            next_beat: Instant::now(),
            next_pauses: Instant::now(),
            dir: dir.to_owned(),
        };
        match engine.establish().await {
            Ok(()) => {}
            Err(NoConnection::Refused(why)) => return Err(OpenError::Shared(why)),
            Err(down) => {
                engine.went_down(&down);
            }
        }
        tokio::spawn(engine.run(ops));
        Ok(Self(queue))
    }
}

/// `open_items` and `unconfirmed` return this node's payments; a silent node's payments become those of a node that
/// takes them over. Everything else covers all nodes.
impl Queued for Postgres {
    fn queue(&self) -> &Queue {
        &self.0
    }

    fn find(&self, rid: PaymentId) -> LedgerFuture<'_, Result<Option<Payment>, LedgerError>> {
        Box::pin(async move {
            match self.0.ask(|reply| Op::Find(rid, reply)).await? {
                Found::Open(payment) => Ok(Some(*payment)),
                Found::Elsewhere(_) => Ok(None),
                Found::Failed(error) => Err(error),
            }
        })
    }
}

//! What the one task that writes knows: its connection, its log, and what it has not done yet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::SignedDuration;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::asks::Task;
use super::commit::Unclear;
use super::connect::Connector;
use super::log::LocalLog;
use super::node::Identity;
use super::outage::Outage;
use super::policy::Mine;
use super::session::Session;
use crate::counters::CounterKey;
use crate::journal::Torn;
use crate::model::Alarms;
use crate::payment::Payment;
use crate::timekeeping::Timekeeper;
use crate::writer::decide::Space;
use crate::writer::ops::{Op, Shared};
use bursar_core::payment_id::PaymentId;

/// The most operations in one transaction.
pub(super) const BATCH_OPS: usize = 256;

pub(super) struct Engine {
    pub dir: PathBuf,
    pub _lock: File,
    pub connector: Connector,
    pub identity: Option<Identity>,
    /// `None` until the first connection of this run.
    pub epoch: Option<i64>,
    pub log: LocalLog,
    /// Recorded in the first entry of this run.
    pub torn: Option<Torn>,
    pub mine: Mine,
    pub session: Option<Session>,
    pub time: Arc<Timekeeper>,
    pub space: Space,
    pub alarms: Alarms,
    pub shared: Arc<Shared>,
    pub wake: mpsc::WeakSender<Op>,
    pub jumped: Option<SignedDuration>,
    pub known: HashSet<CounterKey>,
    /// Open payments of this node as it has left them, so that a batch knows beforehand which counters it needs. Another node
    /// may have changed them; only what the database says counts.
    pub open: HashMap<PaymentId, Payment>,
    /// What could not be written yet, and must be.
    pub backlog: VecDeque<Task>,
    pub unclear: Option<Unclear>,
    /// Set when nothing is recorded any more, with the reason.
    pub stopped: Option<String>,
    pub outage: Outage,
    pub next_beat: Instant,
    /// When the pauses that other nodes have set or lifted are read.
    pub next_pauses: Instant,
}

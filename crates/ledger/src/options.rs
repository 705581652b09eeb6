//! How the durable engines run.

use std::sync::Arc;
use std::time::Duration;

use super::journal::{Faults, SEGMENT_BYTES};
use super::model::{Alarm, Alarms};
use bursar_core::clock::SharedClock;

/// With less free disk space than this, nothing new is reserved; open payments can still be finished (R205).
const MIN_FREE_BYTES: u64 = 256 << 20;

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointInterval {
    pub every: Duration,
    /// This many new entries make a checkpoint due earlier.
    pub entries: u64,
    /// Never more often than this, however many entries there are: the checkpoint files' own syncs share the disk with
    /// the journal's.
    pub at_most_every: Duration,
}

impl CheckpointInterval {
    pub const fn every(every: Duration, entries: u64) -> Self {
        Self {
            every,
            entries,
            at_most_every: Duration::ZERO,
        }
    }
}

impl Default for CheckpointInterval {
    /// At full speed 1024 entries come every 25 ms, and a checkpoint takes four syncs: four checkpoints a second must
    /// do.
    fn default() -> Self {
        Self {
            at_most_every: Duration::from_millis(250),
            ..Self::every(Duration::from_secs(1), 1024)
        }
    }
}

/// What a start does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartStep {
    /// Bytes of the journal that were read, of those that have to be.
    Reading {
        read: u64,
        of: u64,
    },
    /// The journal is read; the rest of a new index is being written.
    WritingIndex,
    Ready,
}

/// Receives what a start does, so that somebody who waits can see it.
pub type ShowStart = Arc<dyn Fn(StartStep) + Send + Sync>;

/// How long payments go on while the journal cannot be signed (R224).
pub const UNSIGNED_MAX: Duration = Duration::from_secs(600);

/// How the ledger runs. Production uses [`Options::new`].
pub struct Options {
    pub clock: SharedClock,
    pub min_free_bytes: u64,
    pub segment_bytes: u64,
    pub alarms: Alarms,
    pub signing: CheckpointInterval,
    pub unsigned_max: Duration,
    pub show_start: ShowStart,
    /// For tests with a failing disk.
    pub faults: Option<Box<dyn Faults>>,
}

impl Options {
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            min_free_bytes: MIN_FREE_BYTES,
            segment_bytes: SEGMENT_BYTES,
            alarms: Arc::new(|_: Alarm| {}),
            signing: CheckpointInterval::default(),
            unsigned_max: UNSIGNED_MAX,
            show_start: Arc::new(|_: StartStep| {}),
            faults: None,
        }
    }
}

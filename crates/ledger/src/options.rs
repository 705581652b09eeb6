//! How the durable engines run.

use std::sync::Arc;

use super::journal::{Faults, SEGMENT_BYTES};
use super::model::{Alarm, Alarms};
use super::signing::CheckpointInterval;
use bursar_core::clock::SharedClock;

/// With less free disk space than this, nothing new is reserved; open payments can still be finished (R205).
const MIN_FREE_BYTES: u64 = 256 << 20;

/// How the ledger runs. Production uses [`Options::new`].
pub struct Options {
    pub clock: SharedClock,
    pub min_free_bytes: u64,
    pub segment_bytes: u64,
    pub alarms: Alarms,
    pub signing: CheckpointInterval,
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
            faults: None,
        }
    }
}

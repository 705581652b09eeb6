//! Signs checkpoints in a thread beside the writer: every second if there are new entries, earlier once there are 1024
//! of them, and at a clean stop (R224). Only the stop waits for it.
//!
//! The writer says how far the journal is synced, and only that is signed: a checkpoint never promises more than the
//! disk holds.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::checkpoints::{CheckpointError, Checkpoints};
use super::resume::Position;

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

/// The writer's end.
pub(crate) struct Signing {
    shared: Arc<SigningShared>,
    thread: Option<JoinHandle<()>>,
}

struct SigningShared {
    state: Mutex<SigningState>,
    changed: Condvar,
}

struct SigningState {
    /// How far the journal is on disk.
    synced: Position,
    /// How far it is signed.
    signed: u64,
    /// Signed since the writer last asked.
    news: Option<Position>,
    stop: Stop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// After a last checkpoint.
    Signed,
    /// Immediately, without one.
    Now,
}

impl Signing {
    /// `synced` is signed at once, unless it already is.
    pub(crate) fn start(checkpoints: Checkpoints, rhythm: CheckpointInterval, synced: Position) -> io::Result<Self> {
        let shared = Arc::new(SigningShared {
            state: Mutex::new(SigningState {
                signed: checkpoints.last().map_or(0, |last| last.size),
                synced,
                news: None,
                stop: Stop::No,
            }),
            changed: Condvar::new(),
        });
        let theirs = shared.clone();
        let thread = thread::Builder::new()
            .name("ledger-signing".to_owned())
            .spawn(move || {
                if let Err(error) = theirs.sign_until_stopped(checkpoints, rhythm) {
                    tracing::error!(%error, "signing the journal failed; payments go on; restart bursar to try again");
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The journal is on disk up to here.
    pub(crate) fn synced(&self, position: Position, rhythm: CheckpointInterval) {
        let mut state = self.shared.state();
        let before = state.synced.size().saturating_sub(state.signed);
        let after = position.size().saturating_sub(state.signed);
        state.synced = position;
        drop(state);
        // The thread sleeps until there is something to sign, then until there is enough.
        if (before == 0 && after > 0) || (before < rhythm.entries && after >= rhythm.entries) {
            self.shared.changed.notify_one();
        }
    }

    /// How far it is signed, if that has changed since the last call.
    pub(crate) fn news(&self) -> Option<Position> {
        self.shared.state().news.take()
    }

    /// Signs the rest and ends.
    pub(crate) fn finish(&mut self) {
        self.stop(Stop::Signed);
    }

    fn stop(&mut self, stop: Stop) {
        self.shared.state().stop = stop;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // If it panicked, a checkpoint is missing; the next start makes up for it.
            let _ = thread.join();
        }
    }
}

impl Drop for Signing {
    fn drop(&mut self) {
        self.stop(Stop::Now);
    }
}

impl SigningShared {
    // After a panic of the other side the state is consistent: every change is one assignment.
    fn state(&self) -> MutexGuard<'_, SigningState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign_until_stopped(
        &self,
        mut checkpoints: Checkpoints,
        rhythm: CheckpointInterval,
    ) -> Result<(), CheckpointError> {
        // As if the last signature were long ago: entries that the start found unsigned are due at once.
        let mut signed_at: Option<Instant> = None;
        while let Some(position) = self.due(rhythm, signed_at) {
            checkpoints.sign(position.tree())?;
            signed_at = Some(Instant::now());
            let mut state = self.state();
            state.signed = position.size();
            state.news = Some(position);
        }
        Ok(())
    }

    /// Waits until something is to be signed. `None`: the thread must end.
    fn due(&self, rhythm: CheckpointInterval, signed_at: Option<Instant>) -> Option<Position> {
        let mut state = self.state();
        loop {
            let unsigned = state.synced.size().saturating_sub(state.signed);
            let wait = match state.stop {
                Stop::Now => return None,
                Stop::Signed => return (unsigned > 0).then(|| state.synced.clone()),
                Stop::No if unsigned == 0 => None,
                Stop::No => {
                    let pause = if unsigned >= rhythm.entries {
                        rhythm.at_most_every
                    } else {
                        rhythm.every
                    };
                    let left = signed_at.map_or(Duration::ZERO, |at| pause.saturating_sub(at.elapsed()));
                    if left.is_zero() {
                        return Some(state.synced.clone());
                    }
                    Some(left)
                }
            };
            state = match wait {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

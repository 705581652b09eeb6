//! Signs checkpoints in a thread beside the writer: every second if there are new entries, earlier once there are 1024
//! of them, and at a clean stop (R224). Only the stop waits for it.
//!
//! The writer says how far the journal is synced, and only that is signed: a checkpoint never promises more than the
//! disk holds. What cannot be signed is tried again for as long as the ledger is open. Entries that are not signed can
//! be cut off unnoticed, so the writer asks how long that has lasted.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::checkpoints::{CheckpointError, Checkpoints};
use super::model::{Alarm, Alarms};
use super::options::{CheckpointInterval, Options};
use super::resume::Position;
use bursar_core::clock::SharedClock;

/// The first and the longest pause after a failed attempt.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(5);

/// How often a clean stop tries to sign the rest. The next start makes up for what is left.
const ATTEMPTS_AT_THE_END: u32 = 3;

/// The writer's end.
pub(crate) struct Signing {
    shared: Arc<SigningShared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct SigningShared {
    state: Mutex<SigningState>,
    changed: Condvar,
    rhythm: CheckpointInterval,
    clock: SharedClock,
    alarms: Alarms,
    unsigned_max: Duration,
}

struct SigningState {
    /// What is to be logged and is not on disk yet, oldest first: up to which size, and since when. Only for a shared
    /// ledger: the embedded one answers after the sync.
    sent: VecDeque<(u64, Instant)>,
    /// How far the journal is on disk.
    synced: Position,
    /// How far it is signed.
    signed: u64,
    /// The attempt under way.
    attempt: Option<Instant>,
    failing: Option<Failing>,
    /// Signed since the writer last asked.
    news: Option<Position>,
    stop: Stop,
}

/// Why the latest attempt failed, and when the first of those that failed in a row began, as time since boot.
struct Failing {
    since: Duration,
    why: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// After a last checkpoint.
    Signed,
    /// Immediately, without one.
    Now,
}

/// What is not signed has been so for longer than payments may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub for_s: u64,
    pub alarm: Alarm,
}

impl Signing {
    /// `synced` is signed at once, unless it already is. A journal that was never signed is signed before this returns,
    /// so that it differs from one whose checkpoints were removed.
    pub(crate) fn start(mut checkpoints: Checkpoints, options: &Options, synced: Position) -> io::Result<Self> {
        if checkpoints.last().is_none()
            && synced.size() > 0
            && let Err(error) = checkpoints.sign(synced.tree())
        {
            tracing::debug!(%error, "the first checkpoint could not be made yet");
        }
        let signed = checkpoints.last().map_or(0, |last| last.size);
        let shared = Arc::new(SigningShared {
            state: Mutex::new(SigningState::new(signed, synced)),
            changed: Condvar::new(),
            rhythm: options.signing,
            clock: options.clock.clone(),
            alarms: options.alarms.clone(),
            unsigned_max: options.unsigned_max,
        });
        let theirs = shared.clone();
        let thread = thread::Builder::new()
            .name("ledger-signing".to_owned())
            .spawn(move || theirs.sign_until_stopped(checkpoints))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Entries up to this size are about to be logged.
    #[cfg(feature = "postgres")]
    pub(crate) fn sent(&self, size: u64) {
        self.shared.state().sent(size, Instant::now());
    }

    /// The journal is on disk up to here.
    pub(crate) fn synced(&self, position: Position) {
        let rhythm = self.shared.rhythm;
        let mut state = self.shared.state();
        let before = state.synced.size().saturating_sub(state.signed);
        let after = position.size().saturating_sub(state.signed);
        state.synced(position);
        drop(state);
        // The thread sleeps until there is something to sign, then until there is enough.
        if (before == 0 && after > 0) || (before < rhythm.entries && after >= rhythm.entries) {
            self.shared.changed.notify_one();
        }
    }

    /// Whether payments must stop, because what was due for a signature has not got one for too long: signing fails,
    /// hangs, or its thread has ended in the middle; or the log hangs before anything can be signed.
    pub(crate) fn overdue(&self) -> Option<Overdue> {
        let shared = &self.shared;
        let state = shared.state();
        // A machine that was asleep in the middle of an attempt is in no trouble.
        let hangs_for = state.attempt.map_or(Duration::ZERO, |began| began.elapsed());
        let failing = state.failing.as_ref();
        let fails_for = failing.map_or(Duration::ZERO, |failing| {
            shared.clock.since_boot().saturating_sub(failing.since)
        });
        let unsigned = fails_for.max(hangs_for).max(state.waits_for(Instant::now()));
        (unsigned >= shared.unsigned_max).then(|| {
            let why = failing.map_or("the disk does not answer", |failing| &failing.why);
            Overdue {
                for_s: unsigned.as_secs(),
                alarm: shared.unsigned(why.to_owned(), true),
            }
        })
    }

    /// How far it is signed, if that has changed since the last call.
    pub(crate) fn news(&self) -> Option<Position> {
        self.shared.state().news.take()
    }

    /// Signs the rest and ends.
    pub(crate) fn finish(&self) {
        self.stop(Stop::Signed);
    }

    fn stop(&self, stop: Stop) {
        self.shared.state().stop = stop;
        self.shared.changed.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
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

impl SigningState {
    fn new(signed: u64, synced: Position) -> Self {
        Self {
            sent: VecDeque::new(),
            synced,
            signed,
            attempt: None,
            failing: None,
            news: None,
            stop: Stop::No,
        }
    }

    #[cfg(feature = "postgres")]
    fn sent(&mut self, size: u64, now: Instant) {
        if size > self.synced.size() {
            self.sent.push_back((size, now));
        }
    }

    fn synced(&mut self, position: Position) {
        while self.sent.pop_front_if(|(size, _)| *size <= position.size()).is_some() {}
        self.synced = position;
    }

    /// How long the oldest entry that is not on disk has been waiting for that.
    fn waits_for(&self, now: Instant) -> Duration {
        let oldest = self.sent.front();
        oldest.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(*since))
    }
}

impl SigningShared {
    // After a panic of the other side the state is consistent: no change can panic halfway.
    fn state(&self) -> MutexGuard<'_, SigningState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign_until_stopped(&self, mut checkpoints: Checkpoints) {
        // As if the last signature were long ago: entries that the start found unsigned are due at once.
        let mut not_before: Option<Instant> = None;
        let (mut failures, mut at_the_end) = (0_u32, 0);
        while let Some((position, stop)) = self.due(not_before, failures > 0) {
            let began = self.clock.since_boot();
            self.state().attempt = Some(Instant::now());
            match checkpoints.sign(position.tree()) {
                Ok(()) => {
                    if failures > 0 {
                        tracing::warn!(entries = position.size(), failures, "the journal is signed again");
                    }
                    failures = 0;
                    self.signed(position);
                    not_before = Some(Instant::now());
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let pause = SOONEST.saturating_mul(1 << (failures - 1).min(16)).min(LATEST);
                    self.failed(&error, began, failures, pause);
                    not_before = Some(Instant::now() + pause);
                    if stop == Stop::Signed {
                        at_the_end += 1;
                        if at_the_end == ATTEMPTS_AT_THE_END {
                            tracing::error!("the newest entries are not signed; the next start signs them");
                            return;
                        }
                        thread::sleep(SOONEST);
                    }
                }
            }
        }
    }

    fn signed(&self, position: Position) {
        let mut state = self.state();
        state.signed = position.size();
        (state.attempt, state.failing) = (None, None);
        state.news = Some(position);
    }

    fn failed(&self, error: &CheckpointError, began: Duration, failures: u32, pause: Duration) {
        let why = error.to_string();
        tracing::error!(
            error = %why,
            failures,
            again_in_ms = pause.as_millis(),
            "the journal cannot be signed; payments stop if that lasts"
        );
        let mut state = self.state();
        state.attempt = None;
        let since = state.failing.take().map_or(began, |failing| failing.since);
        state.failing = Some(Failing {
            since,
            why: why.clone(),
        });
        drop(state);
        if failures == 1 {
            (self.alarms)(self.unsigned(why, false));
        }
    }

    fn unsigned(&self, why: String, payments_stopped: bool) -> Alarm {
        Alarm::LogUnsigned {
            why,
            max_s: self.unsigned_max.as_secs(),
            payments_stopped,
        }
    }

    /// Waits until something is to be signed. `after`: when the last attempt ended or, if it failed, when the next one
    /// may begin. `None`: the thread must end.
    fn due(&self, after: Option<Instant>, is_retry: bool) -> Option<(Position, Stop)> {
        let mut state = self.state();
        loop {
            let unsigned = state.synced.size().saturating_sub(state.signed);
            let pause = match state.stop {
                Stop::Now => return None,
                Stop::Signed if unsigned == 0 => return None,
                Stop::Signed => return Some((state.synced.clone(), state.stop)),
                Stop::No if is_retry => Some(Duration::ZERO),
                Stop::No if unsigned == 0 => None,
                Stop::No if unsigned >= self.rhythm.entries => Some(self.rhythm.at_most_every),
                Stop::No => Some(self.rhythm.every),
            };
            let left = pause.map(|pause| match after.map(|after| after.checked_add(pause)) {
                None => Duration::ZERO,
                Some(Some(due)) => due.saturating_duration_since(Instant::now()),
                // Longer than any clock counts.
                Some(None) => Duration::MAX,
            });
            state = match left {
                Some(Duration::ZERO) => return Some((state.synced.clone(), state.stop)),
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;
    use crate::scan::Place;
    use crate::text::Digest;
    use crate::tree::Tree;

    fn position(size: u64) -> Position {
        let mut tree = Tree::default();
        (0..size).for_each(|entry| tree.append(Digest::of(&entry.to_be_bytes())));
        Position::new(tree, Digest::ZERO, Place::START)
    }

    #[test]
    fn what_was_sent_waits_until_it_is_on_disk() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut state = SigningState::new(3, position(3));
        assert_eq!(state.waits_for(start), Duration::ZERO);
        state.sent(5, start);
        state.sent(6, start + second * 10);
        state.sent(9, start + second * 400);
        assert_eq!(state.waits_for(start + second * 600), second * 600, "the oldest counts");
        // A part of it: the rest waits since it was sent, not since now.
        state.synced(position(4));
        assert_eq!(state.waits_for(start + second * 600), second * 600);
        state.synced(position(5));
        assert_eq!(state.waits_for(start + second * 600), second * 590);
        state.synced(position(8));
        assert_eq!(state.waits_for(start + second * 600), second * 200);
        state.synced(position(9));
        assert_eq!(state.waits_for(start + second * 10_000), Duration::ZERO);
        // What is on disk already waits for nothing.
        state.sent(9, start);
        assert_eq!(state.waits_for(start + second * 10_000), Duration::ZERO);
    }
}

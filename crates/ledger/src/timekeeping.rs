//! The time that decides which window a payment falls into: the wall clock, as long as it is plausible (R63).
//!
//! A clock that went back must not reopen an old window, and one that was set ahead must not open windows that have not
//! begun.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use bursar_core::clock::SharedClock;

/// How far the clock may be behind the ledger's latest entry and still be used.
const BEHIND: SignedDuration = SignedDuration::from_secs(5);
/// How far it may be ahead of the time that has passed and still be used.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);

pub struct Timekeeper {
    clock: SharedClock,
    state: Mutex<Belief>,
}

struct Belief {
    /// Both clocks when they were last accepted.
    wall: Timestamp,
    since_boot: Duration,
    /// The latest time of any entry.
    latest: Option<Timestamp>,
}

/// What the clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// For entries: wall time, or after a jump ahead the time that has passed.
    pub now: Timestamp,
    /// How far wall time has jumped ahead; nothing may be reserved then.
    pub ahead: Option<SignedDuration>,
}

impl Timekeeper {
    pub fn new(clock: SharedClock, latest: Option<Timestamp>) -> Self {
        let belief = Belief {
            wall: clock.now(),
            since_boot: clock.since_boot(),
            latest,
        };
        Self {
            clock,
            state: Mutex::new(belief),
        }
    }

    pub fn read(&self) -> Reading {
        let belief = self.belief();
        belief.judge(self.clock.now(), self.clock.since_boot())
    }

    /// The time that decides about windows.
    pub(crate) fn for_windows(&self) -> Timestamp {
        let belief = self.belief();
        let now = belief.judge(self.clock.now(), self.clock.since_boot()).now;
        match belief.latest {
            Some(latest) if latest.duration_since(now) > BEHIND => latest,
            _ => now,
        }
    }

    /// Records that an entry has this time.
    pub fn saw(&self, time: Timestamp) {
        let mut belief = self.belief();
        belief.latest = belief.latest.max(Some(time));
    }

    /// An operator confirms that the wall clock is right. Returns its time.
    pub fn accept(&self) -> Timestamp {
        let mut belief = self.belief();
        let wall = self.clock.now();
        *belief = Belief {
            wall,
            since_boot: self.clock.since_boot(),
            latest: Some(wall),
        };
        wall
    }

    // The values are consistent even after a panic of another holder.
    fn belief(&self) -> MutexGuard<'_, Belief> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Belief {
    fn judge(&self, wall: Timestamp, since_boot: Duration) -> Reading {
        let passed = since_boot.saturating_sub(self.since_boot);
        let expected = SignedDuration::try_from(passed)
            .ok()
            .and_then(|passed| self.wall.checked_add(passed).ok());
        let expected = expected.unwrap_or(wall);
        let ahead = wall.duration_since(expected);
        if ahead > AHEAD {
            Reading {
                now: expected,
                ahead: Some(ahead),
            }
        } else {
            Reading { now: wall, ahead: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use bursar_core::clock::ManualClock;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn keeper(latest: Option<&str>) -> (Arc<ManualClock>, Timekeeper) {
        let clock = Arc::new(ManualClock::at(at("2026-11-20T12:00:00Z")));
        let keeper = Timekeeper::new(clock.clone(), latest.map(at));
        (clock, keeper)
    }

    #[test]
    fn a_machine_that_slept_for_days_has_not_jumped() {
        let (clock, keeper) = keeper(None);
        clock.set(at("2026-11-25T12:00:00Z"));
        let now = at("2026-11-25T12:00:00Z");
        assert_eq!(keeper.read(), Reading { now, ahead: None });
        assert_eq!(keeper.for_windows(), now);
    }

    #[test]
    fn a_jump_ahead_opens_no_window_until_it_is_accepted_or_undone() {
        let (clock, keeper) = keeper(None);
        clock.jump(at("2026-11-20T13:00:01Z"));
        let noon = at("2026-11-20T12:00:00Z");
        let ahead = Some(SignedDuration::from_secs(3601));
        assert_eq!(keeper.read(), Reading { now: noon, ahead });
        assert_eq!(keeper.for_windows(), noon);
        clock.jump(at("2026-11-20T12:00:00Z"));
        assert_eq!(keeper.read(), Reading { now: noon, ahead: None });

        clock.jump(at("2026-12-01T00:00:00Z"));
        assert_eq!(keeper.accept(), at("2026-12-01T00:00:00Z"));
        assert_eq!(keeper.read().ahead, None);
        assert_eq!(keeper.for_windows(), at("2026-12-01T00:00:00Z"));
    }

    #[test]
    fn small_steps_ahead_add_up() {
        let (clock, keeper) = keeper(None);
        clock.jump(at("2026-11-20T12:50:00Z"));
        assert_eq!(keeper.read().ahead, None);
        clock.jump(at("2026-11-20T13:40:00Z"));
        assert!(keeper.read().ahead.is_some());
    }

    #[test]
    fn a_clock_behind_the_ledger_does_not_go_back_to_old_windows() {
        let (clock, keeper) = keeper(Some("2026-11-20T12:00:05Z"));
        assert_eq!(keeper.for_windows(), at("2026-11-20T12:00:00Z"), "5 s are tolerated");
        keeper.saw(at("2026-11-21T00:00:00Z"));
        assert_eq!(keeper.for_windows(), at("2026-11-21T00:00:00Z"));
        assert_eq!(
            keeper.read().now,
            at("2026-11-20T12:00:00Z"),
            "entries have the clock's time"
        );
        clock.set(at("2026-11-21T00:00:01Z"));
        assert_eq!(keeper.for_windows(), at("2026-11-21T00:00:01Z"));
        // It would stay wrong forever if nobody could confirm the clock.
        keeper.saw(at("2036-01-01T00:00:00Z"));
        keeper.accept();
        assert_eq!(keeper.for_windows(), at("2026-11-21T00:00:01Z"));
    }
}

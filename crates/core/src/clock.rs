//! Time and randomness. Nothing else in this crate reads the system clock or the operating system's generator, so tests
//! can pass in both.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Wall-clock time, for windows, validity and entries. Timeouts use Tokio's monotonic clock instead.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;

    /// Time since boot, including sleep. Nobody can set it, so it shows when the wall clock was changed (R63).
    fn since_boot(&self) -> Duration;
}

pub type SharedClock = Arc<dyn Clock>;

pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn since_boot(&self) -> Duration {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
        Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
    }
}

/// A clock that stands still until it is moved.
pub struct ManualClock {
    /// Microseconds since the epoch.
    wall: AtomicI64,
    /// Microseconds.
    since_boot: AtomicI64,
}

impl ManualClock {
    pub fn at(now: Timestamp) -> Self {
        Self {
            wall: AtomicI64::new(now.as_microsecond()),
            since_boot: AtomicI64::new(1_000_000),
        }
    }

    /// Lets time pass until `now`: both clocks advance.
    pub fn set(&self, now: Timestamp) {
        let before = self.wall.swap(now.as_microsecond(), Ordering::SeqCst);
        let passed = (now.as_microsecond() - before).max(0);
        self.since_boot.fetch_add(passed, Ordering::SeqCst);
    }

    /// Sets the wall clock without letting time pass.
    pub fn jump(&self, now: Timestamp) {
        self.wall.store(now.as_microsecond(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.wall.load(Ordering::SeqCst)).unwrap_or(Timestamp::MAX)
    }

    fn since_boot(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.since_boot.load(Ordering::SeqCst)).unwrap_or(0))
    }
}

/// Unix seconds, as in challenges and signatures.
pub fn unix_second(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

/// Bytes from the operating system's generator. If it fails, the payment stops: a predictable nonce or token is worse
/// than none (threat 1.20).
pub fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

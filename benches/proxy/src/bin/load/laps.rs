//! What is counted, and when.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bursar_bench_proxy::Fault;
use bursar_bench_proxy::order::{DOMAIN, Measured};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmingUp,
    Measuring,
    Over,
}

pub(crate) struct Laps {
    phase: Cell<Phase>,
    /// Nanoseconds.
    times: RefCell<Vec<u64>>,
    bytes: Cell<u64>,
    ready: Cell<usize>,
    failed: Cell<u64>,
    first_failure: RefCell<Option<String>>,
    first_host: u32,
    next_host: Cell<u32>,
}

/// A request under way. It counts if it began and ended within the window.
pub(crate) struct Lap {
    began: Instant,
    counts: bool,
}

impl Laps {
    pub(crate) fn new(first_host: u32) -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::WarmingUp),
            times: RefCell::new(Vec::with_capacity(1 << 20)),
            bytes: Cell::default(),
            ready: Cell::default(),
            failed: Cell::default(),
            first_failure: RefCell::default(),
            first_host,
            next_host: Cell::new(first_host),
        })
    }

    pub(crate) fn start(&self) -> Lap {
        Lap {
            began: Instant::now(),
            counts: self.phase.get() == Phase::Measuring,
        }
    }

    pub(crate) fn finish(&self, lap: &Lap, bytes: u64) {
        if lap.counts && self.phase.get() == Phase::Measuring {
            let taken = lap.began.elapsed();
            self.times
                .borrow_mut()
                .push(u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX));
            self.bytes.set(self.bytes.get() + bytes);
        }
    }

    /// One more client has what it needs.
    pub(crate) fn is_ready(&self) {
        self.ready.set(self.ready.get() + 1);
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.get()
    }

    /// After the window connections may end as they like.
    pub(crate) fn fail(&self, fault: &Fault) {
        if self.phase.get() != Phase::Over {
            self.failed.set(self.failed.get() + 1);
            self.first_failure.borrow_mut().get_or_insert_with(|| fault.to_string());
        }
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.get()
    }

    pub(crate) fn new_host(&self) -> String {
        let number = self.next_host.get();
        self.next_host.set(number + 1);
        format!("h{number}.{DOMAIN}")
    }

    pub(crate) fn hosts_left(&self, hosts: u32) -> bool {
        self.next_host.get() - self.first_host < hosts
    }

    pub(crate) fn begin(&self) {
        self.phase.set(Phase::Measuring);
    }

    pub(crate) fn end(&self) {
        self.phase.set(Phase::Over);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase.get() == Phase::Over
    }

    pub(crate) fn sum_up(&self, into: &mut Measured) {
        let mut times = self.times.take();
        times.sort_unstable();
        let quantile = |share: f64| {
            let index = (times.len().saturating_sub(1) as f64 * share).round() as usize;
            let time = times.get(index).copied().unwrap_or_default();
            Duration::from_nanos(time).as_secs_f64() * 1e6
        };
        into.done = times.len() as u64;
        into.p50_us = quantile(0.5);
        into.p99_us = quantile(0.99);
        into.bytes = self.bytes.get();
        into.new_hosts = self.next_host.get() - self.first_host;
        into.failed = self.failed.get();
        into.first_failure = self.first_failure.take();
    }
}

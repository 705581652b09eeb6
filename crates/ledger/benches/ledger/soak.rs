//! A ledger that takes payments for a long time, as `serve` uses it: whether its memory stops growing.
//!
//! The payments are spread over days of a clock that runs ahead, because what a ledger keeps by design (nonces for a
//! day after a payment, unconfirmed payments for a week) it must also let go in time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bursar_core::clock::{ManualClock, SharedClock, SystemClock};
use bursar_ledger::{Embedded, Ledger, Options, Outcome, Source};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::market::{Market, furnish};
use crate::report::{heading, line};
use crate::{Fault, child, runtime};

const AGENTS: usize = 100;
const CALLERS: usize = 32;
/// A sample of the memory is taken after each of so many equal parts.
const SAMPLES: usize = 20;
/// How much larger the memory of the second half may be.
const GROWTH: f64 = 1.05;

#[derive(Clone, Copy)]
pub(crate) struct Soak {
    pub payments: usize,
    /// Days that pass on the ledger's clock. Zero: the system's clock.
    pub days: i64,
    /// No payment begins after this.
    pub at_most: Duration,
}

/// What the callers share.
struct Run {
    soak: Soak,
    market: Market,
    clock: SharedClock,
    /// Moves the ledger's clock, unless that is the system's.
    moved: Option<Arc<ManualClock>>,
    from: Timestamp,
    began: Instant,
    begun: AtomicUsize,
    ended: AtomicUsize,
}

pub(crate) fn measure(root: &Path, soak: Soak) -> Result<(), Fault> {
    let dir = TempDir::new_in(root)?;
    furnish(dir.path(), AGENTS)?;
    let from = Timestamp::now();
    let moved = (soak.days > 0).then(|| Arc::new(ManualClock::at(from)));
    let clock: SharedClock = match &moved {
        Some(moved) => moved.clone(),
        None => Arc::new(SystemClock),
    };
    let over = match soak.days {
        0 => "as fast as they go".to_owned(),
        days => format!("over {days} days"),
    };
    heading(&format!("A soak of {} payments {over}", soak.payments));
    let ledger = Embedded::open(dir.path(), Options::new(clock.clone()))?;
    let run = Arc::new(Run {
        soak,
        market: Market::of(AGENTS)?,
        clock,
        moved,
        from,
        began: Instant::now(),
        begun: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
    });
    let runtime = runtime()?;
    let samples = runtime.block_on(pay(&run, &ledger))?;
    let closing = Instant::now();
    runtime.block_on(ledger.close());
    line("close, s", closing.elapsed().as_secs_f64());
    let started = child::start(dir.path())?;
    line("start with the index, s", started.ledger_s);
    line("its peak memory, MiB", started.peak_mib);
    if run.ended.load(Ordering::Relaxed) < run.soak.payments {
        println!("  stopped after {} s", run.soak.at_most.as_secs());
    }
    judge(&samples)
}

/// Runs all callers to the end, and returns the samples of the memory, in MiB.
async fn pay(run: &Arc<Run>, ledger: &Embedded) -> Result<Vec<f64>, Fault> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (run, ledger) = (run.clone(), ledger.clone());
        callers.spawn(async move { caller(&run, &ledger).await });
    }
    let mut samples = Vec::new();
    while let Some(done) = callers.join_next().await {
        samples.extend(done??);
    }
    samples.sort_by_key(|(number, _)| *number);
    Ok(samples.into_iter().map(|(_, mib)| mib).collect())
}

async fn caller(run: &Run, ledger: &Embedded) -> Result<Vec<(usize, f64)>, Fault> {
    let mut samples = Vec::new();
    let Soak {
        payments,
        days,
        at_most,
    } = run.soak;
    let step = SignedDuration::from_micros(days * 24 * 3_600_000_000 / i64::try_from(payments)?);
    loop {
        let number = run.begun.fetch_add(1, Ordering::Relaxed);
        if number >= payments || run.began.elapsed() > at_most {
            return Ok(samples);
        }
        if let Some(moved) = &run.moved {
            moved.set(run.from + step * i32::try_from(number)?);
        }
        let purchase = run.market.purchase(number % AGENTS, run.clock.now())?;
        let rid = ledger.reserve(purchase).await?.rid();
        let settled = Outcome::Settled {
            by: Source::Merchant,
            tx: None,
        };
        ledger.finish(rid, settled).await?;
        let ended = run.ended.fetch_add(1, Ordering::Relaxed) + 1;
        if ended.is_multiple_of((payments / SAMPLES).max(1)) {
            let mib = child::resident_mib()?;
            let seconds = run.began.elapsed().as_secs_f64();
            println!(
                "  {ended:>9} payments  {seconds:>6.0} s  {:>6.0} per second  {mib:>7.1} MiB",
                ended as f64 / seconds
            );
            samples.push((ended, mib));
        }
    }
}

/// The largest sample of each half: a single one may hit the moment of a checkpoint.
fn judge(samples: &[f64]) -> Result<(), Fault> {
    if samples.len() < 4 {
        return Err("too few payments were made in that time to judge the memory".into());
    }
    let largest = |samples: &[f64]| samples.iter().copied().fold(0.0, f64::max);
    let (first, second) = samples.split_at(samples.len() / 2);
    let (first, second) = (largest(first), largest(second));
    line("memory, largest of the first half, MiB", first);
    line("memory, largest of the second half, MiB", second);
    if second > first * GROWTH {
        return Err(format!(
            "the memory of the second half is {:.1} % larger than that of the first; at most {:.0} % is allowed",
            (second / first - 1.0) * 100.0,
            (GROWTH - 1.0) * 100.0
        )
        .into());
    }
    println!("  the memory is flat");
    Ok(())
}

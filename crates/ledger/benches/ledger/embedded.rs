//! The ledger on this machine's disk, compared with the disk alone (R66).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bursar_core::clock::SystemClock;
use bursar_ledger::{Embedded, Ledger, Options};
use tempfile::TempDir;

use crate::market::{Market, furnish};
use crate::report::{Target, heading, held, line, median};
use crate::{Fault, bare, load, runtime};

/// How many payments per second 32 callers must make where a bare `fdatasync` takes at most `FAST_SYNC_US`.
const PER_SECOND: f64 = 20_000.0;
const FAST_SYNC_US: f64 = 250.0;

/// The shortest time between two checkpoints, to measure their cost.
const SIGNING_PAUSE_MS: &str = "SIGNING_PAUSE_MS";

const AGENTS: usize = 10;

fn options() -> Result<Options, Fault> {
    let mut options = Options::new(Arc::new(SystemClock));
    if let Ok(pause) = std::env::var(SIGNING_PAUSE_MS) {
        options.signing.at_most_every = Duration::from_millis(pause.parse()?);
    }
    Ok(options)
}

pub(crate) fn open(dir: &Path) -> Result<Embedded, Fault> {
    Ok(Embedded::open(dir, options()?)?)
}

pub(crate) fn measure(root: &Path, rounds: usize) -> Result<(), Fault> {
    let dir = TempDir::new_in(root)?;
    furnish(dir.path(), AGENTS)?;
    let market = Arc::new(Market::of(AGENTS)?);
    let ledger = open(dir.path())?;
    let mut taken = Vec::new();
    let runtime = runtime()?;
    for _ in 0..rounds {
        let bare = bare::syncs(dir.path(), 300)?;
        let (one, many) = runtime.block_on(async {
            let one = load::pay(&ledger, &market, 1, 1_000, AGENTS).await?;
            let many = load::pay(&ledger, &market, 32, 32_000, AGENTS).await?;
            Ok::<_, Fault>((one, many))
        })?;
        taken.push((bare, one, many));
    }
    runtime.block_on(ledger.close());

    heading("Durable reserve and settle, on this machine");
    let of = |figure: &dyn Fn(&(bare::Bare, load::Load, load::Load)) -> f64| median(taken.iter().map(figure));
    let sync = of(&|(bare, _, _)| bare.sync.p50);
    line("bare append and fdatasync, p50, us", sync);
    line("bare append and fdatasync, p99, us", of(&|(bare, _, _)| bare.sync.p99));
    line("two of them, p50, us", of(&|(bare, _, _)| bare.pair.p50));
    line("1 caller, one payment, p50, us", of(&|(_, one, _)| one.payment.p50));
    held(
        "1 caller, one payment / two bare ones",
        of(&|(bare, one, _)| one.payment.p50 / bare.pair.p50),
        &Target::AtMost(1.5),
    );
    line("1 caller, payments per second", of(&|(_, one, _)| one.per_second));
    let per_second = of(&|(_, _, many)| many.per_second);
    if sync <= FAST_SYNC_US {
        held(
            "32 callers, payments per second",
            per_second,
            &Target::AtLeast(PER_SECOND),
        );
    } else {
        line(
            "32 callers, payments per second (the disk is too slow for a target)",
            per_second,
        );
    }
    held(
        "32 callers / 1 caller",
        of(&|(_, one, many)| many.per_second / one.per_second),
        &Target::AtLeast(8.0),
    );
    line("32 callers, reserve p50, us", of(&|(_, _, many)| many.reserve.p50));
    line("32 callers, reserve p99, us", of(&|(_, _, many)| many.reserve.p99));
    held(
        "32 callers, reserve p99 / bare fdatasync p99",
        of(&|(bare, _, many)| many.reserve.p99 / bare.sync.p99),
        &Target::AtMost(4.0),
    );
    Ok(())
}

//! Many agents with five budgets each, compared with ten agents.

use std::path::Path;
use std::sync::Arc;

use bursar_ledger::Ledger as _;
use tempfile::TempDir;

use crate::market::{Market, furnish};
use crate::report::{Target, heading, held, line, median};
use crate::{Fault, child, embedded, load, runtime};

const FEW: usize = 10;
const MANY: usize = 10_000;

pub(crate) fn measure(root: &Path, rounds: usize) -> Result<(), Fault> {
    let runtime = runtime()?;
    let dirs = [TempDir::new_in(root)?, TempDir::new_in(root)?];
    let mut sides = Vec::new();
    for (dir, agents) in dirs.iter().zip([FEW, MANY]) {
        furnish(dir.path(), agents)?;
        let market = Arc::new(Market::load(dir.path())?);
        let ledger = embedded::open(dir.path())?;
        // All counters of the agents exist.
        runtime.block_on(load::pay(&ledger, &market, 32, MANY.next_multiple_of(32), agents))?;
        sides.push((ledger, market, agents));
    }
    let mut taken = Vec::new();
    for _ in 0..rounds {
        let mut figures = Vec::new();
        for (ledger, market, agents) in &sides {
            let load = runtime.block_on(load::pay(ledger, market, 32, 32_000, *agents))?;
            figures.push(load.per_second);
        }
        taken.push((figures[0], figures[1]));
    }
    for (ledger, _, _) in sides {
        runtime.block_on(ledger.close());
    }
    let starts = (0..rounds)
        .map(|_| child::start(dirs[1].path()))
        .collect::<Result<Vec<_>, _>>()?;

    heading("10 000 agents with five budgets each");
    line("limits.toml, s", median(starts.iter().map(|start| start.limits_s)));
    line(
        "start of the ledger, s",
        median(starts.iter().map(|start| start.ledger_s)),
    );
    held(
        "both, s",
        median(starts.iter().map(|start| start.limits_s + start.ledger_s)),
        &Target::AtMost(2.0),
    );
    line(
        "32 callers, 10 agents, payments per second",
        median(taken.iter().map(|(few, _)| *few)),
    );
    line(
        "32 callers, 10 000 agents, payments per second",
        median(taken.iter().map(|(_, many)| *many)),
    );
    held(
        "time of a payment, 10 000 agents / 10 agents",
        median(taken.iter().map(|(few, many)| few / many)),
        &Target::AtMost(1.2),
    );
    Ok(())
}

//! Callers that each reserve and settle one payment after the other, all on one thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "postgres")]
use bursar_ledger::ReserveError;
use bursar_ledger::{Ledger, Outcome, Source};
use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::Fault;
use crate::market::Market;
use crate::report::Lap;

pub(crate) struct Load {
    pub per_second: f64,
    #[cfg(feature = "postgres")]
    pub payments: usize,
    /// One reservation.
    pub reserve: Lap,
    /// Decision, reservation and settlement.
    pub payment: Lap,
}

/// `agents`: how many agents make the payments.
pub(crate) async fn pay(
    ledger: &(impl Ledger + Clone),
    market: &Arc<Market>,
    callers: usize,
    payments: usize,
    agents: usize,
) -> Result<Load, Fault> {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (ledger, market) = (ledger.clone(), market.clone());
        let share = payments / callers;
        running.spawn(async move { caller_pays(&ledger, &market, caller * share, share, agents).await });
    }
    let (mut reserves, mut whole) = (Vec::new(), Vec::new());
    while let Some(done) = running.join_next().await {
        let (reserve, payment) = done??;
        reserves.extend(reserve);
        whole.extend(payment);
    }
    Ok(Load {
        per_second: whole.len() as f64 / began.elapsed().as_secs_f64(),
        #[cfg(feature = "postgres")]
        payments: whole.len(),
        reserve: Lap::of(reserves),
        payment: Lap::of(whole),
    })
}

type Laps = Vec<Duration>;

async fn caller_pays(
    ledger: &impl Ledger,
    market: &Market,
    first: usize,
    share: usize,
    agents: usize,
) -> Result<(Laps, Laps), Fault> {
    let (mut reserves, mut whole) = (Vec::with_capacity(share), Vec::with_capacity(share));
    for number in first..first + share {
        let began = Instant::now();
        let purchase = market.purchase(number % agents, Timestamp::now())?;
        let asked = Instant::now();
        let rid = ledger.reserve(purchase).await?.rid();
        reserves.push(asked.elapsed());
        ledger.finish(rid, settled()).await?;
        whole.push(began.elapsed());
    }
    Ok((reserves, whole))
}

/// Callers on several nodes pay as one agent until its limit is reached. Each node has `callers` callers.
#[cfg(feature = "postgres")]
pub(crate) async fn spend(
    nodes: &[impl Ledger + Clone],
    market: &Arc<Market>,
    callers: usize,
    agent: usize,
) -> Result<Load, Fault> {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for node in nodes {
        for _ in 0..callers {
            let (node, market) = (node.clone(), market.clone());
            running.spawn(async move { caller_spends(&node, &market, agent).await });
        }
    }
    let (mut reserves, mut whole) = (Vec::new(), Vec::new());
    while let Some(done) = running.join_next().await {
        let (reserve, payment) = done??;
        reserves.extend(reserve);
        whole.extend(payment);
    }
    Ok(Load {
        per_second: whole.len() as f64 / began.elapsed().as_secs_f64(),
        payments: whole.len(),
        reserve: Lap::of(reserves),
        payment: Lap::of(whole),
    })
}

#[cfg(feature = "postgres")]
async fn caller_spends(ledger: &impl Ledger, market: &Market, agent: usize) -> Result<(Laps, Laps), Fault> {
    let (mut reserves, mut whole) = (Vec::new(), Vec::new());
    loop {
        let began = Instant::now();
        let purchase = market.purchase(agent, Timestamp::now())?;
        let asked = Instant::now();
        let rid = match ledger.reserve(purchase).await {
            Ok(reservation) => reservation.rid(),
            Err(ReserveError::Denied { .. }) => return Ok((reserves, whole)),
            Err(error) => return Err(error.into()),
        };
        reserves.push(asked.elapsed());
        ledger.finish(rid, settled()).await?;
        whole.push(began.elapsed());
    }
}

fn settled() -> Outcome {
    Outcome::Settled {
        by: Source::Merchant,
        tx: None,
    }
}

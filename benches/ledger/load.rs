//! Callers that reserve and settle, one payment after the other each, all on one thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bursar::ledger::{By, Embedded, Ledger, Outcome};
use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::Fault;
use crate::market::Market;
use crate::report::Lap;

pub struct Load {
    pub per_second: f64,
    /// One reservation.
    pub reserve: Lap,
    /// Decision, reservation and settlement.
    pub payment: Lap,
}

/// `agents`: how many agents the payments are spread over.
pub async fn pay(
    ledger: &Embedded,
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
        reserve: Lap::of(reserves),
        payment: Lap::of(whole),
    })
}

type Laps = Vec<Duration>;

async fn caller_pays(
    ledger: &Embedded,
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
        let settled = Outcome::Settled {
            by: By::Merchant,
            tx: None,
        };
        ledger.finish(rid, settled).await?;
        whole.push(began.elapsed());
    }
    Ok((reserves, whole))
}

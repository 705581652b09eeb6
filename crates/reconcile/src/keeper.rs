//! Keeps comparing while the server runs: payments when they are due, the wallet's transfers every ten minutes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::due::{Due, Next};
use super::pass::Heads;
use super::reconciler::Reconciler;
use super::report::{Finding, PaymentLine};
use super::testimony::{Facts, Head};
use bursar_ledger::{LedgerError, Payment, PaymentId, State};

/// How often to check whether anything is due. The check reads the ledger's memory and asks no node.
const LOOK: Duration = Duration::from_secs(3);
const TRANSFERS_EVERY: Duration = Duration::from_secs(600);
/// The first pass may delay the start for this long. What is not done by then runs alongside the first requests.
const START: Duration = Duration::from_secs(10);

pub struct Keeper {
    reconciler: Arc<Reconciler>,
    due: Due,
}

impl Keeper {
    pub fn new(reconciler: Arc<Reconciler>) -> Self {
        Self {
            reconciler,
            due: Due::default(),
        }
    }

    /// Starts the task, which runs until the server stops. Returns when the first pass is done or has taken too long: a
    /// node that does not answer never prevents a start. `spawn` starts the task; the server waits for it at shutdown.
    pub async fn start(self, spawn: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>)) {
        self.say_what_is_not_asked();
        if self.reconciler.networks().next().is_none() && self.reconciler.issuer.is_none() {
            return;
        }
        let (done, first) = oneshot::channel();
        spawn(Box::pin(self.run(done)));
        if timeout(START, first).await.is_err() {
            tracing::warn!(
                "the nodes are slow; bursar starts now and checks outstanding payments while it serves requests"
            );
        }
    }

    fn say_what_is_not_asked(&self) {
        let reconciler = &self.reconciler;
        for network in reconciler
            .nodes
            .keys()
            .filter(|network| !reconciler.has_nodes(**network))
        {
            tracing::info!(
                %network,
                "bursar.toml names no node for this network: nothing there can be proven, and outstanding payments \
                 stay counted"
            );
        }
    }

    async fn run(mut self, first: oneshot::Sender<()>) {
        self.pass().await;
        // The receiver may have given up waiting by now.
        let _ = first.send(());
        let stop = self.reconciler.stop.clone();
        let mut transfers_at = Instant::now();
        while !stop.is_cancelled() {
            if Instant::now() >= transfers_at {
                self.transfers().await;
                transfers_at = Instant::now() + TRANSFERS_EVERY;
            }
            if stop.run_until_cancelled(sleep(LOOK)).await.is_some() {
                self.pass().await;
            }
        }
    }

    /// Compares everything that is due, batch by batch.
    pub async fn pass(&mut self) {
        while !self.reconciler.stop.is_cancelled() {
            match self.batch().await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => return tracing::error!(%error, "could not compare the ledger with the chain"),
            }
        }
    }

    async fn batch(&mut self) -> Result<usize, LedgerError> {
        let reconciler = self.reconciler.clone();
        let open = reconciler.ledger.open_items().await?;
        let mut unknown: HashMap<PaymentId, Payment> = open
            .into_iter()
            .filter(|payment| payment.state == State::Unknown)
            .map(|payment| (payment.rid(), payment))
            .collect();
        let mut waiting: Vec<PaymentId> = unknown.keys().copied().collect();
        waiting.extend(reconciler.ledger.unconfirmed().await?);
        waiting.extend(reconciler.issuer.iter().flat_map(|issuer| issuer.tokens().watched()));
        let now = reconciler.now();
        let due = self.due.batch(&waiting, now);
        if due.is_empty() {
            return Ok(0);
        }
        let _turn = reconciler.turn.lock().await;
        let mut payments = Vec::with_capacity(due.len());
        for rid in &due {
            let payment = match unknown.remove(rid) {
                Some(payment) => Some(payment),
                None => reconciler.ledger.get(*rid).await?,
            };
            match payment.filter(|payment| self.can_be_asked(payment)) {
                Some(payment) => payments.push(payment),
                None => self.due.again(*rid, Next::Never, now),
            }
        }
        let networks = payments.iter().filter_map(|payment| Some(Facts::of(payment)?.network));
        let heads = reconciler.heads(networks).await;
        if let Some(lag) = lag(&heads, now) {
            self.due.set_lag(lag);
        }
        for line in reconciler.payments(&payments, &heads, &|_| {}).await {
            if line.finding == Finding::Undecided {
                tracing::debug!(payment = %line.id, why = line.why, "not proven either way");
            }
            self.due.again(line.id, next(&line), reconciler.now());
        }
        Ok(due.len())
    }

    fn can_be_asked(&self, payment: &Payment) -> bool {
        match Facts::of(payment) {
            Some(facts) => self.reconciler.has_nodes(facts.network),
            None => self.reconciler.can_ask_stripe(payment),
        }
    }

    async fn transfers(&self) {
        let reconciler = &self.reconciler;
        let _turn = reconciler.turn.lock().await;
        let heads = reconciler.heads(reconciler.networks()).await;
        match reconciler.findings().await {
            Ok(mut findings) => {
                let report = reconciler.outflows(&mut findings, &heads, &|_| {}).await;
                if !reconciler.stop.is_cancelled() {
                    for unsearched in report.unsearched {
                        let (network, why) = (unsearched.network, unsearched.why);
                        tracing::warn!(network, why, "could not search the wallet's transfers");
                    }
                }
            }
            Err(error) => tracing::error!(%error, "could not compare the wallet's transfers with the ledger"),
        }
    }
}

fn next(line: &PaymentLine) -> Next {
    let until = line.until.and_then(|at| u64::try_from(at.as_second()).ok());
    match (line.finding, until) {
        (Finding::Pending, Some(until)) => Next::At(until),
        // Among those still waiting, these are dead payments whose tokens are watched for days, so they are asked about
        // seldom.
        (Finding::Confirmed, _) => Next::Seldom,
        // Closed payments are not waiting any more; anything else on record, such as a dispute, is not urgent.
        _ => Next::Later,
    }
}

/// How far the newest final block lags behind our clock.
fn lag(heads: &Heads<'_>, now: u64) -> Option<u64> {
    let agreed = heads.values().filter_map(|finality| match finality.head() {
        Head::Agreed(head) => Some(now.saturating_sub(head.timestamp)),
        Head::Unknown | Head::Forked(_) => None,
    });
    agreed.min()
}

#[cfg(test)]
mod tests;

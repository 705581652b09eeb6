//! The comparison that `bursar reconcile` asks for: which payments, which transfers, since when.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::pass::OnProgress;
use super::reconciler::Reconciler;
use super::report::{Finding, OutflowLine, PaymentLine, Report};
use super::testimony::Facts;
use bursar_ledger::findings::Findings;
use bursar_ledger::{LedgerError, Payment, PaymentId, Source, State};

/// How far back recorded findings are reported: for as long as the ledger waits for proof from the chain.
const BY_DEFAULT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Which payments to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Only these payments. If empty: every payment that still needs proof from the chain, and the wallet's transfers.
    pub ids: Vec<PaymentId>,
    /// Also payments since then that only the merchant says were paid, however long ago; and findings recorded since
    /// then.
    pub since: Option<Timestamp>,
}

/// Why there is no report at all.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unable {
    #[error(
        "bursar.toml has neither a node nor [stripe], so nothing can be verified: add `rpc = [\"https://…\"]` under \
         [networks.\"eip155:…\"]"
    )]
    NoNodes,
    #[error("no payment has the id {0}; `bursar payments list` shows all")]
    NoPayment(PaymentId),
    #[error("{0}")]
    Failed(String),
}

impl Reconciler {
    /// Compares, and records what was proven.
    pub async fn run(&self, question: &Question, on_progress: OnProgress<'_>) -> Result<Report, Unable> {
        if self.networks().next().is_none() && self.issuer.is_none() {
            return Err(Unable::NoNodes);
        }
        let _turn = self.turn.lock().await;
        if !question.ids.is_empty() {
            let mut payments = Vec::with_capacity(question.ids.len());
            for rid in &question.ids {
                payments.push(self.payment_of(*rid).await?.ok_or(Unable::NoPayment(*rid))?);
            }
            let networks = payments.iter().filter_map(|payment| Some(Facts::of(payment)?.network));
            let heads = self.heads(networks).await;
            let payments = self.payments(&payments, &heads, on_progress).await;
            return Ok(Report {
                payments,
                ..Report::default()
            });
        }
        let heads = self.heads(self.networks()).await;
        let mut findings = self.findings().await.map_err(Unable::Failed)?;
        let since = question.since.or_else(|| self.clock.now().checked_sub(BY_DEFAULT).ok());
        let since = since.unwrap_or(Timestamp::MIN);
        let payments = self.waiting(question, &findings).await?;
        let lines = self.payments(&payments, &heads, on_progress).await;
        let mut report = self.outflows(&mut findings, &heads, on_progress).await;
        report.payments = lines;
        self.add_recorded(&mut report, &findings, since).await?;
        Ok(report)
    }

    /// Payments without proof from the chain, oldest first.
    async fn waiting(&self, question: &Question, findings: &Findings) -> Result<Vec<Payment>, Unable> {
        let failed = |error: LedgerError| Unable::Failed(error.to_string());
        let open = self.ledger.open_items().await.map_err(failed)?;
        let mut payments: Vec<Payment> = open
            .into_iter()
            .filter(|payment| payment.state == State::Unknown)
            .collect();
        let mut settled: BTreeSet<PaymentId> = self.ledger.unconfirmed().await.map_err(failed)?.into_iter().collect();
        if let Some(since) = question.since {
            let of_then = findings.awaiting_chain.iter().filter(|(_, at)| **at >= since);
            settled.extend(of_then.map(|(rid, _)| *rid));
        }
        for rid in settled {
            payments.extend(self.payment_of(rid).await?);
        }
        payments.sort_by_key(Payment::rid);
        Ok(payments)
    }

    /// Findings that are already in the ledger: they hold until somebody has acted on them.
    async fn add_recorded(&self, report: &mut Report, findings: &Findings, since: Timestamp) -> Result<(), Unable> {
        let listed: BTreeSet<PaymentId> = report.payments.iter().map(|line| line.id).collect();
        let recent = findings.disputes.iter().filter(|(_, at)| **at >= since);
        for rid in recent.map(|(rid, _)| *rid).filter(|rid| !listed.contains(rid)) {
            // A payment whose outcome was unknown may have been resolved since, by a person who knows.
            if let Some(payment) = self.payment_of(rid).await?
                && payment.state == State::Settled
                && payment.by != Some(Source::Operator)
                && let Some(why) = payment.disputed.clone()
            {
                report
                    .payments
                    .push(PaymentLine::of(&payment, Finding::Disputed).why(why));
            }
        }
        report.payments.sort_by_key(|line| line.id);
        let recent = findings.outflows.iter().filter(|(at, _)| *at >= since);
        report.outflows = recent.map(|(at, outflow)| OutflowLine::of(outflow, *at)).collect();
        Ok(())
    }

    async fn payment_of(&self, rid: PaymentId) -> Result<Option<Payment>, Unable> {
        let payment = self.ledger.get(rid).await;
        payment.map_err(|error| Unable::Failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests;

//! One comparison of payments with their chains: each network's final block once, then each payment as of that block,
//! and the verdict recorded in the ledger.
//!
//! Questions can be interrupted at any time. Recording cannot, because meanwhile the payment is withdrawn from repeats.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::B256;
use jiff::Timestamp;

use super::evidence::Finality;
use super::reconciler::{Reconciler, SILENCES, Silences, not_recorded};
use super::report::{Finding, PaymentLine};
use super::stripe::is_stripe;
use super::testimony::Facts;
use super::verdict::{Dispute, Named, Verdict, verdict};
use bursar_core::assets::Network;
use bursar_core::money::Atoms;
use bursar_ledger::{self as ledger, LedgerError, Outcome, Payment, Reason, Source, State};
use bursar_rails::outstanding::{Withdrawal, Withdrawn};

/// The final block of each network, as of which everything in one pass is asked.
pub type Heads<'a> = BTreeMap<Network, Finality<'a>>;

/// Why the chain proves nothing about a payment whose nonce a remote signer chose.
const WITH_SIGNER: &str = "BKey was asked to sign it and chose the nonce, which is not on record, so the chain cannot \
                           prove anything. Look it up at BKey, and resolve it by hand";

/// The progress of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Payments {
        done: usize,
        of: usize,
    },
    /// Transfers of a wallet up to `block` of `last`.
    Blocks {
        network: Network,
        block: u64,
        last: u64,
    },
}

/// Receives progress. Must not block.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl Reconciler {
    /// Asks for the final blocks.
    pub async fn heads(&self, networks: impl IntoIterator<Item = Network>) -> Heads<'_> {
        let now = self.now();
        let mut heads = Heads::new();
        for network in networks.into_iter().collect::<BTreeSet<_>>() {
            let Some(nodes) = self.nodes.get(&network).filter(|nodes| !nodes.is_empty()) else {
                continue;
            };
            let asking = Finality::of(&self.tls, network, nodes, now);
            if let Some(finality) = self.stop.run_until_cancelled(asking).await {
                heads.insert(network, finality);
            }
        }
        heads
    }

    /// Compares these payments, in this order.
    pub async fn payments(
        &self,
        payments: &[Payment],
        heads: &Heads<'_>,
        on_progress: OnProgress<'_>,
    ) -> Vec<PaymentLine> {
        let mut silences = Silences::new();
        let mut lines = Vec::with_capacity(payments.len());
        for (done, payment) in payments.iter().enumerate() {
            on_progress(Progress::Payments {
                done,
                of: payments.len(),
            });
            lines.push(self.payment(payment, heads, &mut silences).await);
        }
        lines
    }

    async fn payment(&self, payment: &Payment, heads: &Heads<'_>, silences: &mut Silences) -> PaymentLine {
        let line = |finding| PaymentLine::of(payment, finding);
        match payment.state {
            State::Held | State::Released => return line(Finding::Confirmed).why("nothing was signed"),
            State::Armed => return line(Finding::Pending).why("it is still in progress; check again later"),
            State::Unknown | State::Settled | State::Expired => {}
        }
        if is_stripe(payment) {
            return self.stripe_payment(payment, silences).await;
        }
        let Some(facts) = Facts::of(payment) else {
            return match payment.arm {
                None => line(Finding::Confirmed).why("nothing was signed"),
                // Any other nonce would prove something about a different authorization, and free money that may be
                // signed away.
                Some(_) if payment.is_with_signer() => line(Finding::Undecided).why(WITH_SIGNER),
                Some(_) => line(Finding::Undecided).why("this version of bursar does not know its network or token"),
            };
        };
        let network = facts.network;
        let Some(finality) = heads.get(&network) else {
            return line(Finding::Undecided).why(self.not_asked(network));
        };
        let silent = silences.entry(network).or_default();
        if *silent >= SILENCES {
            return line(Finding::Undecided).why(format!("the nodes of {network} stopped answering"));
        }
        let asking = finality.evidence(&self.tls, &facts);
        let Some(evidence) = self.stop.run_until_cancelled(asking).await else {
            return line(Finding::Undecided).why(self.not_asked(network));
        };
        *silent = match evidence.testimonies.is_empty() {
            true => *silent + 1,
            false => 0,
        };
        let mut line = self.record(payment, verdict(&facts, &evidence)).await;
        if line.finding == Finding::Undecided
            && let Some(silent) = evidence.silent.first()
        {
            let why = line.why.unwrap_or_default();
            line.why = Some(format!("{why} ({})", silent.why));
        }
        line
    }

    fn not_asked(&self, network: Network) -> String {
        match self.has_nodes(network) {
            true => "the comparison was interrupted".to_owned(),
            false => format!("{network} has no node: add `rpc` under [networks.\"{network}\"] in bursar.toml"),
        }
    }

    /// Records a verdict in the ledger.
    async fn record(&self, payment: &Payment, verdict: Verdict) -> PaymentLine {
        let line = |finding| PaymentLine::of(payment, finding);
        match verdict {
            Verdict::Settled { tx, block, receipt, .. } => {
                let paid = Paid {
                    tx: Some(tx),
                    block,
                    taken: None,
                };
                note(receipt, payment, self.paid(payment, &paid).await)
            }
            Verdict::Taken {
                tx,
                block,
                taken,
                receipt,
            } => {
                let taken = Some(taken);
                note(receipt, payment, self.paid(payment, &Paid { tx, block, taken }).await)
            }
            Verdict::Expired { head } => {
                let mut line = self.dead(payment, Reason::NeverCashed).await;
                line.block = Some(head.number);
                line
            }
            Verdict::Cancelled { tx, block } => {
                let mut line = self.dead(payment, Reason::Cancelled).await;
                (line.tx, line.block) = (Some(tx.to_string()), Some(block));
                line
            }
            // How much of it counts is already decided: by a person who knew, or by the ledger, which counts none of
            // it.
            Verdict::Disputed {
                why: Dispute::Failed { tx },
            } if payment.state == State::Expired || payment.by == Some(Source::Operator) => {
                let mut line = line(Finding::Confirmed);
                line.tx = Some(tx.to_string());
                line
            }
            Verdict::Disputed { why } => self.disputed(payment, &why).await,
            Verdict::Wait { until } => {
                let mut line = line(Finding::Pending);
                line.until = i64::try_from(until).ok().and_then(|at| Timestamp::from_second(at).ok());
                line
            }
            Verdict::Unclear { why } => line(Finding::Undecided).why(why),
        }
    }

    async fn paid(&self, payment: &Payment, paid: &Paid) -> PaymentLine {
        let (rid, by, block) = (payment.rid(), Source::Chain, paid.block);
        let tx = || paid.tx.map(|tx| tx.to_string());
        let line = |finding| {
            let mut line = PaymentLine::of(payment, finding);
            (line.tx, line.block) = (tx().or(line.tx), Some(block));
            line.taken = paid.taken.map(|taken| taken.get().to_string()).or(line.taken);
            line
        };
        let recorded = match (payment.state, paid.tx) {
            // Nothing moved and nothing is counted, so they agree.
            (State::Expired, _) if paid.taken.is_some_and(Atoms::is_zero) => Ok(()),
            (State::Expired, tx) => {
                let who = if payment.by == Some(Source::Operator) {
                    "an operator"
                } else {
                    "the ledger"
                };
                let tx = tx.map(|tx| tx.to_string()).unwrap_or_default();
                return line(Finding::Disputed)
                    .why(format!("{who} says it was not paid, but transaction {tx} paid it"));
            }
            (State::Unknown, _) => {
                let outcome = match paid.taken {
                    None => Outcome::Settled { by, tx: tx() },
                    Some(taken) => Outcome::Taken { by, tx: tx(), taken },
                };
                self.ledger.finish(rid, outcome).await
            }
            _ => {
                let (tx, block) = (tx(), Some(block));
                let finding = match paid.taken {
                    None => ledger::Finding::Confirmed { by, tx, block },
                    Some(taken) => ledger::Finding::Taken {
                        by,
                        tx,
                        block,
                        taken,
                        of: Box::new(payment.clone()),
                    },
                };
                match self.ledger.record_finding(rid, finding).await {
                    // Recorded before, or older than the ledger keeps waiting for; it is true all the same.
                    Err(LedgerError::NotUnconfirmed(_)) => Ok(()),
                    recorded => recorded,
                }
            }
        };
        match (recorded, payment.state) {
            (Ok(()), State::Unknown) => {
                if let Some(outstanding) = &self.outstanding {
                    outstanding.proven_paid(rid);
                }
                tracing::info!(payment = %rid, tx = tx(), block, "outcome was unknown; the chain shows it was paid");
                let mut line = line(Finding::Settled);
                line.after = State::Settled;
                line
            }
            (Ok(()), _) => line(Finding::Confirmed),
            (Err(error), _) => not_recorded(payment, &error),
        }
    }

    /// Records a payment as dead, in the same order as when an operator does it: a repeat must not send what is being
    /// declared dead, so the payment is withdrawn from repeats before the ledger records it.
    async fn dead(&self, payment: &Payment, why: Reason) -> PaymentLine {
        let rid = payment.rid();
        if payment.state == State::Expired {
            return PaymentLine::of(payment, Finding::Confirmed);
        }
        let withdrawn = match &self.outstanding {
            None => Withdrawn::default(),
            Some(outstanding) => match outstanding.withdraw(rid) {
                Withdrawal::Out(withdrawn) => withdrawn,
                Withdrawal::UnderWay => {
                    return PaymentLine::of(payment, Finding::Pending).why("a repeat is presenting it right now");
                }
            },
        };
        let outcome = Outcome::Expired { by: Source::Chain, why };
        let recorded = self.ledger.finish(rid, outcome).await;
        if let Some(outstanding) = &self.outstanding {
            match &recorded {
                Ok(()) => outstanding.proven_dead(withdrawn),
                Err(_) => outstanding.put_back(withdrawn),
            }
        }
        match recorded {
            Ok(()) => {
                tracing::info!(payment = %rid, %why, "it can never be cashed and is no longer counted");
                let mut line = PaymentLine::of(payment, Finding::Expired).why(why);
                line.after = State::Expired;
                line
            }
            Err(error) => not_recorded(payment, &error),
        }
    }

    /// Records a dispute; what is counted stays counted.
    async fn disputed(&self, payment: &Payment, why: &Dispute) -> PaymentLine {
        let tx = match why {
            Dispute::NeverCashed => None,
            Dispute::Cancelled { tx } | Dispute::OtherTransfer { tx, .. } | Dispute::Failed { tx } => {
                Some(tx.to_string())
            }
        };
        self.contradicted(payment, &why.to_string(), tx).await.0
    }
}

/// What the chain shows about a payment that was cashed.
struct Paid {
    /// `None` if only a receipt says that it was paid, and not an atom was taken.
    tx: Option<B256>,
    block: u64,
    /// For an `upto`, the amount taken, if that is proven.
    taken: Option<Atoms>,
}

/// Notes that the receipt named another transaction: the seller's claim was wrong, the payment was not.
fn note(receipt: Named, payment: &Payment, mut line: PaymentLine) -> PaymentLine {
    if let Named::Otherwise(named) = receipt {
        tracing::warn!(payment = %payment.rid(), tx = line.tx, named, "paid; the receipt names another transaction");
        line.why
            .get_or_insert_with(|| format!("the receipt named another transaction, {named}"));
    }
    line
}

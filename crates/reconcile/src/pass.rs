//! One comparison of payments with their chains: every network's final block once, then each payment as of that block,
//! and the verdict brought to the books.
//!
//! Asking can be broken off at any moment; recording cannot, since a repeat's credential is out of reach meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::evidence::Finality;
use super::report::{Finding, PaymentLine};
use super::stripe::is_stripe;
use super::testimony::Facts;
use super::verdict::{Dispute, Named, Verdict, verdict};
use bursar_core::assets::Network;
use bursar_core::clock::SharedClock;
use bursar_core::money::Atoms;
use bursar_home::Home;
use bursar_ledger::{self as ledger, Ledger, LedgerError, Outcome, Payment, PaymentId, Source, State};
use bursar_net::tls::upstream::UpstreamTls;
use bursar_rails::outstanding::{Outstanding, Withdrawal, Withdrawn};
use bursar_rails::pay::Issuer;
use bursar_rails::rpc::Node;

/// After so many payments in a row about which no node of a network, or not Stripe, said anything, its others wait for the next pass.
pub(super) const SILENCES: u8 = 3;

/// Compares the books with the chains, one comparison at a time.
pub struct Reconciler {
    pub ledger: Arc<dyn Ledger>,
    pub home: Home,
    /// As bursar.toml names them; a network may have none.
    pub nodes: BTreeMap<Network, Vec<Node>>,
    /// The account at Stripe.
    pub issuer: Option<Arc<Issuer>>,
    /// So long a seller has to charge a token before it is taken back (R14).
    pub settle_wait: Duration,
    pub tls: Arc<UpstreamTls>,
    pub clock: SharedClock,
    /// Of a running server: what repeats are told.
    pub outstanding: Option<Outstanding>,
    /// Looked after from the first block of the books on, even if it has not signed yet.
    pub wallet: Option<Address>,
    pub notices: Notices,
    /// Breaks off the asking.
    pub stop: CancellationToken,
    /// Two comparisons at once would record the same transfer twice.
    pub turn: Mutex<()>,
}

/// What people should hear of at once. It is in the books already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Disputed { rid: PaymentId, why: String },
    Outflow(ledger::Outflow),
}

/// Hears notices. Must not block.
pub type Notices = Arc<dyn Fn(Notice) + Send + Sync>;

/// The final block of each network, as of which everything in one pass is asked.
pub type Heads<'a> = BTreeMap<Network, Finality<'a>>;

/// Why no chain tells about a payment whose nonce somebody else has chosen.
const WITH_SIGNER: &str = "BKey was asked to sign it and chooses the nonce, which is not on record; so no chain can tell about it. Look \
                           for it at BKey, and resolve it by hand";

/// How many payments in a row nothing was said about.
pub(super) type Silences = BTreeMap<Network, u8>;

/// How far a pass has come.
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

/// Hears progress. Must not block.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl Reconciler {
    pub fn has_nodes(&self, network: Network) -> bool {
        self.nodes.get(&network).is_some_and(|nodes| !nodes.is_empty())
    }

    /// Networks that can be asked about.
    pub fn networks(&self) -> impl Iterator<Item = Network> {
        self.nodes.keys().copied().filter(|network| self.has_nodes(*network))
    }

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
            State::Armed => return line(Finding::Pending).why("it is under way and ends by itself; ask again then"),
            State::Unknown | State::Settled | State::Expired => {}
        }
        if is_stripe(payment) {
            return self.stripe_payment(payment, silences).await;
        }
        let Some(facts) = Facts::of(payment) else {
            return match payment.arm {
                None => line(Finding::Confirmed).why("nothing was signed"),
                // Any nonce would prove something about another authorization, and free money that may be signed away.
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
            return line(Finding::Undecided).why(format!("the nodes of {network} have fallen silent"));
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
            true => "the comparison was broken off".to_owned(),
            false => format!("no node is named for {network}: add `rpc` under [networks.\"{network}\"] in bursar.toml"),
        }
    }

    /// Brings a verdict to the books.
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
                let mut line = self.dead(payment, "never-cashed").await;
                line.block = Some(head.number);
                line
            }
            Verdict::Cancelled { tx, block } => {
                let mut line = self.dead(payment, "cancelled").await;
                (line.tx, line.block) = (Some(tx.to_string()), Some(block));
                line
            }
            // How much of it counts is decided: by a person who knew, or by the books that count none of it.
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
            // Nothing moved, and nothing is counted.
            (State::Expired, _) if paid.taken.is_some_and(Atoms::is_zero) => Ok(()),
            (State::Expired, tx) => {
                let who = if payment.by == Some(Source::Operator) {
                    "an operator"
                } else {
                    "the books"
                };
                let tx = tx.map(|tx| tx.to_string()).unwrap_or_default();
                return line(Finding::Disputed).why(format!("{who} called it dead, but transaction {tx} paid it"));
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
                    // Heard before, or longer ago than the books wait; true all the same.
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
                tracing::info!(payment = %rid, tx = tx(), block, "in doubt, and paid: the chain shows it");
                let mut line = line(Finding::Settled);
                line.after = State::Settled;
                line
            }
            (Ok(()), _) => line(Finding::Confirmed),
            (Err(error), _) => not_recorded(payment, &error),
        }
    }

    /// As an operator's word, in the same order: a repeat must not send what is being declared dead, so it is out of its
    /// reach before the books say so.
    async fn dead(&self, payment: &Payment, why: &'static str) -> PaymentLine {
        let rid = payment.rid();
        if payment.state == State::Expired {
            return PaymentLine::of(payment, Finding::Confirmed);
        }
        let withdrawn = match &self.outstanding {
            None => Withdrawn::default(),
            Some(outstanding) => match outstanding.withdraw(rid) {
                Withdrawal::Out(withdrawn) => withdrawn,
                Withdrawal::UnderWay => {
                    return PaymentLine::of(payment, Finding::Pending).why("a repeat is presenting it at this moment");
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
                tracing::info!(payment = %rid, why, "can never be cashed; it counts no more");
                let mut line = PaymentLine::of(payment, Finding::Expired).why(why);
                line.after = State::Expired;
                line
            }
            Err(error) => not_recorded(payment, &error),
        }
    }

    /// What is counted stays counted.
    async fn disputed(&self, payment: &Payment, why: &Dispute) -> PaymentLine {
        let tx = match why {
            Dispute::NeverCashed => None,
            Dispute::Cancelled { tx } | Dispute::OtherTransfer { tx, .. } | Dispute::Failed { tx } => {
                Some(tx.to_string())
            }
        };
        self.contradicted(payment, &why.to_string(), tx).await.0
    }

    /// What is counted stays counted, whoever contradicts the books. And whether that is all: `false` if they could not record it, so
    /// that it has to be found again.
    pub(super) async fn contradicted(&self, payment: &Payment, text: &str, tx: Option<String>) -> (PaymentLine, bool) {
        let (rid, text) = (payment.rid(), text.to_owned());
        let mut line = PaymentLine::of(payment, Finding::Disputed).why(&text);
        line.tx = tx.clone().or(line.tx);
        if payment.disputed.is_some() {
            return (line, true);
        }
        let finding = ledger::Finding::Disputed { why: text.clone(), tx };
        match self.ledger.record_finding(rid, finding).await {
            Ok(()) => {
                tracing::error!(
                    payment = %rid, merchant = payment.reserved.host, why = text,
                    "the books are contradicted; the payment stays counted"
                );
                (self.notices)(Notice::Disputed { rid, why: text });
                (line, true)
            }
            // Of a payment from longer ago than the books wait: told, and not recorded.
            Err(LedgerError::NotUnconfirmed(_)) => (line, true),
            Err(error) => {
                line.why = Some(format!("{text}; it could not be recorded: {error}"));
                (line, false)
            }
        }
    }

    /// Unix seconds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_second()).unwrap_or(0)
    }
}

/// What the chain shows of a payment that was taken.
struct Paid {
    /// None: a receipt said so, and not an atom was.
    tx: Option<B256>,
    block: u64,
    /// Of an `upto`, where it is proven how much.
    taken: Option<Atoms>,
}

/// The seller's word was wrong, the payment was not.
fn note(receipt: Named, payment: &Payment, mut line: PaymentLine) -> PaymentLine {
    if let Named::Otherwise(named) = receipt {
        tracing::warn!(payment = %payment.rid(), tx = line.tx, named, "paid, but the receipt names another transaction");
        line.why
            .get_or_insert_with(|| format!("the receipt named another transaction, {named}"));
    }
    line
}

/// The chain has spoken, the books have not heard it: the payment stays as it was.
pub(super) fn not_recorded(payment: &Payment, error: &LedgerError) -> PaymentLine {
    let rid = payment.rid();
    let why = match error {
        LedgerError::NotOpen(_) | LedgerError::Unlawful { .. } => "it was closed in the meantime".to_owned(),
        error => {
            tracing::error!(payment = %rid, %error, "what the chain shows could not be recorded");
            format!("what the chain shows could not be recorded: {error}")
        }
    };
    PaymentLine::of(payment, Finding::Undecided).why(why)
}

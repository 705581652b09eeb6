//! What every comparison works with, the notices that it gives, and how a contradiction of the ledger is recorded,
//! whether a chain or Stripe shows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::report::{Finding, PaymentLine};
use bursar_core::assets::Network;
use bursar_core::clock::SharedClock;
use bursar_home::Home;
use bursar_ledger::{self as ledger, Ledger, LedgerError, Payment, PaymentId};
use bursar_net::tls::upstream::UpstreamTls;
use bursar_rails::outstanding::Outstanding;
use bursar_rails::pay::Issuer;
use bursar_rails::rpc::Node;

/// After this many payments in a row without an answer from any node of a network, or from Stripe, the others wait for
/// the next pass.
pub(super) const SILENCES: u8 = 3;

/// How many payments in a row got no answer.
pub(super) type Silences = BTreeMap<Network, u8>;

/// Compares the ledger with the chains and with Stripe, one comparison at a time.
pub struct Reconciler {
    pub ledger: Arc<dyn Ledger>,
    pub home: Home,
    /// As configured in bursar.toml; a network may have none.
    pub nodes: BTreeMap<Network, Vec<Node>>,
    /// The Stripe account.
    pub issuer: Option<Arc<Issuer>>,
    /// How long a seller has to charge a token before it is revoked (R14).
    pub settle_wait: Duration,
    pub tls: Arc<UpstreamTls>,
    pub clock: SharedClock,
    /// In a running server: what repeats of these payments find.
    pub outstanding: Option<Outstanding>,
    /// Its transfers are searched from the first block of the ledger on, even if it has not signed anything yet.
    pub wallet: Option<Address>,
    pub notices: Notices,
    /// Interrupts the questions.
    pub stop: CancellationToken,
    /// Two comparisons at once would record the same transfer twice.
    pub turn: Mutex<()>,
}

/// What people should be notified of at once. It is already in the ledger, unless it is about a closed payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Disputed { rid: PaymentId, why: String },
    Outflow(ledger::Outflow),
}

/// Receives notices. Must not block.
pub type Notices = Arc<dyn Fn(Notice) + Send + Sync>;

impl Reconciler {
    pub(crate) fn has_nodes(&self, network: Network) -> bool {
        self.nodes.get(&network).is_some_and(|nodes| !nodes.is_empty())
    }

    /// The networks with nodes.
    pub fn networks(&self) -> impl Iterator<Item = Network> {
        self.nodes.keys().copied().filter(|network| self.has_nodes(*network))
    }

    /// Records a contradiction of the ledger; what is counted stays counted. The flag says whether that is done:
    /// `false` if it could not be recorded, so that it has to be found again.
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
                    "the evidence contradicts the ledger; the payment stays counted"
                );
                (self.notices)(Notice::Disputed { rid, why: text });
                (line, true)
            }
            // The payment is older than the ledger keeps waiting for: reported, but not recorded.
            Err(LedgerError::NotUnconfirmed(_)) => (line, true),
            Err(error) => {
                line.why = Some(format!("{text}; this finding could not be recorded: {error}"));
                (line, false)
            }
        }
    }

    /// Unix seconds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_second()).unwrap_or(0)
    }
}

/// Something was proven, but could not be recorded: the payment stays as it was.
pub(super) fn not_recorded(payment: &Payment, error: &LedgerError) -> PaymentLine {
    let rid = payment.rid();
    let why = match error {
        LedgerError::NotOpen(_) | LedgerError::Unlawful { .. } => "it was closed in the meantime".to_owned(),
        error => {
            tracing::error!(payment = %rid, %error, "what was proven could not be recorded");
            format!("what was proven could not be recorded: {error}")
        }
    };
    PaymentLine::of(payment, Finding::Undecided).why(why)
}

//! What can be told, and in which words. No secret and no merchant's text is in them: hosts, rules and ids only.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use bursar_core::assets::Network;
use bursar_core::money::MicroUsd;
use bursar_ledger::{Alarm, Outflow, PaymentId};

/// Something that people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    /// What the ledger notices by itself.
    Ledger(Alarm),
    /// What the wallet holds on one network, all assets together, is below `[alerts] low_wallet`.
    WalletLow {
        network: Network,
        held: MicroUsd,
        threshold: MicroUsd,
        /// Symbols of assets that no node told anything about.
        unread: Vec<&'static str>,
    },
    /// A payment has been in doubt for longer than an hour.
    PaymentUnknown {
        rid: PaymentId,
        agent: String,
        host: String,
        usd: MicroUsd,
        since: Timestamp,
    },
    /// More of them than one look tells one by one.
    ManyUnknown { more: usize },
    /// The chain and the books differ about a payment.
    Dispute { rid: PaymentId, why: String },
    /// Money left the wallet, and no entry says why.
    Outflow(Outflow),
    /// From `bursar alerts test`.
    Test,
}

/// What a command reads on its standard input and a webhook is sent: members in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Stable name: `budget-80`, `wallet-low`, `payment-unknown`, `dispute`, `wallet-outflow`, `disk-low`, `store-failed`, `clock-jump`,
    /// `index-rebuilt`, `torn-write`, `test`.
    pub kind: &'static str,
    /// RFC 3339, UTC.
    pub at: Timestamp,
    /// What happened, to what, and what to do.
    pub text: String,
    /// Payment id, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<PaymentId>,
}

impl Alert {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ledger(alarm) => match alarm {
                Alarm::BudgetNearlySpent { .. } => "budget-80",
                Alarm::LowSpace => "disk-low",
                Alarm::StoreFailed { .. } => "store-failed",
                Alarm::ClockJumped { .. } => "clock-jump",
                Alarm::IndexRebuilt { .. } => "index-rebuilt",
                Alarm::TornWrite { .. } => "torn-write",
            },
            Self::WalletLow { .. } => "wallet-low",
            Self::PaymentUnknown { .. } | Self::ManyUnknown { .. } => "payment-unknown",
            Self::Dispute { .. } => "dispute",
            Self::Outflow(_) => "wallet-outflow",
            Self::Test => "test",
        }
    }

    pub fn message(&self, at: Timestamp) -> Message {
        let payment = match self {
            Self::PaymentUnknown { rid, .. } | Self::Dispute { rid, .. } => Some(*rid),
            _ => None,
        };
        Message {
            kind: self.kind(),
            at,
            text: self.text(at),
            payment,
        }
    }

    fn text(&self, at: Timestamp) -> String {
        match self {
            Self::Ledger(alarm) => of_ledger(alarm),
            Self::WalletLow {
                network,
                held,
                threshold,
                unread,
            } => {
                let unread = match &unread[..] {
                    [] => String::new(),
                    unread => format!(
                        " What it holds in {} could not be read and is left out.",
                        unread.join(", ")
                    ),
                };
                format!(
                    "The wallet holds {held} USD on {network}, less than the {threshold} USD of low_wallet. Fund it before \
                     payments there are refused.{unread}"
                )
            }
            Self::PaymentUnknown {
                rid,
                agent,
                host,
                usd,
                since,
            } => {
                let minutes = at.duration_since(*since).as_mins();
                format!(
                    "Payment {rid} of {usd} USD by {agent} to {host} has been in doubt for {minutes} min and stays counted. \
                     Find out whether it was paid; `bursar payments resolve {rid}` closes it."
                )
            }
            Self::ManyUnknown { more } => format!(
                "{more} more payments have been in doubt for longer than an hour and stay counted. \
                 `bursar payments list --state unknown` shows them."
            ),
            Self::Dispute { rid, why } => format!(
                "Payment {rid} is disputed: {why}. What is counted stays counted; compare it with the chain and the seller."
            ),
            Self::Outflow(outflow) => {
                let Outflow {
                    network,
                    symbol,
                    amount,
                    payee,
                    tx,
                    ..
                } = outflow;
                format!(
                    "{} atoms of {symbol} left the wallet on {network} for {payee} without bursar, in transaction {tx}. If nobody of \
                     yours did it, the key is known to others: move what is left to a new wallet.",
                    amount.get()
                )
            }
            Self::Test => "This is a test by `bursar alerts test`. Nothing has happened.".to_owned(),
        }
    }
}

fn of_ledger(alarm: &Alarm) -> String {
    match alarm {
        Alarm::BudgetNearlySpent {
            scope,
            window,
            start,
            rule,
            counted,
            cap,
        } => {
            let figure = |value: u128| {
                if window.starts_with("count.") {
                    format!("{value} payments")
                } else {
                    format!("{} USD", MicroUsd::new(value))
                }
            };
            format!(
                "The budget {rule} has reached 80 %: {} of {} are spent or reserved ({scope}, {window}, {start}). At the cap \
                 payments are refused until the window ends or limits.toml is changed.",
                figure(*counted),
                figure(*cap)
            )
        }
        Alarm::LowSpace => {
            "The disk that holds the books is almost full, so new payments are refused. Make room; they go \
                            on by themselves then."
                .to_owned()
        }
        Alarm::StoreFailed { why } => format!(
            "The books cannot be written any more: {why}. All payments are refused. Repair the disk, then restart bursar."
        ),
        Alarm::ClockJumped { ahead_s } => format!(
            "The system clock jumped ahead by {}, so payments are refused: it would open windows that have not begun. Set \
             it right, or if it is right, run `bursar clock accept --why TEXT`.",
            SignedDuration::from_secs(i64::try_from(*ahead_s).unwrap_or(i64::MAX))
        ),
        Alarm::IndexRebuilt { why } => format!(
            "The index was rebuilt from the journal, because {why}. Nothing was lost; if it happens again, look after the \
             disk."
        ),
        Alarm::TornWrite { bytes } => format!(
            "The last stop tore a write: {bytes} bytes that were never acknowledged were moved to audit/torn-*. Nothing \
             was lost; look why the machine stopped."
        ),
    }
}

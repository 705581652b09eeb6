//! The alerts and their texts. They contain hosts, rules and ids, but never a secret or a merchant's text.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use bursar_approvals::questions::Bound;
use bursar_core::assets::Network;
use bursar_core::money::MicroUsd;
use bursar_core::plain::plain;
use bursar_core::policy::PauseScope;
use bursar_ledger::{Alarm, Outflow, PaymentId};

/// An event that people should be notified of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    /// Raised by the ledger.
    Ledger(Alarm),
    /// The wallet's total over all assets on one network is below `[alerts] low_wallet`.
    WalletLow {
        network: Network,
        held: MicroUsd,
        threshold: MicroUsd,
        /// Symbols of assets whose balance no node could report.
        unread: Vec<&'static str>,
    },
    /// The outcome of a payment has been unknown for longer than an hour.
    PaymentUnknown {
        rid: PaymentId,
        agent: String,
        host: String,
        usd: MicroUsd,
        since: Timestamp,
    },
    /// More such payments than one check reports individually.
    ManyUnknown { more: usize },
    /// The chain and the ledger disagree about a payment.
    Dispute { rid: PaymentId, why: String },
    /// Money left the wallet, and no entry explains it.
    Outflow(Outflow),
    /// `limits.toml` has mistakes or could have been changed by others; the limits of before stay in force.
    LimitsRejected {
        path: String,
        why: String,
        /// Who may still spend what, by the limits in force.
        still: String,
    },
    /// An agent may not ask people for now: too many of its questions are open, or were asked within the hour.
    ApprovalFlood(Bound),
    /// A person stopped payments. `unrecorded`: why that is in force and not on record yet.
    PaymentsPaused {
        scope: PauseScope,
        who: String,
        why: String,
        unrecorded: Option<String>,
    },
    /// A person let payments go on.
    PaymentsResumed {
        scope: PauseScope,
        who: String,
        why: String,
    },
    /// From `bursar alerts test`.
    Test,
}

/// What a command reads on its standard input and a webhook receives. Members in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Stable name: `budget-80`, `wallet-low`, `payment-unknown`, `dispute`, `wallet-outflow`, `disk-low`,
    /// `payments-paused`, `payments-resumed`, `store-failed`, `clock-jump`, `index-rebuilt`, `torn-write`, `log-unsigned`, `segment-overdue`, `limits-rejected`,
    /// `approval-flood`, `test`.
    pub kind: &'static str,
    /// RFC 3339, UTC.
    pub at: Timestamp,
    /// What happened, to what, and what to do.
    pub text: String,
    /// The payment id, if the alert is about a payment.
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
                Alarm::LogUnsigned { .. } => "log-unsigned",
                Alarm::SegmentOverdue { .. } => "segment-overdue",
            },
            Self::WalletLow { .. } => "wallet-low",
            Self::PaymentUnknown { .. } | Self::ManyUnknown { .. } => "payment-unknown",
            Self::Dispute { .. } => "dispute",
            Self::Outflow(_) => "wallet-outflow",
            Self::LimitsRejected { .. } => "limits-rejected",
            Self::ApprovalFlood(_) => "approval-flood",
            Self::PaymentsPaused { .. } => "payments-paused",
            Self::PaymentsResumed { .. } => "payments-resumed",
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
            text: plain(&self.text(at)).into_owned(),
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
                        " Its balance in {} could not be read and is not included.",
                        unread.join(", ")
                    ),
                };
                format!(
                    "The wallet holds {held} USD on {network}, below the low_wallet threshold of {threshold} USD. Fund \
                     it before payments there are refused.{unread}"
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
                    "The outcome of payment {rid} ({usd} USD by {agent} to {host}) has been unknown for {minutes} min. \
                     It stays counted. Find out whether it was paid, then close it with `bursar payments resolve \
                     {rid}`."
                )
            }
            Self::ManyUnknown { more } => format!(
                "The outcome of {more} more payments has been unknown for longer than an hour. They stay counted. \
                 List them with `bursar payments list --state unknown`."
            ),
            Self::Dispute { rid, why } => format!(
                "Payment {rid} is disputed: {why}. What was counted stays counted. Check the payment on the chain and \
                 with the seller."
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
                    "{} atoms of {symbol} left the wallet on {network} for {payee} in transaction {tx}, which is not \
                     in the ledger. If nobody on your side sent it, the wallet key has leaked: move the remaining \
                     funds to a new wallet.",
                    amount.get()
                )
            }
            Self::LimitsRejected { path, why, still } => format!(
                "{path} is not in force: {why}. The limits of before stay in force: {still}. Correct the file; it is read \
                 again as soon as it changes. `bursar limits check` shows every mistake."
            ),
            Self::ApprovalFlood(bound) => of_flood(bound),
            Self::PaymentsPaused {
                scope,
                who,
                why,
                unrecorded,
            } => {
                let (words, options) = (scope.words(), scope.options());
                let record = unrecorded.as_ref().map_or_else(String::new, |error| {
                    format!(" The pause is not on record yet ({error}); a restart before that would lift it.")
                });
                format!(
                    "{words} are paused by {who}: {why}. `bursar resume {options} --why TEXT` lifts the pause.{record}"
                )
            }
            Self::PaymentsResumed { scope, who, why } => {
                format!("{} are no longer paused, resumed by {who}: {why}.", scope.words())
            }
            Self::Test => "This is a test alert from `bursar alerts test`. Nothing has happened.".to_owned(),
        }
    }
}

fn of_flood(bound: &Bound) -> String {
    let what = match bound {
        Bound::OfAgent { agent, open } => format!(
            "{agent} has {open} questions waiting for a person, the most allowed (max_pending_per_agent). Its further \
             payments that need approval are refused until some of these are decided."
        ),
        Bound::OfApprover { approver, agent, open } => format!(
            "{open} questions are waiting for {approver}, the most allowed (max_pending_per_approver), so a question of \
             {agent} was not asked. Payments that need {approver} are refused until some of these are decided."
        ),
        Bound::OfHour { agent, approver, count } => format!(
            "{agent} has asked {approver} {count} times within an hour, the most allowed (prompts_per_hour). Its further \
             payments that need {approver} are refused until an hour has passed since the first of them."
        ),
    };
    format!(
        "{what} Look at `bursar pending` with care: people who are asked all the time approve without reading. If the \
         agent misbehaves, set `paused = true` for it in limits.toml."
    )
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
                "The budget {rule} has reached 80 %: {} of {} spent or reserved ({scope}, {window}, {start}). Once it \
                 is used up, payments are refused until the window ends or limits.toml is changed.",
                figure(*counted),
                figure(*cap)
            )
        }
        Alarm::LowSpace => {
            "The disk that holds the ledger is almost full, so new payments are refused. Free some space; payments \
             then resume by themselves."
                .to_owned()
        }
        Alarm::StoreFailed { why } => format!(
            "The ledger can no longer be written: {why}. All payments are refused. Repair the disk, then restart \
             bursar."
        ),
        Alarm::ClockJumped { ahead_s } => format!(
            "The system clock jumped ahead by {}, so payments are refused: budget windows would open too early. \
             Correct the clock, or, if it is right, run `bursar clock accept --why TEXT`.",
            SignedDuration::from_secs(i64::try_from(*ahead_s).unwrap_or(i64::MAX))
        ),
        Alarm::IndexRebuilt { why } => format!(
            "The index was rebuilt from the journal, because {why}. Nothing was lost. If it happens again, check the \
             disk."
        ),
        Alarm::TornWrite { bytes } => format!(
            "The last stop interrupted a write: {bytes} bytes that were never acknowledged were moved to audit/torn-*. \
             Nothing was lost. Find out why the machine stopped."
        ),
        Alarm::LogUnsigned {
            why,
            max_s,
            payments_stopped,
        } => {
            let max = SignedDuration::from_secs(i64::try_from(*max_s).unwrap_or(i64::MAX));
            if *payments_stopped {
                format!(
                    "The ledger's journal could not be signed for {max:#}, so new payments are refused: {why}. Requests \
                     that cost nothing still pass. bursar keeps trying; payments resume by themselves."
                )
            } else {
                format!(
                    "The ledger's journal cannot be signed: {why}. What is not signed can be removed unnoticed. bursar \
                     keeps trying; if it still fails after {max:#}, new payments are refused. Make room on the disk, or \
                     find out what uses up the file descriptors."
                )
            }
        }
        Alarm::SegmentOverdue { why } => format!(
            "The next file of the ledger's journal cannot be opened: {why}. Entries go on into the old one, and nothing is \
             lost. bursar keeps trying. Make room on the disk, or find out what uses up the file descriptors."
        ),
    }
}

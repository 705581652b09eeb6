//! `bursar payments`: lists payments and refusals; resolves payments that cannot be proven.

use std::fmt::Write;

use clap::{ArgGroup, Args, Subcommand};
use jiff::Timestamp;

use super::arguments::{moment, not_found, parse_id};
use super::output::{note, print, print_json, say};
use super::{Exit, Failure, journal, progress};
use crate::admin::{self, AdminError, Resolved};
use bursar_core::clock::SystemClock;
use bursar_core::plain::plain;
use bursar_home::Home;
use bursar_ledger::{
    ANY_HOST, Embedded, Ledger, LedgerError, PaymentId, PaymentRecord, RecordedPayments, Refused, read_payments,
};

#[derive(Subcommand)]
pub(super) enum Payments {
    /// List payments, oldest first
    List(List),
    /// Show one payment
    Show(Show),
    /// Resolve a payment whose outcome is unknown and cannot be proven; the ledger records why
    Resolve(Resolve),
}

#[derive(Args)]
pub(super) struct List {
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    /// Also list refused payments
    #[arg(long)]
    refused: bool,
    /// Only payments made since then: 2026-11-20, or 2026-11-20T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only this agent's payments
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only payments in this state: held, armed, settled, unknown, released or expired
    #[arg(long)]
    state: Option<String>,
    /// Only the newest COUNT payments
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

#[derive(Args)]
pub(super) struct Show {
    /// Payment id, as shown by `bursar payments list`
    id: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(group(ArgGroup::new("word").required(true)))]
pub(super) struct Resolve {
    /// Payment id, as shown by `bursar payments list`
    id: String,
    /// It was paid: its amount stays counted
    #[arg(long, group = "word")]
    settled: bool,
    /// It can never be cashed: its amount is no longer counted
    #[arg(long, group = "word")]
    expired: bool,
    /// How you know; recorded in the ledger
    #[arg(long, value_name = "TEXT")]
    why: String,
}

const STATES: [&str; 6] = ["held", "armed", "settled", "unknown", "released", "expired"];

impl Payments {
    pub(super) fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        match self {
            Self::List(list) => list.run(home),
            Self::Show(show) => show.run(home),
            Self::Resolve(resolve) => super::wait(resolve.run(home)),
        }
    }
}

impl List {
    fn run(self, home: &Home) -> Result<Exit, Failure> {
        if let Some(state) = &self.state
            && !STATES.contains(&state.as_str())
        {
            return Err(Failure::usage(format!(
                "--state {state}: no such state; use one of {}",
                STATES.join(", ")
            )));
        }
        let (recorded, exit) = journal::read(read_payments(home.root()))?;
        let RecordedPayments {
            mut payments,
            mut refusals,
            pauses,
        } = recorded;
        payments.retain(|payment| self.wants(payment));
        refusals.retain(|refusal| self.wants_refusal(refusal));
        if let Some(limit) = self.limit {
            payments.drain(..payments.len().saturating_sub(limit));
            refusals.drain(..refusals.len().saturating_sub(limit));
        }
        if self.json {
            payments.iter().try_for_each(print_json)?;
            refusals.iter().try_for_each(|refusal| {
                print_json(&Tagged {
                    state: "refused",
                    refusal,
                })
            })?;
            return Ok(exit);
        }
        for pause in &pauses {
            note!("{}", super::pause::sentence(&admin::Paused::of(pause.clone(), true)));
        }
        if payments.is_empty() && refusals.is_empty() {
            note!("No payments.");
        }
        print(format_args!("{}{}", table(&payments), refusal_table(&refusals)))?;
        Ok(exit)
    }

    fn wants(&self, payment: &PaymentRecord) -> bool {
        self.since.is_none_or(|since| payment.created_at >= since)
            && self.agent.as_ref().is_none_or(|agent| payment.agent == *agent)
            && self
                .state
                .as_ref()
                .is_none_or(|state| payment.state.to_string() == *state)
    }

    fn wants_refusal(&self, refusal: &Refused) -> bool {
        self.refused
            && self.since.is_none_or(|since| refusal.at >= since)
            && self.agent.as_ref().is_none_or(|agent| refusal.agent == *agent)
            && self.state.is_none()
    }
}

/// A refusal in a list of payments; its `state` says so.
#[derive(serde::Serialize)]
struct Tagged<'a> {
    state: &'static str,
    #[serde(flatten)]
    refusal: &'a Refused,
}

/// One payment, with what a person was asked about it.
#[derive(serde::Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    payment: &'a PaymentRecord,
    #[serde(flatten)]
    approval: super::evidence::Shown,
}

impl Show {
    fn run(self, home: &Home) -> Result<Exit, Failure> {
        let rid = parse_id(&self.id)?;
        let (recorded, compared) = journal::read(read_payments(home.root()))?;
        let payment = find(recorded, rid)?;
        let approval = super::evidence::Shown::of(home, rid)?;
        let exit = compared.and(approval.exit());
        if self.json {
            print_json(&Shown {
                payment: &payment,
                approval,
            })?;
        } else {
            print(format_args!("{}{}", sheet(&payment), approval.text()))?;
        }
        Ok(exit)
    }
}

impl Resolve {
    async fn run(self, home: &Home) -> Result<Exit, Failure> {
        let rid = parse_id(&self.id)?;
        if self.why.trim().is_empty() {
            return Err(Failure::usage(
                "--why is empty; say how you know: the ledger records it",
            ));
        }
        self.look(home, rid)?;
        let word = if self.settled {
            Resolved::Settled
        } else {
            Resolved::Expired
        };
        let who = admin::decider(rustix::process::geteuid().as_raw());
        let question = admin::Resolve {
            id: rid.to_string(),
            resolution: word,
            why: self.why.clone(),
        };
        match admin::ask(home, &question).await {
            Ok(()) => {}
            Err(AdminError::NoServer) => resolve_offline(home, rid, word, who, self.why).await?,
            Err(error) => return Err(Failure::negative(error.to_string())),
        }
        say!(
            "Payment {rid} is now {}.",
            if self.settled {
                "settled"
            } else {
                "expired; its amount is no longer counted"
            }
        )?;
        Ok(Exit::Done)
    }
}

impl Resolve {
    /// Checks the payment before the ledger is asked to change it: the ledger knows only open payments, so its errors
    /// would be less clear.
    fn look(&self, home: &Home, rid: PaymentId) -> Result<(), Failure> {
        let payment = find(journal::read_again(read_payments(home.root()))?, rid)?;
        let (state, reason) = (payment.state, payment.reason.as_deref());
        if state.is_final() {
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            return Err(Failure::negative(format!(
                "payment {rid} is already {state}{reason}; only a payment whose outcome is unknown can be resolved"
            )));
        }
        if self.expired
            && let Some(deadline) = payment.valid_before
            && Timestamp::now() < deadline
        {
            note!(
                "bursar: warning: anyone who has this payment's credential can still cash it until {}.",
                deadline.strftime("%Y-%m-%d %H:%M:%S UTC")
            );
        }
        Ok(())
    }
}

/// Without a server: takes the directory's lock and writes the entry itself (R57).
async fn resolve_offline(home: &Home, rid: PaymentId, word: Resolved, who: String, why: String) -> Result<(), Failure> {
    if home.node().exists() {
        return Err(Failure::unavailable(
            "this directory's ledger is in a database, which only a running server writes to; start `bursar serve` \
             and repeat this command"
                .to_owned(),
        ));
    }
    let options = progress::options(std::sync::Arc::new(SystemClock));
    let ledger = Embedded::open(home.root(), options).map_err(|error| Failure::unavailable(error.to_string()))?;
    let resolved = ledger.resolve(rid, word.into(), who, why).await;
    ledger.close().await;
    resolved.map_err(|error: LedgerError| Failure::negative(error.to_string()))
}

fn find(recorded: RecordedPayments, rid: PaymentId) -> Result<PaymentRecord, Failure> {
    let payment = recorded.payments.into_iter().find(|payment| payment.id == rid);
    payment.ok_or_else(|| not_found(rid))
}

/// Payments as a table.
pub(super) fn table(payments: &[PaymentRecord]) -> String {
    let mut out = String::new();
    for payment in payments {
        let _ = writeln!(
            out,
            "   {}  {:<8} {:>10} {:<5} {:<12} {}",
            payment.created_at.strftime("%Y-%m-%d %H:%M:%S"),
            payment.state.to_string(),
            payment.amount_decimal,
            payment.symbol,
            plain(&payment.agent),
            plain(&payment.resource),
        );
        let _ = writeln!(out, "   {}", payment.id);
    }
    out
}

pub(super) fn refusal_table(refusals: &[Refused]) -> String {
    let mut out = String::new();
    for refusal in refusals {
        let times = if refusal.count > 1 {
            format!(" ({} times)", refusal.count)
        } else {
            String::new()
        };
        let _ = writeln!(
            out,
            "   {}  {:<8} {:>10} {:<5} {:<12} {} by {}{times}",
            refusal.at.strftime("%Y-%m-%d %H:%M:%S"),
            "refused",
            refusal.usd.as_deref().unwrap_or("-"),
            "USD",
            plain(&refusal.agent),
            match refusal.merchant.as_str() {
                ANY_HOST => "several hosts".into(),
                host => plain(host),
            },
            plain(&refusal.rule),
        );
    }
    out
}

fn sheet(payment: &PaymentRecord) -> String {
    let mut out = String::new();
    let fields = serde_json::to_value(payment).unwrap_or_default();
    // serde_json sorts the members; this order reads better.
    const ORDER: [&str; 25] = [
        "id",
        "state",
        "by",
        "reason",
        "disputed",
        "agent",
        "group",
        "merchant",
        "resource",
        "amount_decimal",
        "symbol",
        "usd",
        "taken",
        "amount",
        "asset",
        "network",
        "rail",
        "scheme",
        "payee",
        "nonce",
        "valid_before",
        "tx",
        "approval",
        "created_at",
        "updated_at",
    ];
    for name in ORDER {
        if let Some(text) = fields.get(name).and_then(|value| value.as_str()) {
            let _ = writeln!(out, "{name:<15} {}", plain(text));
        }
    }
    out
}

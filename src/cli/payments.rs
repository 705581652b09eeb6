//! `bursar payments`: what was paid and refused, and the operator's last word where no proof can be had.

use std::fmt::Write;

use clap::{ArgGroup, Args, Subcommand};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned, civil};

use super::output::{print, say};
use super::{Exit, Failure};
use crate::admin::{self, AdminError, Word};
use bursar_core::clock::SystemClock;
use bursar_home::Home;
use bursar_ledger::{Books, Embedded, Ledger, LedgerError, Options, PaymentId, PaymentRecord, Refused, read_payments};

#[derive(Subcommand)]
pub enum Payments {
    /// List payments, oldest first
    List(List),
    /// Show one payment
    Show(Show),
    /// Close a payment that is in doubt and that no proof can close; the reason goes into the books
    Resolve(Resolve),
}

#[derive(Args)]
pub struct List {
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    /// Also what was refused
    #[arg(long)]
    refused: bool,
    /// Only those made since then: 2026-11-20, or 2026-11-20T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only this agent's
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only those in this state: held, armed, settled, unknown, released, expired
    #[arg(long)]
    state: Option<String>,
    /// Only the newest so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

#[derive(Args)]
pub struct Show {
    /// As `payments list` shows it
    id: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(group(ArgGroup::new("word").required(true)))]
pub struct Resolve {
    /// As `payments list` shows it
    id: String,
    /// It was paid: it counts for ever
    #[arg(long, group = "word")]
    settled: bool,
    /// It can never be cashed: it counts no more
    #[arg(long, group = "word")]
    expired: bool,
    /// How you know
    #[arg(long, value_name = "TEXT")]
    why: String,
}

const STATES: [&str; 6] = ["held", "armed", "settled", "unknown", "released", "expired"];

impl Payments {
    pub fn run(self, home: &Home) -> Result<Exit, Failure> {
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
                "--state {state}: the states are {}",
                STATES.join(", ")
            )));
        }
        let Books {
            mut payments,
            mut refusals,
        } = read(home)?;
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
            return Ok(Exit::Done);
        }
        if payments.is_empty() && refusals.is_empty() {
            eprintln!("No payments.");
        }
        print(format_args!("{}{}", table(&payments), refusal_table(&refusals)))?;
        Ok(Exit::Done)
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

/// A refusal among payments, told apart by its state.
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
        let payment = find(home, rid)?;
        let approval = super::evidence::Shown::of(home, rid)?;
        let exit = approval.exit();
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
            return Err(Failure::usage("--why is empty; say how you know, the books keep it"));
        }
        self.look(home, rid)?;
        let word = if self.settled { Word::Settled } else { Word::Expired };
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
            "{rid} is {}.",
            if self.settled {
                "settled"
            } else {
                "expired and counts no more"
            }
        )?;
        Ok(Exit::Done)
    }
}

impl Resolve {
    /// What the books say before they are asked to change: a clearer answer than the ledger's, which knows open payments
    /// only.
    fn look(&self, home: &Home, rid: PaymentId) -> Result<(), Failure> {
        let payment = find(home, rid)?;
        let (state, reason) = (payment.state, payment.reason.as_deref());
        if state.is_final() {
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            return Err(Failure::negative(format!(
                "{rid} is {state}{reason} already; only payments in doubt can be resolved"
            )));
        }
        if self.expired
            && let Some(deadline) = payment.valid_before
            && Timestamp::now() < deadline
        {
            eprintln!(
                "bursar: whoever has this payment's credential can cash it until {}, whatever the books say.",
                deadline.strftime("%Y-%m-%d %H:%M:%S UTC")
            );
        }
        Ok(())
    }
}

/// No server runs: takes the directory's lock and writes the entry itself (R57).
async fn resolve_offline(home: &Home, rid: PaymentId, word: Word, who: String, why: String) -> Result<(), Failure> {
    if home.node().exists() {
        return Err(Failure::unavailable(
            "the books of this directory are in a database, which only a running server writes: start `bursar serve`, then \
             repeat this command"
                .to_owned(),
        ));
    }
    let options = Options::new(std::sync::Arc::new(SystemClock));
    let ledger = Embedded::open(home.root(), options).map_err(|error| Failure::unavailable(error.to_string()))?;
    let resolved = ledger.resolve(rid, word.into(), who, why).await;
    ledger.close().await;
    resolved.map_err(|error: LedgerError| Failure::negative(error.to_string()))
}

fn read(home: &Home) -> Result<Books, Failure> {
    read_payments(home.root()).map_err(|error| Failure::negative(error.to_string()))
}

fn find(home: &Home, rid: PaymentId) -> Result<PaymentRecord, Failure> {
    let payment = read(home)?.payments.into_iter().find(|payment| payment.id == rid);
    payment.ok_or_else(|| not_found(rid))
}

pub(super) fn not_found(rid: PaymentId) -> Failure {
    Failure::negative(format!("no payment has the id {rid}; `bursar payments list` shows all"))
}

pub(super) fn parse_id(text: &str) -> Result<PaymentId, Failure> {
    PaymentId::parse(text)
        .ok_or_else(|| Failure::usage(format!("{text} is no payment id; `bursar payments list` shows them")))
}

pub(super) fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(|error| Failure::negative(error.to_string()))?;
    say!("{line}")
}

/// A date means its first moment in UTC.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    let as_date = |date: civil::Date| date.to_zoned(TimeZone::UTC).map(|zoned: Zoned| zoned.timestamp());
    text.parse::<Timestamp>()
        .or_else(|_| text.parse::<civil::Date>().and_then(as_date))
        .map_err(|_| "write 2026-11-20 or 2026-11-20T08:00:00Z".to_owned())
}

/// Payments for people. Agents and merchants are plain ASCII by construction, so nothing can disturb a terminal.
pub fn table(payments: &[PaymentRecord]) -> String {
    let mut out = String::new();
    for payment in payments {
        let _ = writeln!(
            out,
            "   {}  {:<8} {:>10} {:<5} {:<12} {}",
            payment.created_at.strftime("%Y-%m-%d %H:%M:%S"),
            payment.state.to_string(),
            payment.amount_decimal,
            payment.symbol,
            payment.agent,
            payment.resource,
        );
        let _ = writeln!(out, "   {}", payment.id);
    }
    out
}

pub fn refusal_table(refusals: &[Refused]) -> String {
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
            refusal.agent,
            refusal.merchant,
            refusal.rule,
        );
    }
    out
}

fn sheet(payment: &PaymentRecord) -> String {
    let mut out = String::new();
    let fields = serde_json::to_value(payment).unwrap_or_default();
    // serde_json sorts; the record's own order reads better.
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
            let _ = writeln!(out, "{name:<15} {text}");
        }
    }
    out
}

//! `bursar payments`: lists payments and refusals; resolves payments that cannot be proven.

mod chosen;
mod layout;
mod sheet;

use clap::{ArgGroup, Args, Subcommand};
use jiff::Timestamp;

use self::chosen::{Choice, Order, Row};
use super::arguments::{merchant, not_found, parse_id};
use super::dates::has_form;
use super::output::{note, print, print_exact, print_json, say};
use super::table::Look;
use super::zone::ShownZone;
use super::{Exit, Failure, journal, progress};
use crate::admin::{self, AdminError, Resolved};
use bursar_core::clock::SystemClock;
use bursar_core::policy::HostPattern;
use bursar_home::Home;
use bursar_ledger::{
    Embedded, Ledger, LedgerError, PaymentId, PaymentRecord, RecordedPayments, Refused, read_payments,
};

#[derive(Subcommand)]
pub(super) enum Payments {
    /// List payments, oldest first; days and times are in the time zone of limits.toml
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
    /// Also list refused payments, among the others
    #[arg(long)]
    refused: bool,
    /// Only payments made since then: a day (2026-11-20), a time (2026-11-20T08:00:00Z), or how long ago (7d, 12h)
    #[arg(long, value_name = "TIME", value_parser = has_form)]
    since: Option<String>,
    /// Only payments made until then; a day is meant to its end
    #[arg(long, value_name = "TIME", value_parser = has_form)]
    until: Option<String>,
    /// Only payments to this host; `*.example.com` is every host below example.com
    #[arg(long, value_name = "PATTERN", value_parser = merchant)]
    merchant: Option<HostPattern>,
    /// Only this agent's payments
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only payments in this state: held, armed, settled, unknown, released or expired
    #[arg(long)]
    state: Option<String>,
    /// Only the newest COUNT payments; with --refused also the newest COUNT refusals
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// What to list by, smallest first
    #[arg(long, value_enum, default_value_t)]
    sort: Order,
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
        let zone = ShownZone::of(home);
        let choice = self.choice(&zone)?;
        let (recorded, exit) = journal::read(read_payments(home.root()))?;
        let RecordedPayments {
            mut payments,
            mut refusals,
            pauses,
        } = recorded;
        payments.retain(|payment| choice.wants(payment));
        let unclear = refusals.iter().filter(|refusal| choice.is_unclear(refusal)).count();
        refusals.retain(|refusal| choice.wants_refusal(refusal));
        if let Some(limit) = self.limit {
            payments.drain(..payments.len().saturating_sub(limit));
            refusals.drain(..refusals.len().saturating_sub(limit));
        }
        if unclear > 0 {
            note!(
                "bursar: {unclear} entries about refusals at several hosts at once are not listed: they do not say whether \
                 this host is among them."
            );
        }
        let rows = Row::ordered(&payments, &refusals, self.sort);
        if self.json {
            rows.iter().try_for_each(json_line)?;
            return Ok(exit);
        }
        for pause in &pauses {
            note!("{}", super::pause::sentence(&admin::Paused::of(pause.clone(), true)));
        }
        if rows.is_empty() {
            note!("No payments.");
        }
        // Every text of others in it is plain already; the colours must pass.
        print_exact(&layout::listed(&rows, &zone, Look::of_stdout()))?;
        Ok(exit)
    }

    fn choice(&self, zone: &ShownZone) -> Result<Choice, Failure> {
        Ok(Choice {
            since: self.since.as_deref().map(|text| zone.since(text)).transpose()?,
            until: self.until.as_deref().map(|text| zone.until(text)).transpose()?,
            agent: self.agent.clone(),
            merchant: self.merchant.clone(),
            state: self.state.clone(),
            with_refusals: self.refused,
        })
    }
}

fn json_line(row: &Row<'_>) -> Result<(), Failure> {
    match row {
        Row::Payment(payment) => print_json(payment),
        Row::Refusal(refusal) => print_json(&Tagged {
            state: "refused",
            refusal,
        }),
    }
}

/// Payments and refusals as `bursar payments list --refused` shows them where stdout is no terminal, times in UTC.
pub(super) fn shown(recorded: &RecordedPayments) -> String {
    let rows = Row::ordered(&recorded.payments, &recorded.refusals, Order::Time);
    layout::listed(&rows, &ShownZone::plain_utc(), Look::of_no_terminal())
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
            let zone = ShownZone::of(home);
            let sheet = sheet::sheet(&payment, approval.denial(), &zone);
            print(format_args!("{sheet}{}", approval.text(&zone)))?;
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

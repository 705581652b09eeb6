//! `bursar reconcile`: compares the ledger with the chain and reports what does not match.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::arguments::parse_id;
use super::dates::has_form;
use super::output::{note, print, print_json};
use super::zone::ShownZone;
use super::{Exit, Failure, progress};
use crate::admin::{self, AdminError};
use crate::config::Config;
use crate::serve::{nodes, open_issuer, open_wallet, upstream_tls};
use bursar_core::clock::{SharedClock, SystemClock};
use bursar_core::plain::plain;
use bursar_home::Home;
use bursar_ledger::{Embedded, Ledger, OpenError, State};
use bursar_reconcile::report::{Finding, OutflowLine, PaymentLine, Summary, Unsearched};
use bursar_reconcile::{Conclusion, Progress, Question, Reconciler, Report, Unable};

/// After this long without output, the command would seem to hang.
const SOON: Duration = Duration::from_secs(2);

#[derive(Args)]
#[command(after_help = "\
Checks outstanding payments, payments settled only by the merchant's receipt, and transfers out of the wallet. Asks the
nodes in bursar.toml, as of a final block, and Stripe for payments through Stripe. What they prove is recorded. Where
they contradict the ledger, the payment is reported as disputed, and what is counted does not change. Disputes and
unexplained transfers of the last 7 days are reported again. If a server is running, this command asks it to reconcile;
otherwise it opens the ledger itself.

Exit codes: 0 everything matches; 1 mismatch: a dispute, or a transfer that bursar did not make; 3 bursar.toml lists no
nodes; 4 no mismatch, but something cannot be decided yet; 5 the data directory is in use.")]
pub(super) struct Reconcile {
    /// One JSON object per line, of kind payment, outflow or unsearched, and last one of kind summary
    #[arg(long)]
    json: bool,
    /// Include payments settled by the merchant's receipt, and earlier findings, since then: a day (2026-11-20) in the
    /// time zone of limits.toml, a time (2026-11-20T08:00:00Z), or how long ago (30d) [default: the last 7 days]
    #[arg(long, value_name = "TIME", value_parser = has_form)]
    since: Option<String>,
    /// Only these payment ids, as shown by `bursar payments list`
    #[arg(value_name = "ID", conflicts_with = "since")]
    ids: Vec<String>,
}

impl Reconcile {
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let ids = self.ids.iter().map(|id| parse_id(id)).collect::<Result<_, _>>()?;
        let since = self
            .since
            .as_deref()
            .map(|text| ShownZone::of(home).since(text))
            .transpose()?;
        let question = Question { ids, since };
        let compared = match online(home, &question).await {
            Ok(compared) => compared,
            Err(AdminError::NoServer) => offline(home, &question).await?,
            Err(error) => return Err(Failure::unavailable(error.to_string())),
        };
        let report = compared.map_err(|unable| match unable {
            Unable::NoNodes => Failure::unverifiable(unable.to_string()),
            Unable::NoPayment(_) => Failure::usage(unable.to_string()),
            Unable::Failed(_) => Failure::negative(unable.to_string()),
        })?;
        if self.json {
            json(&report)?;
        } else {
            print(format_args!("{}", text(&report)))?;
        }
        Ok(match report.conclusion() {
            Conclusion::Matched => Exit::Done,
            Conclusion::Mismatch => Exit::Negative,
            Conclusion::Open => Exit::Pending,
        })
    }
}

/// Asks the running server, which holds the ledger; its log shows what it asks the nodes.
async fn online(home: &Home, question: &Question) -> Result<Result<Report, Unable>, AdminError> {
    let asking = admin::reconcile(home, question);
    tokio::pin!(asking);
    if let Ok(compared) = timeout(SOON, &mut asking).await {
        return compared;
    }
    if std::io::stderr().is_terminal() {
        note!("The server is asking its nodes. Searching many blocks can take minutes.");
    }
    asking.await
}

/// Without a server: takes the directory's lock and records the results itself (R57).
async fn offline(home: &Home, question: &Question) -> Result<Result<Report, Unable>, Failure> {
    let config = Config::load(home.root())?;
    let tls = Arc::new(upstream_tls(&config, home.root()).map_err(|error| Failure::usage(error.to_string()))?);
    let clock: SharedClock = Arc::new(SystemClock);
    let ledger = Embedded::open(home.root(), progress::options(clock.clone())).map_err(|error| match error {
        OpenError::InUse(_) => Failure::unavailable(error.to_string()),
        error => Failure::negative(error.to_string()),
    })?;
    let wallet = open_wallet(&config, home, &tls).await.ok().flatten();
    let reconciler = Reconciler {
        ledger: Arc::new(ledger.clone()),
        home: home.clone(),
        nodes: nodes(&config),
        // Like the wallet's key, its key may be unavailable here.
        issuer: open_issuer(&config, home, &tls)
            .ok()
            .flatten()
            .and_then(|issuer| issuer.account()),
        settle_wait: config.timeouts.settle_wait,
        tls,
        clock,
        outstanding: None,
        // Its key may be unavailable here. The ledger has the addresses that have signed.
        wallet: wallet.map(|wallet| wallet.address()),
        notices: Arc::new(|_| {}),
        stop: CancellationToken::new(),
        turn: tokio::sync::Mutex::default(),
    };
    let compared = reconciler.run(question, &report_progress).await;
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    ledger.close().await;
    Ok(compared)
}

/// On a terminal, shows progress in one line that is overwritten.
fn report_progress(progress: Progress) {
    let mut out = std::io::stderr().lock();
    if !out.is_terminal() {
        return;
    }
    let _ = match progress {
        Progress::Payments { done, of } => write!(out, "\r\x1b[Kpayment {} of {of}", done + 1),
        Progress::Blocks { network, block, last } => {
            write!(out, "\r\x1b[K{network}: transfers from block {block} of {last}")
        }
    };
    let _ = out.flush();
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line<'a> {
    Payment(&'a PaymentLine),
    Outflow(&'a OutflowLine),
    Unsearched(&'a Unsearched),
    Summary(&'a Summary),
}

fn json(report: &Report) -> Result<(), Failure> {
    let payments = report.payments.iter().map(Line::Payment);
    let outflows = report.outflows.iter().map(Line::Outflow);
    let unsearched = report.unsearched.iter().map(Line::Unsearched);
    for line in payments.chain(outflows).chain(unsearched) {
        print_json(&line)?;
    }
    print_json(&Line::Summary(&report.summary()))
}

/// The table of payments, the mismatches, and the summary.
fn text(report: &Report) -> String {
    let mut out = String::new();
    for line in &report.payments {
        let _ = writeln!(
            out,
            "   {}  {:<9} {:>10} {:<5} {:<12} {}",
            line.created_at.strftime("%Y-%m-%d %H:%M:%S"),
            line.finding.word(),
            line.amount_decimal,
            line.symbol,
            plain(&line.agent),
            plain(&line.merchant),
        );
        let _ = writeln!(out, "   {}{}", line.id, plain(&remark(line)));
    }
    for line in report.payments.iter().filter(|line| line.finding == Finding::Disputed) {
        let _ = writeln!(
            out,
            "Mismatch: payment {} of {} {} to {}: {}. {} Take it up with the merchant; `bursar payments show {}` has the details.",
            line.id,
            line.amount_decimal,
            line.symbol,
            plain(&line.merchant),
            plain(line.why.as_deref().unwrap_or("the chain contradicts the ledger")),
            match line.after {
                State::Expired => "The ledger does not count it.",
                _ => "It stays counted.",
            },
            line.id,
        );
    }
    for line in &report.outflows {
        let amount = line.amount_decimal.as_deref().unwrap_or(&line.amount);
        let _ = writeln!(
            out,
            "Mismatch: {amount} {} left the wallet on {} in block {}, but not through bursar: to {}, transaction {}. \
             Unless you sent it, someone else has the key: move the remaining funds to a new wallet.",
            plain(&line.symbol),
            line.network,
            line.block,
            plain(&line.payee),
            plain(&line.tx),
        );
    }
    for line in &report.unsearched {
        let _ = writeln!(
            out,
            "Could not search for other transfers on {}: {}. Run `bursar reconcile` again later.",
            line.network,
            plain(&line.why)
        );
    }
    let _ = writeln!(out, "{}", sum(&report.summary()));
    out
}

fn remark(line: &PaymentLine) -> String {
    let tx = line.tx.as_ref();
    match (line.finding, line.block) {
        (Finding::Settled | Finding::Confirmed, Some(block)) => {
            let tx = tx.map(|tx| format!(", transaction {tx}")).unwrap_or_default();
            let taken = line.taken.as_ref();
            let taken = taken
                .map(|taken| format!(", {taken} of {} atoms taken", line.amount))
                .unwrap_or_default();
            let why = line.why.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
            format!("  block {block}{tx}{taken}{why}")
        }
        (Finding::Expired, _) => "  can never be cashed; no longer counted".to_owned(),
        (Finding::Pending, _) if line.until.is_some() => {
            let until = line.until.map(|at| at.strftime("%H:%M:%S UTC").to_string());
            format!("  {}, until at least {}", line.after, until.unwrap_or_default())
        }
        (Finding::Disputed, _) => String::new(),
        _ => line.why.as_ref().map(|why| format!("  {why}")).unwrap_or_default(),
    }
}

fn sum(summary: &Summary) -> String {
    let payments = |count: usize| match count {
        1 => "1 payment".to_owned(),
        count => format!("{count} payments"),
    };
    let mut parts = vec![format!(
        "{} {}",
        payments(summary.matched),
        if summary.matched == 1 { "matches" } else { "match" }
    )];
    if summary.pending > 0 {
        let until = summary
            .until
            .map(|at| format!(" until at least {}", at.strftime("%H:%M UTC")));
        parts.push(format!("{} still open{}", summary.pending, until.unwrap_or_default()));
    }
    if summary.undecided > 0 {
        parts.push(format!("{} not proven either way", summary.undecided));
    }
    if summary.disputed > 0 {
        parts.push(format!("{} disputed", summary.disputed));
    }
    match summary.outflows {
        0 => {}
        1 => parts.push("1 transfer not made by bursar".to_owned()),
        count => parts.push(format!("{count} transfers not made by bursar")),
    }
    if summary.unsearched > 0 {
        parts.push("some networks not searched for transfers".to_owned());
    }
    format!("{}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_only_what_was_found() {
        let none = Summary::default();
        assert_eq!(sum(&none), "0 payments match.");
        let some = Summary {
            matched: 12,
            disputed: 1,
            pending: 1,
            until: Some("2026-11-20T14:05:00Z".parse().unwrap()),
            ..none
        };
        assert_eq!(
            sum(&some),
            "12 payments match, 1 still open until at least 14:05 UTC, 1 disputed."
        );
        let rest = Summary {
            matched: 1,
            undecided: 2,
            outflows: 1,
            unsearched: 1,
            ..none
        };
        let said = "1 payment matches, 2 not proven either way, 1 transfer not made by bursar, some networks not searched for \
             transfers.";
        assert_eq!(sum(&rest), said);
    }
}

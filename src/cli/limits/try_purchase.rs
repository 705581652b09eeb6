//! `bursar limits try`: what would be decided about a purchase, by the file and by what has been spent.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::super::dates::has_form;
use super::super::output::{note, print_json, say};
use super::super::reach::{Reach, failed};
use super::super::zone::ShownZone;
use super::super::{Exit, Failure, journal};
use super::{configured, text_of};
use crate::admin::{self, AdminError, Door, FileText};
use crate::config::Config;
use crate::config::approval::Backend;
use crate::config::operator::Store;
use crate::trial::{self, Described, Report, Rule, Setting};
use bursar_config::limits;
use bursar_core::plain::plain;
use bursar_core::policy::{Approvals, Limits};
use bursar_home::Home;
use bursar_ledger::{Standing, read_standing};

#[derive(Args)]
pub(in crate::cli) struct Try {
    #[command(flatten)]
    reach: Reach,
    /// Who would buy
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// The site's host
    #[arg(long, value_name = "HOST")]
    host: String,
    /// The price, in whole units of the asset
    #[arg(long, value_name = "AMOUNT")]
    amount: String,
    /// A symbol or a CAIP-19 id [default: any that counts as a dollar]
    #[arg(long, value_name = "ASSET")]
    asset: Option<String>,
    /// [default: any that limits.toml lists]
    #[arg(long, value_name = "RAIL")]
    rail: Option<String>,
    /// [default: any that has the asset]
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// [default: one that limits.toml allows]
    #[arg(long, value_name = "PAYEE")]
    payee: Option<String>,
    /// The request's method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// When: a time (2026-11-20T08:00:00Z), or a day, at its beginning in the file's time zone [default: now]
    #[arg(long, value_name = "TIME", value_parser = has_form)]
    at: Option<String>,
    /// Use this file instead of the limits in force
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Try {
    pub(super) async fn run(self, home: Result<Home, Failure>) -> Result<Exit, Failure> {
        let json = self.json;
        let (report, compared) = self.report(home).await?;
        if json {
            print_json(&report)?;
        } else {
            say!("{}", shown(&report))?;
        }
        Ok(match report.verdict.as_str() {
            "pay" => compared,
            "ask" => Exit::Pending,
            "unknown" => {
                note!(
                    "bursar: the rules allow it, but the ledger cannot be seen from here, so nobody can say whether the budgets \
                     have room for it. Ask a running server (--dir D)."
                );
                Exit::Unverifiable
            }
            _ => Exit::Negative,
        })
    }

    async fn report(self, home: Result<Home, Failure>) -> Result<(Report, Exit), Failure> {
        let with = match &self.with {
            None => None,
            Some(path) => {
                let text = text_of(path).map_err(|error| Failure::usage(error.to_string()))?;
                let name = path.display().to_string();
                // Its mistakes are shown whether a server runs or not.
                limits::parse(&name, &text).map_err(|error| Failure::usage(error.to_string()))?;
                Some(FileText { name, text })
            }
        };
        let at = match &self.at {
            None => None,
            Some(text) => Some(zone(with.as_ref(), home.as_ref().ok())?.since(text)?),
        };
        let asked = admin::Try {
            agent: self.agent,
            host: self.host,
            method: self.method,
            at,
            offer: Described {
                amount: self.amount,
                asset: self.asset,
                rail: self.rail,
                network: self.network,
                payee: self.payee,
                upfront: false,
            },
            with,
        };
        if self.reach.is_used() {
            let place = self.reach.place(home)?;
            let report = admin::try_purchase(&place.door(), &asked).await;
            return report.map(|report| (report, Exit::Done)).map_err(|error| match error {
                AdminError::Refused(why) => Failure::usage(why),
                error => place.failed(error),
            });
        }
        let home = match home.and_then(|home| home.require_initialised().map(|()| home).map_err(Failure::from)) {
            Ok(home) => home,
            // A file alone can be asked without any ledger.
            Err(failure) if asked.with.is_none() => return Err(failure),
            Err(_) => return blind(asked, None),
        };
        match admin::try_purchase(&Door::of(&home), &asked).await {
            Ok(report) => Ok((report, Exit::Done)),
            Err(AdminError::NoServer) => offline(asked, &home),
            Err(AdminError::Refused(why)) => Err(Failure::usage(why)),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The zone of the file that decides.
fn zone(with: Option<&FileText>, home: Option<&Home>) -> Result<ShownZone, Failure> {
    Ok(match (with, home) {
        (Some(FileText { name, text }), _) => {
            let limits = limits::parse(name, text).map_err(|error| Failure::usage(error.to_string()))?;
            ShownZone::of_limits(&limits)
        }
        (None, Some(home)) => ShownZone::of(home),
        (None, None) => ShownZone::plain_utc(),
    })
}

/// Without a server the journal is replayed; a ledger in a database cannot be seen.
fn offline(asked: admin::Try, home: &Home) -> Result<(Report, Exit), Failure> {
    let config = Config::load(home.root()).map_err(|error| Failure::usage(error.to_string()))?;
    if !matches!(config.store, Store::Embedded) {
        return blind(asked, Some(home));
    }
    let limits = limits_for(&asked, Some(home))?;
    let approvals = match config.approval.backend {
        Backend::None => Approvals::None,
        Backend::Operator => Approvals::Terminal,
        Backend::Ciba(_) | Backend::Keyra(_) => Approvals::Service,
    };
    let (now, is_now) = (Timestamp::now(), asked.at.is_none());
    let setting = setting(&asked, now);
    let offers = [asked.offer];
    let charges = trial::charges(&limits, approvals, &setting, &offers).map_err(Failure::usage)?;
    let (standing, exit): (Standing, Exit) = journal::read(read_standing(home.root(), &charges))?;
    let judged = trial::run(&limits, approvals, &setting, &offers, |charge| standing.counted(charge));
    let (judged, bids) = judged.map_err(Failure::usage)?;
    let pause = standing.pause_on(&setting.agent, limits.group_of(&setting.agent), &setting.host);
    let report = Report::of(&judged, &bids, Some(now)).stopped_by(pause.filter(|_| is_now));
    Ok((report, exit))
}

/// Only what the file says.
fn blind(asked: admin::Try, home: Option<&Home>) -> Result<(Report, Exit), Failure> {
    let limits = limits_for(&asked, home)?;
    let setting = setting(&asked, Timestamp::now());
    let (judged, bids) =
        trial::run(&limits, Approvals::Service, &setting, &[asked.offer], |_| None).map_err(Failure::usage)?;
    Ok((Report::of(&judged, &bids, None), Exit::Done))
}

fn setting(asked: &admin::Try, now: Timestamp) -> Setting {
    Setting {
        agent: asked.agent.clone(),
        host: asked.host.clone(),
        method: asked.method.clone(),
        at: asked.at.unwrap_or(now),
    }
}

fn limits_for(asked: &admin::Try, home: Option<&Home>) -> Result<Limits, Failure> {
    let usage = |error: crate::config::ConfigError| Failure::usage(error.to_string());
    match (&asked.with, home) {
        (Some(file), _) => limits::parse(&file.name, &file.text).map_err(usage),
        (None, Some(home)) => {
            let file = configured(home)?;
            let text = file.read().map_err(usage)?;
            file.parse(&text).map_err(usage)
        }
        (None, None) => Err(Failure::usage(
            "name a file with --with, or a data directory with --dir",
        )),
    }
}

fn shown(report: &Report) -> String {
    let heading = match report.verdict.as_str() {
        "pay" => "PAID".to_owned(),
        "ask" => "ASKED: a person must approve it".to_owned(),
        "unpaid" => "NOT PAID: requests with this method are passed on unpaid".to_owned(),
        "unknown" => "ALLOWED by the rules; what has been spent is not known".to_owned(),
        _ => {
            let (code, rule) = (report.code.as_deref(), report.rule.as_deref());
            format!("REFUSED {} by {}", code.unwrap_or_default(), rule.unwrap_or_default())
        }
    };
    heading + &in_figures(report)
}

/// What decides, with its figures, the offer, and how each rule ended.
pub(in crate::cli) fn in_figures(report: &Report) -> String {
    let named = |outcome: &str| -> Vec<&Rule> { report.rules.iter().filter(|rule| rule.outcome == outcome).collect() };
    let rule = report.rule.as_deref().unwrap_or_default();
    let mut text = String::new();
    let decisive = report
        .rules
        .iter()
        .find(|looked| looked.rule == rule && looked.outcome == "fail");
    if let Some(decisive) = decisive {
        let figures = [
            ("asked", &decisive.asked),
            ("limit", &decisive.limit),
            ("used", &decisive.used),
            ("reserved", &decisive.reserved),
        ];
        let figures: Vec<String> = figures
            .into_iter()
            .filter_map(|(name, figure)| Some(format!("{name} {}", plain(figure.as_deref()?))))
            .collect();
        if !figures.is_empty() {
            text += &format!(": {}", figures.join(", "));
        }
    }
    if let (Some(offer), Some(usd)) = (&report.offer, &report.usd) {
        text += &format!(
            "\n  offer        {usd} USD in {} on {} over {} to {}",
            offer.symbol, offer.network, offer.rail, offer.payee
        );
    }
    for (title, outcome) in [("passed", "pass"), ("asks", "ask"), ("not reached", "not-reached")] {
        let rules: Vec<String> = named(outcome).into_iter().map(with_figures).collect();
        if !rules.is_empty() {
            text += &format!("\n  {title:<12} {}", rules.join("  "));
        }
    }
    let also: Vec<&str> = report
        .rules
        .iter()
        .filter(|rule| rule.would.as_deref() == Some("fail"))
        .map(|rule| rule.rule.as_str())
        .collect();
    if !also.is_empty() {
        text += &format!("\n  would refuse it too: {}", also.join("  "));
    }
    text
}

/// `agents.research.day (2.31 used, 0.10 reserved, of 5.00)`.
fn with_figures(rule: &Rule) -> String {
    match (&rule.used, &rule.reserved, &rule.limit) {
        (Some(used), Some(reserved), Some(limit)) => {
            format!("{} ({used} used, {reserved} reserved, of {limit})", rule.rule)
        }
        _ => rule.rule.clone(),
    }
}

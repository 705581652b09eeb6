//! `bursar limits diff`: who may spend more under another file, and who less.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::super::output::{print_json, say};
use super::super::{Exit, Failure};
use super::limits_of;
use bursar_core::money::MicroUsd;
use bursar_core::plain::plain;
use bursar_core::policy::diff::{Before, Difference, Direction, Ended, Example, Reason, diff};

#[derive(Args)]
pub(in crate::cli) struct Diff {
    /// The file of before
    old: PathBuf,
    /// The file to compare with it
    new: PathBuf,
    /// One JSON object per agent
    #[arg(long)]
    json: bool,
}

/// `--json`.
#[derive(Serialize)]
struct Line<'a> {
    agent: &'a str,
    /// `same`, `more`, `less` or `both`.
    direction: &'static str,
    more: Vec<Shown>,
    less: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    /// The rule of the stricter file.
    rule: String,
    /// `false`: the comparison cannot tell, and counts it as a difference.
    proven: bool,
    purchase: Option<Purchase>,
    old: Option<Verdict>,
    new: Option<Verdict>,
}

#[derive(Serialize)]
struct Purchase {
    host: String,
    method: String,
    at: Timestamp,
    rail: &'static str,
    network: String,
    asset: String,
    symbol: &'static str,
    /// In whole units of the asset.
    amount: String,
    payee: String,
    payee_known: bool,
    spent: Vec<Spent>,
}

#[derive(Serialize)]
struct Spent {
    scope: String,
    usd: String,
    payments: String,
    at: Timestamp,
    open: bool,
}

#[derive(Serialize)]
struct Verdict {
    verdict: &'static str,
    code: Option<&'static str>,
    rule: Option<String>,
    /// How many people must approve.
    approvals: Option<u8>,
    approvers: Option<Vec<String>>,
}

#[derive(Clone, Copy)]
enum Side {
    /// The old file is the stricter one.
    More,
    Less,
}

impl Diff {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let (old, new) = (limits_of(&self.old)?, limits_of(&self.new)?);
        let differences = diff(&old, &new, Timestamp::now());
        let mut exit = Exit::Done;
        let mut same = 0;
        for difference in &differences {
            let direction = difference.direction();
            if matches!(direction, Direction::More | Direction::Both) {
                exit = Exit::Negative;
            }
            if self.json {
                print_json(&Line::of(difference))?;
            } else if direction == Direction::Same {
                same += 1;
            } else {
                say!("{}: {}", difference.agent, direction.name())?;
                for reason in &difference.more {
                    say!("{}", told("+", reason, Side::More))?;
                }
                for reason in &difference.less {
                    say!("{}", told("-", reason, Side::Less))?;
                }
            }
        }
        if !self.json {
            let agents = |count: usize| format!("{count} {}", if count == 1 { "agent" } else { "agents" });
            say!("{} compared, {same} may buy the same", agents(differences.len()))?;
        }
        Ok(exit)
    }
}

fn told(sign: &str, reason: &Reason, side: Side) -> String {
    let rule = match reason.rule.as_str() {
        "" => "the file",
        rule => rule,
    };
    let Some(example) = &reason.example else {
        return format!("  {sign} {rule}: cannot tell whether the other file keeps it; counted as a difference");
    };
    let (old, new) = ends(example, side);
    format!(
        "  {sign} {rule}: {}\n      {} -> {}",
        purchase(example),
        ended(old),
        ended(new)
    )
}

/// How it ends under the old file and under the new one.
fn ends(example: &Example, side: Side) -> (&Ended, &Ended) {
    match side {
        Side::More => (&example.strict, &example.loose),
        Side::Less => (&example.loose, &example.strict),
    }
}

fn purchase(example: &Example) -> String {
    let Example {
        host,
        method,
        at,
        rail,
        asset,
        payee,
        payee_known,
        amount,
        before,
        ..
    } = example;
    let mut text = format!(
        "{} {amount} in {} on {} over {rail} to {payee}, at {at}",
        plain(&format!("{method} {host} for")),
        asset.symbol(),
        asset.network()
    );
    if !payee_known {
        text += ", which was never paid before";
    }
    for before in before {
        text += &format!("; {}", spent(before));
    }
    text
}

fn spent(before: &Before) -> String {
    let Before {
        scope,
        usd,
        payments,
        at,
        open,
    } = before;
    let pending = if *open { ", still pending" } else { "" };
    let payments = match payments {
        1 => "1 payment".to_owned(),
        more => format!("{more} payments"),
    };
    format!(
        "{scope} spent {} USD in {payments} at {at}{pending}",
        MicroUsd::new(*usd)
    )
}

fn ended(ended: &Ended) -> String {
    match ended {
        Ended::Pay => "paid".to_owned(),
        Ended::Ask { rules, needed, people } => {
            let who = match &people.named {
                None => "the approver in bursar.toml".to_owned(),
                Some(names) => names.join(", "),
            };
            format!("{needed} must approve ({}) by {}", plain(&who), rules.join(" and "))
        }
        Ended::Refuse { code, rule } => format!("refused {code} by {rule}"),
        Ended::Unpaid => "passed on unpaid".to_owned(),
    }
}

impl<'a> Line<'a> {
    fn of(difference: &'a Difference) -> Self {
        let shown = |reasons: &[Reason], side| reasons.iter().map(|reason| Shown::of(reason, side)).collect();
        Self {
            agent: &difference.agent,
            direction: difference.direction().name(),
            more: shown(&difference.more, Side::More),
            less: shown(&difference.less, Side::Less),
        }
    }
}

impl Shown {
    fn of(reason: &Reason, side: Side) -> Self {
        let ends = reason.example.as_ref().map(|example| ends(example, side));
        Self {
            rule: reason.rule.clone(),
            proven: reason.example.is_some(),
            purchase: reason.example.as_ref().map(Purchase::of),
            old: ends.map(|(old, _)| Verdict::of(old)),
            new: ends.map(|(_, new)| Verdict::of(new)),
        }
    }
}

impl Purchase {
    fn of(example: &Example) -> Self {
        let spent = example.before.iter().map(|before| Spent {
            scope: before.scope.clone(),
            usd: MicroUsd::new(before.usd).to_string(),
            payments: before.payments.to_string(),
            at: before.at,
            open: before.open,
        });
        Self {
            host: example.host.clone(),
            method: example.method.clone(),
            at: example.at,
            rail: example.rail.name(),
            network: example.asset.network().to_string(),
            asset: example.asset.caip19(),
            symbol: example.asset.symbol(),
            amount: example.amount.clone(),
            payee: example.payee.text(),
            payee_known: example.payee_known,
            spent: spent.collect(),
        }
    }
}

impl Verdict {
    fn of(ended: &Ended) -> Self {
        let none = Self {
            verdict: "pay",
            code: None,
            rule: ended.rule().map(str::to_owned),
            approvals: None,
            approvers: None,
        };
        match ended {
            Ended::Pay => none,
            Ended::Unpaid => Self {
                verdict: "unpaid",
                ..none
            },
            Ended::Refuse { code, .. } => Self {
                verdict: "refuse",
                code: Some(code),
                ..none
            },
            Ended::Ask { needed, people, .. } => Self {
                verdict: "ask",
                approvals: Some(*needed),
                approvers: people.named.clone(),
                ..none
            },
        }
    }
}

//! One case: who buys what where, what was spent before, and what is expected.

use std::path::Path;

use jiff::Timestamp;

use super::super::text_of;
use crate::config::ConfigError;
use crate::trial::{Described, Setting};
use bursar_config::diagnose::{Confidence, Document};
use bursar_config::section::{Entry, Hints, Section};
use bursar_core::policy::{Approvals, Charge, Counted, Limits, Unit, Window};

pub(super) struct Case {
    pub setting: Setting,
    pub offers: Vec<Described>,
    pub approvals: Approvals,
    pub spent: Spent,
    pub expect: &'static str,
    pub rule: Option<String>,
}

/// `"agent:research day" = "4.80"`: what a budget counts already.
#[derive(Default)]
pub(super) struct Spent(Vec<Counter>);

struct Counter {
    scope: String,
    /// As the key in limits.toml: `day`, `count.day`, `rolling.24h`, `max_pending`.
    budget: String,
    /// In the budget's unit.
    value: u128,
}

const VERDICTS: [&str; 4] = ["pay", "ask", "refuse", "unpaid"];

const HINTS: Hints = &[
    ("merchant", "The key is `host`."),
    ("time", "The key is `at`."),
    ("verdict", "The key is `expect`."),
    ("amount", "Put it below [[offer]]."),
    ("offers", "Write [[offer]] for each offer."),
];

impl Case {
    pub(super) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = text_of(path)?;
        let file = path.display().to_string();
        Self::parse(&file, &text)
    }

    fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let document = Document::new(file, text, Confidence::Open);
        let table = document.table()?;
        let case = read(Section::top(&document, table.get_ref()), &document);
        drop(table);
        // Without a case there is a problem.
        document.finish(())?;
        case.ok_or_else(|| ConfigError::Unreadable {
            file: file.to_owned(),
            reason: "it is no case".to_owned(),
        })
    }
}

fn read(mut top: Section<'_>, document: &Document<'_>) -> Option<Case> {
    let text = |entry: Option<Entry<'_>>| entry.and_then(|entry| entry.text().map(str::to_owned));
    let agent = text(top.take("agent"));
    let host = text(top.take("host"));
    let method = text(top.take("method")).unwrap_or_else(|| "GET".to_owned());
    let at = top.take("at").and_then(|entry| moment(&entry));
    let expect = top.take("expect").and_then(|entry| {
        let parse = |word: &str| VERDICTS.into_iter().find(|known| *known == word);
        entry.word(parse, &VERDICTS)
    });
    let rule = text(top.take("rule"));
    let approvals = top.take("approvals").and_then(|entry| {
        let parse = |word: &str| match word {
            "none" => Some(Approvals::None),
            "terminal" => Some(Approvals::Terminal),
            "service" => Some(Approvals::Service),
            _ => None,
        };
        entry.word(parse, &["none", "terminal", "service"])
    });
    let offers = top.take("offer").and_then(|entry| entry.items());
    let offers: Vec<Described> = offers.into_iter().flatten().filter_map(|entry| offer(&entry)).collect();
    let spent = top.section("spent").map(spent).unwrap_or_default();
    top.close(HINTS);
    for (key, is_missing) in [
        ("agent", agent.is_none()),
        ("host", host.is_none()),
        ("expect", expect.is_none()),
        ("[[offer]]", offers.is_empty() && expect != Some("unpaid")),
    ] {
        if is_missing {
            let way_out = "A case has agent, host, expect and at least one [[offer]] with an amount.";
            document.report(
                &(0..0),
                format!("{key} is missing, or is not valid"),
                way_out.to_owned(),
            );
        }
    }
    Some(Case {
        setting: Setting {
            agent: agent?,
            host: host?,
            method,
            at: at.unwrap_or_else(Timestamp::now),
        },
        offers,
        approvals: approvals.unwrap_or(Approvals::Service),
        spent,
        expect: expect?,
        rule,
    })
}

fn offer(entry: &Entry<'_>) -> Option<Described> {
    let mut section = entry.section()?;
    let mut text = |key: &'static str| section.take(key).and_then(|entry| entry.text().map(str::to_owned));
    let (amount, asset) = (text("amount"), text("asset"));
    let (rail, network, payee) = (text("rail"), text("network"), text("payee"));
    let upfront = section
        .take("upfront")
        .and_then(|entry| entry.boolean())
        .unwrap_or(false);
    section.close(&[("price", "The key is `amount`."), ("to", "The key is `payee`.")]);
    if amount.is_none() {
        return entry.reject(
            "an offer needs an amount".to_owned(),
            "Write amount = \"0.30\".".to_owned(),
        );
    }
    Some(Described {
        amount: amount?,
        asset,
        rail,
        network,
        payee,
        upfront,
    })
}

fn moment(entry: &Entry<'_>) -> Option<Timestamp> {
    let text = entry.text()?;
    text.parse().ok().or_else(|| {
        entry.reject(
            format!("{}: \"{text}\" is not a time", entry.path()),
            "Write it with its zone, such as \"2026-11-20T14:30:00Z\".".to_owned(),
        )
    })
}

fn spent(section: Section<'_>) -> Spent {
    let one = |entry: Entry<'_>| {
        let Some((scope, budget)) = entry.key().split_once(' ') else {
            return entry.reject_key(
                format!("\"{}\" does not name a scope and a budget", entry.key()),
                "Write \"agent:research day\" = \"4.80\"; scopes are account, group:NAME and agent:NAME.".to_owned(),
            );
        };
        let counts = budget.starts_with("count.") || budget == Window::Payee.name();
        let value = match counts {
            true => entry.integer(0..=u64::MAX).map(u128::from),
            false => entry.usd().map(|usd| usd.get()),
        };
        Some(Counter {
            scope: scope.to_owned(),
            budget: budget.to_owned(),
            value: value?,
        })
    };
    Spent(section.named().into_iter().filter_map(one).collect())
}

impl Spent {
    pub(super) fn counted(&self, charge: &Charge) -> Counted {
        let name = key(&charge.rule, charge.window, charge.unit);
        let counter = self
            .0
            .iter()
            .find(|counter| counter.scope == *charge.scope && counter.budget == name);
        Counted {
            settled: counter.map_or(0, |counter| counter.value),
            open: 0,
        }
    }

    /// A counter that no budget of the agent has: probably a mistake.
    pub(super) fn unknown(&self, limits: &Limits, agent: &str) -> Option<String> {
        let levels = limits.agents.get(agent).map(|levels| limits.levels(levels));
        let budgets: Vec<_> = levels.into_iter().flatten().flat_map(|level| &level.budgets).collect();
        let is_known = |counter: &&Counter| {
            budgets.iter().any(|budget| {
                budget.scope() == counter.scope && key(budget.rule(), budget.window(), budget.unit()) == counter.budget
            })
        };
        let unknown = self.0.iter().find(|counter| !is_known(counter))?;
        Some(format!("{} {}", unknown.scope, unknown.budget))
    }
}

/// The budget's key within its section.
fn key(rule: &str, window: Window, unit: Unit) -> String {
    match (window, unit) {
        (Window::Rolling(_), _) => format!("rolling.{}", rule.rsplit('.').next().unwrap_or_default()),
        (Window::Payee, _) => window.name().to_owned(),
        (_, Unit::Payments) => format!("count.{}", window.name()),
        (_, Unit::MicroUsd) => window.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_with_mistakes() {
        let error = Case::parse(
            "a.toml",
            "agent = \"research\"\nexpct = \"pay\"\n[[offer]]\namount = \"1\"\nprice = \"1\"\n[spent]\nday = \"1\"\n",
        );
        let said = error.err().unwrap().to_string();
        for words in [
            "a.toml:2:1: `expct` is not a known key",
            "Did you mean `expect`?",
            "has no key `price`",
            "The key is `amount`.",
            "does not name a scope and a budget",
            "host is missing",
        ] {
            assert!(said.contains(words), "{words}\n{said}");
        }
    }
}

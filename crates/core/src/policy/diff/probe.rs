//! A purchase that both files are run on.

use http::Method;
use jiff::Timestamp;

use super::super::budget::{Charge, Unit, Window};
use super::super::judge::{Counted, Verdict, judge};
use super::super::limits::{Limits, OverLimit};
use super::super::threshold::{Threshold, named, owners};
use super::super::{Approvals, Bid, Purchase};
use crate::account::Account;
use crate::assets::Asset;
use crate::challenge::{PaymentFlow, Rail};
use crate::money::Atoms;

/// A rail, and what it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub rail: Rail,
    pub asset: Asset,
}

/// A purchase, and what has been spent before it.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub host: String,
    pub method: Method,
    pub at: Timestamp,
    pub pair: Pair,
    pub payee: Account,
    pub atoms: u128,
    pub before: Vec<Before>,
    /// Whether the payee was paid before.
    pub payee_known: bool,
}

/// What was spent at one moment and counts for one scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// `account`, `group:eng`, `agent:research`.
    pub scope: String,
    /// Micro-USD.
    pub usd: u128,
    pub payments: u128,
    pub at: Timestamp,
    /// Whether its outcome is open.
    pub open: bool,
}

/// How a purchase ends under one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Pay,
    Ask {
        rules: Vec<String>,
        needed: u8,
        people: People,
    },
    Refuse {
        code: &'static str,
        rule: String,
    },
    Unpaid,
}

/// Who may approve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct People {
    /// Those that limits.toml names, without owners. `None`: the backend decides.
    pub named: Option<Vec<String>>,
    pub owners: Vec<String>,
}

/// A purchase that ends differently under the two files, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub host: String,
    pub method: String,
    pub at: Timestamp,
    pub rail: Rail,
    pub asset: Asset,
    pub payee: Account,
    pub payee_known: bool,
    /// In whole units of the asset.
    pub amount: String,
    pub before: Vec<Before>,
    pub strict: Ended,
    pub loose: Ended,
}

impl Pair {
    /// The least amount that is not nothing, and a cent.
    pub(super) fn least(self) -> Option<u128> {
        let decimals = u32::from(self.asset.decimals());
        10u128.checked_pow(decimals.saturating_sub(2))
    }
}

impl Probe {
    pub(super) fn run(&self, limits: &Limits, agent: &str) -> Ended {
        let bid = Bid {
            rail: self.pair.rail,
            asset: self.pair.asset,
            payee: self.payee.clone(),
            price: limits.rates.price_of(self.pair.asset, Atoms::new(self.atoms), self.at),
            flow: PaymentFlow::Authorization,
        };
        let purchase = Purchase {
            agent,
            merchant: &self.host,
            method: &self.method,
            now: self.at,
            approvals: Approvals::Service,
            over: &[],
        };
        let counted = |charge: &Charge| Some(self.counted(limits, charge));
        match judge(limits, &purchase, &[bid], counted).verdict {
            Verdict::Pay(_) | Verdict::Unknown(_) => Ended::Pay,
            Verdict::Ask(plan) => Ended::asking(plan.threshold),
            Verdict::Refuse(refusal) => Ended::Refuse {
                code: refusal.code.code(),
                rule: refusal.rule,
            },
            Verdict::Unpaid(_) => Ended::Unpaid,
        }
    }

    fn counted(&self, limits: &Limits, charge: &Charge) -> Counted {
        if charge.window == Window::Payee {
            return Counted {
                settled: u128::from(self.payee_known),
                open: 0,
            };
        }
        let counts = |before: &&Before| *before.scope == *charge.scope && is_in_window(limits, charge, before);
        let mut sum = Counted::default();
        for before in self.before.iter().filter(counts) {
            let amount = match charge.unit {
                Unit::MicroUsd => before.usd,
                Unit::Payments => before.payments,
            };
            let side = if before.open { &mut sum.open } else { &mut sum.settled };
            *side = side.saturating_add(amount);
        }
        sum
    }

    pub(super) fn shown(&self, strict: Ended, loose: Ended) -> Example {
        Example {
            host: self.host.clone(),
            method: self.method.to_string(),
            at: self.at,
            rail: self.pair.rail,
            asset: self.pair.asset,
            payee: self.payee.clone(),
            payee_known: self.payee_known,
            amount: Atoms::new(self.atoms).decimal(self.pair.asset.decimals()),
            before: self.before.clone(),
            strict,
            loose,
        }
    }
}

fn is_in_window(limits: &Limits, charge: &Charge, before: &Before) -> bool {
    match charge.window {
        Window::Pending => before.open,
        Window::Total | Window::SinceApproval => true,
        Window::Rolling(rolling) => *rolling.bucket(before.at).0 >= *rolling.oldest(&charge.start),
        Window::Payee => false,
        window => *limits.calendar.period(window, before.at).start == *charge.start,
    }
}

impl Ended {
    fn asking(threshold: Option<Threshold>) -> Self {
        let Some(threshold) = threshold else { return Self::Pay };
        Self::Ask {
            rules: threshold.rules,
            needed: threshold.needed,
            people: People {
                named: threshold.named,
                owners: threshold.owners,
            },
        }
    }

    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::Refuse { .. } | Self::Unpaid => 0,
            Self::Ask { .. } => 1,
            Self::Pay => 2,
        }
    }

    /// The first rule that stands in its way.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Pay => None,
            Self::Ask { rules, .. } => rules.first().map(String::as_str),
            Self::Refuse { rule, .. } => Some(rule),
            Self::Unpaid => Some("methods"),
        }
    }
}

impl People {
    /// Whether `other` lets somebody approve who may not approve here.
    pub(super) fn is_widened_by(&self, other: &Self) -> bool {
        match (&self.named, &other.named) {
            (Some(here), Some(there)) => there.iter().any(|name| !here.contains(name)),
            (None, None) => self.owners.iter().any(|owner| !other.owners.contains(owner)),
            (Some(_), None) | (None, Some(_)) => true,
        }
    }
}

/// Whether `loose` ends a purchase more freely.
pub(super) fn is_looser(strict: &Ended, loose: &Ended) -> bool {
    match (strict, loose) {
        (
            Ended::Ask { needed, people, .. },
            Ended::Ask {
                needed: fewer,
                people: others,
                ..
            },
        ) => fewer < needed || people.is_widened_by(others),
        _ => loose.rank() > strict.rank(),
    }
}

/// Who may approve what the agent buys, and whether anything makes them be asked.
pub(super) struct Approvers {
    pub people: People,
    pub can_be_asked: bool,
}

pub(super) fn approvers(limits: &Limits, agent: &str) -> Approvers {
    let levels = || {
        limits
            .agents
            .get(agent)
            .map(|levels| limits.levels(levels))
            .into_iter()
            .flatten()
    };
    let owners = owners(levels());
    let named = named(levels()).map(|named| named.iter().filter(|name| !owners.contains(name)).cloned().collect());
    let asks = |level: &super::super::Level| {
        level.asking.above.is_some()
            || level.asking.second_above.is_some()
            || (level.per_transaction.is_some() && level.over_limit == OverLimit::Ask)
            || level.budgets.iter().any(|budget| budget.asks())
    };
    Approvers {
        can_be_asked: levels().any(asks),
        people: People { named, owners },
    }
}

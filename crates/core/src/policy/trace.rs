//! The decision with every rule that was looked at, for the people who write limits.toml.

use std::ops::ControlFlow;

use jiff::Timestamp;

use super::limits::{AgentLevels, Limits};
use super::refusal::{Refusal, RefusalCode};
use super::rules::{self, Collector, Figures, Found, Place};
use super::{Bid, Decision, Purchase, choose};

/// A decision and what led to it.
pub struct Trace {
    pub decision: Decision,
    /// The rules that do not depend on the offer.
    pub purchase: Vec<Looked>,
    /// Those for each offer, in the given order. An offer is looked at on its own: another one may have been taken.
    pub offers: Vec<Vec<Looked>>,
    /// The budgets that a payment is charged to. Only the ledger knows whether it fits, so nothing here has reached them.
    pub budgets: Vec<Looked>,
}

/// One rule and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Path in limits.toml.
    pub rule: String,
    pub outcome: Outcome,
    /// Whether the decision came this far. It does not after another rule has refused.
    pub reached: bool,
    /// Set if it refuses.
    pub code: Option<RefusalCode>,
    pub limit: Option<String>,
    /// Settled in this window, in the unit of `limit`.
    pub used: Option<String>,
    /// Held, signed or of unknown outcome in this window, in the unit of `limit`.
    pub reserved: Option<String>,
    pub asked: Option<String>,
    pub resets_at: Option<Timestamp>,
}

/// What a rule says by itself, whatever the others say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    /// A person must approve.
    Ask,
    Fail,
    /// It depends on what has been spent.
    Unknown,
}

/// Like [`choose`], but goes on after a rule has refused.
pub fn trace(limits: &Limits, purchase: &Purchase<'_>, bids: &[Bid]) -> Trace {
    let mut trace = Trace {
        decision: choose(limits, purchase, bids),
        purchase: Vec::new(),
        offers: Vec::new(),
        budgets: Vec::new(),
    };
    let pays = limits.methods.include(purchase.method);
    let mut seen = Everything::from(true);
    seen.add(
        "methods".to_owned(),
        if pays { Outcome::Pass } else { Outcome::Fail },
        None,
    );
    let Some(agent_levels) = limits.agents.get(purchase.agent) else {
        let refusal = Refusal::unknown_agent(purchase.agent);
        seen.add(refusal.rule, Outcome::Fail, Some(refusal.code));
        trace.purchase = seen.rules;
        return trace;
    };
    // Never breaks: `Everything` does not.
    let _ = rules::of_purchase(limits, agent_levels, purchase, &mut seen);
    let reached = seen.goes_on;
    trace.purchase = seen.rules;
    let of_bid = |bid| {
        let mut seen = Everything::from(reached);
        let _ = rules::of_bid(limits, agent_levels, purchase, bid, &mut seen);
        seen.rules
    };
    trace.offers = bids.iter().map(of_bid).collect();
    trace.budgets = budgets(limits, agent_levels);
    trace
}

fn budgets(limits: &Limits, agent_levels: &AgentLevels) -> Vec<Looked> {
    let budgets = limits.levels(agent_levels).flat_map(|level| &level.budgets);
    budgets
        .map(|budget| Looked {
            rule: budget.rule().to_owned(),
            outcome: Outcome::Unknown,
            reached: false,
            code: None,
            limit: budget.limit(),
            used: None,
            reserved: None,
            asked: None,
            resets_at: None,
        })
        .collect()
}

/// Looks at every rule.
struct Everything {
    rules: Vec<Looked>,
    goes_on: bool,
}

impl Everything {
    fn from(goes_on: bool) -> Self {
        let rules = Vec::new();
        Self { rules, goes_on }
    }

    fn add(&mut self, rule: String, outcome: Outcome, code: Option<RefusalCode>) {
        self.rules.push(Looked {
            rule,
            outcome,
            reached: self.goes_on,
            code,
            limit: None,
            used: None,
            reserved: None,
            asked: None,
            resets_at: None,
        });
        self.goes_on &= outcome != Outcome::Fail;
    }
}

impl Collector for Everything {
    fn look(&mut self, place: Place<'_>, found: Found, figures: impl FnOnce() -> Figures) -> ControlFlow<Box<Refusal>> {
        match found {
            Found::Passes => self.add(place.to_string(), Outcome::Pass, None),
            Found::Asks => self.add(place.to_string(), Outcome::Ask, None),
            Found::Refuses(refusal) => self.add(refusal.rule, Outcome::Fail, Some(refusal.code)),
        }
        if let Some(looked) = self.rules.last_mut() {
            let Figures { limit, asked } = figures();
            (looked.limit, looked.asked) = (limit, asked);
        }
        ControlFlow::Continue(())
    }
}

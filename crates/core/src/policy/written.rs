//! What limits.toml says, for people who read it: the sections, their rules with values, and which counter each cap is
//! compared with at a moment.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::approval::NEEDED;
use super::budget::{Charge, Periods};
use super::imagined::somebody;
use super::limits::{AgentLevels, AssetName, Level, Limits, Listed, OverLimit};
use super::window::Window;
use crate::assets::{Asset, tokens};
use crate::money::MicroUsd;

/// A rule that is no budget, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its path in limits.toml, such as `agents.research.per_transaction`.
    pub rule: String,
    pub value: String,
}

/// More entries of a list than this are only counted.
const NAMED: usize = 4;

impl Limits {
    /// The groups that agents belong to, by name.
    pub fn groups(&self) -> BTreeMap<&str, &Level> {
        let groups = self.agents.values().filter_map(|levels| levels.group.as_ref());
        groups.map(|group| (&*group.name, &*group.level)).collect()
    }

    /// A charge of nothing for each cap of the level: it names the counter that the cap is compared with at `now`.
    /// `approval_first_time_payee` has no cap.
    pub fn caps(&self, level: &Level, now: Timestamp) -> Vec<Charge> {
        let mut periods = Periods::new(&self.calendar, now);
        let Some(payee) = tokens().next().and_then(|token| somebody(Asset::Token(token))) else {
            return Vec::new();
        };
        let budgets = level.budgets.iter().filter(|budget| budget.window() != Window::Payee);
        budgets
            .map(|budget| Charge {
                amount: 0,
                ..budget.charge(MicroUsd::ZERO, &payee, budget.written_excess(), &mut periods)
            })
            .collect()
    }

    /// Why an agent with these levels can pay nothing, whatever was spent.
    pub fn cannot_spend(&self, agent_levels: &AgentLevels) -> Option<String> {
        if let Some(paused) = self.levels(agent_levels).find(|level| level.paused) {
            return Some(format!("paused = true in [{}]", paused.section));
        }
        if agent_levels.has_budget() {
            return None;
        }
        let group = agent_levels.group.as_ref();
        let group = group
            .map(|group| format!(" or [groups.{}]", group.name))
            .unwrap_or_default();
        Some(format!(
            "there is no budget; write an amount for hour, day, week, month or total under [{}]{group}",
            agent_levels.level.section
        ))
    }
}

impl Level {
    /// Everything in the section but its budgets.
    pub fn written(&self) -> Vec<Written> {
        let mut rules = Vec::new();
        let mut add = |key: &str, value: String| {
            let rule = format!("{}.{key}", self.section);
            rules.push(Written { rule, value });
        };
        if self.paused {
            add("paused", "true".to_owned());
        }
        if let Some(most) = self.per_transaction {
            add("per_transaction", most.to_string());
        }
        if self.over_limit == OverLimit::Ask {
            add("over_limit", "ask".to_owned());
        }
        let asking = &self.asking;
        if let Some(above) = asking.above {
            add("approval_above", above.to_string());
        }
        if let Some(above) = asking.second_above {
            add("second_approval_above", above.to_string());
        }
        if asking.needed != NEEDED {
            add("approvals_needed", asking.needed.to_string());
        }
        if self.budgets.iter().any(|budget| budget.window() == Window::Payee) {
            add("approval_first_time_payee", "true".to_owned());
        }
        if !asking.approvers.is_empty() {
            add("approvers", list(asking.approvers.iter().cloned()));
        }
        if let Some(owner) = &asking.owner {
            add("owner", owner.clone());
        }
        if let Some(allow) = &self.merchants.allow {
            add("merchants.allow", list(allow.iter().map(ToString::to_string)));
        }
        if self.merchants.deny.iter().next().is_some() {
            add(
                "merchants.deny",
                list(self.merchants.deny.iter().map(ToString::to_string)),
            );
        }
        let Listed { allow, deny } = &self.payees;
        if let Some(allow) = allow {
            add("payees.allow", list(allow.iter().map(ToString::to_string)));
        }
        if !deny.is_empty() {
            add("payees.deny", list(deny.iter().map(ToString::to_string)));
        }
        if let Some(networks) = &self.networks {
            add("networks", list(networks.iter().map(ToString::to_string)));
        }
        if let Some(assets) = &self.assets {
            add("assets", list(assets.iter().map(AssetName::text)));
        }
        rules
    }
}

impl AssetName {
    fn text(&self) -> String {
        match self {
            Self::Symbol(symbol) => symbol.clone(),
            Self::One(asset) => asset.caip19(),
        }
    }
}

/// `a, b, c, d and 12 more`; a list without entries allows nothing.
fn list(entries: impl Iterator<Item = String>) -> String {
    let entries: Vec<String> = entries.collect();
    if entries.is_empty() {
        return "nothing".to_owned();
    }
    let named = entries.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match entries.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

//! Which payments a person must approve, how many of them, and who may be asked (approvals §7, threats 1.3 and 4.4).
//!
//! What depends on money already spent is not a threshold but a charge of the plan: only the ledger knows it, and it
//! decides one payment after another.

use std::sync::Arc;

use super::approval::Approvals;
use super::limits::{AgentLevels, Level, Limits};
use super::refusal::Refusal;
use crate::money::MicroUsd;

/// What makes a payment need approval, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Every rule that the payment passes, as its path in limits.toml, such as `agents.research.approval_above`; never
    /// empty. The question names them, and an approval lifts these and no others (R82).
    pub rules: Vec<String>,
    /// The approvers that limits.toml names, without the agent's owners. `None`: the backend decides who is asked.
    pub named: Option<Vec<String>>,
    /// The agent's owners, by the names of the backend: none of them may approve.
    pub owners: Vec<String>,
    /// How many people must approve.
    pub needed: u8,
}

/// What a price, allowed by every level, exceeds, together with `over`, the rules that past spending exceeds.
pub(super) fn threshold(
    limits: &Limits,
    agent_levels: &AgentLevels,
    approvals: Approvals,
    over: &[Arc<str>],
    price: MicroUsd,
) -> Result<Option<Threshold>, Box<Refusal>> {
    let levels = || limits.levels(agent_levels);
    let mut rules: Vec<String> = levels().flat_map(|level| passed(level, price)).collect();
    for rule in over {
        if !rules.iter().any(|known| **known == **rule) {
            rules.push(rule.to_string());
        }
    }
    if rules.is_empty() {
        return Ok(None);
    }
    let second = second(levels(), price);
    let needed = second.map_or(1, |level| level.asking.needed);
    if let (Some(level), Approvals::Terminal) = (second, approvals) {
        return Err(Box::new(Refusal::nobody_else(level, price)));
    }
    let (named, owners) = (named(levels()), owners(levels()));
    let named = named.map(|named| named.iter().filter(|name| !owners.contains(name)).cloned().collect());
    Ok(Some(Threshold {
        rules,
        named,
        owners,
        needed,
    }))
}

/// The level that says how many people must approve this price, if it is more than one.
pub(super) fn second<'l>(levels: impl Iterator<Item = &'l Level>, price: MicroUsd) -> Option<&'l Level> {
    levels
        .filter(|level| exceeds_second(level, price))
        .max_by_key(|level| level.asking.needed)
}

pub(super) fn exceeds_second(level: &Level, price: MicroUsd) -> bool {
    level.asking.second_above.is_some_and(|limit| price > limit)
}

/// The list that counts is the one nearest to the agent.
pub fn named<'l>(levels: impl Iterator<Item = &'l Level>) -> Option<&'l [String]> {
    let lists = levels.map(|level| level.asking.approvers.as_slice());
    lists.filter(|list| !list.is_empty()).last()
}

/// The owners that the levels name.
pub fn owners<'l>(levels: impl Iterator<Item = &'l Level>) -> Vec<String> {
    levels.filter_map(|level| level.asking.owner.clone()).collect()
}

/// The thresholds of this level that the price exceeds. A price over `per_transaction` gets here only if the level asks.
fn passed(level: &Level, price: MicroUsd) -> impl Iterator<Item = String> {
    let keys = [
        ("per_transaction", level.per_transaction),
        ("second_approval_above", level.asking.second_above),
        ("approval_above", level.asking.above),
    ];
    keys.into_iter()
        .filter(move |(_, limit)| limit.is_some_and(|limit| price > limit))
        .map(|(key, _)| format!("{}.{key}", level.section))
}

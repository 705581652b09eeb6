//! Which payments a person must approve, how many of them, and who may be asked (approvals §7, threats 1.3 and 4.4).
//!
//! What depends on money spent already is no threshold here but a charge of the plan: only the ledger knows, and it decides
//! one payment after the other.

use super::limits::{AgentLevels, Level, Limits};
use super::refusal::Refusal;
use crate::money::MicroUsd;

/// Whether a person can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approvals {
    /// No backend: what needs approval is refused.
    None,
    /// On this machine's own terminal, which cannot tell two people from each other.
    Terminal,
    /// By a service that knows people by name.
    Service,
}

/// What makes a payment need approval, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Path in limits.toml, such as `agents.research.approval_above`.
    pub rule: String,
    /// Whom limits.toml names, the agent's owners left out; else whoever the backend asks by itself.
    pub named: Option<Vec<String>>,
    /// Who owns the agent, by the names of the backend: none of them may approve.
    pub owners: Vec<String>,
    /// So many people must approve.
    pub needed: u8,
}

/// A level's own word on approvals.
#[derive(Debug)]
pub struct Asking {
    pub above: Option<MicroUsd>,
    /// Above this `needed` people must approve.
    pub second_above: Option<MicroUsd>,
    pub needed: u8,
    /// Who is asked, as the approval backend names people; without a name whoever it asks by itself.
    pub approvers: Vec<String>,
    pub owner: Option<String>,
}

/// Above a second threshold, unless the file says otherwise.
pub const NEEDED: u8 = 2;

impl Default for Asking {
    fn default() -> Self {
        Self {
            above: None,
            second_above: None,
            needed: NEEDED,
            approvers: Vec::new(),
            owner: None,
        }
    }
}

impl Approvals {
    pub(super) fn can_be_asked(self) -> bool {
        self != Self::None
    }
}

/// The threshold that a price passes which every level allows, or else `over`: a rule that what was spent already passes.
pub(super) fn threshold(
    limits: &Limits,
    standing: &AgentLevels,
    approvals: Approvals,
    over: Option<&str>,
    price: MicroUsd,
) -> Result<Option<Threshold>, Box<Refusal>> {
    let levels = || limits.levels(standing);
    let passed = levels().find_map(|level| passed(level, price));
    let Some(rule) = passed.or_else(|| over.map(str::to_owned)) else {
        return Ok(None);
    };
    let second = levels()
        .filter(|level| level.asking.second_above.is_some_and(|limit| price > limit))
        .max_by_key(|level| level.asking.needed);
    let needed = second.map_or(1, |level| level.asking.needed);
    if let (Some(level), Approvals::Terminal) = (second, approvals) {
        return Err(Box::new(Refusal::nobody_else(level, price)));
    }
    let (named, owners) = (named(levels()), owners(levels()));
    let named = named.map(|named| named.iter().filter(|name| !owners.contains(name)).cloned().collect());
    Ok(Some(Threshold {
        rule,
        named,
        owners,
        needed,
    }))
}

/// The list that counts: the nearest to the agent.
pub fn named<'l>(levels: impl Iterator<Item = &'l Level>) -> Option<&'l [String]> {
    let lists = levels.map(|level| level.asking.approvers.as_slice());
    lists.filter(|list| !list.is_empty()).last()
}

/// Everybody who owns the agent or its group.
pub fn owners<'l>(levels: impl Iterator<Item = &'l Level>) -> Vec<String> {
    levels.filter_map(|level| level.asking.owner.clone()).collect()
}

/// What is over `per_transaction` is here only where the level asks.
fn passed(level: &Level, price: MicroUsd) -> Option<String> {
    let keys = [
        ("per_transaction", level.per_transaction),
        ("second_approval_above", level.asking.second_above),
        ("approval_above", level.asking.above),
    ];
    keys.into_iter().find_map(|(key, limit)| {
        limit.filter(|&limit| price > limit)?;
        Some(format!("{}.{key}", level.section))
    })
}

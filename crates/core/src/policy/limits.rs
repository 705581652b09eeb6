//! limits.toml, resolved: one level each for the account, the groups and the agents, with all names built once.
//!
//! The crate `bursar-config` builds these; nothing here reads a file. A lower level can only tighten: every level that
//! applies must allow a payment, and a deny wins over any allow.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::Method;

use super::approval::Asking;
use super::budget::{Budget, Periods};
use super::calendar::Calendar;
use super::merchant::{self, HostPattern, MerchantNames};
use super::patterns::{HostPatterns, MerchantLists};
use super::pause::PauseScope;
use super::rates::Rates;
use crate::account::Account;
use crate::assets::{Asset, Network};
use crate::challenge::{Offer, Rail};
use crate::host::Host;
use crate::money::MicroUsd;

/// Everything that finance wrote, ready for decisions. Replaced as a whole on reload.
pub struct Limits {
    /// SHA-256 of the file's bytes, so that `policy.load` and every purchase can be traced to the file.
    pub sha256: [u8; 32],
    pub calendar: Calendar,
    /// Most preferred first; rails that are not listed are not used.
    pub rails: Vec<Rail>,
    pub max_validity_s: u64,
    pub zero_amount: bool,
    pub methods: Methods,
    /// Whether agents learn who paused payments with `bursar pause`, and why.
    pub show_pause_reason: bool,
    pub merchants: BTreeMap<Host, MerchantNames>,
    pub rates: Rates,
    pub account: Level,
    pub agents: HashMap<String, AgentLevels>,
}

/// An agent's own level and the group it belongs to.
pub struct AgentLevels {
    pub level: Level,
    pub group: Option<Group>,
}

#[derive(Clone)]
pub struct Group {
    pub name: Arc<str>,
    /// Its former name, whose payments count in its budgets.
    pub was: Option<Arc<str>>,
    pub level: Arc<Level>,
}

/// One section: `[account]`, `[groups.NAME]` or `[agents.NAME]`.
#[derive(Debug, Default)]
pub struct Level {
    /// Its path in limits.toml, such as `agents.research`.
    pub section: Arc<str>,
    pub per_transaction: Option<MicroUsd>,
    pub budgets: Vec<Budget>,
    pub merchants: MerchantLists,
    pub payees: Listed<Account>,
    pub networks: Option<Vec<Network>>,
    pub assets: Option<Vec<AssetName>>,
    pub paused: bool,
    pub over_limit: OverLimit,
    pub asking: Asking,
}

/// An allow list (`None` allows anything) and a deny list, which wins.
#[derive(Debug)]
pub struct Listed<T> {
    pub allow: Option<Vec<T>>,
    pub deny: Vec<T>,
}

/// How an asset is named in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssetName {
    /// On every network, from bursar's own table.
    Symbol(String),
    /// CAIP-19 `eip155:8453/erc20:0x…`, `stripe:live/iso4217:usd`.
    One(Asset),
}

/// What happens to a payment over a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverLimit {
    #[default]
    Deny,
    /// Ask a person; without an approval backend the same as `Deny`.
    Ask,
}

/// Which request methods are paid for (R9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Methods {
    /// All but HEAD, OPTIONS and TRACE.
    #[default]
    Usual,
    Only(Vec<Method>),
}

impl Limits {
    /// Whether an offer of amount zero may be signed (R22).
    pub fn zero_amount(&self) -> bool {
        self.zero_amount
    }

    /// The longest validity of a credential, in seconds (R16).
    pub fn max_validity_s(&self) -> u64 {
        self.max_validity_s
    }

    /// What the challenges of `merchant` may call it, if its section says so.
    pub fn names_of(&self, merchant: &str) -> Option<&MerchantNames> {
        let mut sections = self.merchants.iter();
        sections
            .find(|(host, _)| merchant::is(host, merchant))
            .map(|(_, names)| names)
    }

    /// The agents that have a section of their own.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }

    /// What this offer counts as, unless its currency has no valid rate.
    pub fn price(&self, offer: &Offer, now: jiff::Timestamp) -> Option<MicroUsd> {
        self.rates.price(offer, now).ok()
    }

    /// What the cheapest of these offers counts as; `None` if none has a price.
    pub fn cheapest(&self, offers: &[Offer], now: jiff::Timestamp) -> Option<MicroUsd> {
        let prices = offers.iter().filter_map(|offer| self.price(offer, now));
        prices.min()
    }

    /// Whether requests with this method are paid for at all (R9).
    pub fn pays_for(&self, method: &http::Method) -> bool {
        self.methods.include(method)
    }

    /// The group of an agent, if it has one.
    pub fn group_of(&self, agent: &str) -> Option<&str> {
        self.agents.get(agent)?.group.as_ref().map(|group| &*group.name)
    }

    /// Each agent's group, for those that have one.
    pub fn members(&self) -> BTreeMap<String, Arc<str>> {
        let group =
            |(agent, levels): (&String, &AgentLevels)| Some((agent.clone(), levels.group.as_ref()?.name.clone()));
        self.agents.iter().filter_map(group).collect()
    }

    /// The sections with `paused = true` that stop some of the payments in `scope`, sorted.
    pub fn paused_sections(&self, scope: &PauseScope) -> Vec<Arc<str>> {
        let is_in = |(agent, levels): &(&String, &AgentLevels)| match scope {
            PauseScope::All | PauseScope::Merchant(_) => true,
            PauseScope::Agent(name) => *agent == name,
            PauseScope::Group(name) => levels.group.as_ref().is_some_and(|group| *group.name == **name),
        };
        let agents = self.agents.iter().filter(is_in);
        let levels = agents.flat_map(|(_, levels)| self.levels(levels));
        let levels = std::iter::once(&self.account).chain(levels);
        let mut sections: Vec<_> = levels
            .filter(|level| level.paused)
            .map(|level| level.section.clone())
            .collect();
        sections.sort_unstable();
        sections.dedup();
        sections
    }

    /// From the account down to the agent, the order in which levels are checked.
    pub fn levels<'a>(&'a self, agent_levels: &'a AgentLevels) -> impl Iterator<Item = &'a Level> {
        let group = agent_levels.group.as_ref().map(|g| &*g.level);
        std::iter::once(&self.account)
            .chain(group)
            .chain(std::iter::once(&agent_levels.level))
    }

    pub(super) fn periods(&self, now: jiff::Timestamp) -> Periods<'_> {
        Periods::new(&self.calendar, now)
    }
}

impl AgentLevels {
    /// R51: the agent or its group has an amount window. The account's alone does not count.
    pub fn has_budget(&self) -> bool {
        let group = self.group.iter().flat_map(|g| &g.level.budgets);
        self.level.budgets.iter().chain(group).any(Budget::bounds_spending)
    }
}

impl<T> Listed<T> {
    pub(super) fn denied_by(&self, is: impl Fn(&T) -> bool) -> Option<&T> {
        self.deny.iter().find(|entry| is(entry))
    }

    pub(super) fn leaves_out(&self, is: impl Fn(&T) -> bool) -> bool {
        self.allow.as_ref().is_some_and(|allow| !allow.iter().any(is))
    }
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            allow: None,
            deny: Vec::new(),
        }
    }
}

impl From<Listed<HostPattern>> for MerchantLists {
    fn from(lists: Listed<HostPattern>) -> Self {
        Self {
            allow: lists.allow.map(HostPatterns::from),
            deny: lists.deny.into(),
        }
    }
}

impl Methods {
    pub(super) fn include(&self, method: &Method) -> bool {
        match self {
            Self::Usual => !matches!(*method, Method::HEAD | Method::OPTIONS | Method::TRACE),
            Self::Only(methods) => methods.contains(method),
        }
    }
}

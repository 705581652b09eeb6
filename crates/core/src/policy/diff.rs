//! Who may spend more under another limits.toml, and who less.
//!
//! "Less or the same" is claimed only where it is proven: every rule of the stricter file is either implied by one of the
//! other file, or compared at every point where its answer can change. Whatever is left is a difference; it is shown with a
//! purchase that both files were run on, or as one that this comparison cannot decide.

mod budgets;
mod probe;
mod space;

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use super::limits::{Level, Limits};
use budgets::Caps;
pub use probe::{Before, Ended, Example};
use probe::{Pair, Probe, is_looser};
use space::Space;

/// One agent in both files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub agent: String,
    /// What the new file allows and the old one does not.
    pub more: Vec<Reason>,
    /// What the old file allows and the new one does not.
    pub less: Vec<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Same,
    More,
    Less,
    Both,
}

/// One rule of the stricter file that the other one does not keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Its path in the stricter file, as far as one rule is to name.
    pub rule: String,
    /// A purchase that ends differently; `None` if none was found, so that the comparison cannot tell.
    pub example: Option<Example>,
}

impl Difference {
    pub fn direction(&self) -> Direction {
        match (self.more.is_empty(), self.less.is_empty()) {
            (true, true) => Direction::Same,
            (false, true) => Direction::More,
            (true, false) => Direction::Less,
            (false, false) => Direction::Both,
        }
    }
}

impl Direction {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::More => "more",
            Self::Less => "less",
            Self::Both => "both",
        }
    }
}

/// Compares what each agent may buy from `at` on, by name.
///
/// Assumes that a person can be asked; where nobody can, asking is refusing in both files. What has been spent may be
/// anything that the members of a group, and all agents together, can have spent.
pub fn diff(old: &Limits, new: &Limits, at: Timestamp) -> Vec<Difference> {
    let agents: BTreeSet<&String> = old.agents.keys().chain(new.agents.keys()).collect();
    let mut unchanged = Unchanged::of(old, new);
    let one = |agent: &String| {
        let same = unchanged.covers(agent);
        let look = |strict, loose| match same {
            true => Vec::new(),
            false => loosened(strict, loose, agent, at),
        };
        Difference {
            agent: agent.clone(),
            more: look(old, new),
            less: look(new, old),
        }
    };
    agents.into_iter().map(one).collect()
}

/// What both files say in the same words needs no comparison: in a file of ten thousand agents that is nearly all.
struct Unchanged<'a> {
    old: &'a Limits,
    new: &'a Limits,
    /// Everything that applies to all agents.
    is_top: bool,
    groups: HashMap<&'a str, bool>,
}

impl<'a> Unchanged<'a> {
    fn of(old: &'a Limits, new: &'a Limits) -> Self {
        let is_top = old.calendar.is_same_as(&new.calendar)
            && old.rails == new.rails
            && old.zero_amount == new.zero_amount
            && old.methods == new.methods
            && old.merchants == new.merchants
            && old.rates.0 == new.rates.0
            && says_the_same(&old.account, &new.account);
        Self {
            old,
            new,
            is_top,
            groups: HashMap::new(),
        }
    }

    fn covers(&mut self, agent: &str) -> bool {
        let (Some(old), Some(new)) = (self.old.agents.get(agent), self.new.agents.get(agent)) else {
            return false;
        };
        let group = match (&old.group, &new.group) {
            (None, None) => true,
            (Some(old), Some(new)) if old.name == new.name => {
                let known = self.groups.entry(&*old.name);
                *known.or_insert_with(|| says_the_same(&old.level, &new.level))
            }
            _ => false,
        };
        self.is_top && group && says_the_same(&old.level, &new.level)
    }
}

/// Compares every member, whatever members a level gets.
fn says_the_same(old: &Level, new: &Level) -> bool {
    format!("{old:?}") == format!("{new:?}")
}

/// What `loose` allows the agent and `strict` does not.
fn loosened(strict: &Limits, loose: &Limits, agent: &str, at: Timestamp) -> Vec<Reason> {
    let Some(space) = Space::of(strict, loose, agent, at) else {
        // Nothing can be bought under `loose`.
        return Vec::new();
    };
    let mut search = Search {
        strict,
        loose,
        agent,
        reasons: Vec::new(),
    };
    // Even an offer of nothing is refused: by a count of zero.
    let free = |pair: &Pair| search.run(loose, &space.probe(*pair, 0)).rank() > 0;
    if !space.pairs.iter().any(|pair| free(&pair.pair)) {
        return Vec::new();
    }
    search.places(&space);
    if let Some(common) = space.common() {
        search.prices(&space, common);
        search.rates(&space);
        search.budgets(&space, common);
    } else if search.reasons.is_empty() {
        search.undecided("");
    }
    search.approvers();
    search.elsewhere(&space);
    search.reasons
}

struct Search<'a> {
    strict: &'a Limits,
    loose: &'a Limits,
    agent: &'a str,
    reasons: Vec<Reason>,
}

impl Search<'_> {
    fn run(&self, limits: &Limits, probe: &Probe) -> Ended {
        probe.run(limits, self.agent)
    }

    /// Whether the two files end this purchase differently, with `loose` being the looser one; notes it.
    fn differs(&mut self, probe: &Probe) -> bool {
        let strict = self.run(self.strict, probe);
        let loose = self.run(self.loose, probe);
        if !is_looser(&strict, &loose) {
            return false;
        }
        let rule = strict.rule().unwrap_or_default().to_owned();
        if !self.names(&rule, true) {
            // The same rule may stand as undecided.
            self.reasons.retain(|reason| reason.rule != rule);
            let example = Some(probe.shown(strict, loose));
            self.reasons.push(Reason { rule, example });
        }
        true
    }

    fn names(&self, rule: &str, proven: bool) -> bool {
        let same = |reason: &&Reason| reason.rule == rule && (!proven || reason.example.is_some());
        self.reasons.iter().any(|reason| same(&reason))
    }

    fn undecided(&mut self, rule: &str) {
        if !self.names(rule, false) {
            self.reasons.push(Reason {
                rule: rule.to_owned(),
                example: None,
            });
        }
    }

    /// Tries these until one differs because of `rule`. If they differ only because of other rules, those are named.
    fn try_all(&mut self, rule: &str, probes: impl IntoIterator<Item = Probe>) {
        let mut differs = false;
        for probe in probes {
            differs |= self.differs(&probe);
            if self.names(rule, true) {
                return;
            }
        }
        if !differs {
            self.undecided(rule);
        }
    }

    /// Hosts, methods, rails, assets and payees. Each can be compared by itself, because no rule combines two of them.
    fn places(&mut self, space: &Space) {
        let amounts = |pair: Pair| pair.least().into_iter().chain([0]);
        for (rule, host) in &space.new_hosts {
            let probes = space.pairs.iter().flat_map(|allowed| {
                amounts(allowed.pair).map(|amount| Probe {
                    host: host.clone(),
                    ..space.probe(allowed.pair, amount)
                })
            });
            self.try_all(rule, probes.collect::<Vec<_>>());
        }
        for method in &space.new_methods {
            let probes = space.pairs.iter().flat_map(|allowed| {
                amounts(allowed.pair).map(|amount| Probe {
                    method: method.clone(),
                    ..space.probe(allowed.pair, amount)
                })
            });
            self.try_all("methods", probes.collect::<Vec<_>>());
        }
        for allowed in space.pairs.iter().filter(|allowed| !allowed.in_strict) {
            let probes = amounts(allowed.pair).map(|amount| space.probe(allowed.pair, amount));
            self.try_all(&allowed.rule, probes.collect::<Vec<_>>());
        }
        for (payee, pair) in &space.new_payees {
            let probes = amounts(*pair).map(|amount| Probe {
                payee: payee.clone(),
                ..space.probe(*pair, amount)
            });
            self.try_all("payees", probes.collect::<Vec<_>>());
        }
    }

    /// All prices at which an answer can change, with a payee that was paid before and one that was not.
    fn prices(&mut self, space: &Space, common: Pair) {
        for amount in space.amounts(common, self.strict) {
            for payee_known in [true, false] {
                let probe = Probe {
                    payee_known,
                    ..space.common_probe(common, amount)
                };
                self.differs(&probe);
            }
        }
    }

    /// A currency that counts less, or whose rate lasts longer.
    fn rates(&mut self, space: &Space) {
        for allowed in space.pairs.iter().filter(|allowed| allowed.in_strict) {
            let asset = allowed.pair.asset;
            let code = asset.currency().code;
            let (Some(strict), Some(loose)) = (self.strict.rates.0.get(code), self.loose.rates.0.get(code)) else {
                continue;
            };
            if asset.is_dollar() {
                continue;
            }
            let rule = format!("rates.{code}");
            if loose.until > strict.until && !self.names(&rule, true) {
                let probe = Probe {
                    at: strict.until,
                    ..space.probe(allowed.pair, 1)
                };
                self.try_all(&rule, [probe]);
            }
            if loose.usd < strict.usd && !self.names(&rule, true) {
                let amounts = space.amounts(allowed.pair, self.strict);
                let probes = amounts.into_iter().map(|amount| space.probe(allowed.pair, amount));
                self.try_all(&rule, probes.collect::<Vec<_>>());
            }
        }
    }

    fn budgets(&mut self, space: &Space, common: Pair) {
        let caps = Caps::of(self.strict, self.loose, self.agent);
        for budget in caps.not_kept() {
            let rule = budget.rule().to_owned();
            if !self.names(&rule, true) {
                let probes = caps.probes(budget, space, common);
                self.try_all(&rule, probes);
            }
        }
    }

    /// Others may approve. The prices have shown it if a price alone makes somebody be asked.
    fn approvers(&mut self) {
        let approvers = |limits: &Limits| probe::approvers(limits, self.agent);
        let (strict, loose) = (approvers(self.strict), approvers(self.loose));
        if !strict.can_be_asked || !loose.can_be_asked || !strict.people.is_widened_by(&loose.people) {
            return;
        }
        let shown = self.reasons.iter().any(|reason| {
            let example = reason.example.as_ref();
            example.is_some_and(|example| {
                matches!(
                    (&example.strict, &example.loose),
                    (Ended::Ask { .. }, Ended::Ask { .. })
                )
            })
        });
        if !shown {
            self.undecided("approvers");
        }
    }

    /// What is decided before the limits look at a purchase.
    fn elsewhere(&mut self, space: &Space) {
        if self.loose.zero_amount && !self.strict.zero_amount {
            self.undecided("zero_amount");
        }
        for host in &space.renamed {
            self.undecided(&format!("merchants.\"{host}\""));
        }
    }
}

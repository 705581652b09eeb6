//! Whether a file is in force, and what the limits in force allow, in words for people.

use serde::{Deserialize, Serialize};

use bursar_core::policy::{Level, Limits, Window};

/// What became of a file, known by its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum Standing {
    InForce {
        generation: u64,
    },
    /// The server has read it and does not accept it.
    Rejected {
        why: String,
    },
    /// The server has not read it.
    Waiting,
}

/// More agents than this are only counted.
const NAMED: usize = 5;

/// `research: per_transaction 0.50, day 5.00; writer: total 1.00; and 3 more agents`.
pub(crate) fn still_allowed(limits: &Limits) -> String {
    let mut agents: Vec<_> = limits.agents.iter().collect();
    agents.sort_by_key(|(name, _)| *name);
    if agents.is_empty() {
        return "no agent may pay".to_owned();
    }
    let account = of_level(&limits.account);
    let account = (!account.is_empty()).then(|| format!("account: {}", account.join(", ")));
    let named = agents.iter().take(NAMED).map(|(name, levels)| {
        let own = of_level(&levels.level);
        let group = levels.group.as_ref().map(|group| format!("group {}", group.name));
        let parts: Vec<String> = group.into_iter().chain(own).collect();
        match parts.is_empty() {
            true => format!("{name}: nothing"),
            false => format!("{name}: {}", parts.join(", ")),
        }
    });
    let more = agents.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| format!("and {more} more {}", if more == 1 { "agent" } else { "agents" }));
    let all: Vec<String> = account.into_iter().chain(named).chain(more).collect();
    all.join("; ")
}

fn of_level(level: &Level) -> Vec<String> {
    let paused = level.paused.then(|| "paused".to_owned());
    let price = level.per_transaction.map(|limit| format!("per_transaction {limit}"));
    let budgets = level.budgets.iter().filter_map(|budget| {
        let name = budget.rule().strip_prefix(&*level.section)?.trim_start_matches('.');
        (budget.window() != Window::Payee).then(|| Some(format!("{name} {}", budget.limit()?)))?
    });
    paused.into_iter().chain(price).chain(budgets).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Rules;

    #[test]
    fn what_is_still_allowed_in_words() {
        let rules = Rules::fixed(
            "timezone = \"UTC\"\n[account]\nday = \"9\"\n[groups.eng]\n[agents.a]\ngroup = \"eng\"\nper_transaction = \"0.5\"\nday = \
             \"5\"\ncount = { hour = 3 }\n[agents.b]\ntotal = \"1\"\npaused = true\n[agents.c]\n",
        );
        assert_eq!(
            still_allowed(&rules.current().0),
            "account: day 9.00; a: group eng, per_transaction 0.50, day 5.00, count.hour 3; b: paused, total 1.00; c: nothing"
        );
        let many: String = (0..7).map(|n| format!("[agents.a{n}]\ntotal = \"1\"\n")).collect();
        let said = still_allowed(&Rules::fixed(&many).current().0);
        assert!(said.ends_with("a4: total 1.00; and 2 more agents"), "{said}");
    }
}

//! The keys of a level that say which payments need approval, and whose.

use std::sync::Arc;

use super::section::{Entry, Section};
use bursar_core::policy::{Asking, Budget, Level, NEEDED, Unit, Window, named, owners};

/// Anything longer is a mailing list, not a list of approvers.
const MOST_APPROVERS: usize = 20;

/// Reads the approval keys of one section. Budgets that ask a person when they are exceeded are added to `budgets`.
pub fn asking(section: &mut Section<'_>, scope: &Arc<str>, budgets: &mut Vec<Budget>) -> Asking {
    if let Some(entry) = section.take("approval_every")
        && let Some(cap) = entry.usd()
    {
        let cap = cap.get();
        budgets.push(Budget::new(scope, section.path(), Window::SinceApproval, Unit::MicroUsd, cap).asking());
    }
    let asks_about_new = section.take("approval_first_time_payee");
    if asks_about_new.and_then(|entry| entry.boolean()).unwrap_or(false) {
        let rule = format!("{}.{}", section.path(), Window::Payee.name());
        budgets.push(Budget::of_payees(rule, scope).asking());
    }
    let above = section.take("approval_above").and_then(|entry| entry.usd());
    let second_above = section.take("second_approval_above").and_then(|entry| entry.usd());
    let needed = section.take("approvals_needed").and_then(|entry| {
        let needed = entry.integer(2..=10);
        if second_above.is_none() {
            return entry.reject_key(
                format!("{} has no effect without second_approval_above", entry.path()),
                "Add second_approval_above = \"100.00\" to this section, or remove approvals_needed.".to_owned(),
            );
        }
        needed
    });
    Asking {
        above,
        second_above,
        needed: needed.and_then(|needed| u8::try_from(needed).ok()).unwrap_or(NEEDED),
        approvers: section
            .take("approvers")
            .and_then(|entry| approvers(&entry))
            .unwrap_or_default(),
        owner: section.take("owner").and_then(|entry| entry.person()),
    }
}

fn approvers(entry: &Entry<'_>) -> Option<Vec<String>> {
    let items = entry.list("Remove `approvers` to ask the approver that bursar.toml names.")?;
    let mut names: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        let name = item.person()?;
        if names.contains(&name) {
            let what = format!("{}: \"{name}\" is listed twice", item.path());
            return item.reject(what, "Each person has one vote: remove the duplicate.".to_owned());
        }
        names.push(name);
    }
    if names.len() > MOST_APPROVERS {
        return entry.reject(
            format!("{}: {} people would be asked at once", entry.path(), names.len()),
            format!("List at most {MOST_APPROVERS}."),
        );
    }
    Some(names)
}

/// Checks that enough people may approve what this agent buys. `levels` are the levels that apply to it, its own last.
pub(crate) fn check_approvers<'l>(agent: &Entry<'_>, levels: impl Iterator<Item = &'l Level> + Clone) {
    let owners = owners(levels.clone());
    let Some(named) = named(levels.clone()) else {
        // Then bursar.toml names at most one approver.
        let second = levels.clone().find(|level| level.asking.second_above.is_some());
        if let Some(level) = second {
            agent.reject_key::<()>(
                format!(
                    "[agents.{}] is subject to {}.second_approval_above, but no `approvers` are named for it",
                    agent.key(),
                    level.section
                ),
                "Add approvers = [\"…\", \"…\"], with the names that the approval backend uses.".to_owned(),
            );
        }
        return;
    };
    let others = named.iter().filter(|name| !owners.contains(name)).count();
    let asks = levels.filter(|level| level.asking.second_above.is_some());
    let needed = asks.map(|level| usize::from(level.asking.needed)).max().unwrap_or(1);
    if others < needed {
        agent.reject_key::<()>(
            format!(
                "[agents.{}] needs {needed} {} who {} not own it, but only {others} {} named",
                agent.key(),
                if needed == 1 { "approver" } else { "approvers" },
                if needed == 1 { "does" } else { "do" },
                if others == 1 { "is" } else { "are" },
            ),
            "Add more `approvers`; owners cannot approve what their own agent buys.".to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::golden::limits_says;
    use crate::limits::parse;

    #[test]
    fn approval_keys_with_mistakes() {
        limits_says(
            r#"
[agents.research]
total = "9.00"
approvals_needed = 2
approvers = ["did:x:a", "did:x:a"]
owner = "my boss"
approver = "did:x:a"
approval_first_time_payee = "yes"
approval_every = 5
"#,
            r#"
limits.toml:4:1: agents.research.approvals_needed has no effect without second_approval_above
  4 | approvals_needed = 2
    | ^^^^^^^^^^^^^^^^
  Add second_approval_above = "100.00" to this section, or remove approvals_needed.

limits.toml:5:25: agents.research.approvers: "did:x:a" is listed twice
  5 | approvers = ["did:x:a", "did:x:a"]
    |                         ^^^^^^^^^
  Each person has one vote: remove the duplicate.

limits.toml:6:9: agents.research.owner: "my boss" is not a valid name for a person
  6 | owner = "my boss"
    |         ^^^^^^^^^
  Write the name that the approval backend uses, such as "did:bkey:z6Mk…" or "user-17".

limits.toml:7:1: [agents.research] has no key `approver`
  7 | approver = "did:x:a"
    | ^^^^^^^^
  The key is `approvers`, a list.

limits.toml:8:29: agents.research.approval_first_time_payee must be true or false, not a string
  8 | approval_first_time_payee = "yes"
    |                             ^^^^^
  Write approval_first_time_payee = true or approval_first_time_payee = false, without quotes.

limits.toml:9:18: agents.research.approval_every: 5 is a bare number, but amounts must be written in quotes
  9 | approval_every = 5
    |                  ^
  Write approval_every = "5.00".
"#,
        );
    }

    #[test]
    fn too_few_approvers() {
        limits_says(
            r#"
[account]
second_approval_above = "10.00"
[groups.eng]
approvers = ["did:x:a", "did:x:b"]
owner = "did:x:b"
[agents.research]
group = "eng"
[agents.writer]
total = "1.00"
[agents.helper]
approvers = ["did:x:a"]
owner = "did:x:a"
"#,
            r#"
limits.toml:7:9: [agents.research] needs 2 approvers who do not own it, but only 1 is named
  7 | [agents.research]
    |         ^^^^^^^^
  Add more `approvers`; owners cannot approve what their own agent buys.

limits.toml:9:9: [agents.writer] is subject to account.second_approval_above, but no `approvers` are named for it
  9 | [agents.writer]
    |         ^^^^^^
  Add approvers = ["…", "…"], with the names that the approval backend uses.

limits.toml:11:9: [agents.helper] needs 2 approvers who do not own it, but only 0 are named
  11 | [agents.helper]
     |         ^^^^^^
  Add more `approvers`; owners cannot approve what their own agent buys.
"#,
        );
        limits_says(
            "[agents.a]\ntotal = \"1\"\napprovers = [\"x\"]\nowner = \"x\"\n",
            "limits.toml:1:9: [agents.a] needs 1 approver who does not own it, but only 0 are named\n  1 | [agents.a]\n    \
             |         ^\n  Add more `approvers`; owners cannot approve what their own agent buys.",
        );
    }

    #[test]
    fn enough_approvers() {
        for rules in [
            "second_approval_above = \"5\"\napprovers = [\"a\", \"b\"]",
            "second_approval_above = \"5\"\napprovals_needed = 3\napprovers = [\"a\", \"b\", \"c\", \"d\"]\nowner = \"d\"",
            "approvers = [\"a\", \"b\"]\nowner = \"a\"",
            "owner = \"a\"\napproval_every = \"5\"",
        ] {
            let text = format!("[agents.research]\ntotal = \"9\"\n{rules}\n");
            assert!(parse("limits.toml", &text).is_ok(), "{text}");
        }
    }
}

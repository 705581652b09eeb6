//! The keys of a level that say which payments people must approve, and which people.

use std::sync::Arc;

use super::section::{Entry, Section};
use bursar_core::policy::{Asking, Budget, Level, NEEDED, Unit, Window, named, owners};

/// More names than that are a mailing list.
const MOST_APPROVERS: usize = 20;

/// Budgets whose excess is a question are put to the others.
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
                format!("{} says how many, and nothing says above which price", entry.path()),
                "Write second_approval_above = \"100.00\" beside it, or leave it out.".to_owned(),
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
    let items = entry.list("Leave `approvers` out to ask whoever bursar.toml names.")?;
    let mut names: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        let name = item.person()?;
        if names.contains(&name) {
            let what = format!("{}: \"{name}\" stands here twice", item.path());
            return item.reject(what, "One person has one vote: leave the second out.".to_owned());
        }
        names.push(name);
    }
    if names.len() > MOST_APPROVERS {
        return entry.reject(
            format!("{}: {} people would be asked at once", entry.path(), names.len()),
            format!("Name at most {MOST_APPROVERS}."),
        );
    }
    Some(names)
}

/// Whether enough people may approve what this agent buys: `levels` are those that it passes, its own last.
pub fn check_approvers<'l>(agent: &Entry<'_>, levels: impl Iterator<Item = &'l Level> + Clone) {
    let owners = owners(levels.clone());
    let Some(named) = named(levels.clone()) else {
        // bursar.toml names one, or none.
        let second = levels.clone().find(|level| level.asking.second_above.is_some());
        if let Some(level) = second {
            agent.reject_key::<()>(
                format!(
                    "[agents.{}] passes {}.second_approval_above, and no `approvers` are named for it",
                    agent.key(),
                    level.section
                ),
                "Name them: approvers = [\"…\", \"…\"], as the approval backend names people.".to_owned(),
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
                "[agents.{}] needs {needed} {} who {} not own it, and {others} {} named",
                agent.key(),
                if needed == 1 { "approver" } else { "approvers" },
                if needed == 1 { "does" } else { "do" },
                if others == 1 { "is" } else { "are" },
            ),
            "Name more under `approvers`; nobody approves what their own agent buys.".to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::golden::limits_says;
    use crate::limits::parse;

    #[test]
    fn people_who_are_asked_wrongly() {
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
limits.toml:4:1: agents.research.approvals_needed says how many, and nothing says above which price
  4 | approvals_needed = 2
    | ^^^^^^^^^^^^^^^^
  Write second_approval_above = "100.00" beside it, or leave it out.

limits.toml:5:25: agents.research.approvers: "did:x:a" stands here twice
  5 | approvers = ["did:x:a", "did:x:a"]
    |                         ^^^^^^^^^
  One person has one vote: leave the second out.

limits.toml:6:9: agents.research.owner: "my boss" is no name of a person
  6 | owner = "my boss"
    |         ^^^^^^^^^
  Write the name that the approval backend knows, such as "did:bkey:z6Mk…" or "user-17".

limits.toml:7:1: [agents.research] has no key `approver`
  7 | approver = "did:x:a"
    | ^^^^^^^^
  The key is `approvers`, a list.

limits.toml:8:29: agents.research.approval_first_time_payee must be true or false, not a text
  8 | approval_first_time_payee = "yes"
    |                             ^^^^^
  Write approval_first_time_payee = true or approval_first_time_payee = false, without quotes.

limits.toml:9:18: agents.research.approval_every: 5 is a number, and amounts are written as texts
  9 | approval_every = 5
    |                  ^
  Write approval_every = "5.00".
"#,
        );
    }

    #[test]
    fn too_few_who_may_approve() {
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
limits.toml:7:9: [agents.research] needs 2 approvers who do not own it, and 1 is named
  7 | [agents.research]
    |         ^^^^^^^^
  Name more under `approvers`; nobody approves what their own agent buys.

limits.toml:9:9: [agents.writer] passes account.second_approval_above, and no `approvers` are named for it
  9 | [agents.writer]
    |         ^^^^^^
  Name them: approvers = ["…", "…"], as the approval backend names people.

limits.toml:11:9: [agents.helper] needs 2 approvers who do not own it, and 0 are named
  11 | [agents.helper]
     |         ^^^^^^
  Name more under `approvers`; nobody approves what their own agent buys.
"#,
        );
        limits_says(
            "[agents.a]\ntotal = \"1\"\napprovers = [\"x\"]\nowner = \"x\"\n",
            "limits.toml:1:9: [agents.a] needs 1 approver who does not own it, and 0 are named\n  1 | [agents.a]\n    |         ^\n  \
             Name more under `approvers`; nobody approves what their own agent buys.",
        );
    }

    #[test]
    fn enough_who_may_approve() {
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

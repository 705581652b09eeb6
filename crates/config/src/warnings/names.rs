//! Sections and agents that do not belong together.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Code, Findings, Surroundings};
use crate::diagnose::nearest;
use crate::section::quoted_if_needed;
use bursar_core::policy::Limits;

pub(super) fn check(limits: &Limits, around: Surroundings<'_>, found: &mut Findings<'_>) {
    if limits.agents.is_empty() {
        found.warn(
            Code::EmptyFile,
            &["agents"],
            || "This file has no section for any agent, so nothing is paid".to_owned(),
            || "Add [agents.NAME] with an amount window, such as day = \"5.00\".".to_owned(),
        );
    }
    if let Some(agents) = around.agents {
        against_the_registry(limits, agents, found);
    }
    for (name, levels) in &limits.agents {
        if !levels.has_budget() {
            let section = &levels.level.section;
            found.warn(
                Code::NoBudget,
                &["agents", name],
                || format!("[{section}] has no amount window, and neither has its group, so this agent cannot pay"),
                || "Add one, such as day = \"5.00\".".to_owned(),
            );
        }
    }
    unused_groups(limits, found);
    if let Some(members) = around.members {
        dropped_groups(limits, members, found);
    }
}

/// A group under another name begins with nothing spent, unless the file says that it is the same (R244).
fn dropped_groups(limits: &Limits, before: &BTreeMap<String, Arc<str>>, found: &mut Findings<'_>) {
    let mut carried_on: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let kept: HashSet<String> = found.names_under("groups").into_iter().map(str::to_owned).collect();
    for (agent, old) in before.iter().filter(|(_, old)| !kept.contains(&***old)) {
        let group = limits.agents.get(agent).and_then(|levels| levels.group.as_ref());
        if let Some(group) = group.filter(|group| group.was.as_ref() != Some(old)) {
            carried_on.entry((old, &group.name)).or_insert(agent);
        }
    }
    for ((old, new), agent) in carried_on {
        found.warn(
            Code::GroupDropped,
            &["groups", new],
            || {
                format!(
                    "The group \"{old}\" is gone and its agent \"{agent}\" is in \"{new}\" now, which counts nothing of what \
                     \"{old}\" has spent"
                )
            },
            || format!("If it is the same group under a new name, write was = \"{old}\" in [groups.{new}]."),
        );
    }
}

/// An agent without a section cannot pay, and a section without an agent limits nobody: often one is the other,
/// mistyped.
fn against_the_registry(limits: &Limits, agents: &[String], found: &mut Findings<'_>) {
    let known: HashSet<&str> = agents.iter().map(String::as_str).collect();
    let without_section: Vec<&str> = agents
        .iter()
        .map(String::as_str)
        .filter(|name| !limits.agents.contains_key(*name))
        .collect();
    for name in limits.agents.keys().filter(|name| !known.contains(name.as_str())) {
        found.warn(
            Code::UnknownAgent,
            &["agents", name],
            || format!("There is no agent \"{name}\", so this section limits nobody"),
            || match nearest(name, without_section.iter().copied()) {
                Some(meant) => format!("Did you mean [agents.{}]?", quoted_if_needed(meant)),
                None => format!("Add the agent with `bursar agents add {name}`, or remove the section."),
            },
        );
    }
    let unknown: Vec<&str> = limits
        .agents
        .keys()
        .map(String::as_str)
        .filter(|name| !known.contains(name))
        .collect();
    for name in without_section {
        found.warn(
            Code::NoSection,
            &["agents"],
            || format!("The agent \"{name}\" has no section in this file, so it cannot pay"),
            || match nearest(name, unknown.iter().copied()) {
                Some(near) => format!("Is [agents.{}] meant for it?", quoted_if_needed(near)),
                None => format!(
                    "Add [agents.{}] with an amount window, or revoke the agent with `bursar agents revoke {name}`.",
                    quoted_if_needed(name)
                ),
            },
        );
    }
}

fn unused_groups(limits: &Limits, found: &mut Findings<'_>) {
    let used: HashSet<&str> = limits
        .agents
        .values()
        .filter_map(|levels| levels.group.as_ref().map(|group| &*group.name))
        .collect();
    let unused: Vec<String> = found
        .names_under("groups")
        .into_iter()
        .filter(|name| !used.contains(name))
        .map(str::to_owned)
        .collect();
    for name in unused {
        found.warn(
            Code::UnusedGroup,
            &["groups", &name],
            || format!("No agent belongs to the group \"{name}\", so this section limits nobody"),
            || format!("Write group = \"{name}\" in the sections of its agents, or remove the section."),
        );
    }
}

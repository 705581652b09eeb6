//! Rules that other rules make pointless.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Code, Findings};
use bursar_core::money::MicroUsd;
use bursar_core::policy::{Budget, Level, Limits, OverLimit, Unit, Window, most_per_payment};

pub(super) fn check(limits: &Limits, found: &mut Findings<'_>) {
    level(&["account"], &limits.account, &[], found);
    let mut groups = HashSet::new();
    for levels in limits.agents.values() {
        if let Some(group) = &levels.group
            && groups.insert(Arc::as_ptr(&group.level))
        {
            level(&["groups", &group.name], &group.level, &[&limits.account], found);
        }
    }
    for (name, levels) in &limits.agents {
        let group = levels.group.as_ref().map(|group| &*group.level);
        let above: Vec<&Level> = std::iter::once(&limits.account).chain(group).collect();
        level(&["agents", name], &levels.level, &above, found);
    }
}

/// `above`: the levels that also apply, from the account down.
fn level(path: &[&str], level: &Level, above: &[&Level], found: &mut Findings<'_>) {
    budgets(path, level, above, found);
    prices(path, level, above, found);
    merchants(path, level, above, found);
    approvers(path, level, above, found);
}

fn budgets(path: &[&str], level: &Level, above: &[&Level], found: &mut Findings<'_>) {
    let all = || above.iter().copied().chain([level]).flat_map(|level| &level.budgets);
    for budget in level.budgets.iter().filter(|budget| has_cap(budget)) {
        // Two that are equally high can both be reached.
        let tighter = |other: &&Budget| {
            has_cap(other) && !other.asks() && other.cap() < budget.cap() && other.is_at_least_as_tight_as(budget)
        };
        let Some(tighter) = all().find(tighter) else {
            continue;
        };
        let (name, unit) = (budget.window().name(), budget.unit());
        let rolling = budget.rule().rsplit('.').next().unwrap_or_default().trim_matches('"');
        let key: &[&str] = match (unit, budget.window()) {
            (Unit::Payments, _) => &["count", name],
            (_, Window::Rolling(_)) => &["rolling", rolling],
            _ => &[name],
        };
        found.warn(
            Code::NeverReached,
            &[path, key].concat(),
            || {
                format!(
                    "{} can never be reached: {} already ends spending at {}",
                    budget.rule(),
                    tighter.rule(),
                    unit.words(tighter.cap())
                )
            },
            || "Lower it, raise the other one, or remove it.".to_owned(),
        );
    }
}

/// The other two windows have no cap to be reached.
fn has_cap(budget: &Budget) -> bool {
    !matches!(budget.window(), Window::Payee | Window::SinceApproval)
}

/// `per_transaction` and thresholds that no price can pass, because another rule refuses it before.
fn prices(path: &[&str], level: &Level, above: &[&Level], found: &mut Findings<'_>) {
    let levels = || above.iter().copied().chain([level]);
    let caps = levels().filter_map(|level| {
        let cap = level.per_transaction.filter(|_| level.over_limit == OverLimit::Deny)?;
        Some((cap, format!("{}.per_transaction", level.section)))
    });
    let budget = most_per_payment(levels().flat_map(|level| &level.budgets));
    let budget = budget.map(|budget| (MicroUsd::new(budget.cap()), budget.rule().to_owned()));
    let Some((most, rule)) = caps.chain(budget).min_by_key(|(cap, _)| *cap) else {
        return;
    };
    let refused = || format!("{rule} refuses every price over {most} USD");
    if let Some(limit) = level.per_transaction.filter(|limit| *limit > most) {
        found.warn(
            Code::NeverReached,
            &[path, &["per_transaction"]].concat(),
            || {
                format!(
                    "{}.per_transaction of {limit} USD can never be reached: {}",
                    level.section,
                    refused()
                )
            },
            || "Lower it, or remove it.".to_owned(),
        );
    }
    for (key, limit) in [
        ("approval_above", level.asking.above),
        ("second_approval_above", level.asking.second_above),
    ] {
        if let Some(limit) = limit.filter(|limit| *limit >= most) {
            found.warn(
                Code::NeverAsks,
                &[path, &[key]].concat(),
                || {
                    format!(
                        "{}.{key} of {limit} USD can never ask anybody: {}",
                        level.section,
                        refused()
                    )
                },
                || "Lower it, or write over_limit = \"ask\" in the section of the other limit.".to_owned(),
            );
        }
    }
}

fn merchants(path: &[&str], level: &Level, above: &[&Level], found: &mut Findings<'_>) {
    let Some(allow) = &level.merchants.allow else {
        return;
    };
    for entry in allow.iter() {
        let denying = above.iter().copied().chain([level]);
        let denied = denying
            .filter_map(|level| Some((level, level.merchants.deny.covering(entry)?)))
            .next();
        if let Some((by, deny)) = denied {
            found.warn(
                Code::ShadowedAllow,
                &[path, &["merchants", "allow"]].concat(),
                || {
                    format!(
                        "{}.merchants.allow: \"{entry}\" is never paid, because {}.merchants.deny lists \"{deny}\", and a deny wins",
                        level.section, by.section
                    )
                },
                || "Remove one of the two.".to_owned(),
            );
        }
    }
}

/// Who may approve is what the nearest level names. A lower level that names others widens what the upper one meant.
fn approvers(path: &[&str], level: &Level, above: &[&Level], found: &mut Findings<'_>) {
    let own = &level.asking.approvers;
    let inherited = above.iter().rev().find(|level| !level.asking.approvers.is_empty());
    if let Some(upper) = inherited
        && let Some(new) = own.iter().find(|name| !upper.asking.approvers.contains(name))
    {
        found.warn(
            Code::ApproversWidened,
            &[path, &["approvers"]].concat(),
            || {
                format!(
                    "{}.approvers names \"{new}\", whom {}.approvers does not name; this list replaces that one",
                    level.section, upper.section
                )
            },
            || "That is allowed. If it is not meant, remove the name, or the list.".to_owned(),
        );
    }
    let effective = if own.is_empty() {
        inherited
            .map(|level| level.asking.approvers.as_slice())
            .unwrap_or_default()
    } else {
        own
    };
    let owners = above.iter().copied().chain([level]);
    for (owned, owner) in owners.filter_map(|level| Some((level, level.asking.owner.as_ref()?))) {
        // Said once: where the owner or the list stands that brings the two together.
        let is_here = std::ptr::eq(owned, level) || !own.is_empty();
        if is_here && effective.contains(owner) {
            let key = if own.is_empty() { "owner" } else { "approvers" };
            found.warn(
                Code::OwnerApproves,
                &[path, &[key]].concat(),
                || {
                    format!(
                        "\"{owner}\" is named as approver, but owns what [{}] covers",
                        owned.section
                    )
                },
                || {
                    "Owners never approve what their own agents buy: name somebody else, or the others decide alone."
                        .to_owned()
                },
            );
        }
    }
}

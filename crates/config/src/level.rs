//! The sections that share their keys: `[account]`, `[groups.NAME]` and `[agents.NAME]`.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::Arc;

use alloy_primitives::Address;

use super::asking::{asking, check_approvers};
use super::diagnose::nearest;
use super::section::{Entry, Hints, Section, quoted_if_needed};
use bursar_core::account::{Account, StripeId};
use bursar_core::agent_name::AgentName;
use bursar_core::assets::{self, Asset, Currency, Network, currency};
use bursar_core::policy::{
    AgentLevels, AssetName, Budget, Group, HostError, HostPattern, Level, Listed, OverLimit, Rolling, Unit, Window,
};

pub(crate) const LEVEL_HINTS: Hints = &[
    ("per_request", "The key is `per_transaction`."),
    ("lifetime", "The key is `total`."),
    ("max_count", "The key is `count`, such as count = { day = 200 }."),
    ("approver", "The key is `approvers`, a list."),
    ("approval_for_new_payees", "The key is `approval_first_time_payee`."),
    ("approvers_needed", "The key is `approvals_needed`."),
    ("approve_above", "The key is `approval_above`."),
    ("team", "The key is `group`, and the group's section is [groups.NAME]."),
    ("outstanding", "The key is `max_pending`."),
    ("year", "There is no yearly window; use month or total."),
];

/// Reads the three kinds of level, which share their keys.
pub struct Levels {
    pub zone_is_written: bool,
    /// Whether the missing time zone was reported: once is enough.
    pub zone_was_missed: bool,
}

impl Levels {
    pub fn groups(&mut self, section: Section<'_>) -> BTreeMap<String, Group> {
        let mut groups = BTreeMap::new();
        let entries = section.named();
        let names: Vec<&str> = entries.iter().map(Entry::key).collect();
        let mut taken = BTreeMap::new();
        for entry in &entries {
            let (name, Some(mut section)) = (entry.key(), entry.section()) else {
                continue;
            };
            check_group(entry);
            let was = section.take("was").and_then(|entry| former(entry, &names));
            if let Some((was, entry)) = &was
                && let Some(other) = taken.insert(was.clone(), name)
            {
                entry.reject::<()>(
                    format!(
                        "{}: [groups.{other}] is \"{was}\" under a new name already",
                        entry.path()
                    ),
                    "Keep `was` in one of the two: what was spent then counts in one group.".to_owned(),
                );
            }
            let was = was.map(|(was, _)| was);
            let mut level = self.level(&mut section, format!("group:{name}").into());
            section.close(LEVEL_HINTS);
            let scope = was.as_ref().map(|was| format!("group:{was}").into());
            let budgets = level.budgets.into_iter();
            level.budgets = budgets.map(|budget| budget.formerly(scope.as_ref())).collect();
            let group = Group {
                name: name.into(),
                was,
                level: Arc::new(level),
            };
            groups.insert(name.to_owned(), group);
        }
        groups
    }

    pub fn agents(
        &mut self,
        section: Section<'_>,
        account: &Level,
        groups: &BTreeMap<String, Group>,
    ) -> HashMap<String, AgentLevels> {
        let mut agents = HashMap::new();
        for entry in section.named() {
            let (name, Some(mut section)) = (entry.key(), entry.section()) else {
                continue;
            };
            check_agent(&entry);
            let group = section.take("group").and_then(|entry| group_of(&entry, groups));
            let level = self.level(&mut section, format!("agent:{name}").into());
            section.close(LEVEL_HINTS);
            let own = group.as_ref().map(|group| &*group.level);
            check_approvers(&entry, [Some(account), own, Some(&level)].into_iter().flatten());
            agents.insert(name.to_owned(), AgentLevels { level, group });
        }
        agents
    }

    pub fn level(&mut self, section: &mut Section<'_>, scope: Arc<str>) -> Level {
        let per_transaction = section.take("per_transaction").and_then(|e| e.usd());
        let mut budgets = Vec::new();
        for window in Window::NAMED {
            let Some(entry) = section.take(window.name()) else {
                continue;
            };
            self.needs_zone(window, &entry);
            if let Some(cap) = entry.usd() {
                let cap = cap.get();
                budgets.push(Budget::new(&scope, section.path(), window, Unit::MicroUsd, cap));
            }
        }
        if let Some(mut count) = section.section("count") {
            for window in Window::NAMED {
                let Some(entry) = count.take(window.name()) else {
                    continue;
                };
                self.needs_zone(window, &entry);
                if let Some(cap) = entry.integer(0..=u64::MAX) {
                    let cap = u128::from(cap);
                    budgets.push(Budget::new(&scope, section.path(), window, Unit::Payments, cap));
                }
            }
            count.close(&[("lifetime", "The key is `total`.")]);
        }
        if let Some(rolling) = section.section("rolling") {
            let mut seen = Vec::new();
            for entry in rolling.named() {
                let Some((window, cap)) = rolling_window(&entry).zip(entry.usd()) else {
                    continue;
                };
                if seen.contains(&window) {
                    entry.reject_key::<()>(
                        format!("{} is as long as another rolling window in this section", entry.path()),
                        "Keep only the lower of the two.".to_owned(),
                    );
                }
                seen.push(window);
                budgets.push(Budget::of_money(
                    entry.path().to_owned(),
                    &scope,
                    Window::Rolling(window),
                    cap.get(),
                ));
            }
        }
        if let Some(entry) = section.take("max_pending")
            && let Some(cap) = entry.usd()
        {
            budgets.push(Budget::new(
                &scope,
                section.path(),
                Window::Pending,
                Unit::MicroUsd,
                cap.get(),
            ));
        }
        let over_limit = section
            .take("over_limit")
            .and_then(|e| over_limit(&e))
            .unwrap_or_default();
        if over_limit == OverLimit::Ask {
            budgets = budgets.into_iter().map(Budget::asking).collect();
        }
        let asking = asking(section, &scope, &mut budgets);
        Level {
            section: section.path().into(),
            per_transaction,
            budgets,
            over_limit,
            asking,
            merchants: listed(section.take("merchants"), |item| {
                let text = item.text()?;
                host_or(item, text, HostPattern::parse(text))
            })
            .into(),
            payees: listed(section.take("payees"), payee),
            networks: only(section.take("networks"), network),
            assets: only(section.take("assets"), asset),
            paused: section.take("paused").and_then(|e| e.boolean()).unwrap_or(false),
        }
    }

    fn needs_zone(&mut self, window: Window, entry: &Entry<'_>) {
        if window.is_calendar() && !self.zone_is_written && !self.zone_was_missed {
            self.zone_was_missed = true;
            entry.reject_key::<()>(
                format!("{} needs a time zone, but this file sets none", entry.path()),
                "Set it at the top of the file, before the first section: timezone = \"Europe/Berlin\" (any IANA name, \
                 including \"UTC\")."
                    .to_owned(),
            );
        }
    }
}

/// `30m`, `24h`, `7d`.
fn rolling_window(entry: &Entry<'_>) -> Option<Rolling> {
    const LONGEST_S: u32 = 366 * 86_400;
    let key = entry.key();
    let (count, unit) = key.split_at(key.len().saturating_sub(1));
    let unit = match unit {
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let count = Some(count)
        .filter(|count| !count.starts_with(['0', '+']))
        .and_then(|count| count.parse::<u32>().ok());
    let seconds = unit.zip(count).and_then(|(unit, count)| count.checked_mul(unit));
    let window = seconds
        .filter(|seconds| *seconds <= LONGEST_S)
        .and_then(Rolling::of_seconds);
    window.or_else(|| {
        entry.reject_key(
            format!("{}: \"{key}\" is not a valid length for a rolling window", entry.path()),
            "Write a number followed by `m`, `h` or `d`, at most 366 days: rolling = { \"24h\" = \"5.00\" }."
                .to_owned(),
        )
    })
}

/// `was`: a name that no group of the file has any more.
fn former<'d>(entry: Entry<'d>, names: &[&str]) -> Option<(Arc<str>, Entry<'d>)> {
    let was = entry.text()?;
    if !is_group_name(was) {
        return entry.reject(
            format!("{}: \"{was}\" is not a valid group name", entry.path()),
            GROUP_RULE.to_owned(),
        );
    }
    if names.contains(&was) {
        return entry.reject(
            format!("{}: this file still has a section [groups.{was}]", entry.path()),
            "Remove that section, or remove `was`: a payment counts in one group only.".to_owned(),
        );
    }
    Some((was.into(), entry))
}

fn group_of(entry: &Entry<'_>, groups: &BTreeMap<String, Group>) -> Option<Group> {
    let name = entry.text()?;
    groups.get(name).cloned().or_else(|| {
        let way_out = match nearest(name, groups.keys().map(String::as_str)) {
            Some(meant) => format!("Did you mean \"{meant}\"?"),
            None => format!("Add a section [groups.{name}], or remove `group`."),
        };
        entry.reject(format!("{}: there is no group \"{name}\"", entry.path()), way_out)
    })
}

/// `bursar agents add` refuses such a name, so its section would never apply to any agent.
fn check_agent(entry: &Entry<'_>) {
    let name = entry.key();
    if AgentName::from_str(name).is_ok() {
        return;
    }
    let lower = name.to_ascii_lowercase();
    let way_out = match AgentName::from_str(&lower) {
        Ok(meant) => format!(
            "Did you mean [agents.{}]? Agent names are lower case.",
            quoted_if_needed(meant.as_str())
        ),
        Err(_) => format!("Use {}.", AgentName::RULE),
    };
    entry.reject_key::<()>(format!("\"{name}\" is not a valid agent name"), way_out);
}

/// Group names appear only in scopes and messages; plain ones need no escaping there.
fn check_group(entry: &Entry<'_>) {
    let name = entry.key();
    if !is_group_name(name) {
        entry.reject_key::<()>(format!("\"{name}\" is not a valid group name"), GROUP_RULE.to_owned());
    }
}

const GROUP_RULE: &str = "Use at most 64 ASCII letters, digits, `-`, `_` and `.`, starting with a letter or digit.";

fn is_group_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    starts && name.len() <= 64 && name.bytes().all(plain)
}

fn listed<'d, T>(entry: Option<Entry<'d>>, mut one: impl FnMut(&Entry<'d>) -> Option<T>) -> Listed<T> {
    let Some(mut section) = entry.and_then(|entry| entry.section()) else {
        return Listed::default();
    };
    let allow = only(section.take("allow"), &mut one);
    let deny = section.take("deny").and_then(|entry| entry.items()).unwrap_or_default();
    let deny = deny.iter().filter_map(&mut one).collect();
    section.close(&[("block", "The key is `deny`."), ("only", "The key is `allow`.")]);
    Listed { allow, deny }
}

fn only<'d, T>(entry: Option<Entry<'d>>, one: impl FnMut(&Entry<'d>) -> Option<T>) -> Option<Vec<T>> {
    let entry = entry?;
    let items = entry.list(
        "An empty list would allow nothing: remove the list to allow any, or set paused = true to stop payments.",
    )?;
    Some(items.iter().filter_map(one).collect())
}

pub(crate) fn host_or<T>(item: &Entry<'_>, text: &str, host: Result<T, HostError>) -> Option<T> {
    host.map_or_else(
        |why| {
            let what = format!("{}: \"{text}\" is not valid here", item.path());
            item.reject(what, sentence(&why.to_string()))
        },
        Some,
    )
}

fn payee(item: &Entry<'_>) -> Option<Account> {
    let text = item.text()?;
    if text.starts_with("profile_") {
        return StripeId::profile(text).map(Account::Stripe).or_else(|| {
            item.reject(
                format!("{}: \"{text}\" is not a seller's profile on Stripe", item.path()),
                "Write profile_ (or profile_test_) and up to 40 letters and digits, as in the seller's challenges."
                    .to_owned(),
            )
        });
    }
    let what = format!(
        "{}: \"{text}\" is not a valid EVM address or Stripe profile",
        item.path()
    );
    let hex = text.strip_prefix("0x").filter(|hex| hex.len() == 40);
    let Some(address) = hex.and_then(|_| text.parse::<Address>().ok()) else {
        return item.reject(
            what,
            "Write 0x and 40 hex digits, or profile_… for a seller on Stripe.".to_owned(),
        );
    };
    let mixed =
        text.contains(|c: char| c.is_ascii_lowercase() && c != 'x') && text.contains(|c: char| c.is_ascii_uppercase());
    if mixed && address.to_checksum(None) != text {
        let way_out = "Its checksum (ERC-55, the capitals) does not match, so a character may be wrong: compare it \
                       with its source.";
        return item.reject(what, way_out.to_owned());
    }
    Some(address.into())
}

fn network(item: &Entry<'_>) -> Option<Network> {
    let text = item.text()?;
    Network::parse(text).or_else(|| {
        item.reject(
            format!("{}: \"{text}\" is not a CAIP-2 network name", item.path()),
            match Network::from_v1_name(text) {
                Some(network) => format!("Write it as \"{network}\"."),
                None => "Write a CAIP-2 name, such as \"eip155:8453\" for Base.".to_owned(),
            },
        )
    })
}

fn asset(item: &Entry<'_>) -> Option<AssetName> {
    let text = item.text()?;
    if text.contains('/') {
        return Asset::parse(text).map(AssetName::One).or_else(|| {
            item.reject(
                format!("{}: bursar does not know the asset \"{text}\"", item.path()),
                "bursar pays only with assets in its own table; a symbol such as `USDC` is enough.".to_owned(),
            )
        });
    }
    let symbols: Vec<&str> = assets::tokens().map(|token| token.symbol).chain(["USD"]).collect();
    let is_currency = |currency: &Currency| currency.symbol == text;
    if symbols.contains(&text) || currency(&text.to_ascii_lowercase()).is_some_and(is_currency) {
        return Some(AssetName::Symbol(text.to_owned()));
    }
    item.reject(
        format!("{}: bursar does not know the asset \"{text}\"", item.path()),
        one_of(text, &symbols),
    )
}

fn over_limit(entry: &Entry<'_>) -> Option<OverLimit> {
    match entry.text()? {
        "deny" => Some(OverLimit::Deny),
        "ask" => Some(OverLimit::Ask),
        other => entry.reject(
            format!("{}: \"{other}\" is not a known value", entry.path()),
            "Write \"deny\" or \"ask\".".to_owned(),
        ),
    }
}

pub fn one_of(word: &str, known: &[&str]) -> String {
    if let Some(meant) = nearest(word, known.iter().copied()) {
        return format!("Did you mean \"{meant}\"?");
    }
    let mut known = known.to_vec();
    known.sort_unstable();
    known.dedup();
    format!("Known: {}.", known.join(", "))
}

/// `why` as a sentence: with a capital letter and a full stop.
fn sentence(why: &str) -> String {
    let mut letters = why.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    format!("{}{}.", first.map(String::from).unwrap_or_default(), letters.as_str())
}

//! Reads limits.toml, which finance owns, into [`Limits`].
//!
//! `limits.example.toml` documents every key; a test checks that it shows them all.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use http::Method;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use super::diagnose::{Confidence, ConfigError, Document, nearest};
use super::level::{LEVEL_HINTS, Levels, host_or, one_of};
use super::section::{Entry, Hints, Section};
use bursar_core::assets::{Currency, currency};
use bursar_core::challenge::Rail;
use bursar_core::host::Host;
use bursar_core::money::MicroUsd;
use bursar_core::policy::{Calendar, Limits, MerchantNames, Methods, Rate, Rates, named_host};

/// Reads the text of a limits file. `file` is its name in messages.
pub fn parse(file: &str, text: &str) -> Result<Limits, ConfigError> {
    let document = Document::new(file, text, Confidence::Open);
    let table = document.table()?;
    let limits = read(Section::top(&document, table.get_ref()), text);
    drop(table);
    document.finish(limits)
}

/// How long a credential may be valid, in seconds, unless the file says otherwise (R16).
const MAX_VALIDITY_S: u64 = 300;

const TOP_HINTS: Hints = &[
    ("org", "Write [account]."),
    ("organization", "Write [account]."),
    ("team", "Write [groups.NAME]."),
    ("teams", "Write [groups.NAME]."),
    ("per_transaction", LEVEL_KEY),
    ("hour", LEVEL_KEY),
    ("day", LEVEL_KEY),
    ("week", LEVEL_KEY),
    ("month", LEVEL_KEY),
    ("total", LEVEL_KEY),
    ("rolling", LEVEL_KEY),
    ("count", LEVEL_KEY),
    ("max_pending", LEVEL_KEY),
    ("payees", LEVEL_KEY),
    ("networks", LEVEL_KEY),
    ("assets", LEVEL_KEY),
    ("paused", LEVEL_KEY),
    ("group", LEVEL_KEY),
    ("approval_above", LEVEL_KEY),
    ("second_approval_above", LEVEL_KEY),
    ("approval_every", LEVEL_KEY),
    ("approval_first_time_payee", LEVEL_KEY),
    ("approvals_needed", LEVEL_KEY),
    ("over_limit", LEVEL_KEY),
    ("approvers", LEVEL_KEY),
    ("owner", LEVEL_KEY),
];
const LEVEL_KEY: &str = "Put it in a section: [account], [groups.NAME] or [agents.NAME].";

fn read(mut top: Section<'_>, text: &str) -> Limits {
    let zone = top.take("timezone");
    let zone_is_written = zone.is_some();
    let zone = zone.and_then(|entry| time_zone(&entry));
    let rails = top.take("rails").and_then(|entry| rails(&entry));
    let max_validity = top.take("max_validity").and_then(|e| e.integer(10..=86_400));
    let zero_amount = top.take("zero_amount").and_then(|e| e.boolean());
    let show_pause_reason = top.take("show_pause_reason").and_then(|e| e.boolean());
    let methods = top.take("methods").and_then(|entry| methods(&entry));
    let merchants = top.section("merchants").map(merchants_own).unwrap_or_default();
    let rates = top
        .section("rates")
        .map(|section| rates(section, zone.as_ref()))
        .unwrap_or_default();

    let mut reader = Levels {
        zone_is_written,
        zone_was_missed: false,
    };
    let account = top.section("account").map(|mut section| {
        let level = reader.level(&mut section, "account".into());
        section.close(LEVEL_HINTS);
        level
    });
    let account = account.unwrap_or_default();
    let groups = top.section("groups").map(|s| reader.groups(s)).unwrap_or_default();
    let agents = top
        .section("agents")
        .map(|s| reader.agents(s, &account, &groups))
        .unwrap_or_default();
    top.close(TOP_HINTS);

    Limits {
        sha256: Sha256::digest(text).into(),
        calendar: zone.map_or_else(Calendar::without_zone, Calendar::new),
        rails: rails.unwrap_or_else(|| Rail::USUAL.into()),
        max_validity_s: max_validity.unwrap_or(MAX_VALIDITY_S),
        zero_amount: zero_amount.unwrap_or(false),
        methods: methods.unwrap_or_default(),
        show_pause_reason: show_pause_reason.unwrap_or(false),
        merchants,
        rates,
        account,
        agents,
    }
}

fn time_zone(entry: &Entry<'_>) -> Option<TimeZone> {
    let name = entry.text()?;
    TimeZone::get(name).map_or_else(
        |_| {
            let zones: Vec<_> = jiff::tz::db().available().collect();
            let meant = nearest(name, zones.iter().map(|zone| zone.as_str()));
            entry.reject(
                format!("timezone: \"{name}\" is not a known time zone"),
                match meant {
                    Some(zone) => format!("Did you mean \"{zone}\"?"),
                    None => "Write an IANA name, such as \"Europe/Berlin\" or \"UTC\".".to_owned(),
                },
            )
        },
        Some,
    )
}

fn rails(entry: &Entry<'_>) -> Option<Vec<Rail>> {
    let names = Rail::ALL.map(Rail::name);
    let items = entry.list("Remove `rails` to use the default order, or list at least one rail.")?;
    let one = |item: Entry<'_>| {
        let name = item.text()?;
        let rail = Rail::parse(name);
        rail.or_else(|| item.reject(format!("rails: \"{name}\" is not a known rail"), one_of(name, &names)))
    };
    Some(items.into_iter().filter_map(one).collect())
}

fn methods(entry: &Entry<'_>) -> Option<Methods> {
    let items = entry.list("Remove `methods` to pay for every method except HEAD, OPTIONS and TRACE.")?;
    let one = |item: Entry<'_>| {
        let name = item.text()?;
        let method = Method::from_bytes(name.as_bytes()).ok();
        // CONNECT only opens a tunnel; the requests inside it are what is paid for.
        let method = method.filter(|m| m.as_str() == name.to_ascii_uppercase() && m != Method::CONNECT);
        method.or_else(|| {
            item.reject(
                format!("methods: \"{name}\" is not a request method that can be paid for"),
                "Write methods in capitals, such as \"GET\" or \"POST\".".to_owned(),
            )
        })
    };
    Some(Methods::Only(items.into_iter().filter_map(one).collect()))
}

/// `[rates.eur]`: the US dollars that finance counts one euro as, and until when. Dates are in the file's time zone.
fn rates(section: Section<'_>, zone: Option<&TimeZone>) -> Rates {
    let one = |entry: Entry<'_>| {
        let currency = rated(&entry);
        let mut section = entry.section()?;
        let usd = section.take("usd");
        let until = section.take("valid_until");
        section.close(&[
            (
                "rate",
                "The key is `usd`: the US dollars that one whole unit counts as.",
            ),
            ("until", "The key is `valid_until`."),
        ]);
        let (Some(usd), Some(until)) = (usd, until) else {
            return entry.reject_key(
                format!("[rates.{}] needs `usd` and `valid_until`", entry.key()),
                "Write usd = \"1.10\" and valid_until = \"2026-12-31\".".to_owned(),
            );
        };
        let usd = usd.usd().and_then(|amount| {
            (amount > MicroUsd::ZERO).then_some(amount).or_else(|| {
                usd.reject(
                    format!(
                        "{}: a rate of zero would exempt the currency from all limits",
                        usd.path()
                    ),
                    "Write the US dollars that one whole unit counts as, such as \"1.10\".".to_owned(),
                )
            })
        });
        let until = last_day(&until, zone.unwrap_or(&TimeZone::UTC));
        Some((
            currency?.code,
            Rate {
                usd: usd?,
                until: until?,
            },
        ))
    };
    Rates(section.named().into_iter().filter_map(one).collect())
}

fn rated(entry: &Entry<'_>) -> Option<&'static Currency> {
    let code = entry.key();
    match currency(code) {
        Some(dollar) if dollar.is_dollar() => entry.reject_key(
            "[rates.usd]: US dollars need no rate".to_owned(),
            "Remove this section.".to_owned(),
        ),
        Some(currency) => Some(currency),
        None => entry.reject_key(
            format!("[rates.{code}]: Stripe does not charge in this currency"),
            "Write an ISO 4217 code in lower case, such as [rates.eur].".to_owned(),
        ),
    }
}

/// The end of the day that the entry names.
fn last_day(entry: &Entry<'_>, zone: &TimeZone) -> Option<Timestamp> {
    let text = entry.text()?;
    let day = text.parse::<Date>().ok().filter(|day| day.to_string() == text);
    let end = day
        .and_then(|day| day.tomorrow().ok())
        .and_then(|after| after.to_zoned(zone.clone()).ok());
    match end {
        Some(end) => Some(end.timestamp()),
        None => entry.reject(
            format!("{}: \"{text}\" is not a valid date", entry.path()),
            "Write the last day on which the rate applies, such as \"2026-12-31\".".to_owned(),
        ),
    }
}

/// `[merchants."host"]`: other hosts that this host's challenges may name (R23), and the only realms they may have (R71).
fn merchants_own(section: Section<'_>) -> BTreeMap<Host, MerchantNames> {
    let mut named: BTreeMap<Host, String> = BTreeMap::new();
    let one = |entry: Entry<'_>| {
        let host = named_host(entry.key()).map_or_else(
            |why| {
                let what = format!("[merchants] \"{}\" is not a valid host: {why}", entry.key());
                entry.reject_key(what, "Write [merchants.\"api.example.com\"].".to_owned())
            },
            Some,
        );
        if let Some(host) = &host
            && let Some(other) = named.insert(host.clone(), entry.key().to_owned())
        {
            let what = format!("[merchants] \"{other}\" and \"{}\" are the same host", entry.key());
            return entry.reject_key(what, format!("Keep one section, [merchants.\"{host}\"]."));
        }
        let mut section = entry.section()?;
        let resource_hosts = section.take("resource_hosts").and_then(|entry| {
            let items = entry.list("Remove `resource_hosts`, or list at least one host.")?;
            let hosts = items.iter().filter_map(|item| {
                let text = item.text()?;
                host_or(item, text, named_host(text))
            });
            Some(hosts.map(|host| host.to_string()).collect())
        });
        let realms = section.take("realms").and_then(|entry| {
            let items = entry.list("Remove `realms`, or list at least one realm.")?;
            Some(items.iter().filter_map(realm).collect())
        });
        section.close(&[
            (
                "allow",
                "Put it in [account], [groups.NAME] or [agents.NAME]: merchants = { allow = […] }.",
            ),
            (
                "deny",
                "Put it in [account], [groups.NAME] or [agents.NAME]: merchants = { deny = […] }.",
            ),
        ]);
        let names = MerchantNames {
            resource_hosts: resource_hosts.unwrap_or_default(),
            realms: realms.unwrap_or_default(),
        };
        Some((host?, names))
    };
    section.named().into_iter().filter_map(one).collect()
}

/// Compared letter by letter, so what cannot be seen is likely to be a mistake.
fn realm(item: &Entry<'_>) -> Option<String> {
    let text = item.text()?;
    if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
        return item.reject(
            format!(
                "{}: a realm has no control characters and no blanks around it",
                item.path()
            ),
            "Write it as the merchant's challenges do, such as \"MPP Payment\".".to_owned(),
        );
    }
    Some(text.to_owned())
}

//! Every rule that a purchase is compared with, in the order in which they decide.
//!
//! The decision stops at the first rule that refuses ([`FirstRefusal`]); `limits try` and `limits test` look at all of
//! them ([`super::trace()`]). Both walk through the same code, so they cannot disagree.

use std::fmt;
use std::ops::ControlFlow;

use super::approval::Approvals;
use super::limits::{AgentLevels, Level, Limits, Listed, OverLimit};
use super::patterns::AskedHost;
use super::refusal::{Refusal, RefusalCode};
use super::threshold;
use super::{Bid, Purchase, preference};
use crate::account::Account;
use crate::money::MicroUsd;

/// Where a rule stands in limits.toml. Becomes text only where it is shown.
#[derive(Clone, Copy)]
pub(super) enum Place<'l> {
    Top(&'static str),
    Rate(&'static str),
    Section(&'l Level),
    Key(&'l Level, &'static str),
    List(&'l Level, &'static str, &'static str),
}

/// What a rule says about the purchase.
pub(super) enum Found {
    Passes,
    /// It needs a person's approval.
    Asks,
    Refuses(Box<Refusal>),
}

/// The rule's value and what was asked for, as a refusal would name them.
#[derive(Default)]
pub(super) struct Figures {
    pub limit: Option<String>,
    pub asked: Option<String>,
}

/// Is shown one rule after another, and says when it has seen enough.
pub(super) trait Collector {
    fn look(&mut self, place: Place<'_>, found: Found, figures: impl FnOnce() -> Figures) -> ControlFlow<Box<Refusal>>;
}

/// Stops at the first rule that refuses.
pub(super) struct FirstRefusal;

impl Collector for FirstRefusal {
    fn look(&mut self, _: Place<'_>, found: Found, _: impl FnOnce() -> Figures) -> ControlFlow<Box<Refusal>> {
        match found {
            Found::Passes | Found::Asks => ControlFlow::Continue(()),
            Found::Refuses(refusal) => ControlFlow::Break(refusal),
        }
    }
}

/// The rules that do not depend on the offer.
pub(super) fn of_purchase(
    limits: &Limits,
    agent_levels: &AgentLevels,
    purchase: &Purchase<'_>,
    collector: &mut impl Collector,
) -> ControlFlow<Box<Refusal>> {
    for level in limits.levels(agent_levels).filter(|level| level.paused) {
        let found = Found::Refuses(Box::new(Refusal::paused(level)));
        collector.look(Place::Key(level, "paused"), found, Figures::default)?;
    }
    let found = match agent_levels.has_budget() {
        true => Found::Passes,
        false => Found::Refuses(Box::new(Refusal::no_budget(&agent_levels.level))),
    };
    collector.look(Place::Section(&agent_levels.level), found, Figures::default)?;
    let host = AskedHost::new(purchase.merchant);
    let figures = || asked(host.text);
    for level in limits.levels(agent_levels) {
        let (code, what) = (RefusalCode::MerchantNotAllowed, "merchant");
        let lists = &level.merchants;
        let denied = |entry: &_, list: Place<'_>| Refusal::denied(code, list.to_string(), what, entry, host.text);
        let left_out = |list: Place<'_>| Refusal::not_listed(code, list.to_string(), what, host.text);
        if lists.deny.iter().next().is_some() {
            let place = Place::List(level, "merchants", "deny");
            let entry = lists.deny.first(&host).map(ToString::to_string);
            collector.look(place, refuses_if(entry, |entry| denied(&entry, place)), figures)?;
        }
        if let Some(allow) = &lists.allow {
            let place = Place::List(level, "merchants", "allow");
            let missing = allow.first(&host).is_none().then_some(());
            collector.look(place, refuses_if(missing, |()| left_out(place)), figures)?;
        }
    }
    ControlFlow::Continue(())
}

/// The rules for one offer. `price` is what it counts as, which the caller may have to find out first.
pub(super) fn of_bid(
    limits: &Limits,
    agent_levels: &AgentLevels,
    purchase: &Purchase<'_>,
    bid: &Bid,
    collector: &mut impl Collector,
) -> ControlFlow<Box<Refusal>> {
    let rail = bid.rail.name();
    let missing = preference(limits, bid.rail).is_none().then_some(());
    let not_listed = |()| Refusal::not_listed(RefusalCode::RailNotAllowed, "rails".to_owned(), "rail", rail);
    collector.look(Place::Top("rails"), refuses_if(missing, not_listed), || asked(rail))?;
    match bid.price {
        Ok(_) if bid.asset.is_dollar() => {}
        Ok(_) => collector.look(Place::Rate(bid.asset.currency().code), Found::Passes, Figures::default)?,
        Err(why) => {
            let found = Found::Refuses(Box::new(Refusal::no_price(why)));
            collector.look(Place::Rate(bid.asset.currency().code), found, Figures::default)?;
        }
    }
    for level in limits.levels(agent_levels) {
        of_level(level, purchase.approvals, bid, collector)?;
    }
    match (bid.price, purchase.approvals) {
        (Ok(price), Approvals::Terminal) => on_terminal(limits, agent_levels, price, collector),
        _ => ControlFlow::Continue(()),
    }
}

fn of_level(
    level: &Level,
    approvals: Approvals,
    bid: &Bid,
    collector: &mut impl Collector,
) -> ControlFlow<Box<Refusal>> {
    let network = bid.asset.network();
    if let Some(networks) = &level.networks {
        let place = Place::Key(level, "networks");
        let missing = (!networks.contains(&network)).then(|| network.to_string());
        let code = RefusalCode::NetworkNotAllowed;
        let refusal = |missing: String| Refusal::not_listed(code, place.to_string(), "network", &missing);
        collector.look(place, refuses_if(missing, refusal), || asked(&network.to_string()))?;
    }
    if let Some(assets) = &level.assets {
        let place = Place::Key(level, "assets");
        let name = || format!("{} on {network}", bid.asset.symbol());
        let missing = (!assets.iter().any(|asset| asset.names(bid))).then(name);
        let code = RefusalCode::AssetNotAllowed;
        let refusal = |missing: String| Refusal::not_listed(code, place.to_string(), "asset", &missing);
        collector.look(place, refuses_if(missing, refusal), || asked(&name()))?;
    }
    payees(level, &level.payees, &bid.payee, collector)?;
    match bid.price {
        Ok(price) => prices(level, approvals, price, collector),
        Err(_) => ControlFlow::Continue(()),
    }
}

fn payees(
    level: &Level,
    lists: &Listed<Account>,
    payee: &Account,
    collector: &mut impl Collector,
) -> ControlFlow<Box<Refusal>> {
    let (code, what) = (RefusalCode::PayeeNotAllowed, "payee");
    let is = |entry: &Account| entry == payee;
    let figures = || asked(&payee.to_string());
    if !lists.deny.is_empty() {
        let place = Place::List(level, "payees", "deny");
        let refusal =
            |entry: &Account| Refusal::denied(code, place.to_string(), what, &entry.to_string(), &payee.to_string());
        collector.look(place, refuses_if(lists.denied_by(is), refusal), figures)?;
    }
    if lists.allow.is_some() {
        let place = Place::List(level, "payees", "allow");
        let refusal = |()| Refusal::not_listed(code, place.to_string(), what, &payee.to_string());
        collector.look(place, refuses_if(lists.leaves_out(is).then_some(()), refusal), figures)?;
    }
    ControlFlow::Continue(())
}

fn prices(
    level: &Level,
    approvals: Approvals,
    price: MicroUsd,
    collector: &mut impl Collector,
) -> ControlFlow<Box<Refusal>> {
    let can_be_asked = approvals.can_be_asked();
    let figures = |limit: MicroUsd| Figures {
        limit: Some(limit.to_string()),
        asked: Some(price.to_string()),
    };
    if let Some(limit) = level.per_transaction {
        let found = match price > limit {
            false => Found::Passes,
            true if can_be_asked && level.over_limit == OverLimit::Ask => Found::Asks,
            true => Found::Refuses(Box::new(Refusal::per_transaction(level, limit, price))),
        };
        collector.look(Place::Key(level, "per_transaction"), found, || figures(limit))?;
    }
    let thresholds = [
        ("approval_above", level.asking.above),
        ("second_approval_above", level.asking.second_above),
    ];
    for (key, limit) in thresholds {
        let Some(limit) = limit else { continue };
        let found = match price > limit {
            false => Found::Passes,
            true if !can_be_asked => Found::Refuses(Box::new(Refusal::approval_unavailable(level, key, limit, price))),
            // Decided after all levels: see `on_terminal`.
            true if approvals == Approvals::Terminal && key == "second_approval_above" => continue,
            true => Found::Asks,
        };
        collector.look(Place::Key(level, key), found, || figures(limit))?;
    }
    ControlFlow::Continue(())
}

/// Above `second_approval_above` several people must approve, and the operator's terminal cannot tell people apart.
fn on_terminal(
    limits: &Limits,
    agent_levels: &AgentLevels,
    price: MicroUsd,
    collector: &mut impl Collector,
) -> ControlFlow<Box<Refusal>> {
    let Some(first) = threshold::second(limits.levels(agent_levels), price) else {
        return ControlFlow::Continue(());
    };
    let others = limits
        .levels(agent_levels)
        .filter(|level| threshold::exceeds_second(level, price) && !std::ptr::eq(*level, first));
    for level in std::iter::once(first).chain(others) {
        let found = Found::Refuses(Box::new(Refusal::nobody_else(level, price)));
        collector.look(Place::Key(level, "second_approval_above"), found, || Figures {
            limit: level.asking.second_above.map(|limit| limit.to_string()),
            asked: Some(price.to_string()),
        })?;
    }
    ControlFlow::Continue(())
}

fn refuses_if<T>(found: Option<T>, refusal: impl FnOnce(T) -> Refusal) -> Found {
    found.map_or(Found::Passes, |found| Found::Refuses(Box::new(refusal(found))))
}

fn asked(what: &str) -> Figures {
    Figures {
        limit: None,
        asked: Some(what.to_owned()),
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top(key) => f.write_str(key),
            Self::Rate(code) => write!(f, "rates.{code}"),
            Self::Section(level) => f.write_str(&level.section),
            Self::Key(level, key) => write!(f, "{}.{key}", level.section),
            Self::List(level, key, list) => write!(f, "{}.{key}.{list}", level.section),
        }
    }
}

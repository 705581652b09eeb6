//! The decision: may this agent pay for this request, with which offer, and what does that charge to which budgets?
//!
//! Pure: limits, a purchase and offers in, a decision out. What is spent already is the ledger's to know: it takes the
//! charges of a [`Plan`] and books all of them or none; [`Refusal::over_limit`] words its denial.

pub mod budget;
mod calendar;
mod limits;
mod merchant;
mod not_taken;
mod rates;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;

use crate::account::Account;
use crate::assets::Asset;
use crate::challenge::{Offer, PaymentFlow, Rail};
use crate::money::MicroUsd;

pub(crate) use budget::Budget;
pub use budget::{Charge, Rolling, Unit, Window};
pub(crate) use calendar::Calendar;
pub use limits::Limits;
pub(crate) use limits::{AssetName, Group, Level, Listed, Methods, OverLimit, Standing};
pub(crate) use merchant::{HostError, HostPattern, named_host};
pub use not_taken::{NotTaken, Unchosen};
pub(crate) use rates::{NoPrice, Rate, Rates};
pub use refusal::{Refusal, RefusalCode};

/// Who wants to buy what, and when.
pub struct Purchase<'a> {
    pub agent: &'a str,
    /// The request's host: lower-case A-label or address, no port.
    pub merchant: &'a str,
    pub method: &'a Method,
    pub now: Timestamp,
    pub approvals: Approvals,
}

/// Whether a person can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approvals {
    /// No backend: what needs approval is refused.
    None,
    /// What needs approval is asked about.
    Asked,
}

/// What makes a payment need a person's approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Path in limits.toml, such as `agents.research.approval_above`.
    pub rule: String,
    pub limit: MicroUsd,
    /// Whom limits.toml names; else whoever the backend asks by itself.
    pub approver: Option<String>,
}

pub enum Decision {
    /// Within every limit that does not depend on what is spent.
    Pay(Plan),
    Refuse(Refusal),
    /// Not a purchase at all: the 402 goes back to the agent as it came.
    Unpaid(Unpaid),
}

/// What to reserve and then to sign.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Index into the offers that were given.
    pub offer: usize,
    /// What it counts as.
    pub usd: MicroUsd,
    /// From the account down to the agent; never empty (Ruling 51).
    pub charges: Vec<Charge>,
    pub group: Option<Arc<str>>,
    /// The longest validity of the credential, in seconds.
    pub max_validity_s: u64,
    /// A person must approve it first, and why.
    pub threshold: Option<Threshold>,
    /// Every other offer that was given, in the order given.
    pub others: Vec<Unchosen>,
}

/// Why a 402 is passed on without a word from limits.toml's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpaid {
    /// Requests with this method are not paid for (Ruling 9).
    Method,
    /// There was nothing to choose from.
    NoOffer,
}

impl Unpaid {
    /// Stable text for `Proxy-Status`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Method => "method-not-paid",
            Self::NoOffer => "no-offer",
        }
    }
}

/// Chooses among `offers` and says what paying it charges; or why nothing is paid.
///
/// The cheapest offer that every level allows wins; at one price the `authorization` flow before `upfront`, then the
/// file's `rails` order, then the server's (Ruling 20). When none is allowed, the refusal is that of the cheapest; an offer
/// without a price comes last.
pub fn decide(limits: &Limits, purchase: &Purchase<'_>, offers: &[Offer]) -> Decision {
    let bids: Vec<Bid> = offers
        .iter()
        .map(|offer| Bid::of(limits, offer, purchase.now))
        .collect();
    choose(limits, purchase, &bids)
}

/// What policy looks at in an offer.
#[derive(Debug)]
struct Bid {
    rail: Rail,
    asset: Asset,
    payee: Account,
    price: Result<MicroUsd, NoPrice>,
    flow: PaymentFlow,
}

impl Bid {
    fn of(limits: &Limits, offer: &Offer, now: Timestamp) -> Self {
        Self {
            rail: offer.rail,
            asset: offer.asset,
            payee: offer.payee.clone(),
            price: limits.rates.price(offer, now),
            flow: offer.flow,
        }
    }
}

fn choose(limits: &Limits, purchase: &Purchase<'_>, bids: &[Bid]) -> Decision {
    if !limits.methods.include(purchase.method) {
        return Decision::Unpaid(Unpaid::Method);
    }
    let Some(standing) = limits.agents.get(purchase.agent) else {
        return Decision::Refuse(Refusal::unknown_agent(purchase.agent));
    };
    if let Some(refusal) = bars_purchase(limits, standing, purchase) {
        return Decision::Refuse(refusal);
    }

    let mut order: Vec<usize> = (0..bids.len()).collect();
    order.sort_by_key(|&i| rank(limits, &bids[i])); // stable: the server's order is the last word
    let mut cheapest = None;
    for offer in order {
        match bars_bid(limits, standing, purchase, &bids[offer]) {
            Ok(allowed) => {
                let mut plan = plan(limits, standing, purchase, offer, allowed);
                plan.others = not_taken::beside(offer, limits, standing, purchase, bids);
                return Decision::Pay(plan);
            }
            Err(refusal) => cheapest = cheapest.or(Some(*refusal)),
        }
    }
    cheapest.map_or(Decision::Unpaid(Unpaid::NoOffer), Decision::Refuse)
}

fn rank(limits: &Limits, bid: &Bid) -> (MicroUsd, u8, usize) {
    let flow = match bid.flow {
        PaymentFlow::Authorization => 0,
        PaymentFlow::Upfront => 1,
    };
    let price = bid.price.unwrap_or(MicroUsd::new(u128::MAX));
    (price, flow, preference(limits, bid.rail).unwrap_or(usize::MAX))
}

fn preference(limits: &Limits, rail: Rail) -> Option<usize> {
    limits.rails.iter().position(|&r| r == rail)
}

/// What stands against this purchase whatever the offer.
fn bars_purchase(limits: &Limits, standing: &Standing, purchase: &Purchase<'_>) -> Option<Refusal> {
    if let Some(level) = limits.levels(standing).find(|level| level.paused) {
        return Some(Refusal::paused(level));
    }
    if !standing.has_budget() {
        return Some(Refusal::no_budget(&standing.level));
    }
    let host = purchase.merchant;
    limits.levels(standing).find_map(|level| {
        let is = |pattern: &HostPattern| pattern.matches(host);
        listed(
            level,
            "merchants",
            &level.merchants,
            is,
            RefusalCode::MerchantNotAllowed,
            "merchant",
            &host,
        )
    })
}

/// What one offer costs, and whether a person must approve it.
struct Allowed {
    price: MicroUsd,
    threshold: Option<Threshold>,
}

/// What one offer costs, or what stands against it.
fn bars_bid(limits: &Limits, standing: &Standing, purchase: &Purchase<'_>, bid: &Bid) -> Result<Allowed, Box<Refusal>> {
    if preference(limits, bid.rail).is_none() {
        let (rule, rail) = ("rails".to_owned(), bid.rail.name());
        let refusal = Refusal::not_listed(RefusalCode::RailNotAllowed, rule, "rail", rail);
        return Err(Box::new(refusal));
    }
    let price = bid.price.map_err(|why| Box::new(Refusal::no_price(why)))?;
    let mut threshold = None;
    for level in limits.levels(standing) {
        if let Some(refusal) = bars_at(level, purchase.approvals, bid, price) {
            return Err(Box::new(refusal));
        }
        threshold = threshold.or_else(|| passes(level, price));
    }
    if let Some(threshold) = &mut threshold {
        // The nearest to the agent.
        threshold.approver = limits
            .levels(standing)
            .filter_map(|level| level.approver.clone())
            .last();
    }
    Ok(Allowed { price, threshold })
}

fn bars_at(level: &Level, approvals: Approvals, bid: &Bid, price: MicroUsd) -> Option<Refusal> {
    let section = &level.section;
    let network = bid.asset.network();
    if level.networks.as_ref().is_some_and(|n| !n.contains(&network)) {
        let (rule, asked) = (format!("{section}.networks"), network.to_string());
        return Some(Refusal::not_listed(
            RefusalCode::NetworkNotAllowed,
            rule,
            "network",
            &asked,
        ));
    }
    if level.assets.as_ref().is_some_and(|a| !a.iter().any(|a| a.names(bid))) {
        let asked = format!("{} on {network}", bid.asset.symbol());
        let rule = format!("{section}.assets");
        return Some(Refusal::not_listed(RefusalCode::AssetNotAllowed, rule, "asset", &asked));
    }
    let is = |payee: &Account| *payee == bid.payee;
    let code = RefusalCode::PayeeNotAllowed;
    if let Some(refusal) = listed(level, "payees", &level.payees, is, code, "payee", &bid.payee) {
        return Some(refusal);
    }
    let can_be_asked = approvals == Approvals::Asked;
    if let Some(limit) = level.per_transaction.filter(|&limit| price > limit)
        && !(can_be_asked && level.over_limit == OverLimit::Ask)
    {
        return Some(Refusal::per_transaction(level, limit, price));
    }
    let threshold = level.approval_above.filter(|&limit| price > limit)?;
    (!can_be_asked).then(|| Refusal::approval_unavailable(level, threshold, price))
}

/// The threshold of this level that an allowed price passes. What is over `per_transaction` is here only where the level asks.
fn passes(level: &Level, price: MicroUsd) -> Option<Threshold> {
    let keys = [
        ("per_transaction", level.per_transaction),
        ("approval_above", level.approval_above),
    ];
    keys.into_iter().find_map(|(key, limit)| {
        let limit = limit.filter(|&limit| price > limit)?;
        let rule = format!("{}.{key}", level.section);
        Some(Threshold {
            rule,
            limit,
            approver: None,
        })
    })
}

fn listed<T: std::fmt::Display>(
    level: &Level,
    key: &str,
    lists: &Listed<T>,
    is: impl Fn(&T) -> bool,
    code: RefusalCode,
    what: &str,
    asked: &dyn std::fmt::Display,
) -> Option<Refusal> {
    let rule = |list| format!("{}.{key}.{list}", level.section);
    if let Some(entry) = lists.denied_by(&is) {
        let (entry, asked) = (entry.to_string(), asked.to_string());
        return Some(Refusal::denied(code, rule("deny"), what, &entry, &asked));
    }
    lists
        .leaves_out(&is)
        .then(|| Refusal::not_listed(code, rule("allow"), what, &asked.to_string()))
}

impl AssetName {
    fn names(&self, bid: &Bid) -> bool {
        match self {
            Self::Symbol(symbol) => symbol == bid.asset.symbol(),
            Self::One(asset) => *asset == bid.asset,
        }
    }
}

fn plan(limits: &Limits, standing: &Standing, purchase: &Purchase<'_>, offer: usize, allowed: Allowed) -> Plan {
    let Allowed { price, threshold } = allowed;
    let mut periods = limits.periods(purchase.now);
    let budgets = limits.levels(standing).flat_map(|level| &level.budgets);
    Plan {
        offer,
        usd: price,
        charges: budgets.map(|b| b.charge(price, &mut periods)).collect(),
        group: standing.group.as_ref().map(|g| g.name.clone()),
        max_validity_s: limits.max_validity_s,
        threshold,
        others: Vec::new(),
    }
}

//! The decision: may this agent pay for this request, with which offer, and what does that charge to which budgets?
//!
//! Pure: limits, a purchase and offers go in, a decision comes out. Only the ledger knows what has been spent: it books
//! all charges of a [`Plan`] or none, and [`Refusal::over_limit`] words its refusal.

mod approval;
pub mod budget;
mod calendar;
mod covers;
pub mod diff;
mod imagined;
mod judge;
mod limits;
mod merchant;
mod not_taken;
mod patterns;
mod pause;
mod rates;
mod refusal;
mod remaining;
mod rules;
mod threshold;
mod trace;
mod window;
mod written;

use std::ops::ControlFlow;
use std::sync::Arc;

use http::Method;
use jiff::Timestamp;

use crate::account::Account;
use crate::assets::Asset;
use crate::challenge::{Offer, PaymentFlow, Rail};
use crate::money::MicroUsd;
use rules::FirstRefusal;

pub use approval::{Approvals, Asking, NEEDED};
pub use budget::{Budget, Charge, Excess, Unit};
pub use calendar::Calendar;
pub use covers::most_per_payment;
pub use imagined::{Imagined, NotImaginable, all_assets, payee_suits, rail_moves, somebody};
pub use judge::{Counted, Judged, Verdict, fits, fits_from, judge};
pub use limits::{AgentLevels, AssetName, Group, Level, Limits, Listed, Methods, OverLimit};
pub use merchant::{HostError, HostPattern, MerchantNames, named_host};
pub use not_taken::{NotTaken, Unchosen};
pub use patterns::{AskedHost, HostPatterns, MerchantLists};
pub use pause::{PauseScope, PauseScopeError};
pub use rates::{NoPrice, Rate, Rates};
pub use refusal::{Refusal, RefusalCode};
pub use remaining::Remaining;
pub use threshold::{Threshold, named, owners};
pub use trace::{Looked, Outcome, Trace, trace};
pub use window::{Rolling, Window};
pub use written::Written;

/// Who wants to buy what, and when.
pub struct Purchase<'a> {
    pub agent: &'a str,
    /// The request's host: lower-case A-label or address, no port.
    pub merchant: &'a str,
    pub method: &'a Method,
    pub now: Timestamp,
    pub approvals: Approvals,
    /// The rules that what was spent already would exceed, so that a person must approve, as the ledger reported.
    pub over: &'a [Arc<str>],
}

pub enum Decision {
    /// Within every limit that does not depend on past spending.
    Pay(Plan),
    Refuse(Refusal),
    /// Not a purchase: the 402 goes to the agent unchanged.
    Unpaid(Unpaid),
}

/// What to reserve and then sign.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Index into the given offers.
    pub offer: usize,
    /// What the offer counts as.
    pub usd: MicroUsd,
    /// From the account down to the agent; never empty (R51).
    pub charges: Vec<Charge>,
    pub group: Option<Arc<str>>,
    /// The longest validity of the credential, in seconds.
    pub max_validity_s: u64,
    /// Set if a person must approve it first, and why.
    pub threshold: Option<Threshold>,
    /// Every other offer, in the given order.
    pub others: Vec<Unchosen>,
}

/// Why a 402 is passed on without consulting the levels of limits.toml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpaid {
    /// Requests with this method are not paid for (R9).
    Method,
    /// There was nothing to choose from.
    NoOffer,
}

impl Unpaid {
    pub const ALL: [Self; 2] = [Self::Method, Self::NoOffer];

    /// Stable text for `Proxy-Status`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Method => "method-not-paid",
            Self::NoOffer => "no-offer",
        }
    }

    /// When this happens.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Method => {
                "Requests with this method are not paid for: HEAD, OPTIONS and TRACE unless `methods` in limits.toml lists them, others if it does not."
            }
            Self::NoOffer => "The 402 leaves no offer to choose from.",
        }
    }

    pub const fn what_to_do(self) -> &'static str {
        match self {
            Self::Method => "Use GET or POST, or ask finance to add the method to `methods`.",
            Self::NoOffer => "Tell the site's operator.",
        }
    }
}

/// Chooses one of `offers` and says what paying it charges, or why nothing is paid.
///
/// The cheapest offer that every level allows wins. At equal prices the flow `authorization` comes before `upfront`,
/// then the file's `rails` order counts, then the server's (R20). If no offer is allowed, the refusal is that of the
/// cheapest; offers without a price come last.
pub fn decide(limits: &Limits, purchase: &Purchase<'_>, offers: &[Offer]) -> Decision {
    let bids: Vec<Bid> = offers
        .iter()
        .map(|offer| Bid::of(limits, offer, purchase.now))
        .collect();
    choose(limits, purchase, &bids)
}

/// The parts of an offer that policy looks at.
#[derive(Debug)]
pub struct Bid {
    pub rail: Rail,
    pub asset: Asset,
    pub payee: Account,
    pub price: Result<MicroUsd, NoPrice>,
    pub flow: PaymentFlow,
}

impl Bid {
    /// An offer of a 402, at the rates of limits.toml.
    pub fn of(limits: &Limits, offer: &Offer, now: Timestamp) -> Self {
        Self {
            rail: offer.rail,
            asset: offer.asset,
            payee: offer.payee.clone(),
            price: limits.rates.price(offer, now),
            flow: offer.flow,
        }
    }
}

pub fn choose(limits: &Limits, purchase: &Purchase<'_>, bids: &[Bid]) -> Decision {
    if !limits.methods.include(purchase.method) {
        return Decision::Unpaid(Unpaid::Method);
    }
    let Some(agent_levels) = limits.agents.get(purchase.agent) else {
        return Decision::Refuse(Refusal::unknown_agent(purchase.agent));
    };
    if let Some(refusal) = bars_purchase(limits, agent_levels, purchase) {
        return Decision::Refuse(refusal);
    }

    let mut order: Vec<usize> = (0..bids.len()).collect();
    order.sort_by_key(|&i| rank(limits, &bids[i])); // stable: the server's order breaks ties
    let mut cheapest = None;
    for offer in order {
        match bars_bid(limits, agent_levels, purchase, &bids[offer]) {
            Ok(allowed) => {
                let mut plan = plan(limits, agent_levels, purchase, offer, &bids[offer].payee, allowed);
                plan.others = not_taken::beside(offer, limits, agent_levels, purchase, bids);
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

/// Why this purchase is refused whatever the offer, if it is.
fn bars_purchase(limits: &Limits, agent_levels: &AgentLevels, purchase: &Purchase<'_>) -> Option<Refusal> {
    let looked = rules::of_purchase(limits, agent_levels, purchase, &mut FirstRefusal);
    looked.break_value().map(|refusal| *refusal)
}

/// What an allowed offer costs, and whether a person must approve it.
struct Allowed {
    price: MicroUsd,
    threshold: Option<Threshold>,
}

/// What one offer costs, or why it is refused.
fn bars_bid(
    limits: &Limits,
    agent_levels: &AgentLevels,
    purchase: &Purchase<'_>,
    bid: &Bid,
) -> Result<Allowed, Box<Refusal>> {
    if let ControlFlow::Break(refusal) = rules::of_bid(limits, agent_levels, purchase, bid, &mut FirstRefusal) {
        return Err(refusal);
    }
    let price = bid.price.map_err(|why| Box::new(Refusal::no_price(why)))?;
    let threshold = threshold::threshold(limits, agent_levels, purchase.approvals, purchase.over, price)?;
    Ok(Allowed { price, threshold })
}

impl AssetName {
    fn names(&self, bid: &Bid) -> bool {
        match self {
            Self::Symbol(symbol) => symbol == bid.asset.symbol(),
            Self::One(asset) => *asset == bid.asset,
        }
    }
}

fn plan(
    limits: &Limits,
    agent_levels: &AgentLevels,
    purchase: &Purchase<'_>,
    offer: usize,
    payee: &Account,
    allowed: Allowed,
) -> Plan {
    let Allowed { price, threshold } = allowed;
    let mut periods = limits.periods(purchase.now);
    let budgets = limits.levels(agent_levels).flat_map(|level| &level.budgets);
    let mut charges: Vec<Charge> = budgets
        .map(|budget| {
            let excess = budget.excess(
                purchase.approvals,
                threshold.as_ref().map(|threshold| &*threshold.rules),
            );
            budget.charge(price, payee, excess, &mut periods)
        })
        .collect();
    // Last, so that the other charges have the same indexes in what is held, which leaves these out.
    charges.sort_by_key(|charge| charge.excess == Excess::Approved);
    Plan {
        offer,
        usd: price,
        charges,
        group: agent_levels.group.as_ref().map(|g| g.name.clone()),
        max_validity_s: limits.max_validity_s,
        threshold,
        others: Vec::new(),
    }
}

impl Plan {
    /// What is charged while a person is asked. Charges that only an approval allows do not count before it is given: a
    /// pending question must not use up what is left for other payments.
    pub fn held(&self) -> Vec<Charge> {
        let counts = |charge: &&Charge| charge.excess != Excess::Approved;
        self.charges.iter().filter(counts).cloned().collect()
    }
}

//! Why policy did not choose an offer.

use std::cmp::Ordering;

use super::limits::{AgentLevels, Limits};
use super::refusal::RefusalCode;
use super::{Bid, Purchase, bars_bid, rank};
use crate::money::MicroUsd;

/// An offer other than the chosen one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchosen {
    /// Index into the given offers.
    pub offer: usize,
    /// What it would have counted as; `None` if its currency has no valid rate.
    pub usd: Option<MicroUsd>,
    pub why: NotTaken,
}

/// Why the chosen offer was preferred: a rule, or the first step of R20's order in which the two differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// A rule refuses it: it would not have been paid even if it had been the only offer.
    Barred { code: RefusalCode, rule: String },
    /// Allowed, but its price is higher.
    Dearer,
    /// Same price, but its seller takes the money before it serves, and the chosen one's does not.
    Upfront,
    /// Same price and flow, but the chosen rail comes earlier in `rails`.
    RailOrder,
    /// Same price, flow and rail, but the chosen offer came first in the 402.
    Later,
}

impl NotTaken {
    /// The reasons that are not rules.
    pub const ORDER: [Self; 4] = [Self::Dearer, Self::Upfront, Self::RailOrder, Self::Later];

    /// Stable text, never renamed; for `Barred` the refusal's code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Barred { code, .. } => code.code(),
            Self::Dearer => "dearer",
            Self::Upfront => "upfront",
            Self::RailOrder => "rail-order",
            Self::Later => "later",
        }
    }

    /// Path in limits.toml.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Barred { rule, .. } => Some(rule),
            Self::Dearer | Self::Upfront | Self::RailOrder | Self::Later => None,
        }
    }
}

/// All bids other than `chosen`, each with the reason. If there are none, this does no work.
pub(super) fn beside(
    chosen: usize,
    limits: &Limits,
    agent_levels: &AgentLevels,
    purchase: &Purchase<'_>,
    bids: &[Bid],
) -> Vec<Unchosen> {
    let others = bids.iter().enumerate().filter(|(offer, _)| *offer != chosen);
    let unchosen = others.map(|(offer, bid)| Unchosen {
        offer,
        usd: bid.price.ok(),
        why: match bars_bid(limits, agent_levels, purchase, bid) {
            // Takes precedence over the price: no price would have made this offer payable.
            Err(refusal) => NotTaken::Barred {
                code: refusal.code,
                rule: refusal.rule,
            },
            Ok(_) => behind(limits, bid, &bids[chosen]),
        },
    });
    unchosen.collect()
}

fn behind(limits: &Limits, bid: &Bid, chosen: &Bid) -> NotTaken {
    let (its, best) = (rank(limits, bid), rank(limits, chosen));
    let steps = [its.0.cmp(&best.0), its.1.cmp(&best.1), its.2.cmp(&best.2)];
    match steps.iter().position(|step| *step != Ordering::Equal) {
        Some(0) => NotTaken::Dearer,
        Some(1) => NotTaken::Upfront,
        Some(_) => NotTaken::RailOrder,
        None => NotTaken::Later,
    }
}

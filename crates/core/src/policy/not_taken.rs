//! Why an offer that was given to policy is not the one taken.

use std::cmp::Ordering;

use super::limits::{AgentLevels, Limits};
use super::refusal::RefusalCode;
use super::{Bid, Purchase, bars_bid, rank};
use crate::money::MicroUsd;

/// An offer beside the chosen one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchosen {
    /// Index into the offers that were given.
    pub offer: usize,
    /// What it would have counted as; `None` if finance has not said what its currency counts for.
    pub usd: Option<MicroUsd>,
    pub why: NotTaken,
}

/// What stands between an offer and the chosen one: a rule, or else the first step of R20's order in which they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It would not have been paid had it been alone.
    Barred { code: RefusalCode, rule: String },
    /// Allowed, and its price is higher.
    Dearer,
    /// At one price its seller wants the money before it serves, and the chosen one's does not.
    Upfront,
    /// At one price and in one flow the chosen rail stands before its rail in `rails`.
    RailOrder,
    /// In nothing of that behind; the chosen one came first in the 402.
    Later,
}

impl NotTaken {
    /// The codes of what is no rule.
    pub const ORDER: [Self; 4] = [Self::Dearer, Self::Upfront, Self::RailOrder, Self::Later];

    /// Stable text, never renamed; a barred one has its refusal's.
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

/// All bids but `chosen`, each with its reason; nothing, and no work, if there is no other.
pub(super) fn beside(
    chosen: usize,
    limits: &Limits,
    standing: &AgentLevels,
    purchase: &Purchase<'_>,
    bids: &[Bid],
) -> Vec<Unchosen> {
    let others = bids.iter().enumerate().filter(|(offer, _)| *offer != chosen);
    let unchosen = others.map(|(offer, bid)| Unchosen {
        offer,
        usd: bid.price.ok(),
        why: match bars_bid(limits, standing, purchase, bid) {
            // Said even of a dearer one: no change of prices would have had it paid.
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

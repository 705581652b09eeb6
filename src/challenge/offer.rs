//! What a 402 offers, once it is understood: one type for every rail, so that one decision can compare them.

use std::fmt;
use std::sync::Arc;

use alloy_primitives::{Address, B256};

use super::{Echo, ResourceHost};
use crate::assets::Asset;
use crate::money::{Atoms, MicroUsd};

/// The protocol family of an offer, as limits.toml names it under `rails`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rail {
    X402,
    MppEvm,
}

impl Rail {
    const ALL: [Self; 2] = [Self::X402, Self::MppEvm];

    /// As it stands in entries and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X402 => "x402",
            Self::MppEvm => "mpp.evm",
        }
    }

    /// What the rail calls the way of paying that we use, for entries.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::X402 => "exact",
            Self::MppEvm => "charge",
        }
    }

    /// Reads [`Rail::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rail| rail.name() == name)
    }
}

impl fmt::Display for Rail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum X402Version {
    V1,
    V2,
}

/// When the seller settles: after its handler, or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PaymentFlow {
    Authorization,
    Upfront,
}

/// The protocol an offer came by; its credential goes back by the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    X402(X402Version),
    MppEvm,
}

impl Wire {
    pub const fn rail(self) -> Rail {
        match self {
            Self::X402(_) => Rail::X402,
            Self::MppEvm => Rail::MppEvm,
        }
    }
}

/// How long the seller wants a credential to be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// From when it is made; in 10..=86400 (x402 `maxTimeoutSeconds`).
    Seconds(u64),
    /// Up to this Unix second (MPP `expires`).
    Until(u64),
    /// As long as the payer likes (MPP without `expires`).
    Open,
}

impl Term {
    /// Less is left than a seller needs to settle (x402 digest §4.1, mpp digest §10).
    const LEAST_S: u64 = 6;

    /// Ruling 16: `validBefore` of a credential that is made at `now` and lives `longest_s` at most. Unix seconds. `None`:
    /// the challenge has expired, or is about to.
    pub fn valid_before(self, now: u64, longest_s: u64) -> Option<u64> {
        let longest = now.saturating_add(longest_s);
        match self {
            Self::Seconds(seconds) => Some(longest.min(now.saturating_add(seconds))),
            Self::Until(expires) => (expires >= now.saturating_add(Self::LEAST_S)).then(|| longest.min(expires)),
            Self::Open => Some(longest),
        }
    }
}

/// Ruling 18.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonce {
    /// 32 bytes from the operating system.
    Random,
    /// The challenge decides it, and so is answered at most once.
    Fixed(B256),
}

/// One offer that holds in itself: x402 `exact` or MPP `evm`/`charge`, a token of our table that knows EIP-3009, every
/// field strict. Whether *we* pay it is for [`payable`](super::payable) and the policy.
#[derive(Clone, Debug)]
pub struct Offer {
    pub wire: Wire,
    /// Index in the challenge's `accepts`, or among the `Payment` challenges.
    pub position: usize,
    pub asset: &'static Asset,
    pub amount: Atoms,
    /// `amount` as it counts against a budget.
    pub usd: MicroUsd,
    /// Neither zero nor the token.
    pub payee: Address,
    pub term: Term,
    pub nonce: Nonce,
    pub flow: PaymentFlow,
    /// The host it is for: of x402's `resource`, of MPP's `realm`.
    pub resource: ResourceHost,
    /// SHA-256 of the only request body it is for (MPP `digest`).
    pub body: Option<[u8; 32]>,
    /// What the credential repeats to the seller.
    pub echo: Arc<Echo>,
    /// SHA-256 over the offer: the requirement's bytes as received, or the challenge as it is echoed.
    pub sha256: [u8; 32],
}

#[cfg(test)]
impl Offer {
    /// A v2 offer for tests of what comes after parsing; change the fields as needed.
    pub(crate) fn of(asset: &'static Asset, amount: Atoms, payee: Address) -> Self {
        use super::credential::Shared;

        let shared = Arc::new(Shared::new(None, None));
        Self {
            wire: Wire::X402(X402Version::V2),
            position: 0,
            asset,
            amount,
            usd: MicroUsd::of(amount, asset.decimals).unwrap(),
            payee,
            term: Term::Seconds(60),
            nonce: Nonce::Random,
            flow: PaymentFlow::Authorization,
            resource: ResourceHost::Same,
            body: None,
            echo: Arc::new(Echo::v2("{}", shared)),
            sha256: [0; 32],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_is_never_longer_than_any_party_wants() {
        for (term, longest, valid_before) in [
            (Term::Seconds(60), 300, Some(1060)),
            (Term::Seconds(600), 300, Some(1300)),
            (Term::Until(1200), 300, Some(1200)),
            (Term::Until(9999), 300, Some(1300)),
            (Term::Until(1006), 300, Some(1006)),
            (Term::Until(1005), 300, None),
            (Term::Until(0), 300, None),
            (Term::Open, 300, Some(1300)),
            (Term::Open, u64::MAX, Some(u64::MAX)),
        ] {
            assert_eq!(term.valid_before(1000, longest), valid_before, "{term:?}");
        }
    }
}

//! What a 402 offers, once parsed: one type for every rail, so that one decision can compare them.

use std::fmt;
use std::sync::Arc;

use alloy_primitives::{Address, B256};

use super::{Echo, ResourceHost, mpp};
use crate::account::Account;
use crate::assets::Asset;
#[cfg(any(test, feature = "testing"))]
use crate::assets::Token;
use crate::money::{Atoms, MicroUsd};

/// A way of paying, as limits.toml names it under `rails`. It determines what is signed or issued, and what proves the
/// outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rail {
    /// x402 `exact`, by an EIP-3009 authorization.
    X402,
    /// x402 `exact`, through Permit2.
    X402Permit2,
    /// x402 `upto`: the seller takes any part of the amount.
    X402UpTo,
    /// MPP `evm`/`charge`, by an EIP-3009 authorization.
    MppEvm,
    /// MPP `tempo`/`charge`, by a signed transaction.
    MppTempo,
    /// MPP `stripe`/`charge`, by a Shared Payment Token.
    MppStripe,
}

/// Where an offer appears in a 402, and where its credential goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    X402,
    Mpp,
}

impl Protocol {
    pub const fn name(self) -> &'static str {
        match self {
            Self::X402 => "x402",
            Self::Mpp => "mpp",
        }
    }
}

/// Identifies one of a 402's offers: `x402 1`, `mpp 0`, counted from 0 in the server's order. The protocol without a
/// number is its whole challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub protocol: Protocol,
    /// As in [`Offer::position`].
    pub position: Option<usize>,
}

impl Place {
    pub const fn of(protocol: Protocol, position: usize) -> Self {
        Self {
            protocol,
            position: Some(position),
        }
    }

    pub const fn challenge(protocol: Protocol) -> Self {
        Self {
            protocol,
            position: None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.protocol.name();
        match self.position {
            Some(position) => write!(f, "{name} {position}"),
            None => f.write_str(name),
        }
    }
}

impl Rail {
    pub const ALL: [Self; 6] = [
        Self::MppEvm,
        Self::X402,
        Self::MppTempo,
        Self::MppStripe,
        Self::X402Permit2,
        Self::X402UpTo,
    ];

    /// The default order (R20). The rails through Permit2 are used only if the file lists them, because they need an
    /// allowance from the wallet (threat 1.11).
    pub const USUAL: [Self; 4] = [Self::MppEvm, Self::X402, Self::MppTempo, Self::MppStripe];

    /// The name in entries, lists and limits.toml.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X402 => "x402",
            Self::X402Permit2 => "x402.permit2",
            Self::X402UpTo => "x402.upto",
            Self::MppEvm => "mpp.evm",
            Self::MppTempo => "mpp.tempo",
            Self::MppStripe => "mpp.stripe",
        }
    }

    /// The protocol's name for what we use, for entries.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::X402 | Self::X402Permit2 => "exact",
            Self::X402UpTo => "upto",
            Self::MppEvm | Self::MppTempo | Self::MppStripe => "charge",
        }
    }

    pub const fn protocol(self) -> Protocol {
        match self {
            Self::X402 | Self::X402Permit2 | Self::X402UpTo => Protocol::X402,
            Self::MppEvm | Self::MppTempo | Self::MppStripe => Protocol::Mpp,
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

/// When the seller settles: after its handler has run, or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PaymentFlow {
    Authorization,
    Upfront,
}

/// What a rail records in addition to amount, asset and payee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clause {
    None,
    /// `upto`: the only account that may take the money.
    Facilitator(Address),
    /// Tempo: the highest possible network fee, in atoms of the token paid with. It counts like the amount.
    FeeCap(Atoms),
}

/// How long the seller wants a credential to be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// Counted from its creation; in 10..=86400 (x402 `maxTimeoutSeconds`, of which longer ones count as a day).
    Seconds(u64),
    /// Up to this Unix second (MPP `expires`).
    Until(u64),
    /// Up to the payer (MPP without `expires`).
    Open,
}

impl Term {
    /// The least time that a seller needs to settle, in seconds (x402 §4.1, MPP §10).
    pub const LEAST_S: u64 = 6;

    /// R16: `validBefore` of a credential that is created at `now` and lives at most `longest_s`, in Unix seconds.
    /// `None` if the challenge has expired or is about to.
    pub fn valid_before(self, now: u64, longest_s: u64) -> Option<u64> {
        let longest = now.saturating_add(longest_s);
        match self {
            Self::Seconds(seconds) => Some(longest.min(now.saturating_add(seconds))),
            Self::Until(expires) => (expires >= now.saturating_add(Self::LEAST_S)).then(|| longest.min(expires)),
            Self::Open => Some(longest),
        }
    }
}

/// How the nonce of a payment is chosen (R18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonce {
    /// 32 bytes from the operating system.
    Random,
    /// The challenge determines it, so that each challenge is answered at most once.
    Fixed(B256),
}

/// An offer that is valid in itself: a supported rail, an asset in our table that the rail can move, every field
/// strictly parsed. Whether bursar pays it is up to [`payable`](super::payable) and the policy.
#[derive(Clone, Debug)]
pub struct Offer {
    pub rail: Rail,
    /// Index in the challenge's `accepts`, or among the `Payment` challenges.
    pub position: usize,
    pub asset: Asset,
    pub amount: Atoms,
    /// What `amount` and fee count as against a budget. `None` if it is not in dollars, so that finance's rate is
    /// needed.
    pub usd: Option<MicroUsd>,
    /// An address is neither zero nor that of the token.
    pub payee: Account,
    pub clause: Clause,
    pub term: Term,
    pub nonce: Nonce,
    pub flow: PaymentFlow,
    /// The host it is for, from x402's `resource` or MPP's `realm`.
    pub resource: ResourceHost,
    /// MPP's `realm` as received, which limits.toml may pin (R71).
    pub realm: Option<Arc<str>>,
    /// SHA-256 of the only request body that it is for (MPP `digest`).
    pub body: Option<[u8; 32]>,
    /// What the credential repeats to the seller.
    pub echo: Arc<Echo>,
    /// SHA-256 of the offer: of the requirement's bytes as received, or of the challenge as echoed.
    pub sha256: [u8; 32],
}

impl Offer {
    /// Like [`Term::valid_before`], but within what the rail allows (R16).
    pub fn valid_before(&self, now: u64, longest_s: u64) -> Option<u64> {
        let longest_s = match self.rail {
            Rail::MppTempo => longest_s.min(mpp::tempo::LONGEST_S),
            Rail::MppStripe => longest_s.min(mpp::stripe::LONGEST_S),
            Rail::X402 | Rail::X402Permit2 | Rail::X402UpTo | Rail::MppEvm => longest_s,
        };
        self.term.valid_before(now, longest_s)
    }

    pub fn place(&self) -> Place {
        Place::of(self.rail.protocol(), self.position)
    }

    /// The most that can leave the wallet for it.
    pub fn outlay(&self) -> Atoms {
        match self.clause {
            Clause::FeeCap(fee) => Atoms::new(self.amount.get().saturating_add(fee.get())),
            Clause::None | Clause::Facilitator(_) => self.amount,
        }
    }
}

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)] // only tests call it
impl Offer {
    /// A v2 offer for tests of what comes after parsing; change the fields as needed.
    pub fn of(token: &'static Token, amount: Atoms, payee: Address) -> Self {
        use super::credential::Shared;

        let shared = Arc::new(Shared::new(None, None));
        Self {
            rail: Rail::X402,
            position: 0,
            asset: Asset::Token(token),
            amount,
            usd: super::requirement::in_dollars(amount, token).unwrap(),
            payee: payee.into(),
            clause: Clause::None,
            term: Term::Seconds(60),
            nonce: Nonce::Random,
            flow: PaymentFlow::Authorization,
            resource: ResourceHost::Same,
            realm: None,
            body: None,
            echo: Arc::new(Echo::v2("{}", Rail::X402, shared)),
            sha256: [0; 32],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_protocol_and_position() {
        assert_eq!(Place::of(Protocol::Mpp, 0).to_string(), "mpp 0");
        assert_eq!(Place::of(Protocol::X402, 15).to_string(), "x402 15");
        assert_eq!(Place::challenge(Protocol::X402).to_string(), "x402");
    }

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

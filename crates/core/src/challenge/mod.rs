//! Turns a 402 into a list of offers, or into a reason why it has none. Nothing here performs I/O.
//!
//! The steps: [`look`] inspects the head, [`v2`] or [`v1`] parses x402, and [`with_mpp`] adds the offers of MPP, so
//! that one 402 gives one list. [`payable`] checks an offer against the payer. After the decision,
//! [`credential`](credential::credential) builds the header that pays, and [`receipt`](receipt::receipt) reads the
//! seller's receipt. Parsing is strict wherever a lenient reading could cost money (x402 §9.2). What is echoed to the
//! seller is kept as received.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName};

use crate::account::Account;
use crate::assets::{Asset, Mode, Network, Token};

pub mod credential;
mod header;
pub mod json;
pub mod mpp;
mod offer;
pub mod permit2;
pub mod receipt;
mod requirement;
mod resource;
mod why;
mod x402;

pub use credential::{Authorization, Credential, Echo, Payload};
pub use offer::{Clause, Nonce, Offer, PaymentFlow, Place, Protocol, Rail, Term, X402Version};
pub use receipt::{Receipt, ReceiptReason};
pub use resource::ResourceHost;
pub use why::Why;
pub use x402::{v1, v2};

/// `PAYMENT-REQUIRED`: the x402 v2 challenge.
pub const PAYMENT_REQUIRED: HeaderName = HeaderName::from_static("payment-required");

/// R33: the most offers in one 402, over all protocols.
const MAX_OFFERS: usize = 16;

/// An offer that cannot or must not be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpayable {
    pub place: Place,
    pub why: Why,
}

/// A challenge that was understood. One bad requirement does not affect the others.
#[derive(Clone, Debug)]
pub struct Challenge {
    pub offers: Vec<Offer>,
    pub unpayable: Vec<Unpayable>,
}

impl Challenge {
    fn len(&self) -> usize {
        self.offers.len() + self.unpayable.len()
    }
}

/// Where the head of a 402 says the challenge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// In a header: parse it with [`v2`].
    V2Header(&'a [u8]),
    /// The body is JSON and may be a v1 challenge: read it within R34's bounds and parse it with [`v1`].
    Body,
    /// There is no x402 challenge: pass the response on unchanged.
    Nothing(Why),
}

/// Inspects the head of a 402. The caller has checked the status.
pub fn look(headers: &HeaderMap) -> Found<'_> {
    let mut values = headers.get_all(PAYMENT_REQUIRED).iter();
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => Found::Nothing(Why::HeaderRepeated),
        (Some(value), None) if value.as_bytes().trim_ascii().is_empty() => Found::Nothing(Why::HeaderEmpty),
        (Some(value), None) => Found::V2Header(value.as_bytes()),
        (None, _) if has_json_body(headers) => Found::Body,
        (None, _) => Found::Nothing(Why::NoChallenge),
    }
}

/// The offers of both protocols in one 402 as one list: the parsed `x402` challenge, and the `Payment` challenges in
/// `headers`. An error in one does not affect the other, but more than 16 offers in total are rejected (R33).
pub fn with_mpp(headers: &HeaderMap, x402: Result<Challenge, Why>) -> Result<Challenge, Why> {
    let mut all = mpp::read(headers);
    let no_mpp = all.len() == 0;
    match x402 {
        Ok(x402) => {
            all.offers.extend(x402.offers);
            all.unpayable.extend(x402.unpayable);
        }
        Err(Why::NoChallenge | Why::NotX402) if no_mpp => return Err(Why::NoChallenge),
        Err(why) if no_mpp || why == Why::TooManyOffers => return Err(why),
        Err(Why::NoChallenge | Why::NotX402) => {}
        Err(why) => {
            let place = Place::challenge(Protocol::X402);
            all.unpayable.push(Unpayable { place, why });
        }
    }
    if all.len() > MAX_OFFERS {
        return Err(Why::TooManyOffers);
    }
    Ok(all)
}

/// What a remote signer can pay, if there is one: BKey (approvals §4.6).
#[derive(Clone, Copy, Debug, Default)]
pub struct Remote {
    /// The only token that it signs for, by EIP-3009 and in whole US cents. `None`: bursar itself has the wallet's key.
    pub signs: Option<&'static Token>,
    /// Whether it issues the tokens for cards, in US dollars.
    pub issues: bool,
}

impl Remote {
    fn does(self, offer: &Offer) -> Result<(), Why> {
        match (offer.asset, self.signs) {
            (Asset::Token(token), Some(signs)) => match offer.rail {
                Rail::X402 if *token != *signs => Err(Why::SignerToken),
                // Never rounded: the amount paid is the amount asked for.
                Rail::X402 if !offer.amount.get().is_multiple_of(CENT) || offer.amount.is_zero() => {
                    Err(Why::SignerCents)
                }
                Rail::X402 => Ok(()),
                // The challenge fixes the nonce (R18), but BKey chooses its own.
                Rail::MppEvm => Err(Why::SignerNonce),
                _ => Err(Why::SignerRail),
            },
            (Asset::Fiat(_, currency), _) if self.issues && !currency.is_dollar() => Err(Why::SignerCurrency),
            (Asset::Fiat(..), _) if self.issues && offer.amount.is_zero() => Err(Why::SignerCents),
            _ => Ok(()),
        }
    }
}

/// One US cent in atoms of a dollar token with 6 decimals.
pub const CENT: u128 = 10_000;

/// Who would pay, and for which request.
pub struct Payer<'a> {
    /// The wallet's address, if there is a wallet.
    pub address: Option<Address>,
    /// Whether the Stripe key is live, if there is a key.
    pub stripe: Option<Mode>,
    pub remote: Remote,
    /// The networks named in bursar.toml (R21).
    pub networks: &'a BTreeSet<Network>,
    /// The networks among them that have an RPC node.
    pub proven: &'a BTreeSet<Network>,
    /// Host of the request: A-label, lower case, no port.
    pub request_host: &'a str,
    /// Other hosts that limits.toml lists for this merchant (R23).
    pub resource_hosts: &'a [String],
    /// Whether offers of amount "0" are accepted (R22).
    pub zero_amount: bool,
    /// Unix seconds.
    pub now: u64,
}

/// Whether `payer` is able to pay `offer`. Whether it may is for the policy to decide.
pub fn payable(offer: &Offer, payer: &Payer<'_>) -> Result<(), Why> {
    match offer.asset {
        Asset::Token(token) => {
            let address = payer.address.ok_or(Why::NoWallet)?;
            if !payer.networks.contains(&token.network()) {
                return Err(Why::NetworkNotConfigured);
            }
            if offer.rail == Rail::X402UpTo && !payer.proven.contains(&token.network()) {
                return Err(Why::UpToNeedsNode);
            }
            if offer.payee == Account::Address(address) {
                return Err(Why::PayeeIsPayer);
            }
        }
        Asset::Fiat(mode, _) => match payer.stripe {
            None => return Err(Why::StripeNotConfigured),
            // A test key cannot pay a live profile, nor the reverse.
            Some(ours) if ours != mode => return Err(Why::StripeModeDiffers),
            Some(_) => {}
        },
    }
    payer.remote.does(offer)?;
    if offer.amount.is_zero() && !payer.zero_amount {
        return Err(Why::AmountZero);
    }
    // A zero amount on Tempo asks for a proof of address, which is a login, not a payment (MPP §8.1).
    if offer.amount.is_zero() && offer.rail == Rail::MppTempo {
        return Err(Why::ModeUnsupported);
    }
    if offer.valid_before(payer.now, u64::MAX).is_none() {
        return Err(Why::ChallengeExpired);
    }
    // Threat 1.10: a merchant that serves another one's challenge could make us buy from the other on its behalf.
    match &offer.resource {
        ResourceHost::Same => Ok(()),
        ResourceHost::Unreadable if offer.rail.protocol() != Protocol::X402 => Err(Why::RealmDiffers),
        ResourceHost::Unreadable => Err(Why::ResourceUnreadable),
        ResourceHost::Named(host) => {
            let mut accepted =
                std::iter::once(payer.request_host).chain(payer.resource_hosts.iter().map(String::as_str));
            if accepted.any(|known| resource::same_host(known, host)) {
                Ok(())
            } else if offer.rail.protocol() == Protocol::X402 {
                Err(Why::ResourceHostDiffers)
            } else {
                Err(Why::RealmDiffers)
            }
        }
    }
}

/// Whether a payable offer is still payable, now that the request's body is known and time has passed.
pub fn still_payable(offer: &Offer, body_sha256: &[u8; 32], now: u64) -> Result<(), Why> {
    if offer.body.is_some_and(|body| body != *body_sha256) {
        return Err(Why::DigestMismatch);
    }
    let left = offer.valid_before(now, u64::MAX);
    left.map(|_| ()).ok_or(Why::ChallengeExpired)
}

/// Problem details are JSON too, but never an x402 challenge: MPP sellers send them along with their header.
fn has_json_body(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else {
        return false;
    };
    let kind = kind.split(';').next().unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    kind == "application/json" || (kind.ends_with("+json") && kind != "application/problem+json")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::money::Atoms;

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn the_header_wins_over_the_body() {
        let headers = head(&[("payment-required", "e30="), ("content-type", "application/json")]);
        assert_eq!(look(&headers), Found::V2Header(b"e30="));
    }

    #[test]
    fn a_second_header_is_refused_even_if_equal() {
        let headers = head(&[("payment-required", "e30="), ("payment-required", "e30=")]);
        assert_eq!(look(&headers), Found::Nothing(Why::HeaderRepeated));
        assert_eq!(v2(b"e30=, e30=").err(), Some(Why::HeaderRepeated));
    }

    #[test]
    fn only_json_bodies_are_read() {
        for kind in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/vnd.x402+json",
        ] {
            assert_eq!(look(&head(&[("content-type", kind)])), Found::Body, "{kind}");
        }
        for kind in ["text/html", "application/jsonl", "text/plain; a=application/json"] {
            let headers = head(&[("content-type", kind)]);
            assert_eq!(look(&headers), Found::Nothing(Why::NoChallenge), "{kind}");
        }
        assert_eq!(look(&head(&[])), Found::Nothing(Why::NoChallenge));
    }

    #[test]
    fn hosts_must_be_equal_or_named() {
        let networks = BTreeSet::from([Network::Eip155(84_532)]);
        let asset = crate::assets::tokens_of(Network::Eip155(84_532)).next().unwrap();
        let mut offer = Offer::of(asset, Atoms::new(1), Address::repeat_byte(1));
        let hosts = ["cdn.example.com".to_owned()];
        let payer = Payer {
            address: Some(Address::repeat_byte(2)),
            stripe: None,
            remote: Remote::default(),
            networks: &networks,
            proven: &networks,
            request_host: "api.example.com",
            resource_hosts: &hosts,
            zero_amount: false,
            now: 1,
        };
        for (resource, verdict) in [
            (ResourceHost::Same, Ok(())),
            (ResourceHost::Named("api.example.com".into()), Ok(())),
            (ResourceHost::Named("cdn.example.com".into()), Ok(())),
            (ResourceHost::Named("example.com".into()), Err(Why::ResourceHostDiffers)),
            (ResourceHost::Unreadable, Err(Why::ResourceUnreadable)),
        ] {
            offer.resource = resource;
            assert_eq!(payable(&offer, &payer), verdict, "{:?}", offer.resource);
        }
    }

    #[test]
    fn a_v1_body_may_come_with_an_mpp_header() {
        let headers = head(&[
            ("www-authenticate", "Payment id=\"x\""),
            ("content-type", "application/json"),
        ]);
        assert_eq!(look(&headers), Found::Body);
    }
}

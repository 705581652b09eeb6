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
mod rfc3339;
mod why;
mod x402;

pub use credential::{Authorization, Credential, Echo, Payload};
pub use offer::{Clause, Nonce, Offer, PaymentFlow, Place, Protocol, Rail, Term, X402Version};
pub use receipt::{Receipt, ReceiptReason};
pub use resource::ResourceHost;
pub use why::Why;
pub use x402::{v1, v2};

use resource::{is_public, same_host};

/// `PAYMENT-REQUIRED`: the x402 v2 challenge.
pub const PAYMENT_REQUIRED: HeaderName = HeaderName::from_static("payment-required");

/// R33: the most offers in one 402, over all protocols (R74).
pub const MAX_OFFERS: usize = 64;

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
    /// The body may be a v1 challenge: read it within R34's bounds and parse it with [`BodyType::challenge`].
    Body(BodyType),
    /// There is no x402 challenge: pass the response on unchanged.
    Nothing(Why),
}

/// A body in which a challenge is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyType {
    /// It is text, or of no type: only if its first byte that is not blank is `{` is it worth reading (R74).
    pub is_guess: bool,
    /// Why there is no challenge if the body has none either.
    pub otherwise: Why,
}

impl BodyType {
    /// The challenge in the decoded body.
    pub fn challenge(self, body: &[u8]) -> Result<Challenge, Why> {
        v1(body).map_err(|why| match why {
            Why::NotX402 => self.otherwise,
            // Nothing has said that it is JSON.
            Why::NotJson if self.is_guess => self.otherwise,
            why => why,
        })
    }
}

/// Inspects the head of a 402. The caller has checked the status.
pub fn look(headers: &HeaderMap) -> Found<'_> {
    let mut values = headers.get_all(PAYMENT_REQUIRED).iter();
    // R74: an empty header says nothing, so a v1 body beside it counts.
    let otherwise = match (values.next(), values.next()) {
        (Some(_), Some(_)) => return Found::Nothing(Why::HeaderRepeated),
        (Some(value), None) if !value.as_bytes().trim_ascii().is_empty() => return Found::V2Header(value.as_bytes()),
        (Some(_), None) => Why::HeaderEmpty,
        (None, _) => Why::NoChallenge,
    };
    match is_guess(headers) {
        Some(is_guess) => Found::Body(BodyType { is_guess, otherwise }),
        None => Found::Nothing(otherwise),
    }
}

/// The offers of both protocols in one 402 as one list: the parsed `x402` challenge, and the `Payment` challenges in
/// `headers`. An error in one does not affect the other, but more than 64 offers in total are rejected (R33).
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
    /// The only realms that limits.toml accepts from this merchant; empty if it lists none (R71).
    pub realms: &'a [String],
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
    payer.check_merchant(offer)
}

impl Payer<'_> {
    /// Threat 1.10: a merchant that serves another one's challenge could make us buy from the other on its behalf.
    fn check_merchant(&self, offer: &Offer) -> Result<(), Why> {
        let (differs, unreadable) = match offer.rail.protocol() {
            Protocol::X402 => (Why::ResourceHostDiffers, Why::ResourceUnreadable),
            Protocol::Mpp => (Why::RealmDiffers, Why::RealmDiffers),
        };
        if let Some(realm) = self.pinned_realm(offer) {
            let is_listed = self.realms.iter().any(|listed| listed == realm);
            return is_listed.then_some(()).ok_or(differs);
        }
        match &offer.resource {
            ResourceHost::Same | ResourceHost::Words => Ok(()),
            ResourceHost::Named(host) if self.is_known_as(host) || !is_public(host) => Ok(()),
            ResourceHost::Named(_) => Err(differs),
            ResourceHost::Unreadable => Err(unreadable),
        }
    }

    /// The offer's realm, if limits.toml says which ones this merchant may have.
    fn pinned_realm<'o>(&self, offer: &'o Offer) -> Option<&'o str> {
        offer.realm.as_deref().filter(|_| !self.realms.is_empty())
    }

    fn is_known_as(&self, host: &str) -> bool {
        let mut known = std::iter::once(self.request_host).chain(self.resource_hosts.iter().map(String::as_str));
        known.any(|known| same_host(known, host))
    }

    /// Whether `offer`, which is payable, says nothing about the merchant, so that it is taken for the host that was
    /// asked (R71).
    pub fn takes_on_trust(&self, offer: &Offer) -> bool {
        match &offer.resource {
            _ if self.pinned_realm(offer).is_some() => false,
            ResourceHost::Words => true,
            ResourceHost::Named(host) => !is_public(host) && !self.is_known_as(host),
            ResourceHost::Same | ResourceHost::Unreadable => false,
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

/// Whether looking for a challenge in a body of this type is a guess; `None` if it is not looked for. Problem details
/// are JSON too, but never an x402 challenge: MPP sellers send them along with their header.
fn is_guess(headers: &HeaderMap) -> Option<bool> {
    let Some(kind) = headers.get(CONTENT_TYPE) else {
        return Some(true);
    };
    let kind = kind.to_str().ok()?.split(';').next().unwrap_or_default();
    match kind.trim().to_ascii_lowercase().as_str() {
        "" | "text/plain" => Some(true),
        "application/problem+json" => None,
        "application/json" => Some(false),
        kind => kind.ends_with("+json").then_some(false),
    }
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
        for merged in [&b"e30=, e30="[..], b"e30=,e30=", b"e30=,", b"-_-_, e30="] {
            assert_eq!(v2(merged).err(), Some(Why::HeaderRepeated));
        }
        // Not encoded at all, or something else with a comma.
        for raw in [
            r#"{"x402Version":2,"accepts":[]}"#,
            "[1,2]",
            "e30=, {}",
            "realm=\"a\", id=\"b\"",
        ] {
            assert_eq!(v2(raw.as_bytes()).err(), Some(Why::NotBase64), "{raw}");
        }
    }

    #[test]
    fn only_json_bodies_are_read() {
        for kind in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/vnd.x402+json",
        ] {
            assert_eq!(
                look(&head(&[("content-type", kind)])),
                body(false, Why::NoChallenge),
                "{kind}"
            );
        }
        for kind in [
            "text/html",
            "application/jsonl",
            "text/plainer",
            "application/problem+json",
        ] {
            let headers = head(&[("content-type", kind)]);
            assert_eq!(look(&headers), Found::Nothing(Why::NoChallenge), "{kind}");
        }
        for kind in [
            "text/plain",
            "Text/Plain; charset=utf-8",
            "text/plain; a=application/json",
            "",
        ] {
            assert_eq!(
                look(&head(&[("content-type", kind)])),
                body(true, Why::NoChallenge),
                "{kind}"
            );
        }
        assert_eq!(look(&head(&[])), body(true, Why::NoChallenge));
    }

    fn body(is_guess: bool, otherwise: Why) -> Found<'static> {
        Found::Body(BodyType { is_guess, otherwise })
    }

    #[test]
    fn an_empty_header_counts_as_absent_beside_a_v1_body() {
        const V1: &[u8] = br#"{"x402Version":1,"accepts":[{}]}"#;
        for (kind, is_guess) in [("application/json", false), ("text/plain", true)] {
            let headers = head(&[("payment-required", " "), ("content-type", kind)]);
            let Found::Body(found) = look(&headers) else {
                panic!("{kind}");
            };
            assert_eq!(
                found,
                BodyType {
                    is_guess,
                    otherwise: Why::HeaderEmpty
                }
            );
            assert_eq!(found.challenge(V1).unwrap().unpayable.len(), 1);
            // The reason is the header's unless the body is a challenge.
            assert_eq!(found.challenge(b"{}").err(), Some(Why::HeaderEmpty));
        }
        let html = head(&[("payment-required", ""), ("content-type", "text/html")]);
        assert_eq!(look(&html), Found::Nothing(Why::HeaderEmpty));
        let twice = head(&[("payment-required", ""), ("payment-required", "e30=")]);
        assert_eq!(look(&twice), Found::Nothing(Why::HeaderRepeated));
    }

    #[test]
    fn text_that_is_no_challenge_is_no_fault_of_the_seller() {
        let guess = |text: &str, is_guess| {
            let otherwise = Why::NoChallenge;
            BodyType { is_guess, otherwise }.challenge(text.as_bytes()).err()
        };
        assert_eq!(guess("{ pay first }", true), Some(Why::NoChallenge));
        assert_eq!(guess("{ pay first }", false), Some(Why::NotJson));
        assert_eq!(guess("{\"x402Version\":1}", true), Some(Why::OffersMissing));
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
            realms: &[],
            zero_amount: false,
            now: 1,
        };
        let named = |host: &str| ResourceHost::Named(host.into());
        for (resource, verdict, on_trust) in [
            (ResourceHost::Same, Ok(()), false),
            (named("api.example.com"), Ok(()), false),
            (named("cdn.example.com"), Ok(()), false),
            (named("example.com"), Err(Why::ResourceHostDiffers), false),
            (named("198.51.100.7"), Err(Why::ResourceHostDiffers), false),
            (ResourceHost::Unreadable, Err(Why::ResourceUnreadable), false),
            // These say nothing about the merchant.
            (ResourceHost::Words, Ok(()), true),
            (named("localhost"), Ok(()), true),
            (named("127.0.0.1"), Ok(()), true),
            (named("backend"), Ok(()), true),
        ] {
            offer.resource = resource;
            assert_eq!(payable(&offer, &payer), verdict, "{:?}", offer.resource);
            assert_eq!(payer.takes_on_trust(&offer), on_trust, "{:?}", offer.resource);
        }
    }

    #[test]
    fn a_merchant_with_pinned_realms_is_paid_for_no_other() {
        let networks = BTreeSet::from([Network::Eip155(84_532)]);
        let asset = crate::assets::tokens_of(Network::Eip155(84_532)).next().unwrap();
        let mut offer = Offer::of(asset, Atoms::new(1), Address::repeat_byte(1));
        let realms = ["MPP Payment".to_owned(), "b\u{fc}cher.example".to_owned()];
        let payer = Payer {
            address: Some(Address::repeat_byte(2)),
            stripe: None,
            remote: Remote::default(),
            networks: &networks,
            proven: &networks,
            request_host: "api.example.com",
            resource_hosts: &[],
            realms: &realms,
            zero_amount: false,
            now: 1,
        };
        // An offer of x402 has no realm.
        offer.resource = ResourceHost::Named("api.example.com".into());
        assert_eq!(payable(&offer, &payer), Ok(()));
        offer.rail = Rail::MppEvm;
        for (realm, verdict) in [
            ("MPP Payment", Ok(())),
            ("b\u{fc}cher.example", Ok(())),
            ("MPP payment", Err(Why::RealmDiffers)),
            ("api.example.com", Err(Why::RealmDiffers)),
            ("localhost", Err(Why::RealmDiffers)),
        ] {
            offer.realm = Some(realm.into());
            offer.resource = ResourceHost::of_realm(realm);
            assert_eq!(payable(&offer, &payer), verdict, "{realm}");
            assert!(!payer.takes_on_trust(&offer), "{realm}");
        }
    }

    #[test]
    fn a_v1_body_may_come_with_an_mpp_header() {
        let headers = head(&[
            ("www-authenticate", "Payment id=\"x\""),
            ("content-type", "application/json"),
        ]);
        assert_eq!(look(&headers), body(false, Why::NoChallenge));
    }
}

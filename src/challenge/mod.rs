//! A 402 becomes a list of offers, or a reason why it does not; nothing here acts.
//!
//! The way through: [`look`] at the head, [`v2`] or [`v1`] to parse, [`payable`] to check one offer against the payer;
//! after the decision [`credential`](credential::credential) makes the header that pays and [`receipt`](receipt::receipt)
//! reads what came back. Parsing is strict wherever a lenient reading could cost money (x402 digest §9.2); what is
//! echoed to the seller is kept as the bytes that came.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use alloy_primitives::Address;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};

use crate::assets::{Asset, Network};
use crate::money::{Atoms, MicroUsd};

pub mod credential;
mod json;
pub mod receipt;
mod requirement;
mod resource;
mod why;
mod x402;

pub use credential::{Authorization, Credential, Echo};
pub use receipt::{Receipt, ReceiptReason};
pub use resource::ResourceHost;
pub use why::Why;
pub use x402::{v1, v2};

/// `PAYMENT-REQUIRED`: the x402 v2 challenge.
pub const PAYMENT_REQUIRED: HeaderName = HeaderName::from_static("payment-required");

/// The protocol family of an offer, as limits.toml names it under `rails`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rail {
    X402,
}

impl Rail {
    /// As it stands in entries and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X402 => "x402",
        }
    }

    /// Reads [`Rail::name`].
    pub fn parse(name: &str) -> Option<Self> {
        (name == Self::X402.name()).then_some(Self::X402)
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

/// One requirement that holds in itself: scheme `exact`, a token of our table that knows EIP-3009, every field strict.
/// Whether *we* pay it is for [`payable`] and the policy.
#[derive(Clone, Debug)]
pub struct Offer {
    pub version: X402Version,
    /// Index in the challenge's `accepts`.
    pub position: usize,
    pub asset: &'static Asset,
    pub amount: Atoms,
    /// `amount` as it counts against a budget.
    pub usd: MicroUsd,
    /// Neither zero nor the token.
    pub payee: Address,
    /// The requirement's `maxTimeoutSeconds`, in 10..=86400.
    pub max_timeout_s: u64,
    pub flow: PaymentFlow,
    pub resource: ResourceHost,
    /// What the credential repeats to the seller.
    pub echo: Arc<Echo>,
    /// SHA-256 over the requirement's bytes as received.
    pub sha256: [u8; 32],
}

#[cfg(test)]
impl Offer {
    /// A v2 offer for tests of what comes after parsing; change the fields as needed.
    pub(crate) fn of(asset: &'static Asset, amount: Atoms, payee: Address) -> Self {
        let shared = Arc::new(credential::Shared::new(None, None));
        Self {
            version: X402Version::V2,
            position: 0,
            asset,
            amount,
            usd: MicroUsd::of(amount, asset.decimals).unwrap(),
            payee,
            max_timeout_s: 60,
            flow: PaymentFlow::Authorization,
            resource: ResourceHost::Same,
            echo: Arc::new(Echo::v2("{}", shared)),
            sha256: [0; 32],
        }
    }
}

/// An offer that nobody should pay, or that we cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpayable {
    /// Index in the challenge's `accepts`.
    pub position: Option<usize>,
    pub why: Why,
}

/// A challenge that was understood. One bad requirement spoils no other.
#[derive(Clone, Debug)]
pub struct Challenge {
    pub offers: Vec<Offer>,
    pub unpayable: Vec<Unpayable>,
}

/// What the head of a 402 promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// To be read by [`v2`].
    V2Header(&'a [u8]),
    /// JSON that may be a v1 challenge: read the body (Ruling 34's bounds) and give it to [`v1`].
    Body,
    /// Nothing for us: pass the answer on untouched.
    Nothing(Why),
}

/// The first look at the head of a 402. The caller has checked the status.
pub fn look(headers: &HeaderMap) -> Found<'_> {
    let mut values = headers.get_all(PAYMENT_REQUIRED).iter();
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => Found::Nothing(Why::HeaderRepeated),
        (Some(value), None) if value.as_bytes().trim_ascii().is_empty() => Found::Nothing(Why::HeaderEmpty),
        (Some(value), None) => Found::V2Header(value.as_bytes()),
        (None, _) if has_json_body(headers) => Found::Body,
        (None, _) => Found::Nothing(without_x402(headers)),
    }
}

/// The reason to give for a 402 that turned out to carry no x402 challenge, in its head or in its body.
pub fn without_x402(headers: &HeaderMap) -> Why {
    if offers_mpp(headers) {
        Why::MppOnly
    } else {
        Why::NoChallenge
    }
}

/// Who would pay, for what request.
pub struct Payer<'a> {
    pub address: Address,
    /// The networks named in bursar.toml (Ruling 21).
    pub networks: &'a BTreeSet<Network>,
    /// Host of the request: A-label, lower case, no port.
    pub request_host: &'a str,
    /// Other hosts that the merchant's section of limits.toml names (Ruling 23).
    pub resource_hosts: &'a [String],
    /// Whether offers of amount "0" are taken (Ruling 22).
    pub zero_amount: bool,
}

/// Whether `payer` can take `offer`. What it may spend is the policy's question, not this one's.
pub fn payable(offer: &Offer, payer: &Payer<'_>) -> Result<(), Why> {
    if !payer.networks.contains(&offer.asset.network) {
        return Err(Why::NetworkNotConfigured);
    }
    if offer.payee == payer.address {
        return Err(Why::PayeeIsPayer);
    }
    if offer.amount.is_zero() && !payer.zero_amount {
        return Err(Why::AmountZero);
    }
    // Threats 1.10: a merchant that serves another one's challenge would have us buy for it over there.
    match &offer.resource {
        ResourceHost::Same => Ok(()),
        ResourceHost::Unreadable => Err(Why::ResourceUnreadable),
        ResourceHost::Named(host) => {
            let mut accepted =
                std::iter::once(payer.request_host).chain(payer.resource_hosts.iter().map(String::as_str));
            if accepted.any(|known| resource::same_host(known, host)) {
                Ok(())
            } else {
                Err(Why::ResourceHostDiffers)
            }
        }
    }
}

/// Problem details are JSON too, but never an x402 challenge: MPP sellers send them beside their header.
fn has_json_body(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else {
        return false;
    };
    let kind = kind.split(';').next().unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    kind == "application/json" || (kind.ends_with("+json") && kind != "application/problem+json")
}

/// Whether a `WWW-Authenticate` field offers the scheme `Payment`, alone or in a list of challenges (RFC 9110 §11.6.1).
fn offers_mpp(headers: &HeaderMap) -> bool {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .any(|value| outside_quotes(value.as_bytes(), b',').any(is_payment_challenge))
}

fn is_payment_challenge(item: &[u8]) -> bool {
    let item = item.trim_ascii();
    let scheme = item.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"payment")
}

fn outside_quotes(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |byte| {
        let was_escaped = std::mem::take(&mut escaped);
        match byte {
            b'\\' if quoted && !was_escaped => escaped = true,
            b'"' if !was_escaped => quoted = !quoted,
            _ => {}
        }
        *byte == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

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
    fn mpp_alone_is_named() {
        for value in [
            r#"Payment id="x", realm="api.example.com""#,
            r#"payment id="x""#,
            r#"Bearer realm="a, b", Payment id="x""#,
        ] {
            let headers = head(&[
                ("www-authenticate", value),
                ("content-type", "application/problem+json"),
            ]);
            assert_eq!(look(&headers), Found::Nothing(Why::MppOnly), "{value}");
        }
        for value in [
            r#"Bearer realm="x, Payment y""#,
            r#"Bearer realm="\", Payment y""#,
            "PaymentX a=b",
            "Bearer Payment=1",
        ] {
            let headers = head(&[("www-authenticate", value)]);
            assert_eq!(look(&headers), Found::Nothing(Why::NoChallenge), "{value}");
        }
    }

    #[test]
    fn hosts_must_be_equal_or_named() {
        let networks = BTreeSet::from([Network::Eip155(84_532)]);
        let asset = crate::assets::assets_of(Network::Eip155(84_532)).next().unwrap();
        let mut offer = Offer::of(asset, Atoms::new(1), Address::repeat_byte(1));
        let hosts = ["cdn.example.com".to_owned()];
        let payer = Payer {
            address: Address::repeat_byte(2),
            networks: &networks,
            request_host: "api.example.com",
            resource_hosts: &hosts,
            zero_amount: false,
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
    fn a_v1_body_may_stand_beside_an_mpp_header() {
        let headers = head(&[
            ("www-authenticate", "Payment id=\"x\""),
            ("content-type", "application/json"),
        ]);
        assert_eq!(look(&headers), Found::Body);
        assert_eq!(without_x402(&headers), Why::MppOnly);
    }
}

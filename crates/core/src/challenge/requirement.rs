//! Turns one entry of `accepts` into an [`Offer`], or into a reason why not (x402 §2.1, §2.2, §4, §9.2).

use std::sync::Arc;

use alloy_primitives::Address;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::credential::{Echo, Shared};
use super::json::Object;
use super::{Clause, Nonce, Offer, PaymentFlow, Rail, ResourceHost, Term, Why, X402Version};
use crate::assets::{self, Asset, Network, Standard, Token};
use crate::money::{Atoms, MicroUsd};

/// What all requirements of a challenge share.
pub(super) struct Context {
    pub version: X402Version,
    /// For v2 only: v1 names a resource in each requirement.
    pub resource: ResourceHost,
    pub shared: Arc<Shared>,
}

/// Reads one requirement. `raw` is its text, already known to be strict JSON.
pub(super) fn offer(position: usize, raw: &str, context: &Context) -> Result<Offer, Why> {
    let object = Object::read(raw).ok_or(Why::RequirementNotObject)?;
    let scheme = Scheme::of(&object, context.version)?;
    let network_name = object.text("network").ok_or(Why::NetworkMalformed)?;
    let network = network(&network_name, context.version)?;
    let token = token(&object, network)?;
    let extra = object.object("extra").ok_or(Why::TokenDomainMissing)?;
    let (rail, clause) = rail(scheme, &extra, token)?;
    // v1 predates all transfer methods except EIP-3009 (x402 §2.4).
    if context.version == X402Version::V1 && rail != Rail::X402 {
        return Err(Why::TransferMethodUnsupported);
    }
    let flow = check_extra(&extra, token)?;
    let amount = amount(&object, context.version)?;
    let usd = in_dollars(amount, token)?;
    let payee = payee(&object, token)?;
    let max_timeout_s = max_timeout(&object)?;
    let (echo, resource) = match context.version {
        X402Version::V1 => (Echo::v1(network_name), resource_member(&object, "resource")),
        X402Version::V2 => (
            Echo::v2(raw, rail, Arc::clone(&context.shared)),
            context.resource.clone(),
        ),
    };
    // Checked now, so that no limit is charged for a credential that could not be sent.
    if !echo.fits() {
        return Err(Why::CredentialTooLarge);
    }
    Ok(Offer {
        rail,
        position,
        asset: Asset::Token(token),
        amount,
        usd,
        payee: payee.into(),
        clause,
        term: Term::Seconds(max_timeout_s),
        nonce: Nonce::Random,
        flow,
        resource,
        realm: None,
        body: None,
        echo: Arc::new(echo),
        sha256: Sha256::digest(raw.as_bytes()).into(),
    })
}

/// The supported schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Exact,
    /// The seller takes any part of the amount.
    UpTo,
}

impl Scheme {
    fn of(requirement: &Object<'_>, version: X402Version) -> Result<Self, Why> {
        match (requirement.text("scheme").as_deref(), version) {
            (Some("exact"), _) => Ok(Self::Exact),
            (Some("upto"), X402Version::V2) => Ok(Self::UpTo),
            _ => Err(Why::SchemeUnsupported),
        }
    }
}

/// The rail for a scheme and a transfer method. The reference client falls back to EIP-3009 for methods it does not
/// know; bursar does not (x402 §4).
fn rail(scheme: Scheme, extra: &Object<'_>, token: &Token) -> Result<(Rail, Clause), Why> {
    let method = match (extra.member("assetTransferMethod"), extra.text("assetTransferMethod")) {
        (None, _) => None,
        (Some(_), Some(method)) => Some(method),
        (Some(_), None) => return Err(Why::TransferMethodUnsupported),
    };
    match (scheme, method.as_deref(), token.standard) {
        (_, _, Standard::Tip20) => Err(Why::AssetUnknown),
        (Scheme::Exact, None | Some("eip3009"), Standard::Eip3009) => Ok((Rail::X402, Clause::None)),
        (Scheme::Exact, None | Some("eip3009"), Standard::Erc20) => Err(Why::AssetNeedsPermit2),
        (Scheme::Exact, Some("permit2"), _) => Ok((Rail::X402Permit2, Clause::None)),
        (Scheme::UpTo, None | Some("permit2"), _) => {
            let facilitator = extra.text("facilitatorAddress").ok_or(Why::FacilitatorMissing)?;
            let facilitator = address(&facilitator).filter(|address| !address.is_zero());
            let facilitator = facilitator.ok_or(Why::FacilitatorMissing)?;
            Ok((Rail::X402UpTo, Clause::Facilitator(facilitator)))
        }
        _ => Err(Why::TransferMethodUnsupported),
    }
}

/// The host of a URL member. If the member is absent, it is the host of the request itself.
pub(super) fn resource_member(object: &Object<'_>, name: &str) -> ResourceHost {
    match (object.member(name), object.text(name)) {
        (None, _) => ResourceHost::Same,
        (Some(_), Some(url)) => ResourceHost::of_url(&url),
        (Some(_), None) => ResourceHost::Unreadable,
    }
}

fn network(name: &str, version: X402Version) -> Result<Network, Why> {
    let network = match version {
        X402Version::V1 => Network::from_v1_name(name).ok_or(Why::NetworkUnsupported)?,
        X402Version::V2 => match name.split_once(':') {
            Some(("eip155", _)) => Network::parse(name).ok_or(Why::NetworkMalformed)?,
            Some(_) => return Err(Why::NetworkUnsupported),
            None => return Err(Why::NetworkMalformed),
        },
    };
    if assets::tokens_of(network).next().is_none() {
        return Err(Why::NetworkUnsupported);
    }
    Ok(network)
}

fn token(requirement: &Object<'_>, network: Network) -> Result<&'static Token, Why> {
    let text = requirement.text("asset").ok_or(Why::AssetMalformed)?;
    let address = address(&text).ok_or(Why::AssetMalformed)?;
    assets::token(network, &address).ok_or(Why::AssetUnknown)
}

/// `extra` names the flow, and must describe the token as our table does (R22).
fn check_extra(extra: &Object<'_>, token: &Token) -> Result<PaymentFlow, Why> {
    let flow = match (extra.member("paymentFlow"), extra.text("paymentFlow")) {
        (None, _) => PaymentFlow::Authorization,
        (Some(_), Some(flow)) if flow == "authorization" => PaymentFlow::Authorization,
        (Some(_), Some(flow)) if flow == "upfront" => PaymentFlow::Upfront,
        _ => return Err(Why::PaymentFlowUnsupported),
    };
    let name = extra.text("name").ok_or(Why::TokenDomainMissing)?;
    let version = extra.text("version").ok_or(Why::TokenDomainMissing)?;
    if name != token.eip712_name || version != token.eip712_version {
        return Err(Why::TokenDomainMismatch);
    }
    Ok(flow)
}

fn amount(requirement: &Object<'_>, version: X402Version) -> Result<Atoms, Why> {
    let member = match version {
        X402Version::V1 => "maxAmountRequired",
        X402Version::V2 => "amount",
    };
    Ok(Atoms::parse(&requirement.text(member).ok_or(Why::AmountNotText)?)?)
}

/// What `amount` counts as. `None`: the token stands for another currency, which finance prices.
pub(super) fn in_dollars(amount: Atoms, token: &Token) -> Result<Option<MicroUsd>, Why> {
    match token.currency.is_dollar() {
        true => Ok(Some(MicroUsd::of(amount, token.decimals)?)),
        false => Ok(None),
    }
}

fn payee(requirement: &Object<'_>, token: &Token) -> Result<Address, Why> {
    payee_of(&requirement.text("payTo").ok_or(Why::PayeeMalformed)?, token)
}

/// The prefix of all token addresses on Tempo. None of them accepts money: the transfer fails, and the fee is lost.
const TIP20: [u8; 12] = [0x20, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Reads an address that money may be sent to.
pub(super) fn payee_of(text: &str, token: &Token) -> Result<Address, Why> {
    let payee = address(text).ok_or(Why::PayeeMalformed)?;
    // EIP-55: only mixed case carries a checksum.
    let mixed = text[2..].bytes().any(|b| b.is_ascii_lowercase()) && text[2..].bytes().any(|b| b.is_ascii_uppercase());
    if mixed && payee.to_checksum(None) != text {
        return Err(Why::PayeeChecksum);
    }
    if payee.is_zero() {
        return Err(Why::PayeeZero);
    }
    if payee == token.address || (token.standard == Standard::Tip20 && payee.starts_with(&TIP20)) {
        return Err(Why::PayeeIsAsset);
    }
    Ok(payee)
}

/// R17: below this the offer is refused, because nobody could settle in time.
const LEAST_TIMEOUT_S: u64 = 10;
/// R73: a longer one counts as a day. What is signed is bounded by `max_validity` anyway.
const LONGEST_TIMEOUT_S: u64 = 86_400;

fn max_timeout(requirement: &Object<'_>) -> Result<u64, Why> {
    let raw = requirement
        .member("maxTimeoutSeconds")
        .map(RawValue::get)
        .ok_or(Why::TimeoutNotInteger)?;
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Why::TimeoutNotInteger);
    }
    if digits.len() < raw.len() {
        return Err(Why::TimeoutOutOfRange);
    }
    // All digits: what does not fit in 64 bits is longer than a day.
    match raw.parse().unwrap_or(u64::MAX) {
        ..LEAST_TIMEOUT_S => Err(Why::TimeoutOutOfRange),
        seconds => Ok(seconds.min(LONGEST_TIMEOUT_S)),
    }
}

/// `0x` and 40 hex digits, nothing else.
pub(super) fn address(text: &str) -> Option<Address> {
    let digits = text.strip_prefix("0x")?;
    if digits.len() != 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    digits.parse().ok()
}

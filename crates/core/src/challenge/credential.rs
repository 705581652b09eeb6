//! The header that pays: x402's `PAYMENT-SIGNATURE` (v2) and `X-PAYMENT` (v1), x402 §2.3, §2.4, §4.1, and MPP's
//! `Authorization: Payment`, MPP §4.
//!
//! The seller gets back exactly the text it sent, not a copy that went through a JSON library: servers compare deeply,
//! and answer any difference with "No matching payment requirements". So the header is assembled as text from parts
//! that are each known to be valid JSON.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use alloy_primitives::{Address, B256, hex};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::header::{CredentialField, PAYMENT_SIGNATURE, X_PAYMENT};
use super::json::Object;
use super::permit2::{self, Permit2Transfer, TokenPermit};
use super::{Protocol, Rail, Why};
use crate::assets::Network;
use crate::money::Atoms;

/// The limit on the header (R33).
const MAX_HEADER: usize = 64 * 1024;
/// The prefix of an MPP credential.
const MPP_SCHEME: &str = "Payment ";
/// More than everything around the echo: the signed values, signatures, payment id and member names.
const AROUND_ECHO: usize = 2560;

/// What is signed: one `TransferWithAuthorization` (EIP-3009). Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    pub network: Network,
    pub from: Address,
    pub to: Address,
    pub value: Atoms,
    pub valid_after: u64,
    pub valid_before: u64,
    pub nonce: B256,
}

/// What was signed or issued for the seller, to be put into a credential.
pub enum Payload<'a> {
    /// `signature` is r, s, v.
    Authorization {
        authorization: &'a Authorization,
        signature: &'a [u8; 65],
    },
    /// A transfer through Permit2; `permission` is a permit of the token that the seller submits along with it.
    Permit2 {
        transfer: &'a Permit2Transfer,
        signature: &'a [u8; 65],
        permission: Option<(&'a TokenPermit<'a>, &'a [u8; 65])>,
    },
    /// A signed Tempo transaction, and who signed it.
    Transaction {
        from: Address,
        network: Network,
        /// `0x` and hex.
        signed: &'a str,
    },
    /// The id of a Shared Payment Token: letters, digits and underscores. Together with the seller's key it can be
    /// charged.
    SharedPaymentToken(&'a str),
}

/// The part of the challenge that a credential repeats, as text exactly as received.
#[derive(Debug)]
pub struct Echo {
    rail: Rail,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    V1 {
        network: String,
    },
    V2 {
        accepted: String,
        shared: Arc<Shared>,
    },
    Mpp {
        challenge: String,
        field: CredentialField,
        /// A merchant's reference that is returned with the payment.
        external_id: Option<String>,
    },
}

/// The parts of a v2 echo that all offers of a challenge share.
#[derive(Debug)]
pub(super) struct Shared {
    resource: Option<String>,
    extensions: Option<String>,
    id_slot: Option<IdSlot>,
    /// Where `eip2612GasSponsoring.info` is in the text of the extensions, if the permit can be added there.
    sponsoring: Option<Range<usize>>,
}

/// Where `"id"` goes in the text of the extensions.
#[derive(Debug, PartialEq, Eq)]
struct IdSlot {
    at: usize,
    alone: bool,
}

/// A value that lets its holder move money. It has no `Debug` and is wiped when dropped.
pub struct Credential(Zeroizing<String>);

impl Echo {
    /// `network` is the v1 name as received.
    pub(super) fn v1(network: String) -> Self {
        let (rail, parts) = (Rail::X402, Parts::V1 { network });
        Self { rail, parts }
    }

    /// `accepted` is the requirement's text.
    pub(super) fn v2(accepted: &str, rail: Rail, shared: Arc<Shared>) -> Self {
        let accepted = accepted.to_owned();
        let parts = Parts::V2 { accepted, shared };
        Self { rail, parts }
    }

    /// `challenge` is the text of the JSON object that repeats the challenge's parameters.
    pub(super) fn mpp(challenge: String, field: CredentialField, rail: Rail) -> Self {
        let parts = Parts::Mpp {
            challenge,
            field,
            external_id: None,
        };
        Self { rail, parts }
    }

    /// Like [`Echo::mpp`], with the request's `externalId`.
    pub(super) fn stripe(challenge: String, field: CredentialField, external_id: Option<String>) -> Self {
        let parts = Parts::Mpp {
            challenge,
            field,
            external_id: external_id.map(|id| serde_json::Value::from(id).to_string()),
        };
        let rail = Rail::MppStripe;
        Self { rail, parts }
    }

    /// The rail of a credential made from this.
    pub fn rail(&self) -> Rail {
        self.rail
    }

    /// Whether the seller offers to submit a permit of the token for Permit2 (EIP-2612).
    pub fn brings_permission(&self) -> bool {
        matches!(&self.parts, Parts::V2 { shared, .. } if shared.sponsoring.is_some())
    }

    /// Whether a credential made from this stays within 64 KiB.
    pub(super) fn fits(&self) -> bool {
        (self.len() + AROUND_ECHO).div_ceil(3) * 4 <= MAX_HEADER
    }

    fn len(&self) -> usize {
        match &self.parts {
            Parts::V1 { network } => network.len(),
            Parts::V2 { accepted, shared } => accepted.len() + shared.len(),
            Parts::Mpp {
                challenge, external_id, ..
            } => challenge.len() + external_id.as_ref().map_or(0, String::len),
        }
    }
}

impl Shared {
    /// Texts of the challenge's `resource` and `extensions`, already known to be strict JSON.
    pub(super) fn new(resource: Option<&str>, extensions: Option<&str>) -> Self {
        Self {
            resource: resource.map(str::to_owned),
            extensions: extensions.map(str::to_owned),
            id_slot: extensions.and_then(id_slot),
            sponsoring: extensions.and_then(sponsoring),
        }
    }

    fn len(&self) -> usize {
        [&self.resource, &self.extensions]
            .into_iter()
            .flatten()
            .map(String::len)
            .sum()
    }

    /// What the server says about submitting the permit for us.
    fn sponsoring(&self) -> Option<&str> {
        self.extensions.as_deref()?.get(self.sponsoring.clone()?)
    }

    /// The extensions, with the payment id added if the server asked for one, and `permission` in place of
    /// [`Shared::sponsoring`].
    fn extensions_with(&self, payment_id: Option<&str>, permission: Option<&str>) -> Option<Zeroizing<String>> {
        let mut text = Zeroizing::new(self.extensions.clone()?);
        let id = self.id_slot.as_ref().zip(payment_id).map(|(slot, id)| {
            let comma = if slot.alone { "" } else { "," };
            (slot.at..slot.at, format!("\"id\":\"{id}\"{comma}"))
        });
        let permission = self.sponsoring.clone().zip(permission.map(str::to_owned));
        let mut changes: Vec<(Range<usize>, String)> = [id, permission].into_iter().flatten().collect();
        // From the end, so that earlier positions stay valid.
        changes.sort_by_key(|(place, _)| Reverse(place.start));
        for (place, new) in changes {
            text.replace_range(place, &new);
        }
        Some(text)
    }
}

impl Credential {
    /// A credential read back from `private/` (R7). `None` if the text cannot be one.
    pub fn from_stored(text: String) -> Option<Self> {
        let text = Zeroizing::new(text);
        let token = text.strip_prefix(MPP_SCHEME).unwrap_or(&text);
        let plain = token
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'_'));
        (plain && !token.is_empty() && text.len() <= MAX_HEADER).then_some(Self(text))
    }

    /// The text itself, only for `private/` (R7).
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The header's value, marked sensitive to keep it out of logs and HPACK tables.
    #[cfg_attr(
        not(test),
        expect(clippy::expect_used, reason = "every way to make one checks for base64")
    )]
    pub fn header_value(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&self.0).expect("base64 is visible ASCII, checked when made");
        value.set_sensitive(true);
        value
    }

    /// SHA-256 of the header's value, which entries contain instead of it.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

/// Builds the credential. `payment_id` goes into `payment-identifier`, if the server offered that extension and set no
/// id of its own. Payload and echo must be for the same rail.
pub fn credential(
    echo: &Echo,
    payload: &Payload<'_>,
    payment_id: Option<&str>,
) -> Result<(HeaderName, Credential), Why> {
    if payment_id.is_some_and(|id| !is_payment_id(id)) {
        return Err(Why::PaymentIdMalformed);
    }
    let body = payload.json(echo)?;
    // Allocate everything at once: a string that grows leaves copies behind that are never wiped.
    let mut json = Zeroizing::new(String::with_capacity(echo.len() + body.len() + AROUND_ECHO));
    let name = match &echo.parts {
        Parts::V1 { network } => {
            // A name from our own table, so nothing needs escaping.
            json.push_str(r#"{"x402Version":1,"scheme":"exact","network":""#);
            json.push_str(network);
            json.push_str(r#"","payload":"#);
            json.push_str(&body);
            X_PAYMENT
        }
        Parts::V2 { accepted, shared } => {
            json.push_str(r#"{"x402Version":2,"payload":"#);
            json.push_str(&body);
            let permission = payload.permission(shared)?;
            let permission = permission.as_ref().map(|text| text.as_str());
            if let Some(extensions) = shared.extensions_with(payment_id, permission) {
                json.push_str(r#","extensions":"#);
                json.push_str(&extensions);
            }
            if let Some(resource) = &shared.resource {
                json.push_str(r#","resource":"#);
                json.push_str(resource);
            }
            json.push_str(r#","accepted":"#);
            json.push_str(accepted);
            PAYMENT_SIGNATURE
        }
        Parts::Mpp { challenge, field, .. } => {
            json.push_str(r#"{"challenge":"#);
            json.push_str(challenge);
            json.push_str(r#","payload":"#);
            json.push_str(&body);
            if let Some((network, from)) = payload.source(echo) {
                // Servers compare it including the checksum (MPP §4).
                json.push_str(r#","source":"did:pkh:"#);
                json.push_str(&network.to_string());
                json.push(':');
                json.push_str(&from.to_checksum(None));
                json.push('"');
            }
            field.header()
        }
    };
    json.push('}');
    let value = match echo.rail.protocol() {
        Protocol::X402 => STANDARD.encode(json.as_bytes()),
        Protocol::Mpp => {
            let mut value = String::with_capacity(MPP_SCHEME.len() + json.len().div_ceil(3) * 4);
            value.push_str(MPP_SCHEME);
            URL_SAFE_NO_PAD.encode_string(json.as_bytes(), &mut value);
            value
        }
    };
    let value = Zeroizing::new(value);
    if value.len() > MAX_HEADER {
        return Err(Why::CredentialTooLarge);
    }
    Ok((name, Credential(value)))
}

impl Payload<'_> {
    /// The member `payload`.
    fn json(&self, echo: &Echo) -> Result<Zeroizing<String>, Why> {
        Ok(Zeroizing::new(match (echo.rail, self) {
            (
                Rail::X402,
                Self::Authorization {
                    authorization,
                    signature,
                },
            ) => {
                let signature = Zeroizing::new(hex::encode(signature));
                let members = members(authorization);
                format!(
                    r#"{{"authorization":{{{members}}},"signature":"0x{}"}}"#,
                    signature.as_str()
                )
            }
            (
                Rail::MppEvm,
                Self::Authorization {
                    authorization,
                    signature,
                },
            ) => {
                let signature = Zeroizing::new(hex::encode(signature));
                let members = members(authorization);
                format!(
                    r#"{{"type":"authorization",{members},"signature":"0x{}"}}"#,
                    signature.as_str()
                )
            }
            (
                Rail::X402Permit2 | Rail::X402UpTo,
                Self::Permit2 {
                    transfer, signature, ..
                },
            ) => {
                return Ok(permit2::payload(transfer, signature));
            }
            (Rail::MppTempo, Self::Transaction { signed, .. }) => {
                format!(r#"{{"type":"transaction","signature":"{signed}"}}"#)
            }
            (Rail::MppStripe, Self::SharedPaymentToken(id)) => match &echo.parts {
                Parts::Mpp {
                    external_id: Some(external_id),
                    ..
                } => format!(r#"{{"spt":"{id}","externalId":{external_id}}}"#),
                _ => format!(r#"{{"spt":"{id}"}}"#),
            },
            _ => return Err(Why::PayloadOfAnotherRail),
        }))
    }

    /// The text to put into the extensions so that the seller submits the token's permit.
    fn permission(&self, shared: &Shared) -> Result<Option<Zeroizing<String>>, Why> {
        let Self::Permit2 {
            permission: Some((permit, signature)),
            ..
        } = self
        else {
            return Ok(None);
        };
        let offered = shared.sponsoring().ok_or(Why::AllowanceMissing)?;
        let info = permit2::sponsored_info(offered, permit, signature);
        info.map(Some).ok_or(Why::AllowanceMissing)
    }

    /// The payer, if the MPP credential names one.
    fn source(&self, echo: &Echo) -> Option<(Network, Address)> {
        match self {
            Self::Authorization { authorization, .. } => Some((authorization.network, authorization.from)),
            Self::Transaction { from, network, .. } => Some((*network, *from)),
            Self::Permit2 { .. } | Self::SharedPaymentToken(_) => None,
        }
        .filter(|_| echo.rail.protocol() == Protocol::Mpp)
    }
}

/// The signed values, as members of a JSON object.
fn members(authorization: &Authorization) -> String {
    let Authorization {
        from,
        to,
        value,
        valid_after,
        valid_before,
        nonce,
        ..
    } = authorization;
    format!(
        r#""from":"{}","to":"{}","value":"{}","validAfter":"{}","validBefore":"{}","nonce":"{}""#,
        from.to_checksum(None),
        to.to_checksum(None),
        value.get(),
        valid_after,
        valid_before,
        nonce
    )
}

/// Finds the object `payment-identifier.info`. An `id` that is already there stays: on conflict the server's value wins
/// (x402 §2.3).
fn id_slot(extensions: &str) -> Option<IdSlot> {
    let place = info_of(extensions, "payment-identifier")?;
    let members = Object::read(extensions.get(place.clone())?)?;
    if members.has("id") {
        return None;
    }
    Some(IdSlot {
        at: place.start + 1,
        alone: members.is_empty(),
    })
}

/// Where the token's permit goes. Determined now, so that no money is reserved for a permit that could not be sent.
fn sponsoring(extensions: &str) -> Option<Range<usize>> {
    let place = info_of(extensions, "eip2612GasSponsoring")?;
    permit2::takes_permission(extensions.get(place.clone())?).then_some(place)
}

/// Where the value of an extension's `info` is.
fn info_of(extensions: &str, name: &str) -> Option<Range<usize>> {
    let info = Object::read(extensions)?.object(name)?.member("info")?.get();
    // `info` is a part of `extensions`, so the distance between their first bytes is its offset.
    let offset = (info.as_ptr() as usize).checked_sub(extensions.as_ptr() as usize)?;
    debug_assert_eq!(extensions.get(offset..offset + info.len()), Some(info));
    Some(offset..offset + info.len())
}

/// The alphabet and length that the extension requires (x402 §8).
fn is_payment_id(id: &str) -> bool {
    (16..=128).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "pay_7d5d747be160e280504c099d984bcfe0";

    fn authorization() -> Authorization {
        Authorization {
            network: Network::Eip155(1),
            from: Address::repeat_byte(1),
            to: Address::repeat_byte(2),
            value: Atoms::new(u128::MAX),
            valid_after: 0,
            valid_before: u64::MAX,
            nonce: B256::repeat_byte(3),
        }
    }

    fn signed(echo: &Echo, signature: &[u8; 65], id: Option<&str>) -> Result<(HeaderName, Credential), Why> {
        let authorization = &authorization();
        credential(
            echo,
            &Payload::Authorization {
                authorization,
                signature,
            },
            id,
        )
    }

    fn with_id(extensions: &str) -> Option<String> {
        let shared = Shared::new(None, Some(extensions));
        shared.extensions_with(Some(ID), None).map(|text| text.to_string())
    }

    #[test]
    fn the_id_is_added_and_nothing_else_changes() {
        for (before, after) in [
            (
                r#"{ "a":1, "payment-identifier" : {"schema":{}, "info": { "required" :true} } }"#,
                r#"{ "a":1, "payment-identifier" : {"schema":{}, "info": {"id":"ID", "required" :true} } }"#,
            ),
            (
                r#"{"payment-identifier":{"info":{}}}"#,
                r#"{"payment-identifier":{"info":{"id":"ID"}}}"#,
            ),
        ] {
            assert_eq!(with_id(before), Some(after.replace("ID", ID)));
        }
    }

    #[test]
    fn without_a_place_for_the_id_the_extensions_stay() {
        for same in [
            r#"{"bazaar":{"info":{}}}"#,
            r#"{"payment-identifier":{}}"#,
            r#"{"payment-identifier":{"info":[]}}"#,
            r#"{"payment-identifier":{"info":{"id":"server_chose_this_one"}}}"#,
            // Servers would not agree about JSON with a duplicate member.
            r#"{"payment-identifier":{"info":{"id":null}}}"#,
            r#"[]"#,
        ] {
            assert_eq!(with_id(same).as_deref(), Some(same));
        }
        assert_eq!(Shared::new(None, None).extensions_with(Some(ID), None), None);
    }

    #[test]
    fn an_id_that_could_break_out_of_its_quotes_is_refused() {
        for bad in ["short", "pay_\",\"x\":\"0123456789", &"x".repeat(129)] {
            let echo = Echo::v1("base".into());
            let result = signed(&echo, &[0; 65], Some(bad));
            assert_eq!(result.err(), Some(Why::PaymentIdMalformed));
        }
    }

    #[test]
    fn the_allowance_around_the_echo_is_enough() {
        let shared = Shared::new(Some("{}"), Some(r#"{"payment-identifier":{"info":{"a":1}}}"#));
        let accepted = "{}";
        let echo = Echo::v2(accepted, Rail::X402, Arc::new(shared));
        let id = "x".repeat(128);
        let (_, credential) = signed(&echo, &[255; 65], Some(&id)).unwrap();
        let json = STANDARD.decode(credential.expose()).unwrap();
        assert!(json.len() <= echo.len() + AROUND_ECHO, "{}", json.len());
    }

    #[test]
    fn an_oversized_echo_is_refused() {
        let accepted = format!("\"{}\"", "x".repeat(49_000));
        let echo = Echo::v2(&accepted, Rail::X402, Arc::new(Shared::new(None, None)));
        assert!(!echo.fits());
        let result = signed(&echo, &[0; 65], None);
        assert_eq!(result.err(), Some(Why::CredentialTooLarge));
    }

    #[test]
    fn a_stored_credential_reads_back() {
        let echo = Echo::v1("base".into());
        let (name, made) = signed(&echo, &[7; 65], None).unwrap();
        assert_eq!(name, X_PAYMENT);
        let stored = Credential::from_stored(made.expose().to_owned()).unwrap();
        assert_eq!(stored.sha256(), made.sha256());
        assert_eq!(stored.header_value(), made.header_value());
        assert!(made.header_value().is_sensitive());
        let mpp = Echo::mpp("{}".into(), CredentialField::Authorization, Rail::MppEvm);
        let (name, made) = signed(&mpp, &[7; 65], None).unwrap();
        assert_eq!(name, http::header::AUTHORIZATION);
        let stored = Credential::from_stored(made.expose().to_owned()).unwrap();
        assert_eq!(stored.header_value(), made.header_value());
        for bad in ["", "a b", "a\r\nx: y", "é", "Payment ", "Payment a b", "Bearer a"] {
            assert!(Credential::from_stored(bad.to_owned()).is_none());
        }
    }
}

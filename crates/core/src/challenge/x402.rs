//! The two envelopes of x402: v2 in a header, v1 in a body (x402 §1.2, §2.1, §2.2).

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::credential::Shared;
use super::json::{self, Object};
use super::requirement::{self, Context};
use super::{Challenge, MAX_OFFERS, Place, Protocol, ResourceHost, Unpayable, Why, X402Version};

/// Parses the value of `PAYMENT-REQUIRED`: base64 of a JSON object with `x402Version` 2.
pub fn v2(header: &[u8]) -> Result<Challenge, Why> {
    let header = header.trim_ascii();
    if header.is_empty() {
        return Err(Why::HeaderEmpty);
    }
    // Several fields that a proxy has merged into one. JSON that was not encoded has commas too.
    let is_value = |part: &[u8]| json::is_base64(part.trim_ascii());
    if header.contains(&b',') && header.split(|byte| *byte == b',').all(is_value) {
        return Err(Why::HeaderRepeated);
    }
    let decoded = json::from_base64(header)?;
    let object = Object::read(json::checked(&decoded)?).ok_or(Why::NotObject)?;
    // Two documents of the specification write the version as a string (x402 §2.1).
    match object.member("x402Version").map(RawValue::get) {
        Some("2" | "\"2\"") => {}
        _ => return Err(Why::VersionUnsupported),
    }
    let extensions = object.member("extensions").map(RawValue::get);
    let requirements = requirements(&object).map_err(|why| {
        let sign_in = object
            .object("extensions")
            .is_some_and(|known| known.member("sign-in-with-x").is_some());
        match why {
            Why::OffersEmpty if sign_in => Why::SignInOnly,
            other => other,
        }
    })?;
    let context = Context {
        version: X402Version::V2,
        resource: resource_host(&object),
        shared: Arc::new(Shared::new(object.member("resource").map(RawValue::get), extensions)),
    };
    Ok(collect(&requirements, &context))
}

/// Parses a JSON body as a challenge with `x402Version` 1. The caller has decoded `Content-Encoding`.
pub fn v1(body: &[u8]) -> Result<Challenge, Why> {
    let object = Object::read(json::checked(body)?).ok_or(Why::NotX402)?;
    match object.member("x402Version").map(RawValue::get) {
        Some("1") => {}
        Some("2" | "\"2\"") => return Err(Why::V2InBody),
        Some(_) => return Err(Why::VersionUnsupported),
        None => return Err(Why::NotX402),
    }
    let context = Context {
        version: X402Version::V1,
        resource: ResourceHost::Same,
        shared: Arc::new(Shared::new(None, None)),
    };
    Ok(collect(&requirements(&object)?, &context))
}

fn requirements<'a>(challenge: &Object<'a>) -> Result<Vec<&'a RawValue>, Why> {
    let list = challenge.member("accepts").ok_or(Why::OffersMissing)?;
    let list: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| Why::OffersMissing)?;
    match list.len() {
        0 => Err(Why::OffersEmpty),
        1..=MAX_OFFERS => Ok(list),
        _ => Err(Why::TooManyOffers),
    }
}

fn collect(requirements: &[&RawValue], context: &Context) -> Challenge {
    let mut challenge = Challenge {
        offers: Vec::new(),
        unpayable: Vec::new(),
    };
    let mut pairs = HashSet::new();
    for (position, raw) in requirements.iter().enumerate() {
        // R70: a v1 payment names only scheme and network, and the server checks the first entry with these two. Money
        // signed for another one would buy nothing. So the first stands for its pair even if it cannot be paid.
        let is_first = context.version == X402Version::V2 || pair(raw).is_none_or(|pair| pairs.insert(pair));
        let read = match is_first {
            true => requirement::offer(position, raw.get(), context),
            false => Err(Why::FirstOfPair),
        };
        match read {
            Ok(offer) => challenge.offers.push(offer),
            Err(why) => challenge.unpayable.push(Unpayable {
                place: Place::of(Protocol::X402, position),
                why,
            }),
        }
    }
    challenge
}

/// What a v1 payment says about the requirement that it is for.
fn pair(requirement: &RawValue) -> Option<(String, String)> {
    let object = Object::read(requirement.get())?;
    Some((object.text("scheme")?, object.text("network")?))
}

/// v2 names the resource once, in an object; some servers write only its URL (R72).
fn resource_host(challenge: &Object<'_>) -> ResourceHost {
    let Some(raw) = challenge.member("resource") else {
        return ResourceHost::Same;
    };
    match (Object::read(raw.get()), challenge.text("resource")) {
        (Some(resource), _) => requirement::resource_member(&resource, "url"),
        (None, Some(url)) => ResourceHost::of_url(&url),
        (None, None) => ResourceHost::Unreadable,
    }
}

//! What a 402 offers: x402 in a header or a body, MPP in `WWW-Authenticate`, and the credentials made from them.
//!
//! For every offer that is understood, a second reader of the same bytes must find the same amount, asset, payee and
//! validity: never more than the seller asked for. Every offer must also give a credential that repeats the seller's
//! own text.

use bursar_core::challenge::{self, Challenge, Found, Offer, Place, ResourceHost, Term, Why, json};
use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde_json::Value;

use crate::credentials;
use crate::opinion::{self, Node, text};

/// Where fixed challenges come from; also the base of relative URLs.
pub const HOST: &str = "api.example.com";

/// Strict JSON: what is accepted has no duplicate members and bounded depth, and everything else is refused for the
/// right reason.
pub fn json_text(data: &[u8]) {
    let second = Node::read(data);
    match json::checked(data) {
        Ok(accepted) => {
            assert_eq!(accepted.as_bytes(), data);
            let node = second.expect("accepted, but no JSON to the second reader");
            assert!(!node.repeats(), "a duplicate member was accepted");
            assert!(node.depth() <= 32, "{} levels were accepted", node.depth());
            members(accepted);
        }
        Err(Why::TooLarge) => assert!(data.len() > 64 << 10),
        Err(Why::DuplicateKey) => assert!(second.is_none_or(|node| node.repeats())),
        Err(Why::TooDeep) => assert!(second.is_none_or(|node| node.depth() > 32)),
        Err(Why::NotJson) => assert!(second.is_none(), "JSON was refused as none"),
        Err(other) => panic!("refused as {other:?}"),
    }
}

/// The members of an object are the same values under the same names.
fn members(accepted: &str) {
    let value: Value = serde_json::from_str(accepted).expect("checked");
    let object = json::Object::read(accepted);
    let Value::Object(members) = &value else {
        assert!(object.is_none());
        return;
    };
    let object = object.expect("an object");
    assert_eq!(object.is_empty(), members.is_empty());
    for (name, member) in members {
        assert!(object.has(name));
        assert_eq!(object.member(name).is_none(), member.is_null());
        assert_eq!(object.text(name).as_deref(), member.as_str());
        if let Some(raw) = object.member(name) {
            assert!(accepted.contains(raw.get()), "a member's text was not received");
            assert_eq!(
                &serde_json::from_str::<Value>(raw.get()).expect("a member is JSON"),
                member
            );
        }
    }
}

/// Base64 of headers: everything that a strict decoder accepts is accepted with the same result, and what is accepted
/// has one meaning only.
pub fn base64_text(data: &[u8]) {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
    let ours = json::from_base64(data);
    let trimmed = data.trim_ascii();
    for strict in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
        if let Ok(bytes) = strict.decode(trimmed)
            && bytes.len() <= 48 << 10
        {
            assert_eq!(ours.as_deref(), Ok(&bytes[..]));
        }
    }
    if let Ok(bytes) = ours {
        let again: String = String::from_utf8_lossy(trimmed).replace('-', "+").replace('_', "/");
        assert_eq!(STANDARD_NO_PAD.encode(bytes), again.trim_end_matches('='));
    }
}

/// The value of `PAYMENT-REQUIRED`, given as the JSON in it.
pub fn x402_v2(data: &[u8]) {
    let header = encoded(data);
    let Ok(challenge) = challenge::v2(header.as_bytes()) else {
        return;
    };
    let value = opinion::value(data).expect("what is read is strict JSON");
    assert!(matches!(text(&value, "/x402Version"), "2") || value["x402Version"] == 2);
    x402_offers(&challenge, &value, "amount", data);
    for offer in &challenge.offers {
        resource(
            &offer.resource,
            value.pointer("/resource/url").or_else(|| value.get("resource")),
        );
    }
}

/// A v1 challenge, in a body.
pub fn x402_v1(data: &[u8]) {
    let Ok(challenge) = challenge::v1(data) else {
        return;
    };
    let value = opinion::value(data).expect("what is read is strict JSON");
    assert_eq!(value["x402Version"], 1);
    x402_offers(&challenge, &value, "maxAmountRequired", data);
    for offer in &challenge.offers {
        resource(&offer.resource, value["accepts"][offer.position].get("resource"));
    }
}

/// Whole heads of a 402, line by line, with the body after an empty line: every protocol at once, in any order.
pub fn head(data: &[u8]) {
    let (headers, body) = crate::fields::head_and_body(data);
    let x402 = match challenge::look(&headers) {
        Found::V2Header(value) => {
            assert_eq!(headers.get_all("payment-required").iter().count(), 1);
            challenge::v2(value)
        }
        Found::Body(kind) => kind.challenge(body),
        Found::Nothing(why) => Err(why),
    };
    let Ok(all) = challenge::with_mpp(&headers, x402) else {
        return;
    };
    assert!(all.offers.len() + all.unpayable.len() <= 65, "more than 64 offers");
    let mut places: Vec<Place> = all.offers.iter().map(Offer::place).collect();
    places.extend(all.unpayable.iter().map(|unpayable| unpayable.place));
    let count = places.len();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), count, "one place was named twice");
    for offer in &all.offers {
        credentials::repeat(offer);
    }
}

/// The value of one `WWW-Authenticate` field.
pub fn mpp_field(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]);
    let Ok(challenge) = challenge::with_mpp(&headers, Err(Why::NoChallenge)) else {
        return;
    };
    let second: Vec<_> = mpp::protocol::core::parse_www_authenticate_all_bytes([data])
        .into_iter()
        .flatten()
        .collect();
    for offer in &challenge.offers {
        let echo = credentials::challenge_in(&credentials::of(offer, None).0);
        mpp_offer(offer, &echo);
        // Where both find exactly one challenge of this id, they find the same one.
        let mut same = second.iter().filter(|second| second.id == text(&echo, "/id"));
        if let (Some(second), None) = (same.next(), same.next()) {
            assert_eq!(second.realm, text(&echo, "/realm"));
            assert_eq!(second.method.as_str(), text(&echo, "/method"));
            assert_eq!(second.intent.as_str(), text(&echo, "/intent"));
            assert_eq!(second.request.raw(), text(&echo, "/request"));
            assert_eq!(second.expires.as_deref().unwrap_or_default(), text(&echo, "/expires"));
        }
        printed_again(offer, &echo);
    }
}

/// The `request` of an MPP challenge, given as its JSON; the first byte chooses the method.
pub fn mpp_request(data: &[u8]) {
    let Some((first, request)) = data.split_first() else {
        return;
    };
    let method = ["evm", "tempo", "stripe"][usize::from(first % 3)];
    let line = format!(
        "Payment id=\"a\", realm=\"{HOST}\", method=\"{method}\", intent=\"charge\", request=\"{}\"",
        encoded(request)
    );
    let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::try_from(line).expect("base64"))]);
    let challenge = challenge::with_mpp(&headers, Err(Why::NoChallenge)).expect("one challenge");
    assert_eq!(challenge.offers.len() + challenge.unpayable.len(), 1);
    for offer in &challenge.offers {
        let echo = credentials::challenge_in(&credentials::of(offer, None).0);
        assert_eq!(text(&echo, "/method"), method);
        mpp_offer(offer, &echo);
    }
}

/// The host in an x402 `resource` or an MPP `realm`. A client that follows the URL must come to the host that was compared.
pub fn resource_host(data: &[u8]) {
    let (Some((first, rest)), true) = (data.split_first(), data.len() < 4096) else {
        return;
    };
    let Ok(named) = std::str::from_utf8(rest) else {
        return;
    };
    if first % 3 == 2 {
        realm(named);
        return;
    }
    let version = 1 + first % 3;
    let mut requirement = serde_json::json!({
        "scheme": "exact", "network": "eip155:84532", "amount": "10000", "maxAmountRequired": "10000",
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2"}
    });
    let challenge = if version == 1 {
        requirement["network"] = "base-sepolia".into();
        requirement["resource"] = named.into();
        challenge::v1(
            serde_json::json!({"x402Version": 1, "accepts": [requirement]})
                .to_string()
                .as_bytes(),
        )
    } else {
        let json = serde_json::json!({"x402Version": 2, "resource": {"url": named}, "accepts": [requirement]});
        challenge::v2(encoded(json.to_string().as_bytes()).as_bytes())
    };
    let challenge = challenge.expect("the rest of the challenge is good");
    for offer in &challenge.offers {
        resource(&offer.resource, Some(&Value::from(named)));
    }
}

fn realm(named: &str) {
    let quoted: String = named.replace('\\', "\\\\").replace('"', "\\\"");
    let request = serde_json::json!({
        "amount": "10000", "currency": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "recipient": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "methodDetails": {"chainId": 84532, "credentialTypes": ["authorization"]}
    });
    let line = format!(
        "Payment id=\"a\", realm=\"{quoted}\", method=\"evm\", intent=\"charge\", request=\"{}\"",
        encoded(request.to_string().as_bytes())
    );
    let Ok(line) = HeaderValue::from_bytes(line.as_bytes()) else {
        return;
    };
    let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, line)]);
    let Ok(challenge) = challenge::with_mpp(&headers, Err(Why::NoChallenge)) else {
        return;
    };
    for offer in &challenge.offers {
        if let ResourceHost::Named(host) = &offer.resource
            && named.is_ascii()
        {
            let whole = if named.contains("//") {
                named.to_owned()
            } else {
                format!("http://{named}/")
            };
            agrees(host, &whole);
        }
    }
}

/// What a `resource` means to a browser, compared with what was read.
fn resource(read: &ResourceHost, named: Option<&Value>) {
    let named = named.filter(|named| !named.is_null());
    match (read, named) {
        (ResourceHost::Same, Some(Value::String(url))) => {
            if let Some(host) = browsed(url) {
                assert_eq!(host, HOST, "{url:?} was taken for a relative URL");
            }
        }
        (ResourceHost::Named(host), Some(Value::String(url))) => agrees(host, url),
        (ResourceHost::Named(host), _) => panic!("{host} was read from nowhere"),
        (ResourceHost::Words, _) => panic!("only a realm can be words"),
        // No host, or none that is believed.
        _ => {}
    }
}

/// Only a host that can be asked for matters: the others equal none.
fn agrees(host: &str, url: &str) {
    let Ok(asked) = bursar_core::host::Host::parse(host) else {
        return;
    };
    if asked.is_disguised_ipv4() {
        return;
    }
    if let Some(browsed) = browsed(url) {
        let browsed = bursar_core::host::Host::parse(&browsed);
        assert_eq!(browsed.as_ref(), Ok(&asked), "{url:?} leads elsewhere");
    }
}

/// The host that a browser would go to; `None` if it goes nowhere.
fn browsed(url: &str) -> Option<String> {
    let base = url::Url::parse(&format!("https://{HOST}/a/b")).expect("a URL");
    let url = base.join(url).ok()?;
    // Drive letters and `localhost` have rules of their own in file URLs, and nobody pays for those.
    if url.scheme() == "file" {
        return None;
    }
    url.host_str().map(str::to_ascii_lowercase)
}

fn x402_offers(challenge: &Challenge, value: &Value, amount: &str, received: &[u8]) {
    let accepts = value["accepts"].as_array().expect("a list of requirements");
    let mut positions: Vec<usize> = challenge.offers.iter().map(|offer| offer.position).collect();
    positions.extend(
        challenge
            .unpayable
            .iter()
            .filter_map(|unpayable| unpayable.place.position),
    );
    positions.sort_unstable();
    assert_eq!(
        positions,
        (0..accepts.len()).collect::<Vec<_>>(),
        "each requirement is named once"
    );
    for offer in &challenge.offers {
        let requirement = &accepts[offer.position];
        assert_eq!(text(requirement, &format!("/{amount}")), offer.amount.get().to_string());
        assert!(payee(offer).eq_ignore_ascii_case(text(requirement, "/payTo")));
        let token = offer.asset.token().expect("x402 pays tokens");
        assert!(format!("{:#x}", token.address).eq_ignore_ascii_case(text(requirement, "/asset")));
        assert_eq!(text(requirement, "/extra/name"), token.eip712_name);
        assert_eq!(text(requirement, "/extra/version"), token.eip712_version);
        if let Some(network) = text(requirement, "/network").strip_prefix("eip155:") {
            assert_eq!(network, token.chain.to_string());
        }
        // What does not fit is longer than anything.
        let asked = requirement["maxTimeoutSeconds"].as_u64().unwrap_or(u64::MAX);
        match offer.term {
            Term::Seconds(seconds) => assert!(seconds <= asked && (10..=86_400).contains(&seconds)),
            other => panic!("{other:?}"),
        }
        counted(offer, token.decimals);
        let json = credentials::repeat(offer);
        if amount == "amount" {
            // The requirement comes back as it was received, to the byte.
            let accepted = credentials::member(&json, "accepted").expect("the requirement is repeated");
            let received = std::str::from_utf8(received).expect("JSON");
            assert!(received.contains(&accepted), "{accepted} was not received");
            credentials::repeats_the_rest(&json, value);
        }
    }
}

fn mpp_offer(offer: &Offer, echo: &Value) {
    let request = text(echo, "/request");
    let request = json::from_base64(request.as_bytes()).expect("base64");
    let request = opinion::value(&request).expect("strict JSON");
    assert_eq!(text(&request, "/amount"), offer.amount.get().to_string());
    assert!(request.get("splits").is_none_or(Value::is_null));
    match offer.asset.token() {
        Some(token) => {
            assert!(format!("{:#x}", token.address).eq_ignore_ascii_case(text(&request, "/currency")));
            assert_eq!(request["methodDetails"]["chainId"], token.chain);
            assert!(payee(offer).eq_ignore_ascii_case(text(&request, "/recipient")));
            counted(offer, token.decimals);
        }
        None => assert_eq!(payee(offer), text(&request, "/methodDetails/networkId")),
    }
    if let Term::Until(second) = offer.term
        && let Ok(expires) = text(echo, "/expires").parse::<jiff::Timestamp>()
    {
        let expires = u64::try_from(expires.as_second()).unwrap_or(0);
        assert!(second <= expires, "valid for longer than asked for");
    }
    credentials::repeat(offer);
}

/// Parse, print, parse: the challenge that a credential repeats is the one that was read.
fn printed_again(offer: &Offer, echo: &Value) {
    let parameters: Vec<String> = echo
        .as_object()
        .expect("an object")
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", quoted(value.as_str().expect("text"))))
        .collect();
    let Ok(line) = HeaderValue::from_bytes(format!("Payment {}", parameters.join(", ")).as_bytes()) else {
        // Control characters, which no field can carry in any spelling.
        return;
    };
    let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, line)]);
    let again = challenge::with_mpp(&headers, Err(Why::NoChallenge))
        .expect("one challenge")
        .offers;
    assert_eq!(again.len(), 1, "the printed challenge is not payable");
    assert_eq!(again[0].sha256, offer.sha256);
    assert_eq!((again[0].amount, &again[0].payee), (offer.amount, &offer.payee));
    assert_eq!((again[0].nonce, again[0].term), (offer.nonce, offer.term));
}

/// As the reference server writes what is not ASCII.
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte @ (b'"' | b'\\')) => quoted.extend(['\\', byte.into()]),
            Ok(byte @ 0x20..=0x7e) => quoted.push(byte.into()),
            _ => quoted.push_str(&format!("\\u{unit:04x}")),
        }
    }
    quoted
}

/// What counts against a budget in dollars is never less than the amount.
fn counted(offer: &Offer, decimals: u8) {
    let Some(usd) = offer.usd else { return };
    let (mut micros, mut atoms) = (usd.get(), offer.outlay().get());
    let scale = 10_u128.pow(decimals.abs_diff(6).into());
    match decimals > 6 {
        true => micros = micros.saturating_mul(scale),
        false => atoms = atoms.saturating_mul(scale),
    }
    assert!(micros >= atoms, "{micros} counted for {atoms}");
}

fn payee(offer: &Offer) -> String {
    match offer.payee.address() {
        Some(address) => format!("{address:#x}"),
        None => offer.payee.text(),
    }
}

pub fn encoded(json: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(json)
}

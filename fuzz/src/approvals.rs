//! What proves that a person approved: tokens and the keys that signed them, an identity server's answers, KEYRA's, and
//! the records that auditors get.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bursar_approvals::ciba::discovery::Metadata;
use bursar_approvals::ciba::ping::{KnownTokens, ping};
use bursar_approvals::ciba::poll::{Look, Polling, Step};
use bursar_approvals::ciba::settings::{AuthMethod, Delivery};
use bursar_approvals::fuzzing;
use bursar_approvals::keyra::{Refused, SignatureFormat, Webhooks};
use bursar_approvals::record::{ApprovalRecord, Decision, examine};
use bursar_core::approval::details::{Binding, Sent};
use bursar_core::approval::jwks::KeySet;
use bursar_core::approval::token::{Alg, Policy, Source, verify};
use bursar_net::oauth::Secret;
use bursar_net::oauth::issuer::{Issuer, PlainHttp};
use bursar_net::oauth::login;
use ed25519_dalek::{Signer as _, SigningKey};
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::opinion::{self, text};
use crate::seeds;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://idp.test";
const CLIENT: &str = "bkey_client_proxy";
const SUBJECT: &str = "did:bkey:zApproverOne";
const SCOPE: &str = "approve:payment";

/// A token as it arrives. Nobody can forge one: only those that the key's holder has signed are accepted.
pub fn token(data: &[u8]) {
    static KEYS: LazyLock<KeySet> =
        LazyLock::new(|| KeySet::read(include_bytes!("../../fixtures/approvals/jwks.json")).expect("keys"));
    static SIGNED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(seeds::tokens);
    let Ok(written) = std::str::from_utf8(data) else {
        return;
    };
    let binding = Binding::IfRepeated;
    match verify(written, &KEYS, &policy(None, binding), now()) {
        Ok(verified) => {
            assert!(
                SIGNED.iter().any(|signed| signed == data),
                "a forged token was accepted"
            );
            assert!(!format!("{verified:?}").contains(written), "a token in a debug text");
        }
        Err(rejected) => assert!(!rejected.code().is_empty()),
    }
}

/// The claims of a token, which the issuer signs whatever they are. What is accepted says, to a second reader, that
/// this approver approved for this client, just now.
pub fn token_claims(data: &[u8]) {
    let token = signed(data);
    if token.len() > 8192 {
        return;
    }
    let Ok(verified) = verify(&token, keys(), &policy(None, Binding::IfRepeated), now()) else {
        return;
    };
    let claims = opinion::value(data).expect("strict JSON");
    assert_eq!(
        text(&claims, "/iss").strip_suffix('/').unwrap_or(text(&claims, "/iss")),
        ISSUER
    );
    let is_ours = |aud: &Value| aud == CLIENT;
    assert!(is_ours(&claims["aud"]) || claims["aud"].as_array().is_some_and(|aud| aud.iter().any(is_ours)));
    for client in ["client_id", "azp"] {
        assert!(claims[client].is_null() || claims[client] == CLIENT);
    }
    assert_eq!(text(&claims, "/sub"), SUBJECT);
    assert!(text(&claims, "/scope").split(' ').any(|granted| granted == SCOPE));
    assert!(!text(&claims, "/jti").is_empty());
    // Fractions are dropped, and a float may round them up: a second either way.
    let time = |name: &str| claims[name].as_f64().expect("a number");
    let now = NOW as f64;
    assert!(time("exp") > now - 30.0 && time("iat") <= now + 31.0);
    assert!(time("exp") - time("iat") <= 3601.0);
    assert!(claims["nbf"].is_null() || time("nbf") <= now + 31.0);
    assert!((verified.expires_at().as_second() as f64 - time("exp")).abs() <= 1.0);
    assert!(verified.kept_until() >= verified.expires_at());
    // Details that nobody sent are not approved.
    assert!(claims["action_details"].is_null() && claims["authorization_details"].is_null());
}

/// Details: what was sent, a line break, and what the token repeats. They agree only if they are one value.
pub fn details(data: &[u8]) {
    let Ok(written) = std::str::from_utf8(data) else {
        return;
    };
    let Some((sent, repeated)) = written.split_once('\n') else {
        return;
    };
    let name = if sent.trim_start().starts_with('[') {
        "authorization_details"
    } else {
        "action_details"
    };
    let claims = format!(
        concat!(r#"{{"iss":"{}","aud":"{}","sub":"{}","scope":"{}","jti":"j","iat":{},"exp":{},"{}":{}}}"#),
        ISSUER,
        CLIENT,
        SUBJECT,
        SCOPE,
        NOW,
        NOW + 60,
        name,
        repeated
    );
    let token = signed(claims.as_bytes());
    if token.len() > 8192 {
        return;
    }
    let verified = verify(&token, keys(), &policy(Some((name, sent)), Binding::Required), now());
    let (Some(sent_value), Some(claims)) = (opinion::value(sent.as_bytes()), opinion::value(claims.as_bytes())) else {
        assert!(verified.is_err(), "details with two readings were accepted");
        return;
    };
    let repeated_value = &claims[name];
    if verified.is_ok() {
        if name == "authorization_details" {
            assert!(alike(&sent_value, repeated_value), "{sent} was approved as {repeated}");
        } else {
            for member in ["amount", "currency", "recipient", "resource"] {
                assert!(alike(&sent_value[member], &repeated_value[member]), "{member} differs");
            }
        }
    } else if name == "authorization_details" && sent == repeated && sent_value.is_array() {
        // Absurd exponents agree with nothing, and the claims are one level deeper.
        let plain =
            !sent.contains(['e', 'E']) && opinion::Node::read(sent.as_bytes()).is_some_and(|node| node.depth() < 31);
        assert!(!plain, "{sent} was repeated and rejected");
    }
}

/// Numbers of one value in two spellings may differ in the last bit of a float.
fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            let [one, other] = [one, other].map(|number| number.as_f64().unwrap_or(f64::NAN));
            (one - other).abs() <= one.abs() * 1e-12
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| alike(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(name, one)| other.get(name).is_some_and(|other| alike(one, other)))
        }
        (one, other) => one == other,
    }
}

/// A JWKS document. A document that shows a private key gives no keys, and each key is one that it has.
pub fn jwks(data: &[u8]) {
    let Ok(keys) = KeySet::read(data) else {
        return;
    };
    let document = opinion::value(data).expect("strict JSON");
    let listed = document["keys"].as_array().expect("a list");
    assert!(listed.len() <= 100 && listed.iter().all(|key| key.get("d").is_none()));
    let mut usable = 0;
    for listed in listed {
        let Some(key) = keys.key(text(listed, "/kid")) else {
            continue;
        };
        usable += 1;
        let archived = serde_json::to_value(key.jwk()).expect("JSON");
        let is_it = |other: &Value| {
            let names = ["kid", "kty", "crv", "x"];
            names.iter().all(|name| other[*name] == archived[*name])
        };
        assert!(document["keys"].as_array().is_some_and(|keys| keys.iter().any(is_it)));
        let archived = json!({ "keys": [archived] }).to_string();
        let again = KeySet::read(archived.as_bytes()).expect("an archived key can be read");
        assert_eq!(again.key(key.kid()), Some(key));
    }
    assert!(usable > 0);
}

/// A sequence of answers to polls, one on each line: a byte for the status, one for `Retry-After`, the body. Only the
/// identity server grants, and no pause is shorter than it allows.
pub fn ciba_polls(data: &[u8]) {
    const STATUSES: [u16; 10] = [200, 400, 401, 403, 408, 429, 500, 503, 302, 201];
    let waits = ["", "7", "Wed, 20 Jan 2027 08:00:30 GMT", "-1", "99999999999999999999"];
    let mut polling = Polling::new(Some(2));
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some(([status, wait], body)) = line.split_first_chunk() else {
            let step = polling.step(&Look::Unanswered);
            assert!(matches!(step, Step::Pending(_)));
            continue;
        };
        let status = StatusCode::from_u16(STATUSES[usize::from(*status) % STATUSES.len()]).expect("a status");
        let mut headers = HeaderMap::new();
        let wait = waits[usize::from(*wait) % waits.len()];
        if !wait.is_empty() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(wait));
        }
        let answered = Look::Answered {
            status,
            headers: &headers,
            body,
            now: now(),
        };
        let value = serde_json::from_slice::<Value>(body)
            .ok()
            .filter(Value::is_object)
            .unwrap_or_default();
        let step = polling.step(&answered);
        // Members that nobody reads may hold numbers that are none to others.
        if value.is_null() && !matches!(step, Step::Pending(_)) {
            return;
        }
        match step {
            Step::Pending(wait) => assert!(wait >= polling.interval() && polling.interval().as_secs() >= 1),
            Step::Granted(grant) => {
                assert_eq!(status, StatusCode::OK);
                assert_eq!(text(&value, "/access_token"), grant.access_token.expose());
                assert!(value["error"].is_null() && (value["status"].is_null() || value["status"] == "approved"));
                return;
            }
            Step::Denied => {
                assert!(value["error"] == "access_denied" || ["denied", "rejected"].contains(&text(&value, "/status")));
                return;
            }
            Step::Expired => {
                assert!(value["error"] == "expired_token" || value["status"] == "expired");
                return;
            }
            Step::Failed(failure) => {
                assert!(!failure.code.is_empty());
                return;
            }
        }
    }
}

/// The other documents of an identity server; the first byte chooses which, the second the status.
pub fn ciba_documents(data: &[u8]) {
    let Some(([kind, status], body)) = data.split_first_chunk() else {
        return;
    };
    let status = StatusCode::from_u16([200, 201, 302, 400, 401, 429, 500][usize::from(*status) % 7]).expect("a status");
    let value = serde_json::from_slice::<Value>(body).ok().filter(Value::is_object);
    match kind % 4 {
        0 => {
            if let Ok((handle, life, _)) = fuzzing::ciba_asked(status, body) {
                assert!(status.is_success() && (1..=3600).contains(&life));
                assert!((1..=1024).contains(&handle.len()) && handle.bytes().all(|byte| byte.is_ascii_graphic()));
                if let Some(value) = value {
                    assert_eq!(text(&value, "/auth_req_id"), handle);
                }
            }
        }
        1 => assert!(login::read(status, body).is_err() || status == StatusCode::OK),
        2 => {
            let mut known = KnownTokens::default();
            known.insert("one", &Secret::new("secret-of-one"));
            let about = ping(Some("Bearer secret-of-one"), body, &known);
            assert!(about.is_none_or(|about| about == "one"));
            assert_eq!(ping(Some("Bearer another"), body, &known), None);
        }
        _ => {
            let issuer = Issuer::parse("https://api.bkey.id", PlainHttp::Never).expect("a URL");
            if let Ok(metadata) = Metadata::parse(body, &issuer, &[], Delivery::Poll, AuthMethod::Post) {
                for url in [&metadata.authentication, &metadata.token, &metadata.jwks] {
                    // Where a browser would send the secret.
                    let browsed = url::Url::parse(&url.to_string()).expect("a URL");
                    assert_eq!((browsed.scheme(), browsed.host_str()), ("https", Some("api.bkey.id")));
                    assert!(browsed.username().is_empty() && browsed.password().is_none());
                }
            }
        }
    }
}

/// KEYRA's answers, errors and webhooks; the first byte chooses which. An event without KEYRA's signature is none.
pub fn keyra(data: &[u8]) {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    match first % 6 {
        0 => {
            if let Some((status, has_attestation)) = fuzzing::keyra_answer(body) {
                let value = opinion::value(body).expect("strict JSON");
                if value.is_object() {
                    assert_eq!(status == "approved", value["status"] == "approved");
                    assert!(!has_attestation || value["deviceId"].is_string());
                }
            }
        }
        1 => {
            for status in [400, 401, 404, 409, 410, 422, 429, 500] {
                let said = fuzzing::keyra_error(StatusCode::from_u16(status).expect("a status"), body);
                assert_eq!(said.starts_with("RateLimited"), status == 429);
                assert_eq!(said.starts_with("Unavailable"), status == 500);
                assert!(said != "Expired" || status == 410);
                assert!(!said.contains("Device") || status == 404);
            }
        }
        format => webhook(format, body),
    }
}

fn webhook(format: u8, body: &[u8]) {
    const SECRET: &[u8] = b"whsec_of_nobody";
    let format = [
        SignatureFormat::Hex,
        SignatureFormat::Prefixed,
        SignatureFormat::Base64,
        SignatureFormat::Timestamped,
    ][usize::from(format % 4)];
    let webhooks = Webhooks::new(std::str::from_utf8(SECRET).expect("text"), format).expect("a secret");
    let headers = |value: String| {
        HeaderMap::from_iter([("keyra-signature".parse().expect("a name"), value.parse().expect("text"))])
    };
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET);
    let tag = match format {
        SignatureFormat::Timestamped => aws_lc_rs::hmac::sign(&key, &[format!("{NOW}.").as_bytes(), body].concat()),
        _ => aws_lc_rs::hmac::sign(&key, body),
    };
    let hex = alloy_primitives::hex::encode(tag.as_ref());
    let signature = match format {
        SignatureFormat::Hex => hex,
        SignatureFormat::Prefixed => format!("sha256={hex}"),
        SignatureFormat::Base64 => base64::engine::general_purpose::STANDARD.encode(tag.as_ref()),
        SignatureFormat::Timestamped => format!("t={NOW},v1={hex}"),
    };
    match webhooks.event(&headers(signature), body, now()) {
        Ok(event) => {
            let value = opinion::value(body).expect("strict JSON");
            assert_eq!(event.id.as_deref(), value["id"].as_str());
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            assert!(event.challenge.is_none_or(|id| id.as_str().bytes().all(plain)));
        }
        Err(refused) => assert_eq!(refused, Refused::NotAnEvent, "KEYRA's own signature was refused"),
    }
    // The body as a signature of itself, and of nothing.
    if let Ok(value) = HeaderValue::from_bytes(body) {
        let headers = HeaderMap::from_iter([("keyra-signature".parse().expect("a name"), value)]);
        assert_eq!(webhooks.event(&headers, b"{}", now()), Err(Refused::Signature));
    }
}

/// An exported record. Without entries that say so, nobody approved anything.
pub fn record(data: &[u8]) {
    let Some(value) = serde_json::from_slice(data).ok() else {
        return;
    };
    let Ok(record) = ApprovalRecord::read(value) else {
        return;
    };
    let examined = examine(&record);
    let has = |event: &str| record.entries.iter().any(|entry| entry.event() == Some(event));
    match examined.decision {
        Decision::Pending => {}
        Decision::Granted => assert!(has("approval.granted")),
        Decision::Used => assert!(has("pay.armed")),
        Decision::Denied => assert!(has("approval.denied") || has("approval.refused")),
        Decision::Expired => assert!(has("approval.expired") || has("pay.released")),
    }
    if record.entries.is_empty() {
        assert!(!examined.whole && examined.decision == Decision::Pending);
    }
    let shown = serde_json::to_string(&examined).expect("JSON");
    let text = serde_json::to_value(&record).expect("JSON");
    let again = ApprovalRecord::read(text).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&examine(&again)).expect("JSON"), shown);
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("a time")
}

fn policy(sent: Option<(&str, &str)>, binding: Binding) -> Policy {
    let details = |name: &str| {
        sent.filter(|(known, _)| *known == name)
            .map(|(_, text)| text.to_owned())
    };
    Policy {
        source: Source::AccessTokenJwt,
        issuer: ISSUER.to_owned(),
        audience: CLIENT.to_owned(),
        client_id: CLIENT.to_owned(),
        subject: SUBJECT.to_owned(),
        scope: SCOPE.to_owned(),
        algs: vec![Alg::EdDsa],
        leeway_s: 30,
        max_lifetime_s: 3600,
        sent: Sent {
            auth_req_id: "ciba_0001".to_owned(),
            action_details: details("action_details"),
            authorization_details: details("authorization_details"),
        },
        binding,
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

fn keys() -> &'static KeySet {
    static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
        let x = URL_SAFE_NO_PAD.encode(key().verifying_key().as_bytes());
        let document = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] });
        KeySet::read(document.to_string().as_bytes()).expect("keys")
    });
    &KEYS
}

fn signed(payload: &[u8]) -> String {
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"EdDSA","kid":"k","typ":"JWT"}"#);
    let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(key().sign(text.as_bytes()).to_bytes());
    format!("{text}.{signature}")
}

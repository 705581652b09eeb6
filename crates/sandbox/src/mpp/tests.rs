//! The till on its own, with the crate `mpp` as payer and independent check, and with recorded `mppx` exchanges.

use ::mpp::protocol::core::{PaymentChallenge, PaymentCredential, format_authorization, parse_www_authenticate};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::catalog::ARTICLES;
use crate::stripe::{AGENT_KEY, SHOP_PROFILE};
use bursar_core::clock::ManualClock;

const NOW: i64 = 1_790_000_000;
const KEY: &str = "a sandbox key of at least thirty-two bytes";

struct World {
    till: Till,
    stripe: Arc<StripeSandbox>,
    clock: Arc<ManualClock>,
}

fn world() -> World {
    let clock = Arc::new(ManualClock::at(at(NOW)));
    let stripe = Arc::new(StripeSandbox::of_shop(clock.clone(), AGENT_KEY));
    let till = Till::with_key(stripe.clone(), clock.clone(), KEY.as_bytes());
    World { till, stripe, clock }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn sale(path: &str) -> Sale {
    let article = ARTICLES.iter().find(|article| article.path == path).unwrap();
    Sale::new(article, 50, &format!("https://shop.example:8443{path}"))
}

impl World {
    fn challenge(&self, sale: &Sale) -> PaymentChallenge {
        parse_www_authenticate(self.till.challenge(sale).to_str().unwrap()).unwrap()
    }

    /// A token for the shop, as the agent's account gets one.
    fn token(&self, cents: u64, card: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {AGENT_KEY}").parse().unwrap());
        headers.insert("stripe-version", "2026-07-29.preview".parse().unwrap());
        let form = "application/x-www-form-urlencoded";
        headers.insert(header::CONTENT_TYPE, form.parse().unwrap());
        let order = format!(
            "payment_method={card}&usage_limits[currency]=usd&usage_limits[max_amount]={cents}\
             &usage_limits[expires_at]={}&seller_details[network_business_profile]={SHOP_PROFILE}",
            NOW + 300
        );
        let path = "/v1/shared_payment/issued_tokens";
        let answer = self.stripe.answer(&Method::POST, path, &headers, order.as_bytes());
        assert!(answer.status.is_success(), "{}", answer.json);
        answer.json["id"].as_str().unwrap().to_owned()
    }

    /// Presents a credential to the till: its receipt, or the problem.
    fn present(&self, sale: &Sale, authorization: &str) -> Result<Value, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        let verified = self.till.verify(sale, &Credential::read(&headers).unwrap()?)?;
        let receipt = self.till.charge(sale, &verified)?;
        Ok(decode(receipt.to_str().unwrap()))
    }
}

fn decode(text: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

/// As the crate `mpp` writes it.
fn authorization(challenge: &PaymentChallenge, payload: Value) -> String {
    format_authorization(&PaymentCredential::new(challenge.to_echo(), payload)).unwrap()
}

fn payload(token: &str) -> Value {
    json!({ "spt": token, "externalId": "sandbox/mpp/report" })
}

#[test]
fn ids_are_bound_as_mppx_binds_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/mpp/challenges.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let key = hmac::Key::new(
        hmac::HMAC_SHA256,
        vectors["hmacSecretUtf8"].as_str().unwrap().as_bytes(),
    );
    let cases = vectors["idBinding"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let slots: Vec<&str> = case["slots"]
            .as_array()
            .unwrap()
            .iter()
            .map(|slot| slot.as_str().unwrap())
            .collect();
        // `header`, if there is one, is an extra slot before the last one.
        let (first, rest) = slots.split_first_chunk::<6>().unwrap();
        let (header, opaque) = match rest {
            [opaque] => (None, opaque),
            [header, opaque] => (Some(*header), opaque),
            _ => panic!("{case}"),
        };
        let tag = hmac::sign(&key, challenge::bound(*first, header, opaque).as_bytes());
        assert_eq!(URL_SAFE_NO_PAD.encode(tag), case["id"], "{case}");
    }
}

#[test]
fn a_challenge_is_one_to_the_other_implementation() {
    let world = world();
    let challenge = world.challenge(&sale("/mpp/report"));
    assert!(challenge.verify(KEY));
    assert!(!challenge.verify("another key of at least thirty-two bytes"));
    assert_eq!(
        (challenge.method.as_str(), challenge.intent.as_str()),
        ("stripe", "charge")
    );
    assert_eq!(challenge.realm, "shop.example");
    assert_eq!(challenge.expires.as_deref(), Some("2026-09-21T14:18:20.000Z"));
    assert_eq!(
        challenge.request.decode_value().unwrap(),
        json!({
            "amount": "50",
            "currency": "usd",
            "externalId": "sandbox/mpp/report",
            "methodDetails": { "networkId": SHOP_PROFILE, "paymentMethodTypes": ["card"] },
        })
    );
    let json = URL_SAFE_NO_PAD.decode(challenge.request.raw()).unwrap();
    let value: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(serde_json_canonicalizer::to_vec(&value).unwrap(), json);
}

#[test]
fn the_field_has_the_shape_of_the_reference_servers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/mpp/live_captures.json");
    let captures: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let captures = captures["captures"].as_array().unwrap();
    let capture = captures.iter().find(|one| one["name"] == "stripe/charge").unwrap();
    let theirs = &capture["exchange"][0]["response"];
    let field = |fields: &Value, name: &str| {
        let found = fields.as_array().unwrap().iter().find(|field| field[0] == name);
        found.unwrap()[1].as_str().unwrap().to_owned()
    };
    let names = |field: &str| -> Vec<String> {
        let parameters = field.strip_prefix("Payment ").unwrap().split(", ");
        let name = |parameter: &str| parameter.split_once("=\"").unwrap().0.to_owned();
        parameters.map(name).collect()
    };
    let world = world();
    // An article without a comma in its description, as the parameters are split at commas here.
    let ours = world.till.challenge(&Sale::new(
        ARTICLES.iter().find(|article| article.path == "/v1/joke").unwrap(),
        50,
        "https://shop.example/",
    ));
    let their_field = field(&theirs["headers"], "www-authenticate");
    assert_eq!(names(ours.to_str().unwrap()), names(&their_field));

    // The members of the problem, the receipt and the request, in order.
    let members = |text: &[u8]| -> Vec<String> {
        let object: serde_json::Map<String, Value> = serde_json::from_slice(text).unwrap();
        object.keys().cloned().collect()
    };
    let required = Problem::Required { description: "x" };
    assert_eq!(
        members(&required.json("id")),
        members(theirs["body"].as_str().unwrap().as_bytes())
    );
    let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let request = |field: &str| decoded(field.split("request=\"").nth(1).unwrap().split('"').next().unwrap());
    assert_eq!(
        members(&request(ours.to_str().unwrap())),
        members(&request(&their_field))
    );
    let their_receipt = field(&capture["exchange"][1]["response"]["headers"], "payment-receipt");
    let sale = sale("/mpp/report");
    let verified = Verified {
        id: "id".to_owned(),
        expires: at(NOW + 300),
        token: world.token(50, "pm_card_visa"),
    };
    let receipt = world.till.charge(&sale, &verified).unwrap();
    assert_eq!(
        members(&decoded(receipt.to_str().unwrap())),
        members(&decoded(&their_receipt))
    );
}

#[test]
fn a_token_is_charged_once_for_what_was_asked() {
    let world = world();
    let sale = sale("/mpp/report");
    let challenge = world.challenge(&sale);
    // The token's maximum is above the price: only the price is charged.
    let token = world.token(80, "pm_card_visa");
    let first = authorization(&challenge, payload(&token));
    world.clock.set(at(NOW + 1));
    let receipt = world.present(&sale, &first).unwrap();
    let text = URL_SAFE_NO_PAD.encode(receipt.to_string());
    let theirs = ::mpp::protocol::core::parse_receipt(&text).unwrap();
    assert!(theirs.reference.starts_with("pi_"), "{}", theirs.reference);
    assert_eq!(theirs.external_id.as_deref(), Some("sandbox/mpp/report"));
    assert_eq!(theirs.timestamp, "2026-09-21T14:13:21.000Z");

    assert_eq!(world.present(&sale, &first), Err(Problem::Processed));
    // Another token for the same challenge buys nothing either,
    let other = authorization(&challenge, payload(&world.token(50, "pm_card_visa")));
    assert_eq!(world.present(&sale, &other), Err(Problem::Processed));
    // and neither does the same token for another challenge.
    world.clock.set(at(NOW + 2));
    let again = authorization(&world.challenge(&sale), payload(&token));
    let refused = world.present(&sale, &again).unwrap_err();
    assert_eq!(refused.code(), "verification-failed", "{refused:?}");
    let counters = world.stripe.counters();
    assert_eq!(counters.captured.values().collect::<Vec<_>>(), [&50]);
    assert_eq!(counters.intents_succeeded, 1);
}

#[test]
fn an_echo_must_be_what_was_issued_here_for_this_article() {
    let world = world();
    let sale = sale("/mpp/report");
    let challenge = world.challenge(&sale);
    let token = world.token(50, "pm_card_visa");
    let good = authorization(&challenge, payload(&token));
    let good = decode(good.strip_prefix("Payment ").unwrap());
    let cheaper = URL_SAFE_NO_PAD.encode(
        String::from_utf8(URL_SAFE_NO_PAD.decode(challenge.request.raw()).unwrap())
            .unwrap()
            .replace("\"50\"", "\"1\""),
    );
    for (member, value) in [
        ("id", json!("x")),
        ("realm", json!("other.example")),
        ("realm", json!("shop.example|stripe")),
        ("method", json!("tempo")),
        ("intent", json!("session")),
        ("request", json!(cheaper)),
        ("expires", json!("2099-01-01T00:00:00.000Z")),
        ("expires", Value::Null),
        ("digest", json!("sha-256=x")),
        ("opaque", json!("e30")),
        ("header", json!("Payment-Authorization")),
        ("description", json!("Something else")),
    ] {
        let mut changed = good.clone();
        changed["challenge"][member] = value;
        let text = format!("Payment {}", URL_SAFE_NO_PAD.encode(changed.to_string()));
        let refused = world.present(&sale, &text).unwrap_err();
        assert_eq!(refused.code(), "invalid-challenge", "{member} {refused:?}");
    }
    // Another article's challenge, and another shop's.
    let other = self::sale("/both/report");
    for challenge in [
        world.challenge(&other),
        world_of("another key of at least thirty-two bytes").challenge(&sale),
    ] {
        let refused = world.present(&sale, &authorization(&challenge, payload(&token)));
        assert_eq!(refused.unwrap_err().code(), "invalid-challenge");
    }
    // The description need not be echoed (MPP §4).
    let mut bare = good.clone();
    bare["challenge"].as_object_mut().unwrap().remove("description");
    let text = format!("payment  {}", URL_SAFE_NO_PAD.encode(bare.to_string()));
    assert!(world.present(&sale, &text).is_ok());
    assert_eq!(world.stripe.counters().intents_succeeded, 1);
}

fn world_of(key: &str) -> World {
    let world = world();
    let till = Till::with_key(world.stripe.clone(), world.clock.clone(), key.as_bytes());
    World { till, ..world }
}

#[test]
fn a_challenge_lasts_five_minutes() {
    let world = world();
    let sale = sale("/mpp/report");
    let text = authorization(&world.challenge(&sale), payload(&world.token(50, "pm_card_visa")));
    world.clock.set(at(NOW + 300));
    let at = "2026-09-21T14:18:20.000Z".to_owned();
    assert_eq!(world.present(&sale, &text), Err(Problem::Expired { at }));
    world.clock.set(self::at(NOW + 299));
    assert!(world.present(&sale, &text).is_ok());
}

#[test]
fn payloads_are_a_token_and_the_sellers_own_name() {
    let world = world();
    let sale = sale("/mpp/report");
    let challenge = world.challenge(&sale);
    let token = world.token(50, "pm_card_visa");
    let name = "sandbox/mpp/report";
    let long = format!("spt_{}", "x".repeat(200));
    for (payload, code) in [
        (json!({ "spt": token }), "invalid-challenge"),
        (json!({ "spt": token, "externalId": "other" }), "invalid-challenge"),
        (json!({ "externalId": name }), "invalid-payload"),
        (json!({ "spt": 7, "externalId": name }), "invalid-payload"),
        (json!({ "spt": "spt_", "externalId": name }), "invalid-payload"),
        (
            json!({ "spt": "spt_a&amount=1", "externalId": name }),
            "invalid-payload",
        ),
        (json!({ "spt": long, "externalId": name }), "invalid-payload"),
        (
            json!({ "spt": "spt_unknown", "externalId": name }),
            "verification-failed",
        ),
    ] {
        let refused = world.present(&sale, &authorization(&challenge, payload.clone()));
        assert_eq!(refused.unwrap_err().code(), code, "{payload}");
    }
    // None of this has used up the challenge.
    assert!(
        world
            .present(&sale, &authorization(&challenge, self::payload(&token)))
            .is_ok()
    );
}

#[test]
fn what_stripe_does_not_take_is_refused_with_its_reason() {
    let world = world();
    let sale = sale("/mpp/report");
    let challenge = world.challenge(&sale);
    for (token, reason) in [
        (world.token(49, "pm_card_visa"), "maximum"),
        (world.token(50, "pm_card_authenticationRequired"), "holder must confirm"),
        (world.token(50, "pm_card_chargeCustomerFail"), "declined"),
    ] {
        let refused = world.present(&sale, &authorization(&challenge, payload(&token)));
        let Err(Problem::Stripe { reason: given }) = refused else {
            panic!("{refused:?}")
        };
        assert!(given.contains(reason), "{given}");
    }
    assert_eq!(world.stripe.counters().intents_succeeded, 0);
}

#[test]
fn credentials_are_found_beside_other_schemes_and_must_be_one() {
    let read = |fields: &[&str]| {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::AUTHORIZATION, field.parse().unwrap());
        }
        Credential::read(&headers).map(|read| read.map(|credential| credential.challenge.id))
    };
    let good = URL_SAFE_NO_PAD.encode(
        r#"{"challenge":{"id":"a","realm":"r","method":"stripe","intent":"charge","request":"e30"},"payload":{}}"#,
    );
    let good = format!("Payment {good}");
    assert_eq!(read(&[]), None);
    assert_eq!(read(&["Bearer x", "Basic eDp5"]), None);
    assert_eq!(read(&[&good]), Some(Ok("a".to_owned())));
    assert_eq!(read(&[&format!("Bearer x, {good}")]), Some(Ok("a".to_owned())));
    assert_eq!(read(&["Bearer x", &good]), Some(Ok("a".to_owned())));
    let twice = Problem::Malformed("more than one credential");
    assert_eq!(read(&[&good, &good]), Some(Err(twice.clone())));
    assert_eq!(read(&[&format!("{good}, {good}")]), Some(Err(twice)));
    let not_one = Problem::Malformed("Invalid base64url or JSON");
    let double = URL_SAFE_NO_PAD.encode(
        r#"{"challenge":{"id":"a","id":"b","realm":"r","method":"m","intent":"i","request":"e30"},"payload":{}}"#,
    );
    for bad in ["Payment abc", "Payment !", "Payment e30", &format!("Payment {double}")] {
        assert_eq!(read(&[bad]), Some(Err(not_one.clone())), "{bad}");
    }
}

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::jwks::BadKeys;
use super::*;

pub(in super::super) const NOW: i64 = 1_800_000_000;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../../../fixtures/approvals/jwt.json")).unwrap()
}

pub(in super::super) fn issuer_keys() -> KeySet {
    KeySet::read(include_bytes!("../../../../../fixtures/approvals/jwks.json")).unwrap()
}

pub(in super::super) fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

/// The policy of the vectors.
pub(in super::super) fn policy() -> Policy {
    Policy {
        source: Source::AccessTokenJwt,
        issuer: "https://idp.test".to_owned(),
        audience: "bkey_client_proxy".to_owned(),
        client_id: "bkey_client_proxy".to_owned(),
        subject: "did:bkey:zApproverOne".to_owned(),
        scope: "approve:payment".to_owned(),
        algs: vec![Alg::EdDsa],
        leeway_s: 30,
        max_lifetime_s: 3600,
        sent: Sent {
            auth_req_id: "ciba_0001".to_owned(),
            action_details: None,
            authorization_details: None,
        },
        binding: Binding::IfRepeated,
    }
}

/// The first token of the vectors.
pub(in super::super) fn valid() -> String {
    fixture()["cases"][0]["token"].as_str().unwrap().to_owned()
}

/// Signed by the issuer's first key.
pub(in super::super) fn signed(claims: &Value) -> String {
    sign(r#"{"alg":"EdDSA","kid":"k1","typ":"JWT"}"#, &claims.to_string())
}

fn sign(header: &str, payload: &str) -> String {
    let keys: Value = serde_json::from_str(include_str!("../../../../../fixtures/approvals/keys.json")).unwrap();
    let seed = alloy_primitives::hex::decode(keys["keys"]["k1"]["seed_hex"].as_str().unwrap()).unwrap();
    let key = SigningKey::from_bytes(&seed.try_into().unwrap());
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = key.sign(signed.as_bytes()).to_bytes();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn claims() -> Value {
    json!({"iss": "https://idp.test", "sub": "did:bkey:zApproverOne", "aud": "bkey_client_proxy",
        "scope": "approve:payment", "jti": "jti-1", "iat": NOW - 10, "exp": NOW + 290})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn verdict(token: &str, policy: &Policy) -> &'static str {
    match verify(token, &issuer_keys(), policy, now()) {
        Ok(_) => "ok",
        Err(rejected) => rejected.code(),
    }
}

#[test]
fn the_policy_of_these_tests_is_that_of_the_vectors() {
    let fixture = fixture();
    let theirs = &fixture["policy"];
    let ours = policy();
    assert_eq!(theirs["now"], NOW);
    assert_eq!(theirs["leeway_s"], ours.leeway_s);
    assert_eq!(theirs["issuer"], ours.issuer);
    assert_eq!(theirs["audience"], ours.audience);
    assert_eq!(theirs["client_id"], ours.client_id);
    assert_eq!(theirs["required_scope"], ours.scope);
    assert_eq!(theirs["expected_sub"], ours.subject);
    assert_eq!(theirs["alg_allow"], json!(ours.algs));
    assert_eq!(theirs["max_token_chars"], LONGEST);
    assert_eq!(theirs["max_token_lifetime_s"], ours.max_lifetime_s);
}

#[test]
fn tokens_are_judged_as_the_vectors_say() {
    let fixture = fixture();
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 86);
    for case in cases {
        let found = verdict(case["token"].as_str().unwrap(), &policy());
        let name = &case["name"];
        assert_eq!(found == "ok", case["verdict"] == "accept", "{name}: {found}");
        let one = [case["reason"].clone()];
        let reasons = case["reasons"].as_array().map_or(&one[..], Vec::as_slice);
        assert!(reasons.contains(&json!(found)), "{name}: {found}");
        if let Some(listed) = case.get("verdict_if_alg_listed") {
            let mut policy = policy();
            policy.algs.push(Alg::Ed25519);
            assert_eq!(
                verdict(case["token"].as_str().unwrap(), &policy) == "ok",
                listed == "accept"
            );
        }
    }
}

/// Compares every signature of the vectors with a second implementation that the program contains anyway.
#[test]
fn aws_lc_agrees_on_signatures() {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    let fixture = fixture();
    let keys = issuer_keys();
    let (mut good, mut bad) = (0, 0);
    for case in fixture["cases"].as_array().unwrap() {
        let token = case["token"].as_str().unwrap();
        let Ok(parts) = Parts::of(token) else { continue };
        let Ok(kid) = kid(&parts.header, &policy().algs) else {
            continue;
        };
        let Some(key) = keys.key(&kid) else { continue };
        let jwk = serde_json::to_value(key.jwk()).unwrap();
        let x = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
        let theirs = UnparsedPublicKey::new(&ED25519, x).verify(parts.signed, &parts.signature);
        let ours = verdict(token, &policy()) != "bad_signature";
        assert_eq!(ours, theirs.is_ok(), "{}", case["name"]);
        *(if ours { &mut good } else { &mut bad }) += 1;
    }
    assert!(good >= 40 && bad >= 9, "{good} {bad}");
}

#[test]
fn a_weak_key_is_refused_before_its_token() {
    let weak = &fixture()["weak_key"];
    let refused = KeySet::read(weak["jwks"].to_string().as_bytes()).unwrap_err();
    assert_eq!(refused.code(), weak["reason"].as_str().unwrap());
    assert_eq!(refused, BadKeys::WeakKey("weak".to_owned()));
}

#[test]
fn the_checks_are_made_in_their_order() {
    // Every claim is wrong. They are fixed one by one, in the order of the checks.
    let mut token = json!({"iss": 1, "sub": "x", "aud": "x", "client_id": "x", "scope": "x", "jti": "",
        "iat": NOW + 9000, "nbf": NOW + 9000, "exp": NOW - 9000,
        "urn:openid:params:jwt:claim:auth_req_id": "ciba_0002"});
    let valid = claims();
    for (reason, mended, value) in [
        ("claim_type", "iss", json!("https://x.test")),
        ("wrong_issuer", "iss", valid["iss"].clone()),
        ("expired", "exp", json!(NOW + 9000)),
        ("not_yet_valid", "nbf", json!(NOW + 30)),
        ("issued_in_future", "iat", json!(NOW + 30)),
        ("lifetime_too_long", "exp", json!(NOW + 3630)),
        ("wrong_audience", "aud", json!(["x", "bkey_client_proxy"])),
        ("wrong_client", "client_id", json!("bkey_client_proxy")),
        ("wrong_subject", "sub", valid["sub"].clone()),
        ("scope_missing", "scope", valid["scope"].clone()),
        ("claim_missing", "jti", json!("jti-1")),
        (
            "binding_mismatch",
            "urn:openid:params:jwt:claim:auth_req_id",
            json!("ciba_0001"),
        ),
    ] {
        assert_eq!(verdict(&signed(&token), &policy()), reason);
        token[mended] = value;
    }
    assert_eq!(verdict(&signed(&token), &policy()), "ok");
}

#[test]
fn claims_are_read_by_their_types() {
    for (claims, reason) in [
        (claims(), "ok"),
        (with("exp", json!(NOW + 290)), "ok"),
        (with("azp", json!("bkey_client_proxy")), "ok"),
        (with("azp", json!("other")), "wrong_client"),
        (with("azp", json!(["bkey_client_proxy"])), "claim_type"),
        (with("aud", json!([])), "wrong_audience"),
        (with("aud", json!(["bkey_client_proxy", 1])), "claim_type"),
        (with("aud", json!({"bkey_client_proxy": 1})), "claim_type"),
        (with("nbf", json!("0")), "claim_type"),
        (with("iat", json!(true)), "claim_type"),
        (with("sub", Value::Null), "claim_missing"),
        (with("scope", json!("approve:payment\tx")), "scope_missing"),
        (with("scope", json!("x  approve:payment")), "ok"),
        (with("action_details", json!({"amount": 1})), "binding_mismatch"),
        (with("action_details", json!([])), "claim_type"),
        (without("sub"), "claim_missing"),
        (without("jti"), "claim_missing"),
        (without("nbf"), "ok"),
    ] {
        assert_eq!(verdict(&signed(&claims), &policy()), reason, "{claims}");
    }
}

#[test]
fn times_count_with_the_leeway_and_without_their_fractions() {
    let payload = |name: &str, time: &str| {
        let mut text = without(name).to_string();
        text.truncate(text.len() - 1);
        sign(r#"{"alg":"EdDSA","kid":"k1"}"#, &format!(r#"{text},"{name}":{time}}}"#))
    };
    for (name, time, reason) in [
        ("exp", "1799999970", "expired"),
        ("exp", "1799999970.999", "expired"),
        ("exp", "1799999971", "ok"),
        ("exp", "1.8000001e9", "ok"),
        ("exp", "1e99999", "malformed"),
        ("iat", "1800000030.999", "ok"),
        ("iat", "1800000031", "issued_in_future"),
        ("iat", "-9223372036854775808", "lifetime_too_long"),
        ("iat", "1799996690", "ok"),
        ("iat", "1799996689.999", "lifetime_too_long"),
        ("nbf", "1800000030.5", "ok"),
        ("nbf", "1800000031.0", "not_yet_valid"),
        ("nbf", "9223372036854775808", "claim_type"),
    ] {
        assert_eq!(verdict(&payload(name, time), &policy()), reason, "{name} {time}");
    }
}

#[test]
fn headers_are_strict() {
    let payload = claims().to_string();
    for (header, reason) in [
        (r#"{"alg":"EdDSA","kid":"k1"}"#, "ok"),
        (r#" {"kid":"k1","alg":"EdDSA","typ":"jwt"} "#, "ok"),
        (r#"{"alg":"EdDSA","kid":"k1","typ":"AT+JWT"}"#, "ok"),
        (
            r#"{"alg":"EdDSA","kid":"k1","jku":"https://x.test","x5c":["AA"]}"#,
            "ok",
        ),
        (r#"{"alg":"EdDSA","kid":"k1","typ":"logout+jwt"}"#, "malformed"),
        (r#"{"alg":"EdDSA","kid":"k1","typ":1}"#, "malformed"),
        (r#"{"alg":"EdDSA","kid":"k1","kid":"k1"}"#, "malformed"),
        (r#"{"alg":["EdDSA"],"kid":"k1"}"#, "malformed"),
        (r#"{"alg":"EdDSA","kid":"k1","crit":null}"#, "crit_not_supported"),
        (r#"{"alg":"EdDSA","kid":"K1"}"#, "unknown_kid"),
        (r#"{"alg":"EdDSA","kid":""}"#, "unknown_kid"),
        (r#"["EdDSA"]"#, "malformed"),
        ("{}x", "malformed"),
    ] {
        assert_eq!(verdict(&sign(header, &payload), &policy()), reason, "{header}");
    }
}

#[test]
fn members_written_twice_are_refused_under_any_spelling() {
    let text = claims().to_string();
    let text = text.trim_end_matches('}');
    for more in [
        r#""sub":"did:bkey:zApproverOne""#,
        r#""s\u0075b":"x""#,
        r#""x":{"a":1,"a":2}"#,
    ] {
        let token = sign(r#"{"alg":"EdDSA","kid":"k1"}"#, &format!("{text},{more}}}"));
        assert_eq!(verdict(&token, &policy()), "malformed", "{more}");
    }
}

#[test]
fn the_length_is_counted_to_the_character() {
    let shortest = signed(&with("x", json!(""))).len();
    let of_length = |length: usize| {
        let filling = (length - shortest) * 3 / 4;
        (filling.saturating_sub(2)..)
            .map(|filling| signed(&with("x", json!("x".repeat(filling)))))
            .find(|token| token.len() >= length)
            .unwrap()
    };
    // Three bytes give four characters, so a length of 4n + 1 is impossible.
    let longest = of_length(LONGEST - 1);
    assert!(longest.len() <= LONGEST);
    assert_eq!(verdict(&longest, &policy()), "ok");
    let longer = of_length(LONGEST + 1);
    assert_eq!(verdict(&longer, &policy()), "too_long");
}

#[test]
fn an_id_token_is_judged_with_the_answer_that_it_came_with() {
    let id_token = |scope: &str, authorization_details: Option<&str>| {
        let mut policy = policy();
        policy.audience = "https://resource.test".to_owned();
        policy.source = Source::IdToken {
            scope: scope.to_owned(),
            authorization_details: authorization_details.map(str::to_owned),
        };
        policy
    };
    let granted = id_token("openid approve:payment", None);
    let fixture = fixture();
    let shape = fixture["cases"].as_array().unwrap().last().unwrap();
    assert_eq!(shape["name"], "id_token_shape");
    assert_eq!(verdict(shape["token"].as_str().unwrap(), &granted), "ok");
    let refused = id_token("openid", None);
    assert_eq!(verdict(shape["token"].as_str().unwrap(), &refused), "scope_missing");
    // The token's own scope does not count.
    assert_eq!(verdict(&signed(&claims()), &refused), "scope_missing");
    let resource = with("aud", json!("https://resource.test"));
    assert_eq!(verdict(&signed(&resource), &granted), "wrong_audience");
    assert_eq!(verdict(&signed(&with("jti", json!(""))), &granted), "claim_missing");
    let request = "urn:openid:params:jwt:claim:auth_req_id";
    assert_eq!(verdict(&signed(&with(request, json!("ciba_0001"))), &granted), "ok");
    let other = signed(&with(request, json!("ciba_0002")));
    assert_eq!(verdict(&other, &granted), "binding_mismatch");

    let token = signed(&without("jti"));
    let verified = verify(&token, &issuer_keys(), &granted, now()).unwrap();
    assert_eq!(verified.replay_key(), ReplayKey::of_token(&token));
    assert_eq!(verified.claims().scope, "openid approve:payment");

    let details = r#"[{"type":"payment_initiation","identifier":"02fc"}]"#;
    for (beside, inside, reason) in [
        (None, None, "binding_mismatch"),
        (Some(details), None, "ok"),
        (None, Some(details), "ok"),
        (Some("[]"), None, "binding_mismatch"),
        // Signed details take precedence over unsigned ones.
        (Some(details), Some("[]"), "binding_mismatch"),
    ] {
        let mut policy = id_token("approve:payment", beside);
        policy.sent.authorization_details = Some(details.to_owned());
        let token = match inside {
            Some(inside) => signed(&with("authorization_details", serde_json::from_str(inside).unwrap())),
            None => signed(&claims()),
        };
        assert_eq!(verdict(&token, &policy), reason, "{beside:?} {inside:?}");
    }
}

#[test]
fn a_token_says_what_makes_it_single_use() {
    let verified = verify(&valid(), &issuer_keys(), &policy(), now()).unwrap();
    assert_eq!(verified.expires_at().as_second(), NOW + 290);
    assert_eq!(verified.kept_until().as_second(), NOW + 290 + 30 + 60);
    assert_eq!(
        verified.replay_key(),
        ReplayKey::of_jti("https://idp.test/", "jti-0001")
    );
}

#[test]
fn a_token_is_not_for_logs() {
    let verified = verify(&valid(), &issuer_keys(), &policy(), now()).unwrap();
    let shown = format!("{verified:?}");
    assert!(shown.contains("jti-0001") && !shown.contains("eyJ"), "{shown}");
}

#[test]
fn no_single_bit_of_a_token_is_free() {
    let token = valid();
    let keys = issuer_keys();
    for place in 0..token.len() {
        for bit in 0..8 {
            let mut bytes = token.clone().into_bytes();
            bytes[place] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                let found = verify(&changed, &keys, &policy(), now());
                assert!(found.is_err(), "{place} {bit}");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_changed_token_verifies(place in any::<prop::sample::Index>(), character in any::<char>(), cut in 0..3usize) {
        let token = valid();
        let place = place.index(token.len());
        let changed = format!("{}{character}{}", &token[..place], &token[(place + cut).min(token.len())..]);
        prop_assume!(changed != token);
        prop_assert!(verify(&changed, &issuer_keys(), &policy(), now()).is_err());
    }

    #[test]
    fn no_text_panics(text in ".{0,200}", parts in "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,86}") {
        prop_assert!(verify(&text, &issuer_keys(), &policy(), now()).is_err());
        prop_assert!(verify(&parts, &issuer_keys(), &policy(), now()).is_err());
    }

    /// Arbitrary text, signed by the issuer.
    #[test]
    fn no_signed_payload_panics(payload in ".{0,200}", times in any::<[i64; 3]>(), now in -377_705_023_201..253_402_207_200_i64) {
        let now = Timestamp::from_second(now).unwrap();
        let keys = issuer_keys();
        let token = sign(r#"{"alg":"EdDSA","kid":"k1"}"#, &payload);
        prop_assert!(verify(&token, &keys, &policy(), now).is_err());
        let mut claims = claims();
        for (name, time) in ["iat", "nbf", "exp"].into_iter().zip(times) {
            claims[name] = json!(time);
        }
        let _ = verify(&signed(&claims), &keys, &policy(), now);
    }
}

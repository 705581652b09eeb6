//! A server's notification that a question has an answer. It triggers a poll and decides nothing (approvals §2.7).

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::settings::Secret;
use bursar_net::oauth::form;

pub(crate) const LONGEST_PING: usize = 4 << 10;
/// Random bytes of a token. The standard requires 16 and recommends 20.
const ENTROPY: usize = 32;

/// The notification tokens of open questions, as hashes, by handle.
#[derive(Default)]
pub struct KnownTokens(HashMap<String, [u8; 32]>);

#[derive(Deserialize)]
struct Ping {
    auth_req_id: String,
}

impl KnownTokens {
    pub fn insert(&mut self, handle: &str, token: &Secret) {
        self.0.insert(handle.to_owned(), hash(token.expose()));
    }

    pub fn remove(&mut self, handle: &str) {
        self.0.remove(handle);
    }
}

/// A fresh token; every question gets its own.
pub(crate) fn notification_token() -> Option<Secret> {
    let mut random = zeroize::Zeroizing::new([0; ENTROPY]);
    getrandom::fill(random.as_mut_slice()).ok()?;
    Some(Secret::new(URL_SAFE_NO_PAD.encode(random.as_slice())))
}

/// The handle of the question that the ping is about: respond 204 and poll. `None`: respond 401, whatever was wrong.
pub fn ping(authorization: Option<&str>, body: &[u8], known: &KnownTokens) -> Option<String> {
    if body.len() > LONGEST_PING {
        return None;
    }
    let (scheme, token) = authorization?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let ping: Ping = serde_json::from_str(form::object(body)?).ok()?;
    let wanted = known.0.get(&ping.auth_req_id);
    // Always hash and compare, with a dummy if need be, so that an unknown id takes as long as a wrong token.
    let same = hash(token.trim()).ct_eq(wanted.unwrap_or(&[0; 32]));
    (bool::from(same) && wanted.is_some()).then_some(ping.auth_req_id)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn pings_of_the_vectors_are_answered_as_they_say() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../../fixtures/approvals/ciba_requests.json")).unwrap();
        let mut known = KnownTokens::default();
        let handle = "1c266114-a1be-4252-8ad1-04986c5b9ac1";
        known.insert(handle, &Secret::new("8d67dc78-7faa-4d41-aabd-67707b374255"));
        let mut seen = 0;
        for case in vectors["cases"].as_array().unwrap() {
            let Some(answer) = case["answer"].as_u64() else {
                continue;
            };
            let authorization = case["headers"]["authorization"].as_str();
            let body = case["body"].as_str().unwrap().as_bytes();
            let about = ping(authorization, body, &known);
            assert_eq!(about.is_some(), answer == 204, "{}", case["name"]);
            assert!(about.is_none_or(|about| about == handle));
            seen += 1;
        }
        assert_eq!(seen, 2);
    }

    #[test]
    fn only_the_token_of_that_question_wakes_it() {
        let mut known = KnownTokens::default();
        let (one, two) = (notification_token().unwrap(), notification_token().unwrap());
        assert!(one != two && one.expose().len() == 43);
        known.insert("one", &one);
        known.insert("two", &two);
        let bearer = |token: &Secret| format!("Bearer {}", token.expose());
        let about = |authorization: &str, body: &str| ping(Some(authorization), body.as_bytes(), &known);
        assert_eq!(about(&bearer(&one), r#"{"auth_req_id":"one"}"#).as_deref(), Some("one"));
        assert_eq!(about(&bearer(&two), r#"{"auth_req_id":"one"}"#), None);
        assert_eq!(about(&bearer(&one), r#"{"auth_req_id":"three"}"#), None);
        assert_eq!(about(&bearer(&one), r#"{"auth_req_id":["one"]}"#), None);
        assert_eq!(about(&bearer(&one), r#"["one"]"#), None);
        assert_eq!(about(one.expose(), r#"{"auth_req_id":"one"}"#), None);
        assert_eq!(about("Bearer ", r#"{"auth_req_id":"one"}"#), None);
        let padded = format!(r#"{{"auth_req_id":"one","x":"{}"}}"#, "x".repeat(LONGEST_PING));
        assert_eq!(about(&bearer(&one), &padded), None);
        assert_eq!(ping(None, br#"{"auth_req_id":"one"}"#, &known), None);
        known.remove("one");
        assert_eq!(ping(Some(&bearer(&one)), br#"{"auth_req_id":"one"}"#, &known), None);
    }
}

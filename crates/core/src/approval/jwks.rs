//! The keys that may have signed an approval token: an issuer's JWKS document, and the part of it that is archived so
//! that a token can be checked after the issuer has changed its keys (approvals §5).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::challenge::json::{self, Object};
use crate::plain::plain;

/// The most bytes of any document of an issuer (approvals §2.1).
pub(crate) const MAX_DOCUMENT: usize = 256 << 10;
const MAX_KEYS: usize = 100;
const KEY_BYTES: usize = 32;

/// The usable keys of one JWKS, by `kid`; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet(BTreeMap<String, Key>);

/// One Ed25519 key that does not have small order, and its `kid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    kid: String,
    point: VerifyingKey,
}

/// A key in its archived form. Members are in the order of RFC 8785.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwk {
    crv: Curve,
    kid: String,
    kty: KeyType,
    x: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Curve {
    Ed25519,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum KeyType {
    #[serde(rename = "OKP")]
    Okp,
}

/// Why none of a document's keys is used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadKeys {
    #[error("it is not a JWKS document")]
    NotJwks,
    #[error("it has more than 100 keys")]
    TooMany,
    /// Anyone who can read the document can sign.
    #[error("it publishes a private key")]
    PrivateKey,
    /// Signatures for such a key can be made without knowing any secret.
    #[error("its key `{}` has small order", shown(.0))]
    WeakKey(String),
    #[error("it has two different keys with the `kid` `{}`", shown(.0))]
    TwoKeys(String),
    #[error("it has no Ed25519 key for verifying signatures")]
    NoneUsable,
}

impl BadKeys {
    /// Stable text, as for [`Rejected`](super::rejected::Rejected).
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotJwks => "jwks_malformed",
            Self::TooMany => "jwks_too_many_keys",
            Self::PrivateKey => "jwks_private_key",
            Self::WeakKey(_) => "weak_key",
            Self::TwoKeys(_) => "jwks_duplicate_kid",
            Self::NoneUsable => "jwks_no_key",
        }
    }
}

impl KeySet {
    /// Reads a document as received. Keys of other types or for other purposes are skipped. A document that shows
    /// careless key handling is rejected as a whole.
    pub fn read(document: &[u8]) -> Result<Self, BadKeys> {
        let text = json::checked_up_to(document, MAX_DOCUMENT).map_err(|_| BadKeys::NotJwks)?;
        let listed = Object::read(text)
            .and_then(|document| serde_json::from_str::<Vec<&RawValue>>(document.member("keys")?.get()).ok())
            .ok_or(BadKeys::NotJwks)?;
        if listed.len() > MAX_KEYS {
            return Err(BadKeys::TooMany);
        }
        let listed: Vec<Object<'_>> = listed
            .into_iter()
            .map(|key| Object::read(key.get()).ok_or(BadKeys::NotJwks))
            .collect::<Result<_, _>>()?;
        if listed.iter().any(|key| key.has("d")) {
            return Err(BadKeys::PrivateKey);
        }
        let mut keys = BTreeMap::new();
        for key in listed.iter().filter_map(usable) {
            let key = key?;
            // RFC 7517 §4.5 lets keys of different types share a `kid`, but keys of other types were skipped above.
            match keys.get(&key.kid) {
                Some(known) if *known != key => return Err(BadKeys::TwoKeys(key.kid)),
                _ => keys.insert(key.kid.clone(), key),
            };
        }
        match keys.is_empty() {
            true => Err(BadKeys::NoneUsable),
            false => Ok(Self(keys)),
        }
    }

    pub fn key(&self, kid: &str) -> Option<&Key> {
        self.0.get(kid)
    }
}

impl From<Key> for KeySet {
    fn from(key: Key) -> Self {
        Self(BTreeMap::from([(key.kid.clone(), key)]))
    }
}

/// A `kid` in a message: the server chose it.
fn shown(kid: &str) -> String {
    plain(kid).chars().take(64).collect()
}

/// `None` for a key that bursar cannot use.
fn usable(jwk: &Object<'_>) -> Option<Result<Key, BadKeys>> {
    let is = |name: &str, allowed: &[&str]| jwk.text(name).is_some_and(|value| allowed.contains(&value.as_str()));
    let absent_or = |name: &str, allowed: &[&str]| jwk.member(name).is_none() || is(name, allowed);
    let may_verify = jwk.member("key_ops").is_none_or(|operations| {
        serde_json::from_str::<Vec<String>>(operations.get())
            .is_ok_and(|operations| operations.iter().any(|operation| operation == "verify"))
    });
    let is_ours = is("kty", &["OKP"])
        && is("crv", &["Ed25519"])
        && absent_or("use", &["sig"])
        && absent_or("alg", &["EdDSA", "Ed25519"])
        && may_verify;
    let kid = jwk.text("kid").filter(|kid| !kid.is_empty());
    match (is_ours, kid, jwk.text("x")) {
        (true, Some(kid), Some(x)) => Key::of(kid, &x).transpose(),
        _ => None,
    }
}

impl Key {
    /// `Ok(None)` if `x` is not a point of the curve as 32 bytes in strict base64url.
    fn of(kid: String, x: &str) -> Result<Option<Self>, BadKeys> {
        let point = URL_SAFE_NO_PAD
            .decode(x)
            .ok()
            .and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes).ok())
            .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        match point {
            Some(point) if point.is_weak() => Err(BadKeys::WeakKey(kid)),
            Some(point) => Ok(Some(Self { kid, point })),
            None => Ok(None),
        }
    }

    /// The key from its archived form.
    pub(crate) fn from_jwk(jwk: &Jwk) -> Result<Self, BadKeys> {
        Self::of(jwk.kid.clone(), &jwk.x)?.ok_or(BadKeys::NoneUsable)
    }

    pub fn jwk(&self) -> Jwk {
        Jwk {
            crv: Curve::Ed25519,
            kid: self.kid.clone(),
            kty: KeyType::Okp,
            x: self.x(),
        }
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// RFC 7638 with SHA-256, in base64url. It does not depend on the `kid`.
    pub fn thumbprint(&self) -> String {
        let required = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        URL_SAFE_NO_PAD.encode(Sha256::digest(required))
    }

    /// Whether this key signed `message`. Strict: no small order in key or signature, S below the group order, no
    /// cofactor. So everybody who checks it later comes to the same result.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.point.verify_strict(message, &signature).is_ok())
    }

    fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.point.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const X: &str = "4_eVNUfslNGV_bOcssdMux7tEfcFmYpPyZxbxA_qCqc";
    const OTHER_X: &str = "C_5BDSp6JfeT7pQxsPDcUL1-kN8tZeFJ-c0uqVndNeM";
    const WEAK_X: &str = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn read(keys: Value) -> Result<KeySet, BadKeys> {
        KeySet::read(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn documents_are_read_as_the_vectors_say() {
        let fixture: Value =
            serde_json::from_str(include_str!("../../../../fixtures/approvals/jwks_documents.json")).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 14);
        for case in cases {
            let keys = KeySet::read(case["jwks"].to_string().as_bytes());
            assert_eq!(keys.is_ok(), case["ok"].as_bool().unwrap(), "{}", case["name"]);
            let kept: Vec<&str> = keys.iter().flat_map(|keys| keys.0.keys().map(String::as_str)).collect();
            assert_eq!(json!(kept), case["keep"], "{}", case["name"]);
        }
    }

    #[test]
    fn each_fault_of_a_document_has_its_name() {
        let key = |kid: &str, x: &str| json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x});
        let with = |name: &str, value: Value| {
            let mut key = key("a", X);
            key[name] = value;
            key
        };
        for (keys, code) in [
            (json!({}), "jwks_malformed"),
            (json!(["k1"]), "jwks_malformed"),
            (json!([]), "jwks_no_key"),
            (json!([key("", X)]), "jwks_no_key"),
            (json!([key("a", "")]), "jwks_no_key"),
            // Its unused last bits are not zero: a second spelling.
            (json!([key("a", &X.replace("Cqc", "Cqd"))]), "jwks_no_key"),
            (json!([with("use", json!("enc"))]), "jwks_no_key"),
            (json!([with("use", json!(["sig"]))]), "jwks_no_key"),
            (json!([with("alg", json!("ES256"))]), "jwks_no_key"),
            (json!([with("key_ops", json!("verify"))]), "jwks_no_key"),
            (json!([key("a", X), key("b", WEAK_X)]), "weak_key"),
            (json!([key("a", X), key("a", OTHER_X)]), "jwks_duplicate_kid"),
            (json!([key("a", X), {"kty": "RSA", "d": "AQAB"}]), "jwks_private_key"),
            (json!([with("d", json!(null))]), "jwks_private_key"),
            (Value::Array(vec![json!({}); 101]), "jwks_too_many_keys"),
        ] {
            assert_eq!(read(keys.clone()).unwrap_err().code(), code, "{keys}");
        }
        let hundred: Vec<Value> = (0..100).map(|i| key(&format!("k{i}"), X)).collect();
        assert_eq!(read(Value::Array(hundred)).unwrap().0.len(), 100);
        assert!(read(json!([with("key_ops", json!(["sign", "verify"]))])).is_ok());
        assert!(read(json!([with("alg", json!("Ed25519"))])).is_ok());
        // A key of another type with the same `kid` is an alternative (RFC 7517 §4.5), not a duplicate.
        assert!(read(json!([{"kty": "RSA", "kid": "a"}, key("a", X)])).is_ok());
        let twice = br#"{"keys":[],"keys":[]}"#;
        assert_eq!(KeySet::read(twice), Err(BadKeys::NotJwks));
        assert_eq!(KeySet::read(&vec![b' '; MAX_DOCUMENT + 1]), Err(BadKeys::NotJwks));
    }

    #[test]
    fn the_known_answer_of_rfc_8037_verifies_and_has_its_thumbprint() {
        let fixture: Value = serde_json::from_str(include_str!("../../../../fixtures/approvals/jwt.json")).unwrap();
        let answer = &fixture["rfc8037_a4"];
        let key = Key::of("a4".to_owned(), answer["x"].as_str().unwrap())
            .unwrap()
            .unwrap();
        // RFC 8037, appendix A.3.
        assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        let (message, signature) = answer["jws"].as_str().unwrap().rsplit_once('.').unwrap();
        let payload = URL_SAFE_NO_PAD.decode(message.split_once('.').unwrap().1).unwrap();
        assert_eq!(payload, answer["payload"].as_str().unwrap().as_bytes());
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(key.has_signed(message.as_bytes(), &signature));
        assert!(!key.has_signed(&message.as_bytes()[1..], &signature));
        assert!(!key.has_signed(message.as_bytes(), &signature[..63]));
    }

    /// Anyone can make such a signature. The test shows that it would pass a check that is not strict.
    #[test]
    fn a_weak_key_would_let_anything_pass() {
        use ed25519_dalek::Verifier as _;
        let bytes: [u8; 32] = URL_SAFE_NO_PAD.decode(WEAK_X).unwrap().try_into().unwrap();
        let weak = Key {
            kid: "weak".to_owned(),
            point: VerifyingKey::from_bytes(&bytes).unwrap(),
        };
        let mut signature = [0; 64];
        signature[0] = 1;
        let lax = Signature::from_bytes(&signature);
        assert!(weak.point.verify(b"anything", &lax).is_ok());
        assert!(!weak.has_signed(b"anything", &signature));
    }

    #[test]
    fn an_archived_key_is_the_same_key() {
        let keys = KeySet::read(include_bytes!("../../../../fixtures/approvals/jwks.json")).unwrap();
        for kid in ["k1", "k2"] {
            let key = keys.key(kid).unwrap();
            let text = serde_json::to_string(&key.jwk()).unwrap();
            assert_eq!(
                text,
                format!(r#"{{"crv":"Ed25519","kid":"{kid}","kty":"OKP","x":"{}"}}"#, key.x())
            );
            let archived: Jwk = serde_json::from_str(&text).unwrap();
            assert_eq!(Key::from_jwk(&archived).as_ref(), Ok(key));
        }
        assert_ne!(
            keys.key("k1").unwrap().thumbprint(),
            keys.key("k2").unwrap().thumbprint()
        );
    }

    proptest! {
        #[test]
        fn no_document_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = KeySet::read(&bytes);
        }

        #[test]
        fn no_x_panics_or_is_weak(bytes in any::<[u8; 32]>()) {
            if let Ok(Some(key)) = Key::of("a".to_owned(), &URL_SAFE_NO_PAD.encode(bytes)) {
                prop_assert!(!key.point.is_weak());
            }
        }
    }
}

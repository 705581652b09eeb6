//! `private_key_jwt`: the client authenticates with a token that it signs itself (approvals §2.4; RFC 7523 §2.2).
//! Neither what the server stores nor what is sent lets anyone else authenticate as the client later.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use thiserror::Error;

use bursar_core::clock::{self, SharedClock};
use bursar_net::oauth::issuer::Issuer;

/// The value of `client_assertion_type`.
pub(crate) const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Lifetime of an assertion, in seconds. It is sent at once and used once.
const LIVES_S: i64 = 60;

/// The client's signing key. No `Debug`, so that it cannot be logged.
pub struct AssertionKey {
    pair: Pair,
    /// The key id under which the server has the key registered, if any.
    kid: Option<String>,
    clock: SharedClock,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair, SystemRandom),
}

/// Why a key was not accepted.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum BadKey {
    #[error("expected PEM with one unencrypted PKCS #8 key (`BEGIN PRIVATE KEY`)")]
    NotPem,
    #[error("the key must be Ed25519 or ECDSA on P-256")]
    OtherKind,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    typ: &'static str,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    exp: i64,
    iat: i64,
    iss: &'a str,
    jti: &'a str,
    sub: &'a str,
}

impl AssertionKey {
    /// Reads a key as written by `openssl genpkey`.
    pub fn from_pem(pem: &str, kid: Option<String>, clock: SharedClock) -> Result<Self, BadKey> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| BadKey::NotPem)?;
        let der = der.secret_pkcs8_der();
        // `maybe_unchecked`, because OpenSSL omits the public key.
        let pair = match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            Ok(pair) => Pair::Ed25519(pair),
            Err(_) => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
                .map(|pair| Pair::P256(pair, SystemRandom::new()))
                .map_err(|_| BadKey::OtherKind)?,
        };
        Ok(Self { pair, kid, clock })
    }

    /// A new assertion for each request, because servers accept a `jti` once. `None` if there is no randomness, or if
    /// signing fails.
    pub fn assertion(&self, client_id: &str, issuer: &Issuer) -> Option<String> {
        let jti = alloy_primitives::hex::encode(clock::random::<16>().ok()?);
        self.signed(client_id, issuer, self.clock.now(), &jti)
    }

    fn signed(&self, client_id: &str, issuer: &Issuer, now: Timestamp, jti: &str) -> Option<String> {
        let header = Header {
            alg: match self.pair {
                Pair::Ed25519(_) => "EdDSA",
                Pair::P256(..) => "ES256",
            },
            kid: self.kid.as_deref(),
            typ: "JWT",
        };
        let claims = Claims {
            // Only the issuer, so that an assertion sent to one server is of no use at another (approvals §2.4).
            aud: issuer.written(),
            exp: now.as_second().saturating_add(LIVES_S),
            iat: now.as_second(),
            iss: client_id,
            jti,
            sub: client_id,
        };
        let encoded = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
        let header = encoded(serde_json::to_vec(&header).ok()?);
        let signed = format!("{header}.{}", encoded(serde_json::to_vec(&claims).ok()?));
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            Pair::P256(pair, random) => pair.sign(random, signed.as_bytes()).ok()?.as_ref().to_vec(),
        };
        Some(format!("{signed}.{}", encoded(signature)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, KeyPair as _, UnparsedPublicKey};
    use serde_json::{Value, json};

    use super::*;
    use bursar_core::clock::ManualClock;
    use bursar_net::oauth::issuer::PlainHttp;

    fn pem(der: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    }

    /// Without the public key, as OpenSSL writes it.
    fn ed25519() -> String {
        let head = alloy_primitives::hex!("302e020100300506032b657004220420");
        pem(&[&head[..], &[7; 32]].concat())
    }

    fn p256() -> String {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        pem(document.unwrap().as_ref())
    }

    fn key(pem: &str, kid: Option<&str>) -> Result<AssertionKey, BadKey> {
        let clock = ManualClock::at(Timestamp::from_second(1_800_000_000).unwrap());
        AssertionKey::from_pem(pem, kid.map(str::to_owned), Arc::new(clock))
    }

    fn decoded(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn an_assertion_names_the_client_twice_and_the_issuer_and_lives_a_minute() {
        let issuer = Issuer::parse("https://login.example.com/", PlainHttp::Never).unwrap();
        for (pem, alg, kid) in [(ed25519(), "EdDSA", None), (p256(), "ES256", Some("bursar-1"))] {
            let key = key(&pem, kid).unwrap();
            let token = key.assertion("bursar", &issuer).unwrap();
            let [header, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
            let mut wanted = json!({ "alg": alg, "typ": "JWT" });
            if let Some(kid) = kid {
                wanted["kid"] = json!(kid);
            }
            assert_eq!(decoded(header), wanted);
            let claims = decoded(claims);
            let jti = claims["jti"].as_str().unwrap();
            assert_eq!(jti.len(), 32);
            let wanted = json!({ "iss": "bursar", "sub": "bursar", "aud": "https://login.example.com/", "jti": jti,
                "iat": 1_800_000_000, "exp": 1_800_000_060 });
            assert_eq!(claims, wanted);
            let signed = token.rsplit_once('.').unwrap().0;
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            match &key.pair {
                Pair::Ed25519(pair) => UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref().to_vec())
                    .verify(signed.as_bytes(), &signature)
                    .unwrap(),
                Pair::P256(pair, _) => {
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref().to_vec())
                        .verify(signed.as_bytes(), &signature)
                        .unwrap();
                }
            }
            // A server accepts each assertion once, so the next one differs.
            let again = key.assertion("bursar", &issuer).unwrap();
            assert_ne!(again.split('.').nth(1), token.split('.').nth(1));
        }
    }

    #[test]
    fn an_unusable_key_is_rejected_with_its_reason() {
        let secret = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (pem, why) in [
            ("", BadKey::NotPem),
            ("hunter2", BadKey::NotPem),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                BadKey::NotPem,
            ),
            (secret, BadKey::OtherKind),
        ] {
            assert_eq!(key(pem, None).err(), Some(why), "{pem}");
        }
    }
}

//! The account's secret key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use super::service::ApiBase;
use bursar_core::account::AccountMark;
pub use bursar_core::assets::Mode;

/// A secret or restricted key of a Stripe account. It has no `Debug` and no `Display`, and is wiped when dropped.
pub struct SecretKey {
    text: Zeroizing<String>,
    mode: Mode,
}

/// Why a text is not a secret key. The message never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error(
        "this is a publishable Stripe key (pk_), which cannot issue tokens; use the secret key (sk_) or a restricted \
         one (rk_) of the same account"
    )]
    Publishable,
    #[error("this is not a Stripe secret key; one starts with sk_test_, rk_test_, sk_live_ or rk_live_")]
    Unknown,
    #[error("this Stripe key is malformed: its prefix must be followed by 1 to 247 letters, digits or _")]
    Malformed,
    #[error("Stripe's test helper accepts only test keys, and this is a live key")]
    LiveInTestHelper,
}

const PREFIXES: [(&str, Mode); 4] = [
    ("sk_test_", Mode::Test),
    ("rk_test_", Mode::Test),
    ("sk_live_", Mode::Live),
    ("rk_live_", Mode::Live),
];

/// Stripe promises keys of at most 255 characters.
const LONGEST_REST: usize = 247;

impl SecretKey {
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let Some((rest, mode)) = PREFIXES
            .iter()
            .find_map(|(prefix, mode)| Some((text.strip_prefix(prefix)?, *mode)))
        else {
            return Err(match text.starts_with("pk_") {
                true => KeyError::Publishable,
                false => KeyError::Unknown,
            });
        };
        if !super::names::is_word(rest, LONGEST_REST) {
            return Err(KeyError::Malformed);
        }
        Ok(Self {
            text: Zeroizing::new(text.to_owned()),
            mode,
        })
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Identifies this key at this service: half of a hash. A key is random, so nobody can find it from the hash.
    pub(super) fn mark(&self, base: &ApiBase) -> AccountMark {
        let mut hash = Sha256::new();
        hash.update(b"bursar/stripe-account/v1\n");
        hash.update(base.to_string().to_ascii_lowercase());
        // A URL has no line break, so two different pairs never hash the same text.
        hash.update(b"\n");
        hash.update(self.text.as_bytes());
        let whole: [u8; 32] = hash.finalize().into();
        let (half, _) = whole.split_first_chunk().unwrap_or((&[0; 16], &[]));
        AccountMark(*half)
    }

    /// The `Basic` credential, with the key as the user and no password.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let pair = Zeroizing::new(format!("{}:", self.text.as_str()));
        let field = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut value = HeaderValue::try_from(field.as_str()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_gives_the_mode() {
        for (text, mode) in [
            ("sk_test_4eC39HqLyjWDarjtT1", Mode::Test),
            ("rk_test_a", Mode::Test),
            ("sk_live_a_b", Mode::Live),
            ("rk_live_9", Mode::Live),
        ] {
            assert_eq!(SecretKey::parse(text).ok().unwrap().mode(), mode, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_and_not_repeated() {
        let long = format!("sk_test_{}", "a".repeat(248));
        for (text, why) in [
            ("pk_live_51Abc", KeyError::Publishable),
            ("pk_test_51Abc", KeyError::Publishable),
            ("", KeyError::Unknown),
            ("hunter2", KeyError::Unknown),
            ("SK_TEST_abc", KeyError::Unknown),
            (" sk_test_abc", KeyError::Unknown),
            ("sk_abc", KeyError::Unknown),
            ("whsec_abc", KeyError::Unknown),
            ("sk_test_", KeyError::Malformed),
            ("sk_test_a b", KeyError::Malformed),
            ("sk_test_a\r\nX: y", KeyError::Malformed),
            ("sk_test_é", KeyError::Malformed),
            (long.as_str(), KeyError::Malformed),
        ] {
            let error = SecretKey::parse(text).err().unwrap();
            assert_eq!(error, why, "{text}");
            for secret in ["51Abc", "hunter2", "abc", "aaaa"] {
                assert!(!error.to_string().contains(secret), "{error}");
            }
        }
    }

    #[test]
    fn a_mark_is_of_one_key_at_one_service() {
        let mark = |key: &str, base: &str| {
            let (key, base) = (SecretKey::parse(key).ok().unwrap(), ApiBase::parse(base).unwrap());
            key.mark(&base)
        };
        let first = mark("sk_test_a", "https://api.stripe.com");
        assert_eq!(first, mark("sk_test_a", "https://API.stripe.com/"));
        assert_ne!(first, mark("sk_test_b", "https://api.stripe.com"));
        assert_ne!(first, mark("sk_test_a", "https://stripe.internal"));
    }

    #[test]
    fn it_is_the_user_of_basic_without_a_password() {
        let key = SecretKey::parse("sk_test_abc").ok().unwrap();
        let field = key.authorization().unwrap();
        assert_eq!(field, "Basic c2tfdGVzdF9hYmM6");
        assert!(field.is_sensitive());
    }
}

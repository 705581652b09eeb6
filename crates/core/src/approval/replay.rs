//! No answer counts twice: what identifies an answer, and how long that must be remembered (approvals §10). The ledger
//! remembers it, in the same step that grants the approval (R45).

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

/// Added to a token's expiry and the allowed clock difference.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// A hash that identifies one answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplayKey([u8; 32]);

impl ReplayKey {
    /// SHA-256 of issuer, 0x00, `jti`. An issuer is the same with and without a trailing `/`.
    pub fn of_jti(issuer: &str, jti: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(without_slash(issuer));
        hash.update([0]);
        hash.update(jti);
        Self(hash.finalize().into())
    }

    /// The key of a whole token, for tokens without `jti`. The same token cannot be spelled differently: its base64url
    /// is canonical, and only the signer can create another signature.
    pub fn of_token(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

#[cfg(any(test, feature = "testing"))]
impl ReplayKey {
    pub fn bytes(self) -> [u8; 32] {
        self.0
    }
}

/// The form of [`Evidence::replay_key`](super::Evidence::replay_key).
impl fmt::Display for ReplayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&alloy_primitives::hex::encode(self.0))
    }
}

impl fmt::Debug for ReplayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An issuer's name in the form that is compared.
pub(super) fn without_slash(issuer: &str) -> &str {
    issuer.strip_suffix('/').unwrap_or(issuer)
}

/// How long the key of a token that expires at `expires_at` is kept.
pub fn kept_until(expires_at: Timestamp, leeway: SignedDuration) -> Timestamp {
    let margin = leeway.checked_add(MARGIN).unwrap_or(SignedDuration::MAX);
    expires_at.saturating_add(margin).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn fixture() -> Value {
        serde_json::from_str(include_str!("../../../../fixtures/approvals/replay.json")).unwrap()
    }

    #[test]
    fn the_key_matches_the_vectors() {
        let example = &fixture()["key_example"];
        let text = |name: &str| example[name].as_str().unwrap();
        let key = ReplayKey::of_jti(text("iss"), text("jti"));
        assert_eq!(key.to_string(), text("hex"));
        assert_ne!(ReplayKey::of_jti("ab", "c"), ReplayKey::of_jti("a", "bc"));
    }

    #[test]
    fn a_key_is_kept_as_long_as_its_token_could_pass_and_a_minute_more() {
        let leeway = SignedDuration::from_secs(30);
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(kept_until(at(1000), leeway), at(1090));
        assert_eq!(kept_until(Timestamp::MAX, leeway), Timestamp::MAX);
    }
}

//! No answer counts twice: what makes one single use, and for how long that must be remembered (approvals §10). The
//! books remember it (`ledger/book/approvals.rs`), in the same step that grants the approval (R45).

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

/// Added to a token's end and the leeway of clocks.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// A hash that one answer has, and no other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplayKey([u8; 32]);

impl ReplayKey {
    /// SHA-256 of issuer, 0x00, `jti`. An issuer with and without a last `/` is one issuer.
    pub fn of_jti(issuer: &str, jti: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(without_slash(issuer));
        hash.update([0]);
        hash.update(jti);
        Self(hash.finalize().into())
    }

    /// Of a whole token, for one without `jti`. It cannot be spelled in a second way: its base64url is canonical, and only its
    /// signer can make another signature.
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

/// As [`Evidence::replay_key`](super::Evidence::replay_key) has it.
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

/// An issuer's name as it is compared.
pub(super) fn without_slash(issuer: &str) -> &str {
    issuer.strip_suffix('/').unwrap_or(issuer)
}

/// Until when the key of a token that ends at `expires_at` is kept.
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
    fn the_key_is_that_of_the_vectors() {
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

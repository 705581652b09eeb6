//! No answer counts twice: what makes one single use, and for how long that must be remembered (digest §10).

use std::collections::HashMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the answer has been used before")]
pub struct Replayed;

/// The keys of what has been used, each with the time until which it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    used: HashMap<ReplayKey, Timestamp>,
    /// Everything that was kept until then may be forgotten, and so nothing that ends by then is new.
    forgotten: Option<Timestamp>,
}

impl Replay {
    /// Puts a key in, unless it is there. What is past its time but not yet forgotten still counts as there.
    pub fn insert(&mut self, key: ReplayKey, kept_until: Timestamp) -> Result<(), Replayed> {
        let is_old = self.forgotten.is_some_and(|forgotten| kept_until <= forgotten);
        if is_old || self.used.contains_key(&key) {
            return Err(Replayed);
        }
        self.used.insert(key, kept_until);
        Ok(())
    }

    /// Drops what need not be kept at `now`. A clock that jumps ahead and back again does not make anything new: what may have been
    /// dropped stays used.
    pub fn forget(&mut self, now: Timestamp) {
        self.forgotten = self.forgotten.max(Some(now));
        let forgotten = self.forgotten;
        self.used.retain(|_, kept_until| Some(*kept_until) > forgotten);
    }

    pub fn iter(&self) -> impl Iterator<Item = (ReplayKey, Timestamp)> + '_ {
        self.used.iter().map(|(key, kept_until)| (*key, *kept_until))
    }
}

/// After a restart, from what was written down; that must be everything whose time had not come.
impl FromIterator<(ReplayKey, Timestamp)> for Replay {
    fn from_iter<I: IntoIterator<Item = (ReplayKey, Timestamp)>>(used: I) -> Self {
        Self {
            used: used.into_iter().collect(),
            forgotten: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const LEEWAY: SignedDuration = SignedDuration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn fixture() -> Value {
        serde_json::from_str(include_str!("../../fixtures/approvals/replay.json")).unwrap()
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
    fn answers_are_used_in_the_order_of_the_vectors() {
        let fixture = fixture();
        let steps = fixture["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 7);
        let mut replay = Replay::default();
        for step in steps {
            replay.forget(at(step["t"].as_i64().unwrap()));
            if step["restart"] == true {
                replay = replay.iter().collect();
                continue;
            }
            let key = ReplayKey::of_jti(step["iss"].as_str().unwrap(), step["jti"].as_str().unwrap());
            let kept_until = kept_until(at(step["exp"].as_i64().unwrap()), LEEWAY);
            let verdict = match replay.insert(key, kept_until) {
                Ok(()) => "accept",
                Err(Replayed) => "replayed",
            };
            assert_eq!(verdict, step["verdict"].as_str().unwrap(), "{step}");
        }
        assert_eq!(replay.iter().count(), 3);
    }

    #[test]
    fn a_key_is_kept_as_long_as_its_token_could_pass_and_a_minute_more() {
        let key = ReplayKey::of_jti("https://idp.test", "a");
        let kept = kept_until(at(1000), LEEWAY);
        assert_eq!(kept, at(1090));
        let mut replay = Replay::default();
        replay.insert(key, kept).unwrap();
        replay.forget(at(1089));
        assert_eq!(replay.insert(key, kept), Err(Replayed));
        replay.forget(at(1090));
        assert_eq!(replay.iter().count(), 0);
        // The clock goes back: the token would be valid again, but it is not new.
        replay.forget(at(900));
        assert_eq!(replay.insert(key, kept), Err(Replayed));
        assert_eq!(replay.insert(key, at(1091)), Ok(()));
        assert_eq!(kept_until(Timestamp::MAX, LEEWAY), Timestamp::MAX);
    }

    proptest! {
        #[test]
        fn whatever_the_clock_does_no_key_is_taken_twice(
            steps in proptest::collection::vec((0..4u8, 0..200i64, any::<bool>()), 0..60),
        ) {
            let mut replay = Replay::default();
            let mut taken = Vec::new();
            for (jti, second, forgets) in steps {
                if forgets {
                    replay.forget(at(second));
                    continue;
                }
                let key = ReplayKey::of_jti("https://idp.test", &jti.to_string());
                // A token has one end.
                let kept = at(i64::from(jti) * 50);
                let is_new = replay.insert(key, kept).is_ok();
                prop_assert!(!(is_new && taken.contains(&jti)));
                if is_new {
                    taken.push(jti);
                }
            }
        }
    }
}

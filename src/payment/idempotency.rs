//! The agent's `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): which keys payments were made under, and
//! which requests are buying under one right now (R6).
//!
//! An in-memory copy of what the ledger holds, so that free traffic needs no ledger query. The ledger itself refuses a
//! second payment under a key; the claims here make two simultaneous requests wait for each other instead of failing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use bursar_core::agent_name::AgentName;
use bursar_core::clock::SharedClock;
use bursar_ledger::key::Keys as Holds;
use bursar_ledger::{KeyHold, PaymentId};
use bursar_rails::outstanding::Fingerprint;

pub(crate) const FIELD: &str = "idempotency-key";
/// The longest key accepted. Nothing breaks beyond it, but a longer key is likely a mistake, and no payment should
/// depend on one.
const LONGEST: usize = 1024;

/// A hash over agent and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

/// Why a request under this key is not paid for. If it needs no payment, it is forwarded like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Empty,
    TooLong,
    Several,
}

/// The keys with a payment of the last 24 h or a purchase under way.
#[derive(Clone)]
pub(crate) struct IdempotencyKeys(Arc<Shared>);

struct Shared {
    clock: SharedClock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    holds: Holds,
    /// The channels close when a purchase is recorded or given up.
    claimed: HashMap<[u8; 32], watch::Receiver<()>>,
}

/// What a purchase finds when it claims its key.
pub(crate) enum Claimed {
    /// The purchase may proceed.
    Granted(Claim),
    /// Another purchase is under way: wait for this to close, then claim again.
    Busy(watch::Receiver<()>),
    /// A payment was made under the key: [`IdempotencyKeys::holder`] has it.
    Held,
}

/// The right to buy under a key. Dropping it means that nothing was bought.
pub(crate) struct Claim {
    keys: IdempotencyKeys,
    key: Key,
    _over: watch::Sender<()>,
}

impl Key {
    /// The field's value as sent, whether or not it is the quoted string of the draft: clients send both, and each
    /// sends the same form again.
    pub(crate) fn of(agent: &AgentName, headers: &HeaderMap) -> Result<Option<Self>, Unusable> {
        let mut lines = headers.get_all(FIELD).iter().map(|line| line.as_bytes().trim_ascii());
        let Some(value) = lines.next() else {
            return Ok(None);
        };
        if lines.any(|other| other != value) {
            return Err(Unusable::Several);
        }
        match value.len() {
            0 => return Err(Unusable::Empty),
            1..=LONGEST => {}
            _ => return Err(Unusable::TooLong),
        }
        let mut hash = Sha256::new();
        hash.update((agent.as_str().len() as u64).to_be_bytes());
        hash.update(agent.as_str().as_bytes());
        hash.update(value);
        Ok(Some(Self(hash.finalize().into())))
    }

    pub(crate) fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl Unusable {
    /// Completes the sentence "the request's Idempotency-Key ...".
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Empty => "is empty",
            Self::TooLong => "is longer than 1024 bytes",
            Self::Several => "is sent several times with different values",
        }
    }
}

impl IdempotencyKeys {
    /// Starts with the keys that the ledger holds.
    pub(crate) fn new(holds: Vec<KeyHold>, clock: SharedClock) -> Self {
        let mut state = State::default();
        holds.into_iter().for_each(|hold| state.holds.hold(hold));
        Self(Arc::new(Shared {
            clock,
            state: Mutex::new(state),
        }))
    }

    /// The payment that was made under a key within 24 h.
    pub(crate) fn holder(&self, key: Key) -> Option<KeyHold> {
        let now = self.now();
        self.lock().holds.holder(&key.0, now).copied()
    }

    /// Claims the key for one purchase at a time.
    pub(crate) fn claim(&self, key: Key) -> Claimed {
        let now = self.now();
        let mut state = self.lock();
        if state.holds.holder(&key.0, now).is_some() {
            return Claimed::Held;
        }
        if let Some(over) = state.claimed.get(&key.0) {
            return Claimed::Busy(over.clone());
        }
        let (sender, over) = watch::channel(());
        state.claimed.insert(key.0, over);
        Claimed::Granted(Claim {
            keys: self.clone(),
            key,
            _over: sender,
        })
    }

    /// Frees the key: its payment is proven never to be taken.
    pub(crate) fn free(&self, hold: &KeyHold) {
        self.lock().holds.free(hold);
    }

    /// Forgets what is older than 24 h. Called on a timer.
    pub(crate) fn sweep(&self) {
        let now = self.now();
        self.lock().holds.fade(now);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.clock.now().as_second()).unwrap_or(0)
    }

    // A poisoned lock is still consistent: nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// The payment is signed: from now on no other purchase signs under this key.
    pub(crate) fn paid(self, rid: PaymentId, fingerprint: Fingerprint) {
        let hold = KeyHold::new(self.keys.now(), self.key.0, rid, fingerprint.bytes());
        self.keys.lock().holds.hold(hold);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.keys.lock().claimed.remove(&self.key.0);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use bursar_core::clock::{Clock as _, ManualClock};
    use bursar_rails::outstanding::Target;

    fn key_of(agent: &str, lines: &[&str]) -> Result<Option<Key>, Unusable> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FIELD, HeaderValue::from_str(line).unwrap());
        }
        Key::of(&agent.parse().unwrap(), &headers)
    }

    fn key(value: &str) -> Key {
        key_of("research", &[value]).unwrap().unwrap()
    }

    fn fingerprint() -> Fingerprint {
        Target::of("research", "GET", "https", "h:443", "/").with_body(&[0; 32])
    }

    fn world() -> (Arc<ManualClock>, IdempotencyKeys, PaymentId) {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let clock = Arc::new(ManualClock::at(now));
        (
            clock.clone(),
            IdempotencyKeys::new(Vec::new(), clock),
            PaymentId::new(now, [1; 10]),
        )
    }

    #[test]
    fn a_key_is_its_agents_own_and_its_bytes_are_taken_as_they_stand() {
        assert_eq!(key_of("a", &[]), Ok(None));
        assert_eq!(key_of("a", &["k"]), key_of("a", &["k", " k "]));
        assert_ne!(key_of("a", &["k"]), key_of("b", &["k"]));
        assert_ne!(key_of("a", &["k"]), key_of("a", &["\"k\""]));
        assert_ne!(key_of("a", &["bk"]), key_of("ab", &["k"]));
    }

    #[test]
    fn what_is_no_single_key_is_said() {
        assert_eq!(key_of("a", &["k", "l"]), Err(Unusable::Several));
        assert_eq!(key_of("a", &["k", ""]), Err(Unusable::Several));
        assert_eq!(key_of("a", &[""]), Err(Unusable::Empty));
        assert!(key_of("a", &[&"k".repeat(LONGEST)]).is_ok());
        assert_eq!(key_of("a", &[&"k".repeat(LONGEST + 1)]), Err(Unusable::TooLong));
        assert!(Unusable::TooLong.why().contains(&LONGEST.to_string()));
    }

    #[tokio::test]
    async fn one_buys_and_the_others_wait_for_it() {
        let (_, keys, rid) = world();
        let Claimed::Granted(claim) = keys.claim(key("k")) else {
            panic!("nobody was there before");
        };
        let Claimed::Busy(mut over) = keys.claim(key("k")) else {
            panic!("two at once");
        };
        assert!(matches!(keys.claim(key("l")), Claimed::Granted(_)));
        drop(claim);
        assert!(over.changed().await.is_err());
        let Claimed::Granted(claim) = keys.claim(key("k")) else {
            panic!("nothing was bought");
        };
        assert!(keys.holder(key("k")).is_none());
        claim.paid(rid, fingerprint());
        assert!(matches!(keys.claim(key("k")), Claimed::Held), "it was bought");
        let hold = keys.holder(key("k")).unwrap();
        assert_eq!((hold.rid, hold.fingerprint), (rid, fingerprint().bytes()));
        keys.free(&hold);
        assert!(matches!(keys.claim(key("k")), Claimed::Granted(_)));
    }

    #[test]
    fn a_key_is_known_for_a_day_and_a_restart_does_not_shorten_it() {
        let (clock, keys, rid) = world();
        let Claimed::Granted(claim) = keys.claim(key("k")) else {
            panic!("nobody was there before");
        };
        claim.paid(rid, fingerprint());
        let restarted = IdempotencyKeys::new(vec![keys.holder(key("k")).unwrap()], clock.clone());
        let day = SignedDuration::from_secs(24 * 60 * 60);
        let paid_at = clock.now();
        for keys in [keys, restarted] {
            clock.set(paid_at + day);
            keys.sweep();
            assert_eq!(keys.holder(key("k")).map(|hold| hold.rid), Some(rid));
            clock.set(paid_at + day + SignedDuration::from_secs(1));
            assert!(keys.holder(key("k")).is_none());
            keys.sweep();
            assert!(matches!(keys.claim(key("k")), Claimed::Granted(_)));
        }
    }

    #[test]
    fn an_agent_with_a_new_key_for_each_request_leaves_nothing() {
        let (clock, keys, rid) = world();
        for number in 0..1000 {
            let Claimed::Granted(claim) = keys.claim(key(&number.to_string())) else {
                panic!("each key is new");
            };
            assert_eq!(keys.lock().claimed.len(), 1);
            // Every tenth buys something.
            if number % 10 == 0 {
                claim.paid(rid, fingerprint());
            }
        }
        let left = || {
            let state = keys.lock();
            (state.claimed.len(), state.holds.every().count())
        };
        assert_eq!(left(), (0, 100));
        clock.set(clock.now() + SignedDuration::from_secs(24 * 60 * 60 + 1));
        keys.sweep();
        assert_eq!(left(), (0, 0));
    }
}

//! One payment as the journal tells it, and the name of its nonce.

use std::sync::Arc;

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::entry::{Arm, Reserved};
use super::key::KeyHold;
use super::model::{By, State};
use super::rid::Rid;
use super::text::Moment;

/// A finished payment's nonce stays taken this long after its deadline and its end, in seconds: an MPP challenge, whose id
/// decides the nonce (Ruling 18), does not live longer. Random x402 nonces do not repeat at all.
const NONCE_KEPT_S: u64 = 24 * 60 * 60;

/// One reservation, from first to newest entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    #[serde(serialize_with = "shared", deserialize_with = "unshared")]
    pub reserved: Arc<Reserved>,
    pub arm: Option<Arm>,
    pub state: State,
    /// Who said so, once settled or expired.
    pub by: Option<By>,
    pub tx: Option<String>,
    /// Why it is unknown, released, expired, or settled by hand.
    pub reason: Option<String>,
    pub approval: Option<String>,
    pub created_at: Moment,
    pub updated_at: Moment,
}

/// A nonce in its asset's name space: SHA-256 over network, asset, payer and nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NonceKey(pub [u8; 32]);

impl NonceKey {
    pub fn of(asset: &str, from: &Address, nonce: &B256) -> Self {
        let mut hash = Sha256::new();
        // A CAIP-19 id begins with its network and has no zero byte.
        hash.update(asset.as_bytes());
        hash.update([0]);
        hash.update(from);
        hash.update(nonce);
        Self(hash.finalize().into())
    }
}

impl Payment {
    pub fn rid(&self) -> Rid {
        self.reserved.rid
    }

    pub fn nonce_key(&self) -> Option<NonceKey> {
        let arm = self.arm.as_ref()?;
        Some(NonceKey::of(&self.reserved.asset, &arm.from, &arm.nonce))
    }

    /// Its hold on the agent's `Idempotency-Key`, if there was one.
    pub fn key_hold(&self) -> Option<KeyHold> {
        let reserved = &self.reserved;
        let at = u64::try_from(self.created_at.timestamp().as_second()).unwrap_or(0);
        Some(KeyHold::new(at, reserved.idem?.0, reserved.rid, reserved.fp.0))
    }

    /// Unix second from which the nonce of a finished payment is free again.
    pub fn nonce_free_at(&self) -> u64 {
        let deadline = self.arm.map_or(0, |arm| arm.valid_before.0);
        let end = u64::try_from(self.updated_at.timestamp().as_second()).unwrap_or(0);
        deadline.max(end).saturating_add(NONCE_KEPT_S)
    }
}

fn shared<S: Serializer>(reserved: &Arc<Reserved>, serializer: S) -> Result<S::Ok, S::Error> {
    reserved.as_ref().serialize(serializer)
}

fn unshared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Reserved>, D::Error> {
    Reserved::deserialize(deserializer).map(Arc::new)
}

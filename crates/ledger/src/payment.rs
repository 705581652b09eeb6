//! One payment as the journal records it, the key of its nonce, and what the chain reports about it afterwards.

use std::sync::Arc;

use alloy_primitives::{B256, U256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::entry::{Arm, Reserved, WindowCharge};
use super::key::KeyHold;
use super::model::{Source, State, Terms};
use super::text::{Decimal, Moment};
use bursar_core::account::Account;
use bursar_core::money::Atoms;
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::budget::{PENDING, Unit};

/// The nonce of a finished payment stays taken for this many seconds after the later of its deadline and its end. An
/// MPP challenge, whose id decides the nonce (R18), does not live longer; random x402 nonces never repeat.
const NONCE_KEPT_S: u64 = 24 * 60 * 60;

/// One reservation, from its first entry to its newest. Members are in JCS order, because it can be part of an entry
/// (`pay.adopted`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<Arm>,
    /// When it was armed, if it was held before. From then on it counts as spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub armed_at: Option<Moment>,
    /// Who reported the outcome, once settled or expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Source>,
    pub created_at: Moment,
    /// How the chain contradicts the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disputed: Option<String>,
    /// The charges, if arming has moved them or a part was given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved: Option<Vec<WindowCharge>>,
    /// Why it is unknown, released, expired, or settled by an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(serialize_with = "shared", deserialize_with = "unshared")]
    pub reserved: Arc<Reserved>,
    pub state: State,
    /// Atoms that an `upto` payment is proven to have cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<Decimal<u128>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx: Option<String>,
    pub updated_at: Moment,
    /// On a shared ledger, the proxy that took it over; that proxy's log has its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yielded: Option<u32>,
}

/// A nonce within the name space of its asset: the first half of SHA-256 over network, asset, payer and nonce. Sixteen
/// bytes keep a busy day's nonces small in memory; a collision would only cost one refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NonceKey(pub [u8; 16]);

impl NonceKey {
    pub fn of(asset: &str, from: &Account, nonce: &B256) -> Self {
        let mut hash = Sha256::new();
        // A CAIP-19 id starts with its network and contains no zero byte.
        hash.update(asset.as_bytes());
        hash.update([0]);
        hash.update(from.bytes());
        hash.update(nonce);
        let whole: [u8; 32] = hash.finalize().into();
        let (half, _) = whole.split_first_chunk().unwrap_or((&[0; 16], &[]));
        Self(*half)
    }
}

impl Payment {
    pub fn rid(&self) -> PaymentId {
        self.reserved.rid
    }

    /// What was bought; `None` if this version no longer knows the asset or the rail.
    pub fn terms(&self) -> Option<Terms> {
        Terms::recorded(&self.reserved)
    }

    /// The windows in which it counts now.
    pub fn windows(&self) -> &[WindowCharge] {
        self.moved.as_deref().unwrap_or(&self.reserved.windows)
    }

    /// When it was charged as spent money.
    pub fn charged_at(&self) -> Moment {
        self.armed_at.unwrap_or(self.created_at)
    }

    /// The group that it counts in: the one that its charges name, because the agent may have changed groups while the
    /// money was held.
    pub fn group(&self) -> Option<&str> {
        let mut scopes = self.windows().iter().map(WindowCharge::scope);
        scopes
            .find_map(|scope| scope.strip_prefix("group:"))
            .or(self.reserved.group.as_deref())
    }

    /// What its windows get back if only `taken` atoms were taken: amounts in proportion, rounded so that enough stays
    /// counted. Charges that count payments get nothing back, because there was one payment. `None`: more was taken
    /// than was signed for.
    pub fn back(&self, taken: u128) -> Option<Vec<WindowCharge>> {
        let signed = self.reserved.amount.0;
        if taken > signed {
            return None;
        }
        let back = |charge: &WindowCharge| {
            let stays = match charge.unit() {
                // A settled payment is no longer pending.
                _ if charge.window() == PENDING => charge.amount(),
                Unit::Payments => charge.amount(),
                Unit::MicroUsd => part(charge.amount(), taken, signed),
            };
            let mut back = charge.clone();
            back.3 = Decimal(charge.amount().saturating_sub(stays));
            (back.amount() > 0).then_some(back)
        };
        Some(self.windows().iter().filter_map(back).collect())
    }

    /// Subtracts `back`, as computed by [`Payment::back`], from its charges.
    pub(super) fn give_back(&mut self, back: &[WindowCharge]) {
        let mut windows = self.windows().to_vec();
        let mut back = back.iter().peekable();
        for charge in &mut windows {
            // Both are in the same order, and `back` only omits charges of zero.
            if let Some(less) = back.next_if(|less| less.names() == charge.names()) {
                charge.3 = Decimal(charge.amount().saturating_sub(less.amount()));
            }
        }
        self.moved = Some(windows);
    }

    /// Its hold on the agent's `Idempotency-Key`, if it has one.
    pub(crate) fn key_hold(&self) -> Option<KeyHold> {
        let reserved = &self.reserved;
        let at = u64::try_from(self.created_at.timestamp().as_second()).unwrap_or(0);
        Some(KeyHold::new(at, reserved.idem?.0, reserved.rid, reserved.fp.0))
    }

    pub fn nonce_key(&self) -> Option<NonceKey> {
        let arm = self.arm.as_ref()?;
        Some(NonceKey::of(&self.reserved.asset, &arm.from, arm.nonce.as_ref()?))
    }

    /// Whether an external signer has it or has signed it, and its nonce is not on record yet: the chain can prove
    /// nothing about it.
    pub fn is_with_signer(&self) -> bool {
        self.arm.as_ref().is_some_and(|arm| arm.nonce.is_none())
    }

    /// Neither finished nor taken over by another proxy.
    pub fn is_open(&self) -> bool {
        !self.state.is_final() && self.yielded.is_none()
    }

    /// Whether it was changed after its deadline, so that its nonce is free later than it would have been.
    #[cfg(feature = "postgres")]
    pub(crate) fn ended_late(&self) -> bool {
        let deadline = self.arm.as_ref().map_or(0, |arm| arm.valid_before.0);
        u64::try_from(self.updated_at.timestamp().as_second()).unwrap_or(0) > deadline
    }

    /// The Unix second from which the nonce of a finished payment is free again.
    pub(crate) fn nonce_free_at(&self) -> u64 {
        let deadline = self.arm.as_ref().map_or(0, |arm| arm.valid_before.0);
        let end = u64::try_from(self.updated_at.timestamp().as_second()).unwrap_or(0);
        deadline.max(end).saturating_add(NONCE_KEPT_S)
    }
}

/// What the chain reports about a payment that is unknown, or settled on a merchant's receipt (R217).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The money moved as recorded. `block` if a chain reported it.
    Confirmed {
        by: Source,
        tx: Option<String>,
        block: Option<u64>,
    },
    /// Proven that no more than `taken` will ever be taken: the rest no longer counts (R12). `of` is the payment as the
    /// ledger returns it; the book does not keep closed ones in memory.
    Taken {
        by: Source,
        tx: Option<String>,
        block: Option<u64>,
        taken: Atoms,
        of: Box<Payment>,
    },
    /// The chain contradicts the ledger. What is counted stays counted.
    Disputed { why: String, tx: Option<String> },
}

/// `taken / signed` of a charge, rounded up.
pub(crate) fn part(charge: u128, taken: u128, signed: u128) -> u128 {
    if taken == signed {
        return charge;
    }
    let (charge, taken, signed) = (U256::from(charge), U256::from(taken), U256::from(signed));
    // No more than the charge, because no more was taken than signed.
    charge.saturating_mul(taken).div_ceil(signed).saturating_to()
}

fn shared<S: Serializer>(reserved: &Arc<Reserved>, serializer: S) -> Result<S::Ok, S::Error> {
    reserved.as_ref().serialize(serializer)
}

fn unshared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Reserved>, D::Error> {
    Reserved::deserialize(deserializer).map(Arc::new)
}

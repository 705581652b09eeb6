//! Which payment was made under which `Idempotency-Key` (R6).
//!
//! The book refuses a second reservation under the same key, whatever else a crash destroyed: what was signed once is
//! not signed again. A payment that is proven dead releases its key.

use std::collections::{BTreeSet, HashMap};

use bursar_core::payment_id::PaymentId;

/// How long a payment holds its key, in seconds from its reservation.
const KEPT_S: u64 = 24 * 60 * 60;

/// A payment's hold on its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHold {
    /// The last Unix second in which it holds.
    pub until: u64,
    /// Hash of agent and key.
    pub idem: [u8; 32],
    pub rid: PaymentId,
    /// Of the request that was paid for.
    pub fingerprint: [u8; 32],
}

/// What an entry does to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    Held,
    Free,
}

/// All keys that payments hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Nearly always one each. A journal from before keys were enforced may have more; the latest one counts.
    holds: HashMap<[u8; 32], Vec<KeyHold>>,
    fading: BTreeSet<KeyHold>,
}

impl KeyHold {
    pub fn new(reserved_at: u64, idem: [u8; 32], rid: PaymentId, fingerprint: [u8; 32]) -> Self {
        let until = reserved_at.saturating_add(KEPT_S);
        Self {
            until,
            idem,
            rid,
            fingerprint,
        }
    }

    /// Key and value of its row in the index.
    pub fn row(&self) -> (Vec<u8>, [u8; 32]) {
        let key = [&self.until.to_be_bytes()[..], &self.idem, self.rid.bytes()].concat();
        (key, self.fingerprint)
    }

    pub(crate) fn from_row(key: &[u8], value: &[u8]) -> Option<Self> {
        let (until, rest) = key.split_at_checked(8)?;
        let (idem, rid) = rest.split_at_checked(32)?;
        Some(Self {
            until: u64::from_be_bytes(until.try_into().ok()?),
            idem: idem.try_into().ok()?,
            rid: PaymentId::from_bytes(rid.try_into().ok()?),
            fingerprint: value.try_into().ok()?,
        })
    }
}

impl Keys {
    /// Which payment holds a key at the Unix second `now`.
    pub fn holder(&self, idem: &[u8; 32], now: u64) -> Option<&KeyHold> {
        let last = self.holds.get(idem)?.last()?;
        (last.until >= now).then_some(last)
    }

    pub fn all(&self) -> impl Iterator<Item = &KeyHold> {
        self.holds.values().filter_map(|holds| holds.last())
    }

    /// Includes holds that a later hold on the same key has replaced; in the order in which they expire.
    pub fn every(&self) -> impl Iterator<Item = &KeyHold> {
        self.fading.iter()
    }

    pub fn hold(&mut self, hold: KeyHold) {
        if self.fading.insert(hold) {
            let holds = self.holds.entry(hold.idem).or_default();
            holds.push(hold);
            holds.sort();
        }
    }

    pub fn free(&mut self, hold: &KeyHold) {
        self.fading.remove(hold);
        if let Some(holds) = self.holds.get_mut(&hold.idem) {
            holds.retain(|other| other != hold);
            if holds.is_empty() {
                self.holds.remove(&hold.idem);
            }
        }
    }

    /// Releases the holds that have expired by the Unix second `now`, and returns them.
    pub fn fade(&mut self, now: u64) -> Vec<KeyHold> {
        let mut faded = Vec::new();
        while let Some(&hold) = self.fading.first()
            && hold.until < now
        {
            self.free(&hold);
            faded.push(hold);
        }
        faded
    }
}

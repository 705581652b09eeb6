//! What an earlier run left behind, compared with the ledger before any of it may be presented.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use super::record::Stored;
use super::store::{Place, Store};
use super::{Fingerprint, Outstanding, OutstandingPayment, Shared, Stage, Target, unhex};
use bursar_core::clock::SharedClock;
use bursar_home::HomeError;
use bursar_ledger::PaymentId;

/// Records that have been read, one for each payment, and the store they are in.
pub struct Left {
    store: Store,
    records: HashMap<PaymentId, (Place, Stored)>,
}

/// What the ledger has about a payment that can still be outstanding.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// A receipt said that it is paid.
    pub paid: bool,
    /// The fingerprint of its request; `None` if the ledger could not be asked.
    pub request: Option<[u8; 32]>,
}

impl Left {
    pub fn read(folder: &Path) -> Result<Self, HomeError> {
        let (store, read) = Store::open(folder)?;
        let mut records: HashMap<PaymentId, (Place, Stored)> = HashMap::new();
        for (place, stored) in read {
            // Two of one payment: it was being moved. The one that allows less is kept.
            let spent = |stored: &Stored| (stored.delivered, stored.presented);
            let (keep, drop) = match records.remove(&stored.rid) {
                Some((before, earlier)) if spent(&earlier) >= spent(&stored) => ((before, earlier), Some(place)),
                Some((before, _)) => ((place, stored), Some(before)),
                None => ((place, stored), None),
            };
            records.insert(keep.1.rid, keep);
            if let Some(place) = drop {
                store.clear(place);
            }
        }
        Ok(Self { store, records })
    }

    pub fn payments(&self) -> impl Iterator<Item = PaymentId> {
        self.records.keys().copied()
    }

    /// Keeps the payments that the ledger has for the same request and that can still be outstanding. The records of all
    /// others are cleared.
    pub fn compared(self, clock: SharedClock, known: impl Fn(PaymentId) -> Option<Known>) -> Outstanding {
        let Self { store, records } = self;
        let mut by_target: HashMap<Target, Vec<OutstandingPayment>> = HashMap::new();
        let mut count = 0;
        let now = clock.now();
        for (place, stored) in records.into_values() {
            let Some(known) = known(stored.rid) else {
                store.clear(place);
                continue;
            };
            let Some((target, mut payment)) = OutstandingPayment::restored(stored, known, now) else {
                store.clear(place);
                continue;
            };
            payment.place = store.renewed(place, &payment.stored);
            by_target.entry(target).or_default().push(payment);
            count += 1;
        }
        // Oldest first: payment ids sort by creation time.
        by_target
            .values_mut()
            .for_each(|outstanding| outstanding.sort_by_key(|payment| payment.rid));
        Outstanding(Arc::new(Shared {
            store,
            clock,
            by_target: Mutex::new(by_target),
            count: AtomicUsize::new(count),
            delivered: Mutex::default(),
            lost: Mutex::default(),
        }))
    }
}

impl OutstandingPayment {
    /// `None` if the record is not the one that belongs to the ledger's payment.
    fn restored(stored: Stored, known: Known, now: Timestamp) -> Option<(Target, Self)> {
        let (target, fingerprint) = (Target(unhex(&stored.target)?), Fingerprint(unhex(&stored.fingerprint)?));
        if known.request.is_some_and(|request| request != fingerprint.0) {
            tracing::warn!(
                payment = %stored.rid,
                "the stored credential belongs to another request than the ledger's payment: it was removed; the payment \
                 stays counted"
            );
            return None;
        }
        let payment = Self {
            rid: stored.rid,
            fingerprint,
            stored,
            place: Place::Nowhere,
            last_try: now,
            paid: known.paid,
            stage: Stage::Open,
        };
        Some((target, payment))
    }
}

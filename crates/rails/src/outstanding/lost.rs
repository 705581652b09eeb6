//! Outstanding payments whose files were lost in a crash (R7). Their credentials cannot be presented, but the ledger
//! knows what was requested: a repeat of the request is answered that the outcome is unknown, instead of paying a
//! second time (R4).

use std::collections::HashMap;

use jiff::Timestamp;

use super::{Fingerprint, Outstanding, RETRY_WINDOW};
use bursar_ledger::PaymentId;

/// By request: the payment, and until when it is remembered.
pub(super) type Lost = HashMap<Fingerprint, (PaymentId, Timestamp)>;

impl Outstanding {
    /// Takes the ledger's outstanding payments: id, fingerprint, and the Unix second at which validity ends. A payment
    /// with a file here is not lost, and one that expired too long ago has no repeats to expect.
    pub fn remember(&self, unknown: impl Iterator<Item = (PaymentId, [u8; 32], u64)>) {
        let known: Vec<PaymentId> = self.lock().values().flatten().map(|payment| payment.rid).collect();
        // The time of the last try is not known; as for payments with a file, the window starts now.
        let now = self.0.clock.now();
        let until = now.checked_add(RETRY_WINDOW).unwrap_or(Timestamp::MAX);
        let oldest = now.as_second().saturating_sub(RETRY_WINDOW.as_secs());
        let lost = unknown
            .filter(|(rid, _, valid_before)| {
                !known.contains(rid) && i64::try_from(*valid_before).is_ok_and(|ends| ends >= oldest)
            })
            .map(|(rid, fingerprint, _)| (Fingerprint(fingerprint), (rid, until)));
        self.lost().extend(lost);
    }

    /// The payment that a purchase of this request would duplicate, unless the ledger has closed it in the meantime.
    pub fn would_double(&self, fingerprint: &Fingerprint) -> Option<PaymentId> {
        let mut lost = self.lost();
        let (rid, until) = *lost.get(fingerprint)?;
        if until < self.0.clock.now() {
            lost.remove(fingerprint);
            return None;
        }
        Some(rid)
    }

    /// Drops what no repeat can concern any more. Each row is a payment that was counted, so the limits bound their number.
    pub(super) fn sweep_lost(&self, now: Timestamp) {
        self.lost().retain(|_, (_, until)| *until >= now);
    }

    /// The payment is no longer outstanding.
    pub fn forget_lost(&self, fingerprint: &Fingerprint) {
        self.lost().remove(fingerprint);
    }
}

//! Payments in doubt whose files a crash took with it (R7). Nothing can be presented for them, and the books know what
//! was asked for: whoever asks the same is told of the doubt instead of paying a second time (R4).

use std::collections::HashMap;

use jiff::Timestamp;

use super::{Fingerprint, Outstanding, RETRY_WINDOW};
use bursar_ledger::PaymentId;

/// By what was asked for; until when it is remembered.
pub(super) type Lost = HashMap<Fingerprint, (PaymentId, Timestamp)>;

impl Outstanding {
    /// Takes in what the books hold in doubt: id, fingerprint, and the Unix second in which validity ends. What has a file here is
    /// not lost, and what is long over is nobody's repeat any more.
    pub fn remember(&self, in_doubt: impl Iterator<Item = (PaymentId, [u8; 32], u64)>) {
        let known: Vec<PaymentId> = self.lock().values().flatten().map(|doubt| doubt.rid).collect();
        // When the last try was, nobody knows any more: as for those that have a file, it counts from now.
        let now = self.0.clock.now();
        let until = now.checked_add(RETRY_WINDOW).unwrap_or(Timestamp::MAX);
        let oldest = now.as_second().saturating_sub(RETRY_WINDOW.as_secs());
        let lost = in_doubt
            .filter(|(rid, _, valid_before)| {
                !known.contains(rid) && i64::try_from(*valid_before).is_ok_and(|ends| ends >= oldest)
            })
            .map(|(rid, fingerprint, _)| (Fingerprint(fingerprint), (rid, until)));
        self.lost().extend(lost);
    }

    /// The payment that a purchase of this request would double, unless the books know better by now.
    pub fn would_double(&self, fingerprint: &Fingerprint) -> Option<PaymentId> {
        let mut lost = self.lost();
        let (rid, until) = *lost.get(fingerprint)?;
        if until < self.0.clock.now() {
            lost.remove(fingerprint);
            return None;
        }
        Some(rid)
    }

    /// It is not in doubt any more.
    pub fn forget_lost(&self, fingerprint: &Fingerprint) {
        self.lost().remove(fingerprint);
    }
}

//! Payments that move from one proxy to another on a shared ledger.

use super::*;
use crate::entry::Adopted;

impl Book {
    pub(super) fn adopt(&mut self, adopted: &Adopted, effect: &mut Effect) -> Result<(), Illegal> {
        let payment = adopted.payment.clone();
        if payment.state.is_final() {
            return Err(Illegal::NotOpen(payment.rid()));
        }
        self.enter(payment, effect)
    }

    /// On a shared ledger no limit depends on the counters of a single node's log: another node's payment leaves them.
    pub(super) fn yield_to(
        &mut self,
        rid: PaymentId,
        node: u32,
        ts: Moment,
        effect: &mut Effect,
    ) -> Result<(), Illegal> {
        let mut payment = self.open.get(&rid).cloned().ok_or(Illegal::NotOpen(rid))?;
        self.book(&payment, Step::GiveBack, effect)?;
        self.open.remove(&rid);
        self.approvals.leave(rid, &mut effect.approvals);
        // It may come back, with its nonce.
        if let Some(key) = payment.nonce_key() {
            self.taken.remove(&key);
        }
        payment.yielded = Some(node);
        payment.updated_at = ts;
        self.changed(payment, effect);
        Ok(())
    }
}

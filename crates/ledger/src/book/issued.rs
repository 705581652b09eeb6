//! What an external signer has chosen, recorded while the payment is armed for it.

use super::*;
use crate::model::Issued;

impl Book {
    /// Decides whether that may be recorded. `Ok` guarantees that [`Book::apply`] of its entry will succeed.
    pub(crate) fn admits_issued(&self, rid: PaymentId, issued: &Issued) -> Result<(), LedgerError> {
        let payment = self.open.get(&rid).ok_or(LedgerError::NotOpen(rid))?;
        let arm = payment.arm.as_ref().filter(|_| payment.state == State::Armed);
        let arm = arm.filter(|_| payment.is_with_signer());
        let arm = arm.ok_or(LedgerError::NotWithSigner(rid))?;
        // It may be valid for longer than was armed. Then the credential is not sent, and the chain is asked after its
        // deadline.
        if issued.valid_after >= issued.valid_before {
            return Err(LedgerError::NeverValid(rid));
        }
        let key = NonceKey::of(&payment.reserved.asset, &arm.from, &issued.nonce);
        match self.taken.contains(&key) {
            true => Err(LedgerError::NonceTaken(rid)),
            false => Ok(()),
        }
    }

    pub(super) fn issue(&mut self, issued: &entry::Issued, ts: Moment, effect: &mut Effect) -> Result<(), Illegal> {
        let rid = issued.rid;
        let choice = Issued {
            nonce: issued.nonce,
            valid_after: issued.valid_after.0,
            valid_before: issued.valid_before.0,
            authorization: None,
        };
        self.admits_issued(rid, &choice).map_err(|error| match error {
            LedgerError::NotOpen(rid) => Illegal::NotOpen(rid),
            LedgerError::NonceTaken(rid) => Illegal::NonceTwice(rid),
            _ => Illegal::NotWithSigner(rid),
        })?;
        let mut payment = self.open.get(&rid).cloned().ok_or(Illegal::NotOpen(rid))?;
        if let Some(arm) = &mut payment.arm {
            arm.issue(issued);
        }
        payment.updated_at = ts;
        self.taken.extend(payment.nonce_key());
        self.open.insert(rid, payment.clone());
        self.changed(payment, effect);
        Ok(())
    }
}

//! What has been proven about an outstanding payment (R11). To declare it dead, the ledger must record that, and may
//! refuse or fail. Until it has, the payment is withdrawn, so that no repeat can present it; if the ledger does not
//! record it, the payment is put back.

use jiff::Timestamp;

use super::{Outstanding, OutstandingPayment, Stage, Target};
use bursar_ledger::PaymentId;

/// Whether a payment could be withdrawn from repeats.
pub enum Withdrawal {
    UnderWay,
    Out(Withdrawn),
}

/// A withdrawn payment; empty if no repeat could have found it anyway.
#[derive(Default)]
pub struct Withdrawn(Option<Box<(Target, OutstandingPayment)>>);

impl Outstanding {
    /// Withdraws a payment that is about to be declared dead, so that no repeat can present it. If its credential is
    /// being presented right now, it stays, and must not be declared dead.
    pub fn withdraw(&self, rid: PaymentId) -> Withdrawal {
        self.withdraw_rested(rid, Timestamp::MAX)
            .unwrap_or(Withdrawal::UnderWay)
    }

    /// Like [`Self::withdraw`], but a payment that was presented after `since` stays, too: `Err` says when that was.
    pub fn withdraw_rested(&self, rid: PaymentId, since: Timestamp) -> Result<Withdrawal, Timestamp> {
        for (target, outstanding) in self.lock().iter_mut() {
            let Some(position) = outstanding.iter().position(|payment| payment.rid == rid) else {
                continue;
            };
            if !matches!(outstanding[position].stage, Stage::Open) {
                return Ok(Withdrawal::UnderWay);
            }
            if outstanding[position].last_try > since {
                return Err(outstanding[position].last_try);
            }
            let found = (*target, outstanding.remove(position));
            return Ok(Withdrawal::Out(Withdrawn(Some(Box::new(found)))));
        }
        Ok(Withdrawal::Out(Withdrawn::default()))
    }

    /// The payment is recorded as dead: the next request buys.
    pub fn proven_dead(&self, withdrawn: Withdrawn) {
        if let Some(found) = withdrawn.0 {
            self.forgotten(found.1.place);
        }
    }

    /// The payment was not recorded as dead: repeats may find it again.
    pub fn put_back(&self, withdrawn: Withdrawn) {
        if let Some(found) = withdrawn.0 {
            let (target, payment) = *found;
            self.lock().entry(target).or_default().push(payment);
        }
    }

    /// The payment is proven to be paid; its answer is still missing.
    pub fn proven_paid(&self, rid: PaymentId) {
        for outstanding in self.lock().values_mut() {
            if let Some(payment) = outstanding.iter_mut().find(|payment| payment.rid == rid) {
                payment.paid = true;
                return;
            }
        }
    }
}

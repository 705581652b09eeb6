//! What a request with the `Idempotency-Key` of an earlier payment finds (R6).

use tokio::sync::watch;

use super::{Outstanding, Presentable, Stage, Target};
use bursar_ledger::PaymentId;

/// What the site has been asked so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Not sent yet.
    Nothing,
    /// After the payment it was sent without a credential, and the site asked for payment again.
    Again,
}

/// What [`Outstanding::claim_paid`] finds.
pub enum Paid {
    /// It is in progress: wait for this channel to close, then ask again.
    Join(watch::Receiver<()>),
    /// Present this credential.
    Present(Box<Presentable>),
    /// The outcome is unknown, and the credential has expired or has been presented too often.
    OutcomeUnknown(PaymentId),
    /// Like `OutcomeUnknown`, but the payment was shown to be paid.
    PaidNotDelivered(PaymentId),
    /// Delivered, or no longer stored here. There is nothing to present, or not yet.
    Rest,
}

impl Outstanding {
    /// Like [`Outstanding::claim`], for one payment.
    pub fn claim_paid(&self, rid: PaymentId, target: Target, asked: Asked) -> Paid {
        let now = self.0.clock.now();
        let mut by_target = self.lock();
        let payment = by_target
            .get_mut(&target)
            .and_then(|outstanding| outstanding.iter_mut().find(|payment| payment.rid == rid))
            .filter(|payment| payment.is_needed(now));
        let Some(payment) = payment else {
            return Paid::Rest;
        };
        match &payment.stage {
            Stage::Waiting(over) | Stage::Abandoned(over) => Paid::Join(over.clone()),
            Stage::Open if payment.stored.delivered && asked == Asked::Nothing => Paid::Rest,
            Stage::Open if payment.can_be_presented(now) => {
                let begun = payment.begin(self, target, now);
                drop(by_target);
                begun.map_or(Paid::OutcomeUnknown(rid), |begun| Paid::Present(self.marked(begun)))
            }
            Stage::Open if payment.stored.delivered => Paid::Rest,
            Stage::Open if payment.paid => Paid::PaidNotDelivered(rid),
            Stage::Open => Paid::OutcomeUnknown(rid),
        }
    }
}

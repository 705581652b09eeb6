//! What a request finds that names the `Idempotency-Key` of a payment (R6).

use tokio::sync::watch;

use super::{Outstanding, Presentable, Stage, Target};
use bursar_ledger::PaymentId;

/// How far the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Not sent yet.
    Nothing,
    /// It was sent without a credential, after the payment, and the site wants money again.
    Again,
}

/// What there is of the payment.
pub enum Paid {
    /// It is under way: wait for this to close, then ask again.
    Join(watch::Receiver<()>),
    /// Present this.
    Present(Box<Presentable>),
    /// Validity is over or the tries are used up, and nothing is proven.
    InDoubt(PaymentId),
    /// As `InDoubt`, and a receipt said that it is paid.
    PaidNotDelivered(PaymentId),
    /// Delivered, or not known here any more. There is nothing to present, or not yet.
    Rest,
}

impl Outstanding {
    /// As [`Outstanding::claim`], for one payment.
    pub fn claim_paid(&self, rid: PaymentId, target: Target, asked: Asked) -> Paid {
        let now = self.0.clock.now();
        let mut by_target = self.lock();
        let doubt = by_target
            .get_mut(&target)
            .and_then(|outstanding| outstanding.iter_mut().find(|doubt| doubt.rid == rid))
            .filter(|doubt| doubt.is_kept(now));
        let Some(doubt) = doubt else {
            return Paid::Rest;
        };
        match &doubt.stage {
            Stage::Waiting(over) | Stage::Abandoned(over) => Paid::Join(over.clone()),
            Stage::Open if doubt.stored.delivered && asked == Asked::Nothing => Paid::Rest,
            Stage::Open if doubt.can_be_presented(now) => {
                let (stored, ticket) = doubt.begin(self, target, now);
                drop(by_target);
                self.present(&stored, ticket).map_or(Paid::InDoubt(rid), Paid::Present)
            }
            Stage::Open if doubt.stored.delivered => Paid::Rest,
            Stage::Open if doubt.paid => Paid::PaidNotDelivered(rid),
            Stage::Open => Paid::InDoubt(rid),
        }
    }
}

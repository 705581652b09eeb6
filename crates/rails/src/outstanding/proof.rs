//! What the chain has proven of a payment in doubt (R11). A declaration goes to the ledger, which may refuse it or
//! fail: until it stands, the payment is out of the reach of repeats, and comes back if it was not declared.

use jiff::Timestamp;

use super::{Outstanding, OutstandingPayment, Stage, Target};
use bursar_ledger::PaymentId;

/// Whether a payment could be taken out of the reach of repeats.
pub enum Withdrawal {
    UnderWay,
    Out(Withdrawn),
}

/// What was taken out, if a repeat could have found it at all.
#[derive(Default)]
pub struct Withdrawn(Option<Box<(Target, OutstandingPayment)>>);

impl Outstanding {
    /// Takes a payment that is about to be declared dead out of the reach of repeats. One whose credential is on its way
    /// right now stays, and nobody may declare anything about it.
    pub fn withdraw(&self, rid: PaymentId) -> Withdrawal {
        self.withdraw_rested(rid, Timestamp::MAX)
            .unwrap_or(Withdrawal::UnderWay)
    }

    /// The same, but one whose credential was on its way after `since` stays, too: `Err` says when that was.
    pub fn withdraw_rested(&self, rid: PaymentId, since: Timestamp) -> Result<Withdrawal, Timestamp> {
        for (target, outstanding) in self.lock().iter_mut() {
            let Some(position) = outstanding.iter().position(|doubt| doubt.rid == rid) else {
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

    /// It is dead: the next request buys.
    pub fn proven_dead(&self, withdrawn: Withdrawn) {
        if let Some(found) = withdrawn.0 {
            self.forgotten(found.1.rid);
        }
    }

    /// It was not declared dead after all.
    pub fn put_back(&self, withdrawn: Withdrawn) {
        if let Some(found) = withdrawn.0 {
            let (target, doubt) = *found;
            self.lock().entry(target).or_default().push(doubt);
        }
    }

    /// The chain has shown that it was paid. Its answer is still missing.
    pub fn proven_paid(&self, rid: PaymentId) {
        for outstanding in self.lock().values_mut() {
            if let Some(doubt) = outstanding.iter_mut().find(|doubt| doubt.rid == rid) {
                doubt.paid = true;
                return;
            }
        }
    }
}

//! Tracks one presentation to its end.

use tokio::sync::watch;

use super::{Outstanding, Stage, Target};
use bursar_ledger::PaymentId;

/// If it is dropped without [`Self::delivered`], the payment stays outstanding.
pub struct Ticket {
    outstanding: Outstanding,
    rid: PaymentId,
    target: Target,
    /// Closed with the ticket, which wakes the requests that joined.
    _over: watch::Sender<()>,
}

impl Ticket {
    pub(super) fn new(outstanding: Outstanding, rid: PaymentId, target: Target) -> (Self, watch::Receiver<()>) {
        let (sender, over) = watch::channel(());
        let ticket = Self {
            outstanding,
            rid,
            target,
            _over: sender,
        };
        (ticket, over)
    }

    #[cfg(test)]
    pub fn rid(&self) -> PaymentId {
        self.rid
    }

    /// The agent hung up; a repeat may join from now on.
    pub fn abandoned(&mut self) {
        self.outstanding.change(self.rid, &self.target, |payment| {
            if let Stage::Waiting(over) = &payment.stage {
                payment.stage = Stage::Abandoned(over.clone());
            }
        });
    }

    /// A receipt says that the payment is paid.
    pub fn paid(&self) {
        self.outstanding
            .change(self.rid, &self.target, |payment| payment.paid = true);
    }

    /// A complete 2xx reached the agent.
    pub fn delivered(self) {
        self.outstanding.delivered(self.rid, &self.target);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let now = self.outstanding.0.clock.now();
        self.outstanding.change(self.rid, &self.target, |payment| {
            payment.stage = Stage::Open;
            payment.last_try = now;
        });
    }
}

//! What callers and the writer hand to each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::counters::Usage;
use crate::key::KeyHold;
use crate::model::{
    ApprovalStep, Approvals, Arming, Event, Hold, Issued, LedgerError, Outcome, RefusalRecord, Reservation, Reserve,
    ReserveError, Resolution,
};
use crate::pauses::{InForce, Pause};
use crate::payment::{Finding, Payment};
use crate::refusals::Refusals;
use crate::spending::Spending;
use crate::standing::Seen;
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::PauseScope;

pub(crate) type Reply<T> = oneshot::Sender<T>;

/// What callers send.
pub enum Op {
    Reserve(Box<Reserve>, Reply<Result<Delivery<Reservation>, ReserveError>>),
    Hold(Box<Hold>, Reply<Result<Delivery<()>, ReserveError>>),
    Arm(
        PaymentId,
        Box<Arming>,
        Reply<Result<Delivery<Reservation>, ReserveError>>,
    ),
    Issued(PaymentId, Box<Issued>, Reply<Result<(), LedgerError>>),
    Approval(Box<ApprovalStep>, Reply<Result<(), LedgerError>>),
    Finish(PaymentId, Outcome, Reply<Result<(), LedgerError>>),
    Resolve {
        rid: PaymentId,
        resolution: Resolution,
        who: String,
        why: String,
        reply: Reply<Result<(), LedgerError>>,
    },
    Finding(PaymentId, Finding, Reply<Result<(), LedgerError>>),
    Append(Event, Reply<Result<(), LedgerError>>),
    /// Answered once the pauses in [`Shared`] are on record.
    Pauses(Reply<Result<(), LedgerError>>),
    Resume {
        scope: PauseScope,
        who: String,
        why: String,
        reply: Reply<Result<Option<Pause>, LedgerError>>,
    },
    Find(PaymentId, Reply<Found>),
    Spending(Vec<String>, Reply<Result<Spending, LedgerError>>),
    Usage(Vec<String>, Reply<Result<Vec<Usage>, LedgerError>>),
    Standing(Vec<String>, Reply<Result<Seen, LedgerError>>),
    OpenItems(Reply<Result<Vec<Payment>, LedgerError>>),
    Unconfirmed(Reply<Result<Vec<PaymentId>, LedgerError>>),
    Keys(Reply<Result<Vec<KeyHold>, LedgerError>>),
    Approvals(Reply<Result<Approvals, LedgerError>>),
    /// There is something in [`Shared`].
    Wake,
    Close(Reply<()>),
}

/// Where a payment is found.
pub enum Found {
    Open(Box<Payment>),
    /// In the index, which will answer; without an index, in the journal.
    Elsewhere(Option<oneshot::Receiver<Option<Payment>>>),
    Failed(LedgerError),
}

/// What callers hand over without waiting for room in the queue.
#[derive(Default)]
pub struct Shared {
    abandoned: Mutex<Vec<PaymentId>>,
    refusals: Mutex<Refusals>,
    /// Signed history that the start did not read is damaged.
    damage: Mutex<Option<String>>,
    pauses: RwLock<InForce>,
}

impl Shared {
    pub fn refuse(&self, denial: RefusalRecord, now: Timestamp) {
        self.refusals().add(denial, now);
    }

    pub(crate) fn report_damage(&self, why: String) {
        *self.damage() = Some(why);
    }

    pub(crate) fn take_damage(&self) -> Option<String> {
        self.damage().take()
    }

    pub(crate) fn take_abandoned(&self) -> Vec<PaymentId> {
        std::mem::take(&mut *self.abandoned())
    }

    /// The pauses in force, to read.
    pub fn pauses(&self) -> RwLockReadGuard<'_, InForce> {
        self.pauses.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pauses in force, to change.
    pub(crate) fn pauses_mut(&self) -> RwLockWriteGuard<'_, InForce> {
        self.pauses.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn damage(&self) -> MutexGuard<'_, Option<String>> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // A panic of another holder leaves all of this usable: the lists are only appended to and taken.
    pub fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abandoned(&self) -> MutexGuard<'_, Vec<PaymentId>> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reservation on its way to the caller. If nobody takes it out, the ledger is notified.
pub struct Delivery<T> {
    rid: PaymentId,
    value: Option<T>,
    shared: Arc<Shared>,
    wake: mpsc::WeakSender<Op>,
}

impl<T> Delivery<T> {
    pub fn of(rid: PaymentId, value: T, shared: Arc<Shared>, wake: mpsc::WeakSender<Op>) -> Self {
        Self {
            rid,
            value: Some(value),
            shared,
            wake,
        }
    }

    pub fn take(mut self) -> Option<T> {
        self.value.take()
    }
}

impl<T> Drop for Delivery<T> {
    fn drop(&mut self) {
        if self.value.take().is_some() {
            self.shared.abandoned().push(self.rid);
            // A full queue needs no wake-up: the writer is about to look.
            if let Some(wake) = self.wake.upgrade() {
                let _ = wake.try_send(Op::Wake);
            }
        }
    }
}

/// An answer that waits until the batch is durable.
pub(crate) enum DurableAnswer {
    Reserve(
        Reply<Result<Delivery<Reservation>, ReserveError>>,
        Result<Reservation, ReserveError>,
    ),
    Hold(
        Reply<Result<Delivery<()>, ReserveError>>,
        Result<PaymentId, ReserveError>,
    ),
    Done(Reply<Result<(), LedgerError>>, Result<(), LedgerError>),
    Resumed(
        Reply<Result<Option<Pause>, LedgerError>>,
        Result<Option<Pause>, LedgerError>,
    ),
    Find(PaymentId, Reply<Found>, Option<Box<Payment>>),
    Spending(Reply<Result<Spending, LedgerError>>, Box<Spending>),
    Usage(Reply<Result<Vec<Usage>, LedgerError>>, Vec<Usage>),
    Standing(Reply<Result<Seen, LedgerError>>, Box<Seen>),
    OpenItems(Reply<Result<Vec<Payment>, LedgerError>>, Vec<Payment>),
    Unconfirmed(Reply<Result<Vec<PaymentId>, LedgerError>>, Vec<PaymentId>),
    Keys(Reply<Result<Vec<KeyHold>, LedgerError>>, Vec<KeyHold>),
    Approvals(Reply<Result<Approvals, LedgerError>>, Approvals),
}

impl DurableAnswer {
    pub(crate) fn fail(self, why: &str) {
        let failed = || LedgerError::Failed(why.to_owned());
        // As in `Writer::answer`: a caller that has gone away gets no answer.
        match self {
            Self::Reserve(reply, _) => drop(reply.send(Err(ReserveError::Failed(why.to_owned())))),
            Self::Hold(reply, _) => drop(reply.send(Err(ReserveError::Failed(why.to_owned())))),
            Self::Done(reply, _) => drop(reply.send(Err(failed()))),
            Self::Resumed(reply, _) => drop(reply.send(Err(failed()))),
            Self::Find(_, reply, _) => drop(reply.send(Found::Failed(failed()))),
            Self::Spending(reply, _) => drop(reply.send(Err(failed()))),
            Self::Usage(reply, _) => drop(reply.send(Err(failed()))),
            Self::Standing(reply, _) => drop(reply.send(Err(failed()))),
            Self::OpenItems(reply, _) => drop(reply.send(Err(failed()))),
            Self::Unconfirmed(reply, _) => drop(reply.send(Err(failed()))),
            Self::Keys(reply, _) => drop(reply.send(Err(failed()))),
            Self::Approvals(reply, _) => drop(reply.send(Err(failed()))),
        }
    }
}

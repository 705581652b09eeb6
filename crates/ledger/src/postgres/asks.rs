//! What the engine is asked to do in a batch, who waits for it, and what the result is. An ask can be decided again as
//! often as its transaction has to be retried.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::entry::Body;
use crate::model::{
    ApprovalError, ApprovalStep, Arming, Event, Hold, Issued, LedgerError, Outcome, RefusalRecord, Reservation,
    Reserve, ReserveError, Resolution,
};
use crate::pauses::Pause;
use crate::payment::{Finding, NonceKey, Payment};
use crate::writer::ops::{Delivery, Op, Reply, Shared};
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::PauseScope;
use bursar_core::policy::budget::Charge;

pub(super) enum Ask {
    Reserve(Box<Reserve>),
    Hold(Box<Hold>),
    Arm(PaymentId, Box<Arming>),
    Approval(Box<ApprovalStep>),
    Issued(PaymentId, Box<Issued>),
    Finish(PaymentId, Outcome),
    Resolve {
        rid: PaymentId,
        resolution: Resolution,
        who: String,
        why: String,
    },
    Finding(PaymentId, Finding),
    Append(Event),
    /// In force on this node already.
    Pause(Pause),
    Resume {
        scope: PauseScope,
        who: String,
        why: String,
    },
    /// No caller received it, so nothing can have been signed for it.
    GiveUp(PaymentId),
    Refused(RefusalRecord, u64),
    /// An entry that moves no money.
    Note(Body),
    /// Left open by an earlier run of this node.
    Restart(PaymentId),
    /// Left open by a node that is silent.
    Adopt(PaymentId),
    /// The node `to` adopted it while we were silent.
    Yield {
        rid: PaymentId,
        to: u32,
    },
}

/// Who waits for the result.
pub(super) enum Waiting {
    Reservation(Reply<Result<Delivery<Reservation>, ReserveError>>),
    Held(Reply<Result<Delivery<()>, ReserveError>>),
    Done(Reply<Result<(), LedgerError>>),
    Resumed(Reply<Result<Option<Pause>, LedgerError>>),
    NoCaller,
}

pub(super) enum Verdict {
    Reserved(Result<Reservation, ReserveError>),
    Held(Result<PaymentId, ReserveError>),
    Done(Result<(), LedgerError>),
    Resumed(Result<Option<Pause>, LedgerError>),
}

/// What a caller's operation means for the engine.
pub(super) enum Wanted {
    Change(Task),
    Question(Op),
    Close(Reply<()>),
    Nothing,
}

pub(super) struct Task {
    pub ask: Ask,
    pub waiting: Waiting,
}

impl Task {
    pub(super) fn for_nobody(ask: Ask) -> Self {
        let waiting = Waiting::NoCaller;
        Self { ask, waiting }
    }

    /// Converts a caller's operation.
    pub(super) fn of(op: Op) -> Wanted {
        let (ask, waiting) = match op {
            Op::Reserve(reserve, reply) => (Ask::Reserve(reserve), Waiting::Reservation(reply)),
            Op::Hold(hold, reply) => (Ask::Hold(hold), Waiting::Held(reply)),
            Op::Arm(rid, arming, reply) => (Ask::Arm(rid, arming), Waiting::Reservation(reply)),
            Op::Approval(step, reply) => (Ask::Approval(step), Waiting::Done(reply)),
            Op::Issued(rid, issued, reply) => (Ask::Issued(rid, issued), Waiting::Done(reply)),
            Op::Finish(rid, outcome, reply) => (Ask::Finish(rid, outcome), Waiting::Done(reply)),
            Op::Resolve {
                rid,
                resolution,
                who,
                why,
                reply,
            } => {
                let ask = Ask::Resolve {
                    rid,
                    resolution,
                    who,
                    why,
                };
                (ask, Waiting::Done(reply))
            }
            Op::Finding(rid, finding, reply) => (Ask::Finding(rid, finding), Waiting::Done(reply)),
            Op::Append(event, reply) => (Ask::Append(event), Waiting::Done(reply)),
            Op::Resume { scope, who, why, reply } => (Ask::Resume { scope, who, why }, Waiting::Resumed(reply)),
            Op::Close(reply) => return Wanted::Close(reply),
            Op::Wake => return Wanted::Nothing,
            question @ (Op::Find(..)
            | Op::Spending(..)
            | Op::Usage(..)
            | Op::Standing(..)
            | Op::OpenItems(_)
            | Op::Unconfirmed(_)
            | Op::Keys(_)
            | Op::Pauses(_)
            | Op::Approvals(_)) => return Wanted::Question(question),
        };
        Wanted::Change(Self { ask, waiting })
    }

    /// Whether the caller has hung up before the decision. Then nothing is decided, so nothing has to be undone.
    pub(super) fn is_unwanted(&self) -> bool {
        match (&self.ask, &self.waiting) {
            (Ask::Reserve(_) | Ask::Arm(..), Waiting::Reservation(reply)) => reply.is_closed(),
            (Ask::Hold(_), Waiting::Held(reply)) => reply.is_closed(),
            _ => false,
        }
    }

    /// Answers with what is durable. A reservation that is not received reports itself when it is dropped.
    pub(super) fn answer(self, verdict: Verdict, shared: &Arc<Shared>, wake: &mpsc::WeakSender<Op>) {
        match (self.waiting, verdict) {
            (Waiting::Reservation(reply), Verdict::Reserved(result)) => {
                let delivery = |value: Reservation| Delivery::of(value.rid(), value, shared.clone(), wake.clone());
                let _ = reply.send(result.map(delivery));
            }
            (Waiting::Held(reply), Verdict::Held(result)) => {
                let _ = reply.send(result.map(|rid| Delivery::of(rid, (), shared.clone(), wake.clone())));
            }
            (Waiting::Done(reply), Verdict::Done(result)) => drop(reply.send(result)),
            (Waiting::Resumed(reply), Verdict::Resumed(result)) => drop(reply.send(result)),
            // It was written before its answer was lost.
            (
                Waiting::NoCaller,
                Verdict::Done(Err(LedgerError::NotOpen(_) | LedgerError::Approval(ApprovalError::NotLive(_)))),
            ) => {}
            (_, Verdict::Done(Err(error))) => tracing::warn!(%error, "an operation on the shared ledger failed"),
            _ => {}
        }
    }

    /// Answers that nothing is known to have been recorded. Returns what must not be lost, to be done later.
    pub(super) fn fail(self, error: &Failure) -> Option<Self> {
        let (rid, must_be_done) = match &self.ask {
            Ask::Reserve(reserve) => (Some(reserve.hold.rid), false),
            Ask::Hold(hold) => (Some(hold.rid), false),
            Ask::Arm(rid, _) => (Some(*rid), false),
            Ask::Finish(..) | Ask::GiveUp(_) | Ask::Refused(..) => (None, true),
            // A grant that its caller does not hear of would never be used; the caller has the evidence and presents it
            // again.
            Ask::Approval(step) => match **step {
                ApprovalStep::Refused { .. } | ApprovalStep::Expired { .. } => (None, true),
                ApprovalStep::Requested(_) | ApprovalStep::Granted { .. } => (None, false),
            },
            // Nothing is reserved under the new limits before this is written, so it can wait.
            Ask::Append(Event::PolicyLoaded { .. }) => (None, true),
            _ => (None, false),
        };
        let refused = || match (error, rid) {
            (Failure::Unclear, Some(rid)) => ReserveError::Unclear(rid),
            (Failure::Unclear, None) => ReserveError::Failed(LOST.to_owned()),
            (Failure::Down(why), _) => ReserveError::Failed(why.clone()),
        };
        let undone = || match error {
            Failure::Unclear => LedgerError::Failed(LOST.to_owned()),
            Failure::Down(why) => LedgerError::Failed(why.clone()),
        };
        let is_policy = matches!(self.ask, Ask::Append(_));
        match self.waiting {
            Waiting::Reservation(reply) => drop(reply.send(Err(refused()))),
            Waiting::Held(reply) => drop(reply.send(Err(refused()))),
            Waiting::Done(reply) if is_policy && must_be_done => drop(reply.send(Ok(()))),
            Waiting::Done(reply) => drop(reply.send(Err(undone()))),
            Waiting::Resumed(reply) => drop(reply.send(Err(undone()))),
            Waiting::NoCaller => {}
        }
        must_be_done.then(|| Self::for_nobody(self.ask))
    }
}

const LOST: &str = "the connection to the database was lost while it was recording";

/// Why a batch was not done, as its callers see it.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Down(String),
    /// It may be on record.
    Unclear,
}

impl Ask {
    /// The payment that must be read before the decision.
    pub(super) fn rid(&self) -> Option<PaymentId> {
        match self {
            Self::Reserve(reserve) => Some(reserve.hold.rid),
            Self::Hold(hold) => Some(hold.rid),
            Self::Arm(rid, _)
            | Self::Issued(rid, _)
            | Self::Finish(rid, _)
            | Self::Resolve { rid, .. }
            | Self::Finding(rid, _)
            | Self::GiveUp(rid)
            | Self::Restart(rid)
            | Self::Adopt(rid)
            | Self::Yield { rid, .. } => Some(*rid),
            Self::Approval(step) => match &**step {
                ApprovalStep::Requested(requested) => Some(requested.rid),
                // The payment is held, and stays so.
                ApprovalStep::Granted { .. } | ApprovalStep::Refused { .. } | ApprovalStep::Expired { .. } => None,
            },
            Self::Append(_) | Self::Pause(_) | Self::Resume { .. } | Self::Refused(..) | Self::Note(_) => None,
        }
    }

    /// The charges that it would book.
    pub(super) fn charges(&self) -> &[Charge] {
        match self {
            Self::Reserve(reserve) => &reserve.hold.charges,
            Self::Hold(hold) => &hold.charges,
            Self::Arm(_, arming) => &arming.charges,
            _ => &[],
        }
    }

    /// The agent's key that it would take.
    pub(super) fn key(&self) -> Option<[u8; 32]> {
        match self {
            Self::Reserve(reserve) => reserve.hold.idempotency,
            Self::Hold(hold) => hold.idempotency,
            _ => None,
        }
    }

    /// The nonce that it would take; `of` is the recorded payment, if there is one.
    pub(super) fn nonce(&self, of: Option<&Payment>) -> Option<NonceKey> {
        match self {
            Self::Reserve(reserve) => {
                let asset = reserve.hold.terms.asset.caip19();
                Some(NonceKey::of(&asset, &reserve.arm.from, &reserve.arm.nonce.known()?))
            }
            Self::Arm(_, arming) => {
                let asset = &of?.reserved.asset;
                Some(NonceKey::of(asset, &arming.arm.from, &arming.arm.nonce.known()?))
            }
            Self::Issued(_, issued) => {
                let (of, arm) = (of?, of?.arm.as_ref()?);
                Some(NonceKey::of(&of.reserved.asset, &arm.from, &issued.nonce))
            }
            _ => None,
        }
    }
}

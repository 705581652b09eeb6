//! What the engines with a writer of their own share: callers send operations through a bounded queue and wait for the
//! answer.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::key::KeyHold;
use super::model::{
    ApprovalStep, Approvals, Arming, Event, Hold, Issued, LedgerError, Outcome, RefusalRecord, Reservation, Reserve,
    ReserveError, Resolution,
};
use super::pauses::{Pause, Paused};
use super::payment::{Finding, Payment};
use super::standing::Seen;
use super::text::Moment;
use super::timekeeping::Timekeeper;
use super::writer::{Delivery, Op, Shared};
use super::{Ledger, LedgerFuture, Spending, Usage};
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::PauseScope;

/// How many operations may wait for the writer; further callers wait for room.
const ROOM: usize = 1024;

/// How long a pause that is in force waits for its record.
const RECORD_PATIENCE: Duration = Duration::from_secs(3);

/// The callers' end. When the last clone is dropped, the ledger closes by itself.
#[derive(Clone)]
pub struct Queue {
    ops: mpsc::Sender<Op>,
    pub shared: Arc<Shared>,
    pub time: Arc<Timekeeper>,
}

/// An engine behind a queue.
pub trait Queued: Send + Sync + 'static {
    fn queue(&self) -> &Queue;

    /// One payment, in any state.
    fn find(&self, rid: PaymentId) -> LedgerFuture<'_, Result<Option<Payment>, LedgerError>>;
}

impl Queue {
    pub fn new(time: Timekeeper) -> (Self, mpsc::Receiver<Op>) {
        let (ops, queue) = mpsc::channel(ROOM);
        let (shared, time) = (Arc::default(), Arc::new(time));
        (Self { ops, shared, time }, queue)
    }

    /// For the writer, which must not keep itself alive.
    pub fn wake(&self) -> mpsc::WeakSender<Op> {
        self.ops.downgrade()
    }

    async fn delivered<T>(
        &self,
        op: impl FnOnce(oneshot::Sender<Result<Delivery<T>, ReserveError>>) -> Op,
    ) -> Result<T, ReserveError> {
        let delivery = self.ask(op).await;
        let delivery = delivery.map_err(|error| ReserveError::Failed(error.to_string()))??;
        delivery
            .take()
            .ok_or_else(|| ReserveError::Failed("the reservation was lost".to_owned()))
    }

    /// In force before anything is waited for: neither a disk that hangs nor a queue that is full can hold it up.
    fn pause(&self, scope: PauseScope, who: String, why: String) -> LedgerFuture<'_, Paused> {
        let since = Moment::of(self.time.read().now);
        let pause = Pause { scope, since, who, why };
        let earlier = self.shared.pauses_mut().set(&pause);
        let (pause, is_new) = (earlier.clone().unwrap_or(pause), earlier.is_none());
        Box::pin(async move {
            let is_recorded = self.shared.pauses().is_recorded(&pause.scope);
            let recorded = match is_recorded {
                true => Ok(Ok(Ok(()))),
                false => timeout(RECORD_PATIENCE, self.ask(Op::Pauses)).await,
            };
            let unrecorded = match recorded {
                Ok(Ok(Ok(()))) => None,
                Ok(Ok(Err(error)) | Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!(
                    "the ledger has not answered for {} s",
                    RECORD_PATIENCE.as_secs()
                )),
            };
            Paused {
                pause,
                is_new,
                unrecorded,
            }
        })
    }

    pub async fn ask<T>(&self, op: impl FnOnce(oneshot::Sender<T>) -> Op) -> Result<T, LedgerError> {
        let stopped = || LedgerError::Failed("the ledger has stopped".to_owned());
        let (reply, mut answer) = oneshot::channel();
        self.ops.send(op(reply)).await.map_err(|_| stopped())?;
        tokio::select! {
            biased;
            answer = &mut answer => answer.map_err(|_| stopped()),
            // What was sent while the writer was closing its end may stay there, unread, as long as any handle lives.
            () = self.ops.closed() => answer.try_recv().map_err(|_| stopped()),
        }
    }
}

impl<T: Queued> Ledger for T {
    fn reserve(&self, reserve: Reserve) -> LedgerFuture<'_, Result<Reservation, ReserveError>> {
        Box::pin(self.queue().delivered(|reply| Op::Reserve(Box::new(reserve), reply)))
    }

    fn hold(&self, hold: Hold) -> LedgerFuture<'_, Result<(), ReserveError>> {
        Box::pin(self.queue().delivered(|reply| Op::Hold(Box::new(hold), reply)))
    }

    fn arm(&self, rid: PaymentId, arming: Arming) -> LedgerFuture<'_, Result<Reservation, ReserveError>> {
        Box::pin(
            self.queue()
                .delivered(move |reply| Op::Arm(rid, Box::new(arming), reply)),
        )
    }

    fn issued(&self, reservation: Reservation, issued: Issued) -> LedgerFuture<'_, Result<Reservation, LedgerError>> {
        Box::pin(async move {
            let (rid, choice) = (reservation.rid(), Box::new(issued.clone()));
            self.queue().ask(|reply| Op::Issued(rid, choice, reply)).await??;
            Ok(reservation.with(&issued))
        })
    }

    fn approval(&self, step: ApprovalStep) -> LedgerFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move { self.queue().ask(|reply| Op::Approval(Box::new(step), reply)).await? })
    }

    fn approvals(&self) -> LedgerFuture<'_, Result<Approvals, LedgerError>> {
        Box::pin(async move { self.queue().ask(Op::Approvals).await? })
    }

    fn finish(&self, rid: PaymentId, outcome: Outcome) -> LedgerFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move { self.queue().ask(|reply| Op::Finish(rid, outcome, reply)).await? })
    }

    fn resolve(
        &self,
        rid: PaymentId,
        resolution: Resolution,
        who: String,
        why: String,
    ) -> LedgerFuture<'_, Result<(), LedgerError>> {
        let op = move |reply| Op::Resolve {
            rid,
            resolution,
            who,
            why,
            reply,
        };
        Box::pin(async move { self.queue().ask(op).await? })
    }

    fn record_finding(&self, rid: PaymentId, finding: Finding) -> LedgerFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move { self.queue().ask(|reply| Op::Finding(rid, finding, reply)).await? })
    }

    fn append(&self, event: Event) -> LedgerFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move { self.queue().ask(|reply| Op::Append(event, reply)).await? })
    }

    fn pause(&self, scope: PauseScope, who: String, why: String) -> LedgerFuture<'_, Paused> {
        self.queue().pause(scope, who, why)
    }

    fn resume(
        &self,
        scope: PauseScope,
        who: String,
        why: String,
    ) -> LedgerFuture<'_, Result<Option<Pause>, LedgerError>> {
        let op = move |reply| Op::Resume { scope, who, why, reply };
        Box::pin(async move { self.queue().ask(op).await? })
    }

    fn pauses(&self) -> Vec<(Pause, bool)> {
        self.queue().shared.pauses().all()
    }

    fn pause_on(&self, agent: &str, group: Option<&str>, host: &str) -> Option<Pause> {
        self.queue().shared.pauses().on(agent, group, host).cloned()
    }

    fn refused(&self, denial: RefusalRecord) {
        self.queue().shared.refuse(denial, self.queue().time.read().now);
        // A full queue needs no wake-up: the writer is about to look.
        let _ = self.queue().ops.try_send(Op::Wake);
    }

    fn get(&self, rid: PaymentId) -> LedgerFuture<'_, Result<Option<Payment>, LedgerError>> {
        self.find(rid)
    }

    fn spending(&self, scopes: &[&str]) -> LedgerFuture<'_, Result<Spending, LedgerError>> {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        Box::pin(async move { self.queue().ask(|reply| Op::Spending(scopes, reply)).await? })
    }

    fn usage(&self, scopes: &[&str]) -> LedgerFuture<'_, Result<Vec<Usage>, LedgerError>> {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        Box::pin(async move { self.queue().ask(|reply| Op::Usage(scopes, reply)).await? })
    }

    fn standing(&self, scopes: &[&str]) -> LedgerFuture<'_, Result<Seen, LedgerError>> {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        Box::pin(async move { self.queue().ask(|reply| Op::Standing(scopes, reply)).await? })
    }

    fn open_items(&self) -> LedgerFuture<'_, Result<Vec<Payment>, LedgerError>> {
        Box::pin(async move { self.queue().ask(Op::OpenItems).await? })
    }

    fn unconfirmed(&self) -> LedgerFuture<'_, Result<Vec<PaymentId>, LedgerError>> {
        Box::pin(async move { self.queue().ask(Op::Unconfirmed).await? })
    }

    fn keys(&self) -> LedgerFuture<'_, Result<Vec<KeyHold>, LedgerError>> {
        Box::pin(async move { self.queue().ask(Op::Keys).await? })
    }

    fn now(&self) -> Timestamp {
        self.queue().time.for_windows()
    }

    fn close(&self) -> LedgerFuture<'_, ()> {
        Box::pin(async move {
            // An error means that it was already closed.
            let _ = self.queue().ask(Op::Close).await;
        })
    }
}

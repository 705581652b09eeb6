//! The one writer: decides every operation in order against the book, makes whole batches durable, then answers (R202,
//! R203).
//!
//! It has a thread of its own, so that a slow disk never blocks a runtime worker.

pub(super) mod decide;
pub(super) mod ops;

use crate::reason::Reason;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;

use jiff::SignedDuration;
use tokio::sync::{mpsc, oneshot};

use super::book::Effect;
use super::decisions::{self, Decisions};
use super::disclosure::{Disclosure, Private};
use super::entry::{Body, ClockJumped, Closed, Expired, Released};
use super::index::{Applied, FEED, Feed};
use super::journal::{CommitError, Journal};
use super::model::{Alarm, Alarms, LedgerError, RefusalRecord, Reservation, Source, State};
use super::options::Options;
use super::recovery::Opening;
use super::refusals;
use super::reread::Rereading;
use super::signing::Signing;
use super::standing::Seen;
use super::text::Moment;
use super::timekeeping::{Reading, Timekeeper};
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::PauseScope;
use decide::Space;
pub(crate) use ops::{Delivery, Found, Op, Shared};
use ops::{DurableAnswer, Reply};

/// Limits of one batch: operations, and bytes of entries.
const BATCH_OPS: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

pub(crate) struct Writer {
    opening: Opening,
    private: Private,
    time: Arc<Timekeeper>,
    /// How far the clock had jumped ahead when it was last read.
    jumped: Option<SignedDuration>,
    alarms: Alarms,
    space: Space,
    shared: Arc<Shared>,
    wake: mpsc::WeakSender<Op>,
    index: Option<std_mpsc::SyncSender<Feed>>,
    index_thread: Option<JoinHandle<()>>,
    signing: Option<Signing>,
    _rereading: Option<Rereading>,
    effects: Vec<Effect>,
    disclosures: Vec<(u64, Disclosure)>,
    /// Scopes whose pause this batch records or lifts.
    scopes: Vec<PauseScope>,
}

/// What the loop does next.
enum Next {
    Go,
    Close(Reply<()>),
    Die,
}

impl Writer {
    pub(crate) fn new(
        mut opening: Opening,
        dir: PathBuf,
        options: Options,
        time: Arc<Timekeeper>,
        shared: Arc<Shared>,
        wake: mpsc::WeakSender<Op>,
    ) -> std::io::Result<Self> {
        let (mut index, mut index_thread) = (None, None);
        if let Some(opened) = opening.index.take() {
            let (sender, feed) = std_mpsc::sync_channel(FEED);
            let follow = move || opened.follow(&feed);
            index_thread = Some(
                std::thread::Builder::new()
                    .name("ledger-index".to_owned())
                    .spawn(follow)?,
            );
            index = Some(sender);
        }
        let (signing, rereading) = beside(&mut opening, dir.join("audit"), &options, damaged(&shared, &wake))?;
        Ok(Self {
            signing,
            _rereading: rereading,
            private: Private::new(dir.join("private")),
            space: Space::new(dir, options.min_free_bytes),
            alarms: options.alarms,
            opening,
            time,
            jumped: None,
            shared,
            wake,
            index,
            index_thread,
            effects: Vec::new(),
            disclosures: Vec::new(),
            scopes: Vec::new(),
        })
    }

    /// Runs until it is closed or every handle is gone.
    pub(crate) fn run(mut self, mut ops: mpsc::Receiver<Op>) {
        // Only for waiting with a deadline, while refusals are being folded.
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build().ok();
        loop {
            let first = match &timer {
                Some(timer) if self.has_leftovers() => timer.block_on(async {
                    tokio::time::timeout(refusals::FOLD, ops.recv())
                        .await
                        .unwrap_or(Some(Op::Wake))
                }),
                _ => ops.blocking_recv(),
            };
            let Some(first) = first else {
                self.close();
                return;
            };
            match self.batch(first, &mut ops) {
                Next::Go => {}
                Next::Die => return,
                Next::Close(reply) => {
                    self.close();
                    drop(self);
                    // The caller may have gone away.
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    /// Refusals that are being folded, or pauses that could not be recorded so far.
    fn has_leftovers(&self) -> bool {
        self.shared.refusals().is_waiting()
            || (self.shared.pauses().is_due() && self.opening.journal.failed().is_none())
    }

    fn batch(&mut self, first: Op, ops: &mut mpsc::Receiver<Op>) -> Next {
        let now = self.look_at_clock();
        let mut answers = Vec::new();
        let mut next = Next::Go;
        let mut begun = self.journal().begin(now.timestamp());
        if let Some(why) = self.journal().take_overdue() {
            (self.alarms)(Alarm::SegmentOverdue { why });
        }
        if begun.is_ok() {
            begun = self.leftovers(now);
        }
        let mut op = Some(first);
        for _ in 0..BATCH_OPS {
            let Some(this) = op.take().or_else(|| ops.try_recv().ok()) else {
                break;
            };
            if let Op::Close(reply) = this {
                next = Next::Close(reply);
                break;
            }
            self.decide(this, now, &mut answers);
            if self.opening.journal.batched() >= BATCH_BYTES {
                break;
            }
        }
        match begun.and_then(|()| self.commit()) {
            Ok(()) => {}
            Err(CommitError::Died) => return Next::Die,
            Err(CommitError::Failed(why)) => {
                self.scopes.clear();
                // They can never be written; if kept, they would pile up.
                self.shared.refusals().all();
                (self.alarms)(Alarm::StoreFailed { why: why.clone() });
                for answer in answers {
                    answer.fail(&why);
                }
                return next;
            }
        }
        self.put_pauses_on_record();
        for answer in answers {
            self.answer(answer);
        }
        self.follow_up();
        next
    }

    fn journal(&mut self) -> &mut Journal {
        &mut self.opening.journal
    }

    /// Records damage that was found, reservations that no caller received, and refusals that are due.
    fn leftovers(&mut self, now: Moment) -> Result<(), CommitError> {
        if let Some(why) = self.shared.take_damage() {
            return Err(self.journal().poison(why));
        }
        for rid in self.shared.take_abandoned() {
            let body = match self.book().open_payment(&rid).map(|payment| payment.state) {
                Some(State::Held) => Body::Released(Released {
                    rid,
                    why: Reason::Abandoned.into(),
                }),
                // Armed money expires only with proof that it can never be cashed (R11). Here the proof is at hand:
                // signing needs the `Reservation` value, there is only one, and it was dropped inside the ledger.
                Some(State::Armed) => Body::Expired(Expired {
                    by: Source::Us,
                    rid,
                    why: Reason::NeverSigned.into(),
                }),
                // The caller that gave up waiting knows the id and may have finished the payment itself.
                _ => continue,
            };
            self.record(now, body).map_err(|why| self.journal().poison(why))?;
        }
        self.record_pauses(now)?;
        // The last of the room is for the ends of payments. Refusals wait, folded, until there is more.
        if self.space.is_low() {
            return Ok(());
        }
        let due = self.shared.refusals().due(now.timestamp());
        self.record_refusals(now, due)
    }

    fn record_pauses(&mut self, now: Moment) -> Result<(), CommitError> {
        let due = self.shared.pauses().due();
        for pause in due {
            // Recorded in this batch already, which is not durable yet.
            if self.scopes.contains(&pause.scope) {
                continue;
            }
            let scope = pause.scope.clone();
            if let Err(why) = self.record(now, decisions::pause_set(pause)) {
                tracing::error!(%scope, %why, "a pause is in force and cannot be recorded");
                return Err(CommitError::Failed(why));
            }
            self.scopes.push(scope);
        }
        Ok(())
    }

    /// What is durable now is in force on that account. A pause that was lifted is not in force any more.
    fn put_pauses_on_record(&mut self) {
        let scopes = std::mem::take(&mut self.scopes);
        if !scopes.is_empty() {
            self.shared.pauses_mut().committed(self.opening.book.pauses(), &scopes);
        }
    }

    fn record_refusals(&mut self, now: Moment, refusals: Vec<(RefusalRecord, u64)>) -> Result<(), CommitError> {
        for (denial, count) in refusals {
            if let Err(why) = self.record(now, decisions::refused(denial, count)) {
                if self.opening.journal.failed().is_some() {
                    return Err(CommitError::Failed(why));
                }
                tracing::warn!(%why, "cannot record a refusal in the journal");
            }
        }
        Ok(())
    }

    fn decide(&mut self, op: Op, now: Moment, answers: &mut Vec<DurableAnswer>) {
        answers.push(match op {
            // If the caller hung up before the decision, nothing is decided, so nothing has to be undone.
            Op::Reserve(_, reply) if reply.is_closed() => return,
            Op::Reserve(reserve, reply) => DurableAnswer::Reserve(reply, self.reserve(*reserve, now)),
            Op::Hold(_, reply) if reply.is_closed() => return,
            Op::Hold(hold, reply) => DurableAnswer::Hold(reply, self.hold(*hold, now)),
            Op::Arm(_, _, reply) if reply.is_closed() => return,
            Op::Arm(rid, arming, reply) => DurableAnswer::Reserve(reply, self.arm(rid, *arming, now)),
            Op::Issued(rid, issued, reply) => DurableAnswer::Done(reply, self.issued(rid, &issued, now)),
            Op::Approval(step, reply) => DurableAnswer::Done(reply, self.approval(*step, now)),
            Op::Finding(rid, finding, reply) => DurableAnswer::Done(reply, self.record_finding(rid, finding, now)),
            Op::Finish(rid, outcome, reply) => DurableAnswer::Done(reply, self.finish(rid, outcome, now)),
            Op::Resolve {
                rid,
                resolution,
                who,
                why,
                reply,
            } => DurableAnswer::Done(reply, self.resolve(rid, resolution, who, why, now)),
            Op::Append(event, reply) => DurableAnswer::Done(reply, self.append(event, now)),
            // They were recorded at the beginning of this batch, unless they came just now.
            Op::Pauses(reply) => {
                let recorded = self.record_pauses(now);
                let failed = |error: CommitError| LedgerError::Failed(error.to_string());
                DurableAnswer::Done(reply, recorded.map_err(failed))
            }
            Op::Resume { scope, who, why, reply } => {
                let recorded = self.record_pauses(now);
                let failed = |error: CommitError| LedgerError::Failed(error.to_string());
                let resumed = recorded
                    .map_err(failed)
                    .and_then(|()| self.resume(scope.clone(), who, why, now));
                // Only what was lifted: a pause of this scope may come while this batch is being written.
                if matches!(resumed, Ok(Some(_))) {
                    self.scopes.push(scope);
                }
                DurableAnswer::Resumed(reply, resumed)
            }
            Op::Find(rid, reply) => {
                DurableAnswer::Find(rid, reply, self.book().open_payment(&rid).cloned().map(Box::new))
            }
            Op::Spending(scopes, reply) => {
                DurableAnswer::Spending(reply, Box::new(self.book().spending().of_scopes(&scopes)))
            }
            Op::Usage(scopes, reply) => DurableAnswer::Usage(reply, self.usage(&scopes)),
            Op::Standing(scopes, reply) => {
                let newest = self.opening.journal.chain().next_seq.checked_sub(1);
                let seen = Seen::of(
                    self.book().spending().of_scopes(&scopes),
                    self.book().open_payments(),
                    &scopes,
                    newest,
                );
                DurableAnswer::Standing(reply, Box::new(seen))
            }
            Op::OpenItems(reply) => DurableAnswer::OpenItems(reply, self.book().open_payments().cloned().collect()),
            Op::Unconfirmed(reply) => DurableAnswer::Unconfirmed(reply, self.book().unconfirmed().collect()),
            Op::Keys(reply) => DurableAnswer::Keys(reply, self.book().keys().copied().collect()),
            Op::Approvals(reply) => DurableAnswer::Approvals(reply, self.book().approvals().known_at(now)),
            Op::Wake | Op::Close(_) => return,
        });
    }

    fn commit(&mut self) -> Result<(), CommitError> {
        if !self.disclosures.is_empty() {
            // Before the entries, so that a reader who sees an entry also finds its path.
            let disclosures = std::mem::take(&mut self.disclosures);
            if let Err(error) = self.private.write(self.opening.journal.segment(), disclosures) {
                tracing::warn!(%error, "cannot write the paths of payments to private/; reports will not show them");
            }
        }
        self.journal().commit()
    }

    fn answer(&self, answer: DurableAnswer) {
        // A caller that has gone away gets no answer. Only a reservation must not be lost with it: its `Delivery`
        // reports itself when it is dropped.
        match answer {
            DurableAnswer::Reserve(reply, result) => {
                let delivery = |reservation: Reservation| self.delivery(reservation.rid(), reservation);
                let _ = reply.send(result.map(delivery));
            }
            DurableAnswer::Hold(reply, result) => {
                let _ = reply.send(result.map(|rid| self.delivery(rid, ())));
            }
            DurableAnswer::Resumed(reply, result) => {
                let _ = reply.send(result);
            }
            DurableAnswer::Done(reply, result) => {
                let _ = reply.send(result);
            }
            DurableAnswer::Find(_, reply, Some(payment)) => {
                let _ = reply.send(Found::Open(payment));
            }
            DurableAnswer::Find(rid, reply, None) => {
                let (sender, receiver) = oneshot::channel();
                let sent = self
                    .index
                    .as_ref()
                    .is_some_and(|index| self.fed(index, Feed::Find(rid, sender)));
                self.wake_index();
                let _ = reply.send(Found::Elsewhere(sent.then_some(receiver)));
            }
            DurableAnswer::Spending(reply, spending) => {
                let _ = reply.send(Ok(*spending));
            }
            DurableAnswer::Usage(reply, usage) => {
                let _ = reply.send(Ok(usage));
            }
            DurableAnswer::Standing(reply, seen) => {
                let _ = reply.send(Ok(*seen));
            }
            DurableAnswer::OpenItems(reply, items) => {
                let _ = reply.send(Ok(items));
            }
            DurableAnswer::Unconfirmed(reply, rids) => {
                let _ = reply.send(Ok(rids));
            }
            DurableAnswer::Keys(reply, keys) => {
                let _ = reply.send(Ok(keys));
            }
            DurableAnswer::Approvals(reply, approvals) => {
                let _ = reply.send(Ok(approvals));
            }
        }
    }

    fn delivery<T>(&self, rid: PaymentId, value: T) -> Delivery<T> {
        Delivery::of(rid, value, self.shared.clone(), self.wake.clone())
    }

    /// The time for this batch. A jump ahead is reported once: in the journal and as an alarm.
    fn look_at_clock(&mut self) -> Moment {
        let Reading { now, ahead } = self.time.read();
        let now = Moment::of(now);
        let before = std::mem::replace(&mut self.jumped, ahead);
        if let (None, Some(ahead)) = (before, ahead) {
            let ahead_s = decisions::seconds(ahead);
            (self.alarms)(Alarm::ClockJumped { ahead_s });
            if let Err(why) = self.record(now, Body::ClockJumped(ClockJumped { ahead_s })) {
                tracing::error!(%why, "cannot record in the journal that the clock has jumped");
            }
        }
        now
    }

    /// Work after the answers that no caller waits for.
    fn follow_up(&mut self) {
        self.notify_signing();
        if !self.effects.is_empty() {
            self.feed_index();
        }
        // If it fails, the journal is poisoned and the next operation reports that.
        let _ = self.journal().fill_ahead();
    }

    /// A clean stop: nothing is pending, and the files end with their entries.
    fn close(&mut self) {
        let now = self.look_at_clock();
        if let Err(error) = self.record_close(now) {
            tracing::error!(%error, "the ledger did not close cleanly; the next start repairs it");
            return;
        }
        if self.shared.pauses().is_due() {
            tracing::error!("a pause that was in force is not on record, so it ends now; pause again after the start");
        }
        self.notify_signing();
        if let Some(signing) = &self.signing {
            signing.finish();
        }
        self.feed_index();
    }

    fn notify_signing(&mut self) {
        if let (Some(position), Some(signing)) = (self.opening.journal.position(), &self.signing) {
            signing.synced(position);
        }
    }

    fn record_close(&mut self, now: Moment) -> Result<(), CommitError> {
        self.journal().begin(now.timestamp())?;
        self.leftovers(now)?;
        let waiting = self.shared.refusals().all();
        self.record_refusals(now, waiting)?;
        let recorded = self.record(now, Body::Closed(Closed {}));
        recorded.map_err(CommitError::Failed)?;
        self.commit()?;
        self.journal().trim()
    }

    /// It may be waiting to gather changes.
    fn wake_index(&self) {
        if let Some(index) = &self.index_thread {
            index.thread().unpark();
        }
    }

    fn feed_index(&mut self) {
        let applied = Applied {
            effects: std::mem::take(&mut self.effects),
            chain: self.opening.journal.chain(),
            latest: self.book().latest(),
            signed: self.signing.as_ref().and_then(Signing::news),
            finished: self.journal().take_finished(),
        };
        // Without its thread the index falls behind, and the next start replays.
        let index = self.index.take();
        self.index = index.filter(|index| self.fed(index, Feed::Applied(applied)));
    }

    /// Sends to the index; waits for it if too much waits there already. `false`: it is gone.
    fn fed(&self, index: &std_mpsc::SyncSender<Feed>, message: Feed) -> bool {
        match index.try_send(message) {
            Ok(()) => true,
            Err(std_mpsc::TrySendError::Full(message)) => {
                self.wake_index();
                index.send(message).is_ok()
            }
            Err(std_mpsc::TrySendError::Disconnected(_)) => false,
        }
    }
}

/// The threads that sign the journal and read what the start skipped.
fn beside(
    opening: &mut Opening,
    audit: PathBuf,
    options: &Options,
    damaged: impl FnOnce(String) + Send + 'static,
) -> std::io::Result<(Option<Signing>, Option<Rereading>)> {
    let Some(checkpoints) = opening.checkpoints.take() else {
        return Ok((None, None));
    };
    let rereading = match opening.unread.take() {
        Some(until) => Some(Rereading::start(audit, until, checkpoints.found().to_vec(), damaged)?),
        None => None,
    };
    let synced = opening.journal.position().unwrap_or_default();
    Ok((Some(Signing::start(checkpoints, options, synced)?), rereading))
}

/// Notifies the writer.
fn damaged(shared: &Arc<Shared>, wake: &mpsc::WeakSender<Op>) -> impl FnOnce(String) + Send + 'static {
    let (shared, wake) = (shared.clone(), wake.clone());
    move |why| {
        tracing::error!(%why, "the journal is damaged in entries that were signed");
        shared.report_damage(why);
        // A full queue needs no wake-up: the writer is about to look.
        if let Some(wake) = wake.upgrade() {
            let _ = wake.try_send(Op::Wake);
        }
    }
}

impl Drop for Writer {
    /// The index is closed before the lock is released with the rest, because the next ledger opens it.
    fn drop(&mut self) {
        self.index = None;
        self.wake_index();
        if let Some(thread) = self.index_thread.take() {
            // If it panicked, the next start repairs the index.
            let _ = thread.join();
        }
    }
}

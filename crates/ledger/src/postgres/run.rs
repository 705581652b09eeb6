//! The loop of the one task that writes: takes what is queued, has it decided and committed in one transaction, then
//! answers.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};

use super::asks::{Ask, Task, Wanted};
use super::connect::{PATIENCE, explain};
use super::engine::{BATCH_OPS, Engine};
use super::outage::FIRST_PAUSE;
use super::takeover::BEAT;
use crate::decisions;
use crate::entry::{Body, ClockJumped, Closed};
use crate::model::{Alarm, LedgerError};
use crate::pauses::Pauses;
use crate::refusals;
use crate::timekeeping::Reading;
use crate::writer::ops::{Op, Reply};

/// The most refusals kept while the database is down.
const BACKLOG: usize = 10_000;

/// How soon a pause that another node has set or lifted is known here. A reservation reads them itself.
const PAUSES_EVERY: Duration = Duration::from_millis(500);

/// How often in a row the callers are let run, without an operation from them, before a batch begins.
const LULL: usize = 4;

/// Lets callers that have just been answered run, because what they ask for next costs little in this batch and a whole
/// transaction in the next one. `None`: the queue stays empty.
async fn settled(ops: &mut mpsc::Receiver<Op>) -> Option<Op> {
    for _ in 0..LULL {
        yield_now().await;
        if let Ok(op) = ops.try_recv() {
            return Some(op);
        }
    }
    None
}

impl Engine {
    /// Runs until it is closed or every handle is gone.
    pub(super) async fn run(mut self, mut ops: mpsc::Receiver<Op>) {
        loop {
            let mut due = match self.session {
                Some(_) => self.next_beat.min(self.next_pauses),
                None => self.outage.next_try.max(Instant::now() + FIRST_PAUSE),
            };
            if !self.backlog.is_empty() || self.shared.pauses().is_due() {
                due = due.min(Instant::now() + FIRST_PAUSE);
            }
            if self.shared.refusals().is_waiting() {
                due = due.min(Instant::now() + refusals::FOLD);
            }
            let first = match timeout_at(due, ops.recv()).await {
                Ok(None) => return self.close().await,
                Ok(Some(first)) => first,
                Err(_) => Op::Wake,
            };
            if let Some(reply) = self.batch(first, &mut ops).await {
                self.close().await;
                // The directory's lock is released before this is answered.
                drop(self);
                // The caller may have gone away.
                let _ = reply.send(());
                return;
            }
        }
    }

    async fn batch(&mut self, first: Op, ops: &mut mpsc::Receiver<Op>) -> Option<Reply<()>> {
        let mut tasks: Vec<Task> = std::mem::take(&mut self.backlog).into();
        tasks.extend(self.due_pauses());
        tasks.extend(self.leftovers());
        let (mut questions, mut close, mut op) = (Vec::new(), None, Some(first));
        for _ in 0..BATCH_OPS {
            let this = match op.take().or_else(|| ops.try_recv().ok()) {
                Some(this) => this,
                None => match settled(ops).await {
                    Some(this) => this,
                    None => break,
                },
            };
            match Task::of(this) {
                Wanted::Change(task) if task.is_unwanted() => {}
                Wanted::Change(task) => tasks.push(task),
                Wanted::Question(question) => questions.push(question),
                Wanted::Close(reply) => {
                    close = Some(reply);
                    break;
                }
                Wanted::Nothing => {}
            }
        }
        self.perform(tasks).await;
        for question in questions {
            self.answer(question).await;
        }
        if self.session.is_none() {
            // This reconnects even when there are no payments.
            let _ = self.connected().await;
        }
        if self.session.is_some() && Instant::now() >= self.next_beat {
            self.next_beat = Instant::now() + BEAT;
            self.beat().await;
        }
        if self.session.is_some() && Instant::now() >= self.next_pauses {
            self.next_pauses = Instant::now() + PAUSES_EVERY;
            self.read_pauses().await;
        }
        close
    }

    /// What other nodes have paused and resumed, for a node that reserves nothing itself.
    async fn read_pauses(&mut self) {
        let Some(session) = &self.session else { return };
        match timeout(PATIENCE, session.pauses()).await {
            Ok(Ok(read)) => {
                let mut pauses = Pauses::default();
                read.into_iter().for_each(|pause| pauses.set(pause));
                self.shared.pauses_mut().committed(&pauses, &[]);
            }
            Ok(Err(error)) => {
                tracing::warn!(why = explain(&error), "cannot read the pauses in the database");
                self.session = None;
            }
            Err(_) => self.session = None,
        }
    }

    fn due_pauses(&self) -> Vec<Task> {
        let due = self.shared.pauses().due();
        due.into_iter()
            .map(|pause| Task::for_nobody(Ask::Pause(pause)))
            .collect()
    }

    /// Records the pauses that came after the batch began.
    pub(super) async fn pauses_recorded(&mut self) -> Result<(), LedgerError> {
        let due = self.due_pauses();
        if !due.is_empty() {
            self.perform(due).await;
        }
        let is_due = self.shared.pauses().is_due();
        match is_due {
            false => Ok(()),
            true => Err(LedgerError::Failed("the database did not record it".to_owned())),
        }
    }

    /// Reservations that no caller received, refusals that are due, and a jump of the clock.
    fn leftovers(&mut self) -> Vec<Task> {
        let Reading { now, ahead } = self.time.read();
        let mut asks: Vec<Ask> = self.shared.take_abandoned().into_iter().map(Ask::GiveUp).collect();
        let before = std::mem::replace(&mut self.jumped, ahead);
        if let (None, Some(ahead)) = (before, ahead) {
            let ahead_s = decisions::seconds(ahead);
            (self.alarms)(Alarm::ClockJumped { ahead_s });
            asks.push(Ask::Note(Body::ClockJumped(ClockJumped { ahead_s })));
        }
        // The last of the room is for the ends of payments. Refusals wait, folded, until there is more.
        let due = match self.space.is_low() {
            true => Vec::new(),
            false => self.shared.refusals().due(now),
        };
        asks.extend(due.into_iter().map(|(denial, count)| Ask::Refused(denial, count)));
        asks.into_iter().map(Task::for_nobody).collect()
    }

    /// Does all of them, or answers each that it was not done.
    pub(super) async fn perform(&mut self, tasks: Vec<Task>) {
        let mut rest = tasks.into_iter();
        loop {
            let tasks: Vec<Task> = rest.by_ref().take(BATCH_OPS).collect();
            if tasks.is_empty() {
                return;
            }
            match self.commit(&tasks).await {
                Ok(verdicts) => {
                    for (task, verdict) in tasks.into_iter().zip(verdicts) {
                        task.answer(verdict, &self.shared, &self.wake);
                    }
                }
                Err(failure) => self.keep(tasks.into_iter().filter_map(|task| task.fail(&failure))),
            }
        }
    }

    /// Keeps tasks until there is a connection again. The number of refusals is limited.
    fn keep(&mut self, tasks: impl Iterator<Item = Task>) {
        for task in tasks {
            if self.backlog.len() < BACKLOG || !matches!(task.ask, Ask::Refused(..)) {
                self.backlog.push_back(task);
            }
        }
    }

    /// A clean stop: nothing is pending, and the files end with their entries.
    async fn close(&mut self) {
        let mut tasks: Vec<Task> = std::mem::take(&mut self.backlog).into();
        tasks.extend(self.leftovers());
        let waiting = self.shared.refusals().all();
        tasks.extend(
            waiting
                .into_iter()
                .map(|(denial, count)| Task::for_nobody(Ask::Refused(denial, count))),
        );
        tasks.push(Task::for_nobody(Ask::Note(Body::Closed(Closed {}))));
        self.perform(tasks).await;
        if !self.backlog.is_empty() {
            tracing::error!(
                "the database was down at shutdown: after the next start, payments that were under way have an unknown \
                 outcome"
            );
        }
        self.session = None;
        self.log.close();
    }
}

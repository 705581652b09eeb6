//! One transaction: locks, decisions, writes, commit; and what happens when it fails.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout};

use super::approvals::Wanted;
use super::asks::{Ask, Failure, Task, Verdict};
use super::batch::Batch;
use super::commit::{CommitState, Done, Unclear};
use super::connect::{PATIENCE, explain, is_to_be_retried, proves_rollback};
use super::engine::Engine;
use super::log::{Lines, LocalLog};
use super::rows::{Needs, TransactionError};
use crate::counters::CounterKey;
use crate::decisions;
use crate::model::{Alarm, ReserveError};
use crate::signing::Overdue;
use crate::text::Moment;
use crate::writer::decide::Space;
use bursar_core::payment_id::PaymentId;

/// How often a transaction that collided with another is tried (R209).
const TRIES: u32 = 5;
/// If one takes longer, the database hangs.
pub(super) const TRANSACTION: Duration = Duration::from_secs(5);
/// How many names of existing counters are remembered.
const KNOWN: usize = 100_000;

/// Why one attempt did not reach `Done`.
pub(super) enum Attempt {
    TransactionError(TransactionError),
    Unclear(Box<Done>),
}

impl<T: Into<TransactionError>> From<T> for Attempt {
    fn from(cause: T) -> Self {
        Self::TransactionError(cause.into())
    }
}

impl Engine {
    /// Does all of `tasks`, in order and together, or nothing.
    pub(super) async fn commit(&mut self, tasks: &[Task]) -> Result<Vec<Verdict>, Failure> {
        let (mut tries, began) = (0, Instant::now());
        loop {
            if let Some(unclear) = self
                .unclear
                .take_if(|unclear| unclear.commit_state == CommitState::Committed)
            {
                return Ok(self.take_in(unclear.done));
            }
            self.unclear
                .take_if(|unclear| unclear.commit_state == CommitState::RolledBack);
            self.connected().await.map_err(|why| match &mut self.unclear {
                Some(unclear) if unclear.commit_state == CommitState::Open => {
                    unclear.commit_state = CommitState::Reported;
                    Failure::Unclear
                }
                _ => Failure::Down(why),
            })?;
            if self.unclear.is_some() {
                continue;
            }
            tries += 1;
            let why = match self.attempt(tasks).await {
                Ok(done) => return Ok(self.take_in(done)),
                Err(Attempt::Unclear(done)) => {
                    let rids = tasks.iter().filter_map(|task| reserves(&task.ask)).collect();
                    let (done, commit_state) = (*done, CommitState::Open);
                    self.unclear = Some(Unclear {
                        done,
                        rids,
                        commit_state,
                    });
                    self.session = None;
                    // Takes a bounded time: one attempt to connect, immediately.
                    self.outage.next_try = Instant::now();
                    continue;
                }
                Err(Attempt::TransactionError(TransactionError::Fenced)) => return Err(Failure::Down(self.stop())),
                Err(Attempt::TransactionError(TransactionError::Down(why))) => {
                    self.session = None;
                    why
                }
                Err(Attempt::TransactionError(TransactionError::Again(why))) => {
                    self.roll_back().await;
                    let random: [u8; 1] = bursar_core::clock::random().unwrap_or_default();
                    sleep(Duration::from_millis(2 + u64::from(random[0]) * 48 / 255)).await;
                    why
                }
            };
            tracing::debug!(%why, tries, "a transaction failed");
            if tries >= TRIES || began.elapsed() > TRANSACTION {
                return Err(Failure::Down(format!("the database did not accept it: {why}")));
            }
        }
    }

    /// One transaction from beginning to end.
    pub(super) async fn attempt(&mut self, tasks: &[Task]) -> Result<Done, Attempt> {
        let prepared = timeout(TRANSACTION, self.prepare(tasks)).await;
        let late = || TransactionError::Down("it takes too long to answer".to_owned());
        let done = prepared.unwrap_or_else(|_| Err(late()))?;
        let Some(session) = &self.session else {
            return Err(late().into());
        };
        if done.lines.entries.is_empty() {
            session.client.batch_execute("rollback").await?;
            return Ok(done);
        }
        match timeout(TRANSACTION, session.client.batch_execute("commit")).await {
            Ok(Ok(())) => Ok(done),
            Ok(Err(error)) if is_to_be_retried(&error) || proves_rollback(&error) => Err(error.into()),
            Ok(Err(error)) => {
                tracing::warn!(
                    why = explain(&error),
                    "the answer to a commit was lost; looking up what became of it"
                );
                Err(Attempt::Unclear(Box::new(done)))
            }
            Err(_) => Err(Attempt::Unclear(Box::new(done))),
        }
    }

    async fn prepare(&mut self, tasks: &[Task]) -> Result<Done, TransactionError> {
        let (Some(session), Some(identity), Some(epoch)) = (&self.session, self.identity, self.epoch) else {
            return Err(TransactionError::Down("there is no connection".to_owned()));
        };
        let now = Moment::of(self.time.read().now);
        let now_s = now.timestamp().as_second();
        let mut rids: Vec<_> = tasks.iter().filter_map(|task| task.ask.rid()).collect();
        rids.sort_unstable();
        rids.dedup();
        let rids: Vec<_> = rids.iter().map(|rid| uuid::Uuid::from_bytes(*rid.bytes())).collect();

        // Nearly all counters exist already; those that do not are created before anything is locked.
        let asks = || tasks.iter().map(|task| &task.ask);
        let charged = Needs::of(asks(), &HashMap::new());
        let new: Vec<&CounterKey> = charged.keys.iter().filter(|key| !self.known.contains(*key)).collect();
        if !new.is_empty() {
            session.create(&new).await?;
        }

        let rows = session.begin(identity.node, epoch, &rids).await?;
        let asked = session.approvals(identity.node, &Wanted::of(asks(), &rows)).await?;
        let needs = Needs::of(asks(), &rows);
        let locked = session.lock(identity.node, &needs, now_s).await?;
        if locked.missing {
            self.known.clear();
            return Err(TransactionError::Again("a counter has disappeared".to_owned()));
        }
        if self.known.len() > KNOWN {
            self.known.clear();
        }
        self.known.extend(needs.keys);

        let overdue = self.log.overdue();
        let closed = closed(&mut self.space, &self.log, self.time.read().ahead, overdue.as_ref());
        match (&closed, overdue) {
            (Some(ReserveError::LowSpace), _) => (self.alarms)(Alarm::LowSpace),
            (Some(ReserveError::Unsigned { .. }), Some(overdue)) => (self.alarms)(overdue.alarm),
            _ => {}
        }
        let mut batch = Batch::new(
            identity.node,
            &self.time,
            Lines::after(self.log.chain, self.log.version),
            self.mine.clone(),
            rows,
            locked,
            asked,
        );
        batch.closed = closed;
        let verdicts = asks().map(|ask| batch.answer(ask, now)).collect();
        session.write(&batch, epoch, now).await?;
        let (pauses, scopes) = batch.pauses_after(asks());
        Ok(Done {
            verdicts,
            pauses,
            scopes,
            lines: batch.lines,
            disclosures: batch.disclosures,
            alarms: batch.alarms.into_inner().unwrap_or_else(PoisonError::into_inner),
            mine: batch.mine,
            now,
        })
    }

    /// Applies the results that are certain now.
    pub(super) fn take_in(&mut self, done: Done) -> Vec<Verdict> {
        if !done.lines.entries.is_empty() {
            self.time.saw(done.now.timestamp());
            self.log.append(done.lines, done.disclosures);
        }
        self.mine = done.mine;
        self.shared.pauses_mut().committed(&done.pauses, &done.scopes);
        for alarm in done.alarms {
            (self.alarms)(alarm);
        }
        done.verdicts
    }

    /// Rolls back; if that fails, drops the connection, which also ends the transaction.
    pub(super) async fn roll_back(&mut self) {
        if let Some(session) = &self.session
            && !matches!(
                timeout(PATIENCE, session.client.batch_execute("rollback")).await,
                Ok(Ok(()))
            )
        {
            self.session = None;
        }
    }
}

/// Why nothing may be reserved here, whatever the limits allow.
fn closed(
    space: &mut Space,
    log: &LocalLog,
    jumped: Option<SignedDuration>,
    unsigned: Option<&Overdue>,
) -> Option<ReserveError> {
    if let Some(why) = log.failed() {
        return Some(ReserveError::Failed(format!(
            "the log in audit/ cannot be written: {why}"
        )));
    }
    if let Some(ahead) = jumped {
        let ahead_s = decisions::seconds(ahead);
        return Some(ReserveError::ClockJumped { ahead_s });
    }
    if space.is_low() {
        return Some(ReserveError::LowSpace);
    }
    unsigned.map(|overdue| ReserveError::Unsigned { for_s: overdue.for_s })
}

/// The payment that the caller would sign for.
fn reserves(ask: &Ask) -> Option<PaymentId> {
    match ask {
        Ask::Reserve(reserve) => Some(reserve.hold.rid),
        Ask::Hold(hold) => Some(hold.rid),
        Ask::Arm(rid, _) => Some(*rid),
        _ => None,
    }
}

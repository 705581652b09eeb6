//! One transaction: locks, decisions, writes, commit; and what happens when it fails.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{Instant, sleep, timeout};

use super::approvals::{ApprovalRows, Wanted};
use super::asks::{Ask, Failure, Task, Verdict};
use super::batch::Batch;
use super::commit::{CommitState, Done, Unclear};
use super::connect::PATIENCE;
use super::engine::Engine;
use super::log::{Lines, LocalLog};
use super::rows::{Locked, Needs, Row, TransactionError};
use super::session::{Ending, Head, Session};
use crate::counters::CounterKey;
use crate::decisions;
use crate::model::{Alarm, ReserveError, State};
use crate::payment::Payment;
use crate::signing::Overdue;
use crate::text::Moment;
use crate::timekeeping::Timekeeper;
use crate::writer::decide::Space;
use bursar_core::payment_id::PaymentId;

/// How often a transaction that collided with another is tried (R209).
const TRIES: u32 = 5;
/// If one takes longer, the database hangs.
pub(super) const TRANSACTION: Duration = Duration::from_secs(5);
/// How many names of existing counters are remembered, and how many open payments.
const KNOWN: usize = 100_000;

/// How a transaction gets its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In one trip, if this node knows all that it needs.
    AtOnce,
    /// The payments first, then what they need.
    InSteps,
}

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
            let way = if tries == 1 { Way::AtOnce } else { Way::InSteps };
            let why = match self.attempt(tasks, way).await {
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
    pub(super) async fn attempt(&mut self, tasks: &[Task], way: Way) -> Result<Done, Attempt> {
        let time = self.time.clone();
        let now = Moment::of(time.read().now);
        let decided = timeout(TRANSACTION, self.decide(tasks, &time, now, way)).await;
        let late = || TransactionError::Down("it takes too long to answer".to_owned());
        let (batch, verdicts) = decided.unwrap_or_else(|_| Err(late()))?;
        let (Some(session), Some(epoch)) = (&self.session, self.epoch) else {
            return Err(late().into());
        };
        let ended = if batch.lines.entries.is_empty() {
            session.client.batch_execute("rollback").await?;
            Ok(())
        } else {
            let finished = timeout(TRANSACTION, session.finish(&batch, epoch, now)).await;
            finished.unwrap_or(Err(Ending::Unknown))
        };
        let (pauses, scopes) = batch.pauses_after(tasks.iter().map(|task| &task.ask));
        let done = Done {
            verdicts,
            pauses,
            scopes,
            payments: batch
                .changes
                .payments
                .into_values()
                .map(|changed| changed.payment)
                .collect(),
            lines: batch.lines,
            disclosures: batch.disclosures,
            alarms: batch.alarms.into_inner().unwrap_or_else(PoisonError::into_inner),
            mine: batch.mine,
            now,
        };
        match ended {
            Ok(()) => Ok(done),
            Err(Ending::RolledBack(error)) => Err(error.into()),
            Err(Ending::Unknown) => Err(Attempt::Unclear(Box::new(done))),
        }
    }

    /// Begins the transaction, locks, reads and decides. Nothing is written yet.
    async fn decide<'t>(
        &mut self,
        tasks: &[Task],
        time: &'t Timekeeper,
        now: Moment,
        way: Way,
    ) -> Result<(Batch<'t>, Vec<Verdict>), TransactionError> {
        let (Some(session), Some(identity), Some(epoch)) = (&self.session, self.identity, self.epoch) else {
            return Err(TransactionError::Down("there is no connection".to_owned()));
        };
        let me = (identity.node, epoch);
        let now_s = now.timestamp().as_second();

        let asks = || tasks.iter().map(|task| &task.ask);
        let guess = match way {
            Way::AtOnce => expected(identity.node, tasks, &self.open),
            Way::InSteps => None,
        };
        let needs = match &guess {
            Some(guess) => Needs::of(asks(), guess),
            None => Needs::of(asks(), &HashMap::new()),
        };
        // Nearly all counters exist already; those that do not are created before anything is locked.
        let new: Vec<&CounterKey> = needs.keys.iter().filter(|key| !self.known.contains(*key)).collect();
        if !new.is_empty() {
            session.create(&new).await?;
        }

        let mut read = None;
        if let Some(guess) = &guess {
            read = at_once(session, me, tasks, (guess, needs), &self.open, now_s).await?;
        }
        let Read {
            rows,
            asked,
            needs,
            locked,
        } = match read {
            Some(read) => read,
            None => in_steps(session, me, tasks, now_s).await?,
        };
        if locked.missing {
            self.known.clear();
            return Err(TransactionError::Again("a counter has disappeared".to_owned()));
        }
        if self.known.len() > KNOWN {
            self.known.clear();
        }
        self.known.extend(needs.keys);

        let overdue = self.log.overdue();
        let closed = closed(&mut self.space, &self.log, time.read().ahead, overdue.as_ref());
        match (&closed, overdue) {
            (Some(ReserveError::LowSpace), _) => (self.alarms)(Alarm::LowSpace),
            (Some(ReserveError::Unsigned { .. }), Some(overdue)) => (self.alarms)(overdue.alarm),
            _ => {}
        }
        let mut batch = Batch::new(
            identity.node,
            time,
            Lines::after(self.log.chain, self.log.version),
            self.mine.clone(),
            rows,
            locked,
            asked,
        );
        batch.closed = closed;
        let verdicts = asks().map(|ask| batch.answer(ask, now)).collect();
        Ok((batch, verdicts))
    }

    /// Applies the results that are certain now.
    pub(super) fn take_in(&mut self, done: Done) -> Vec<Verdict> {
        if !done.lines.entries.is_empty() {
            self.time.saw(done.now.timestamp());
            self.log.append(done.lines, done.disclosures);
        }
        self.mine = done.mine;
        if self.open.len() > KNOWN {
            self.open.clear();
        }
        for payment in done.payments {
            match payment.is_open() {
                true => self.open.insert(payment.rid(), payment),
                false => self.open.remove(&payment.rid()),
            };
        }
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

/// What a transaction has locked and read.
struct Read {
    rows: HashMap<PaymentId, Row>,
    asked: ApprovalRows,
    needs: Needs,
    locked: Locked,
}

/// The rows of the payments that the asks are about, as they should be: all of them new, or open and this node's. `None`: it
/// takes more to know what the asks need.
fn expected(me: u32, tasks: &[Task], open: &HashMap<PaymentId, Payment>) -> Option<HashMap<PaymentId, Row>> {
    let mut rows = HashMap::new();
    let mut fresh = HashSet::new();
    for task in tasks {
        match &task.ask {
            Ask::Reserve(_) | Ask::Hold(_) => {
                let rid = task.ask.rid()?;
                if open.contains_key(&rid) || !fresh.insert(rid) {
                    return None;
                }
            }
            Ask::Issued(rid, _) | Ask::Finish(rid, _) | Ask::GiveUp(rid) => {
                // Held money may wait for a person.
                let payment = open.get(rid).filter(|payment| payment.state != State::Held)?;
                let row = Row {
                    owner: me,
                    payment: payment.clone(),
                    unconfirmed: false,
                    origin: None,
                };
                rows.insert(*rid, row);
            }
            Ask::Refused(..) | Ask::Note(_) => {}
            _ => return None,
        }
    }
    Some(rows)
}

/// Locks and reads in one trip what the asks should need. `None`: it was not enough, and nothing is locked.
async fn at_once(
    session: &Session,
    me: (u32, i64),
    tasks: &[Task],
    (expected, mut needs): (&HashMap<PaymentId, Row>, Needs),
    open: &HashMap<PaymentId, Payment>,
    now_s: i64,
) -> Result<Option<Read>, TransactionError> {
    let asks = || tasks.iter().map(|task| &task.ask);
    let rids = std::mem::take(&mut needs.rids);
    // A new payment whose id is taken is found when it is written.
    let (rows, locked) = session.at_once(me, &rids, open, &needs, now_s).await?;
    let as_expected = |(rid, row): (&PaymentId, &Row)| {
        row.owner == me.0
            && expected
                .get(rid)
                .is_some_and(|expected| expected.payment == row.payment)
    };
    // If a nonce or a key is taken, the id of the payment may be, too, and it is the first thing to be named.
    let is_enough = locked.nonces.is_empty()
        && locked.keys.is_empty()
        && (rows.iter().all(as_expected) || {
            // Another node has changed them.
            rows.values().all(|row| row.owner == me.0)
                && Needs::of(asks(), &rows).is_within(&needs)
                && Wanted::of(asks(), &rows).is_empty()
        });
    if !is_enough {
        session.client.batch_execute("rollback").await?;
        return Ok(None);
    }
    Ok(Some(Read {
        rows,
        asked: ApprovalRows::default(),
        needs,
        locked,
    }))
}

/// Locks and reads what the asks need, whatever the payments are like.
async fn in_steps(session: &Session, me: (u32, i64), tasks: &[Task], now_s: i64) -> Result<Read, TransactionError> {
    let asks = || tasks.iter().map(|task| &task.ask);
    let mut rids: Vec<_> = asks().filter_map(Ask::rid).collect();
    rids.sort_unstable();
    rids.dedup();
    let rids: Vec<_> = rids.iter().map(|rid| uuid::Uuid::from_bytes(*rid.bytes())).collect();
    let rows = session.begin(me, &rids).await?;
    let asked = session.approvals(me.0, &Wanted::of(asks(), &rows)).await?;
    let needs = Needs::of(asks(), &rows);
    let locked = session.lock(me.0, &needs, now_s, Head::Unread).await?;
    Ok(Read {
        rows,
        asked,
        needs,
        locked,
    })
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

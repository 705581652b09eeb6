//! The one task that writes: takes what is queued, has it decided and committed in one transaction, then answers.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::asks::{Ask, Failure, Task, Verdict, Wanted};
use super::batch::Batch;
use super::connect::{NoWay, PATIENCE, Way, explain, is_to_be_retried, proves_rollback};
use super::log::{Lines, LocalLog};
use super::node::Identity;
use super::policy::Mine;
use super::rows::{Needs, Trouble};
use super::session::Session;
use super::takeover::BEAT;
use crate::ledger::counters::CounterKey;
use crate::ledger::disclosure::Disclosure;
use crate::ledger::entry::{Body, ClockJumped, Closed};
use crate::ledger::journal::Torn;
use crate::ledger::model::{Alarm, Alarms, ReserveError};
use crate::ledger::refusals;
use crate::ledger::rid::Rid;
use crate::ledger::text::Moment;
use crate::ledger::timekeeping::{Reading, Timekeeper};
use crate::ledger::writer::decide::{self, Space};
use crate::ledger::writer::ops::{Op, Reply, Shared};

/// Operations in one transaction.
pub const BATCH_OPS: usize = 256;
/// How often one that was in another's way is tried (digest §1.4).
const TRIES: u32 = 5;
/// A transaction that takes longer has met a database that hangs.
pub const TRANSACTION: Duration = Duration::from_secs(5);
/// Between two attempts to connect: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// More refusals than this are not kept for a database that is away.
const BACKLOG: usize = 10_000;
/// Connecting again, all in all; the first time there is more to do.
const RECONNECTING: Duration = Duration::from_secs(5);
const STARTING: Duration = Duration::from_secs(30);
/// Names of counters that are known to exist.
const KNOWN: usize = 100_000;

pub struct Engine {
    pub dir: PathBuf,
    pub _lock: File,
    pub way: Way,
    pub identity: Option<Identity>,
    /// None until the first connection of this run.
    pub epoch: Option<i64>,
    pub log: LocalLog,
    /// What the first entry of this run tells.
    pub torn: Option<Torn>,
    pub mine: Mine,
    pub session: Option<Session>,
    pub time: Arc<Timekeeper>,
    pub space: Space,
    pub alarms: Alarms,
    pub shared: Arc<Shared>,
    pub wake: mpsc::WeakSender<Op>,
    pub jumped: Option<SignedDuration>,
    pub known: HashSet<CounterKey>,
    /// What must be written and could not be yet.
    pub backlog: VecDeque<Task>,
    pub unclear: Option<Unclear>,
    /// Nothing is recorded any more, and why.
    pub stopped: Option<String>,
    pub outage: Outage,
    pub next_beat: Instant,
}

/// What a commit brings along, once it is certain.
pub struct Done {
    pub verdicts: Vec<Verdict>,
    pub lines: Lines,
    disclosures: Vec<(u64, Disclosure)>,
    alarms: Vec<Alarm>,
    mine: Mine,
    now: Moment,
}

/// A commit whose answer was lost.
pub struct Unclear {
    pub done: Done,
    /// What it reserves. Nobody will get it, if it was told that nothing is known.
    pub rids: Vec<Rid>,
    pub fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its callers still wait.
    Open,
    /// They have been told that it is not known.
    Told,
    Committed,
    RolledBack,
}

/// How long there has been no connection.
pub struct Outage {
    pub why: String,
    pub next_try: Instant,
    pub pause: Duration,
    pub told: bool,
}

impl Outage {
    pub fn none() -> Self {
        Self {
            why: String::new(),
            next_try: Instant::now(),
            pause: FIRST_PAUSE,
            told: false,
        }
    }
}

/// What one attempt came to, if not to `Done`.
pub enum Attempt {
    Trouble(Trouble),
    Unclear(Box<Done>),
}

impl<T: Into<Trouble>> From<T> for Attempt {
    fn from(trouble: T) -> Self {
        Self::Trouble(trouble.into())
    }
}

impl Engine {
    /// Runs until it is closed or every handle is gone.
    pub async fn run(mut self, mut ops: mpsc::Receiver<Op>) {
        loop {
            let mut due = match self.session {
                Some(_) => self.next_beat,
                None => self.outage.next_try.max(Instant::now() + FIRST_PAUSE),
            };
            if !self.backlog.is_empty() {
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
                // The directory is free when this is answered.
                drop(self);
                // Whoever closed may have gone away.
                let _ = reply.send(());
                return;
            }
        }
    }

    async fn batch(&mut self, first: Op, ops: &mut mpsc::Receiver<Op>) -> Option<Reply<()>> {
        let mut tasks: Vec<Task> = std::mem::take(&mut self.backlog).into();
        tasks.extend(self.leftovers());
        let (mut questions, mut close, mut op) = (Vec::new(), None, Some(first));
        for _ in 0..BATCH_OPS {
            let Some(this) = op.take().or_else(|| ops.try_recv().ok()) else {
                break;
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
            // What connects again by itself, payments or not.
            let _ = self.connected().await;
        }
        if self.session.is_some() && Instant::now() >= self.next_beat {
            self.next_beat = Instant::now() + BEAT;
            self.beat().await;
        }
        close
    }

    /// Reservations that nobody received, refusals that are due, and a clock that has jumped.
    fn leftovers(&mut self) -> Vec<Task> {
        let Reading { now, ahead } = self.time.read();
        let mut asks: Vec<Ask> = self.shared.take_abandoned().into_iter().map(Ask::GiveUp).collect();
        let before = std::mem::replace(&mut self.jumped, ahead);
        if let (None, Some(ahead)) = (before, ahead) {
            let ahead_s = decide::seconds(ahead);
            (self.alarms)(Alarm::ClockJumped { ahead_s });
            asks.push(Ask::Note(Body::ClockJumped(ClockJumped { ahead_s })));
        }
        let due = self.shared.refusals().due(now);
        asks.extend(due.into_iter().map(|(denial, count)| Ask::Refused(denial, count)));
        asks.into_iter().map(Task::for_nobody).collect()
    }

    /// Does all of them, or says of each that it was not done.
    pub async fn perform(&mut self, tasks: Vec<Task>) {
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

    /// For when there is a connection again. Refusals alone could become too many.
    fn keep(&mut self, tasks: impl Iterator<Item = Task>) {
        for task in tasks {
            if self.backlog.len() < BACKLOG || !matches!(task.ask, Ask::Refused(..)) {
                self.backlog.push_back(task);
            }
        }
    }

    async fn commit(&mut self, tasks: &[Task]) -> Result<Vec<Verdict>, Failure> {
        let (mut tries, began) = (0, Instant::now());
        loop {
            if let Some(unclear) = self.unclear.take_if(|unclear| unclear.fate == Fate::Committed) {
                return Ok(self.take_in(unclear.done));
            }
            self.unclear.take_if(|unclear| unclear.fate == Fate::RolledBack);
            self.connected().await.map_err(|why| match &mut self.unclear {
                Some(unclear) if unclear.fate == Fate::Open => {
                    unclear.fate = Fate::Told;
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
                    let (done, fate) = (*done, Fate::Open);
                    self.unclear = Some(Unclear { done, rids, fate });
                    self.session = None;
                    // Bounded by itself: one attempt to connect, at once.
                    self.outage.next_try = Instant::now();
                    continue;
                }
                Err(Attempt::Trouble(Trouble::Fenced)) => return Err(Failure::Down(self.stop())),
                Err(Attempt::Trouble(Trouble::Down(why))) => {
                    self.session = None;
                    why
                }
                Err(Attempt::Trouble(Trouble::Again(why))) => {
                    self.roll_back().await;
                    let random: [u8; 1] = crate::clock::random().unwrap_or_default();
                    sleep(Duration::from_millis(2 + u64::from(random[0]) * 48 / 255)).await;
                    why
                }
            };
            tracing::debug!(%why, tries, "a transaction was not done");
            if tries >= TRIES || began.elapsed() > TRANSACTION {
                return Err(Failure::Down(format!("the database did not take it: {why}")));
            }
        }
    }

    /// One transaction from beginning to end.
    pub async fn attempt(&mut self, tasks: &[Task]) -> Result<Done, Attempt> {
        let prepared = timeout(TRANSACTION, self.prepare(tasks)).await;
        let late = || Trouble::Down("it takes too long to answer".to_owned());
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

    async fn prepare(&mut self, tasks: &[Task]) -> Result<Done, Trouble> {
        let (Some(session), Some(identity), Some(epoch)) = (&self.session, self.identity, self.epoch) else {
            return Err(Trouble::Down("there is no connection".to_owned()));
        };
        let now = Moment::of(self.time.read().now);
        let now_s = now.timestamp().as_second();
        let mut rids: Vec<_> = tasks.iter().filter_map(|task| task.ask.rid()).collect();
        rids.sort_unstable();
        rids.dedup();
        let rids: Vec<_> = rids.iter().map(|rid| uuid::Uuid::from_bytes(*rid.bytes())).collect();

        // Nearly all counters are there already; those that are not are made before anything is locked.
        let asks = || tasks.iter().map(|task| &task.ask);
        let charged = Needs::of(asks(), &std::collections::HashMap::new());
        let new: Vec<&CounterKey> = charged.keys.iter().filter(|key| !self.known.contains(*key)).collect();
        if !new.is_empty() {
            session.create(&new).await?;
        }

        let rows = session.begin(identity.node, epoch, &rids).await?;
        let needs = Needs::of(asks(), &rows);
        let locked = session.lock(identity.node, &needs, now_s).await?;
        if locked.missing {
            self.known.clear();
            return Err(Trouble::Again("a counter has gone".to_owned()));
        }
        if self.known.len() > KNOWN {
            self.known.clear();
        }
        self.known.extend(needs.keys);

        let closed = closed(&mut self.space, &self.log, self.jumped);
        if closed == Some(ReserveError::LowSpace) {
            (self.alarms)(Alarm::LowSpace);
        }
        let mut batch = Batch::new(
            identity.node,
            &self.time,
            self.log.chain,
            self.mine.clone(),
            rows,
            locked,
        );
        batch.closed = closed;
        let verdicts = asks().map(|ask| batch.answer(ask, now)).collect();
        session.write(&batch, epoch, now_s).await?;
        if batch.accepted_clock {
            self.jumped = None;
        }
        Ok(Done {
            verdicts,
            lines: batch.lines,
            disclosures: batch.disclosures,
            alarms: batch.alarms,
            mine: batch.mine,
            now,
        })
    }

    /// What is certain now.
    pub fn take_in(&mut self, done: Done) -> Vec<Verdict> {
        if !done.lines.entries.is_empty() {
            self.time.saw(done.now.timestamp());
            self.log.append(done.lines, done.disclosures);
        }
        self.mine = done.mine;
        for alarm in done.alarms {
            (self.alarms)(alarm);
        }
        done.verdicts
    }

    /// One that cannot be decided while there is no connection.
    pub async fn roll_back(&mut self) {
        if let Some(session) = &self.session
            && !matches!(
                timeout(PATIENCE, session.client.batch_execute("rollback")).await,
                Ok(Ok(()))
            )
        {
            self.session = None;
        }
    }

    /// Another process writes as this node: this one must not.
    pub fn stop(&mut self) -> String {
        let why = "another bursar runs as this node on the shared books: a copy of this data directory is in use. Stop one of \
                   the two; a directory must not be copied to make a second node"
            .to_owned();
        tracing::error!(%why, "payments are refused until a restart");
        (self.alarms)(Alarm::StoreFailed { why: why.clone() });
        self.session = None;
        self.stopped = Some(why.clone());
        why
    }

    /// A connection that can be used, or why there is none. Bounded.
    pub async fn connected(&mut self) -> Result<(), String> {
        if let Some(why) = &self.stopped {
            return Err(why.clone());
        }
        if self.session.as_ref().is_some_and(|session| session.client.is_closed()) {
            (self.session, self.outage.next_try) = (None, Instant::now());
        }
        if self.session.is_some() {
            return Ok(());
        }
        if Instant::now() < self.outage.next_try {
            return Err(self.outage.why.clone());
        }
        let patience = if self.epoch.is_some() { RECONNECTING } else { STARTING };
        let is_first = self.epoch.is_none();
        let established = timeout(patience, self.establish()).await;
        if established.is_err() && is_first {
            self.epoch = None;
        }
        let late = || Err(NoWay::Down("it takes too long to answer".to_owned()));
        match established.unwrap_or_else(|_| late()) {
            Ok(()) => {
                if self.outage.told {
                    tracing::info!("connected to the database again");
                }
                self.outage = Outage::none();
                Ok(())
            }
            Err(no_way) => Err(self.went_down(&no_way)),
        }
    }

    pub fn went_down(&mut self, no_way: &NoWay) -> String {
        self.session = None;
        let why = format!("the database with the books cannot be used: {}", no_way.text());
        self.outage.next_try = Instant::now() + self.outage.pause;
        self.outage.pause = (self.outage.pause * 2).min(LONGEST_PAUSE);
        if !std::mem::replace(&mut self.outage.told, true) {
            tracing::error!(%why, "payments are refused until it can");
            (self.alarms)(Alarm::StoreFailed { why: why.clone() });
        }
        self.outage.why.clone_from(&why);
        why
    }

    /// A clean stop: nothing waits any more, and the files are as short as their entries.
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
                "the database was away at the end: payments that were under way are in doubt after the next start"
            );
        }
        self.session = None;
        self.log.close();
    }
}

/// Why nothing may be reserved here, whatever the limits say.
fn closed(space: &mut Space, log: &LocalLog, jumped: Option<SignedDuration>) -> Option<ReserveError> {
    if let Some(why) = log.failed() {
        return Some(ReserveError::Failed(format!(
            "the log in audit/ cannot be written: {why}"
        )));
    }
    if let Some(ahead) = jumped {
        let ahead_s = decide::seconds(ahead);
        return Some(ReserveError::ClockJumped { ahead_s });
    }
    space.is_low().then_some(ReserveError::LowSpace)
}

/// What the caller would sign for.
fn reserves(ask: &Ask) -> Option<Rid> {
    match ask {
        Ask::Reserve(reserve) => Some(reserve.hold.rid),
        Ask::Hold(hold) => Some(hold.rid),
        Ask::Arm(rid, _) => Some(*rid),
        _ => None,
    }
}

impl Unclear {
    /// The last entry that the transaction would have written.
    pub fn last(&self) -> Option<(u64, &[u8])> {
        let (seq, bytes) = self.done.lines.entries.last()?;
        Some((*seq, bytes))
    }
}

//! The one writer: decides every operation in order against the book, makes whole batches durable, then answers
//! (digest §1.2, rules 1 to 5).
//!
//! It has a thread of its own, so that a slow disk never holds a runtime worker.

use std::path::PathBuf;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::book::{Book, Counter, Effect, Payment};
use super::disclosure::{Disclosure, Private};
use super::entry::{
    Admin, Body, Closed, Denied, Expired, PolicyLoaded, PolicyRejected, Released, Reserved,
    Settled, Unknown, WindowCharge,
};
use super::index::{Applied, Feed};
use super::journal::{CommitError, Journal};
use super::model::{
    By, Denial, Event, LedgerError, Outcome, Reservation, Reserve, ReserveError, Resolution, State,
};
use super::recovery::Opening;
use super::refusals::{self, Refusals};
use super::rid::Rid;
use super::text::{Decimal, Digest, Moment};
use crate::clock::{SharedClock, random};

/// Bounds of one batch: operations, and bytes of entries.
const BATCH_OPS: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

/// How long a look at the free space is believed.
const SPACE_CHECKED_EVERY: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<T>;

/// What callers send.
pub enum Op {
    Reserve(Box<Reserve>, Reply<Result<Delivery, ReserveError>>),
    Finish(Rid, Outcome, Reply<Result<(), LedgerError>>),
    Resolve {
        rid: Rid,
        resolution: Resolution,
        who: String,
        why: String,
        reply: Reply<Result<(), LedgerError>>,
    },
    Append(Event, Reply<Result<(), LedgerError>>),
    Find(Rid, Reply<Found>),
    Usage(Vec<String>, Reply<Result<Vec<Usage>, LedgerError>>),
    OpenItems(Reply<Result<Vec<Payment>, LedgerError>>),
    /// Something lies in [`Shared`].
    Wake,
    Close(Reply<()>),
}

/// Where a payment is found.
pub enum Found {
    Open(Box<Payment>),
    /// The index will say; without an index, the journal.
    Elsewhere(Option<oneshot::Receiver<Option<Payment>>>),
    Failed(LedgerError),
}

/// One counter of a scope, in the budget's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub scope: String,
    pub window: String,
    pub start: String,
    pub settled: u128,
    pub open: u128,
}

/// What callers leave without waiting for room in the queue.
#[derive(Default)]
pub struct Shared {
    abandoned: Mutex<Vec<Rid>>,
    refusals: Mutex<Refusals>,
}

impl Shared {
    pub fn refuse(&self, denial: Denial, now: jiff::Timestamp) {
        self.refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(denial, now);
    }
}

/// A reservation on its way to the caller. When nobody takes it out, the ledger learns of it.
pub struct Delivery {
    reservation: Option<Reservation>,
    shared: Arc<Shared>,
    wake: mpsc::WeakSender<Op>,
}

impl Delivery {
    pub fn take(mut self) -> Option<Reservation> {
        self.reservation.take()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.shared
                .abandoned
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(reservation.rid());
            // A full queue needs no wake: the writer is about to look.
            if let Some(wake) = self.wake.upgrade() {
                let _ = wake.try_send(Op::Wake);
            }
        }
    }
}

pub struct Writer {
    opening: Opening,
    dir: PathBuf,
    private: Private,
    clock: SharedClock,
    space: Space,
    shared: Arc<Shared>,
    wake: mpsc::WeakSender<Op>,
    index: Option<std_mpsc::Sender<Feed>>,
    index_thread: Option<JoinHandle<()>>,
    effects: Vec<Effect>,
    disclosures: Vec<(u64, Disclosure)>,
}

/// An answer that waits for the batch to be durable.
enum Answer {
    Reserve(
        Reply<Result<Delivery, ReserveError>>,
        Result<Reservation, ReserveError>,
    ),
    Done(Reply<Result<(), LedgerError>>, Result<(), LedgerError>),
    Find(Rid, Reply<Found>, Option<Box<Payment>>),
    Usage(Reply<Result<Vec<Usage>, LedgerError>>, Vec<Usage>),
    OpenItems(Reply<Result<Vec<Payment>, LedgerError>>, Vec<Payment>),
}

/// What the loop does next.
enum Next {
    Go,
    Close(Reply<()>),
    Die,
}

impl Writer {
    pub fn new(
        mut opening: Opening,
        dir: PathBuf,
        clock: SharedClock,
        min_free_bytes: u64,
        shared: Arc<Shared>,
        wake: mpsc::WeakSender<Op>,
    ) -> std::io::Result<Self> {
        let (mut index, mut index_thread) = (None, None);
        if let Some(opened) = opening.index.take() {
            let (sender, feed) = std_mpsc::channel();
            let follow = move || opened.follow(&feed);
            index_thread = Some(
                std::thread::Builder::new()
                    .name("ledger-index".to_owned())
                    .spawn(follow)?,
            );
            index = Some(sender);
        }
        Ok(Self {
            private: Private::new(dir.join("private")),
            space: Space {
                dir: dir.clone(),
                min_free_bytes,
                checked: None,
            },
            opening,
            dir,
            clock,
            shared,
            wake,
            index,
            index_thread,
            effects: Vec::new(),
            disclosures: Vec::new(),
        })
    }

    /// Runs until it is closed or every handle is gone.
    pub fn run(mut self, mut ops: mpsc::Receiver<Op>) {
        // Only for waiting with a deadline, while refusals are being folded.
        let timer = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .ok();
        loop {
            let first = match &timer {
                Some(timer) if self.refusals_wait() => timer.block_on(async {
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
                    // Whoever closed may have gone away.
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    fn batch(&mut self, first: Op, ops: &mut mpsc::Receiver<Op>) -> Next {
        let now = Moment::of(self.clock.now());
        let mut answers = Vec::new();
        let mut next = Next::Go;
        let mut begun = self.journal().begin(now.timestamp());
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
                for answer in answers {
                    answer.fail(&why);
                }
                return next;
            }
        }
        for answer in answers {
            self.answer(answer);
        }
        self.follow_up();
        next
    }

    fn journal(&mut self) -> &mut Journal {
        &mut self.opening.journal
    }

    fn book(&self) -> &Book {
        &self.opening.book
    }

    /// Puts one entry into the batch and the book.
    fn record(&mut self, now: Moment, body: Body) -> Result<u64, String> {
        if let Some(why) = self.opening.journal.failed() {
            return Err(why.to_owned());
        }
        let entry = self
            .journal()
            .push(now, body)
            .map_err(|error| format!("the entry cannot be written: {error}"))?;
        match self.opening.book.apply(&entry) {
            Ok(effect) => self.effects.push(effect),
            // Decided as lawful and then not: the book is wrong, so nothing may rest on it.
            Err(illegal) => return Err(self.journal().poison(illegal.to_string()).to_string()),
        }
        Ok(entry.seq)
    }

    /// Reservations that nobody received, and refusals that are due.
    fn leftovers(&mut self, now: Moment) -> Result<(), CommitError> {
        let abandoned = std::mem::take(
            &mut *self
                .shared
                .abandoned
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for rid in abandoned {
            // Armed money expires only with proof that it can never be cashed (Ruling 11). Here the proof is at hand: a
            // signature takes the `Reservation` value, there is only one, and it was dropped inside the ledger.
            let body = Body::Expired(Expired {
                by: By::Us,
                rid,
                why: "never-signed".to_owned(),
            });
            self.record(now, body).map_err(CommitError::Failed)?;
        }
        let due = self
            .shared
            .refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .due(now.timestamp());
        self.record_refusals(now, due)
    }

    fn record_refusals(
        &mut self,
        now: Moment,
        refusals: Vec<(Denial, u64)>,
    ) -> Result<(), CommitError> {
        for (denial, count) in refusals {
            if let Err(why) = self.record(now, denied(denial, count)) {
                if self.opening.journal.failed().is_some() {
                    return Err(CommitError::Failed(why));
                }
                tracing::warn!(%why, "a refusal is missing in the journal");
            }
        }
        Ok(())
    }

    fn refusals_wait(&self) -> bool {
        self.shared
            .refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_waiting()
    }

    fn decide(&mut self, op: Op, now: Moment, answers: &mut Vec<Answer>) {
        answers.push(match op {
            // Whoever hung up before the decision gets none: nothing to undo later.
            Op::Reserve(_, reply) if reply.is_closed() => return,
            Op::Reserve(reserve, reply) => Answer::Reserve(reply, self.reserve(*reserve, now)),
            Op::Finish(rid, outcome, reply) => Answer::Done(reply, self.finish(rid, outcome, now)),
            Op::Resolve {
                rid,
                resolution,
                who,
                why,
                reply,
            } => Answer::Done(reply, self.resolve(rid, resolution, who, why, now)),
            Op::Append(event, reply) => Answer::Done(
                reply,
                self.record(now, event_body(event))
                    .map(|_| ())
                    .map_err(LedgerError::Failed),
            ),
            Op::Find(rid, reply) => Answer::Find(
                rid,
                reply,
                self.book().open_payment(&rid).cloned().map(Box::new),
            ),
            Op::Usage(scopes, reply) => Answer::Usage(reply, self.usage(&scopes)),
            Op::OpenItems(reply) => {
                Answer::OpenItems(reply, self.book().open_payments().cloned().collect())
            }
            Op::Wake | Op::Close(_) => return,
        });
    }

    fn reserve(&mut self, reserve: Reserve, now: Moment) -> Result<Reservation, ReserveError> {
        if let Some(why) = self.opening.journal.failed() {
            return Err(ReserveError::Failed(why.to_owned()));
        }
        if self.space.is_low() {
            return Err(ReserveError::LowSpace);
        }
        self.book().admits(&reserve)?;
        let disclosures = disclosures(&reserve)?;
        let reservation = Reservation::new(reserve.rid, reserve.terms.clone(), reserve.arm);
        let seq = self
            .record(now, reserved(reserve, &disclosures))
            .map_err(ReserveError::Failed)?;
        self.disclosures
            .extend(disclosures.into_iter().map(|disclosure| (seq, disclosure)));
        Ok(reservation)
    }

    fn finish(&mut self, rid: Rid, outcome: Outcome, now: Moment) -> Result<(), LedgerError> {
        let (to, body) = match outcome {
            Outcome::Settled { by, tx } => (
                State::Settled,
                Body::Settled(Settled {
                    by,
                    rid,
                    tx,
                    why: None,
                }),
            ),
            Outcome::Unknown { why } => (
                State::Unknown,
                Body::Unknown(Unknown {
                    rid,
                    why: why.to_owned(),
                }),
            ),
            Outcome::Expired { by, why } => (
                State::Expired,
                Body::Expired(Expired {
                    by,
                    rid,
                    why: why.to_owned(),
                }),
            ),
            Outcome::Released { why } => (
                State::Released,
                Body::Released(Released {
                    rid,
                    why: why.to_owned(),
                }),
            ),
        };
        let from = self.state(rid)?;
        if from == to {
            return Ok(());
        }
        self.lawful(rid, from, to)?;
        self.record(now, body)
            .map(|_| ())
            .map_err(LedgerError::Failed)
    }

    fn resolve(
        &mut self,
        rid: Rid,
        resolution: Resolution,
        who: String,
        why: String,
        now: Moment,
    ) -> Result<(), LedgerError> {
        let (by, reason) = (By::Operator, why.clone());
        let (to, body) = match resolution {
            Resolution::Settled { tx } => (
                State::Settled,
                Body::Settled(Settled {
                    by,
                    rid,
                    tx,
                    why: Some(reason),
                }),
            ),
            Resolution::Expired => (
                State::Expired,
                Body::Expired(Expired {
                    by,
                    rid,
                    why: reason,
                }),
            ),
        };
        self.lawful(rid, self.state(rid)?, to)?;
        // The order matters: of a torn pair only the first line can survive, and that one moves no money.
        let action = Admin {
            action: format!("payments.resolve.{to}"),
            rid: Some(rid),
            who,
            why,
        };
        self.record(now, Body::Admin(action))
            .map_err(LedgerError::Failed)?;
        self.record(now, body)
            .map(|_| ())
            .map_err(LedgerError::Failed)
    }

    fn state(&self, rid: Rid) -> Result<State, LedgerError> {
        self.book()
            .open_payment(&rid)
            .map(|payment| payment.state)
            .ok_or(LedgerError::NotOpen(rid))
    }

    fn lawful(&self, rid: Rid, from: State, to: State) -> Result<(), LedgerError> {
        if from.may_become(to) {
            Ok(())
        } else {
            Err(LedgerError::Unlawful { rid, from, to })
        }
    }

    fn usage(&self, scopes: &[String]) -> Vec<Usage> {
        let mut usage = Vec::new();
        for scope in scopes {
            for (window, start, Counter { settled, open }) in self.book().counters_of(scope) {
                let (scope, window, start) = (scope.clone(), window.to_owned(), start.to_owned());
                usage.push(Usage {
                    scope,
                    window,
                    start,
                    settled,
                    open,
                });
            }
        }
        usage
    }

    fn commit(&mut self) -> Result<(), CommitError> {
        if !self.disclosures.is_empty() {
            // Before the entries, so that a reader who sees an entry also finds its path.
            let disclosures = std::mem::take(&mut self.disclosures);
            if let Err(error) = self
                .private
                .write(self.opening.journal.segment(), disclosures)
            {
                tracing::warn!(%error, "paths of payments are missing in private/");
            }
        }
        self.journal().commit()
    }

    fn answer(&self, answer: Answer) {
        // A caller that has gone away does not hear its answer. Only a reservation must not be lost with it: its
        // `Delivery` reports itself when it is dropped.
        match answer {
            Answer::Reserve(reply, result) => {
                let delivery = |reservation| Delivery {
                    reservation: Some(reservation),
                    shared: self.shared.clone(),
                    wake: self.wake.clone(),
                };
                let _ = reply.send(result.map(delivery));
            }
            Answer::Done(reply, result) => {
                let _ = reply.send(result);
            }
            Answer::Find(_, reply, Some(payment)) => {
                let _ = reply.send(Found::Open(payment));
            }
            Answer::Find(rid, reply, None) => {
                let (sender, receiver) = oneshot::channel();
                let sent = self
                    .index
                    .as_ref()
                    .is_some_and(|index| index.send(Feed::Find(rid, sender)).is_ok());
                let _ = reply.send(Found::Elsewhere(sent.then_some(receiver)));
            }
            Answer::Usage(reply, usage) => {
                let _ = reply.send(Ok(usage));
            }
            Answer::OpenItems(reply, items) => {
                let _ = reply.send(Ok(items));
            }
        }
    }

    /// After the answers: what nobody waits for.
    fn follow_up(&mut self) {
        let effects = std::mem::take(&mut self.effects);
        let chain = self.opening.journal.chain();
        if let Some(index) = &self.index
            && !effects.is_empty()
            && index
                .send(Feed::Applied(Applied { effects, chain }))
                .is_err()
        {
            self.index = None;
        }
        // Its failure poisons the journal and is reported by the next operation.
        let _ = self.journal().fill_ahead();
    }

    /// A clean stop: nothing waits any more, and the files are as short as their entries.
    fn close(&mut self) {
        let now = Moment::of(self.clock.now());
        let all = self
            .shared
            .refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .all();
        let closed = self
            .journal()
            .begin(now.timestamp())
            .and_then(|()| self.leftovers(now))
            .and_then(|()| self.record_refusals(now, all))
            .and_then(|()| {
                self.record(now, Body::Closed(Closed {}))
                    .map(|_| ())
                    .map_err(CommitError::Failed)
            })
            .and_then(|()| self.commit())
            .and_then(|()| self.journal().trim());
        match closed {
            Ok(()) => self.follow_up_without_fill(),
            Err(error) => {
                tracing::error!(%error, dir = %self.dir.display(), "the ledger did not close cleanly")
            }
        }
        self.index = None;
        if let Some(thread) = self.index_thread.take() {
            // A panic there is the index's own affair; the next start repairs it.
            let _ = thread.join();
        }
        if let Err(error) = self.opening.lock.unlock() {
            tracing::warn!(%error, "the ledger's lock is released at the end of the process");
        }
    }

    fn follow_up_without_fill(&mut self) {
        let (effects, chain) = (
            std::mem::take(&mut self.effects),
            self.opening.journal.chain(),
        );
        if let Some(index) = &self.index {
            // Without its thread the index is behind, and the next start replays.
            let _ = index.send(Feed::Applied(Applied { effects, chain }));
        }
    }
}

impl Answer {
    fn fail(self, why: &str) {
        let failed = || LedgerError::Failed(why.to_owned());
        // As in `Writer::answer`: who has gone away hears nothing.
        match self {
            Self::Reserve(reply, _) => drop(reply.send(Err(ReserveError::Failed(why.to_owned())))),
            Self::Done(reply, _) => drop(reply.send(Err(failed()))),
            Self::Find(_, reply, _) => drop(reply.send(Found::Failed(failed()))),
            Self::Usage(reply, _) => drop(reply.send(Err(failed()))),
            Self::OpenItems(reply, _) => drop(reply.send(Err(failed()))),
        }
    }
}

/// Free space where the journal lies (digest §1.2, rule 8).
struct Space {
    dir: PathBuf,
    min_free_bytes: u64,
    checked: Option<(Instant, bool)>,
}

impl Space {
    fn is_low(&mut self) -> bool {
        match self.checked {
            Some((at, is_low)) if at.elapsed() < SPACE_CHECKED_EVERY => is_low,
            _ => {
                let free = rustix::fs::statvfs(&self.dir)
                    .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
                // Not to know is to doubt, and a doubt refuses.
                let is_low = free.map_or(true, |free| free < self.min_free_bytes);
                self.checked = Some((Instant::now(), is_low));
                is_low
            }
        }
    }
}

fn disclosures(reserve: &Reserve) -> Result<Vec<Disclosure>, ReserveError> {
    let named = [
        ("path", Some(reserve.path.as_str())),
        ("query", reserve.query.as_deref()),
    ];
    let mut disclosures = Vec::with_capacity(named.len());
    for (name, value) in named {
        if let Some(value) = value {
            let salt = random()
                .map_err(|error| ReserveError::Failed(format!("no random numbers: {error}")))?;
            disclosures.push(Disclosure::new(salt, name, value));
        }
    }
    Ok(disclosures)
}

fn reserved(reserve: Reserve, disclosures: &[Disclosure]) -> Body {
    let mut sd: Vec<String> = disclosures.iter().map(Disclosure::digest).collect();
    sd.sort_unstable();
    let windows = reserve.charges.iter().map(|charge| {
        let (scope, window, start) = (
            charge.scope.to_string(),
            charge.window_name().to_owned(),
            charge.start.to_string(),
        );
        WindowCharge(
            scope,
            window,
            start,
            Decimal(charge.amount),
            Decimal(charge.cap),
        )
    });
    let terms = &reserve.terms;
    Body::Reserved(Arc::new(Reserved {
        amount: Decimal(terms.amount.get()),
        arm: Some((&reserve.arm).into()),
        asset: terms.asset.caip19(),
        decimals: terms.asset.decimals,
        fp: Digest(reserve.fingerprint),
        idem: reserve.idempotency.map(Digest),
        network: terms.asset.network.to_string(),
        offer_sha256: Digest(reserve.offer_sha256),
        payee: terms.payee,
        policy_gen: reserve.policy_gen,
        rail: terms.rail.to_string(),
        rid: reserve.rid,
        scheme: terms.scheme.to_owned(),
        sd,
        symbol: terms.asset.symbol.to_owned(),
        usd_micros: Decimal(terms.usd.get()),
        windows: windows.collect(),
        agent: reserve.agent,
        group: reserve.group,
        host: reserve.host,
    }))
}

fn denied(denial: Denial, count: u64) -> Body {
    let Denial {
        agent,
        group,
        host,
        reason,
        rule,
        asked,
    } = denial;
    let usd_micros = asked.map(|usd| Decimal(usd.get()));
    Body::Denied(Denied {
        agent,
        count,
        group,
        host,
        reason,
        rule,
        usd_micros,
    })
}

fn event_body(event: Event) -> Body {
    match event {
        Event::PolicyLoaded {
            generation,
            sha256,
            who,
        } => Body::PolicyLoaded(PolicyLoaded {
            policy_gen: generation,
            sha256: Digest(sha256),
            who,
        }),
        Event::PolicyRejected {
            sha256,
            reason,
            who,
        } => Body::PolicyRejected(PolicyRejected {
            reason,
            sha256: Digest(sha256),
            who,
        }),
        Event::AdminAction { action, who, why } => Body::Admin(Admin {
            action,
            rid: None,
            who,
            why,
        }),
    }
}

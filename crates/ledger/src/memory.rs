//! A ledger that is gone when it is dropped: the same book and the same decisions as the others, without a disk.
//!
//! For tests, which compare the durable engines with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::book::Book;
use super::decisions::{self, Decisions};
use super::disclosure::Disclosure;
use super::entry::{Body, Entry};
use super::key::KeyHold;
use super::model::{
    Alarm, Alarms, ApprovalStep, Approvals, Arming, Event, Hold, Issued, LedgerError, Outcome, RefusalRecord,
    Reservation, Reserve, ReserveError, Resolution,
};
use super::pauses::{Pause, Paused};
use super::payment::{Finding, Payment};
use super::standing::Seen;
use super::text::Moment;
use super::timekeeping::Timekeeper;
use super::{Ledger, LedgerFuture, Spending, Usage};
use bursar_core::clock::SharedClock;
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::PauseScope;

#[derive(Clone)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    time: Arc<Timekeeper>,
}

struct State {
    book: Book,
    payments: HashMap<PaymentId, Payment>,
    entries: u64,
    is_closed: bool,
    time: Arc<Timekeeper>,
    alarms: Alarms,
}

impl Memory {
    pub fn new(clock: SharedClock, alarms: Alarms) -> Self {
        let time = Arc::new(Timekeeper::new(clock, None));
        let state = State {
            book: Book::default(),
            payments: HashMap::new(),
            entries: 0,
            is_closed: false,
            time: time.clone(),
            alarms,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            time,
        }
    }

    /// Nothing happens until the future is polled, and then everything at once: there is no point at which it can be
    /// half done.
    fn answer<'a, T>(&'a self, act: impl FnOnce(&mut State, Moment) -> T + Send + 'a) -> LedgerFuture<'a, T> {
        Box::pin(async move {
            let now = Moment::of(self.time.read().now);
            act(&mut self.state(), now)
        })
    }

    fn look<'a, T>(&'a self, look: impl FnOnce(&State) -> T + Send + 'a) -> LedgerFuture<'a, Result<T, LedgerError>> {
        self.answer(move |state, _| state.is_open().map(|()| look(state)).map_err(LedgerError::Failed))
    }

    // If the lock is poisoned, the test has failed already.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for Memory {
    fn reserve(&self, reserve: Reserve) -> LedgerFuture<'_, Result<Reservation, ReserveError>> {
        self.answer(move |state, now| Decisions::reserve(state, reserve, now))
    }

    fn hold(&self, hold: Hold) -> LedgerFuture<'_, Result<(), ReserveError>> {
        self.answer(move |state, now| Decisions::hold(state, hold, now).map(|_| ()))
    }

    fn arm(&self, rid: PaymentId, arming: Arming) -> LedgerFuture<'_, Result<Reservation, ReserveError>> {
        self.answer(move |state, now| Decisions::arm(state, rid, arming, now))
    }

    fn issued(&self, reservation: Reservation, issued: Issued) -> LedgerFuture<'_, Result<Reservation, LedgerError>> {
        self.answer(move |state, now| {
            Decisions::issued(state, reservation.rid(), &issued, now)?;
            Ok(reservation.with(&issued))
        })
    }

    fn approval(&self, step: ApprovalStep) -> LedgerFuture<'_, Result<(), LedgerError>> {
        self.answer(move |state, now| Decisions::approval(state, step, now))
    }

    fn approvals(&self) -> LedgerFuture<'_, Result<Approvals, LedgerError>> {
        self.answer(|state, now| {
            let known_at = state.is_open().map(|()| state.book.approvals().known_at(now));
            known_at.map_err(LedgerError::Failed)
        })
    }

    fn finish(&self, rid: PaymentId, outcome: Outcome) -> LedgerFuture<'_, Result<(), LedgerError>> {
        self.answer(move |state, now| Decisions::finish(state, rid, outcome, now))
    }

    fn resolve(
        &self,
        rid: PaymentId,
        resolution: Resolution,
        who: String,
        why: String,
    ) -> LedgerFuture<'_, Result<(), LedgerError>> {
        self.answer(move |state, now| Decisions::resolve(state, rid, resolution, who, why, now))
    }

    fn record_finding(&self, rid: PaymentId, finding: Finding) -> LedgerFuture<'_, Result<(), LedgerError>> {
        self.answer(move |state, now| Decisions::record_finding(state, rid, finding, now))
    }

    fn append(&self, event: Event) -> LedgerFuture<'_, Result<(), LedgerError>> {
        self.answer(move |state, now| Decisions::append(state, event, now))
    }

    fn pause(&self, scope: PauseScope, who: String, why: String) -> LedgerFuture<'_, Paused> {
        self.answer(move |state, now| {
            let earlier = state.book.pauses().of(&scope).cloned();
            let is_new = earlier.is_none();
            let pause = earlier.unwrap_or(Pause {
                scope,
                since: now,
                who,
                why,
            });
            let recorded = match is_new {
                true => state.record(now, decisions::pause_set(pause.clone())).map(|_| ()),
                false => Ok(()),
            };
            Paused {
                pause,
                is_new,
                unrecorded: recorded.err(),
            }
        })
    }

    fn resume(
        &self,
        scope: PauseScope,
        who: String,
        why: String,
    ) -> LedgerFuture<'_, Result<Option<Pause>, LedgerError>> {
        self.answer(move |state, now| Decisions::resume(state, scope, who, why, now))
    }

    fn pauses(&self) -> Vec<(Pause, bool)> {
        let mut all: Vec<_> = self
            .state()
            .book
            .pauses()
            .all()
            .map(|pause| (pause.clone(), true))
            .collect();
        all.sort_by_key(|(pause, _)| pause.since);
        all
    }

    fn pause_on(&self, agent: &str, group: Option<&str>, host: &str) -> Option<Pause> {
        self.state().book.pauses().on(agent, group, host).cloned()
    }

    fn refused(&self, denial: RefusalRecord) {
        let now = Moment::of(self.time.read().now);
        // Failing to record a refusal changes nothing for any payment.
        let _ = self.state().record(now, decisions::refused(denial, 1));
    }

    fn get(&self, rid: PaymentId) -> LedgerFuture<'_, Result<Option<Payment>, LedgerError>> {
        self.look(move |state| state.payments.get(&rid).cloned())
    }

    fn spending(&self, scopes: &[&str]) -> LedgerFuture<'_, Result<Spending, LedgerError>> {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.look(move |state| state.book.spending().of_scopes(&scopes))
    }

    fn usage(&self, scopes: &[&str]) -> LedgerFuture<'_, Result<Vec<Usage>, LedgerError>> {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.look(move |state| Decisions::usage(state, &scopes))
    }

    fn standing(&self, scopes: &[&str]) -> LedgerFuture<'_, Result<Seen, LedgerError>> {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.look(move |state| {
            let spending = state.book.spending().of_scopes(&scopes);
            Seen::of(
                spending,
                state.book.open_payments(),
                &scopes,
                state.entries.checked_sub(1),
            )
        })
    }

    fn open_items(&self) -> LedgerFuture<'_, Result<Vec<Payment>, LedgerError>> {
        self.look(|state| state.book.open_payments().cloned().collect())
    }

    fn unconfirmed(&self) -> LedgerFuture<'_, Result<Vec<PaymentId>, LedgerError>> {
        self.look(|state| state.book.unconfirmed().collect())
    }

    fn keys(&self) -> LedgerFuture<'_, Result<Vec<KeyHold>, LedgerError>> {
        self.look(|state| state.book.keys().copied().collect())
    }

    fn now(&self) -> Timestamp {
        self.time.for_windows()
    }

    fn close(&self) -> LedgerFuture<'_, ()> {
        self.answer(|state, _| state.is_closed = true)
    }
}

impl State {
    fn is_open(&self) -> Result<(), String> {
        if self.is_closed {
            return Err("the ledger has stopped".to_owned());
        }
        Ok(())
    }
}

impl Decisions for State {
    fn book(&self) -> &Book {
        &self.book
    }

    fn time(&self) -> &Timekeeper {
        &self.time
    }

    fn record(&mut self, now: Moment, body: Body) -> Result<u64, String> {
        self.is_open()?;
        let seq = self.entries;
        let entry = Entry { seq, ts: now, body };
        let effect = self.book.apply(&entry).map_err(|illegal| illegal.to_string())?;
        self.entries += 1;
        self.time.saw(now.timestamp());
        if let Some(payment) = effect.payment {
            self.payments.insert(payment.rid(), payment);
        }
        if let Some((rid, amendment)) = effect.amended
            && let Some(payment) = self.payments.get_mut(&rid)
        {
            amendment.apply(payment);
        }
        Ok(seq)
    }

    fn disclose(&mut self, _: u64, _: Vec<Disclosure>) {}

    fn may_reserve(&mut self) -> Result<(), ReserveError> {
        self.is_open().map_err(ReserveError::Failed)?;
        match self.time.read().ahead {
            Some(ahead) => Err(ReserveError::ClockJumped {
                ahead_s: decisions::seconds(ahead),
            }),
            None => Ok(()),
        }
    }

    fn raise(&self, alarm: Alarm) {
        (self.alarms)(alarm);
    }
}

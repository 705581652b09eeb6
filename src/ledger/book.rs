//! The book: what counts against which limit, which payments are open, which nonces are taken.
//!
//! Pure and in memory. The live writer and every replay feed it the same entries through [`Book::apply`], so what the
//! running ledger believes and what the journal says cannot differ.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use thiserror::Error;

use super::entry::{Body, Entry, Reserved, WindowCharge};
use super::key::{KeyChange, KeyHold, Keys};
use super::model::{Reserve, ReserveError, State};
use super::payment::{NonceKey, Payment};
use super::rid::Rid;
use super::text::Moment;

/// Newest windows kept per scope and window name. Older ones count nothing any more; a charge for one of them means that
/// the clock went back, and is refused rather than counted from zero.
const WINDOWS_KEPT: usize = 64;

/// One window's counter, in the budget's unit (micro-USD, or payments).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub settled: u128,
    /// Held, armed and unknown: may still leave, so it counts in full.
    pub open: u128,
}

/// A counter's name: scope, window name, start.
pub type CounterKey = (String, String, String);

/// Why an entry cannot follow the ones before it. From the live writer that is a bug, from a file it is damage.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Illegal {
    #[error("payment {0} is reserved a second time")]
    ReservedTwice(Rid),
    #[error("the nonce of payment {0} was used before")]
    NonceTwice(Rid),
    #[error("payment {0} is not open")]
    NotOpen(Rid),
    #[error("payment {rid} is {from} and cannot become {to}")]
    Unlawful { rid: Rid, from: State, to: State },
    #[error("a counter of payment {0} does not fit 128 bits")]
    Overflow(Rid),
}

/// What one entry changed, for the index: absolute values, so applying them twice does no harm.
#[derive(Debug, Default)]
pub struct Effect {
    /// The payment and the counters of its windows, in its order.
    pub payment: Option<(Payment, Vec<Counter>)>,
    pub dropped: Vec<CounterKey>,
    pub faded: Vec<(u64, NonceKey)>,
    pub keys: Vec<(KeyHold, KeyChange)>,
}

type Starts = BTreeMap<String, Counter>;
type Windows = BTreeMap<String, Starts>;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Book {
    counters: HashMap<String, Windows>,
    open: BTreeMap<Rid, Payment>,
    taken: HashSet<NonceKey>,
    /// Nonces of finished payments by the second in which they are free again.
    fading: BTreeSet<(u64, NonceKey)>,
    keys: Keys,
}

impl Book {
    /// Decides a reservation. `Ok` says that [`Book::apply`] of its entry will succeed and keep every cap.
    pub fn admits(&self, reserve: &Reserve, now: Moment) -> Result<(), ReserveError> {
        if self.open.contains_key(&reserve.rid) {
            return Err(ReserveError::RidTaken);
        }
        let asset = reserve.terms.asset.caip19();
        if self
            .taken
            .contains(&NonceKey::of(&asset, &reserve.arm.from, &reserve.arm.nonce))
        {
            return Err(ReserveError::NonceTaken);
        }
        if let Some(idem) = &reserve.idempotency
            && let Some(hold) = self.keys.holder(idem, second(now))
        {
            return Err(ReserveError::KeyTaken(hold.rid));
        }
        for (index, charge) in reserve.charges.iter().enumerate() {
            let (scope, window, start) = (&*charge.scope, charge.window_name(), &*charge.start);
            if self.is_closed(scope, window, start) {
                return Err(ReserveError::WindowClosed { charge: index });
            }
            // Two charges on one counter count together.
            let before = reserve.charges[..index]
                .iter()
                .filter(|other| *other.scope == *scope && other.window_name() == window && *other.start == *start)
                .try_fold(0u128, |sum, other| sum.checked_add(other.amount))
                .ok_or(ReserveError::Overflow)?;
            let Counter { settled, open } = self.counter(scope, window, start);
            let counted = [open, before, charge.amount]
                .into_iter()
                .try_fold(settled, u128::checked_add)
                .ok_or(ReserveError::Overflow)?;
            if counted > charge.cap {
                return Err(ReserveError::Denied {
                    charge: index,
                    settled,
                    open,
                });
            }
        }
        Ok(())
    }

    /// Takes an entry in. On error nothing has changed.
    pub fn apply(&mut self, entry: &Entry) -> Result<Effect, Illegal> {
        let mut effect = Effect::default();
        match &entry.body {
            Body::Reserved(reserved) => self.reserve(reserved, entry.ts, &mut effect)?,
            Body::Armed(armed) => self.move_to(armed.rid, State::Armed, entry.ts, &mut effect, |payment| {
                payment.arm = Some(armed.arm);
                payment.approval = armed.approval.clone();
            })?,
            Body::Settled(settled) => self.move_to(settled.rid, State::Settled, entry.ts, &mut effect, |payment| {
                payment.by = Some(settled.by);
                payment.tx = settled.tx.clone();
                payment.reason = settled.why.clone();
            })?,
            Body::Unknown(unknown) => self.move_to(unknown.rid, State::Unknown, entry.ts, &mut effect, |payment| {
                payment.reason = Some(unknown.why.clone());
                payment.tx = unknown.tx.clone();
            })?,
            Body::Released(released) => {
                self.move_to(released.rid, State::Released, entry.ts, &mut effect, |payment| {
                    payment.reason = Some(released.why.clone());
                })?
            }
            Body::Expired(expired) => self.move_to(expired.rid, State::Expired, entry.ts, &mut effect, |payment| {
                payment.by = Some(expired.by);
                payment.reason = Some(expired.why.clone());
            })?,
            Body::Opened(_) | Body::Closed(_) | Body::PolicyLoaded(_) | Body::PolicyRejected(_) => {}
            Body::Presented(_) | Body::Denied(_) | Body::Admin(_) | Body::Rebuilt(_) => {}
        }
        self.fade(entry.ts, &mut effect);
        Ok(effect)
    }

    /// Puts back what the index kept.
    pub fn restore_counter(&mut self, (scope, window, start): CounterKey, counter: Counter) {
        self.counters
            .entry(scope)
            .or_default()
            .entry(window)
            .or_default()
            .insert(start, counter);
    }

    /// As [`Book::restore_counter`].
    pub fn restore_open(&mut self, payment: Payment) {
        self.taken.extend(payment.nonce_key());
        self.open.insert(payment.rid(), payment);
    }

    /// As [`Book::restore_counter`].
    pub fn restore_nonce(&mut self, free_at: u64, key: NonceKey) {
        self.taken.insert(key);
        self.fading.insert((free_at, key));
    }

    /// As [`Book::restore_counter`].
    pub fn restore_key(&mut self, hold: KeyHold) {
        self.keys.hold(hold);
    }

    pub fn keys(&self) -> impl Iterator<Item = &KeyHold> {
        self.keys.all()
    }

    pub fn open_payment(&self, rid: &Rid) -> Option<&Payment> {
        self.open.get(rid)
    }

    /// Open payments, oldest first.
    pub fn open_payments(&self) -> impl Iterator<Item = &Payment> {
        self.open.values()
    }

    pub fn counter(&self, scope: &str, window: &str, start: &str) -> Counter {
        self.starts(scope, window)
            .and_then(|starts| starts.get(start))
            .copied()
            .unwrap_or_default()
    }

    /// All counters of a scope: window name, start, counter.
    pub fn counters_of(&self, scope: &str) -> impl Iterator<Item = (&str, &str, Counter)> {
        self.counters
            .get(scope)
            .into_iter()
            .flatten()
            .flat_map(|(window, starts)| {
                starts
                    .iter()
                    .map(move |(start, counter)| (window.as_str(), start.as_str(), *counter))
            })
    }

    fn starts(&self, scope: &str, window: &str) -> Option<&Starts> {
        self.counters.get(scope)?.get(window)
    }

    fn is_closed(&self, scope: &str, window: &str, start: &str) -> bool {
        self.starts(scope, window).is_some_and(|starts| {
            starts.len() >= WINDOWS_KEPT
                && starts
                    .first_key_value()
                    .is_some_and(|(oldest, _)| start < oldest.as_str())
        })
    }

    fn reserve(&mut self, reserved: &Arc<Reserved>, ts: Moment, effect: &mut Effect) -> Result<(), Illegal> {
        let rid = reserved.rid;
        if self.open.contains_key(&rid) {
            return Err(Illegal::ReservedTwice(rid));
        }
        let payment = Payment {
            reserved: reserved.clone(),
            arm: reserved.arm,
            state: if reserved.arm.is_some() {
                State::Armed
            } else {
                State::Held
            },
            by: None,
            tx: None,
            reason: None,
            approval: None,
            created_at: ts,
            updated_at: ts,
        };
        let nonce = payment.nonce_key();
        if nonce.is_some_and(|key| self.taken.contains(&key)) {
            return Err(Illegal::NonceTwice(rid));
        }
        self.count(reserved, |counter, amount| {
            counter.open = counter.open.checked_add(amount)?;
            counter.settled.checked_add(counter.open).map(|_| ())
        })?;
        for charge in &reserved.windows {
            self.drop_oldest(charge, &mut effect.dropped);
        }
        self.taken.extend(nonce);
        if let Some(hold) = payment.key_hold() {
            self.keys.hold(hold);
            effect.keys.push((hold, KeyChange::Held));
        }
        self.open.insert(rid, payment.clone());
        effect.payment = Some((payment, self.counters_for(reserved)));
        Ok(())
    }

    fn move_to(
        &mut self,
        rid: Rid,
        to: State,
        ts: Moment,
        effect: &mut Effect,
        change: impl FnOnce(&mut Payment),
    ) -> Result<(), Illegal> {
        let mut payment = self.open.get(&rid).cloned().ok_or(Illegal::NotOpen(rid))?;
        if !payment.state.may_become(to) {
            return Err(Illegal::Unlawful {
                rid,
                from: payment.state,
                to,
            });
        }
        let had_nonce = payment.arm.is_some();
        change(&mut payment);
        payment.state = to;
        payment.updated_at = ts;
        if !had_nonce && payment.nonce_key().is_some_and(|key| !self.taken.insert(key)) {
            return Err(Illegal::NonceTwice(rid));
        }
        let reserved = payment.reserved.clone();
        if to.is_final() {
            self.count(&reserved, |counter, amount| {
                counter.open = counter.open.checked_sub(amount)?;
                if to == State::Settled {
                    counter.settled = counter.settled.checked_add(amount)?;
                }
                Some(())
            })?;
            self.open.remove(&rid);
            // Proven dead: the agent may buy under this key again (Ruling 6).
            if to != State::Settled
                && let Some(hold) = payment.key_hold()
            {
                self.keys.free(&hold);
                effect.keys.push((hold, KeyChange::Free));
            }
            self.fading
                .extend(payment.nonce_key().map(|key| (payment.nonce_free_at(), key)));
        } else {
            self.open.insert(rid, payment.clone());
        }
        effect.payment = Some((payment, self.counters_for(&reserved)));
        Ok(())
    }

    /// Changes every counter that a payment is charged to, or none.
    fn count(&mut self, reserved: &Reserved, change: impl Fn(&mut Counter, u128) -> Option<()>) -> Result<(), Illegal> {
        let mut undo = Vec::with_capacity(reserved.windows.len());
        for charge in &reserved.windows {
            let counter = counter_mut(&mut self.counters, charge);
            let before = *counter;
            if change(counter, charge.amount()).is_none() {
                *counter = before;
                for (charge, before) in undo.into_iter().rev() {
                    *counter_mut(&mut self.counters, charge) = before;
                }
                return Err(Illegal::Overflow(reserved.rid));
            }
            undo.push((charge, before));
        }
        Ok(())
    }

    fn counters_for(&self, reserved: &Reserved) -> Vec<Counter> {
        let counter = |charge: &WindowCharge| self.counter(charge.scope(), charge.window(), charge.start());
        reserved.windows.iter().map(counter).collect()
    }

    /// Forgets the oldest window of a charge's kind when there are too many, unless money in it is still open.
    fn drop_oldest(&mut self, charge: &WindowCharge, dropped: &mut Vec<CounterKey>) {
        let Some(starts) = self
            .counters
            .get_mut(charge.scope())
            .and_then(|windows| windows.get_mut(charge.window()))
        else {
            return;
        };
        while starts.len() > WINDOWS_KEPT
            && let Some(oldest) = starts.first_entry()
            && oldest.get().open == 0
        {
            let start = oldest.remove_entry().0;
            dropped.push((charge.0.clone(), charge.1.clone(), start));
        }
    }

    fn fade(&mut self, ts: Moment, effect: &mut Effect) {
        let now = second(ts);
        let faded = self.keys.fade(now);
        effect
            .keys
            .extend(faded.into_iter().map(|hold| (hold, KeyChange::Free)));
        while let Some(&(free_at, key)) = self.fading.first()
            && free_at < now
        {
            self.fading.pop_first();
            self.taken.remove(&key);
            effect.faded.push((free_at, key));
        }
    }
}

fn second(ts: Moment) -> u64 {
    u64::try_from(ts.timestamp().as_second()).unwrap_or(0)
}

fn counter_mut<'a>(counters: &'a mut HashMap<String, Windows>, charge: &WindowCharge) -> &'a mut Counter {
    let windows = counters.entry(charge.0.clone()).or_default();
    windows
        .entry(charge.1.clone())
        .or_default()
        .entry(charge.2.clone())
        .or_default()
}

#[cfg(test)]
mod tests;

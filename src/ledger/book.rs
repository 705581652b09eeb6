//! The book: what counts against which limit, which payments are open, which nonces are taken.
//!
//! Pure and in memory. The live writer and every replay feed it the same entries through [`Book::apply`], so what the
//! running ledger believes and what the journal says cannot differ.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::entry::{Arm, Body, Entry, Reserved, WindowCharge};
use super::model::{By, Reserve, ReserveError, State};
use super::rid::Rid;
use super::text::Moment;

/// A finished payment's nonce stays taken this long after its deadline and its end, in seconds: an MPP challenge, whose id
/// decides the nonce (Ruling 18), does not live longer. Random x402 nonces do not repeat at all.
const NONCE_KEPT_S: u64 = 24 * 60 * 60;

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

/// One reservation as the journal tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    #[serde(serialize_with = "shared", deserialize_with = "unshared")]
    pub reserved: Arc<Reserved>,
    pub arm: Option<Arm>,
    pub state: State,
    /// Who said so, once settled or expired.
    pub by: Option<By>,
    pub tx: Option<String>,
    /// Why it is unknown, released, expired, or settled by hand.
    pub reason: Option<String>,
    pub approval: Option<String>,
    pub created_at: Moment,
    pub updated_at: Moment,
}

/// A nonce in its asset's name space: SHA-256 over network, asset, payer and nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NonceKey(pub [u8; 32]);

impl NonceKey {
    fn of(asset: &str, from: &Address, nonce: &B256) -> Self {
        let mut hash = Sha256::new();
        // A CAIP-19 id begins with its network and has no zero byte.
        hash.update(asset.as_bytes());
        hash.update([0]);
        hash.update(from);
        hash.update(nonce);
        Self(hash.finalize().into())
    }
}

impl Payment {
    pub fn rid(&self) -> Rid {
        self.reserved.rid
    }

    pub fn nonce_key(&self) -> Option<NonceKey> {
        let arm = self.arm.as_ref()?;
        Some(NonceKey::of(&self.reserved.asset, &arm.from, &arm.nonce))
    }

    /// Unix second from which the nonce of a finished payment is free again.
    pub fn nonce_free_at(&self) -> u64 {
        let deadline = self.arm.map_or(0, |arm| arm.valid_before.0);
        let end = u64::try_from(self.updated_at.timestamp().as_second()).unwrap_or(0);
        deadline.max(end).saturating_add(NONCE_KEPT_S)
    }
}

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
}

type Starts = BTreeMap<String, Counter>;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Book {
    counters: HashMap<String, HashMap<String, Starts>>,
    open: BTreeMap<Rid, Payment>,
    taken: HashSet<NonceKey>,
    /// Nonces of finished payments by the second in which they are free again.
    fading: BTreeSet<(u64, NonceKey)>,
}

impl Book {
    /// Decides a reservation. `Ok` says that [`Book::apply`] of its entry will succeed and keep every cap.
    pub fn admits(&self, reserve: &Reserve) -> Result<(), ReserveError> {
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
        for (index, charge) in reserve.charges.iter().enumerate() {
            let (scope, window, start) = (&*charge.scope, charge.window_name(), &*charge.start);
            if self.is_closed(scope, window, start) {
                return Err(ReserveError::WindowClosed { charge: index });
            }
            // Two charges on one counter count together.
            let before = reserve.charges[..index]
                .iter()
                .filter(|other| {
                    *other.scope == *scope
                        && other.window_name() == window
                        && *other.start == *start
                })
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
            Body::Armed(armed) => {
                self.move_to(armed.rid, State::Armed, entry.ts, &mut effect, |payment| {
                    payment.arm = Some(armed.arm);
                    payment.approval = armed.approval.clone();
                })?
            }
            Body::Settled(settled) => self.move_to(
                settled.rid,
                State::Settled,
                entry.ts,
                &mut effect,
                |payment| {
                    payment.by = Some(settled.by);
                    payment.tx = settled.tx.clone();
                    payment.reason = settled.why.clone();
                },
            )?,
            Body::Unknown(unknown) => self.move_to(
                unknown.rid,
                State::Unknown,
                entry.ts,
                &mut effect,
                |payment| {
                    payment.reason = Some(unknown.why.clone());
                },
            )?,
            Body::Released(released) => self.move_to(
                released.rid,
                State::Released,
                entry.ts,
                &mut effect,
                |payment| {
                    payment.reason = Some(released.why.clone());
                },
            )?,
            Body::Expired(expired) => self.move_to(
                expired.rid,
                State::Expired,
                entry.ts,
                &mut effect,
                |payment| {
                    payment.by = Some(expired.by);
                    payment.reason = Some(expired.why.clone());
                },
            )?,
            Body::Opened(_) | Body::Closed(_) | Body::PolicyLoaded(_) | Body::PolicyRejected(_) => {
            }
            Body::Denied(_) | Body::Admin(_) | Body::Rebuilt(_) => {}
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

    fn reserve(
        &mut self,
        reserved: &Arc<Reserved>,
        ts: Moment,
        effect: &mut Effect,
    ) -> Result<(), Illegal> {
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
        if !had_nonce
            && payment
                .nonce_key()
                .is_some_and(|key| !self.taken.insert(key))
        {
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
            self.fading.extend(
                payment
                    .nonce_key()
                    .map(|key| (payment.nonce_free_at(), key)),
            );
        } else {
            self.open.insert(rid, payment.clone());
        }
        effect.payment = Some((payment, self.counters_for(&reserved)));
        Ok(())
    }

    /// Changes every counter that a payment is charged to, or none.
    fn count(
        &mut self,
        reserved: &Reserved,
        change: impl Fn(&mut Counter, u128) -> Option<()>,
    ) -> Result<(), Illegal> {
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
        let counter =
            |charge: &WindowCharge| self.counter(charge.scope(), charge.window(), charge.start());
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
        let now = u64::try_from(ts.timestamp().as_second()).unwrap_or(0);
        while let Some(&(free_at, key)) = self.fading.first()
            && free_at < now
        {
            self.fading.pop_first();
            self.taken.remove(&key);
            effect.faded.push((free_at, key));
        }
    }
}

fn counter_mut<'a>(
    counters: &'a mut HashMap<String, HashMap<String, Starts>>,
    charge: &WindowCharge,
) -> &'a mut Counter {
    let windows = counters.entry(charge.0.clone()).or_default();
    windows
        .entry(charge.1.clone())
        .or_default()
        .entry(charge.2.clone())
        .or_default()
}

fn shared<S: Serializer>(reserved: &Arc<Reserved>, serializer: S) -> Result<S::Ok, S::Error> {
    reserved.as_ref().serialize(serializer)
}

fn unshared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Reserved>, D::Error> {
    Reserved::deserialize(deserializer).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::entry::{Expired, Released, Settled, Unknown};
    use crate::ledger::text::{Decimal, Digest};

    fn ts(second: i64) -> Moment {
        Moment::of(jiff::Timestamp::from_second(1_795_161_600 + second).unwrap())
    }

    fn rid(n: u8) -> Rid {
        Rid::new(
            jiff::Timestamp::from_second(1_795_161_600).unwrap(),
            [n; 10],
        )
    }

    fn reserved(n: u8, armed: bool, windows: Vec<WindowCharge>) -> Reserved {
        let arm = Arm {
            from: Address::ZERO,
            nonce: B256::repeat_byte(n),
            valid_after: Decimal(0),
            valid_before: Decimal(1_795_161_900),
        };
        Reserved {
            agent: "a".into(),
            amount: Decimal(1),
            arm: armed.then_some(arm),
            asset: "eip155:1/erc20:0x".into(),
            decimals: 6,
            fp: Digest::ZERO,
            group: None,
            host: "h".into(),
            idem: None,
            network: "eip155:1".into(),
            offer_sha256: Digest::ZERO,
            payee: Address::ZERO,
            policy_gen: 1,
            rail: "x402".into(),
            rid: rid(n),
            scheme: "exact".into(),
            sd: vec![],
            symbol: "USDC".into(),
            usd_micros: Decimal(1),
            windows,
        }
    }

    fn charge(scope: &str, start: &str, amount: u128) -> WindowCharge {
        WindowCharge(
            scope.into(),
            "day".into(),
            start.into(),
            Decimal(amount),
            Decimal(100),
        )
    }

    fn apply(book: &mut Book, second: i64, body: Body) -> Result<Effect, Illegal> {
        book.apply(&Entry {
            seq: 0,
            ts: ts(second),
            body,
        })
    }

    fn settled(n: u8) -> Body {
        Body::Settled(Settled {
            by: By::Merchant,
            rid: rid(n),
            tx: None,
            why: None,
        })
    }

    #[derive(Clone, Debug)]
    enum Do {
        Reserve {
            n: u8,
            armed: bool,
            windows: Vec<(u8, u8, u8)>,
        },
        Settle(u8),
        Lose(u8),
        Release(u8),
        Expire(u8),
    }

    fn any_do() -> impl Strategy<Value = Do> {
        let n = 0u8..6;
        prop_oneof![
            3 => (n.clone(), any::<bool>(), prop::collection::vec((0u8..3, 0u8..3, 0u8..50), 0..4))
                .prop_map(|(n, armed, windows)| Do::Reserve { n, armed, windows }),
            1 => n.clone().prop_map(Do::Settle),
            1 => n.clone().prop_map(Do::Lose),
            1 => n.clone().prop_map(Do::Release),
            1 => n.prop_map(Do::Expire),
        ]
    }

    fn body(step: &Do) -> Body {
        let why = || "w".to_owned();
        match step {
            Do::Reserve { n, armed, windows } => {
                let windows = windows.iter().map(|(scope, start, amount)| {
                    charge(&scope.to_string(), &start.to_string(), u128::from(*amount))
                });
                Body::Reserved(Arc::new(reserved(*n, *armed, windows.collect())))
            }
            Do::Settle(n) => settled(*n),
            Do::Lose(n) => Body::Unknown(Unknown {
                rid: rid(*n),
                why: why(),
            }),
            Do::Release(n) => Body::Released(Released {
                rid: rid(*n),
                why: why(),
            }),
            Do::Expire(n) => Body::Expired(Expired {
                by: By::Chain,
                rid: rid(*n),
                why: why(),
            }),
        }
    }

    /// Everything from the list of accepted steps, each time anew: the final state of each reservation, then the sums.
    fn slow_counters(accepted: &[Do]) -> BTreeMap<(String, String), Counter> {
        let mut counters = BTreeMap::<(String, String), Counter>::new();
        for (index, step) in accepted.iter().enumerate() {
            let Do::Reserve { n, windows, .. } = step else {
                continue;
            };
            let end = accepted[index + 1..].iter().find(|later| match later {
                Do::Settle(m) | Do::Release(m) | Do::Expire(m) => m == n,
                Do::Lose(_) | Do::Reserve { .. } => false,
            });
            for (scope, start, amount) in windows {
                let counter = counters
                    .entry((scope.to_string(), start.to_string()))
                    .or_default();
                match end {
                    None => counter.open += u128::from(*amount),
                    Some(Do::Settle(_)) => counter.settled += u128::from(*amount),
                    Some(_) => {}
                }
            }
        }
        counters
    }

    proptest! {
        #[test]
        fn the_book_equals_a_recount_of_all_steps(steps in prop::collection::vec(any_do(), 0..60)) {
            let mut book = Book::default();
            let mut accepted: Vec<Do> = Vec::new();
            for step in steps {
                if apply(&mut book, 0, body(&step)).is_ok() {
                    accepted.push(step);
                }
                let slow = slow_counters(&accepted);
                for scope in 0..3 {
                    for start in 0..3 {
                        let key = (scope.to_string(), start.to_string());
                        let expected = slow.get(&key).copied().unwrap_or_default();
                        prop_assert_eq!(book.counter(&key.0, "day", &key.1), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn a_nonce_stays_taken_after_its_payment_and_is_free_a_day_after_its_deadline() {
        let mut book = Book::default();
        apply(
            &mut book,
            0,
            Body::Reserved(Arc::new(reserved(1, true, vec![]))),
        )
        .unwrap();
        apply(&mut book, 1, settled(1)).unwrap();
        let again = Reserved {
            rid: rid(2),
            ..reserved(1, true, vec![])
        };
        let again = || Body::Reserved(Arc::new(again.clone()));
        let day = 300 + 24 * 60 * 60;
        assert_eq!(
            apply(&mut book, day, again()).unwrap_err(),
            Illegal::NonceTwice(rid(2))
        );
        let effect = apply(&mut book, day + 1, settled(1)).unwrap_err();
        assert_eq!(effect, Illegal::NotOpen(rid(1)));
        apply(
            &mut book,
            day + 1,
            Body::Closed(crate::ledger::entry::Closed {}),
        )
        .unwrap();
        assert!(apply(&mut book, day + 1, again()).is_ok());
    }

    #[test]
    fn overflow_changes_nothing() {
        let mut book = Book::default();
        let windows = |last| vec![charge("x", "1", 5), charge("y", "1", last)];
        apply(
            &mut book,
            0,
            Body::Reserved(Arc::new(reserved(1, true, windows(u128::MAX)))),
        )
        .unwrap();
        let error = apply(
            &mut book,
            0,
            Body::Reserved(Arc::new(reserved(2, true, windows(1)))),
        )
        .unwrap_err();
        assert_eq!(error, Illegal::Overflow(rid(2)));
        assert_eq!(
            book.counter("x", "day", "1"),
            Counter {
                settled: 0,
                open: 5
            }
        );
        assert!(book.open_payment(&rid(2)).is_none());
    }

    #[test]
    fn old_windows_are_forgotten_and_never_reopened_but_open_money_keeps_them() {
        let mut book = Book::default();
        for start in 0..=WINDOWS_KEPT as u8 {
            let windows = vec![charge("x", &format!("{start:03}"), 1)];
            apply(
                &mut book,
                0,
                Body::Reserved(Arc::new(reserved(start, true, windows))),
            )
            .unwrap();
            if start > 0 {
                apply(&mut book, 0, settled(start)).unwrap();
            }
        }
        assert_eq!(book.counters_of("x").count(), WINDOWS_KEPT + 1);
        apply(&mut book, 0, settled(0)).unwrap();
        let windows = vec![charge("x", "200", 1)];
        let effect = apply(
            &mut book,
            0,
            Body::Reserved(Arc::new(reserved(200, true, windows))),
        )
        .unwrap();
        assert_eq!(effect.dropped.len(), 2);
        assert_eq!(book.counters_of("x").count(), WINDOWS_KEPT);
        assert!(book.is_closed("x", "day", "001"));
        assert!(!book.is_closed("x", "day", "002"));
        assert!(!book.is_closed("x", "day", "201"));
    }
}

//! The book: what counts against which limit, which payments are open, which nonces are taken.
//!
//! Pure and in memory. The live writer and every replay feed it the same entries through [`Book::apply`], so the state
//! of the running ledger cannot differ from what the journal records.

pub mod approvals;
mod handover;
mod issued;
pub mod snapshot;
mod whole;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use jiff::SignedDuration;
use thiserror::Error;

use super::buckets::{Booking, BucketRow, Buckets, Span};
use super::counters::{Counter, CounterKey, Counters, Overflow, Step};
use super::entry::{self, Armed, Body, Entry, PauseSet, Reserved, Settled, WindowCharge};
use super::key::{KeyChange, KeyHold, Keys};
use super::model::{
    ApprovalError, ApprovalRow, Arm, ArmedNonce, Arming, Hold, LedgerError, Reserve, ReserveError, Source, State,
};
use super::pauses::{Pause, Pauses};
use super::payment::{NonceKey, Payment};
use super::scan::Place;
use super::spending::{Past, Spending};
use super::text::{Decimal, Moment};
use approvals::{ApprovalChanges, Register, ReplayKey, Subject};
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::PauseScope;
use bursar_core::policy::budget::{Charge, Excess};

/// How long a payment that was settled on the merchant's receipt waits for confirmation by the chain; after that it
/// stays as it is. Without RPC nodes nothing ever confirms it, and the list must not grow forever.
pub(crate) const CONFIRMABLE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Why an entry cannot follow the previous ones. From the live writer that is a bug; from a file it is damage.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Illegal {
    #[error("payment {0} is reserved a second time")]
    ReservedTwice(PaymentId),
    #[error("the nonce of payment {0} was used before")]
    NonceTwice(PaymentId),
    #[error("payment {0} is not open")]
    NotOpen(PaymentId),
    #[error("payment {rid} is {from} and cannot become {to}")]
    Unlawful { rid: PaymentId, from: State, to: State },
    #[error("a counter of payment {0} does not fit 128 bits")]
    Overflow(PaymentId),
    #[error("payment {0} is not waiting for confirmation by the chain")]
    NotUnconfirmed(PaymentId),
    #[error("what is given back for payment {0} is not the charge less what was taken")]
    WrongPart(PaymentId),
    #[error("it is unclear whether the nonce of payment {0} is known or will be chosen by a signer")]
    NonceOfNobody(PaymentId),
    #[error("payment {0} cannot accept what a signer has chosen")]
    NotWithSigner(PaymentId),
    #[error(transparent)]
    Approval(#[from] ApprovalError),
}

/// What one entry changed, for the index. The values are absolute, so applying them twice does no harm.
#[derive(Debug, Default)]
pub struct Effect {
    /// Where the entry is in the journal. The book does not know it; the caller that read or wrote the entry fills it
    /// in.
    pub place: Place,
    pub payment: Option<Payment>,
    /// The payment was not in this book before.
    pub begun: bool,
    /// The counters of its windows after the entry, in the order of the windows.
    pub counters: Vec<Counter>,
    /// Windows that it left or took something out of, and their counters now.
    pub left: Vec<(WindowCharge, Counter)>,
    pub dropped: Vec<CounterKey>,
    /// Buckets after the entry; of several for one span the last one holds.
    pub buckets: Vec<BucketRow>,
    pub faded: Vec<(u64, NonceKey)>,
    /// Payments that start (true) or stop waiting for confirmation by the chain.
    pub unconfirmed: Vec<(PaymentId, bool)>,
    /// Where the one that starts to wait counts, if the chain may report a part.
    pub waits: Option<Booking>,
    /// What the chain says about a finished payment.
    pub amended: Option<(PaymentId, Amendment)>,
    pub keys: Vec<(KeyHold, KeyChange)>,
    pub approvals: ApprovalChanges,
    /// A scope that was paused, or (`None`) is not any more.
    pub pause: Option<(PauseScope, Option<Pause>)>,
}

impl Effect {
    /// The payment that the entry is about.
    pub fn touched(&self) -> Option<PaymentId> {
        let amended = self.amended.as_ref().map(|(rid, _)| *rid);
        let asked = self.approvals.row.as_ref().map(|(row, _)| row.rid);
        self.payment.as_ref().map(Payment::rid).or(amended).or(asked)
    }
}

/// A change to a payment that leaves its state as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amendment {
    Confirmed {
        by: Source,
        tx: Option<String>,
        taken: Option<Decimal<u128>>,
        back: Vec<WindowCharge>,
    },
    Disputed {
        why: String,
    },
}

impl Amendment {
    pub fn apply(&self, payment: &mut Payment) {
        match self {
            Self::Confirmed { by, tx, taken, back } => {
                payment.by = Some(*by);
                payment.taken = *taken;
                if tx.is_some() {
                    payment.tx.clone_from(tx);
                }
                if !back.is_empty() {
                    payment.give_back(back);
                }
            }
            Self::Disputed { why } => payment.disputed = Some(why.clone()),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    spending: Spending,
    open: BTreeMap<PaymentId, Payment>,
    taken: HashSet<NonceKey>,
    /// Nonces of finished payments, by the second in which they are free again.
    fading: BTreeSet<(u64, NonceKey)>,
    /// Settled on the merchant's receipt, and not yet confirmed by the chain; and where those count of which the chain may
    /// report a part. Ids sort by their time.
    unconfirmed: BTreeMap<PaymentId, Option<Booking>>,
    /// The latest time of any entry: how far the clock has been.
    latest: Option<Moment>,
    keys: Keys,
    approvals: Register,
    pauses: Pauses,
}

impl Book {
    /// Decides a reservation; returns the total of each window afterwards. `Ok` guarantees that [`Book::apply`] of its
    /// entry will succeed and keep every cap.
    pub(crate) fn admits(&self, reserve: &Reserve, now: Moment) -> Result<Vec<u128>, ReserveError> {
        self.nonce_is_free(&reserve.hold.terms.asset.caip19(), &reserve.arm)?;
        let totals = self.admits_hold(&reserve.hold, now)?;
        self.leaves_room(&reserve.hold)?;
        Ok(totals)
    }

    /// Like [`Book::admits`], before there is a nonce.
    pub(crate) fn admits_hold(&self, hold: &Hold, now: Moment) -> Result<Vec<u128>, ReserveError> {
        if self.open.contains_key(&hold.rid) {
            return Err(ReserveError::RidTaken);
        }
        if let Some(idem) = &hold.idempotency
            && let Some(hold) = self.keys.holder(idem, second(now))
        {
            return Err(ReserveError::KeyTaken(hold.rid));
        }
        no_excess(hold.rid, &hold.charges)?;
        self.spending.fit(&hold.charges, &[])
    }

    /// Decides whether held money may be signed for under the current limits. The payment's own hold does not count
    /// against it.
    pub(crate) fn admits_arming(
        &self,
        rid: PaymentId,
        arming: &Arming,
        now: Moment,
    ) -> Result<Vec<u128>, ReserveError> {
        let held = self.open.get(&rid).filter(|payment| payment.state == State::Held);
        let held = held.ok_or(ReserveError::NotHeld(rid))?;
        self.approvals.may_arm(rid, arming.approval.as_deref(), now)?;
        if arming.approval.is_none() {
            no_excess(rid, &arming.charges)?;
        }
        self.nonce_is_free(&held.reserved.asset, &arming.arm)?;
        let booking = Booking::of_armed(held, &arming.charges, now);
        self.may_book(&booking, Step::Open)
            .map_err(|Overflow| ReserveError::Overflow)?;
        self.spending.fit(&arming.charges, held.windows())
    }

    /// Whether what was spent still fits 128 bits with this payment, whatever limits exist.
    fn leaves_room(&self, hold: &Hold) -> Result<(), ReserveError> {
        let booking = Booking::of_hold(hold);
        self.may_book(&booking, Step::Open)
            .map_err(|Overflow| ReserveError::Overflow)
    }

    fn nonce_is_free(&self, asset: &str, arm: &Arm) -> Result<(), ReserveError> {
        if !entry::Arm::from(arm).is_plain() {
            return Err(ReserveError::Failed(
                "it is unclear whether the nonce is known or will be chosen by a signer".to_owned(),
            ));
        }
        match arm.nonce {
            ArmedNonce::Known(nonce) if self.taken.contains(&NonceKey::of(asset, &arm.from, &nonce)) => {
                Err(ReserveError::NonceTaken)
            }
            // A nonce that the signer chooses is checked once it is known.
            ArmedNonce::Known(_) | ArmedNonce::Signers => Ok(()),
        }
    }

    /// Decides a step of an approval, given as its entry. `Ok` guarantees that [`Book::apply`] of it will succeed.
    pub(crate) fn admits_approval(&self, step: &Body, now: Moment) -> Result<(), ApprovalError> {
        match step {
            Body::ApprovalRequested(requested) => self.approvals.may_request(requested, self.open.get(&requested.rid)),
            Body::ApprovalGranted(granted) => self.approvals.may_grant(granted, now),
            Body::ApprovalDenied(refused) => self.approvals.live(refused.id).map(|_| ()),
            Body::ApprovalExpired(expired) => self.approvals.live(expired.id).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Applies an entry. On error nothing has changed.
    pub fn apply(&mut self, entry: &Entry) -> Result<Effect, Illegal> {
        let mut effect = Effect::default();
        match &entry.body {
            Body::Reserved(reserved) => self.reserve(reserved, entry.ts, &mut effect)?,
            Body::Armed(armed) => self.arm(armed, entry.ts, &mut effect)?,
            Body::Issued(issued) => self.issue(issued, entry.ts, &mut effect)?,
            Body::Settled(settled) => {
                self.is_what_was_left(settled)?;
                self.move_to(settled.rid, State::Settled, entry.ts, &mut effect, |payment| {
                    payment.by = Some(settled.by);
                    payment.taken = settled.taken;
                    payment.tx = settled.tx.clone();
                    payment.reason = settled.why.clone();
                })?;
                // Also of a payment that no limit counted.
                let booking = effect.payment.as_ref().and_then(Booking::in_full);
                if let (Some(booking), Some(taken)) = (booking, settled.taken) {
                    self.return_part(&booking, taken.0, &mut effect);
                }
                if !settled.back.is_empty()
                    && let Some(mut payment) = effect.payment.take()
                {
                    self.spending.counters.give_back(&settled.back);
                    payment.give_back(&settled.back);
                    self.changed(payment, &mut effect);
                }
                if settled.by == Source::Merchant {
                    effect.waits = effect.payment.as_ref().and_then(Booking::of_a_part);
                    self.unconfirmed.insert(settled.rid, effect.waits.clone());
                    effect.unconfirmed.push((settled.rid, true));
                }
            }
            Body::Unknown(unknown) => self.move_to(unknown.rid, State::Unknown, entry.ts, &mut effect, |payment| {
                payment.reason = Some(unknown.why.clone());
                payment.tx = unknown.tx.clone();
            })?,
            Body::Released(released) => {
                self.move_to(released.rid, State::Released, entry.ts, &mut effect, |payment| {
                    payment.reason = Some(released.why.clone());
                })?;
            }
            Body::Expired(expired) => self.move_to(expired.rid, State::Expired, entry.ts, &mut effect, |payment| {
                payment.by = Some(expired.by);
                payment.reason = Some(expired.why.clone());
            })?,
            Body::Confirmed(confirmed) => {
                let booking = self.confirmed_by_chain(confirmed.rid, &mut effect)?;
                if let (Some(booking), Some(taken)) = (booking, confirmed.taken) {
                    self.return_part(&booking, taken.0, &mut effect);
                }
                let changed = self.spending.counters.give_back(&confirmed.back);
                effect
                    .left
                    .extend(changed.into_iter().map(|(charge, counter)| (charge.clone(), counter)));
                let amendment = Amendment::Confirmed {
                    by: confirmed.by,
                    tx: confirmed.tx.clone(),
                    taken: confirmed.taken,
                    back: confirmed.back.clone(),
                };
                effect.amended = Some((confirmed.rid, amendment));
            }
            Body::Disputed(disputed) => self.dispute(disputed.rid, &disputed.why, &mut effect)?,
            Body::Adopted(adopted) => self.adopt(adopted, &mut effect)?,
            Body::Yielded(yielded) => self.yield_to(yielded.rid, yielded.node, entry.ts, &mut effect)?,
            Body::ApprovalRequested(requested) => {
                self.admits_approval(&entry.body, entry.ts)?;
                self.approvals.request(requested, entry.ts, &mut effect.approvals);
            }
            Body::ApprovalGranted(granted) => {
                self.admits_approval(&entry.body, entry.ts)?;
                self.approvals.grant(granted, &mut effect.approvals);
            }
            Body::ApprovalDenied(refused) => {
                self.admits_approval(&entry.body, entry.ts)?;
                self.approvals.refuse(refused.id, refused.until, &mut effect.approvals);
            }
            Body::ApprovalExpired(expired) => {
                self.admits_approval(&entry.body, entry.ts)?;
                self.approvals.end(expired.id, &mut effect.approvals);
            }
            // The logs of a shared ledger can each have one end of a pause, so neither needs the other.
            Body::PauseSet(set) if self.pauses.of(&set.scope).is_some() => {}
            Body::PauseSet(PauseSet { scope, who, why }) => {
                let pause = Pause {
                    scope: scope.clone(),
                    since: entry.ts,
                    who: who.clone(),
                    why: why.clone(),
                };
                self.pauses.set(pause.clone());
                effect.pause = Some((scope.clone(), Some(pause)));
            }
            Body::PauseLifted(lifted) => {
                self.pauses.lift(&lifted.scope);
                effect.pause = Some((lifted.scope.clone(), None));
            }
            Body::ClockAccepted(_) => self.latest = None,
            Body::Opened(_) | Body::Closed(_) | Body::PolicyLoaded(_) | Body::PolicyRejected(_) => {}
            Body::Presented(_) | Body::Refused(_) | Body::Admin(_) | Body::Rebuilt(_) => {}
            Body::Outflow(_) | Body::Alert(_) | Body::ClockJumped(_) => {}
        }
        self.latest = self.latest.max(Some(entry.ts));
        self.fade(entry.ts, &mut effect);
        Ok(effect)
    }

    fn reserve(&mut self, reserved: &Arc<Reserved>, ts: Moment, effect: &mut Effect) -> Result<(), Illegal> {
        if reserved.arm.as_ref().is_some_and(|arm| !arm.is_plain()) {
            return Err(Illegal::NonceOfNobody(reserved.rid));
        }
        let payment = Payment {
            approval: None,
            arm: reserved.arm.clone(),
            armed_at: None,
            by: None,
            created_at: ts,
            disputed: None,
            moved: None,
            reason: None,
            reserved: reserved.clone(),
            state: if reserved.arm.is_some() {
                State::Armed
            } else {
                State::Held
            },
            taken: None,
            tx: None,
            updated_at: ts,
            yielded: None,
        };
        self.enter(payment, effect)
    }

    /// Adds a payment that this book does not know yet.
    fn enter(&mut self, payment: Payment, effect: &mut Effect) -> Result<(), Illegal> {
        let rid = payment.rid();
        if self.open.contains_key(&rid) {
            return Err(Illegal::ReservedTwice(rid));
        }
        let nonce = payment.nonce_key();
        if nonce.is_some_and(|key| self.taken.contains(&key)) {
            return Err(Illegal::NonceTwice(rid));
        }
        self.book(&payment, Step::Open, effect)?;
        for charge in payment.windows() {
            self.spending.counters.drop_oldest(charge, &mut effect.dropped);
        }
        self.taken.extend(nonce);
        if let Some(hold) = payment.key_hold() {
            self.keys.hold(hold);
            effect.keys.push((hold, KeyChange::Held));
        }
        self.open.insert(rid, payment.clone());
        effect.begun = true;
        self.changed(payment, effect);
        Ok(())
    }

    fn arm(&mut self, armed: &Armed, ts: Moment, effect: &mut Effect) -> Result<(), Illegal> {
        let mut payment = self.may_become(armed.rid, State::Armed)?;
        let rid = armed.rid;
        if !armed.arm.is_plain() {
            return Err(Illegal::NonceOfNobody(rid));
        }
        self.approvals.may_arm(rid, armed.approval.as_deref(), ts)?;
        payment.arm = Some(armed.arm.clone());
        payment.approval.clone_from(&armed.approval);
        if payment.nonce_key().is_some_and(|key| self.taken.contains(&key)) {
            return Err(Illegal::NonceTwice(rid));
        }
        let held = payment.clone();
        if let Some(windows) = &armed.windows {
            payment.moved = Some(windows.clone());
        }
        payment.state = State::Armed;
        payment.armed_at = Some(ts);
        let booking = Booking::of(&payment);
        self.may_book_all(booking.as_ref(), Step::Open)
            .map_err(|Overflow| Illegal::Overflow(rid))?;
        if let Some(windows) = &armed.windows {
            let moved = self.spending.counters.move_open(held.windows(), windows);
            moved.map_err(|Overflow| Illegal::Overflow(rid))?;
            for charge in held.windows() {
                effect.left.push((charge.clone(), self.counter(charge)));
            }
            for charge in windows {
                self.spending.counters.drop_oldest(charge, &mut effect.dropped);
            }
        }
        self.spending.let_go(&held);
        self.book_in_buckets(booking.as_ref(), Step::Open, effect);
        self.approvals.leave(rid, &mut effect.approvals);
        payment.updated_at = ts;
        self.taken.extend(payment.nonce_key());
        self.open.insert(rid, payment.clone());
        self.changed(payment, effect);
        Ok(())
    }

    fn move_to(
        &mut self,
        rid: PaymentId,
        to: State,
        ts: Moment,
        effect: &mut Effect,
        change: impl FnOnce(&mut Payment),
    ) -> Result<(), Illegal> {
        let mut payment = self.may_become(rid, to)?;
        let before = payment.clone();
        change(&mut payment);
        payment.state = to;
        payment.updated_at = ts;
        if to.is_final() {
            let step = if to == State::Settled {
                Step::Settle
            } else {
                Step::GiveBack
            };
            self.book(&before, step, effect)?;
            // Proven dead: the agent may buy under this key again (R6).
            if to != State::Settled
                && let Some(hold) = payment.key_hold()
            {
                self.keys.free(&hold);
                effect.keys.push((hold, KeyChange::Free));
            }
            self.close(&payment);
        } else {
            self.open.insert(rid, payment.clone());
        }
        // If the payment was not released, it has no live approval any more.
        self.approvals.leave(rid, &mut effect.approvals);
        self.changed(payment, effect);
        Ok(())
    }

    /// Whether what a settlement gives back follows from what was taken.
    fn is_what_was_left(&self, settled: &Settled) -> Result<(), Illegal> {
        let rid = settled.rid;
        let left = match (settled.taken, self.open.get(&rid)) {
            (Some(taken), Some(payment)) => payment.back(taken.0).ok_or(Illegal::WrongPart(rid))?,
            _ => Vec::new(),
        };
        match left == settled.back {
            true => Ok(()),
            false => Err(Illegal::WrongPart(rid)),
        }
    }

    fn may_become(&self, rid: PaymentId, to: State) -> Result<Payment, Illegal> {
        let payment = self.open.get(&rid).cloned().ok_or(Illegal::NotOpen(rid))?;
        let from = payment.state;
        if from.may_become(to) {
            Ok(payment)
        } else {
            Err(Illegal::Unlawful { rid, from, to })
        }
    }

    /// Removes a payment from the open ones; its nonce stays taken for a while.
    fn close(&mut self, payment: &Payment) {
        self.open.remove(&payment.rid());
        self.fading
            .extend(payment.nonce_key().map(|key| (payment.nonce_free_at(), key)));
    }

    fn dispute(&mut self, rid: PaymentId, why: &str, effect: &mut Effect) -> Result<(), Illegal> {
        if let Some(payment) = self.open.get_mut(&rid) {
            payment.disputed = Some(why.to_owned());
            let payment = payment.clone();
            self.changed(payment, effect);
            return Ok(());
        }
        self.confirmed_by_chain(rid, effect)?;
        let why = why.to_owned();
        effect.amended = Some((rid, Amendment::Disputed { why }));
        Ok(())
    }

    fn confirmed_by_chain(&mut self, rid: PaymentId, effect: &mut Effect) -> Result<Option<Booking>, Illegal> {
        let booking = self.unconfirmed.remove(&rid).ok_or(Illegal::NotUnconfirmed(rid))?;
        effect.unconfirmed.push((rid, false));
        Ok(booking)
    }

    /// Changes every counter and bucket in which a payment counts, or none.
    fn book(&mut self, payment: &Payment, step: Step, effect: &mut Effect) -> Result<(), Illegal> {
        let overflow = |Overflow| Illegal::Overflow(payment.rid());
        let booking = Booking::in_full(payment);
        self.may_book_all(booking.as_ref(), step).map_err(overflow)?;
        self.spending.counters.book(payment.windows(), step).map_err(overflow)?;
        match step {
            Step::Open => self.spending.hold(payment),
            Step::Settle | Step::GiveBack => self.spending.let_go(payment),
        }
        self.book_in_buckets(booking.as_ref(), step, effect);
        Ok(())
    }

    fn may_book_all(&self, booking: Option<&Booking>, step: Step) -> Result<(), Overflow> {
        booking.map_or(Ok(()), |booking| self.may_book(booking, step))
    }

    fn may_book(&self, booking: &Booking, step: Step) -> Result<(), Overflow> {
        match &self.spending.past {
            Past::Buckets(buckets) => buckets.may(booking, step),
            Past::Counters => Ok(()),
        }
    }

    fn book_in_buckets(&mut self, booking: Option<&Booking>, step: Step, effect: &mut Effect) {
        if let (Past::Buckets(buckets), Some(booking)) = (&mut self.spending.past, booking) {
            buckets.book(booking, step, &mut effect.buckets);
        }
    }

    /// What is given back leaves the bucket in which the payment was charged, and so every window that covers it (R240).
    fn return_part(&mut self, booking: &Booking, taken: u128, effect: &mut Effect) {
        if let Past::Buckets(buckets) = &mut self.spending.past {
            buckets.give_back(booking, taken, &mut effect.buckets);
        }
    }

    fn changed(&self, payment: Payment, effect: &mut Effect) {
        effect.counters = payment.windows().iter().map(|charge| self.counter(charge)).collect();
        effect.payment = Some(payment);
    }

    fn counter(&self, charge: &WindowCharge) -> Counter {
        self.spending
            .counters
            .get(charge.scope(), charge.window(), charge.start())
    }

    fn fade(&mut self, ts: Moment, effect: &mut Effect) {
        let now = second(ts);
        while let Some(&(free_at, key)) = self.fading.first()
            && free_at < now
        {
            self.fading.pop_first();
            self.taken.remove(&key);
            effect.faded.push((free_at, key));
        }
        self.approvals.fade(ts, &mut effect.approvals);
        let faded = self.keys.fade(now);
        let freed = faded.into_iter().map(|hold| (hold, KeyChange::Free));
        effect.keys.extend(freed);
        while let Some((&rid, _)) = self.unconfirmed.first_key_value()
            && rid
                .made_at()
                .is_none_or(|made_at| ts.timestamp().duration_since(made_at) > CONFIRMABLE)
        {
            self.unconfirmed.pop_first();
            effect.unconfirmed.push((rid, false));
        }
    }
}

/// A payment may only exceed a limit when it is armed with an approval.
fn no_excess(rid: PaymentId, charges: &[Charge]) -> Result<(), ReserveError> {
    match charges.iter().any(|charge| charge.excess == Excess::Approved) {
        true => Err(ApprovalError::NoneOf(rid).into()),
        false => Ok(()),
    }
}

fn second(ts: Moment) -> u64 {
    u64::try_from(ts.timestamp().as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests;

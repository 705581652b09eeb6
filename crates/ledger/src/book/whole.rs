//! The whole content of a book, to restore it from an index and to read it.

use super::*;
use crate::buckets::{Bucket, Quarter};

impl Book {
    /// Restores what the index kept.
    pub(crate) fn restore_counter(&mut self, key: CounterKey, counter: Counter) {
        self.spending.counters.restore(key, counter);
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_bucket(&mut self, scope: String, span: Span, bucket: Bucket) {
        if let Past::Buckets(buckets) = &mut self.spending.past {
            buckets.restore(scope, span, bucket);
        }
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_since(&mut self, since: Quarter) {
        if let Past::Buckets(buckets) = &mut self.spending.past {
            buckets.restore_since(since);
        }
    }

    /// Counts only what is charged to windows by name.
    #[cfg(feature = "postgres")]
    pub(crate) fn of_counters() -> Self {
        let mut book = Self::default();
        book.spending.past = Past::Counters;
        book
    }

    /// A book that was kept without buckets: what is open is booked, and older windows also count what their counters
    /// hold.
    pub(crate) fn begin_buckets(&mut self) {
        let mut buckets = Buckets::after(self.latest);
        for booking in self.open.values().filter_map(Booking::in_full) {
            buckets.book(&booking, Step::Open, &mut Vec::new());
        }
        self.spending.past = Past::Buckets(buckets);
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_open(&mut self, payment: Payment) {
        self.taken.extend(payment.nonce_key());
        self.spending.hold(&payment);
        self.open.insert(payment.rid(), payment);
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_nonce(&mut self, free_at: u64, key: NonceKey) {
        self.taken.insert(key);
        self.fading.insert((free_at, key));
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_key(&mut self, hold: KeyHold) {
        self.keys.hold(hold);
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_unconfirmed(&mut self, rid: PaymentId, booking: Option<Booking>) {
        self.unconfirmed.insert(rid, booking);
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_latest(&mut self, latest: Option<Moment>) {
        self.latest = latest;
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_approval(&mut self, row: ApprovalRow) {
        self.approvals.restore_row(row);
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_replay(&mut self, replay: ReplayKey, until: Moment) {
        self.approvals.restore_replay(replay, until);
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_denial(&mut self, subject: Subject, until: Moment) {
        self.approvals.restore_denial(subject, until);
    }

    /// Like [`Book::restore_counter`].
    pub(crate) fn restore_pause(&mut self, pause: Pause) {
        self.pauses.set(pause);
    }

    /// The pauses that are on record.
    pub fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    pub fn approvals(&self) -> &Register {
        &self.approvals
    }

    /// For reading the entries of one payment only: other questions and used evidence are dropped, because the entries
    /// that ended them are not read.
    pub(crate) fn for_one(mut self, rid: PaymentId) -> Self {
        self.approvals = self.approvals.of_alone(rid);
        self
    }

    pub fn keys(&self) -> impl Iterator<Item = &KeyHold> {
        self.keys.all()
    }

    /// As they are stored, including replaced ones.
    pub(crate) fn every_key(&self) -> impl Iterator<Item = &KeyHold> {
        self.keys.every()
    }

    pub(crate) fn open_payment(&self, rid: &PaymentId) -> Option<&Payment> {
        self.open.get(rid)
    }

    /// Open payments, oldest first.
    pub fn open_payments(&self) -> impl Iterator<Item = &Payment> {
        self.open.values()
    }

    /// Payments that wait for confirmation by the chain, oldest first.
    pub fn unconfirmed(&self) -> impl Iterator<Item = PaymentId> {
        self.unconfirmed.keys().copied()
    }

    /// Like [`Book::unconfirmed`], and where those count of which the chain may report a part.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (PaymentId, Option<&Booking>)> {
        self.unconfirmed.iter().map(|(rid, booking)| (*rid, booking.as_ref()))
    }

    /// Nonces of finished payments, by the second in which they are free again.
    pub(crate) fn fading(&self) -> impl Iterator<Item = (u64, NonceKey)> {
        self.fading.iter().copied()
    }

    pub(crate) fn is_unconfirmed(&self, rid: PaymentId) -> bool {
        self.unconfirmed.contains_key(&rid)
    }

    pub fn latest(&self) -> Option<Moment> {
        self.latest
    }

    pub fn counters(&self) -> &Counters {
        &self.spending.counters
    }

    /// What caps are compared with.
    pub fn spending(&self) -> &Spending {
        &self.spending
    }

    /// `None`: calendar windows are counted by name.
    pub(crate) fn buckets(&self) -> Option<&Buckets> {
        match &self.spending.past {
            Past::Buckets(buckets) => Some(buckets),
            Past::Counters => None,
        }
    }

    /// Whether the open amounts in the counters and buckets equal the charges of the open payments, and every live approval belongs
    /// to a held payment. In an index that something else has modified they may not.
    pub(crate) fn adds_up(&self) -> bool {
        let is_held = |row: &ApprovalRow| self.open.get(&row.rid).is_some_and(|held| held.state == State::Held);
        let is_booked = |buckets: &Buckets| buckets.adds_up(self.open.values());
        if !self.approvals.rows().all(is_held) || !self.buckets().is_none_or(is_booked) {
            return false;
        }
        let mut sums = Counters::default();
        let counted = self
            .open
            .values()
            .all(|payment| sums.book(payment.windows(), Step::Open).is_ok());
        counted
            && self
                .counters()
                .all()
                .all(|(scope, window, start, counter)| sums.get(scope, window, start).open == counter.open)
            && sums
                .all()
                .all(|(scope, window, start, sum)| self.counters().get(scope, window, start).open == sum.open)
    }
}

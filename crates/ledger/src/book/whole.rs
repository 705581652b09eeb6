//! What a book holds, to put it back together from an index and to look at it.

use super::*;

impl Book {
    /// Puts back what the index kept.
    pub fn restore_counter(&mut self, key: CounterKey, counter: Counter) {
        self.counters.restore(key, counter);
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

    /// As [`Book::restore_counter`].
    pub fn restore_unconfirmed(&mut self, rid: PaymentId) {
        self.unconfirmed.insert(rid);
    }

    /// As [`Book::restore_counter`].
    pub fn restore_latest(&mut self, latest: Option<Moment>) {
        self.latest = latest;
    }

    /// As [`Book::restore_counter`].
    pub fn restore_approval(&mut self, row: ApprovalRow) {
        self.approvals.restore_row(row);
    }

    /// As [`Book::restore_counter`].
    pub fn restore_replay(&mut self, replay: ReplayKey, until: Moment) {
        self.approvals.restore_replay(replay, until);
    }

    /// As [`Book::restore_counter`].
    pub fn restore_denial(&mut self, subject: Subject, until: Moment) {
        self.approvals.restore_denial(subject, until);
    }

    pub fn approvals(&self) -> &Register {
        &self.approvals
    }

    /// For reading the entries of one payment alone: what others asked and used does not stand against them, as the entries by
    /// which that ended are not read.
    pub fn for_one(mut self, rid: PaymentId) -> Self {
        self.approvals = self.approvals.of_alone(rid);
        self
    }

    pub fn keys(&self) -> impl Iterator<Item = &KeyHold> {
        self.keys.all()
    }

    /// As they are kept.
    pub fn every_key(&self) -> impl Iterator<Item = &KeyHold> {
        self.keys.every()
    }

    pub fn open_payment(&self, rid: &PaymentId) -> Option<&Payment> {
        self.open.get(rid)
    }

    /// Open payments, oldest first.
    pub fn open_payments(&self) -> impl Iterator<Item = &Payment> {
        self.open.values()
    }

    /// Payments that wait for the chain's word, oldest first.
    pub fn unconfirmed(&self) -> impl Iterator<Item = PaymentId> {
        self.unconfirmed.iter().copied()
    }

    /// Nonces of finished payments, by the second in which they are free again.
    pub fn fading(&self) -> impl Iterator<Item = (u64, NonceKey)> {
        self.fading.iter().copied()
    }

    pub fn is_unconfirmed(&self, rid: PaymentId) -> bool {
        self.unconfirmed.contains(&rid)
    }

    pub fn latest(&self) -> Option<Moment> {
        self.latest
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether what is open in the counters is what the open payments are charged to, and whether live approvals are of held
    /// payments. An index that was changed by something else than the ledger may not.
    pub fn adds_up(&self) -> bool {
        let is_held = |row: &ApprovalRow| self.open.get(&row.rid).is_some_and(|held| held.state == State::Held);
        if !self.approvals.rows().all(is_held) {
            return false;
        }
        let mut sums = Counters::default();
        let counted = self
            .open
            .values()
            .all(|payment| sums.book(payment.windows(), Step::Open).is_ok());
        counted
            && self
                .counters
                .all()
                .all(|(scope, window, start, counter)| sums.get(scope, window, start).open == counter.open)
            && sums
                .all()
                .all(|(scope, window, start, sum)| self.counters.get(scope, window, start).open == sum.open)
    }
}

//! What was spent in each quarter-hour, whatever limits exist: the past that every calendar window is computed from.
//!
//! A payment is booked when it is armed, once for the account, its group and its agent, into the UTC quarter-hour of that
//! moment (R240). A window's sum is computed from these buckets, so a line that was written today, another time zone, or
//! an agent that joined a group meets what was really spent. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::counters::{Counter, Overflow, Step};
use super::model::{Hold, State};
use super::payment::{Payment, part};
use super::text::{Decimal, Moment};
use bursar_core::policy::{Charge, Unit};

/// Offsets from UTC are multiples of it, so every calendar window begins with a bucket.
const QUARTER_S: i64 = 15 * 60;
const QUARTERS_A_DAY: u32 = 96;

/// How many UTC days with payments are kept per scope, newest first: the longest window, a month, and as much again for
/// a clock that goes back (R242).
pub(super) const DAYS_KEPT: usize = 64;

/// A UTC quarter-hour, counted from the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Quarter(pub u32);

impl Quarter {
    pub(super) fn of(at: Timestamp) -> Self {
        let number = at.as_second().div_euclid(QUARTER_S);
        Self(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
    }

    /// The first one that begins at or after `at`.
    fn not_before(at: Timestamp) -> Self {
        let is_on_boundary = at.as_second().rem_euclid(QUARTER_S) == 0 && at.subsec_nanosecond() == 0;
        let Self(number) = Self::of(at);
        Self(number.saturating_add(u32::from(!is_on_boundary)))
    }

    const fn day(self) -> u32 {
        self.0 / QUARTERS_A_DAY
    }
}

/// A span of time whose payments add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    Ever,
    Quarter(Quarter),
}

/// What one scope spent in one span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub usd: Counter,
    pub payments: Counter,
}

impl Bucket {
    pub(super) fn of(self, unit: Unit) -> Counter {
        match unit {
            Unit::MicroUsd => self.usd,
            Unit::Payments => self.payments,
        }
    }

    fn is_open(self) -> bool {
        self.usd.open > 0 || self.payments.open > 0
    }

    fn step(&mut self, usd: u128, step: Step) {
        for (counter, amount) in [(&mut self.usd, usd), (&mut self.payments, 1)] {
            // [`Buckets::may`] has looked: nothing saturates.
            match step {
                Step::Open => counter.open = counter.open.saturating_add(amount),
                Step::GiveBack => counter.open = counter.open.saturating_sub(amount),
                Step::Settle => {
                    counter.open = counter.open.saturating_sub(amount);
                    counter.settled = counter.settled.saturating_add(amount);
                }
            }
        }
    }

    fn plus(self, other: Self) -> Option<Self> {
        let sum = |a: Counter, b: Counter| {
            Some(Counter {
                settled: a.settled.checked_add(b.settled)?,
                open: a.open.checked_add(b.open)?,
            })
        };
        Some(Self {
            usd: sum(self.usd, other.usd)?,
            payments: sum(self.payments, other.payments)?,
        })
    }

    /// The buckets of a day are restored one by one, and their sum fits because the eternal one does.
    fn add(&mut self, other: Self) {
        *self = self.plus(other).unwrap_or(*self);
    }
}

/// Where and with what amount a signed payment counts. A payment that the chain may still report a smaller amount for is
/// remembered by this after it was settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Booking {
    agent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    quarter: Quarter,
    /// Micro-USD that count now.
    usd: Decimal<u128>,
    /// Micro-USD, if all of it is taken.
    full: Decimal<u128>,
    /// Atoms.
    signed: Decimal<u128>,
}

impl Booking {
    /// `None`: it is held. Held money was not signed for and counts in the windows that its charges name (R241).
    pub(super) fn of(payment: &Payment) -> Option<Self> {
        if payment.state == State::Held || payment.arm.is_none() {
            return None;
        }
        let reserved = &payment.reserved;
        let (full, signed) = (reserved.usd_micros.0, reserved.amount.0);
        let taken = payment.taken.map_or(signed, |taken| taken.0.min(signed));
        Some(Self {
            agent: reserved.agent.clone(),
            group: payment.group().map(str::to_owned),
            quarter: Quarter::of(payment.charged_at().timestamp()),
            usd: Decimal(part(full, taken, signed)),
            full: Decimal(full),
            signed: Decimal(signed),
        })
    }

    /// Like [`Booking::of`], as it was booked: in full.
    pub(super) fn in_full(payment: &Payment) -> Option<Self> {
        let booking = Self::of(payment)?;
        Some(Self {
            usd: booking.full,
            ..booking
        })
    }

    /// Of a payment that would be reserved now: only its scopes and its amount matter.
    pub(super) fn of_hold(hold: &Hold) -> Self {
        Self {
            agent: hold.agent.clone(),
            group: hold.group.clone(),
            quarter: Quarter(0),
            usd: Decimal(hold.terms.usd.get()),
            full: Decimal(hold.terms.usd.get()),
            signed: Decimal(hold.terms.amount.get()),
        }
    }

    /// Of held money that would be armed at `now` with these charges.
    pub(super) fn of_armed(held: &Payment, charges: &[Charge], now: Moment) -> Self {
        let reserved = &held.reserved;
        let named = charges.iter().find_map(|charge| charge.scope.strip_prefix("group:"));
        Self {
            agent: reserved.agent.clone(),
            group: named.or(reserved.group.as_deref()).map(str::to_owned),
            quarter: Quarter::of(now.timestamp()),
            usd: reserved.usd_micros,
            full: reserved.usd_micros,
            signed: reserved.amount,
        }
    }

    /// If the chain may still report that less was taken: an `exact` payment moves all of its money or nothing.
    pub(super) fn of_a_part(payment: &Payment) -> Option<Self> {
        Self::of(payment).filter(|_| payment.reserved.scheme != "exact")
    }

    /// What returns once no more than `taken` atoms will ever be taken.
    fn returns(&self, taken: u128) -> u128 {
        let stays = part(self.full.0, taken.min(self.signed.0), self.signed.0);
        self.usd.0.saturating_sub(stays)
    }

    fn scopes(&self) -> impl Iterator<Item = String> {
        let group = self.group.as_ref().map(|group| format!("group:{group}"));
        ["account".to_owned(), format!("agent:{}", self.agent)]
            .into_iter()
            .chain(group)
    }
}

/// Whether payments of this scope are booked into buckets.
pub(super) fn is_booked(scope: &str) -> bool {
    scope == "account" || scope.starts_with("agent:") || scope.starts_with("group:")
}

/// A bucket after an entry. `None`: it was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketRow {
    pub scope: String,
    pub span: Span,
    pub now: Option<Bucket>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Series {
    quarters: BTreeMap<Quarter, Bucket>,
    /// The same by UTC day, so that a month takes a few hundred steps.
    days: BTreeMap<u32, Bucket>,
    ever: Bucket,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    scopes: HashMap<String, Series>,
    /// Payments before it are missing, because a version without buckets moved their entries away. Windows that begin
    /// before it also count what their own counter holds (R243).
    since: Option<Quarter>,
}

impl Buckets {
    /// For a book that was kept without buckets up to `latest`.
    pub(super) fn after(latest: Option<Moment>) -> Self {
        Self {
            scopes: HashMap::new(),
            since: latest.map(|latest| Quarter(Quarter::of(latest.timestamp()).0.saturating_add(1))),
        }
    }

    pub(super) fn since(&self) -> Option<Quarter> {
        self.since
    }

    pub(super) fn restore_since(&mut self, since: Quarter) {
        self.since = Some(since);
    }

    /// Whether [`Buckets::book`] of this step keeps every sum within 128 bits and above zero.
    pub(super) fn may(&self, booking: &Booking, step: Step) -> Result<(), Overflow> {
        let fits = booking.scopes().all(|scope| {
            let series = self.scopes.get(&scope);
            match step {
                // No sum exceeds the eternal one.
                Step::Open => series.is_none_or(|series| {
                    let total = series.ever.usd.total();
                    total.is_some_and(|total| total.checked_add(booking.usd.0).is_some())
                }),
                Step::Settle | Step::GiveBack => series
                    .and_then(|series| series.quarters.get(&booking.quarter))
                    .is_some_and(|bucket| bucket.usd.open >= booking.usd.0 && bucket.payments.open > 0),
            }
        });
        fits.then_some(()).ok_or(Overflow)
    }

    /// Books a step of a payment in all its scopes.
    pub(super) fn book(&mut self, booking: &Booking, step: Step, rows: &mut Vec<BucketRow>) {
        for scope in booking.scopes() {
            let series = self.scopes.entry(scope.clone()).or_default();
            series.change(&scope, booking.quarter, rows, |bucket| bucket.step(booking.usd.0, step));
            series.drop_oldest(&scope, rows);
        }
    }

    /// Subtracts what a settled payment gives back. A bucket that was dropped counts in no window any more.
    pub(super) fn give_back(&mut self, booking: &Booking, taken: u128, rows: &mut Vec<BucketRow>) {
        let returns = booking.returns(taken);
        for scope in booking.scopes().filter(|_| returns > 0) {
            let less = |bucket: &mut Bucket| bucket.usd.settled = bucket.usd.settled.saturating_sub(returns);
            if let Some(series) = self.scopes.get_mut(&scope) {
                series.change_kept(&scope, booking.quarter, rows, less);
            }
        }
    }

    pub(super) fn restore(&mut self, scope: String, span: Span, bucket: Bucket) {
        let series = self.scopes.entry(scope).or_default();
        match span {
            Span::Ever => series.ever = bucket,
            Span::Quarter(quarter) => {
                series.quarters.insert(quarter, bucket);
                series.days.entry(quarter.day()).or_default().add(bucket);
            }
        }
    }

    /// Every bucket, in no particular order of scopes.
    pub fn all(&self) -> impl Iterator<Item = (&str, Span, Bucket)> {
        self.scopes.iter().flat_map(|(scope, series)| {
            let quarters = series.quarters.iter();
            let quarters = quarters.map(|(quarter, bucket)| (Span::Quarter(*quarter), *bucket));
            let ever = std::iter::once((Span::Ever, series.ever));
            ever.chain(quarters)
                .map(move |(span, bucket)| (scope.as_str(), span, bucket))
        })
    }

    /// Only what is known of these scopes.
    pub(super) fn of_scopes(&self, scopes: &[String]) -> Self {
        let known = |scope: &String| Some((scope.clone(), self.scopes.get(scope)?.clone()));
        Self {
            scopes: scopes.iter().filter_map(known).collect(),
            since: self.since,
        }
    }

    /// What was ever spent.
    pub(super) fn ever(&self, scope: &str, unit: Unit) -> Counter {
        self.scopes
            .get(scope)
            .map_or(Counter::default(), |series| series.ever.of(unit))
    }

    /// What was spent from `from` on, before `to` if there is one. A bucket that is only partly in it counts whole.
    pub(super) fn between(&self, scope: &str, unit: Unit, from: Timestamp, to: Option<Timestamp>) -> Option<Counter> {
        let Some(series) = self.scopes.get(scope) else {
            return Some(Counter::default());
        };
        let to = to.map_or(Quarter(u32::MAX), Quarter::not_before);
        Some(series.sum(Quarter::of(from), to)?.of(unit))
    }

    /// Whether buckets that began at `from` or later may have been dropped: the clock went back.
    pub(super) fn is_closed(&self, scope: &str, from: Timestamp) -> bool {
        self.scopes.get(scope).is_some_and(|series| {
            let oldest = series.days.first_key_value();
            series.days.len() >= DAYS_KEPT && oldest.is_some_and(|(oldest, _)| Quarter::of(from).day() < *oldest)
        })
    }

    /// Whether payments of a window that begins at `from` are missing.
    pub(super) fn lacks(&self, from: Option<Timestamp>) -> bool {
        self.since
            .is_some_and(|since| from.is_none_or(|from| Quarter::of(from) < since))
    }

    /// Whether what is open in them is what these payments have open.
    pub(super) fn adds_up<'p>(&self, payments: impl Iterator<Item = &'p Payment>) -> bool {
        let mut sums = Self::default();
        for booking in payments.filter_map(Booking::in_full) {
            sums.book(&booking, Step::Open, &mut Vec::new());
        }
        let open = |bucket: Bucket| (bucket.usd.open, bucket.payments.open);
        let same = |a: &Self, b: &Self| {
            a.all()
                .all(|(scope, span, bucket)| open(b.at(scope, span)) == open(bucket))
        };
        same(self, &sums) && same(&sums, self)
    }

    fn at(&self, scope: &str, span: Span) -> Bucket {
        let series = self.scopes.get(scope);
        let bucket = series.and_then(|series| match span {
            Span::Ever => Some(series.ever),
            Span::Quarter(quarter) => series.quarters.get(&quarter).copied(),
        });
        bucket.unwrap_or_default()
    }
}

impl Series {
    fn change(&mut self, scope: &str, quarter: Quarter, rows: &mut Vec<BucketRow>, change: impl Fn(&mut Bucket)) {
        self.quarters.entry(quarter).or_default();
        self.days.entry(quarter.day()).or_default();
        self.change_kept(scope, quarter, rows, change);
    }

    fn change_kept(&mut self, scope: &str, quarter: Quarter, rows: &mut Vec<BucketRow>, change: impl Fn(&mut Bucket)) {
        let row = |span, bucket: &Bucket| BucketRow {
            scope: scope.to_owned(),
            span,
            now: Some(*bucket),
        };
        change(&mut self.ever);
        rows.push(row(Span::Ever, &self.ever));
        if let Some(bucket) = self.quarters.get_mut(&quarter) {
            change(bucket);
            rows.push(row(Span::Quarter(quarter), bucket));
            if let Some(day) = self.days.get_mut(&quarter.day()) {
                change(day);
            }
        }
    }

    /// Drops the oldest days when there are too many, up to one in which money is still open.
    fn drop_oldest(&mut self, scope: &str, rows: &mut Vec<BucketRow>) {
        while self.days.len() > DAYS_KEPT
            && let Some(oldest) = self.days.first_entry()
            && !oldest.get().is_open()
        {
            let day = oldest.remove_entry().0;
            while let Some(first) = self.quarters.first_entry()
                && first.key().day() <= day
            {
                let span = Span::Quarter(first.remove_entry().0);
                let scope = scope.to_owned();
                rows.push(BucketRow { scope, span, now: None });
            }
        }
    }

    /// Of the buckets from `from` up to, but not including, `to`.
    fn sum(&self, from: Quarter, to: Quarter) -> Option<Bucket> {
        let first_day = from.0.div_ceil(QUARTERS_A_DAY);
        let end_day = to.day();
        let mut sum = Bucket::default();
        if first_day >= end_day {
            return self.add_quarters(sum, from, to);
        }
        sum = self.add_quarters(sum, from, Quarter(first_day.saturating_mul(QUARTERS_A_DAY)))?;
        for (_, day) in self.days.range(first_day..end_day) {
            sum = sum.plus(*day)?;
        }
        self.add_quarters(sum, Quarter(end_day.saturating_mul(QUARTERS_A_DAY)), to)
    }

    fn add_quarters(&self, sum: Bucket, from: Quarter, to: Quarter) -> Option<Bucket> {
        if from >= to {
            return Some(sum);
        }
        let mut buckets = self.quarters.range(from..to);
        buckets.try_fold(sum, |sum, (_, bucket)| sum.plus(*bucket))
    }
}

#[cfg(test)]
mod tests;

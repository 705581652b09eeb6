//! What a cap is compared with: buckets for calendar windows and totals, exact counters for the rest (R240, R241).
//!
//! One function answers for decisions and for tools, so that no tool shows a number that decisions do not use.

use jiff::Timestamp;

use super::buckets::{Buckets, is_booked};
use super::counters::{Counter, Counters, Step, is_of};
use super::entry::WindowCharge;
use super::model::{ReserveError, State};
use super::payment::Payment;
use bursar_core::policy::budget::{Charge, Excess, Rolling, Window};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spending {
    pub(super) counters: Counters,
    /// The part of the counters that is held: not signed for, so in no bucket.
    pub(super) held: Counters,
    pub(super) past: Past,
}

/// Where calendar windows have their past from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Past {
    Buckets(Buckets),
    /// Only what was charged to the window by name: on a shared ledger.
    Counters,
}

impl Default for Past {
    fn default() -> Self {
        Self::Buckets(Buckets::default())
    }
}

/// Where the sum for one charge comes from.
enum Measure {
    Counter,
    Ever,
    Calendar { from: Timestamp, to: Option<Timestamp> },
    Rolling { rolling: Rolling, from: Timestamp },
}

impl Measure {
    fn of(charge: &Charge) -> Self {
        match charge.window {
            _ if !is_booked(&charge.scope) => Self::Counter,
            Window::Pending | Window::SinceApproval | Window::Payee => Self::Counter,
            Window::Total => Self::Ever,
            Window::Rolling(rolling) => match rolling.oldest(&charge.start).parse().map(Timestamp::from_second) {
                Ok(Ok(from)) => Self::Rolling { rolling, from },
                _ => Self::Counter,
            },
            Window::Hour | Window::Day | Window::Week | Window::Month => match charge.start.parse() {
                Ok(from) => Self::Calendar { from, to: charge.ends },
                // At the ends of the calendar a window never ends.
                Err(_) => Self::Ever,
            },
        }
    }
}

impl Spending {
    /// As a shared ledger reports it.
    #[cfg(any(test, feature = "postgres"))]
    pub(super) fn of_counters(usage: Vec<super::counters::Usage>) -> Self {
        let mut spending = Self {
            past: Past::Counters,
            ..Self::default()
        };
        for super::counters::Usage {
            scope,
            window,
            start,
            settled,
            open,
        } in usage
        {
            let counter = Counter { settled, open };
            spending.counters.restore((scope, window, start), counter);
        }
        spending
    }

    /// Only what charges have named.
    pub fn of_named(counters: Counters) -> Self {
        Self {
            counters,
            past: Past::Counters,
            ..Self::default()
        }
    }

    /// Only what is known of these scopes.
    pub(super) fn of_scopes(&self, scopes: &[String]) -> Self {
        Self {
            counters: self.counters.of_scopes(scopes),
            held: self.held.of_scopes(scopes),
            past: match &self.past {
                Past::Buckets(buckets) => Past::Buckets(buckets.of_scopes(scopes)),
                Past::Counters => Past::Counters,
            },
        }
    }

    /// Counts what a held payment keeps back.
    pub(super) fn hold(&mut self, payment: &Payment) {
        if payment.state == State::Held {
            // It cannot overflow: the counters, which contain it, did not.
            let _ = self.held.book(payment.windows(), Step::Open);
        }
    }

    /// A held payment was released or armed.
    pub(super) fn let_go(&mut self, payment: &Payment) {
        if payment.state == State::Held {
            let _ = self.held.book(payment.windows(), Step::GiveBack);
            self.held.drop_empty(payment.windows());
        }
    }

    /// Decides whether all of `charges` fit once `given_back` is subtracted, which must be held. Returns the total of
    /// each window afterwards.
    pub fn fit(&self, charges: &[Charge], given_back: &[WindowCharge]) -> Result<Vec<u128>, ReserveError> {
        let mut totals = Vec::with_capacity(charges.len());
        for (index, charge) in charges.iter().enumerate() {
            let window = charge.window_name();
            if self.is_closed(charge) {
                return Err(ReserveError::WindowClosed { charge: index });
            }
            let counted = self.counted(charge, given_back);
            let Counter { settled, open } = counted.ok_or(ReserveError::Overflow)?;
            // Two charges on one counter add up.
            let counted = charges[..index]
                .iter()
                .filter(|other| {
                    other.scope == charge.scope && other.window_name() == window && other.start == charge.start
                })
                .map(|other| other.amount)
                .chain([open, charge.amount])
                .try_fold(settled, u128::checked_add)
                .ok_or(ReserveError::Overflow)?;
            let fits = match charge.window {
                // A payee is known once a payment to it has settled; payments under way do not count.
                Window::Payee => settled > 0,
                _ => counted <= charge.cap,
            };
            if !fits && charge.excess != Excess::Approved {
                return Err(ReserveError::Denied {
                    charge: index,
                    settled,
                    open,
                });
            }
            totals.push(counted);
        }
        Ok(totals)
    }

    /// What a charge would be added to, once `given_back` is subtracted. `None`: the sum does not fit 128 bits.
    pub(super) fn counted(&self, charge: &Charge, given_back: &[WindowCharge]) -> Option<Counter> {
        let window = charge.window_name();
        let scopes = std::iter::once(&charge.scope).chain(&charge.was);
        scopes
            .map(|scope| self.counted_for(scope, charge, &window, given_back))
            .try_fold(Counter::default(), |sum, counted| sum.plus(counted?))
    }

    fn counted_for(&self, scope: &str, charge: &Charge, window: &str, given_back: &[WindowCharge]) -> Option<Counter> {
        let returning = given_back
            .iter()
            .filter(|old| old.scope() == scope && old.window() == window && is_of(charge, old.start()))
            .try_fold(0u128, |sum, old| sum.checked_add(old.amount()))?;
        let without = |counter: Counter| Counter {
            open: counter.open.saturating_sub(returning),
            ..counter
        };
        let exact = || Some(without(self.counters.counted(scope, charge, window)?));
        let Past::Buckets(buckets) = &self.past else {
            return exact();
        };
        let (past, from) = match Measure::of(charge) {
            Measure::Counter => return exact(),
            // Its own counters cover all of it: they began before.
            Measure::Rolling { rolling, .. }
                if self
                    .counters
                    .begin_before(scope, window, &rolling.oldest(&charge.start)) =>
            {
                return exact();
            }
            Measure::Rolling { from, .. } => (buckets.between(scope, charge.unit, from, None), Some(from)),
            Measure::Calendar { from, to } => (buckets.between(scope, charge.unit, from, to), Some(from)),
            Measure::Ever => (Some(buckets.ever(scope, charge.unit)), None),
        };
        let held = without(self.held.counted(scope, charge, window)?);
        let counted = past?.plus(held)?;
        if !buckets.lacks(from) {
            return Some(counted);
        }
        let exact = exact()?;
        Some(if exact.total()? > counted.total()? {
            exact
        } else {
            counted
        })
    }

    /// The clock went back further than what is kept, so that nobody knows what was spent in the window.
    pub(super) fn is_closed(&self, charge: &Charge) -> bool {
        match (&self.past, Measure::of(charge)) {
            (Past::Buckets(buckets), Measure::Calendar { from, .. }) => {
                let mut scopes = std::iter::once(&charge.scope).chain(&charge.was);
                scopes.any(|scope| buckets.is_closed(scope, from))
            }
            _ => self
                .counters
                .is_closed(&charge.scope, &charge.window_name(), &charge.start),
        }
    }
}

//! The counters behind the limits: whether charges fit, and what each step of a payment does to them.
//!
//! Pure, and shared by every engine: the embedded ledger keeps all counters here; the one on PostgreSQL loads those
//! that a batch touches, decides, and writes them back.

use std::collections::{BTreeMap, HashMap};

use super::entry::WindowCharge;
use bursar_core::policy::budget::{Charge, Excess, PAYEE, PENDING, SINCE_APPROVAL, Window};

/// How many windows are kept per scope and window name, newest first. Older ones no longer count. A charge for one of
/// them means that the clock went back; it is refused instead of counted from zero. A rolling window needs its 61
/// newest buckets.
pub(super) const WINDOWS_KEPT: usize = 64;

/// One window's counter, in the budget's unit (micro-USD, or payments).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub settled: u128,
    /// Held, armed and unknown: the money may still leave, so it counts in full.
    pub open: u128,
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

impl Counter {
    /// `None`: the sum does not fit 128 bits.
    pub fn total(self) -> Option<u128> {
        self.settled.checked_add(self.open)
    }

    pub(super) fn plus(self, other: Self) -> Option<Self> {
        Some(Self {
            settled: self.settled.checked_add(other.settled)?,
            open: self.open.checked_add(other.open)?,
        })
    }
}

/// The start of the window since the last approval, for a scope in which nothing was approved yet.
const NO_APPROVAL: &str = "00000000000000000000";

/// A counter's name: scope, window name, start.
pub type CounterKey = (String, String, String);

/// A counter would exceed 128 bits, or fall below zero. Nothing has changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow;

/// What a step of a payment does to the counters of its windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Open,
    Settle,
    GiveBack,
}

type Starts = BTreeMap<String, Counter>;
type Windows = BTreeMap<String, Starts>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(HashMap<String, Windows>);

impl Counters {
    /// What adds up with a new charge: one counter, or all buckets of a rolling window that are not too old. Buckets
    /// that begin later than the charge's own count too: the clock went back, and that must not empty the window.
    pub(super) fn counted(&self, scope: &str, charge: &Charge, window: &str) -> Option<Counter> {
        match charge.window {
            Window::Rolling(rolling) => {
                let Some(starts) = self.starts(scope, window) else {
                    return Some(Counter::default());
                };
                starts
                    .range(rolling.oldest(&charge.start)..)
                    .try_fold(Counter::default(), |sum, (_, counter)| sum.plus(*counter))
            }
            _ => Some(self.get(scope, window, &charge.start)),
        }
    }

    /// Whether counters of this window began before `start`, so that none is missing from there on.
    pub(super) fn begin_before(&self, scope: &str, window: &str, start: &str) -> bool {
        let starts = self.starts(scope, window);
        let oldest = starts.and_then(|starts| starts.first_key_value());
        oldest.is_some_and(|(oldest, _)| oldest.as_str() < start)
    }

    pub(super) fn of_scopes(&self, scopes: &[String]) -> Self {
        let known = |scope: &String| Some((scope.clone(), self.0.get(scope)?.clone()));
        Self(scopes.iter().filter_map(known).collect())
    }

    /// Puts charges on a window since the last approval into the period that the last approval began. An approved
    /// charge that does not fit begins a new period and counts as zero in it. One that fits counts normally; otherwise
    /// a question that a lower threshold asks would keep this counter from ever filling up.
    pub fn begin(&self, charges: &mut [Charge]) {
        for charge in charges
            .iter_mut()
            .filter(|charge| charge.window == Window::SinceApproval)
        {
            let newest = self
                .starts(&charge.scope, SINCE_APPROVAL)
                .and_then(|starts| starts.last_key_value());
            let (newest, counter) = newest.map_or((NO_APPROVAL, Counter::default()), |(newest, counter)| {
                (newest.as_str(), *counter)
            });
            let total = counter.total().and_then(|total| total.checked_add(charge.amount));
            let begins = charge.excess == Excess::Approved && total.is_none_or(|total| total > charge.cap);
            if begins {
                // Even when the clock went back.
                let next = newest.parse::<u128>().unwrap_or(0).saturating_add(1);
                let next = format!("{next:020}");
                if *charge.start < *next {
                    charge.start = next.into();
                }
                charge.amount = 0;
            } else {
                charge.start = newest.into();
            }
        }
    }

    /// Changes every counter in `charges`, or none.
    pub fn book(&mut self, charges: &[WindowCharge], step: Step) -> Result<(), Overflow> {
        for (done, charge) in charges.iter().enumerate() {
            let before = self.get(charge.scope(), charge.window(), charge.start());
            let Some(after) = before.after(charge, step) else {
                for charge in charges[..done].iter().rev() {
                    self.undo(charge, step);
                }
                return Err(Overflow);
            };
            self.put(charge, after);
        }
        Ok(())
    }

    /// Gives `old` back and books `new`, or changes nothing.
    pub(crate) fn move_open(&mut self, old: &[WindowCharge], new: &[WindowCharge]) -> Result<(), Overflow> {
        self.book(old, Step::GiveBack)?;
        self.book(new, Step::Open).inspect_err(|_| {
            for charge in old {
                self.undo(charge, Step::GiveBack);
            }
        })
    }

    /// Subtracts what a settled payment gives back from its windows, and returns those that changed. A counter that was
    /// dropped no longer counts, so nothing is given back to it. No counter falls below zero: on a shared ledger
    /// another payment may have recreated a dropped one, and no limit depends on the counters of a single log.
    pub fn give_back<'c>(&mut self, back: &'c [WindowCharge]) -> Vec<(&'c WindowCharge, Counter)> {
        let mut changed = Vec::with_capacity(back.len());
        for charge in back {
            let known = self
                .0
                .get_mut(charge.scope())
                .and_then(|windows| windows.get_mut(charge.window()))
                .and_then(|starts| starts.get_mut(charge.start()));
            if let Some(counter) = known {
                counter.settled = counter.settled.saturating_sub(charge.amount());
                changed.push((charge, *counter));
            }
        }
        changed
    }

    /// Forgets counters of zero.
    pub(super) fn drop_empty(&mut self, charges: &[WindowCharge]) {
        for charge in charges {
            if let Some(windows) = self.0.get_mut(charge.scope()) {
                if let Some(starts) = windows.get_mut(charge.window()) {
                    if starts.get(charge.start()) == Some(&Counter::default()) {
                        starts.remove(charge.start());
                    }
                    if starts.is_empty() {
                        windows.remove(charge.window());
                    }
                }
                if windows.is_empty() {
                    self.0.remove(charge.scope());
                }
            }
        }
    }

    fn undo(&mut self, charge: &WindowCharge, step: Step) {
        let mut counter = self.get(charge.scope(), charge.window(), charge.start());
        let amount = charge.amount();
        match step {
            Step::Open => counter.open -= amount,
            Step::GiveBack => counter.open += amount,
            Step::Settle => {
                counter.open += amount;
                if charge.window() != PENDING {
                    counter.settled -= amount;
                }
            }
        }
        self.put(charge, counter);
    }

    pub fn get(&self, scope: &str, window: &str, start: &str) -> Counter {
        self.starts(scope, window)
            .and_then(|starts| starts.get(start))
            .copied()
            .unwrap_or_default()
    }

    /// All counters of a scope: window name, start, counter.
    pub fn of_scope(&self, scope: &str) -> impl Iterator<Item = (&str, &str, Counter)> {
        self.0.get(scope).into_iter().flatten().flat_map(|(window, starts)| {
            starts
                .iter()
                .map(move |(start, counter)| (window.as_str(), start.as_str(), *counter))
        })
    }

    /// All counters: scope, window name, start, counter.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &str, Counter)> {
        self.0.keys().flat_map(|scope| {
            self.of_scope(scope)
                .map(move |(window, start, counter)| (scope.as_str(), window, start, counter))
        })
    }

    /// Restores a stored counter.
    pub fn restore(&mut self, (scope, window, start): CounterKey, counter: Counter) {
        let windows = self.0.entry(scope).or_default();
        windows.entry(window).or_default().insert(start, counter);
    }

    /// Drops the oldest windows of a charge's kind when there are too many, unless money in them is still open. Payees
    /// never expire: a person approved each of them once and need not be asked again.
    pub(crate) fn drop_oldest(&mut self, charge: &WindowCharge, dropped: &mut Vec<CounterKey>) {
        if charge.window() == PAYEE {
            return;
        }
        let windows = self.0.get_mut(charge.scope());
        let Some(starts) = windows.and_then(|windows| windows.get_mut(charge.window())) else {
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

    pub(super) fn is_closed(&self, scope: &str, window: &str, start: &str) -> bool {
        self.starts(scope, window).is_some_and(|starts| {
            window != PAYEE
                && starts.len() >= WINDOWS_KEPT
                && starts
                    .first_key_value()
                    .is_some_and(|(oldest, _)| start < oldest.as_str())
        })
    }

    fn starts(&self, scope: &str, window: &str) -> Option<&Starts> {
        self.0.get(scope)?.get(window)
    }

    fn put(&mut self, charge: &WindowCharge, counter: Counter) {
        // Looked up first, because nearly always all three names exist already.
        let known = self
            .0
            .get_mut(charge.scope())
            .and_then(|windows| windows.get_mut(charge.window()));
        match known.and_then(|starts| starts.get_mut(charge.start())) {
            Some(known) => *known = counter,
            None => self.restore((charge.0.clone(), charge.1.clone(), charge.2.clone()), counter),
        }
    }
}

impl Counter {
    fn after(self, charge: &WindowCharge, step: Step) -> Option<Self> {
        let (Self { mut settled, mut open }, amount) = (self, charge.amount());
        match step {
            Step::Open => {
                open = open.checked_add(amount)?;
                settled.checked_add(open)?;
            }
            Step::GiveBack => open = open.checked_sub(amount)?,
            Step::Settle => {
                open = open.checked_sub(amount)?;
                // A settled payment is no longer pending.
                if charge.window() != PENDING {
                    settled = settled.checked_add(amount)?;
                }
            }
        }
        Some(Self { settled, open })
    }
}

/// Whether the bucket or window at `start` adds up with a new charge.
pub(super) fn is_of(charge: &Charge, start: &str) -> bool {
    match charge.window {
        Window::Rolling(rolling) => *start >= *rolling.oldest(&charge.start),
        _ => *start == *charge.start,
    }
}

#[cfg(test)]
mod tests;

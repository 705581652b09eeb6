//! When one budget makes another one pointless: whatever exceeds the second one has exceeded the first one already.

use super::budget::{Budget, Unit, Window};

impl Budget {
    /// Whether every payment that exceeds `other` exceeds this one too, given that this one's scope contains all payments
    /// of the other one's: of the same scope, of a group's agent, or of the account.
    ///
    /// Errs on the side of "no". Calendar windows are those of one time zone.
    pub fn is_at_least_as_tight_as(&self, other: &Self) -> bool {
        self.unit() == other.unit()
            && self.cap() <= other.cap()
            && (!self.asks() || other.asks())
            && contains(self.window(), other.window())
    }
}

/// Whether everything that counts in `inner` at any moment counts in `outer` too.
fn contains(outer: Window, inner: Window) -> bool {
    use Window::{Day, Hour, Month, Payee, Pending, Rolling, SinceApproval, Total, Week};
    match (outer, inner) {
        (Payee | SinceApproval | Pending, _) => outer == inner,
        (_, Payee | SinceApproval | Pending) => false,
        (Total, _) => true,
        (_, Total) => false,
        (Rolling(outer), Rolling(inner)) if outer == inner => true,
        // The buckets of the shorter one may begin a sixtieth of its length earlier.
        (Rolling(outer), Rolling(inner)) => outer.seconds() / 61 > inner.seconds() / 60,
        (Rolling(outer), _) => longest_s(inner).is_some_and(|longest| outer.seconds() >= longest),
        (_, Rolling(_)) => false,
        (Hour, Hour) | (Day, Hour | Day) | (Week, Hour | Day | Week) | (Month, Hour | Day | Month) => true,
        (Hour | Day | Week | Month, _) => false,
    }
}

/// No calendar window lasts longer than this, whatever the clocks of its zone do.
const fn longest_s(window: Window) -> Option<u32> {
    const DAY: u32 = 86_400;
    match window {
        Window::Hour => Some(3 * 3_600),
        Window::Day => Some(2 * DAY),
        Window::Week => Some(8 * DAY),
        Window::Month => Some(32 * DAY),
        Window::Total | Window::Rolling(_) | Window::Pending | Window::SinceApproval | Window::Payee => None,
    }
}

/// The tightest bound on the price of one payment among these budgets that nobody can approve an exception to.
pub fn most_per_payment<'b>(budgets: impl Iterator<Item = &'b Budget>) -> Option<&'b Budget> {
    budgets
        .filter(|budget| !budget.asks() && budget.unit() == Unit::MicroUsd)
        .filter(|budget| !matches!(budget.window(), Window::Payee | Window::SinceApproval))
        .min_by_key(|budget| budget.cap())
}

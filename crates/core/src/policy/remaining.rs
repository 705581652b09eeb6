//! What an agent may still spend after a payment: the limit that will stop it first.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::budget::{Charge, Excess, Unit, Window};

/// The limit that further payments like the last one reach first, and what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Where the limit is written in limits.toml, such as `agents.research.day`.
    pub rule: Arc<str>,
    pub unit: Unit,
    /// In `unit`.
    pub left: u128,
    /// When the window ends and the limit counts from zero again. A rolling window has no such moment.
    pub resets_at: Option<Timestamp>,
}

impl Remaining {
    /// Of `charges`, whose counters now contain `totals`. `None` if nothing bounds what is spent over time.
    ///
    /// A limit in dollars and a limit in payments are compared by how many more payments of this price they allow.
    pub fn least(charges: &[Charge], totals: &[u128]) -> Option<Self> {
        let bounding = charges.iter().zip(totals).filter(|(charge, _)| bounds(charge));
        let least = bounding.min_by(|a, b| reached_first(*a, *b))?;
        let (charge, &total) = least;
        Some(Self {
            rule: charge.rule.clone(),
            unit: charge.unit,
            left: charge.cap.saturating_sub(total),
            resets_at: charge.ends.filter(|_| charge.window.is_calendar()),
        })
    }
}

/// `max_pending` empties by itself as payments settle, and a limit that a person has just lifted stops nothing.
fn bounds(charge: &Charge) -> bool {
    let counts_spending = !matches!(charge.window, Window::Pending | Window::SinceApproval | Window::Payee);
    counts_spending && charge.amount > 0 && charge.excess != Excess::Approved
}

/// Compares `left / amount` without dividing.
fn reached_first((a, a_total): (&Charge, &u128), (b, b_total): (&Charge, &u128)) -> Ordering {
    let left = |charge: &Charge, total: u128| charge.cap.saturating_sub(total);
    let (a_left, b_left) = (left(a, *a_total), left(b, *b_total));
    match (a_left.checked_mul(b.amount), b_left.checked_mul(a.amount)) {
        (Some(a), Some(b)) => a.cmp(&b),
        // Caps of that size stop nobody; which of them is named does not matter.
        _ => (a_left / a.amount).cmp(&(b_left / b.amount)),
    }
}

/// As the header field `Bursar-Remaining` says it: `4.69 USD; rule="agents.research.day"; resets_at="2026-12-01T00:00:00Z"`.
impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.rule.replace('\\', "\\\\").replace('"', "\\\"");
        write!(f, "{}; rule=\"{rule}\"", self.unit.words(self.left))?;
        match self.resets_at {
            Some(at) => write!(f, "; resets_at=\"{at}\""),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(rule: &str, window: Window, unit: Unit, amount: u128, cap: u128) -> Charge {
        Charge {
            scope: "agent:a".into(),
            was: None,
            window,
            unit,
            start: "s".into(),
            ends: Timestamp::from_second(1_800_000_000).ok(),
            amount,
            cap,
            rule: rule.into(),
            excess: Excess::Denied,
        }
    }

    #[test]
    fn dollars_and_payments_are_compared_by_how_many_more_payments_fit() {
        let day = charge("agents.a.day", Window::Day, Unit::MicroUsd, 10_000, 5_000_000);
        let count = charge("agents.a.count.day", Window::Day, Unit::Payments, 1, 1000);
        let charges = [day, count];
        // 1.00 USD is a hundred payments; 99 are fewer.
        let least = Remaining::least(&charges, &[4_000_000, 901]).unwrap();
        assert_eq!((&*least.rule, least.left), ("agents.a.count.day", 99));
        let least = Remaining::least(&charges, &[4_000_000, 899]).unwrap();
        assert_eq!((&*least.rule, least.left), ("agents.a.day", 1_000_000));
        assert_eq!(
            least.to_string(),
            "1.00 USD; rule=\"agents.a.day\"; resets_at=\"2027-01-15T08:00:00Z\""
        );
    }

    #[test]
    fn what_empties_by_itself_or_was_lifted_binds_nothing() {
        let pending = charge("agents.a.max_pending", Window::Pending, Unit::MicroUsd, 1, 1);
        let free = charge("agents.a.total", Window::Total, Unit::MicroUsd, 0, 1);
        let lifted = Charge {
            excess: Excess::Approved,
            ..charge("agents.a.day", Window::Day, Unit::MicroUsd, 1, 1)
        };
        assert_eq!(Remaining::least(&[pending, free, lifted], &[1, 1, 9]), None);
    }

    #[test]
    fn a_limit_that_was_lowered_below_what_is_spent_leaves_nothing() {
        let total = charge("agents.a.total", Window::Total, Unit::MicroUsd, 5, 10);
        let huge = charge("account.total", Window::Total, Unit::MicroUsd, 5, u128::MAX);
        let least = Remaining::least(&[huge, total], &[50, 50]).unwrap();
        assert_eq!((&*least.rule, least.left, least.resets_at), ("agents.a.total", 0, None));
    }
}

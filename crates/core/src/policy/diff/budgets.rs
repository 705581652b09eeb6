//! Budgets of the stricter file that the other file does not keep.

use jiff::{SignedDuration, Timestamp};

use super::super::budget::{Budget, Unit, Window};
use super::super::calendar::Calendar;
use super::super::limits::Limits;
use super::probe::{Before, Pair, Probe};
use super::space::Space;

/// The budgets that one agent's payments are charged to in both files.
pub(super) struct Caps<'a> {
    strict: Vec<&'a Budget>,
    loose: Vec<&'a Budget>,
    loose_calendar: &'a Calendar,
    strict_calendar: &'a Calendar,
    /// The scopes in both files, the widest first.
    scopes: Vec<String>,
    same_group: bool,
    same_zone: bool,
}

impl<'a> Caps<'a> {
    pub(super) fn of(strict: &'a Limits, loose: &'a Limits, agent: &str) -> Self {
        let budgets = |limits: &'a Limits| -> Vec<&'a Budget> {
            let levels = limits.agents.get(agent).map(|levels| limits.levels(levels));
            levels.into_iter().flatten().flat_map(|level| &level.budgets).collect()
        };
        let (old, new) = (strict.group_of(agent), loose.group_of(agent));
        let mut scopes = vec!["account".to_owned()];
        scopes.extend(old.map(|group| format!("group:{group}")));
        scopes.extend(new.filter(|_| new != old).map(|group| format!("group:{group}")));
        scopes.push(format!("agent:{agent}"));
        Self {
            strict: budgets(strict),
            loose: budgets(loose),
            loose_calendar: &loose.calendar,
            strict_calendar: &strict.calendar,
            scopes,
            same_group: old == new,
            same_zone: strict.calendar.is_same_as(&loose.calendar),
        }
    }

    pub(super) fn not_kept(&self) -> Vec<&'a Budget> {
        let is_kept = |budget: &&Budget| self.loose.iter().any(|other| self.implies(other, budget));
        self.strict.iter().filter(|budget| !is_kept(budget)).copied().collect()
    }

    /// Whether whatever exceeds `budget` exceeds `other` too.
    fn implies(&self, other: &Budget, budget: &Budget) -> bool {
        let comparable = self.same_zone || !(other.window().is_calendar() && budget.window().is_calendar());
        comparable && self.contains(other, budget) && other.is_at_least_as_tight_as(budget)
    }

    /// Whether all that counts in `inner`'s scope counts in `outer`'s.
    fn contains(&self, outer: &Budget, inner: &Budget) -> bool {
        if outer.scope() == inner.scope() {
            // What was spent under a former name counts only where the file says so.
            return inner.was().is_none() || inner.was() == outer.was();
        }
        // What one scope knows or has had approved says nothing about another.
        if matches!(outer.window(), Window::Payee | Window::SinceApproval) {
            return false;
        }
        match (outer.scope(), inner.scope()) {
            ("account", _) => true,
            // An agent that joins a group brings nothing along.
            (outer, inner) => self.same_group && outer.starts_with("group:") && inner.starts_with("agent:"),
        }
    }

    /// Purchases after something was spent, of which one may show that `budget` is not kept.
    pub(super) fn probes(&self, budget: &Budget, space: &Space, pair: Pair) -> Vec<Probe> {
        let amounts: Vec<u128> = [Some(1), pair.least()].into_iter().flatten().collect();
        let mut probes = Vec::new();
        for (now, before) in self.moments(budget, space.at()) {
            for amount in &amounts {
                // The least that makes one more too much, and a little less, which other budgets may have room for.
                let spent = [budget.cap(), budget.cap().saturating_sub(*amount).saturating_add(1)];
                for spent in spent {
                    let payments = if budget.unit() == Unit::Payments { spent } else { 1 };
                    let spent = Before {
                        scope: String::new(),
                        usd: spent,
                        payments,
                        at: before,
                        open: budget.window() == Window::Pending,
                    };
                    probes.push(Probe {
                        at: now,
                        before: self.in_scopes(budget, &spent),
                        payee_known: budget.window() != Window::Payee,
                        ..space.common_probe(pair, *amount)
                    });
                }
            }
        }
        probes
    }

    /// What the budget's scope has spent, every wider one has spent too.
    fn in_scopes(&self, budget: &Budget, spent: &Before) -> Vec<Before> {
        let is_wider = |scope: &str| match scope {
            "account" => true,
            group if group.starts_with("group:") => {
                group == budget.scope() || (self.same_group && budget.scope().starts_with("agent:"))
            }
            agent => agent == budget.scope(),
        };
        let scopes = self.scopes.iter().filter(|scope| is_wider(scope));
        scopes
            .map(|scope| Before {
                scope: scope.clone(),
                ..spent.clone()
            })
            .collect()
    }

    /// When the purchase is made, and when it was spent before: now, earlier in the same windows, and on both sides of the
    /// ends that a window has in one file only.
    fn moments(&self, budget: &Budget, at: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let hours = |hours: i64| SignedDuration::from_hours(hours);
        // The middle of a month and of a week, in the afternoon.
        let calm = self.strict_calendar.calm_moment(at).unwrap_or(at);
        let ago = [0, 2, 3, 20, 25, 49, 8 * 24, 13 * 24, 40 * 24, 400 * 24];
        let mut moments = Vec::new();
        for now in [at, calm] {
            for ago in ago {
                moments.extend(now.checked_sub(hours(ago)).ok().map(|before| (now, before)));
            }
        }
        if budget.window().is_calendar() {
            for window in [Window::Hour, Window::Day, Window::Week, Window::Month] {
                for calendar in [self.loose_calendar, self.strict_calendar] {
                    let end = calendar.period(window, calm).ends;
                    let before = end.and_then(|end| end.checked_sub(SignedDuration::from_secs(1)).ok());
                    moments.extend(end.zip(before));
                }
            }
        }
        moments
    }
}

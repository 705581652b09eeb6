//! Budgets, and what one payment charges to them.
//!
//! A budget is a cap on one window of one scope. The ledger adds a [`Charge`] to the counter named by (scope, window,
//! start), and refuses it if the sum would exceed the cap. Caps are only in `limits.toml`, never in the store (R218,
//! R220).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::approval::Approvals;
use super::calendar::{Calendar, Period};
use crate::account::Account;
use crate::money::MicroUsd;

pub use super::window::{Rolling, Window};

/// What happens if a charge does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// The payment is refused.
    Denied,
    /// The payment is refused unless a person approves it.
    Asked,
    /// It does not block the payment, because a person is asked. It counts once the payment is armed with their
    /// approval.
    Approved,
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Millionths of a US dollar.
    MicroUsd,
    /// Payments; each counts 1 whatever its price.
    Payments,
}

/// What one payment adds to one budget. It stays in this window, however late it is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// `account`, `group:eng` or `agent:research`.
    pub scope: Arc<str>,
    /// The scope's former name, `group:old`, whose payments count too.
    pub was: Option<Arc<str>>,
    pub window: Window,
    pub unit: Unit,
    /// The start of the window, as a string that names the counter:
    ///
    /// * calendar windows: the local start in RFC 9557 form, `2026-11-20T00:00:00+01:00[Europe/Berlin]`. The zone is
    ///   part of it. What counts in such a window is summed from quarter-hours, whatever zone was in force before.
    /// * `total` and `max_pending`: `0`.
    /// * rolling windows: the start of the newest bucket, ten digits of Unix seconds, so that strings sort by time.
    /// * `approval_every`: twenty digits of Unix microseconds, or empty, because the ledger knows when the count last
    ///   began.
    /// * payees: the payee's name.
    pub start: Arc<str>,
    /// When the window ends, or the bucket of a rolling window. `None` if it does not end at any time.
    pub ends: Option<Timestamp>,
    /// In `unit`.
    pub amount: u128,
    /// In `unit`; the sum may reach it but not exceed it.
    pub cap: u128,
    /// Where the cap is written in limits.toml: `agents.research.day`, `agents.research.count.hour`.
    pub rule: Arc<str>,
    pub excess: Excess,
}

/// One cap of limits.toml; its names are built once, when the file is read.
#[derive(Clone, Debug)]
pub struct Budget {
    scope: Arc<str>,
    was: Option<Arc<str>>,
    window: Window,
    unit: Unit,
    cap: u128,
    rule: Arc<str>,
    excess: Excess,
}

impl Charge {
    /// A stable name for the counter within its scope: `day` for amounts, `count.day` for payments, `rolling.86400`,
    /// `pending`.
    pub fn window_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match (self.unit, self.window) {
            (_, Window::Pending) => PENDING,
            (_, Window::SinceApproval) => SINCE_APPROVAL,
            (_, Window::Payee) => PAYEE,
            (Unit::MicroUsd, Window::Rolling(rolling)) => return Cow::Owned(format!("rolling.{}", rolling.seconds())),
            (Unit::Payments, Window::Rolling(rolling)) => {
                return Cow::Owned(format!("count.rolling.{}", rolling.seconds()));
            }
            (Unit::MicroUsd, window) => window.name(),
            (Unit::Payments, Window::Hour) => "count.hour",
            (Unit::Payments, Window::Day) => "count.day",
            (Unit::Payments, Window::Week) => "count.week",
            (Unit::Payments, Window::Month) => "count.month",
            (Unit::Payments, Window::Total) => "count.total",
        })
    }
}

/// The counter of `max_pending`. Code that books by name must know that settled money leaves it.
pub const PENDING: &str = "pending";
/// The counters of `approval_every`, one for each time between two approvals.
pub const SINCE_APPROVAL: &str = "approval_every";
/// The counters of `approval_first_time_payee`, one for each payee.
pub const PAYEE: &str = "count.payee";

impl Unit {
    /// The unit of the counter with this [`Charge::window_name`].
    pub fn of_window(name: &str) -> Self {
        match name.starts_with("count.") {
            true => Self::Payments,
            false => Self::MicroUsd,
        }
    }

    /// `5.00` (US dollars) or `200` (payments).
    pub fn figure(self, value: u128) -> String {
        match self {
            Self::MicroUsd => MicroUsd::new(value).to_string(),
            Self::Payments => value.to_string(),
        }
    }

    /// `5.00 USD`, `1 payment`, `200 payments`.
    pub fn words(self, value: u128) -> String {
        let figure = self.figure(value);
        match self {
            Self::MicroUsd => format!("{figure} USD"),
            Self::Payments if value == 1 => format!("{figure} payment"),
            Self::Payments => format!("{figure} payments"),
        }
    }
}

impl Budget {
    /// `section` is the path in limits.toml: `account`, `groups.eng`, `agents.research`.
    pub fn new(scope: &Arc<str>, section: &str, window: Window, unit: Unit, cap: u128) -> Self {
        let key = window.name();
        let rule = match unit {
            Unit::MicroUsd => format!("{section}.{key}"),
            Unit::Payments => format!("{section}.count.{key}"),
        };
        Self::under(rule, scope, window, unit, cap)
    }

    /// Like [`Budget::new`], for a cap of money that is written at `rule`.
    pub fn of_money(rule: String, scope: &Arc<str>, window: Window, cap: u128) -> Self {
        Self::under(rule, scope, window, Unit::MicroUsd, cap)
    }

    /// The budget that asks about payees a scope has not paid before.
    pub fn of_payees(rule: String, scope: &Arc<str>) -> Self {
        Self::under(rule, scope, Window::Payee, Unit::Payments, u128::MAX)
    }

    fn under(rule: String, scope: &Arc<str>, window: Window, unit: Unit, cap: u128) -> Self {
        Self {
            scope: scope.clone(),
            was: None,
            window,
            unit,
            cap,
            rule: rule.into(),
            excess: Excess::Denied,
        }
    }

    /// The same budget, which also counts what was spent under a former name of its scope.
    #[must_use]
    pub fn formerly(self, was: Option<&Arc<str>>) -> Self {
        Self {
            was: was.cloned(),
            ..self
        }
    }

    /// The same budget, but a person may approve payments that exceed it.
    pub fn asking(self) -> Self {
        Self {
            excess: Excess::Asked,
            ..self
        }
    }

    /// What happens to a payment that does not fit, which depends on the rules that a person is being asked about. An
    /// approval lifts only the rules that the question names (R82). `approval_every` counts what was spent since the last
    /// approval, whatever that was about, so that every approval satisfies it.
    pub(super) fn excess(&self, approvals: Approvals, asked: Option<&[String]>) -> Excess {
        let names_it = |rules: &[String]| rules.iter().any(|rule| **rule == *self.rule);
        let is_lifted = |rules: &[String]| names_it(rules) || self.window == Window::SinceApproval;
        match self.excess {
            Excess::Asked if asked.is_some_and(is_lifted) => Excess::Approved,
            Excess::Asked if approvals == Approvals::None => Excess::Denied,
            excess => excess,
        }
    }

    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The former name of its scope.
    pub fn was(&self) -> Option<&str> {
        self.was.as_deref()
    }

    pub const fn window(&self) -> Window {
        self.window
    }

    pub const fn unit(&self) -> Unit {
        self.unit
    }

    pub const fn cap(&self) -> u128 {
        self.cap
    }

    /// `5.00` or `200`; a budget that asks about new payees has none.
    pub fn limit(&self) -> Option<String> {
        (self.window != Window::Payee).then(|| self.unit.figure(self.cap))
    }

    /// Its path in limits.toml.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Whether a person can approve payments that exceed it.
    pub fn asks(&self) -> bool {
        self.excess != Excess::Denied
    }

    /// Whether it bounds what is spent over time (R51). `max_pending` alone would let any sum through bit by bit, and
    /// so would `approval_every` with approvals.
    pub const fn bounds_spending(&self) -> bool {
        matches!(self.unit, Unit::MicroUsd) && !matches!(self.window, Window::Pending | Window::SinceApproval)
    }

    /// What the file says happens if a charge does not fit, whether a person can be asked or not.
    pub(super) const fn written_excess(&self) -> Excess {
        self.excess
    }

    pub(super) fn charge(&self, price: MicroUsd, payee: &Account, excess: Excess, periods: &mut Periods<'_>) -> Charge {
        let Period { start, ends } = match (self.window, excess) {
            (Window::Payee, _) => Period::without_end(payee.to_string()),
            (Window::SinceApproval, Excess::Approved) => Period::without_end(micros(periods.now)),
            (window, _) => periods.of(window),
        };
        Charge {
            scope: self.scope.clone(),
            was: self.was.clone(),
            window: self.window,
            unit: self.unit,
            start,
            ends,
            amount: match self.unit {
                Unit::MicroUsd => price.get(),
                Unit::Payments => 1,
            },
            cap: self.cap,
            rule: self.rule.clone(),
            excess,
        }
    }
}

/// Twenty digits, so that the strings sort by time.
fn micros(now: Timestamp) -> String {
    format!("{:020}", now.as_microsecond().max(0))
}

/// The windows that contain one instant, each computed at most once however many budgets need it.
pub(super) struct Periods<'a> {
    calendar: &'a Calendar,
    now: Timestamp,
    known: BTreeMap<Window, Period>,
}

impl<'a> Periods<'a> {
    pub(super) fn new(calendar: &'a Calendar, now: Timestamp) -> Self {
        Self {
            calendar,
            now,
            known: BTreeMap::new(),
        }
    }

    fn of(&mut self, window: Window) -> Period {
        let known = self.known.entry(window);
        known
            .or_insert_with(|| match window {
                Window::Rolling(rolling) => {
                    let (start, ends) = rolling.bucket(self.now);
                    Period {
                        start: start.into(),
                        ends,
                    }
                }
                Window::Pending => Period::without_end("0".to_owned()),
                Window::SinceApproval | Window::Payee => Period::without_end(String::new()),
                window => self.calendar.period(window, self.now),
            })
            .clone()
    }
}

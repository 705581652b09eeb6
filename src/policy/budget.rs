//! Budgets, and what one payment charges to them.
//!
//! A budget is a cap on one window of one scope. The ledger adds a [`Charge`] to the counter named by (scope, window,
//! start) and denies it when the sum would pass the cap; caps live in `limits.toml` only, never in the store (ledger
//! digest §2.4, §2.5).

use std::sync::Arc;

use jiff::Timestamp;

use super::calendar::{Calendar, Period};
use crate::money::MicroUsd;

/// Calendar windows in the file's time zone, and `total`, which never ends (Ruling 50).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    Hour,
    Day,
    Week,
    Month,
    Total,
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Millionths of a US dollar.
    MicroUsd,
    /// Payments, each of which counts 1 whatever its price.
    Payments,
}

/// What one payment adds to one budget. It belongs to this window for good, however late it is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// `account`, `group:eng` or `agent:research`.
    pub scope: Arc<str>,
    pub window: Window,
    pub unit: Unit,
    /// The local start of the window as RFC 9557 text, `2026-11-20T00:00:00+01:00[Europe/Berlin]`; `0` for `total`.
    /// The zone is part of it, so another zone in the file is another window.
    pub start: Arc<str>,
    /// When the window ends; never for `total`.
    pub ends: Option<Timestamp>,
    /// In `unit`.
    pub amount: u128,
    /// In `unit`; the sum may reach it, not pass it.
    pub cap: u128,
    /// Where the cap is written in limits.toml: `agents.research.day`, `agents.research.count.hour`.
    pub rule: Arc<str>,
}

/// One cap of limits.toml, its names made once when the file is read.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    scope: Arc<str>,
    window: Window,
    unit: Unit,
    cap: u128,
    rule: Arc<str>,
}

impl Window {
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Total];

    /// The key in limits.toml.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// Whether it needs a time zone to know where it starts.
    pub const fn is_calendar(self) -> bool {
        !matches!(self, Self::Total)
    }
}

impl Charge {
    /// `day` for amounts, `count.day` for payments: a stable name of the counter inside its scope.
    pub const fn window_name(&self) -> &'static str {
        match (self.unit, self.window) {
            (Unit::MicroUsd, window) => window.name(),
            (Unit::Payments, Window::Hour) => "count.hour",
            (Unit::Payments, Window::Day) => "count.day",
            (Unit::Payments, Window::Week) => "count.week",
            (Unit::Payments, Window::Month) => "count.month",
            (Unit::Payments, Window::Total) => "count.total",
        }
    }
}

impl Unit {
    /// `5.00` (US dollars) or `200` (payments).
    pub(crate) fn figure(self, value: u128) -> String {
        match self {
            Self::MicroUsd => MicroUsd::new(value).to_string(),
            Self::Payments => value.to_string(),
        }
    }

    /// `5.00 USD`, `1 payment`, `200 payments`.
    pub(crate) fn words(self, value: u128) -> String {
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
    pub(crate) fn new(scope: &Arc<str>, section: &str, window: Window, unit: Unit, cap: u128) -> Self {
        let key = window.name();
        let rule = match unit {
            Unit::MicroUsd => format!("{section}.{key}"),
            Unit::Payments => format!("{section}.count.{key}"),
        };
        Self {
            scope: scope.clone(),
            window,
            unit,
            cap,
            rule: rule.into(),
        }
    }

    pub(crate) const fn counts_money(&self) -> bool {
        matches!(self.unit, Unit::MicroUsd)
    }

    pub(super) fn charge(&self, price: MicroUsd, periods: &mut Periods<'_>) -> Charge {
        let Period { start, ends } = periods.of(self.window).clone();
        Charge {
            scope: self.scope.clone(),
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
        }
    }
}

/// The windows that hold one instant, each worked out at most once however many budgets ask for it.
pub(super) struct Periods<'a> {
    calendar: &'a Calendar,
    now: Timestamp,
    known: [Option<Period>; Window::ALL.len()],
}

impl<'a> Periods<'a> {
    pub(super) fn new(calendar: &'a Calendar, now: Timestamp) -> Self {
        Self {
            calendar,
            now,
            known: [const { None }; Window::ALL.len()],
        }
    }

    fn of(&mut self, window: Window) -> &Period {
        self.known[window as usize].get_or_insert_with(|| self.calendar.period(window, self.now))
    }
}

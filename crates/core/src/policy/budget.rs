//! Budgets, and what one payment charges to them.
//!
//! A budget is a cap on one window of one scope. The ledger adds a [`Charge`] to the counter named by (scope, window,
//! start) and denies it when the sum would pass the cap; caps live in `limits.toml` only, never in the store (R218,
//! R220).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::approval::Approvals;
use super::calendar::{Calendar, Period};
use crate::account::Account;
use crate::money::MicroUsd;

/// What span of payments one cap holds together (R50).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// A calendar hour in the file's time zone; so are the next three.
    Hour,
    Day,
    Week,
    Month,
    /// Never ends.
    Total,
    /// The last so many seconds, whenever one looks.
    Rolling(Rolling),
    /// No span of time: what is held, armed or unknown at this moment (`max_pending`). What is settled leaves it.
    Pending,
    /// Since a person last approved a payment of the scope that was over it (`approval_every`, threat 1.3).
    SinceApproval,
    /// No span of time: what was ever paid to one payee (`approval_first_time_payee`). Its cap is none: what it takes is that
    /// something was settled before.
    Payee,
}

/// A rolling window of n seconds in 60 buckets of n/60 seconds, aligned to the Unix epoch.
///
/// The sum takes the 61 newest buckets, so the whole of the oldest one, of which only a part lies in the window: never more
/// than the cap within any n seconds, but room comes back up to n/60 seconds late (R218).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rolling {
    bucket_s: u32,
}

/// What becomes of a charge that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// The payment is refused.
    Denied,
    /// The payment is refused unless a person approves it.
    Asked,
    /// It is no obstacle: a person is asked. It counts once the payment is armed with their approval.
    Approved,
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
    /// The local start of the window as RFC 9557 text, `2026-11-20T00:00:00+01:00[Europe/Berlin]`; the zone is part of it, so
    /// another zone in the file is another window. `0` for `total` and `max_pending`. For a rolling window the start of its
    /// newest bucket: ten digits of Unix seconds, so that the order of texts is the order of time. For `approval_every` twenty
    /// digits of Unix microseconds, or nothing: the ledger knows when the count last began. For a payee its name.
    pub start: Arc<str>,
    /// When the window, or the bucket of a rolling one, ends; never for those that time does not end.
    pub ends: Option<Timestamp>,
    /// In `unit`.
    pub amount: u128,
    /// In `unit`; the sum may reach it, not pass it.
    pub cap: u128,
    /// Where the cap is written in limits.toml: `agents.research.day`, `agents.research.count.hour`.
    pub rule: Arc<str>,
    pub excess: Excess,
}

/// One cap of limits.toml, its names made once when the file is read.
#[derive(Clone, Debug)]
pub struct Budget {
    scope: Arc<str>,
    window: Window,
    unit: Unit,
    cap: u128,
    rule: Arc<str>,
    excess: Excess,
}

impl Window {
    /// Those that have a key of their own, and may stand under `count`.
    pub const NAMED: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Total];

    /// The key in limits.toml; for a rolling window and `max_pending` the section's or the level's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
            Self::Rolling(_) => "rolling",
            Self::Pending => "max_pending",
            Self::SinceApproval => "approval_every",
            Self::Payee => "approval_first_time_payee",
        }
    }

    /// Whether it needs a time zone to know where it starts.
    pub const fn is_calendar(self) -> bool {
        matches!(self, Self::Hour | Self::Day | Self::Week | Self::Month)
    }
}

impl Rolling {
    const BUCKETS: u32 = 60;

    /// `None`: not a whole number of minutes, or none at all. Then its buckets would not be whole seconds.
    pub const fn of_seconds(seconds: u32) -> Option<Self> {
        if seconds == 0 || !seconds.is_multiple_of(Self::BUCKETS) {
            return None;
        }
        Some(Self {
            bucket_s: seconds / Self::BUCKETS,
        })
    }

    pub const fn seconds(self) -> u32 {
        self.bucket_s * Self::BUCKETS
    }

    /// Start of the oldest bucket that counts together with the one that starts at `newest`.
    pub fn oldest(self, newest: &str) -> String {
        let newest: u64 = newest.parse().unwrap_or(0);
        Self::text(newest.saturating_sub(u64::from(self.seconds())))
    }

    /// Start and end of the bucket that holds `now`.
    fn bucket(self, now: Timestamp) -> (String, Option<Timestamp>) {
        let now = u64::try_from(now.as_second()).unwrap_or(0);
        let start = now - now % u64::from(self.bucket_s);
        let end = i64::try_from(start + u64::from(self.bucket_s));
        (
            Self::text(start),
            end.ok().and_then(|end| Timestamp::from_second(end).ok()),
        )
    }

    fn text(start: u64) -> String {
        format!("{start:010}")
    }
}

impl Charge {
    /// A stable name of the counter inside its scope: `day` for amounts, `count.day` for payments, `rolling.86400`, `pending`.
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

/// The counter of `max_pending`; whoever books by name alone must know that settled money leaves it.
pub const PENDING: &str = "pending";
/// The counters of `approval_every`, one for each time between two approvals.
pub const SINCE_APPROVAL: &str = "approval_every";
/// The counters of `approval_first_time_payee`, one for each payee.
pub const PAYEE: &str = "count.payee";

impl Unit {
    /// What the counter of that name holds, by [`Charge::window_name`].
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

    /// As [`Budget::new`], for a cap of money that stands at `rule`.
    pub fn of_money(rule: String, scope: &Arc<str>, window: Window, cap: u128) -> Self {
        Self::under(rule, scope, window, Unit::MicroUsd, cap)
    }

    /// Of the payees that a scope has paid.
    pub fn of_payees(rule: String, scope: &Arc<str>) -> Self {
        Self::under(rule, scope, Window::Payee, Unit::Payments, u128::MAX)
    }

    fn under(rule: String, scope: &Arc<str>, window: Window, unit: Unit, cap: u128) -> Self {
        Self {
            scope: scope.clone(),
            window,
            unit,
            cap,
            rule: rule.into(),
            excess: Excess::Denied,
        }
    }

    /// A person may let a payment pass it.
    pub fn asking(self) -> Self {
        Self {
            excess: Excess::Asked,
            ..self
        }
    }

    /// What becomes of a payment that does not fit, whether or not a person is asked about it already.
    pub(super) fn excess(&self, approvals: Approvals, is_asked: bool) -> Excess {
        match self.excess {
            Excess::Asked if is_asked => Excess::Approved,
            Excess::Asked if approvals == Approvals::None => Excess::Denied,
            excess => excess,
        }
    }

    /// Whether it bounds what is spent over time (R51): `max_pending` alone would let any sum through, bit by bit, and
    /// `approval_every` with a person's leave.
    pub const fn bounds_spending(&self) -> bool {
        matches!(self.unit, Unit::MicroUsd) && !matches!(self.window, Window::Pending | Window::SinceApproval)
    }

    pub(super) fn charge(&self, price: MicroUsd, payee: &Account, excess: Excess, periods: &mut Periods<'_>) -> Charge {
        let Period { start, ends } = match (self.window, excess) {
            (Window::Payee, _) => Period::without_end(payee.to_string()),
            (Window::SinceApproval, Excess::Approved) => Period::without_end(micros(periods.now)),
            (window, _) => periods.of(window),
        };
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
            excess,
        }
    }
}

/// Twenty digits, so that the order of texts is the order of time.
fn micros(now: Timestamp) -> String {
    format!("{:020}", now.as_microsecond().max(0))
}

/// The windows that hold one instant, each worked out at most once however many budgets ask for it.
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

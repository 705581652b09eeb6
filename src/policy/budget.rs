//! Temporary stand-in, to be replaced by the real budget module.

use std::sync::Arc;

use jiff::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    Hour,
    Day,
    Week,
    Month,
    Total,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    MicroUsd,
    Payments,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    pub scope: Arc<str>,
    pub window: Window,
    pub unit: Unit,
    pub start: Arc<str>,
    pub ends: Option<Timestamp>,
    pub amount: u128,
    pub cap: u128,
    pub rule: Arc<str>,
}

impl Charge {
    pub fn window_name(&self) -> &'static str {
        match (self.unit, self.window) {
            (Unit::MicroUsd, Window::Hour) => "hour",
            (Unit::MicroUsd, Window::Day) => "day",
            (Unit::MicroUsd, Window::Week) => "week",
            (Unit::MicroUsd, Window::Month) => "month",
            (Unit::MicroUsd, Window::Total) => "total",
            (Unit::Payments, Window::Hour) => "count.hour",
            (Unit::Payments, Window::Day) => "count.day",
            (Unit::Payments, Window::Week) => "count.week",
            (Unit::Payments, Window::Month) => "count.month",
            (Unit::Payments, Window::Total) => "count.total",
        }
    }
}

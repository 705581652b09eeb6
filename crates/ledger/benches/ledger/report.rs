//! Figures with their targets, one line each.

use std::time::Duration;

/// Percentiles of one series, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lap {
    pub p50: f64,
    pub p99: f64,
}

impl Lap {
    pub(crate) fn of(mut laps: Vec<Duration>) -> Self {
        laps.sort_unstable();
        let at = |percent: usize| {
            let rank = (laps.len() * percent).div_ceil(100).saturating_sub(1);
            laps.get(rank).map_or(f64::NAN, |lap| lap.as_secs_f64() * 1e6)
        };
        Self {
            p50: at(50),
            p99: at(99),
        }
    }
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

pub(crate) fn heading(text: &str) {
    println!("\n{text}");
}

/// A figure without a target.
pub(crate) fn line(what: &str, value: f64) {
    println!("  {what:<62}{:>11}", figure(value));
}

pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// A figure and its target.
pub(crate) fn held(what: &str, value: f64, target: &Target) {
    let (sign, bound, met) = match target {
        Target::AtMost(bound) => ("<=", bound, value <= *bound),
        Target::AtLeast(bound) => (">=", bound, value >= *bound),
    };
    let verdict = if met { "met" } else { "MISSED" };
    println!("  {what:<62}{:>11}   target {sign} {bound}: {verdict}", figure(value));
}

fn figure(value: f64) -> String {
    if value.abs() < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

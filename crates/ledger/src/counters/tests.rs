use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::model::ReserveError;
use crate::spending::{Past, Spending};
use crate::text::Decimal;
use bursar_core::policy::budget::{Excess, Rolling, Unit};

const HOUR_S: i64 = 3_600;
/// Of a rolling hour.
const BUCKET_S: i64 = 60;
const CAP: u128 = 100;

fn rolling_hour() -> Rolling {
    Rolling::of_seconds(HOUR_S as u32).unwrap()
}

fn charge(window: Window, start: &str, amount: u128) -> Charge {
    Charge {
        scope: "agent:a".into(),
        was: None,
        window,
        unit: Unit::MicroUsd,
        start: start.into(),
        ends: None,
        amount,
        cap: CAP,
        rule: "agents.a".into(),
        excess: Excess::Denied,
    }
}

/// As limits.toml would charge it at that second.
fn rolling(second: i64, amount: u128) -> Charge {
    let start = second - second.rem_euclid(BUCKET_S);
    charge(Window::Rolling(rolling_hour()), &format!("{start:010}"), amount)
}

fn recorded(charge: &Charge) -> WindowCharge {
    let (scope, window) = (charge.scope.to_string(), charge.window_name().into_owned());
    WindowCharge(
        scope,
        window,
        charge.start.to_string(),
        Decimal(charge.amount),
        Decimal(charge.cap),
    )
}

/// As a ledger decides that counts by name only.
fn fit(counters: &Counters, charges: &[Charge], given_back: &[WindowCharge]) -> Result<Vec<u128>, ReserveError> {
    let spending = Spending {
        counters: counters.clone(),
        held: Counters::default(),
        past: Past::Counters,
    };
    spending.fit(charges, given_back)
}

fn open(counters: &mut Counters, charge: &Charge) -> bool {
    let fits = fit(counters, std::slice::from_ref(charge), &[]).is_ok();
    if fits {
        counters.book(&[recorded(charge)], Step::Open).unwrap();
    }
    fits
}

/// What was let through: second and amount.
fn within(accepted: &[(i64, u128)], from: i64, to: i64) -> u128 {
    accepted
        .iter()
        .filter(|(second, _)| (from..=to).contains(second))
        .map(|(_, amount)| amount)
        .sum()
}

proptest! {
    /// Never more than the cap in any real hour; refused only if the hour and the bucket before it are that full.
    #[test]
    fn a_rolling_window_is_never_looser_than_its_length_and_at_most_a_bucket_tighter(
        steps in prop::collection::vec((0i64..400, 1u128..60), 1..60),
    ) {
        let (mut counters, mut accepted, mut now) = (Counters::default(), Vec::new(), 1_795_161_600);
        for (passes, amount) in steps {
            now += passes;
            let is_let_through = open(&mut counters, &rolling(now, amount));
            if is_let_through {
                accepted.push((now, amount));
            } else {
                prop_assert!(within(&accepted, now - HOUR_S - BUCKET_S, now) + amount > CAP);
            }
            // Any hour that ends at a payment; an hour that ends elsewhere contains no more.
            prop_assert!(within(&accepted, now - HOUR_S + 1, now) <= CAP);
        }
    }

    /// A clock that goes back and forth lets through no more than one that stands still.
    #[test]
    fn a_clock_that_goes_back_opens_nothing(steps in prop::collection::vec((0i64..HOUR_S / 2, 1u128..60), 1..40)) {
        let (mut counters, mut sum) = (Counters::default(), 0);
        for (back, amount) in steps {
            if open(&mut counters, &rolling(1_795_161_600 - back, amount)) {
                sum += amount;
            }
        }
        prop_assert!(sum <= CAP);
    }

    /// Whatever happens to payments, pending equals what is open.
    #[test]
    fn pending_counts_what_is_open(steps in prop::collection::vec((0usize..8, 0u8..3, 1u128..60), 1..60)) {
        let mut counters = Counters::default();
        let mut open_ones: Vec<WindowCharge> = Vec::new();
        for (which, step, amount) in steps {
            let step = [Step::Open, Step::Settle, Step::GiveBack][usize::from(step)];
            if step == Step::Open {
                let pending: u128 = open_ones.iter().map(WindowCharge::amount).sum();
                let charge = charge(Window::Pending, "0", amount);
                prop_assert_eq!(open(&mut counters, &charge), pending + amount <= CAP);
                if pending + amount <= CAP {
                    open_ones.push(recorded(&charge));
                }
            } else if which < open_ones.len() {
                counters.book(&[open_ones.swap_remove(which)], step).unwrap();
            }
            let counter = counters.get("agent:a", PENDING, "0");
            prop_assert_eq!(counter, Counter { settled: 0, open: open_ones.iter().map(WindowCharge::amount).sum() });
        }
    }
}

#[test]
fn room_in_a_rolling_window_comes_back_where_it_was_taken() {
    let mut counters = Counters::default();
    let noon = 1_795_176_000;
    let first = rolling(noon, 60);
    assert!(open(&mut counters, &first));
    assert!(open(&mut counters, &rolling(noon + 600, 40)));
    assert!(!open(&mut counters, &rolling(noon + 1_200, 1)));
    // The release goes to the bucket that was charged, not to the current one.
    counters.book(&[recorded(&first)], Step::GiveBack).unwrap();
    assert!(open(&mut counters, &rolling(noon + 1_200, 60)));
    assert!(
        !open(&mut counters, &rolling(noon + 600 + HOUR_S, 41)),
        "its whole bucket still counts"
    );
    assert!(open(&mut counters, &rolling(noon + 600 + HOUR_S + BUCKET_S, 40)));
}

#[test]
fn what_is_given_back_in_the_same_step_does_not_stand_in_the_way() {
    let mut counters = Counters::default();
    let held = charge(Window::Day, "2026-11-20", 80);
    assert!(open(&mut counters, &held));
    let (again, tomorrow) = (held.clone(), charge(Window::Day, "2026-11-21", 80));
    let old = [recorded(&held)];
    assert!(fit(&counters, std::slice::from_ref(&again), &[]).is_err());
    assert_eq!(fit(&counters, &[again], &old), Ok(vec![80]));

    counters.move_open(&old, &[recorded(&tomorrow)]).unwrap();
    assert_eq!(counters.get("agent:a", "day", "2026-11-20").open, 0);
    assert_eq!(counters.get("agent:a", "day", "2026-11-21").open, 80);
    // A move that is not possible leaves everything as it was.
    let too_much = WindowCharge(
        "agent:a".into(),
        "day".into(),
        "2026-11-21".into(),
        Decimal(u128::MAX),
        Decimal(1),
    );
    let before = counters.get("agent:a", "day", "2026-11-21");
    assert_eq!(
        counters.move_open(&[recorded(&tomorrow)], &[too_much.clone(), too_much]),
        Err(Overflow)
    );
    assert_eq!(counters.get("agent:a", "day", "2026-11-21"), before);
}

#[test]
fn a_hold_across_a_rolling_boundary_counts_once_when_it_is_armed() {
    let mut counters = Counters::default();
    let second: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
    let held = rolling(second.as_second(), 80);
    assert!(open(&mut counters, &held));
    let later = second.checked_add(SignedDuration::from_mins(30)).unwrap();
    let arming = rolling(later.as_second(), 80);
    assert_eq!(fit(&counters, &[arming], &[recorded(&held)]), Ok(vec![80]));
}

#[test]
fn the_time_since_an_approval_begins_with_it() {
    let mut counters = Counters::default();
    let spent = |start: &str, amount| charge(Window::SinceApproval, start, amount);
    let put = |counters: &mut Counters, mut charge: Charge| {
        counters.begin(std::slice::from_mut(&mut charge));
        let fits = fit(counters, std::slice::from_ref(&charge), &[]);
        if fits.is_ok() {
            counters.book(&[recorded(&charge)], Step::Open).unwrap();
        }
        (charge.start.to_string(), fits.is_ok())
    };
    let none = "00000000000000000000".to_owned();
    assert_eq!(put(&mut counters, spent("", CAP - 1)), (none.clone(), true));
    assert_eq!(put(&mut counters, spent("", 2)), (none.clone(), false));
    // An approved one that does not fit begins a new period, in which it counts as zero.
    let approved = |start: &str, amount| Charge {
        excess: Excess::Approved,
        ..spent(start, amount)
    };
    let first = "00000000000000000005".to_owned();
    assert_eq!(put(&mut counters, approved(&first, 2)), (first.clone(), true));
    // One that fits counts normally.
    assert_eq!(
        put(&mut counters, approved("00000000000000000009", 1)),
        (first.clone(), true)
    );
    assert_eq!(put(&mut counters, spent("", CAP - 1)), (first.clone(), true));
    assert_eq!(put(&mut counters, spent("", 1)), (first, false));
    // A clock that went back begins a new period all the same.
    let second = "00000000000000000006".to_owned();
    assert_eq!(
        put(&mut counters, approved("00000000000000000004", CAP + 1)),
        (second.clone(), true)
    );
    assert_eq!(put(&mut counters, spent("", CAP)), (second, true));
}

#[test]
fn a_payee_is_known_once_something_was_settled_and_then_for_good() {
    let mut counters = Counters::default();
    let payee = |name: &str| Charge {
        unit: Unit::Payments,
        cap: u128::MAX,
        ..charge(Window::Payee, name, 1)
    };
    let is_known = |counters: &Counters, name: &str| fit(counters, &[payee(name)], &[]).is_ok();
    let first = recorded(&payee("p-000"));
    counters.book(std::slice::from_ref(&first), Step::Open).unwrap();
    assert!(!is_known(&counters, "p-000"));
    counters.book(std::slice::from_ref(&first), Step::Settle).unwrap();
    assert!(is_known(&counters, "p-000"));
    let mut dropped = Vec::new();
    for n in 1..200 {
        let other = recorded(&payee(&format!("p-{n:03}")));
        for step in [Step::Open, Step::Settle] {
            counters.book(std::slice::from_ref(&other), step).unwrap();
        }
        counters.drop_oldest(&other, &mut dropped);
    }
    assert!(dropped.is_empty() && is_known(&counters, "p-000") && !is_known(&counters, "o"));
    let approved = Charge {
        excess: Excess::Approved,
        ..payee("o")
    };
    assert!(fit(&counters, &[approved], &[]).is_ok());
}

#[test]
fn what_a_person_lets_pass_counts_all_the_same() {
    let mut counters = Counters::default();
    let full = charge(Window::Total, "0", CAP);
    counters.book(&[recorded(&full)], Step::Open).unwrap();
    let denied = |excess| {
        let one = Charge {
            excess,
            ..charge(Window::Total, "0", 1)
        };
        fit(&counters, &[one], &[])
    };
    let no = ReserveError::Denied {
        charge: 0,
        settled: 0,
        open: CAP,
    };
    assert_eq!(denied(Excess::Denied), Err(no.clone()));
    assert_eq!(denied(Excess::Asked), Err(no));
    assert_eq!(denied(Excess::Approved), Ok(vec![CAP + 1]));
}

/// A start with a clock that is years ahead, which an operator then corrects (`bursar clock accept`).
#[test]
fn an_approval_begins_anew_after_a_clock_that_was_years_ahead_too() {
    let mut counters = Counters::default();
    let put = |counters: &mut Counters, mut charge: Charge| {
        counters.begin(std::slice::from_mut(&mut charge));
        let fits = fit(counters, std::slice::from_ref(&charge), &[]).is_ok();
        if fits {
            counters.book(&[recorded(&charge)], Step::Open).unwrap();
        }
        fits
    };
    let approved = |micros: u64| Charge {
        excess: Excess::Approved,
        ..charge(Window::SinceApproval, &format!("{micros:020}"), 1)
    };
    let spent = |amount| charge(Window::SinceApproval, "", amount);
    assert!(put(&mut counters, spent(CAP)));
    assert!(put(&mut counters, approved(1_900_000_000_000_000)));
    for year in 0..3 {
        assert!(
            put(&mut counters, spent(CAP)),
            "in year {year} no approval begins a new period"
        );
        assert!(!put(&mut counters, spent(1)));
        assert!(put(&mut counters, approved(1_800_000_000_000_000 + year)));
    }
}

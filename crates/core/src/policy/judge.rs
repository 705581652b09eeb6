//! The whole verdict about a purchase that nobody makes: the decision, and then what has been spent, as somebody reports
//! it. Books nothing.

use std::sync::Arc;

use jiff::Timestamp;

use super::budget::{Charge, Excess, Rolling, Window};
use super::limits::Limits;
use super::refusal::Refusal;
use super::trace::{Looked, Outcome, Trace, trace};
use super::{Bid, Decision, Plan, Purchase};

/// What a charge would add up with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub settled: u128,
    /// Held, signed, or of unknown outcome.
    pub open: u128,
}

/// How it would end.
pub enum Verdict {
    Pay(Plan),
    /// A person would be asked.
    Ask(Plan),
    Refuse(Refusal),
    Unpaid(super::Unpaid),
    /// The rules allow it, but what has been spent is not known.
    Unknown(Plan),
}

pub struct Judged {
    pub verdict: Verdict,
    pub trace: Trace,
}

/// Decides, compares each charge with what is counted already, and decides again if only a person can let it pass, as the
/// proxy does. `counted` is `None` where that is not known.
pub fn judge(
    limits: &Limits,
    purchase: &Purchase<'_>,
    bids: &[Bid],
    counted: impl Fn(&Charge) -> Option<Counted>,
) -> Judged {
    let mut over: Vec<Arc<str>> = purchase.over.to_vec();
    loop {
        let mut trace = trace(
            limits,
            &Purchase {
                over: &over,
                ..*purchase
            },
            bids,
        );
        let plan = match &trace.decision {
            Decision::Pay(plan) => plan.clone(),
            Decision::Refuse(refusal) => {
                let verdict = Verdict::Refuse(refusal.clone());
                return Judged { verdict, trace };
            }
            Decision::Unpaid(unpaid) => {
                let verdict = Verdict::Unpaid(*unpaid);
                return Judged { verdict, trace };
            }
        };
        let compared: Vec<(&Charge, Option<Counted>)> =
            plan.charges.iter().map(|charge| (charge, counted(charge))).collect();
        let exceeded = |excess: Excess| {
            let of_kind = compared.iter().filter(move |(charge, _)| charge.excess == excess);
            of_kind.filter(|(charge, counted)| counted.is_some_and(|counted| !fits(charge, counted)))
        };
        let to_ask: Vec<Arc<str>> = exceeded(Excess::Asked)
            .map(|(charge, _)| charge.rule.clone())
            .filter(|rule| !over.contains(rule))
            .collect();
        if !to_ask.is_empty() {
            over.extend(to_ask);
            continue;
        }
        let refusal = exceeded(Excess::Denied).find_map(|(charge, at_once)| {
            let refusal = Refusal::over_limit(charge, at_once.as_ref()?.settled, at_once.as_ref()?.open);
            Some(refusal.fitting_from(fits_from(charge, &counted)))
        });
        trace.budgets = compared
            .iter()
            .map(|(charge, counted)| looked(charge, *counted, over.contains(&charge.rule)))
            .collect();
        let is_known = compared.iter().all(|(_, counted)| counted.is_some());
        let verdict = match (refusal, is_known, &plan.threshold) {
            (Some(refusal), ..) => Verdict::Refuse(refusal),
            (None, false, _) => Verdict::Unknown(plan),
            (None, true, Some(_)) => Verdict::Ask(plan),
            (None, true, None) => Verdict::Pay(plan),
        };
        return Judged { verdict, trace };
    }
}

/// Whether the charge fits beside what is counted already.
pub fn fits(charge: &Charge, Counted { settled, open }: Counted) -> bool {
    match charge.window {
        Window::Payee => settled > 0,
        _ => settled
            .checked_add(open)
            .and_then(|sum| sum.checked_add(charge.amount))
            .is_some_and(|sum| sum <= charge.cap),
    }
}

/// From when on a charge to a rolling window fits that does not fit now, if nothing else is added until then (R266).
/// `None` for other windows, and if waiting does not help.
pub fn fits_from(charge: &Charge, counted: impl Fn(&Charge) -> Option<Counted>) -> Option<Timestamp> {
    let Window::Rolling(rolling) = charge.window else {
        return None;
    };
    if charge.amount > charge.cap {
        return None;
    }
    (1..=Rolling::UNTIL_EMPTY).find_map(|later| {
        let (start, at) = rolling.bucket_after(&charge.start, later)?;
        let then = Charge {
            start: start.into(),
            ..charge.clone()
        };
        counted(&then).is_some_and(|counted| fits(&then, counted)).then_some(at)
    })
}

fn looked(charge: &Charge, counted: Option<Counted>, asked_about: bool) -> Looked {
    let figure = |value: u128| charge.unit.figure(value);
    let outcome = match counted {
        None => Outcome::Unknown,
        Some(counted) if fits(charge, counted) => Outcome::Pass,
        Some(_) if asked_about => Outcome::Ask,
        Some(_) => Outcome::Fail,
    };
    Looked {
        rule: charge.rule.to_string(),
        outcome,
        reached: counted.is_some(),
        code: None,
        limit: (charge.window != Window::Payee).then(|| figure(charge.cap)),
        used: counted.map(|counted| figure(counted.settled)),
        reserved: counted.map(|counted| figure(counted.open)),
        asked: Some(figure(charge.amount)),
        resets_at: resets_at(charge),
    }
}

/// Only calendar windows begin anew at a moment that is known before.
fn resets_at(charge: &Charge) -> Option<Timestamp> {
    charge.ends.filter(|_| charge.window.is_calendar())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Unit;

    const HOUR: u64 = 3600;
    const BUCKET: u64 = 60;
    /// The start of a bucket.
    const NOW: u64 = 1_800_000_000;

    fn charge(amount: u128, cap: u128) -> Charge {
        Charge {
            scope: "agent:a".into(),
            window: Window::Rolling(Rolling::of_seconds(3600).unwrap()),
            unit: Unit::MicroUsd,
            start: format!("{NOW:010}").into(),
            ends: None,
            amount,
            cap,
            was: None,
            rule: "agents.a.rolling.1h".into(),
            excess: Excess::Denied,
        }
    }

    /// As the ledger counts: every bucket that is not too old.
    fn of(buckets: &[(u64, u128)]) -> impl Fn(&Charge) -> Option<Counted> {
        move |charge| {
            let Window::Rolling(rolling) = charge.window else {
                return None;
            };
            let oldest: u64 = rolling.oldest(&charge.start).parse().unwrap();
            let counting = buckets.iter().filter(|(start, _)| *start >= oldest);
            let settled = counting.map(|(_, amount)| amount).sum();
            Some(Counted { settled, open: 0 })
        }
    }

    fn seconds_from_now(charge: &Charge, buckets: &[(u64, u128)]) -> Option<u64> {
        let at = fits_from(charge, of(buckets))?.as_second();
        Some(u64::try_from(at).unwrap() - NOW)
    }

    #[test]
    fn a_rolling_window_has_room_once_enough_buckets_have_left_it() {
        let buckets = [(NOW - HOUR, 30), (NOW - HOUR / 2, 20), (NOW, 50)];
        // The oldest bucket leaves with the next one that begins.
        assert_eq!(seconds_from_now(&charge(30, 100), &buckets), Some(BUCKET));
        assert_eq!(seconds_from_now(&charge(31, 100), &buckets), Some(HOUR / 2 + BUCKET));
        assert_eq!(seconds_from_now(&charge(50, 100), &buckets), Some(HOUR / 2 + BUCKET));
        assert_eq!(seconds_from_now(&charge(51, 100), &buckets), Some(HOUR + BUCKET));
        assert_eq!(seconds_from_now(&charge(100, 100), &buckets), Some(HOUR + BUCKET));
    }

    #[test]
    fn no_time_is_named_where_waiting_does_not_help_or_nothing_is_known() {
        assert_eq!(fits_from(&charge(101, 100), of(&[])), None);
        assert_eq!(fits_from(&charge(1, 100), |_| None), None);
        // The clock went back: a bucket that begins later counts for longer than the window.
        assert_eq!(fits_from(&charge(60, 100), of(&[(NOW + HOUR, 50)])), None);
        let day = Charge {
            window: Window::Day,
            ..charge(60, 100)
        };
        assert_eq!(fits_from(&day, |_| Some(Counted::default())), None);
    }
}

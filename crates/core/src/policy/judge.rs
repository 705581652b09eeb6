//! The whole verdict about a purchase that nobody makes: the decision, and then what has been spent, as somebody reports
//! it. Books nothing.

use std::sync::Arc;

use jiff::Timestamp;

use super::budget::{Charge, Excess, Window};
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
        let refusal = exceeded(Excess::Denied)
            .find_map(|(charge, counted)| counted.map(|c| Refusal::over_limit(charge, c.settled, c.open)));
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

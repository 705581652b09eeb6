//! Random histories, against a model that keeps every payment and adds everything up each time.

use bursar_core::money::Atoms;
use bursar_core::policy::budget::{Charge, Rolling, Unit, Window};
use bursar_ledger::{Arming, Outcome, PaymentId, ReserveError, Source, State};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::conformance::engine::Engine;
use crate::world::charge;

const CAP: u128 = 100;
/// Of the rolling window in use.
const BUCKET_S: u64 = 60;

#[derive(Clone, Debug)]
enum Step {
    Reserve { which: usize, amount: u128, is_held: bool },
    Arm { payment: usize },
    End { payment: usize, end: usize },
    Wait { minutes: u64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..4, 1u128..60, any::<bool>())
            .prop_map(|(which, amount, is_held)| Step::Reserve { which, amount, is_held }),
        1 => (0usize..12).prop_map(|payment| Step::Arm { payment }),
        3 => (0usize..12, 0usize..5).prop_map(|(payment, end)| Step::End { payment, end }),
        1 => (1u64..45).prop_map(|minutes| Step::Wait { minutes }),
    ]
}

struct Paid {
    rid: PaymentId,
    which: usize,
    amount: u128,
    bucket: u64,
    state: State,
}

/// The sum that a charge of that kind adds to, computed from all payments.
fn counted(payments: &[Paid], which: usize, bucket: u64) -> u128 {
    let counts = |paid: &&Paid| {
        let is_counted = match which {
            // Pending.
            2 => matches!(paid.state, State::Held | State::Armed | State::Unknown),
            _ => !matches!(paid.state, State::Released | State::Expired),
        };
        let in_window = which != 1 || paid.bucket + 60 * BUCKET_S >= bucket;
        paid.which == which && is_counted && in_window
    };
    payments
        .iter()
        .filter(counts)
        .map(|paid| if which == 3 { 1 } else { paid.amount })
        .sum()
}

fn cap(which: usize) -> u128 {
    if which == 3 { 5 } else { CAP }
}

fn charged(which: usize, amount: u128, bucket: u64) -> Charge {
    let hour = Rolling::of_seconds(3_600).unwrap();
    let (scope, window, unit, amount) = match which {
        0 => ("agent:day", Window::Day, Unit::MicroUsd, amount),
        1 => ("agent:rolling", Window::Rolling(hour), Unit::MicroUsd, amount),
        2 => ("agent:pending", Window::Pending, Unit::MicroUsd, amount),
        _ => ("agent:count", Window::Total, Unit::Payments, 1),
    };
    let mut charge = charge(scope, window, unit, amount, cap(which));
    match window {
        Window::Rolling(_) => charge.start = format!("{bucket:010}").into(),
        Window::Pending | Window::Total => charge.start = "0".into(),
        _ => {}
    }
    charge
}

pub(super) async fn it_counts_as_a_slow_model_does(engine: Engine) {
    let mut runner = TestRunner::deterministic();
    let steps = prop::collection::vec(any_step(), 400)
        .new_tree(&mut runner)
        .unwrap()
        .current();
    let (ledger, world) = (&engine.ledger, &engine.world);
    let mut payments: Vec<Paid> = Vec::new();
    let mut bucket = 1_795_176_000;
    let (mut denied, mut moved) = (0, 0);
    for step in steps {
        match step {
            Step::Wait { minutes } => bucket += minutes * BUCKET_S,
            Step::Reserve { which, amount, is_held } => {
                let purchase = world.charged(vec![charged(which, amount, bucket)]);
                let adds = if which == 3 { 1 } else { amount };
                let fits = counted(&payments, which, bucket) + adds <= cap(which);
                let rid = purchase.hold.rid;
                let outcome = if is_held {
                    ledger.hold(purchase.hold).await
                } else {
                    ledger.reserve(purchase).await.map(|_| ())
                };
                assert_eq!(outcome.is_ok(), fits, "{outcome:?}");
                denied += usize::from(!fits);
                let state = if is_held { State::Held } else { State::Armed };
                payments.extend(fits.then_some(Paid {
                    rid,
                    which,
                    amount,
                    bucket,
                    state,
                }));
            }
            Step::Arm { payment } => {
                let Some(newest) = payments.len().checked_sub(payment + 1) else {
                    continue;
                };
                let (rid, which, amount, was_held) = {
                    let paid = &payments[newest];
                    (paid.rid, paid.which, paid.amount, paid.state == State::Held)
                };
                let arm = world.purchase(1).arm;
                let charges = vec![charged(which, amount, bucket)];
                let armed = ledger
                    .arm(
                        rid,
                        Arming {
                            arm,
                            charges,
                            approval: None,
                        },
                    )
                    .await;
                if !was_held {
                    assert_eq!(armed.unwrap_err(), ReserveError::NotHeld(rid));
                    continue;
                }
                // Its own hold does not count against it.
                let state = std::mem::replace(&mut payments[newest].state, State::Released);
                let adds = if which == 3 { 1 } else { amount };
                let fits = counted(&payments, which, bucket) + adds <= cap(which);
                assert_eq!(armed.is_ok(), fits);
                let paid = &mut payments[newest];
                paid.state = if fits { State::Armed } else { state };
                if fits {
                    moved += usize::from(paid.bucket != bucket);
                    paid.bucket = bucket;
                }
            }
            Step::End { payment, end } => {
                let Some(newest) = payments.len().checked_sub(payment + 1) else {
                    continue;
                };
                let paid = &mut payments[newest];
                let (by, why, tx) = (Source::Chain, bursar_ledger::Reason::NeverCashed, None);
                let outcome = [
                    Outcome::Settled { by, tx: None },
                    Outcome::Unknown { why, tx },
                    Outcome::Expired { by, why },
                    Outcome::Released { why },
                    Outcome::Taken {
                        by,
                        tx: None,
                        taken: Atoms::new(2_500),
                    },
                ][end]
                    .clone();
                let to = outcome.state();
                let lawful = paid.state.may_become(to) || (paid.state == to && !to.is_final());
                let done = ledger.finish(paid.rid, outcome).await;
                assert_eq!(done.is_ok(), lawful, "{} to {to}: {done:?}", paid.state);
                if lawful {
                    paid.state = to;
                    if end == 4 {
                        // Of ten thousand atoms.
                        paid.amount = paid.amount.div_ceil(4);
                    }
                }
            }
        }
        for (which, scope) in ["agent:day", "agent:rolling", "agent:pending", "agent:count"]
            .into_iter()
            .enumerate()
        {
            let rows = ledger.usage(&[scope]).await.unwrap();
            let oldest = format!("{:010}", bucket - 60 * BUCKET_S);
            let rows = rows.iter().filter(|row| which != 1 || row.start >= oldest);
            let sum: u128 = rows.map(|row| row.settled + row.open).sum();
            assert_eq!(sum, counted(&payments, which, bucket), "{scope}");
        }
    }
    assert!(
        denied > 20 && moved > 3 && payments.len() > 40,
        "{denied} refused, {moved} moved, {} paid",
        payments.len()
    );
}

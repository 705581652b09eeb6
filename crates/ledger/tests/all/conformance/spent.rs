//! What a person's approval does to the counters: it lets one payment exceed a limit, and begins a new period of the
//! count since the last approval.

use bursar_core::policy::budget::{Charge, Excess, Unit, Window};
use bursar_ledger::{ApprovalError, ApprovalStep, Arming, Outcome, PaymentId, ReserveError};
use jiff::SignedDuration;

use crate::conformance::engine::Engine;
use crate::world::{charge, granted};

const CENT: u128 = 10_000;

fn total(excess: Excess, amount: u128) -> Charge {
    Charge {
        excess,
        start: "0".into(),
        ..charge("agent:research", Window::Total, Unit::MicroUsd, amount, 5 * CENT)
    }
}

fn since(excess: Excess, start: &str, amount: u128) -> Charge {
    Charge {
        excess,
        start: start.into(),
        ..charge(
            "agent:research",
            Window::SinceApproval,
            Unit::MicroUsd,
            amount,
            5 * CENT,
        )
    }
}

/// One approved payment, held with the charges `held` and armed with `charges`.
async fn approved(
    engine: &Engine,
    replay: u8,
    held: Vec<Charge>,
    charges: Vec<Charge>,
) -> Result<PaymentId, ReserveError> {
    let purchase = engine.world.charged(held);
    engine.ledger.hold(purchase.hold.clone()).await?;
    let requested = engine.world.question(&purchase.hold, replay);
    let (rid, id) = (purchase.hold.rid, requested.id);
    let use_by = engine.ledger.now() + SignedDuration::from_mins(1);
    for step in [ApprovalStep::Requested(requested), granted(id, replay, use_by)] {
        engine.ledger.approval(step).await.unwrap();
    }
    let arming = Arming {
        arm: purchase.arm,
        charges,
        approval: Some(id.to_string()),
    };
    engine
        .ledger
        .arm(rid, arming)
        .await
        .map(|reservation| reservation.rid())
}

pub(super) async fn only_an_approval_passes_a_limit(engine: Engine) {
    let ledger = &engine.ledger;
    ledger
        .reserve(engine.world.charged(vec![total(Excess::Asked, 4 * CENT)]))
        .await
        .unwrap();
    let denied = ReserveError::Denied {
        charge: 0,
        settled: 0,
        open: 4 * CENT,
    };
    let over = engine.world.charged(vec![total(Excess::Asked, 2 * CENT)]);
    assert_eq!(ledger.reserve(over).await.unwrap_err(), denied);
    // No person was asked about these.
    let alone = engine.world.charged(vec![total(Excess::Approved, 2 * CENT)]);
    let no = ReserveError::Approval(ApprovalError::NoneOf(alone.hold.rid));
    assert_eq!(ledger.hold(alone.hold.clone()).await.unwrap_err(), no);
    assert_eq!(ledger.reserve(alone).await.unwrap_err(), no);
    let held = engine.world.charged(Vec::new());
    ledger.hold(held.hold.clone()).await.unwrap();
    let arming = Arming {
        arm: held.arm,
        charges: vec![total(Excess::Approved, 2 * CENT)],
        approval: None,
    };
    let no = ReserveError::Approval(ApprovalError::NoneOf(held.hold.rid));
    assert_eq!(ledger.arm(held.hold.rid, arming).await.unwrap_err(), no);
    assert_eq!(engine.holds("agent:research", "total").await, (0, 4 * CENT));

    let rid = approved(&engine, 1, Vec::new(), vec![total(Excess::Approved, 2 * CENT)])
        .await
        .unwrap();
    assert_eq!(
        engine.holds("agent:research", "total").await,
        (0, 6 * CENT),
        "it counts"
    );
    let (by, tx) = (bursar_ledger::Source::Merchant, None);
    ledger.finish(rid, Outcome::Settled { by, tx }).await.unwrap();
    assert_eq!(engine.holds("agent:research", "total").await, (2 * CENT, 4 * CENT));
    // An approval does not let a payment exceed another limit.
    let mut charges = vec![total(Excess::Denied, CENT), total(Excess::Approved, CENT)];
    charges[0].scope = "account".into();
    charges[0].cap = CENT - 1;
    let error = approved(&engine, 2, Vec::new(), charges).await.unwrap_err();
    assert!(matches!(error, ReserveError::Denied { charge: 0, .. }), "{error}");
}

pub(super) async fn an_approval_begins_another_count(engine: Engine) {
    let spend = |amount| {
        engine
            .ledger
            .reserve(engine.world.charged(vec![since(Excess::Asked, "", amount)]))
    };
    spend(5 * CENT).await.unwrap();
    let full = |open| ReserveError::Denied {
        charge: 0,
        settled: 0,
        open,
    };
    assert_eq!(spend(1).await.unwrap_err(), full(5 * CENT));
    for n in 1..=3u8 {
        let begins = format!("{n:020}");
        let approve = |replay, amount| {
            let charges = vec![since(Excess::Approved, &begins, amount)];
            approved(&engine, replay, Vec::new(), charges)
        };
        // It would exceed the sum, so it begins a new period and counts as zero in it.
        approve(n, 1).await.unwrap();
        spend(2 * CENT).await.unwrap();
        // One that was asked about for another reason, and fits, counts normally.
        approve(100 + n, CENT).await.unwrap();
        spend(2 * CENT).await.unwrap();
        assert_eq!(spend(1).await.unwrap_err(), full(5 * CENT));
    }
    // A restart does not begin a new period.
    let (engine, _) = engine.reopened().await;
    let again = engine.world.charged(vec![since(Excess::Asked, "", 1)]);
    assert_eq!(engine.ledger.reserve(again).await.unwrap_err(), full(5 * CENT));
}

pub(super) async fn a_payee_is_known_once_it_was_paid(engine: Engine) {
    let paying = |excess, payee: &str| {
        vec![Charge {
            excess,
            start: payee.into(),
            ..charge("agent:research", Window::Payee, Unit::Payments, 1, u128::MAX)
        }]
    };
    let ledger = &engine.ledger;
    let pay = |payee| ledger.reserve(engine.world.charged(paying(Excess::Asked, payee)));
    assert!(matches!(pay("0xa").await, Err(ReserveError::Denied { charge: 0, .. })));
    let rid = approved(&engine, 1, Vec::new(), paying(Excess::Approved, "0xa"))
        .await
        .unwrap();
    // Whether it reaches the payee is not known yet.
    assert!(matches!(pay("0xa").await, Err(ReserveError::Denied { charge: 0, .. })));
    let (by, tx) = (bursar_ledger::Source::Merchant, None);
    ledger.finish(rid, Outcome::Settled { by, tx }).await.unwrap();
    pay("0xa").await.unwrap();
    assert!(matches!(pay("0xb").await, Err(ReserveError::Denied { charge: 0, .. })));
    let other = approved(&engine, 2, Vec::new(), paying(Excess::Approved, "0xb"))
        .await
        .unwrap();
    let (by, why) = (bursar_ledger::Source::Chain, bursar_ledger::Reason::NeverCashed);
    ledger.finish(other, Outcome::Expired { by, why }).await.unwrap();
    assert!(matches!(pay("0xb").await, Err(ReserveError::Denied { charge: 0, .. })));
}

use bursar_core::policy::budget::{Unit, Window};
use bursar_ledger::{Alarm, Outcome, Reserve, ReserveError, Source};

use crate::conformance::engine::Engine;
use crate::world::charge;

const CENT: u128 = 10_000;

pub(super) fn settled() -> Outcome {
    Outcome::Settled {
        by: Source::Merchant,
        tx: Some("0xab".into()),
    }
}

pub(super) async fn all_charges_are_booked_or_none(engine: Engine) {
    let charges = |cap| {
        vec![
            charge("account", Window::Month, Unit::MicroUsd, CENT, 100 * CENT),
            charge("group:eng", Window::Day, Unit::MicroUsd, CENT, 100 * CENT),
            charge("agent:research", Window::Day, Unit::MicroUsd, CENT, cap),
        ]
    };
    engine
        .ledger
        .reserve(engine.world.charged(charges(CENT)))
        .await
        .unwrap();
    let denied = engine.ledger.reserve(engine.world.charged(charges(CENT))).await;
    let (charge, settled, open) = (2, 0, CENT);
    assert_eq!(denied.unwrap_err(), ReserveError::Denied { charge, settled, open });
    for (scope, window) in [("account", "month"), ("group:eng", "day"), ("agent:research", "day")] {
        assert_eq!(engine.holds(scope, window).await, (0, CENT), "{scope}");
    }
}

pub(super) async fn the_first_charge_that_does_not_fit_is_named(engine: Engine) {
    let charges = vec![
        charge("agent:research", Window::Day, Unit::MicroUsd, CENT, CENT),
        charge("agent:research", Window::Month, Unit::MicroUsd, CENT, CENT - 1),
        charge("agent:research", Window::Total, Unit::MicroUsd, CENT, 0),
    ];
    let denied = engine.ledger.reserve(engine.world.charged(charges)).await.unwrap_err();
    let (charge, settled, open) = (1, 0, 0);
    assert_eq!(denied, ReserveError::Denied { charge, settled, open });
}

pub(super) async fn counts_are_limits_too(engine: Engine) {
    let purchase = || {
        let charges = vec![charge("agent:research", Window::Hour, Unit::Payments, 1, 2)];
        engine.ledger.reserve(engine.world.charged(charges))
    };
    let rid = purchase().await.unwrap().rid();
    purchase().await.unwrap();
    engine.ledger.finish(rid, settled()).await.unwrap();
    let denied = purchase().await.unwrap_err();
    let (charge, settled, open) = (0, 1, 1);
    assert_eq!(denied, ReserveError::Denied { charge, settled, open });
    assert_eq!(engine.holds("agent:research", "count.hour").await, (1, 1));
}

pub(super) async fn two_charges_on_one_counter_count_together(engine: Engine) {
    let twice = |cap| {
        let one = charge("agent:research", Window::Day, Unit::MicroUsd, CENT, cap);
        engine.world.charged(vec![one.clone(), one])
    };
    let denied = engine.ledger.reserve(twice(2 * CENT - 1)).await.unwrap_err();
    assert!(matches!(denied, ReserveError::Denied { charge: 1, .. }), "{denied:?}");
    engine.ledger.reserve(twice(2 * CENT)).await.unwrap();
    assert_eq!(engine.day().await, (0, 2 * CENT));
}

pub(super) async fn an_amount_that_no_counter_holds_is_refused(engine: Engine) {
    let of = |amount| {
        let charges = vec![charge("agent:research", Window::Day, Unit::MicroUsd, amount, u128::MAX)];
        engine.ledger.reserve(engine.world.charged(charges))
    };
    of(u128::MAX).await.unwrap();
    assert_eq!(of(1).await.unwrap_err(), ReserveError::Overflow);
    assert_eq!(engine.day().await, (0, u128::MAX));
}

pub(super) async fn pending_is_what_is_open(engine: Engine) {
    let purchase = || {
        let mut pending = charge("agent:research", Window::Pending, Unit::MicroUsd, CENT, 2 * CENT);
        pending.start = "0".into();
        let day = charge("agent:research", Window::Day, Unit::MicroUsd, CENT, 100 * CENT);
        engine.ledger.reserve(engine.world.charged(vec![day, pending]))
    };
    let first = purchase().await.unwrap().rid();
    let second = purchase().await.unwrap().rid();
    let denied = purchase().await.unwrap_err();
    let (charge, open) = (1, 2 * CENT);
    assert_eq!(
        denied,
        ReserveError::Denied {
            charge,
            settled: 0,
            open
        }
    );
    engine.ledger.finish(first, settled()).await.unwrap();
    purchase().await.unwrap();
    let (by, why) = (Source::Chain, bursar_ledger::Reason::NeverCashed);
    engine
        .ledger
        .finish(second, Outcome::Expired { by, why })
        .await
        .unwrap();
    purchase().await.unwrap();
    assert_eq!(engine.holds("agent:research", "pending").await, (0, 2 * CENT));
    assert_eq!(engine.day().await, (CENT, 2 * CENT));
}

pub(super) async fn a_budget_that_fills_up_is_reported_once(engine: Engine) {
    for _ in 0..9 {
        engine.ledger.reserve(engine.world.purchase(10 * CENT)).await.unwrap();
    }
    let nearly = Alarm::BudgetNearlySpent {
        scope: "agent:research".into(),
        window: "day".into(),
        start: "2026-11-20T00:00:00+01:00[Europe/Berlin]".into(),
        rule: "agents.research.day".into(),
        counted: 8 * CENT,
        cap: 10 * CENT,
    };
    assert_eq!(engine.raised_alarms(), [nearly]);
}

pub(super) async fn a_nonce_and_an_id_are_used_once(engine: Engine) {
    let (ledger, world) = (&engine.ledger, &engine.world);
    let first = world.purchase(100 * CENT);
    let same_nonce = || Reserve {
        arm: first.arm.clone(),
        ..world.purchase(100 * CENT)
    };
    let mut same_id = world.purchase(100 * CENT);
    same_id.hold.rid = first.hold.rid;
    ledger.reserve(first.clone()).await.unwrap();
    assert_eq!(
        ledger.reserve(same_nonce()).await.unwrap_err(),
        ReserveError::NonceTaken
    );
    assert_eq!(ledger.reserve(same_id).await.unwrap_err(), ReserveError::RidTaken);
    ledger.finish(first.hold.rid, settled()).await.unwrap();
    assert_eq!(
        ledger.reserve(same_nonce()).await.unwrap_err(),
        ReserveError::NonceTaken
    );
    assert_eq!(engine.day().await, (CENT, 0));
}

pub(super) async fn one_payment_is_made_under_an_idempotency_key(engine: Engine) {
    let ledger = &engine.ledger;
    let under = |key| {
        let mut purchase = engine.world.purchase(100 * CENT);
        purchase.hold.idempotency = Some([key; 32]);
        purchase
    };
    let (paid, dead) = (under(1), under(2));
    ledger.reserve(paid.clone()).await.unwrap();
    let taken = ReserveError::KeyTaken(paid.hold.rid);
    assert_eq!(ledger.reserve(under(1)).await.unwrap_err(), taken);
    assert_eq!(ledger.hold(under(1).hold).await.unwrap_err(), taken);
    ledger.finish(paid.hold.rid, settled()).await.unwrap();
    assert_eq!(ledger.reserve(under(1)).await.unwrap_err(), taken);
    // A payment that is proven dead releases its key.
    ledger.hold(dead.hold.clone()).await.unwrap();
    let why = bursar_ledger::Reason::ApprovalDenied;
    ledger.finish(dead.hold.rid, Outcome::Released { why }).await.unwrap();
    let again = under(2).hold;
    ledger.hold(again.clone()).await.unwrap();
    let mut keys: Vec<_> = ledger
        .keys()
        .await
        .unwrap()
        .iter()
        .map(|key| (key.idem[0], key.rid))
        .collect();
    keys.sort();
    assert_eq!(keys, [(1, paid.hold.rid), (2, again.rid)]);
}

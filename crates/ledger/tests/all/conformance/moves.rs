use alloy_primitives::Address;
use bursar_core::challenge::{Clause, Rail};
use bursar_core::money::Atoms;
use bursar_core::policy::budget::{Charge, Rolling, Unit, Window};
use bursar_ledger::{
    Arming, Event, Finding, LedgerError, Outcome, PaymentId, Reserve, ReserveError, Resolution, Source, Standing, State,
};

use crate::conformance::engine::{Engine, is_failed};
use crate::conformance::limits::settled;
use crate::world::charge;

const CENT: u128 = 10_000;

fn unknown() -> Outcome {
    let (why, tx) = (bursar_ledger::Reason::NoReceipt, None);
    Outcome::Unknown { why, tx }
}

fn expired() -> Outcome {
    let (by, why) = (Source::Chain, bursar_ledger::Reason::NeverCashed);
    Outcome::Expired { by, why }
}

fn released() -> Outcome {
    Outcome::Released {
        why: bursar_ledger::Reason::ApprovalDenied,
    }
}

async fn armed(engine: &Engine) -> PaymentId {
    let reserved = engine.ledger.reserve(engine.world.purchase(100 * CENT)).await;
    reserved.unwrap().rid()
}

async fn held(engine: &Engine, cap: u128) -> Reserve {
    let purchase = engine.world.purchase(cap);
    engine.ledger.hold(purchase.hold.clone()).await.unwrap();
    purchase
}

fn arming(purchase: &Reserve, charges: Vec<Charge>) -> Arming {
    Arming {
        arm: purchase.arm.clone(),
        charges,
        approval: None,
    }
}

async fn state(engine: &Engine, rid: PaymentId) -> State {
    engine.ledger.get(rid).await.unwrap().unwrap().state
}

pub(super) async fn only_lawful_moves_are_made(engine: Engine) {
    let ledger = &engine.ledger;
    let rid = armed(&engine).await;
    let unlawful = |from, to| Err(LedgerError::Unlawful { rid, from, to });
    assert_eq!(
        ledger.finish(rid, released()).await,
        unlawful(State::Armed, State::Released)
    );
    ledger.finish(rid, unknown()).await.unwrap();
    ledger.finish(rid, unknown()).await.unwrap();
    assert_eq!(
        ledger.finish(rid, released()).await,
        unlawful(State::Unknown, State::Released)
    );
    ledger.finish(rid, settled()).await.unwrap();
    for outcome in [settled(), unknown(), expired(), released()] {
        assert_eq!(ledger.finish(rid, outcome).await, Err(LedgerError::NotOpen(rid)));
    }
    let nobody = engine.world.purchase(1).hold.rid;
    assert_eq!(
        ledger.finish(nobody, settled()).await,
        Err(LedgerError::NotOpen(nobody))
    );
    assert_eq!(ledger.get(nobody).await, Ok(None));

    let rid = held(&engine, 100 * CENT).await.hold.rid;
    for (outcome, to) in [
        (settled(), State::Settled),
        (unknown(), State::Unknown),
        (expired(), State::Expired),
    ] {
        let from = State::Held;
        let refused = LedgerError::Unlawful { rid, from, to };
        assert_eq!(ledger.finish(rid, outcome).await, Err(refused));
    }
}

pub(super) async fn what_ends_is_counted_as_it_ended(engine: Engine) {
    let mut ends = Vec::new();
    for outcome in [settled(), unknown(), expired()] {
        let rid = armed(&engine).await;
        engine.ledger.finish(rid, outcome.clone()).await.unwrap();
        ends.push((rid, outcome.state()));
    }
    let rid = held(&engine, 100 * CENT).await.hold.rid;
    engine.ledger.finish(rid, released()).await.unwrap();
    ends.push((rid, State::Released));
    for (rid, end) in ends {
        assert_eq!(state(&engine, rid).await, end);
    }
    assert_eq!(engine.day().await, (CENT, CENT));
}

pub(super) async fn a_hold_is_armed_or_released(engine: Engine) {
    let ledger = &engine.ledger;
    let purchase = held(&engine, CENT).await;
    let rid = purchase.hold.rid;
    assert_eq!(engine.day().await, (0, CENT), "held money counts");
    assert_eq!(state(&engine, rid).await, State::Held);
    let reservation = ledger
        .arm(rid, arming(&purchase, purchase.hold.charges.clone()))
        .await
        .unwrap();
    assert_eq!(reservation.rid(), rid);
    assert_eq!(reservation.arm(), &purchase.arm);
    assert_eq!(reservation.terms().amount, purchase.hold.terms.amount);
    assert_eq!(reservation.terms().asset, purchase.hold.terms.asset);
    let payment = ledger.get(rid).await.unwrap().unwrap();
    assert_eq!((payment.state, payment.approval), (State::Armed, None));
    assert_eq!(engine.day().await, (0, CENT), "armed money counts once");
    let again = ledger.arm(rid, arming(&purchase, purchase.hold.charges.clone())).await;
    assert_eq!(again.unwrap_err(), ReserveError::NotHeld(rid));
    // Its nonce is taken from now on.
    ledger.finish(rid, expired()).await.unwrap();
    let same_nonce = Reserve {
        arm: purchase.arm.clone(),
        ..engine.world.purchase(CENT)
    };
    assert_eq!(ledger.reserve(same_nonce).await.unwrap_err(), ReserveError::NonceTaken);
}

pub(super) async fn arming_checks_the_limits_of_now(engine: Engine) {
    let ledger = &engine.ledger;
    let purchase = held(&engine, 5 * CENT).await;
    let rid = purchase.hold.rid;
    engine.ledger.reserve(engine.world.purchase(5 * CENT)).await.unwrap();
    // Finance has lowered the cap in the meantime: the other payment alone fills it.
    let lowered = charge("agent:research", Window::Day, Unit::MicroUsd, CENT, CENT);
    let denied = ledger.arm(rid, arming(&purchase, vec![lowered])).await.unwrap_err();
    let (charge, settled, open) = (0, 0, CENT);
    assert_eq!(denied, ReserveError::Denied { charge, settled, open });
    assert_eq!(
        state(&engine, rid).await,
        State::Held,
        "it can still be armed, or released"
    );
    let mut raised = purchase.hold.charges.clone();
    raised[0].cap = 2 * CENT;
    ledger.arm(rid, arming(&purchase, raised)).await.unwrap();
    assert_eq!(engine.day().await, (0, 2 * CENT));
}

pub(super) async fn charges_move_when_the_window_has_changed(engine: Engine) {
    let ledger = &engine.ledger;
    let purchase = held(&engine, CENT).await;
    let rid = purchase.hold.rid;
    let mut tomorrow = purchase.hold.charges.clone();
    tomorrow[0].start = "2026-11-21T00:00:00+01:00[Europe/Berlin]".into();
    tomorrow[0].ends = "2026-11-21T23:00:00Z".parse().ok();
    engine.world.clock.set("2026-11-21T12:00:00Z".parse().unwrap());
    ledger.arm(rid, arming(&purchase, tomorrow.clone())).await.unwrap();
    let by_day = || async {
        let mut rows: Vec<(String, u128, u128)> = Vec::new();
        for row in ledger.usage(&["agent:research"]).await.unwrap() {
            rows.push((row.start[..10].to_owned(), row.settled, row.open));
        }
        rows.sort();
        rows.retain(|(_, settled, open)| settled + open > 0);
        rows
    };
    assert_eq!(by_day().await, [("2026-11-21".to_owned(), 0, CENT)]);
    // The old window is empty again, the new one full.
    let standing = Standing::ask(&**ledger, &purchase.hold.charges).await.unwrap();
    let counted = standing.counted(&purchase.hold.charges[0]).unwrap();
    assert_eq!((counted.settled, counted.open), (0, 0));
    let full = ledger.reserve(engine.world.charged(tomorrow)).await.unwrap_err();
    assert!(matches!(full, ReserveError::Denied { .. }));
    // It ends in the window that it was moved to.
    ledger.finish(rid, settled()).await.unwrap();
    assert_eq!(by_day().await, [("2026-11-21".to_owned(), CENT, 0)]);
}

pub(super) async fn only_what_is_unknown_is_resolved_by_hand(engine: Engine) {
    let resolve = |rid, resolution| {
        engine
            .ledger
            .resolve(rid, resolution, "uid:0".into(), "seen on the explorer".into())
    };
    let rid = armed(&engine).await;
    assert_eq!(resolve(rid, Resolution::Expired).await, Err(LedgerError::UnderWay(rid)));
    engine.ledger.finish(rid, unknown()).await.unwrap();
    resolve(rid, Resolution::Expired).await.unwrap();
    assert_eq!(resolve(rid, Resolution::Expired).await, Err(LedgerError::NotOpen(rid)));
    assert_eq!(engine.day().await, (0, 0));
    let rid = armed(&engine).await;
    engine.ledger.finish(rid, unknown()).await.unwrap();
    resolve(
        rid,
        Resolution::Settled {
            tx: Some("0xcd".into()),
        },
    )
    .await
    .unwrap();
    let payment = engine.ledger.get(rid).await.unwrap().unwrap();
    assert_eq!(
        (payment.by, payment.tx.as_deref()),
        (Some(Source::Operator), Some("0xcd"))
    );
    assert_eq!(engine.day().await, (CENT, 0));
}

pub(super) async fn the_chain_is_heard_once(engine: Engine) {
    let ledger = &engine.ledger;
    let confirmed = || Finding::Confirmed {
        by: Source::Chain,
        tx: Some("0xef".into()),
        block: Some(7),
    };
    let disputed = || Finding::Disputed {
        why: "never cashed".into(),
        tx: None,
    };
    let (first, second, third) = (armed(&engine).await, armed(&engine).await, armed(&engine).await);
    for rid in [first, second] {
        ledger.finish(rid, settled()).await.unwrap();
    }
    assert_eq!(ledger.unconfirmed().await.unwrap(), [first, second]);
    ledger.record_finding(first, confirmed()).await.unwrap();
    assert_eq!(
        ledger.record_finding(first, confirmed()).await,
        Err(LedgerError::NotUnconfirmed(first))
    );
    assert_eq!(ledger.unconfirmed().await.unwrap(), [second]);
    let payment = ledger.get(first).await.unwrap().unwrap();
    assert_eq!((payment.by, payment.tx.as_deref()), (Some(Source::Chain), Some("0xef")));

    ledger.record_finding(second, disputed()).await.unwrap();
    assert_eq!(
        ledger.get(second).await.unwrap().unwrap().disputed.as_deref(),
        Some("never cashed")
    );
    assert!(ledger.unconfirmed().await.unwrap().is_empty());
    // A payment with an unknown outcome can be disputed and stays unknown; it cannot be confirmed, only settled.
    ledger.finish(third, unknown()).await.unwrap();
    assert_eq!(
        ledger.record_finding(third, confirmed()).await,
        Err(LedgerError::NotUnconfirmed(third))
    );
    ledger.record_finding(third, disputed()).await.unwrap();
    assert_eq!(state(&engine, third).await, State::Unknown);
    assert_eq!(
        engine.day().await,
        (2 * CENT, CENT),
        "a finding does not lower what is counted"
    );
}

/// A cent at most, charged to a day, a rolling hour, a payment count, and pending.
fn everywhere(engine: &Engine) -> Reserve {
    let hour = Rolling::of_seconds(3_600).unwrap();
    let of = |window, unit, amount, start: &str| {
        let mut charge = charge("agent:research", window, unit, amount, 100 * CENT);
        charge.start = start.into();
        charge
    };
    let mut reserve = engine.world.charged(vec![
        charge("agent:research", Window::Day, Unit::MicroUsd, CENT, 100 * CENT),
        of(Window::Rolling(hour), Unit::MicroUsd, CENT, "1795176000"),
        of(Window::Total, Unit::Payments, 1, "0"),
        of(Window::Pending, Unit::MicroUsd, CENT, "0"),
    ]);
    reserve.hold.terms.rail = Rail::X402UpTo;
    reserve.hold.terms.clause = Clause::Facilitator(Address::repeat_byte(0x33));
    reserve
}

async fn everything(engine: &Engine) -> [(u128, u128); 4] {
    let of = |window| engine.holds("agent:research", window);
    [
        of("day").await,
        of("rolling.3600").await,
        of("count.total").await,
        of("pending").await,
    ]
}

fn taken(atoms: u128) -> Outcome {
    let (by, tx, taken) = (Source::Chain, Some("0xef".into()), Atoms::new(atoms));
    Outcome::Taken { by, tx, taken }
}

async fn found(engine: &Engine, rid: PaymentId, atoms: u128) -> Finding {
    Finding::Taken {
        by: Source::Chain,
        tx: None,
        block: Some(7),
        taken: Atoms::new(atoms),
        of: Box::new(engine.ledger.get(rid).await.unwrap().unwrap()),
    }
}

pub(super) async fn what_an_upto_did_not_take_comes_back_once(engine: Engine) {
    let mut rids = Vec::new();
    for _ in 0..4 {
        rids.push(engine.ledger.reserve(everywhere(&engine)).await.unwrap().rid());
    }
    let [lost, claimed, idle, whole] = rids[..] else {
        panic!()
    };
    let ledger = &engine.ledger;
    ledger.finish(lost, unknown()).await.unwrap();
    // More than was signed is not a settlement.
    let too_much = ledger.finish(lost, taken(CENT + 1)).await;
    assert_eq!(too_much, Err(LedgerError::MoreThanSigned(lost)));
    let early = ledger.record_finding(lost, found(&engine, lost, 1).await).await;
    assert_eq!(
        early,
        Err(LedgerError::NotUnconfirmed(lost)),
        "an open payment is settled instead"
    );
    ledger.finish(lost, taken(2_500)).await.unwrap();
    for rid in [claimed, idle, whole] {
        ledger.finish(rid, settled()).await.unwrap();
    }
    let counted = 2_500 + 3 * CENT;
    assert_eq!(everything(&engine).await, [(counted, 0), (counted, 0), (4, 0), (0, 0)]);
    assert_eq!(ledger.unconfirmed().await.unwrap(), [claimed, idle, whole]);

    let too_much = ledger
        .record_finding(claimed, found(&engine, claimed, CENT + 1).await)
        .await;
    assert_eq!(too_much, Err(LedgerError::MoreThanSigned(claimed)));
    let other = ledger.record_finding(claimed, found(&engine, idle, 1).await).await;
    assert_eq!(other, Err(LedgerError::NotUnconfirmed(claimed)));
    let first = found(&engine, claimed, 4_000).await;
    ledger.record_finding(claimed, first.clone()).await.unwrap();
    assert_eq!(
        ledger.record_finding(claimed, first).await,
        Err(LedgerError::NotUnconfirmed(claimed))
    );
    ledger
        .record_finding(idle, found(&engine, idle, 0).await)
        .await
        .unwrap();
    ledger
        .record_finding(whole, found(&engine, whole, CENT).await)
        .await
        .unwrap();
    let counted = 2_500 + 4_000 + CENT;
    let (engine, _) = engine.reopened().await;
    assert_eq!(everything(&engine).await, [(counted, 0), (counted, 0), (4, 0), (0, 0)]);
    assert_eq!(engine.ledger.unconfirmed().await.unwrap(), []);
    for (rid, atoms) in [(lost, 2_500), (claimed, 4_000), (idle, 0), (whole, CENT)] {
        let payment = engine.ledger.get(rid).await.unwrap().unwrap();
        assert_eq!((payment.state, payment.by), (State::Settled, Some(Source::Chain)));
        assert_eq!(payment.taken.map(|taken| taken.0), Some(atoms));
        assert_eq!(payment.windows()[0].amount(), atoms);
    }
    // What was given back can be spent again, and the windows hold no more than before.
    let denied = engine.ledger.reserve(engine.world.purchase(counted + CENT - 1)).await;
    assert!(matches!(denied, Err(ReserveError::Denied { .. })), "{denied:?}");
    engine
        .ledger
        .reserve(engine.world.purchase(counted + CENT))
        .await
        .unwrap();
}

pub(super) async fn a_part_comes_back_to_the_windows_that_are_left(engine: Engine) {
    // Buckets of a rolling hour, so old that an engine may have dropped the first ones.
    let hour = Rolling::of_seconds(3_600).unwrap();
    let at = |minute: u64| {
        let mut charge = charge(
            "agent:research",
            Window::Rolling(hour),
            Unit::MicroUsd,
            CENT,
            100 * CENT,
        );
        charge.start = format!("{:010}", 1_795_176_000 + 60 * minute).into();
        let day = self::charge("agent:research", Window::Day, Unit::MicroUsd, CENT, 1_000 * CENT);
        engine.ledger.reserve(engine.world.charged(vec![charge, day]))
    };
    let first = at(0).await.unwrap().rid();
    engine.ledger.finish(first, settled()).await.unwrap();
    for minute in 1..=80 {
        let rid = at(minute).await.unwrap().rid();
        engine.ledger.finish(rid, settled()).await.unwrap();
    }
    let before = engine.holds("agent:research", "rolling.3600").await.0;
    let finding = found(&engine, first, 1_000).await;
    engine.ledger.record_finding(first, finding).await.unwrap();
    assert_eq!(engine.day().await, (80 * CENT + 1_000, 0));
    let (engine, _) = engine.reopened().await;
    assert_eq!(engine.day().await, (80 * CENT + 1_000, 0));
    let after = engine.holds("agent:research", "rolling.3600").await.0;
    assert!(after == before || after == before - 9_000, "{before} {after}");
}

pub(super) async fn open_payments_are_listed_oldest_first(engine: Engine) {
    let (first, second) = (armed(&engine).await, armed(&engine).await);
    let third = held(&engine, 100 * CENT).await.hold.rid;
    let ended = armed(&engine).await;
    engine.ledger.finish(ended, settled()).await.unwrap();
    let open = engine.ledger.open_items().await.unwrap();
    let rids: Vec<PaymentId> = open.iter().map(|payment| payment.reserved.rid).collect();
    assert_eq!(rids, [first, second, third]);
}

pub(super) async fn a_closed_ledger_does_nothing(engine: Engine) {
    let rid = armed(&engine).await;
    engine.ledger.close().await;
    let refused = engine.ledger.reserve(engine.world.purchase(CENT)).await.unwrap_err();
    assert!(matches!(refused, ReserveError::Failed(_)));
    assert!(is_failed(&engine.ledger.finish(rid, settled()).await.unwrap_err()));
    assert!(is_failed(&engine.ledger.open_items().await.unwrap_err()));
    let (action, who, why) = ("a".to_owned(), "b".to_owned(), "c".to_owned());
    let event = Event::AdminAction { action, who, why };
    assert!(is_failed(&engine.ledger.append(event).await.unwrap_err()));
}

pub(super) async fn what_was_open_is_found_again(engine: Engine) {
    let (in_flight, outstanding, paid) = (armed(&engine).await, armed(&engine).await, armed(&engine).await);
    engine.ledger.finish(outstanding, unknown()).await.unwrap();
    engine.ledger.finish(paid, settled()).await.unwrap();
    let waiting = held(&engine, 100 * CENT).await.hold.rid;
    let (engine, has_stopped) = engine.reopened().await;
    if has_stopped {
        // No caller waits any more: what was held was never signed, what was armed may be with a seller.
        assert_eq!(state(&engine, waiting).await, State::Released);
        assert_eq!(state(&engine, in_flight).await, State::Unknown);
        assert_eq!(engine.day().await, (CENT, 2 * CENT));
    }
    assert_eq!(state(&engine, outstanding).await, State::Unknown);
    assert_eq!(state(&engine, paid).await, State::Settled);
    assert_eq!(engine.ledger.unconfirmed().await.unwrap(), [paid]);
}

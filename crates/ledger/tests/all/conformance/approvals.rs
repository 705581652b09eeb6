use bursar_ledger::{
    ApprovalError, ApprovalState, ApprovalStep, Approvals, Arming, Denied, LedgerError, Outcome, PaymentId, Requested,
    Reserve, ReserveError, State,
};
use jiff::{SignedDuration, Timestamp};

use crate::conformance::engine::{Engine, is_failed};
use crate::world::granted;

const CENT: u128 = 10_000;
const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn now(engine: &Engine) -> Timestamp {
    bursar_core::clock::Clock::now(&*engine.world.clock)
}

fn arming(purchase: &Reserve, approval: Option<PaymentId>) -> Arming {
    Arming {
        arm: purchase.arm.clone(),
        charges: purchase.hold.charges.clone(),
        approval: approval.map(|id| id.to_string()),
    }
}

/// A held payment and the question about it.
async fn asked(engine: &Engine, intent: u8) -> (Reserve, Requested) {
    let purchase = engine.world.purchase(100 * CENT);
    engine.ledger.hold(purchase.hold.clone()).await.unwrap();
    let requested = engine.world.question(&purchase.hold, intent);
    let step = ApprovalStep::Requested(requested.clone());
    engine.ledger.approval(step).await.unwrap();
    (purchase, requested)
}

async fn live(engine: &Engine) -> Vec<(PaymentId, PaymentId, ApprovalState)> {
    let approvals = engine.ledger.approvals().await.unwrap();
    let rows = approvals.live.into_iter().map(|row| (row.id, row.rid, row.state));
    rows.collect()
}

fn refused(error: ApprovalError) -> Result<(), LedgerError> {
    Err(LedgerError::Approval(error))
}

pub(super) async fn what_was_granted_is_paid_once(engine: Engine) {
    let ledger = &engine.ledger;
    let (purchase, requested) = asked(&engine, 1).await;
    let (rid, id) = (purchase.hold.rid, requested.id);
    let pending = ApprovalState::Pending {
        until: requested.until,
        votes: Vec::new(),
    };
    assert_eq!(live(&engine).await, [(id, rid, pending)]);

    let waits = ReserveError::Approval(ApprovalError::Waits { rid, id });
    assert_eq!(ledger.arm(rid, arming(&purchase, None)).await.unwrap_err(), waits);
    let early = ReserveError::Approval(ApprovalError::NotGranted(id));
    assert_eq!(ledger.arm(rid, arming(&purchase, Some(id))).await.unwrap_err(), early);
    assert_eq!(engine.day().await, (0, CENT), "it is held in the meantime");

    let use_by = now(&engine) + MINUTE;
    ledger.approval(granted(id, 1, use_by)).await.unwrap();
    let again = ledger.approval(granted(id, 2, use_by)).await;
    assert_eq!(again, refused(ApprovalError::GrantedBefore(id)));
    let (kind, by) = (
        bursar_core::approval::EvidenceKind::SignedToken,
        "did:x:finance".to_owned(),
    );
    assert_eq!(
        live(&engine).await,
        [(id, rid, ApprovalState::Granted { use_by, kind, by })]
    );

    let stranger = ReserveError::Approval(ApprovalError::NoneOf(rid));
    let other = engine.world.purchase(CENT).hold.rid;
    assert_eq!(
        ledger.arm(rid, arming(&purchase, Some(other))).await.unwrap_err(),
        stranger
    );
    let reservation = ledger.arm(rid, arming(&purchase, Some(id))).await.unwrap();
    assert_eq!((reservation.rid(), engine.day().await), (rid, (0, CENT)));
    assert_eq!(live(&engine).await, []);
    let payment = ledger.get(rid).await.unwrap().unwrap();
    assert_eq!((payment.state, payment.approval), (State::Armed, Some(id.to_string())));
    let over = ledger.arm(rid, arming(&purchase, Some(id))).await.unwrap_err();
    assert_eq!(over, ReserveError::NotHeld(rid));
    assert_eq!(
        ledger.approval(granted(id, 3, use_by)).await,
        refused(ApprovalError::NotLive(id))
    );
}

pub(super) async fn one_approval_at_a_time_is_for_one_held_payment(engine: Engine) {
    let ledger = &engine.ledger;
    let (purchase, first) = asked(&engine, 1).await;
    let second = engine.world.purchase(100 * CENT);
    let again = engine.world.question(&second.hold, 1);
    let ask = |requested: &Requested| ledger.approval(ApprovalStep::Requested(requested.clone()));
    let nobody = ApprovalError::NotHeld(second.hold.rid);
    assert_eq!(ask(&again).await, refused(nobody.clone()));
    ledger.hold(second.hold.clone()).await.unwrap();
    assert_eq!(ask(&again).await, refused(ApprovalError::AskedAlready(first.id)));
    let waits = ApprovalError::Waits {
        rid: purchase.hold.rid,
        id: first.id,
    };
    let twice = engine.world.question(&purchase.hold, 2);
    assert_eq!(ask(&twice).await, refused(waits));
    // Another agent may ask for the same.
    let elses = Requested {
        agent: "else".into(),
        ..again.clone()
    };
    ask(&elses).await.unwrap();
    let why = "timeout".to_owned();
    ledger
        .approval(ApprovalStep::Expired {
            id: elses.id,
            why: why.clone(),
        })
        .await
        .unwrap();
    // A release ends the approval that the payment waited for.
    ledger
        .finish(
            purchase.hold.rid,
            Outcome::Released {
                why: bursar_ledger::Reason::ApprovalExpired,
            },
        )
        .await
        .unwrap();
    assert_eq!(live(&engine).await, []);
    let ended = ledger.approval(ApprovalStep::Expired { id: first.id, why }).await;
    assert_eq!(ended, refused(ApprovalError::NotLive(first.id)));
    ask(&again).await.unwrap();
    // An armed payment cannot be asked about.
    ledger
        .finish(
            second.hold.rid,
            Outcome::Released {
                why: bursar_ledger::Reason::ApprovalExpired,
            },
        )
        .await
        .unwrap();
    let armed = engine.world.purchase(100 * CENT);
    let late = engine.world.question(&armed.hold, 3);
    let rid = ledger.reserve(armed).await.unwrap().rid();
    assert_eq!(ask(&late).await, refused(ApprovalError::NotHeld(rid)));
}

pub(super) async fn evidence_is_used_once_and_forgotten_in_the_end(engine: Engine) {
    let ledger = &engine.ledger;
    let ((purchase, first), (_, second)) = (asked(&engine, 1).await, asked(&engine, 2).await);
    let use_by = now(&engine) + MINUTE;
    ledger.approval(granted(first.id, 1, use_by)).await.unwrap();
    let replayed = || refused(ApprovalError::Replayed(second.id));
    assert_eq!(ledger.approval(granted(second.id, 1, use_by)).await, replayed());
    let approval = arming(&purchase, Some(first.id));
    ledger.arm(purchase.hold.rid, approval).await.unwrap();
    assert_eq!(ledger.approval(granted(second.id, 1, use_by)).await, replayed());
    let (engine, _) = engine.reopened().await;
    let ledger = &engine.ledger;
    assert_eq!(ledger.approval(granted(second.id, 1, use_by)).await, replayed());
    // `granted` has the evidence remembered for a minute longer than it can be used.
    engine.world.clock.set(use_by + MINUTE);
    assert_eq!(ledger.approval(granted(second.id, 1, use_by)).await, replayed());
    engine.world.clock.set(use_by + MINUTE + SignedDuration::from_micros(1));
    ledger
        .approval(granted(second.id, 1, use_by + MINUTE * 9))
        .await
        .unwrap();
}

pub(super) async fn an_approval_that_is_not_used_in_time_is_not_used(engine: Engine) {
    let ledger = &engine.ledger;
    let (purchase, requested) = asked(&engine, 1).await;
    let (rid, id) = (purchase.hold.rid, requested.id);
    let use_by = now(&engine) + MINUTE;
    ledger.approval(granted(id, 1, use_by)).await.unwrap();
    engine.world.clock.set(use_by + SignedDuration::from_micros(1));
    let over = ledger.arm(rid, arming(&purchase, Some(id))).await.unwrap_err();
    assert_eq!(over, ReserveError::Approval(ApprovalError::Over(id)));
    let waits = ledger.arm(rid, arming(&purchase, None)).await.unwrap_err();
    assert_eq!(waits, ReserveError::Approval(ApprovalError::Waits { rid, id }));
    // It does not end by itself: the process that asked records it.
    assert_eq!(live(&engine).await.len(), 1);
    let why = "unused".to_owned();
    ledger.approval(ApprovalStep::Expired { id, why }).await.unwrap();
    ledger
        .finish(
            rid,
            Outcome::Released {
                why: bursar_ledger::Reason::ApprovalExpired,
            },
        )
        .await
        .unwrap();
    assert_eq!((engine.day().await, live(&engine).await), ((0, 0), vec![]));
}

pub(super) async fn limits_of_now_leave_an_approval_as_it_is(engine: Engine) {
    let ledger = &engine.ledger;
    let (purchase, requested) = asked(&engine, 1).await;
    let (rid, id) = (purchase.hold.rid, requested.id);
    ledger.approval(granted(id, 1, now(&engine) + MINUTE)).await.unwrap();
    let mut lowered = arming(&purchase, Some(id));
    lowered.charges[0].cap = CENT - 1;
    let denied = ledger.arm(rid, lowered).await.unwrap_err();
    assert!(matches!(denied, ReserveError::Denied { .. }), "{denied:?}");
    assert_eq!(live(&engine).await.len(), 1);
    ledger.arm(rid, arming(&purchase, Some(id))).await.unwrap();
}

pub(super) async fn a_denial_is_remembered_until_its_end(engine: Engine) {
    let (_, requested) = asked(&engine, 1).await;
    let until = now(&engine) + MINUTE * 5;
    let step = ApprovalStep::Refused {
        id: requested.id,
        by: Some("uid:0".into()),
        why: "denied".into(),
        until,
    };
    engine.ledger.approval(step.clone()).await.unwrap();
    let twice = engine.ledger.approval(step).await;
    assert_eq!(twice, refused(ApprovalError::NotLive(requested.id)));
    let denied = vec![Denied {
        agent: requested.agent.clone(),
        intent: requested.intent,
        until,
    }];
    let found = Approvals {
        denied: denied.clone(),
        ..Approvals::default()
    };
    assert_eq!(engine.ledger.approvals().await, Ok(found));
    let (engine, _) = engine.reopened().await;
    engine.world.clock.set(until);
    assert_eq!(engine.ledger.approvals().await.unwrap().denied, denied);
    // Until then the same may not be asked again; a different question may.
    let again = engine.world.purchase(100 * CENT);
    engine.ledger.hold(again.hold.clone()).await.unwrap();
    let ask = |intent| ApprovalStep::Requested(engine.world.question(&again.hold, intent));
    assert_eq!(
        engine.ledger.approval(ask(1)).await,
        refused(ApprovalError::Refused { until })
    );
    let other = ask(2);
    let id = other.id();
    engine.ledger.approval(other).await.unwrap();
    let why = "timeout".to_owned();
    engine.ledger.approval(ApprovalStep::Expired { id, why }).await.unwrap();
    engine.world.clock.set(until + SignedDuration::from_micros(1));
    assert_eq!(engine.ledger.approvals().await, Ok(Approvals::default()));
    engine.ledger.approval(ask(1)).await.unwrap();
}

pub(super) async fn what_a_person_was_asked_about_is_still_held_after_a_stop(engine: Engine) {
    let ((asked_about, pending), (ready, decided)) = (asked(&engine, 1).await, asked(&engine, 2).await);
    let use_by = now(&engine) + MINUTE;
    engine.ledger.approval(granted(decided.id, 1, use_by)).await.unwrap();
    let forgotten = engine.world.purchase(100 * CENT);
    engine.ledger.hold(forgotten.hold.clone()).await.unwrap();
    let before = live(&engine).await;
    let (engine, has_stopped) = engine.reopened().await;
    assert_eq!(live(&engine).await, before);
    let state = async |rid| engine.ledger.get(rid).await.unwrap().unwrap().state;
    assert_eq!(state(asked_about.hold.rid).await, State::Held);
    assert_eq!(state(ready.hold.rid).await, State::Held);
    if has_stopped {
        assert_eq!(state(forgotten.hold.rid).await, State::Released);
        assert_eq!(engine.day().await, (0, 2 * CENT));
    }
    // Even what is overdue: the start must not record how it ended.
    engine.world.clock.set(pending.until + MINUTE);
    let (engine, _) = engine.reopened().await;
    assert_eq!(live(&engine).await, before);
    engine.world.clock.set(use_by);
    let approval = arming(&ready, Some(decided.id));
    engine.ledger.arm(ready.hold.rid, approval).await.unwrap();
}

pub(super) async fn a_closed_ledger_returns_no_approvals(engine: Engine) {
    let (_, requested) = asked(&engine, 1).await;
    engine.ledger.close().await;
    let why = "unused".to_owned();
    let step = ApprovalStep::Expired { id: requested.id, why };
    assert!(is_failed(&engine.ledger.approval(step).await.unwrap_err()));
    assert!(is_failed(&engine.ledger.approvals().await.unwrap_err()));
}

pub(super) async fn of_two_that_ask_or_grant_or_arm_at_once_one_does(engine: Engine) {
    let ledger = &engine.ledger;
    let held = [engine.world.purchase(100 * CENT), engine.world.purchase(100 * CENT)];
    let mut asked = Vec::new();
    for purchase in &held {
        ledger.hold(purchase.hold.clone()).await.unwrap();
        asked.push(engine.world.question(&purchase.hold, 1));
    }
    let ask = |requested: &Requested| ledger.approval(ApprovalStep::Requested(requested.clone()));
    let (one, other) = tokio::join!(ask(&asked[0]), ask(&asked[1]));
    let (first, second) = if one.is_ok() { (0, 1) } else { (1, 0) };
    let id = asked[first].id;
    let outcomes = [one, other];
    assert_eq!(
        (&outcomes[first], &outcomes[second]),
        (&Ok(()), &refused(ApprovalError::AskedAlready(id)))
    );
    let elses = engine.world.question(&held[second].hold, 2);
    ask(&elses).await.unwrap();

    let use_by = now(&engine) + MINUTE;
    let (one, other) = tokio::join!(
        ledger.approval(granted(id, 1, use_by)),
        ledger.approval(granted(elses.id, 1, use_by))
    );
    let (paid, unpaid, approval, loser) = match one.is_ok() {
        true => (&held[first], &held[second], id, elses.id),
        false => (&held[second], &held[first], elses.id, id),
    };
    assert_eq!(
        [one, other].into_iter().find(Result::is_err),
        Some(refused(ApprovalError::Replayed(loser)))
    );

    let rid = paid.hold.rid;
    let (one, other) = tokio::join!(
        ledger.arm(rid, arming(paid, Some(approval))),
        ledger.arm(rid, arming(paid, Some(approval)))
    );
    let failed: Vec<ReserveError> = [one, other].into_iter().filter_map(Result::err).collect();
    assert_eq!(failed, [ReserveError::NotHeld(rid)]);
    let early = ledger.arm(unpaid.hold.rid, arming(unpaid, Some(loser))).await;
    assert_eq!(
        early.unwrap_err(),
        ReserveError::Approval(ApprovalError::NotGranted(loser))
    );
}

/// Engines with a journal record the same entries, and their readers return the same.
pub(super) async fn the_entries_record_it_in_order(engine: Engine) {
    let ledger = &engine.ledger;
    let (paid, approved) = asked(&engine, 1).await;
    let use_by = now(&engine) + MINUTE;
    ledger.approval(granted(approved.id, 1, use_by)).await.unwrap();
    ledger
        .arm(paid.hold.rid, arming(&paid, Some(approved.id)))
        .await
        .unwrap();
    let (denied, no) = asked(&engine, 2).await;
    let step = ApprovalStep::Refused {
        id: no.id,
        by: None,
        why: "denied".into(),
        until: use_by,
    };
    ledger.approval(step).await.unwrap();
    let (late, silent) = asked(&engine, 3).await;
    let why = "timeout".to_owned();
    ledger
        .approval(ApprovalStep::Expired { id: silent.id, why })
        .await
        .unwrap();
    for (purchase, why) in [
        (denied, bursar_ledger::Reason::ApprovalDenied),
        (late, bursar_ledger::Reason::ApprovalExpired),
    ] {
        ledger
            .finish(purchase.hold.rid, Outcome::Released { why })
            .await
            .unwrap();
    }
    ledger.close().await;
    if !engine.keeps_a_journal() {
        return;
    }
    let found = |ev: &String| ev.starts_with("pay.") || ev.starts_with("approval.");
    let events: Vec<String> = engine.world.events().into_iter().filter(found).collect();
    assert_eq!(
        events,
        [
            "pay.reserved",
            "approval.requested",
            "approval.granted",
            "pay.armed",
            "pay.reserved",
            "approval.requested",
            "approval.denied",
            "pay.reserved",
            "approval.requested",
            "approval.expired",
            "pay.released",
            "pay.released",
        ]
    );
    let payments = bursar_ledger::read_payments(engine.world.path()).unwrap().read.payments;
    let found: Vec<_> = payments
        .iter()
        .map(|payment| (payment.state, payment.approval.clone()))
        .collect();
    assert_eq!(
        found,
        [
            (State::Armed, Some(approved.id.to_string())),
            (State::Released, None),
            (State::Released, None)
        ]
    );
}

pub(super) async fn as_many_people_as_it_needs_grant_it(engine: Engine) {
    let ledger = &engine.ledger;
    let purchase = engine.world.purchase(100 * CENT);
    ledger.hold(purchase.hold.clone()).await.unwrap();
    let requested = Requested {
        needed: 2,
        ..engine.world.question(&purchase.hold, 1)
    };
    let (rid, id) = (purchase.hold.rid, requested.id);
    ledger.approval(ApprovalStep::Requested(requested)).await.unwrap();
    let use_by = now(&engine) + MINUTE;
    ledger.approval(granted(id, 1, use_by + MINUTE)).await.unwrap();
    let early = ReserveError::Approval(ApprovalError::NotGranted(id));
    assert_eq!(ledger.arm(rid, arming(&purchase, Some(id))).await.unwrap_err(), early);
    let same = ledger.approval(granted(id, 2, use_by)).await;
    assert_eq!(same, refused(ApprovalError::VotedBefore(id)));
    let mut second = granted(id, 2, use_by);
    if let ApprovalStep::Granted { by, .. } = &mut second {
        "did:x:board".clone_into(by);
    }
    ledger.approval(second).await.unwrap();
    let ApprovalState::Granted { use_by: until, .. } = live(&engine).await[0].2 else {
        panic!("two votes are enough")
    };
    assert_eq!(until, use_by);
    ledger.arm(rid, arming(&purchase, Some(id))).await.unwrap();
}

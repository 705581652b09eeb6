mod slow;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::book::tests::{apply, arm_of, reserved, rid, ts};
use crate::book::{Book, Effect, Illegal};
use crate::entry::{ApprovalDenied, ApprovalExpired, Armed, Body, Closed, Released};
use crate::text::Digest;
use bursar_core::approval::{EvidenceKind, replay};

const MINUTE: i64 = 60;

/// Ids of approvals, distinct from those of payments.
fn id(n: u8) -> PaymentId {
    rid(100 + n)
}

fn hold(n: u8) -> Body {
    Body::Reserved(Arc::new(reserved(n, false, vec![])))
}

fn asks(n: u8, payment: u8, intent: u8) -> Body {
    asks_people(n, payment, intent, 1)
}

fn asks_people(n: u8, payment: u8, intent: u8, needed: u8) -> Body {
    Body::ApprovalRequested(ApprovalRequested {
        agent: "a".into(),
        approver: "finance".into(),
        backend: "operator".into(),
        id: id(n),
        intent: Digest([intent; 32]),
        needed,
        rid: rid(payment),
        rules: Vec::new(),
        sd: Vec::new(),
        until: ts(10 * MINUTE),
    })
}

fn grants(n: u8, replay: u8, use_by: i64) -> Body {
    is_granted_by(1, n, replay, use_by)
}

fn is_granted_by(person: u8, n: u8, replay: u8, use_by: i64) -> Body {
    Body::ApprovalGranted(ApprovalGranted {
        by: format!("did:x:{person}"),
        evidence_sha256: Digest([7; 32]),
        id: id(n),
        kind: EvidenceKind::SignedToken,
        replay: Digest([replay; 32]),
        replay_until: ts(use_by + MINUTE),
        use_by: ts(use_by),
    })
}

fn refuses(n: u8, until: i64) -> Body {
    Body::ApprovalDenied(ApprovalDenied {
        by: None,
        id: id(n),
        until: ts(until),
        why: "denied".into(),
    })
}

fn expires(n: u8) -> Body {
    Body::ApprovalExpired(ApprovalExpired {
        id: id(n),
        why: "error:start_unknown".into(),
    })
}

fn arms(payment: u8, approval: Option<u8>) -> Body {
    Body::Armed(Armed {
        approval: approval.map(|n| id(n).to_string()),
        arm: arm_of(payment),
        rid: rid(payment),
        windows: None,
    })
}

fn releases(payment: u8) -> Body {
    Body::Released(Released {
        rid: rid(payment),
        why: "denied".into(),
    })
}

fn refused(book: &mut Book, second: i64, body: Body) -> ApprovalError {
    let before = book.clone();
    let Err(Illegal::Approval(error)) = apply(book, second, body) else {
        panic!("it was lawful");
    };
    assert_eq!(*book, before, "on error nothing has changed");
    error
}

fn lawful(book: &mut Book, second: i64, body: Body) -> Effect {
    apply(book, second, body).unwrap()
}

#[test]
fn one_is_asked_about_a_held_payment_and_once_about_one_intent() {
    let mut book = Book::default();
    assert_eq!(refused(&mut book, 0, asks(1, 1, 1)), ApprovalError::NotHeld(rid(1)));
    let armed_at_once = Body::Reserved(Arc::new(reserved(3, true, vec![])));
    for body in [hold(1), hold(2), armed_at_once] {
        lawful(&mut book, 0, body);
    }
    assert_eq!(refused(&mut book, 0, asks(1, 3, 1)), ApprovalError::NotHeld(rid(3)));
    let effect = lawful(&mut book, 1, asks(1, 1, 1));
    assert_eq!(effect.touched(), Some(rid(1)));
    let again = [(asks(1, 2, 2), ApprovalError::IdTaken(id(1)))];
    let other = [(asks(2, 2, 1), ApprovalError::AskedAlready(id(1)))];
    let same = [(asks(2, 1, 2), ApprovalError::Waits { rid: rid(1), id: id(1) })];
    for (body, error) in again.into_iter().chain(other).chain(same) {
        assert_eq!(refused(&mut book, 2, body), error);
    }
    // Another agent may ask the same, and the same agent may ask again once the first question has ended.
    let Body::ApprovalRequested(others) = asks(2, 2, 1) else {
        panic!()
    };
    let others = ApprovalRequested {
        agent: "b".into(),
        ..others
    };
    lawful(&mut book, 2, Body::ApprovalRequested(others));
    lawful(&mut book, 3, expires(2));
    lawful(&mut book, 3, expires(1));
    lawful(&mut book, 4, asks(3, 2, 1));
    let row = book.approvals().of_payment(rid(2)).unwrap();
    assert_eq!((row.id, row.requested_at), (id(3), ts(4).timestamp()));
    assert_eq!(
        row.state,
        ApprovalState::Pending {
            until: ts(10 * MINUTE).timestamp(),
            votes: Vec::new(),
        }
    );
}

#[test]
fn evidence_grants_one_approval() {
    let mut book = Book::default();
    for body in [hold(1), hold(2), asks(1, 1, 1), asks(2, 2, 2)] {
        lawful(&mut book, 0, body);
    }
    assert_eq!(
        refused(&mut book, 1, grants(9, 1, MINUTE)),
        ApprovalError::NotLive(id(9))
    );
    lawful(&mut book, 1, grants(1, 1, MINUTE));
    assert_eq!(
        refused(&mut book, 1, grants(1, 2, MINUTE)),
        ApprovalError::GrantedBefore(id(1))
    );
    assert_eq!(
        refused(&mut book, 1, grants(2, 1, MINUTE)),
        ApprovalError::Replayed(id(2))
    );
    // Not after its approval has ended, either.
    lawful(&mut book, 2, expires(1));
    assert_eq!(
        refused(&mut book, 2 * MINUTE, grants(2, 1, MINUTE)),
        ApprovalError::Replayed(id(2))
    );
    // Forgotten after its last moment, even if nothing was recorded since.
    let mut later = book.clone();
    lawful(&mut later, 2 * MINUTE + 1, grants(2, 1, 3 * MINUTE));
    let effect = lawful(&mut book, 2 * MINUTE + 1, Body::Closed(Closed {}));
    assert_eq!(effect.approvals.replays, [([1; 32], None)]);
    lawful(&mut book, 2 * MINUTE + 1, grants(2, 1, 3 * MINUTE));
    assert_eq!(book.approvals, later.approvals);
}

#[test]
fn evidence_is_used_in_the_order_of_the_vectors() {
    const FIRST: i64 = 1_800_000_000;
    let fixture = include_str!("../../../../../fixtures/approvals/replay.json");
    let fixture: serde_json::Value = serde_json::from_str(fixture).unwrap();
    let steps = fixture["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 7);
    let mut book = Book::default();
    for (n, step) in (1..).zip(steps) {
        let second = step["t"].as_i64().unwrap() - FIRST;
        if step["restart"] == true {
            // As an index restores it.
            let mut again = Book::default();
            for (key, until) in book.approvals().replays() {
                again.restore_replay(*key, until);
            }
            book = again;
            continue;
        }
        lawful(&mut book, second, hold(n));
        lawful(&mut book, second, asks(n, n, n));
        let text = |name: &str| step[name].as_str().unwrap();
        let exp = Timestamp::from_second(step["exp"].as_i64().unwrap()).unwrap();
        let kept_until = replay::kept_until(exp, SignedDuration::from_secs(30));
        let Body::ApprovalGranted(granted) = grants(n, 0, second + MINUTE) else {
            panic!()
        };
        let granted = ApprovalGranted {
            replay: Digest(replay::ReplayKey::of_jti(text("iss"), text("jti")).bytes()),
            replay_until: ts(kept_until.as_second() - FIRST),
            ..granted
        };
        let verdict = match apply(&mut book, second, Body::ApprovalGranted(granted)) {
            Ok(_) => "accept",
            Err(Illegal::Approval(ApprovalError::Replayed(_))) => "replayed",
            Err(error) => panic!("{step}: {error}"),
        };
        assert_eq!(verdict, text("verdict"), "{step}");
    }
    assert_eq!(book.approvals().replays().count(), 3);
}

/// Whatever the evidence says, it cannot be used again as long as the approval that it granted can still be used.
#[test]
fn evidence_is_remembered_as_long_as_what_it_granted() {
    let mut book = Book::default();
    for body in [hold(1), hold(2), asks(1, 1, 1), asks(2, 2, 2)] {
        lawful(&mut book, 0, body);
    }
    let Body::ApprovalGranted(granted) = grants(1, 1, 5 * MINUTE) else {
        panic!()
    };
    let short = ApprovalGranted {
        replay_until: ts(0),
        ..granted
    };
    lawful(&mut book, 1, Body::ApprovalGranted(short));
    assert_eq!(
        refused(&mut book, 5 * MINUTE, grants(2, 1, 5 * MINUTE)),
        ApprovalError::Replayed(id(2))
    );
    lawful(&mut book, 5 * MINUTE, arms(1, Some(1)));
}

#[test]
fn an_approval_arms_its_own_payment_once_and_in_time() {
    let mut book = Book::default();
    for body in [
        hold(1),
        hold(2),
        hold(3),
        hold(4),
        asks(1, 1, 1),
        asks(2, 2, 2),
        asks(4, 4, 4),
    ] {
        lawful(&mut book, 0, body);
    }
    let waits = |n| ApprovalError::Waits { rid: rid(n), id: id(n) };
    assert_eq!(refused(&mut book, 1, arms(1, None)), waits(1));
    assert_eq!(
        refused(&mut book, 1, arms(1, Some(1))),
        ApprovalError::NotGranted(id(1))
    );
    lawful(&mut book, 1, grants(1, 1, MINUTE));
    lawful(&mut book, 1, grants(2, 2, MINUTE));
    for (body, error) in [
        (arms(1, None), waits(1)),
        (arms(1, Some(2)), ApprovalError::NoneOf(rid(1))),
        (arms(3, Some(1)), ApprovalError::NoneOf(rid(3))),
        (arms(1, Some(9)), ApprovalError::NoneOf(rid(1))),
    ] {
        assert_eq!(refused(&mut book, 2, body), error);
    }
    let words = Body::Armed(Armed {
        approval: Some("yes".into()),
        arm: arm_of(3),
        rid: rid(3),
        windows: None,
    });
    assert_eq!(refused(&mut book, 2, words), ApprovalError::NoneOf(rid(3)));
    // At its last moment, and not later.
    let effect = lawful(&mut book, MINUTE, arms(1, Some(1)));
    assert_eq!(effect.payment.unwrap().approval, Some(id(1).to_string()));
    assert_eq!(effect.approvals.row.unwrap().1, RowChange::Over);
    assert_eq!(
        refused(&mut book, MINUTE + 1, arms(2, Some(2))),
        ApprovalError::Over(id(2))
    );
    assert!(
        book.approvals().of_payment(rid(2)).is_some(),
        "the process that asked records how it ended"
    );
    // A payment that needs no approval is armed without one.
    lawful(&mut book, MINUTE, arms(3, None));
    // Once its payment is released, the approval has ended and can be requested again.
    lawful(&mut book, MINUTE, releases(4));
    assert_eq!(
        refused(&mut book, MINUTE, grants(4, 4, 2 * MINUTE)),
        ApprovalError::NotLive(id(4))
    );
    lawful(&mut book, MINUTE, hold(5));
    lawful(&mut book, MINUTE, asks(5, 5, 4));
    assert!(book.adds_up());
}

#[test]
fn a_denial_is_remembered_until_its_end() {
    let mut book = Book::default();
    for body in [hold(1), asks(1, 1, 1)] {
        lawful(&mut book, 0, body);
    }
    lawful(&mut book, 1, refuses(1, MINUTE));
    assert_eq!(refused(&mut book, 1, refuses(1, MINUTE)), ApprovalError::NotLive(id(1)));
    let denied = Denied {
        agent: "a".into(),
        intent: [1; 32],
        until: ts(MINUTE).timestamp(),
    };
    let known_at = |book: &Book, second| book.approvals().known_at(ts(second)).denied;
    assert_eq!(known_at(&book, MINUTE), std::slice::from_ref(&denied));
    assert_eq!(known_at(&book, MINUTE + 1), []);
    // A later denial of the same does not shorten it.
    lawful(&mut book, 2, asks(2, 1, 1));
    lawful(&mut book, 3, refuses(2, 30));
    assert_eq!(known_at(&book, MINUTE), [denied]);
    let effect = lawful(&mut book, MINUTE + 1, releases(1));
    assert_eq!(effect.approvals.denials.len(), 1);
    assert_eq!(book.approvals, Register::default());
}

#[test]
fn rows_whose_payment_is_not_held_do_not_add_up() {
    let mut book = Book::default();
    for body in [hold(1), asks(1, 1, 1)] {
        lawful(&mut book, 0, body);
    }
    let row = book.approvals().of_payment(rid(1)).unwrap().clone();
    assert!(book.adds_up());
    let mut stray = Book::default();
    stray.restore_approval(row);
    assert!(!stray.adds_up());
}

/// One payment's entries alone are valid although those of others are missing.
#[test]
fn for_one_payment_the_others_do_not_stand_in_the_way() {
    let mut book = Book::default();
    for body in [hold(1), asks(1, 1, 1), grants(1, 1, MINUTE), hold(2)] {
        lawful(&mut book, 0, body);
    }
    // Between these, the first expired and its evidence was forgotten.
    let mut alone = book.clone().for_one(rid(2));
    for body in [asks(2, 2, 1), grants(2, 1, MINUTE), arms(2, Some(2))] {
        lawful(&mut alone, 1, body);
    }
    let mut own = book.for_one(rid(1));
    lawful(&mut own, 1, arms(1, Some(1)));
}

#[test]
fn as_many_different_people_grant_it_as_it_needs() {
    let mut book = Book::default();
    lawful(&mut book, 0, hold(1));
    lawful(&mut book, 0, asks_people(1, 1, 1, 3));
    let armed = |book: &mut Book, second| refused(book, second, arms(1, Some(1)));
    lawful(&mut book, 1, is_granted_by(1, 1, 1, 8 * MINUTE));
    assert_eq!(armed(&mut book, 1), ApprovalError::NotGranted(id(1)));
    // The same person with other evidence does not count twice; the same evidence from another person does not count at
    // all.
    assert_eq!(
        refused(&mut book, 2, is_granted_by(1, 1, 2, MINUTE)),
        ApprovalError::VotedBefore(id(1))
    );
    assert_eq!(
        refused(&mut book, 2, is_granted_by(2, 1, 1, MINUTE)),
        ApprovalError::Replayed(id(1))
    );
    lawful(&mut book, 2, is_granted_by(2, 1, 2, 5 * MINUTE));
    assert_eq!(armed(&mut book, 2), ApprovalError::NotGranted(id(1)));
    let Body::ApprovalGranted(third) = is_granted_by(3, 1, 3, 9 * MINUTE) else {
        panic!()
    };
    let kind = EvidenceKind::KeyraStatus;
    lawful(&mut book, 3, Body::ApprovalGranted(ApprovalGranted { kind, ..third }));
    // It lasts as long as the shortest vote, and is as strong as the weakest.
    assert_eq!(
        book.approvals().live(id(1)).unwrap().state,
        ApprovalState::Granted {
            use_by: ts(5 * MINUTE).timestamp(),
            kind,
            by: "did:x:1, did:x:2, did:x:3".to_owned(),
        }
    );
    assert_eq!(
        refused(&mut book, 4, is_granted_by(4, 1, 4, MINUTE)),
        ApprovalError::GrantedBefore(id(1))
    );
    let mut late = book.clone();
    assert_eq!(armed(&mut late, 5 * MINUTE + 1), ApprovalError::Over(id(1)));
    lawful(&mut book, 5 * MINUTE, arms(1, Some(1)));
}

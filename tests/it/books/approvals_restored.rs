//! Approvals after a crash at every point, without the index, and in a ledger whose oldest entries were moved away.

use std::fs;
use std::time::Duration;

use crate::world::{FailAt, NOON, World, granted};
use bursar::backup::retain::retain;
use bursar_home::Home;
use bursar_ledger::journal::{Step, Verdict};
use bursar_ledger::{
    ApprovalError, ApprovalState, ApprovalStep, Approvals, Arming, CheckpointInterval, Embedded, Hold, Ledger,
    LedgerError, Outcome, Payment, PaymentId, Requested, Reserve, ReserveError, Source, State, read_payments,
};
use jiff::{SignedDuration, Timestamp};

const CENT: u128 = 10_000;
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn noon() -> Timestamp {
    NOON.parse().unwrap()
}

fn arming(purchase: &Reserve, id: PaymentId) -> Arming {
    Arming {
        arm: purchase.arm.clone(),
        charges: purchase.hold.charges.clone(),
        approval: Some(id.to_string()),
    }
}

async fn asked(world: &World, ledger: &Embedded, intent: u8) -> (Reserve, Requested) {
    let purchase = world.purchase(1_000 * CENT);
    ledger.hold(purchase.hold.clone()).await.unwrap();
    let requested = world.question(&purchase.hold, intent);
    let step = ApprovalStep::Requested(requested.clone());
    ledger.approval(step).await.unwrap();
    (purchase, requested)
}

async fn state(ledger: &Embedded, rid: PaymentId) -> State {
    ledger.get(rid).await.unwrap().unwrap().state
}

fn replayed(id: PaymentId) -> Result<(), LedgerError> {
    Err(LedgerError::Approval(ApprovalError::Replayed(id)))
}

fn forget_index(world: &World) {
    fs::remove_dir_all(world.path().join("index")).unwrap();
}

/// Two payments that were asked about, one of them granted; then a kill after its arming was written and before anybody
/// was notified.
struct Killed {
    world: World,
    approved: Reserve,
    approval: PaymentId,
    /// The other question, for which the same evidence is presented.
    other: PaymentId,
}

impl Killed {
    async fn new() -> Self {
        let world = World::new();
        let ledger = world.open_with(|options| {
            // Commit 1 is the start, 2 to 5 hold and ask, 6 grants, 7 arms.
            let (step, nth, verdict) = (Step::Answer, 7, Verdict::Die);
            options.faults = Some(Box::new(FailAt { step, nth, verdict }));
            options.signing = CheckpointInterval::every(Duration::MAX, u64::MAX);
        });
        world.wait_until_signed();
        let ((approved, requested), (_, other)) = (asked(&world, &ledger, 1).await, asked(&world, &ledger, 2).await);
        let step = granted(requested.id, 1, noon() + MINUTE);
        ledger.approval(step).await.unwrap();
        let killed = ledger.arm(approved.hold.rid, arming(&approved, requested.id)).await;
        assert!(matches!(killed, Err(ReserveError::Failed(_))), "{killed:?}");
        drop(ledger);
        world.wait_until_released();
        Self {
            world,
            approved,
            approval: requested.id,
            other: other.id,
        }
    }

    /// Truncates the journal `into` bytes into the line of that event.
    fn cut(&self, ev: &str, into: usize) {
        let segment = &self.world.segments()[0];
        let text = fs::read_to_string(segment).unwrap();
        let at = text.find(&format!("\"ev\":\"{ev}\"")).unwrap();
        let line = text[..at].rfind('\n').unwrap() + 1;
        fs::write(segment, &text[..line + into]).unwrap();
    }
}

#[tokio::test]
async fn evidence_that_was_recorded_is_used_whatever_was_torn_behind_it() {
    // Between the two lines, and in the middle of the second.
    for (into, has_index) in [(0, true), (0, false), (150, true), (150, false)] {
        let killed = Killed::new().await;
        killed.cut("pay.armed", into);
        if !has_index {
            forget_index(&killed.world);
        }
        let ledger = killed.world.open();
        let rid = killed.approved.hold.rid;
        assert_eq!(state(&ledger, rid).await, State::Held, "{into} {has_index}");
        let live = ledger.approvals().await.unwrap().live;
        let states: Vec<_> = live.iter().map(|row| (row.id, row.rid == rid, &row.state)).collect();
        let [
            (id, true, ApprovalState::Granted { .. }),
            (other, false, ApprovalState::Pending { .. }),
        ] = states[..]
        else {
            panic!("{states:?}");
        };
        assert_eq!((id, other), (killed.approval, killed.other));
        let again = granted(killed.other, 1, noon() + MINUTE);
        assert_eq!(ledger.approval(again.clone()).await, replayed(killed.other));
        // The granted payment is made now, once.
        ledger.arm(rid, arming(&killed.approved, id)).await.unwrap();
        let twice = ledger.arm(rid, arming(&killed.approved, id)).await.unwrap_err();
        assert_eq!(twice, ReserveError::NotHeld(rid));
        assert_eq!(ledger.approval(again).await, replayed(killed.other));
    }
}

#[tokio::test]
async fn an_arming_that_was_written_has_used_its_approval_up() {
    let killed = Killed::new().await;
    let ledger = killed.world.open();
    let rid = killed.approved.hold.rid;
    let payment = ledger.get(rid).await.unwrap().unwrap();
    assert_eq!(
        (payment.state, payment.reason.as_deref()),
        (State::Unknown, Some("restart"))
    );
    assert_eq!(payment.approval, Some(killed.approval.to_string()));
    let live = ledger.approvals().await.unwrap().live;
    assert_eq!(live.iter().map(|row| row.id).collect::<Vec<_>>(), [killed.other]);
    let again = granted(killed.other, 1, noon() + MINUTE);
    assert_eq!(ledger.approval(again).await, replayed(killed.other));
    let listed = read_payments(killed.world.path()).unwrap().read.payments;
    assert_eq!(listed[0].approval, Some(killed.approval.to_string()));
}

#[tokio::test]
async fn a_torn_grant_does_not_exist() {
    for into in [0, 1, 200] {
        let killed = Killed::new().await;
        killed.cut("approval.granted", into);
        let ledger = killed.world.open();
        let rid = killed.approved.hold.rid;
        let early = ledger
            .arm(rid, arming(&killed.approved, killed.approval))
            .await
            .unwrap_err();
        assert_eq!(
            early,
            ReserveError::Approval(ApprovalError::NotGranted(killed.approval))
        );
        // Nobody has seen the grant, so its evidence can be used again.
        ledger
            .approval(granted(killed.other, 1, noon() + MINUTE))
            .await
            .unwrap();
        let again = granted(killed.approval, 1, noon() + MINUTE);
        assert_eq!(ledger.approval(again).await, replayed(killed.approval));
    }
}

#[tokio::test]
async fn after_a_kill_at_any_step_a_grant_is_whole_or_absent() {
    for step in [Step::Write, Step::Sync, Step::Answer] {
        let world = World::new();
        let (nth, verdict) = (6, Verdict::Die);
        let ledger = world.open_with(|options| options.faults = Some(Box::new(FailAt { step, nth, verdict })));
        let ((purchase, requested), (_, other)) = (asked(&world, &ledger, 1).await, asked(&world, &ledger, 2).await);
        let (rid, id) = (purchase.hold.rid, requested.id);
        ledger.approval(granted(id, 1, noon() + MINUTE)).await.unwrap_err();
        let ledger = world.open();
        assert_eq!(state(&ledger, rid).await, State::Held);
        let (armed, reused) = (
            ledger.arm(rid, arming(&purchase, id)).await.map(|_| ()),
            ledger.approval(granted(other.id, 1, noon() + MINUTE)).await,
        );
        if step == Step::Write {
            let not_granted = ReserveError::Approval(ApprovalError::NotGranted(id));
            assert_eq!((armed, reused), (Err(not_granted), Ok(())));
        } else {
            assert_eq!((armed, reused), (Ok(()), replayed(other.id)), "{step:?}");
        }
    }
}

#[tokio::test]
async fn a_disk_that_fails_grants_nothing() {
    for step in [Step::Write, Step::Sync] {
        let world = World::new();
        let (nth, verdict) = (4, Verdict::Fail);
        let ledger = world.open_with(|options| options.faults = Some(Box::new(FailAt { step, nth, verdict })));
        let (purchase, requested) = asked(&world, &ledger, 1).await;
        let grant = granted(requested.id, 1, noon() + MINUTE);
        let failed = ledger.approval(grant).await;
        assert!(matches!(failed, Err(LedgerError::Failed(_))), "{failed:?}");
        let armed = ledger.arm(purchase.hold.rid, arming(&purchase, requested.id)).await;
        assert!(matches!(armed, Err(ReserveError::Failed(_))), "{armed:?}");
        assert!(matches!(ledger.approvals().await, Err(LedgerError::Failed(_))));
    }
}

#[tokio::test]
async fn the_start_releases_what_nobody_was_asked_about_and_leaves_the_rest() {
    let world = World::new();
    let ledger = world.open();
    let ((late, pending), (unused, unheard)) = (asked(&world, &ledger, 1).await, asked(&world, &ledger, 2).await);
    ledger.approval(granted(unheard.id, 1, noon() + MINUTE)).await.unwrap();
    let (dropped, ended) = asked(&world, &ledger, 3).await;
    let expired = |id, why: &str| ApprovalStep::Expired {
        id,
        why: why.to_owned(),
    };
    ledger.approval(expired(ended.id, "error:start_unknown")).await.unwrap();
    let nobody: Hold = world.purchase(1_000 * CENT).hold;
    ledger.hold(nobody.clone()).await.unwrap();
    ledger.close().await;
    // Long after every deadline.
    world.clock.set(noon() + DAY);
    let ledger = world.open();
    for rid in [dropped.hold.rid, nobody.rid] {
        let payment = ledger.get(rid).await.unwrap().unwrap();
        assert_eq!(
            (payment.state, payment.reason.as_deref()),
            (State::Released, Some("restart"))
        );
    }
    let live = ledger.approvals().await.unwrap().live;
    assert_eq!(
        live.iter().map(|row| row.id).collect::<Vec<_>>(),
        [pending.id, unheard.id]
    );
    for (purchase, id, why) in [(late, pending.id, "timeout"), (unused, unheard.id, "unused")] {
        assert_eq!(state(&ledger, purchase.hold.rid).await, State::Held);
        ledger.arm(purchase.hold.rid, arming(&purchase, id)).await.unwrap_err();
        ledger.approval(expired(id, why)).await.unwrap();
        ledger
            .finish(
                purchase.hold.rid,
                Outcome::Released {
                    why: bursar_ledger::Reason::ApprovalExpired,
                },
            )
            .await
            .unwrap();
    }
    assert_eq!(ledger.approvals().await, Ok(Approvals::default()));
    assert_eq!(ledger.open_items().await, Ok(vec![]));
    assert_eq!(world.count("approval.expired"), 3);
}

/// Everything that a caller can see of approvals and payments.
type Seen = (Approvals, Vec<Payment>);

async fn seen(ledger: &Embedded) -> Seen {
    (ledger.approvals().await.unwrap(), ledger.open_items().await.unwrap())
}

async fn reopened(world: &World) -> Seen {
    let ledger = world.open();
    let seen = seen(&ledger).await;
    ledger.close().await;
    seen
}

/// Some in each state: waiting, granted, used, denied. Returns a question that is still waiting.
async fn used(world: &World, use_by: Timestamp) -> (Seen, PaymentId) {
    let ledger = world.open();
    let mut ids = Vec::new();
    for intent in 1..=5 {
        let (purchase, requested) = asked(world, &ledger, intent).await;
        let id = requested.id;
        match intent {
            2 => ledger.approval(granted(id, 2, use_by)).await.unwrap(),
            3 => {
                ledger.approval(granted(id, 3, use_by)).await.unwrap();
                let reservation = ledger.arm(purchase.hold.rid, arming(&purchase, id)).await.unwrap();
                let (by, tx) = (Source::Merchant, None);
                ledger
                    .finish(reservation.rid(), Outcome::Settled { by, tx })
                    .await
                    .unwrap();
            }
            4 => {
                let (by, why, until) = (None, "denied".to_owned(), use_by);
                ledger
                    .approval(ApprovalStep::Refused { id, by, why, until })
                    .await
                    .unwrap();
                ledger
                    .finish(
                        purchase.hold.rid,
                        Outcome::Released {
                            why: bursar_ledger::Reason::ApprovalDenied,
                        },
                    )
                    .await
                    .unwrap();
            }
            _ => ids.push(id),
        }
    }
    let seen = seen(&ledger).await;
    ledger.close().await;
    assert_eq!((seen.0.live.len(), seen.0.denied.len()), (3, 1));
    (seen, ids[0])
}

#[tokio::test]
async fn without_its_index_the_journal_yields_the_same_approvals() {
    let world = World::new();
    let (before, waiting) = used(&world, noon() + MINUTE).await;
    assert_eq!(reopened(&world).await, before, "from the index");
    assert_eq!(world.count("ledger.rebuilt"), 0);
    forget_index(&world);
    assert_eq!(reopened(&world).await, before, "from the journal");
    assert_eq!(reopened(&world).await, before, "from the index that was rebuilt");
    assert_eq!(world.count("ledger.rebuilt"), 1);
    let ledger = world.open();
    for replay in [2, 3] {
        let again = granted(waiting, replay, noon() + MINUTE);
        assert_eq!(ledger.approval(again).await, replayed(waiting));
    }
}

#[tokio::test]
async fn a_pruned_ledger_knows_what_was_approved_before() {
    let world = World::new();
    let until = noon() + DAY * 60;
    let (before, waiting) = used(&world, until).await;
    // Later days, one of which closes what was open on the first: only then can that day be moved away.
    let mut settled = None;
    for day in 1..20 {
        world.clock.set(noon() + DAY * day);
        let ledger = world.open();
        let reserved = ledger.reserve(world.purchase(1_000 * CENT)).await.unwrap();
        let (by, tx) = (Source::Merchant, None);
        ledger
            .finish(reserved.rid(), Outcome::Settled { by, tx })
            .await
            .unwrap();
        if day == 2 {
            for row in before.0.live.iter().filter(|row| row.id != waiting) {
                if matches!(row.state, ApprovalState::Granted { .. }) {
                    let approval = Some(row.id.to_string());
                    let Reserve { arm, hold } = world.purchase(1_000 * CENT);
                    let arming = Arming {
                        arm,
                        charges: hold.charges,
                        approval,
                    };
                    ledger.arm(row.rid, arming).await.unwrap();
                    let (by, tx) = (Source::Merchant, None);
                    ledger.finish(row.rid, Outcome::Settled { by, tx }).await.unwrap();
                    settled = Some(row.rid);
                } else {
                    ledger
                        .finish(
                            row.rid,
                            Outcome::Released {
                                why: bursar_ledger::Reason::ApprovalExpired,
                            },
                        )
                        .await
                        .unwrap();
                }
            }
        }
        if day == 3 {
            let row = before.0.live.iter().find(|row| row.id == waiting).unwrap();
            ledger
                .finish(
                    row.rid,
                    Outcome::Released {
                        why: bursar_ledger::Reason::ApprovalExpired,
                    },
                )
                .await
                .unwrap();
        }
        ledger.close().await;
    }
    let (whole, settled) = (reopened(&world).await, settled.unwrap());
    assert_eq!((whole.0.live.len(), whole.0.denied.len()), (0, 1));
    let found = async || {
        let ledger = world.open();
        let found = ledger.get(settled).await.unwrap();
        ledger.close().await;
        found
    };
    let payment = found().await.unwrap();
    assert!(payment.approval.is_some());

    // The cut is between the day the questions were asked and the day they ended.
    let to = tempfile::tempdir().unwrap();
    let home = Home::at(world.path()).unwrap();
    let cut = noon() + DAY - SignedDuration::from_hours(12);
    let moved = retain(&home, cut, to.path(), world.clock.clone(), "uid:0".into()).await;
    assert!(moved.unwrap().is_some());
    let pruned = fs::read_to_string(world.path().join("audit/pruned")).unwrap();
    for member in ["\"approvals\":[{", "\"replays\":[[", "\"denials\":[{"] {
        assert!(pruned.contains(member), "{member} in {pruned}");
    }
    assert_eq!(reopened(&world).await, whole, "with the index");
    assert_eq!(found().await.as_ref(), Some(&payment));
    forget_index(&world);
    assert_eq!(reopened(&world).await, whole, "from what stayed");
    assert_eq!(found().await.as_ref(), Some(&payment));

    let ledger = world.open();
    let (_, requested) = asked(&world, &ledger, 9).await;
    for replay in [2, 3] {
        let again = granted(requested.id, replay, until);
        assert_eq!(ledger.approval(again).await, replayed(requested.id));
    }
    ledger.approval(granted(requested.id, 4, until)).await.unwrap();
}

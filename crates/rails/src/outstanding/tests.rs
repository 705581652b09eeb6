//! What a repeat finds at every stage of a payment.

use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use bursar_core::challenge::Rail;
use bursar_core::clock::ManualClock;

const NOW: i64 = 1_760_000_000;
const FIELD: HeaderName = HeaderName::from_static("payment-signature");

struct World {
    folder: TempDir,
    clock: Arc<ManualClock>,
    outstanding: Outstanding,
}

fn world() -> World {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::at(second(0))));
    let outstanding = Outstanding::open(folder.path().join("credentials"), clock.clone(), |_| Some(false)).unwrap();
    World {
        folder,
        clock,
        outstanding,
    }
}

fn second(after: i64) -> Timestamp {
    Timestamp::from_second(NOW + after).unwrap()
}

fn target() -> Target {
    Target::of("research", "GET", "https", "api.example.com:443", "/quote")
}

fn request(body: u8) -> Fingerprint {
    target().with_body(&[body; 32])
}

impl World {
    /// A payment that is valid for 60 s.
    fn sent(&self, n: u8) -> Ticket {
        self.sent_under(n, false)
    }

    fn sent_under(&self, n: u8, keyed: bool) -> Ticket {
        let credential = Credential::from_stored(format!("Y3JlZGVudGlhbA{n}")).unwrap();
        let rid = PaymentId::new(second(i64::from(n)), [n; 10]);
        let valid_before = u64::try_from(NOW).unwrap() + 60;
        self.outstanding.sent(
            rid,
            target(),
            request(0),
            (Rail::X402, &FIELD, &credential),
            valid_before,
            keyed,
        )
    }

    fn claim(&self) -> Claim {
        self.outstanding.claim(target(), request(0))
    }

    fn files(&self) -> usize {
        fs::read_dir(self.folder.path().join("credentials")).unwrap().count()
    }

    fn reopened(&self, paid: Option<bool>) -> Outstanding {
        Outstanding::open(self.folder.path().join("credentials"), self.clock.clone(), |_| paid).unwrap()
    }
}

fn presented(claim: Claim) -> Box<Presentable> {
    match claim {
        Claim::Present(presentable) => presentable,
        _ => panic!("nothing to present"),
    }
}

#[test]
fn a_delivered_payment_leaves_nothing() {
    let world = world();
    let ticket = world.sent(1);
    assert!(world.outstanding.concern(&target()));
    ticket.delivered();
    assert!(!world.outstanding.concern(&target()) && !world.outstanding.any());
    assert!(matches!(world.claim(), Claim::Free));
    world.outstanding.end();
    assert_eq!(world.files(), 0);
}

/// When a body has ended, its last bytes may still be unwritten.
#[test]
fn a_kill_just_after_a_delivery_leaves_the_repeat_possible() {
    let world = world();
    let ticket = world.sent(1);
    world.outstanding.sweep();
    ticket.delivered();
    // Even if the next sweep follows the delivery at once.
    world.outstanding.sweep();
    presented(world.reopened(Some(true)).claim(target(), request(0)));
    world.outstanding.sweep();
    assert_eq!(world.files(), 0);
}

#[test]
fn while_its_agent_waits_an_equal_request_is_a_purchase_of_its_own() {
    let world = world();
    let _waiting = world.sent(1);
    assert!(matches!(world.claim(), Claim::Free));
}

#[test]
fn a_repeat_presents_the_same_bytes_three_times_at_most() {
    let world = world();
    drop(world.sent(1));
    for number in 1..=3 {
        let presentable = presented(world.claim());
        assert_eq!(
            (presentable.number, presentable.credential.expose()),
            (number, "Y3JlZGVudGlhbA1")
        );
        assert_eq!(presentable.field, FIELD);
    }
    assert!(matches!(world.claim(), Claim::OutcomeUnknown(_)));
}

#[test]
fn one_repeat_at_a_time_and_the_oldest_first() {
    let world = world();
    drop(world.sent(1));
    drop(world.sent(2));
    let first = presented(world.claim());
    let second = presented(world.claim());
    assert!(first.rid < second.rid);
    assert!(matches!(world.claim(), Claim::Free), "both are being presented");
}

#[test]
fn another_body_is_another_request() {
    let world = world();
    drop(world.sent(1));
    assert!(matches!(world.outstanding.claim(target(), request(1)), Claim::Free));
    assert_ne!(
        target(),
        Target::of("research", "POST", "https", "api.example.com:443", "/quote")
    );
    assert_ne!(Target::of("ab", "c", "", "", ""), Target::of("a", "bc", "", "", ""));
}

#[test]
fn past_validity_a_repeat_gets_an_error_and_after_the_window_it_buys() {
    let world = world();
    let ticket = world.sent(1);
    drop(ticket);
    world.clock.set(second(54));
    drop(presented(world.claim()));
    world.clock.set(second(55));
    assert!(
        matches!(world.claim(), Claim::OutcomeUnknown(_)),
        "five seconds are too few"
    );
    world.clock.set(second(54 + 900));
    assert!(matches!(world.claim(), Claim::OutcomeUnknown(_)));
    world.clock.set(second(54 + 901));
    assert!(matches!(world.claim(), Claim::Free));
    assert_eq!(world.files(), 0);
}

#[test]
fn a_receipt_makes_it_paid_not_delivered() {
    let world = world();
    let ticket = world.sent(1);
    ticket.paid();
    drop(ticket);
    world.clock.set(second(60));
    assert!(matches!(world.claim(), Claim::PaidNotDelivered(_)));
}

#[tokio::test]
async fn a_repeat_joins_a_purchase_whose_agent_hung_up() {
    let world = world();
    let mut ticket = world.sent(1);
    ticket.abandoned();
    let Claim::Join(mut over) = world.claim() else {
        panic!("not joined")
    };
    drop(ticket);
    assert!(
        over.changed().await.is_err(),
        "the channel closes when the wait is over"
    );
    presented(world.claim());
}

#[test]
fn a_restart_keeps_outstanding_payments_and_the_count() {
    let world = world();
    drop(world.sent(1));
    drop(presented(world.claim()));
    let again = world.reopened(Some(false));
    assert_eq!(presented(again.claim(target(), request(0))).number, 2);

    let paid = world.reopened(Some(true));
    world.clock.set(second(60));
    assert!(matches!(paid.claim(target(), request(0)), Claim::PaidNotDelivered(_)));
}

#[test]
fn payments_closed_in_the_ledger_and_unreadable_files_are_deleted() {
    let world = world();
    drop(world.sent(1));
    home::write_unsynced(&world.folder.path().join("credentials/torn.json"), b"{\"rid\":").unwrap();
    let again = world.reopened(None);
    assert!(matches!(again.claim(target(), request(0)), Claim::Free));
    assert_eq!(world.files(), 0);
}

#[test]
fn an_outstanding_payment_that_nobody_asks_about_is_swept() {
    let world = world();
    drop(world.sent(1));
    let waiting = world.sent(2);
    world.clock.set(second(901));
    world.outstanding.sweep();
    assert_eq!(world.files(), 1, "the one whose answer is still awaited stays");
    drop(waiting);
    world.clock.set(second(901 + 901));
    world.outstanding.sweep();
    assert!(!world.outstanding.any());
    assert_eq!(world.files(), 0);
}

#[test]
fn lost_payments_that_nobody_asks_about_are_swept() {
    let world = world();
    let valid_before = u64::try_from(NOW).unwrap() + 60;
    let lost = |n: u8| {
        (
            PaymentId::new(second(i64::from(n)), [n; 10]),
            request(n).bytes(),
            valid_before,
        )
    };
    world.outstanding.remember((0..200).map(lost));
    let left = || world.outstanding.lost().len();
    world.clock.set(second(900));
    world.outstanding.sweep();
    assert_eq!(
        (left(), world.outstanding.would_double(&request(7))),
        (200, Some(lost(7).0))
    );
    world.clock.set(second(901));
    world.outstanding.sweep();
    assert_eq!((left(), world.outstanding.would_double(&request(7))), (0, None));
}

fn paid(world: &World, rid: PaymentId, asked: Asked) -> Paid {
    world.outstanding.claim_paid(rid, target(), asked)
}

#[test]
fn under_a_key_a_delivered_payment_is_kept_as_long_as_it_may_be_presented() {
    let world = world();
    let ticket = world.sent_under(1, true);
    let rid = ticket.rid();
    ticket.delivered();
    assert!(
        !world.outstanding.concern(&target()),
        "requests without the key do not see it"
    );
    assert!(matches!(world.claim(), Claim::Free));
    assert!(matches!(paid(&world, rid, Asked::Nothing), Paid::Rest));
    assert!(matches!(paid(&world, rid, Asked::Again), Paid::Present(_)));

    world.clock.set(second(54));
    world.outstanding.sweep();
    let Paid::Present(again) = paid(&world, rid, Asked::Again) else {
        panic!("six seconds are enough")
    };
    assert_eq!((again.number, again.credential.expose()), (2, "Y3JlZGVudGlhbA1"));
    drop(again);
    assert_eq!(world.files(), 1);
    world.clock.set(second(55));
    assert!(matches!(paid(&world, rid, Asked::Again), Paid::Rest), "five are not");
    world.outstanding.sweep();
    assert_eq!(world.files(), 0);
    assert!(!world.outstanding.any());
}

#[test]
fn under_a_key_a_payment_is_waited_for_and_presented_three_times() {
    let world = world();
    let ticket = world.sent_under(1, true);
    let rid = ticket.rid();
    assert!(matches!(paid(&world, rid, Asked::Nothing), Paid::Join(_)));
    drop(ticket);
    for asked in [Asked::Nothing, Asked::Again, Asked::Nothing] {
        let Paid::Present(again) = paid(&world, rid, asked) else {
            panic!("outstanding, so it is presented")
        };
        assert!(
            matches!(paid(&world, rid, Asked::Nothing), Paid::Join(_)),
            "one at a time"
        );
        drop(again);
    }
    assert!(matches!(paid(&world, rid, Asked::Nothing), Paid::OutcomeUnknown(_)));
}

#[test]
fn a_restart_keeps_what_a_key_may_need() {
    let world = world();
    let ticket = world.sent_under(1, true);
    let rid = ticket.rid();
    ticket.delivered();
    let again = world.reopened(Some(true));
    assert!(matches!(again.claim_paid(rid, target(), Asked::Nothing), Paid::Rest));
    assert!(matches!(
        again.claim_paid(rid, target(), Asked::Again),
        Paid::Present(_)
    ));
    assert!(matches!(
        again.claim_paid(PaymentId::new(second(0), [9; 10]), target(), Asked::Again),
        Paid::Rest
    ));
}

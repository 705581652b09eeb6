//! What a repeat finds at every stage of a payment.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use super::slots::SLOT;
use super::*;
use bursar_core::challenge::Rail;
use bursar_core::clock::ManualClock;
use bursar_home as home;

const NOW: i64 = 1_760_000_000;
const UNKNOWN: Known = Known {
    paid: false,
    request: None,
};
const FIELD: HeaderName = HeaderName::from_static("payment-signature");

struct World {
    folder: TempDir,
    clock: Arc<ManualClock>,
    outstanding: Outstanding,
}

fn world() -> World {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::at(second(0))));
    let left = Left::read(&folder.path().join("credentials")).unwrap();
    let outstanding = left.compared(clock.clone(), |_| Some(UNKNOWN));
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
        self.sent_with(n, keyed, &format!("Y3JlZGVudGlhbA{n}"))
    }

    /// Too long for a slot.
    fn sent_long(&self, n: u8) -> Ticket {
        self.sent_with(n, false, &"Y3JlZGVu".repeat(1000))
    }

    fn sent_with(&self, n: u8, keyed: bool, credential: &str) -> Ticket {
        let credential = Credential::from_stored(credential.to_owned()).unwrap();
        let rid = rid(n);
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

    fn folder(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    fn slots(&self) -> Vec<u8> {
        fs::read(self.folder().join("slots")).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// How many payments have anything on disk.
    fn records(&self) -> usize {
        let slots = self.slots();
        let used = slots
            .chunks(SLOT)
            .filter(|slot| slot.iter().any(|byte| *byte != 0))
            .count();
        used + self.names().len() - 1
    }

    fn reopened(&self, paid: Option<bool>) -> Outstanding {
        self.reopened_for(paid.map(|paid| Known { paid, ..UNKNOWN }))
    }

    fn reopened_for(&self, known: Option<Known>) -> Outstanding {
        Left::read(&self.folder())
            .unwrap()
            .compared(self.clock.clone(), |_| known)
    }
}

fn rid(n: u8) -> PaymentId {
    PaymentId::new(second(i64::from(n)), [n; 10])
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
    assert_eq!(world.records(), 0);
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
    assert_eq!(world.records(), 0);
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
    assert_eq!(world.records(), 0);
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
    home::write_unsynced(&world.folder().join("torn.json"), b"{\"rid\":").unwrap();
    let again = world.reopened(None);
    assert!(matches!(again.claim(target(), request(0)), Claim::Free));
    assert_eq!(world.records(), 0);
}

#[test]
fn a_payment_of_another_request_in_the_ledger_is_not_presented() {
    let world = world();
    drop(world.sent(1));
    let of = |fingerprint: Fingerprint| Known {
        request: Some(fingerprint.bytes()),
        ..UNKNOWN
    };
    presented(world.reopened_for(Some(of(request(0)))).claim(target(), request(0)));
    let again = world.reopened_for(Some(of(request(1))));
    assert!(matches!(again.claim(target(), request(0)), Claim::Free));
    assert_eq!(world.records(), 0);
}

#[test]
fn payments_share_one_file_that_nobody_else_can_read() {
    let world = world();
    let tickets: Vec<_> = (1..=5).map(|n| world.sent(n)).collect();
    assert_eq!((world.names(), world.records()), (vec!["slots".to_owned()], 5));
    let about = fs::metadata(world.folder().join("slots")).unwrap();
    assert_eq!((about.mode() & 0o777, about.len()), (0o600, 64 * SLOT as u64));
    tickets.into_iter().for_each(Ticket::delivered);
    world.outstanding.end();
    assert!(world.slots().iter().all(|byte| *byte == 0), "nothing is left of them");
}

#[test]
fn a_slot_is_used_again_and_the_file_does_not_grow() {
    let world = world();
    for round in 0..1000_u32 {
        world.sent(u8::try_from(round % 200).unwrap()).delivered();
        world.outstanding.sweep();
        world.outstanding.sweep();
    }
    assert_eq!((world.slots().len(), world.records()), (64 * SLOT, 0));
}

#[test]
fn the_file_grows_with_what_is_outstanding_and_shrinks_at_a_start() {
    let world = world();
    (1..=200).for_each(|n| drop(world.sent(n)));
    assert_eq!((world.slots().len(), world.records()), (256 * SLOT, 200));
    let again = world.reopened(Some(false));
    let mut presentable = 0;
    while let Claim::Present(one) = again.claim(target(), request(0)) {
        presentable += 1;
        one.ticket.delivered();
    }
    assert_eq!(presentable, 200);
    again.end();
    drop(world.reopened(Some(false)));
    assert_eq!((world.slots().len(), world.records()), (64 * SLOT, 0));
}

/// A kill can leave any part of a write undone; a power cut any page of it.
#[test]
fn a_torn_slot_is_a_missing_credential_and_costs_no_other() {
    let whole = {
        let world = world();
        drop(world.sent(1));
        world.slots()[..SLOT].to_vec()
    };
    let length = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for end in [1, 8, 30, 57, 64, length / 2, length - 1] {
        let world = world();
        drop(world.sent(1));
        drop(world.sent(2));
        let file = fs::File::options()
            .write(true)
            .open(world.folder().join("slots"))
            .unwrap();
        file.write_all_at(&vec![0; SLOT - end], end as u64).unwrap();
        let again = world.reopened(Some(false));
        assert_eq!(
            presented(again.claim(target(), request(0))).rid,
            rid(2),
            "torn at {end}"
        );
        assert_eq!(world.records(), 1, "torn at {end}");
        again.remember([(rid(1), request(0).bytes(), u64::try_from(NOW).unwrap() + 60)].into_iter());
        assert_eq!(again.would_double(&request(0)), Some(rid(1)), "torn at {end}");
    }
}

#[test]
fn a_file_cut_in_the_middle_of_a_slot_is_read_up_to_there() {
    let world = world();
    drop(world.sent(1));
    let file = fs::File::options()
        .write(true)
        .open(world.folder().join("slots"))
        .unwrap();
    file.set_len(SLOT as u64 + 100).unwrap();
    let again = world.reopened(Some(false));
    presented(again.claim(target(), request(0)));
    assert_eq!(world.slots().len(), 64 * SLOT + SLOT, "whole steps of whole slots");
}

#[test]
fn a_record_that_is_too_long_for_a_slot_has_a_file_of_its_own() {
    let world = world();
    let ticket = world.sent_long(1);
    assert_eq!(world.names(), [format!("{}.record", rid(1)), "slots".to_owned()]);
    let about = fs::metadata(world.folder().join(&world.names()[0])).unwrap();
    assert_eq!(about.mode() & 0o777, 0o600);
    drop(ticket);
    drop(presented(world.claim()));
    let again = world.reopened(Some(false));
    let second = presented(again.claim(target(), request(0)));
    assert_eq!((second.number, second.credential.expose().len()), (2, 8000));
    second.ticket.delivered();
    again.end();
    assert_eq!(world.names(), ["slots"]);
}

/// What bursar wrote before there were slots.
fn old_file(world: &World, n: u8, presented: u8, delivered: bool, credential: &str) {
    let hex = |bytes: [u8; 32]| alloy_primitives::hex::encode(bytes);
    let stored = serde_json::json!({
        "rid": rid(n), "target": hex(target().0), "fingerprint": hex(request(n).bytes()), "rail": "x402",
        "field": "payment-signature", "credential": credential, "valid_before": NOW + 60, "presented": presented,
        "keyed": delivered, "delivered": delivered,
    });
    let path = world.folder().join(format!("{}.json", rid(n)));
    home::write_unsynced(&path, stored.to_string().as_bytes()).unwrap();
}

#[test]
fn files_of_before_there_were_slots_move_into_them_with_their_counts() {
    let world = world();
    old_file(&world, 1, 2, false, "Y3JlZGVudGlhbA1");
    old_file(&world, 2, 0, true, "Y3JlZGVudGlhbA2");
    old_file(&world, 3, 0, false, &"Y3JlZGVu".repeat(1000));
    old_file(&world, 4, 3, false, "Y3JlZGVudGlhbA4");
    let check = |again: Outstanding| {
        let one = presented(again.claim(target(), request(1)));
        assert_eq!((one.number, one.credential.expose()), (3, "Y3JlZGVudGlhbA1"));
        assert!(matches!(again.claim(target(), request(2)), Claim::Free), "delivered");
        assert!(matches!(again.claim_paid(rid(2), target(), Asked::Nothing), Paid::Rest));
        assert!(matches!(again.claim(target(), request(4)), Claim::OutcomeUnknown(_)));
        assert_eq!(
            presented(again.claim(target(), request(3))).credential.expose().len(),
            8000
        );
    };
    drop(world.reopened(Some(false)));
    assert_eq!(world.names(), [format!("{}.record", rid(3)), "slots".to_owned()]);
    check(world.reopened(Some(false)));
}

#[test]
fn a_kill_while_a_file_moves_leaves_one_payment_with_the_higher_count() {
    let world = world();
    old_file(&world, 1, 1, false, "Y3JlZGVudGlhbA1");
    drop(world.reopened(Some(false)));
    // It was copied and presented, and its file is still there.
    old_file(&world, 1, 1, false, "Y3JlZGVudGlhbA1");
    drop(presented(world.reopened(Some(false)).claim(target(), request(1))));
    old_file(&world, 1, 1, false, "Y3JlZGVudGlhbA1");
    let again = world.reopened(Some(false));
    assert_eq!((world.names().len(), world.records()), (1, 1));
    assert_eq!(presented(again.claim(target(), request(1))).number, 3);
    assert!(matches!(
        again.claim(target(), request(1)),
        Claim::OutcomeUnknown(_) | Claim::Free
    ));
}

#[test]
fn a_linked_or_exposed_file_of_slots_is_refused() {
    let world = world();
    let path = world.folder().join("slots");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let said = Left::read(&world.folder()).err().unwrap().to_string();
    assert!(said.contains("chmod 600"), "{said}");
    let elsewhere = world.folder.path().join("elsewhere");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(Left::read(&world.folder()).is_err());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(Left::read(&world.folder()).is_err());
}

/// Ten thousand payments from eight threads: no slot is ever given to two.
#[test]
fn payments_at_once_never_share_a_slot() {
    let world = world();
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let outstanding = &world.outstanding;
            scope.spawn(move || {
                for n in 0..1250_u32 {
                    let entropy = [thread, n.to_be_bytes()[2], n.to_be_bytes()[3], 0, 0, 0, 0, 0, 0, 0];
                    let rid = PaymentId::new(second(0), entropy);
                    let credential = Credential::from_stored(format!("Y3JlZGVudGlhbA{thread}{n}")).unwrap();
                    let sent = (Rail::X402, &FIELD, &credential);
                    let body = Target::of("a", "GET", "https", "h", &rid.to_string()).with_body(&[0; 32]);
                    let valid = u64::try_from(NOW).unwrap() + 60;
                    let ticket = outstanding.sent(rid, target(), body, sent, valid, false);
                    match n % 50 {
                        0 => drop(ticket),
                        _ => ticket.delivered(),
                    }
                    if n % 100 == 99 {
                        outstanding.sweep();
                    }
                }
            });
        }
    });
    world.outstanding.end();
    let left = Left::read(&world.folder()).unwrap();
    assert_eq!(left.payments().count(), 8 * 1250 / 50);
}

#[test]
fn an_outstanding_payment_that_nobody_asks_about_is_swept() {
    let world = world();
    drop(world.sent(1));
    let waiting = world.sent(2);
    world.clock.set(second(901));
    world.outstanding.sweep();
    assert_eq!(world.records(), 1, "the one whose answer is still awaited stays");
    drop(waiting);
    world.clock.set(second(901 + 901));
    world.outstanding.sweep();
    assert!(!world.outstanding.any());
    assert_eq!(world.records(), 0);
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
    assert_eq!(world.records(), 1);
    world.clock.set(second(55));
    assert!(matches!(paid(&world, rid, Asked::Again), Paid::Rest), "five are not");
    world.outstanding.sweep();
    assert_eq!(world.records(), 0);
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

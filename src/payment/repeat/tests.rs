//! What a request that may repeat a payment finds, without a socket: the ledger is in memory, the clock is manual.

use http::HeaderName;
use jiff::Timestamp;

use super::*;
use bursar_core::challenge::Rail;
use bursar_core::challenge::credential::Credential;
use bursar_core::clock::ManualClock;
use bursar_ledger::memory::Memory;
use bursar_rails::outstanding::Left;

const NOW: i64 = 1_800_000_000;
const FIELD: HeaderName = HeaderName::from_static("payment-signature");

struct World {
    _folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    repeats: Repeats,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(second(0)));
    let outstanding = Left::read(&folder.path().join("credentials"))
        .unwrap()
        .compared(clock.clone(), |_| None);
    let repeats = Repeats {
        outstanding,
        keys: IdempotencyKeys::new(Vec::new(), clock.clone()),
        ledger: Arc::new(Memory::new(clock.clone(), Arc::new(|_| {}))),
        settle_wait: Duration::from_secs(30),
        tasks: TaskTracker::new(),
    };
    World {
        _folder: folder,
        clock,
        repeats,
    }
}

fn second(after: i64) -> Timestamp {
    Timestamp::from_second(NOW + after).unwrap()
}

fn id() -> PaymentId {
    PaymentId::new(second(0), [7; 10])
}

fn request() -> (Target, Fingerprint) {
    let target = Target::of("research", "GET", "https", "api.example.com:443", "/quote");
    (target, target.with_body(&[0; 32]))
}

impl World {
    /// A payment for this request, valid for 60 s.
    fn sent(&self) -> outstanding::Ticket {
        let credential = Credential::from_stored("Y3JlZGVudGlhbA".to_owned()).unwrap();
        let ((target, fingerprint), valid_before) = (request(), u64::try_from(NOW).unwrap() + 60);
        let sent = (Rail::X402, &FIELD, &credential);
        self.repeats
            .outstanding
            .sent(id(), target, fingerprint, sent, valid_before, false)
    }

    fn look(&self) -> &'static str {
        let (target, fingerprint) = request();
        match self.repeats.look(target, fingerprint) {
            Repeat::New => "new",
            Repeat::Join(_) => "join",
            Repeat::Present(_) => "present",
            Repeat::Refuse(problem) => problem.code(),
        }
    }
}

#[test]
fn a_request_that_repeats_nothing_is_new() {
    assert_eq!(world().look(), "new");
}

#[test]
fn a_purchase_whose_agent_is_still_there_is_not_joined_and_one_whose_agent_hung_up_is() {
    let world = world();
    let mut ticket = world.sent();
    assert_eq!(world.look(), "new", "each of two requests at once is its own purchase");
    ticket.abandoned();
    assert_eq!(world.look(), "join");
}

#[test]
fn what_was_sent_without_an_outcome_is_presented_again_while_it_is_valid() {
    let world = world();
    drop(world.sent());
    assert_eq!(world.look(), "present");
    world.clock.set(second(58));
    assert_eq!(world.look(), "payment-in-doubt", "less than 6 s are left");
}

#[test]
fn a_receipt_without_its_answer_is_paid_and_not_delivered() {
    let world = world();
    let ticket = world.sent();
    ticket.paid();
    drop(ticket);
    world.clock.set(second(58));
    assert_eq!(world.look(), "paid-not-delivered");
}

#[test]
fn what_was_delivered_does_not_stand_against_a_new_purchase() {
    let world = world();
    world.sent().delivered();
    assert_eq!(world.look(), "new");
}

#[tokio::test]
async fn a_payment_whose_credential_is_lost_forbids_another_until_the_ledger_knows_better() {
    let world = world();
    let (_, fingerprint) = request();
    let lost = (id(), fingerprint.bytes(), u64::try_from(NOW).unwrap() + 60);
    world.repeats.outstanding.remember(std::iter::once(lost));
    let problem = world.repeats.forbids_fingerprint(fingerprint).await;
    assert_eq!(problem.map(|problem| problem.code()), Some("payment-in-doubt"));
    let other = request().0.with_body(&[1; 32]);
    assert!(world.repeats.forbids_fingerprint(other).await.is_none());
}

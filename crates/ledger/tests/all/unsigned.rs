//! What cannot be signed or opened: it is tried again for as long as the ledger is open, and nothing that was not written
//! stops it for good.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::world::{NOON, World, counted};
use bursar_ledger::journal::{Faults, Step, Verdict};
use bursar_ledger::{Alarm, Embedded, Ledger, Options, Outcome, ReserveError, Source, read_payments};
use jiff::{SignedDuration, Timestamp};

const CENT: u128 = 10_000;

#[derive(Clone, Default)]
struct Raised(Arc<Mutex<Vec<Alarm>>>);

impl Raised {
    fn raised_by(&self, options: &mut Options) {
        let raised = self.0.clone();
        options.alarms = Arc::new(move |alarm| raised.lock().unwrap().push(alarm));
    }

    fn all(&self) -> Vec<Alarm> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until an alarm is one of these.
    fn wait_for(&self, is_one: impl Fn(&Alarm) -> bool) {
        while !self.all().iter().any(&is_one) {
            std::thread::yield_now();
        }
    }
}

fn is_unsigned(stopped: bool) -> impl Fn(&Alarm) -> bool {
    move |alarm| matches!(alarm, Alarm::LogUnsigned { payments_stopped, .. } if *payments_stopped == stopped)
}

/// Lets the steps fail while it is set.
struct While(Step, Arc<AtomicBool>);

/// Opening the next segment creates it and fails.
struct CreatesAndFails;

impl Faults for CreatesAndFails {
    fn at(&mut self, step: Step) -> Verdict {
        match step {
            Step::Open => Verdict::FailDone,
            _ => Verdict::Go,
        }
    }
}

impl Faults for While {
    fn at(&mut self, step: Step) -> Verdict {
        if step == self.0 && self.1.load(Ordering::SeqCst) {
            Verdict::Fail
        } else {
            Verdict::Go
        }
    }
}

async fn buy(world: &World, ledger: &Embedded) -> Result<(), ReserveError> {
    let rid = ledger.reserve(world.purchase(1_000 * CENT)).await?.rid();
    let settled = Outcome::Settled {
        by: Source::Merchant,
        tx: None,
    };
    ledger.finish(rid, settled).await.unwrap();
    Ok(())
}

fn noon_and(seconds: i64) -> Timestamp {
    NOON.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_signed_stops_payments_after_ten_minutes_and_comes_back_by_itself() {
    let (world, raised) = (World::new(), Raised::default());
    let ledger = world.open_with(|options| raised.raised_by(options));
    buy(&world, &ledger).await.unwrap();
    world.wait_until_signed();
    // `checkpoint` is replaced through this name, which now cannot be opened.
    let draft = world.path().join("audit/checkpoint.tmp");
    fs::create_dir(&draft).unwrap();
    buy(&world, &ledger).await.unwrap();
    raised.wait_for(is_unsigned(false));
    // Nine minutes and more: it is known, and payments go on.
    world.clock.set(noon_and(595));
    buy(&world, &ledger).await.unwrap();
    assert!(!raised.all().iter().any(is_unsigned(true)));
    world.clock.set(noon_and(602));
    let held = world.purchase(1_000 * CENT).hold;
    for refused in [
        ledger.reserve(world.purchase(1_000 * CENT)).await.map(drop),
        ledger.hold(held).await,
    ] {
        assert!(
            matches!(refused, Err(ReserveError::Unsigned { for_s: 602 })),
            "{refused:?}"
        );
    }
    assert!(raised.all().iter().any(is_unsigned(true)));
    assert_eq!(
        raised.all().iter().filter(|alarm| is_unsigned(false)(alarm)).count(),
        1,
        "once while it lasts"
    );
    assert_eq!(
        counted(&ledger).await,
        3 * CENT,
        "nothing was counted for what was refused"
    );

    fs::remove_dir(&draft).unwrap();
    world.wait_until_signed();
    while buy(&world, &ledger).await.is_err() {}
    assert_eq!(counted(&ledger).await, 4 * CENT);
    ledger.close().await;
    assert_eq!(world.signed(), world.journal().lines().count());
    assert_eq!(read_payments(world.path()).unwrap().read.payments.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_payment_is_recorded_although_the_journal_cannot_be_signed() {
    let (world, raised) = (World::new(), Raised::default());
    let ledger = world.open_with(|options| raised.raised_by(options));
    world.wait_until_signed();
    fs::create_dir(world.path().join("audit/checkpoint.tmp")).unwrap();
    let rid = ledger.reserve(world.purchase(1_000 * CENT)).await.unwrap().rid();
    raised.wait_for(is_unsigned(false));
    world.clock.set(noon_and(10_000));
    ledger.reserve(world.purchase(1_000 * CENT)).await.unwrap_err();
    let settled = Outcome::Settled {
        by: Source::Merchant,
        tx: None,
    };
    ledger.finish(rid, settled).await.unwrap();
    // A stop does not wait for a signature that cannot be made, and the next start makes up for it.
    ledger.close().await;
    fs::remove_dir(world.path().join("audit/checkpoint.tmp")).unwrap();
    let ledger = world.open();
    world.wait_until_signed();
    buy(&world, &ledger).await.unwrap();
    assert_eq!(counted(&ledger).await, 2 * CENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_is_signed_before_its_ledger_is_open() {
    let world = World::new();
    let ledger = world.open();
    assert_eq!(world.signed(), 1);
    assert_eq!(read_payments(world.path()).unwrap().read.payments, []);
    ledger.close().await;
}

/// At midnight, and when a segment is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_go_on_into_the_old_segment_until_the_next_one_can_be_opened() {
    for (segment_bytes, next_day) in [(u64::MAX, true), (4_000, false)] {
        let (world, raised, fails) = (World::new(), Raised::default(), Arc::new(AtomicBool::new(true)));
        let ledger = world.open_with(|options| {
            raised.raised_by(options);
            options.segment_bytes = segment_bytes;
            // The clock is set while something is being signed.
            options.unsigned_max = std::time::Duration::MAX;
            options.faults = Some(Box::new(While(Step::Open, fails.clone())));
        });
        let due = if next_day { 13 * 3600 } else { 0 };
        world.clock.set(noon_and(due));
        for _ in 0..10 {
            buy(&world, &ledger).await.unwrap();
        }
        assert_eq!(world.segments().len(), 1);
        world.wait_until_signed();
        let overdue = |alarm: &Alarm| matches!(alarm, Alarm::SegmentOverdue { .. });
        assert_eq!(raised.all().iter().filter(|alarm| overdue(alarm)).count(), 1);

        // It is tried again after a pause that grows.
        fails.store(false, Ordering::SeqCst);
        buy(&world, &ledger).await.unwrap();
        assert_eq!(world.segments().len(), 1, "not before the pause is over");
        world.clock.set(noon_and(due + 1));
        buy(&world, &ledger).await.unwrap();
        assert_eq!(world.segments().len(), 2);
        // It fails anew, and that is reported anew.
        fails.store(true, Ordering::SeqCst);
        world.clock.set(noon_and(due + 24 * 3600));
        for _ in 0..10 {
            buy(&world, &ledger).await.unwrap();
        }
        assert_eq!(raised.all().iter().filter(|alarm| overdue(alarm)).count(), 2);
        ledger.close().await;
        assert_eq!(read_payments(world.path()).unwrap().read.payments.len(), 22);

        for with_index in [true, false] {
            if !with_index {
                fs::remove_dir_all(world.path().join("index")).unwrap();
            }
            let ledger = world.open();
            assert_eq!(counted(&ledger).await, 22 * CENT);
            ledger.close().await;
        }
    }
}

/// Otherwise it would begin with the wrong number, because entries go on in the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_next_segment_that_a_failed_open_created_does_not_stay() {
    let (world, raised) = (World::new(), Raised::default());
    let ledger = world.open_with(|options| {
        raised.raised_by(options);
        options.unsigned_max = std::time::Duration::MAX;
        options.faults = Some(Box::new(CreatesAndFails));
    });
    world.clock.set(noon_and(13 * 3600));
    for second in 0..10 {
        world.clock.set(noon_and(13 * 3600 + second));
        buy(&world, &ledger).await.unwrap();
        assert_eq!(world.segments().len(), 1);
    }
    let overdue = |alarm: &Alarm| matches!(alarm, Alarm::SegmentOverdue { .. });
    assert!(raised.all().iter().any(overdue), "the step was met");
    assert_eq!(read_payments(world.path()).unwrap().read.payments.len(), 10);
    ledger.close().await;
    let ledger = world.open();
    buy(&world, &ledger).await.unwrap();
    assert_eq!(world.segments().len(), 2);
    assert_eq!(counted(&ledger).await, 11 * CENT);
    ledger.close().await;
    assert_eq!(read_payments(world.path()).unwrap().read.payments.len(), 11);
}

/// What is in the place of the next segment and cannot be removed: nothing more may go into the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_stops_if_the_next_segment_may_be_there_although_it_cannot_be_opened() {
    let (world, raised) = (World::new(), Raised::default());
    let ledger = world.open_with(|options| raised.raised_by(options));
    buy(&world, &ledger).await.unwrap();
    let before = world.journal();
    let next = bursar_ledger::scan::segment_name(before.lines().count() as u64);
    let next = world.path().join("audit").join(next);
    fs::create_dir(&next).unwrap();
    world.clock.set(noon_and(13 * 3600));
    buy(&world, &ledger).await.unwrap_err();
    raised.wait_for(|alarm| matches!(alarm, Alarm::StoreFailed { .. }));
    fs::remove_dir(&next).unwrap();
    buy(&world, &ledger).await.unwrap_err();
    assert_eq!(world.journal(), before);
    drop(ledger);
    let ledger = world.open();
    buy(&world, &ledger).await.unwrap();
    assert_eq!(counted(&ledger).await, 2 * CENT);
    ledger.close().await;
}

/// Killed while the next segment is overdue, and just when it is opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_while_the_next_segment_is_overdue_loses_nothing() {
    struct Dies(usize);
    impl Faults for Dies {
        fn at(&mut self, step: Step) -> Verdict {
            if step == Step::Open {
                return Verdict::Fail;
            }
            self.0 = self.0.saturating_sub(usize::from(step == Step::Answer));
            if self.0 == 0 { Verdict::Die } else { Verdict::Go }
        }
    }
    for commits in 2..8 {
        let world = World::new();
        let ledger = world.open_with(|options| options.faults = Some(Box::new(Dies(commits))));
        world.clock.set(noon_and(13 * 3600));
        let mut acknowledged = 0;
        while ledger.reserve(world.purchase(1_000 * CENT)).await.is_ok() {
            acknowledged += 1;
        }
        drop(ledger);
        let ledger = world.open();
        // The one that was synced and not acknowledged counts as well.
        assert_eq!(counted(&ledger).await, (acknowledged + 1) * CENT);
        assert!(world.segments().len() == 2, "the start begins the new day's segment");
        ledger.close().await;
    }
}

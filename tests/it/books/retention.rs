//! Old segments are moved away, and the pruned ledger counts the same as the whole one.

use std::fs;
use std::path::Path;

use crate::world::{World, charge, files};
use bursar::backup::BackupError;
use bursar::backup::restore::{require_accepted, restore};
use bursar::backup::retain::{Moved, retain};
use bursar::backup::take::{CopyKeys, backup};
use bursar_core::money::Atoms;
use bursar_core::policy::budget::{Unit, Window};
use bursar_home::Home;
use bursar_ledger::{
    Comparison, Ledger, Outcome, PaymentId, PaymentRecord, Reserve, ReserveError, Source, Usage, compare, read_payments,
};
use jiff::{SignedDuration, Timestamp};

const CENT: u128 = 10_000;
const DAY: SignedDuration = SignedDuration::from_hours(24);
const SCOPES: [&str; 2] = ["account", "agent:research"];

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now(world: &World) -> Timestamp {
    bursar_core::clock::Clock::now(&*world.clock)
}

/// A purchase in today's windows.
fn purchase(world: &World, cents: u128, cap: u128) -> Reserve {
    let today = now(world);
    let mut charges = vec![
        charge("account", Window::Total, Unit::MicroUsd, cents * CENT, cap),
        charge(
            "agent:research",
            Window::Day,
            Unit::MicroUsd,
            cents * CENT,
            1_000 * CENT,
        ),
        charge("agent:research", Window::Month, Unit::Payments, 1, 1_000),
        charge(
            "agent:research",
            Window::Pending,
            Unit::MicroUsd,
            cents * CENT,
            1_000 * CENT,
        ),
    ];
    charges[0].start = "all".into();
    charges[1].start = today.strftime("%Y-%m-%d").to_string().into();
    charges[2].start = today.strftime("%Y-%m-01").to_string().into();
    charges[3].start = "".into();
    let mut purchase = world.charged(charges);
    let mut random = [0; 10];
    random.copy_from_slice(&purchase.arm.nonce.known().unwrap().as_slice()[22..]);
    purchase.hold.rid = PaymentId::new(today, random);
    purchase.arm.valid_before = today.as_second() as u64 + 300;
    purchase
}

/// Thirty days of purchases with every kind of outcome. `seed` decides which; `open_from` is the first whose outcome
/// stays unknown.
async fn history(world: &World, mut seed: u64, open_from: usize) {
    world.clock.set(at("2026-10-20T12:00:00Z"));
    let ledger = world.open();
    let mut unknown_payments = Vec::new();
    for day in 0..30 {
        world.clock.set(at("2026-10-20T12:00:00Z") + DAY * day);
        for _ in 0..4 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let purchase = purchase(world, u128::from(seed % 9 + 1), u128::MAX);
            let rid = purchase.hold.rid;
            ledger.reserve(purchase).await.unwrap();
            let outcome = match seed % 4 {
                0 => Outcome::Settled {
                    by: Source::Merchant,
                    tx: None,
                },
                1 => Outcome::Taken {
                    by: Source::Chain,
                    tx: Some("0x1".into()),
                    taken: Atoms::new(u128::from(seed % 10_001)),
                },
                2 => Outcome::Expired {
                    by: Source::Chain,
                    why: bursar_ledger::Reason::NeverCashed,
                },
                _ => Outcome::Unknown {
                    why: bursar_ledger::Reason::NoReceipt,
                    tx: None,
                },
            };
            if seed % 4 == 3 {
                unknown_payments.push((usize::try_from(day).unwrap(), rid));
            }
            ledger.finish(rid, outcome).await.unwrap();
        }
        // An unknown outcome is resolved two days later, so that a cut in between finds it open.
        while let Some(&(since, rid)) = unknown_payments.first()
            && usize::try_from(day).unwrap() >= since + 2
            && since < open_from
        {
            unknown_payments.remove(0);
            let settled = Outcome::Settled {
                by: Source::Operator,
                tx: None,
            };
            ledger.finish(rid, settled).await.unwrap();
        }
    }
    ledger.close().await;
}

#[derive(Debug, PartialEq)]
struct Counted {
    usage: Vec<Usage>,
    open: Vec<PaymentId>,
    unconfirmed: Vec<PaymentId>,
}

async fn counted(world: &World) -> Counted {
    let ledger = world.open();
    let counted = Counted {
        usage: ledger.usage(&SCOPES).await.unwrap(),
        open: ledger
            .open_items()
            .await
            .unwrap()
            .iter()
            .map(bursar_ledger::Payment::rid)
            .collect(),
        unconfirmed: ledger.unconfirmed().await.unwrap(),
    };
    ledger.close().await;
    counted
}

fn forget_index(world: &World) {
    fs::remove_dir_all(world.path().join("index")).unwrap();
}

async fn move_away(world: &World, before: &str, to: &Path) -> Result<Option<Moved>, BackupError> {
    let home = Home::at(world.path()).unwrap();
    retain(&home, at(before), to, world.clock.clone(), "uid:0".into()).await
}

#[tokio::test]
async fn a_pruned_ledger_counts_what_the_whole_one_counts() {
    for (seed, before) in [
        (1, "2026-10-27"),
        (2, "2026-11-02"),
        (77, "2026-11-05"),
        (4711, "2026-11-09"),
    ] {
        let world = World::new();
        history(&world, seed, usize::MAX).await;
        world.clock.set(at("2026-11-19T12:00:00Z"));
        let whole = counted(&world).await;
        forget_index(&world);
        assert_eq!(counted(&world).await, whole, "rebuilt from all entries");
        let listed = read_payments(world.path()).unwrap().read.payments;

        let to = tempfile::tempdir().unwrap();
        let moved = move_away(&world, &format!("{before}T00:00:00Z"), to.path())
            .await
            .unwrap()
            .unwrap();
        assert!(moved.segments > 3, "{}", moved.segments);
        let here = files(&world.path().join("audit"), "seg-");
        assert!(here[0].ends_with(format!("seg-{:020}.jsonl", moved.first_seq)));
        assert_eq!(counted(&world).await, whole, "with the index");
        forget_index(&world);
        assert_eq!(counted(&world).await, whole, "rebuilt from what stayed");
        assert_eq!(counted(&world).await, whole, "from the index that was rebuilt");

        // Payments that remain, and those open at the cut, are listed as before. Only the paths were moved with the
        // segments.
        let stayed = read_payments(world.path()).unwrap();
        assert_eq!(stayed.comparison, Comparison::Matches);
        let stayed = stayed.read.payments;
        let without_path = |payment: &PaymentRecord| PaymentRecord {
            resource: String::new(),
            ..payment.clone()
        };
        let listed: Vec<_> = listed.iter().map(without_path).collect();
        assert!(stayed.len() < listed.len());
        for payment in stayed.iter().map(without_path) {
            assert!(listed.contains(&payment), "{payment:?}");
        }

        // Moved and remaining segments together are the whole journal.
        let mut all: Vec<u8> = Vec::new();
        for segment in files(&to.path().join("audit"), "seg-").iter().chain(&here) {
            all.extend(fs::read(segment).unwrap());
        }
        let lines = all.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for (seq, line) in lines.enumerate() {
            let entry: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert_eq!(entry["seq"], seq);
        }
    }
}

#[tokio::test]
async fn limits_that_reach_back_into_moved_entries_still_hold() {
    let world = World::new();
    history(&world, 5, usize::MAX).await;
    let total = |counted: &Counted| {
        let rows = counted.usage.iter().filter(|row| row.window == "total");
        rows.map(|row| row.settled + row.open).sum::<u128>()
    };
    let spent = total(&counted(&world).await);
    let to = tempfile::tempdir().unwrap();
    move_away(&world, "2026-11-05T00:00:00Z", to.path())
        .await
        .unwrap()
        .unwrap();
    forget_index(&world);
    let ledger = world.open();
    let over = ledger.reserve(purchase(&world, 1, spent + CENT - 1)).await;
    assert!(matches!(over, Err(ReserveError::Denied { charge: 0, .. })), "{over:?}");
    ledger.reserve(purchase(&world, 1, spent + CENT)).await.unwrap();
    ledger.close().await;
}

#[tokio::test]
async fn a_pruned_ledger_can_be_backed_up_and_restored() {
    let world = World::new();
    history(&world, 6, usize::MAX).await;
    let kept = tempfile::tempdir().unwrap();
    move_away(&world, "2026-11-05T00:00:00Z", &kept.path().join("old"))
        .await
        .unwrap()
        .unwrap();
    let home = Home::at(world.path()).unwrap();
    let (copy, again) = (kept.path().join("copy"), kept.path().join("again"));
    let made = backup(&home, &copy, CopyKeys::LeftOut, now(&world), &mut |_| {}).unwrap();
    restore(&copy, &Home::at(&again).unwrap(), now(&world), &mut |_| {}).unwrap();
    let (here, there) = (
        read_payments(world.path()).unwrap().read,
        read_payments(&again).unwrap().read,
    );
    assert_eq!(there.payments, here.payments);
    assert!(made.entries > 100 && !there.payments.is_empty());
    assert!(require_accepted(&Home::at(&again).unwrap()).is_err());
}

/// What remains is compared with what was signed, from the tree over what was moved away.
#[tokio::test]
async fn a_pruned_ledger_that_was_cut_or_changed_is_not_read() {
    let world = World::new();
    history(&world, 7, usize::MAX).await;
    let old = tempfile::tempdir().unwrap();
    move_away(&world, "2026-11-05T00:00:00Z", old.path())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(compare(world.path()).unwrap(), Comparison::Matches);
    let damaged = |what: &str| {
        let error = compare(world.path()).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    };
    let newest = files(&world.path().join("audit"), "seg-").pop().unwrap();
    let whole = fs::read_to_string(&newest).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    fs::write(&newest, lines[..lines.len() - 1].concat()).unwrap();
    damaged("were signed");
    fs::write(&newest, whole).unwrap();
    // Another tree over what was moved away: the entries that remain would be those of another log.
    let pruned = world.path().join("audit/pruned");
    let text = fs::read_to_string(&pruned).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["tree"]["peaks"][0] = "11".repeat(32).into();
    fs::write(&pruned, value.to_string()).unwrap();
    compare(world.path()).unwrap_err();
    fs::write(&pruned, text).unwrap();
    assert_eq!(compare(world.path()).unwrap(), Comparison::Matches);
}

#[tokio::test]
async fn open_payments_stay_with_everything_after_them() {
    let world = World::new();
    // The first payment with unknown outcome, from one of the first days, is never resolved.
    history(&world, 3, 4).await;
    let open = counted(&world).await.open[0];
    let first_day = open.made_at().unwrap();
    let to = tempfile::tempdir().unwrap();
    move_away(&world, "2026-11-09T00:00:00Z", to.path()).await.unwrap();
    let journal = world.journal();
    let reserved = format!("\"rid\":\"{open}\"");
    assert!(
        journal
            .lines()
            .any(|line| line.contains("pay.reserved") && line.contains(&reserved))
    );
    let first: serde_json::Value = serde_json::from_str(journal.lines().next().unwrap()).unwrap();
    assert!(at(first["ts"].as_str().unwrap()) <= first_day);
}

#[tokio::test]
async fn an_index_that_ended_in_a_moved_segment_is_rebuilt() {
    let world = World::new();
    history(&world, 11, usize::MAX).await;
    let (whole, index) = (counted(&world).await, world.path().join("index"));
    // The index as it was after the first entries: made over a journal truncated there.
    let old = World::new();
    fs::create_dir_all(old.path().join("audit")).unwrap();
    let first = &world.segments()[0];
    fs::copy(first, old.path().join("audit").join(first.file_name().unwrap())).unwrap();
    old.clock.set(at("2026-10-20T12:00:00Z"));
    old.open().close().await;
    let to = tempfile::tempdir().unwrap();
    move_away(&world, "2026-11-06T00:00:00Z", to.path())
        .await
        .unwrap()
        .unwrap();
    forget_index(&world);
    fs::rename(old.path().join("index"), &index).unwrap();
    assert_eq!(counted(&world).await, whole);
    assert_eq!(world.count("ledger.rebuilt"), 1);
}

#[tokio::test]
async fn moving_twice_and_continuing_after_a_crash_lose_nothing() {
    let world = World::new();
    history(&world, 9, usize::MAX).await;
    let whole = counted(&world).await;
    let to = tempfile::tempdir().unwrap();
    let young = move_away(&world, "2026-11-18T00:00:00Z", to.path()).await;
    assert!(matches!(young, Err(BackupError::TooYoung)));
    move_away(&world, "2026-10-28T00:00:00Z", to.path())
        .await
        .unwrap()
        .unwrap();
    let first = files(&to.path().join("audit"), "seg-");
    move_away(&world, "2026-11-06T00:00:00Z", to.path())
        .await
        .unwrap()
        .unwrap();
    assert!(files(&to.path().join("audit"), "seg-").len() > first.len());

    // Stopped after `pruned` was written and before the segments were removed.
    let left = world.path().join("audit").join(first[0].file_name().unwrap());
    fs::copy(&first[0], &left).unwrap();
    forget_index(&world);
    assert_eq!(counted(&world).await, whole, "what is left over is not read twice");
    move_away(&world, "2026-11-06T00:00:00Z", to.path())
        .await
        .unwrap()
        .unwrap();
    assert!(!left.exists());
    assert!(
        move_away(&world, "2026-11-06T00:00:00Z", to.path())
            .await
            .unwrap()
            .is_none(),
        "nothing is left"
    );
    assert_eq!(counted(&world).await, whole);

    let actions = world.journal().matches("\"action\":\"retention\"").count();
    assert_eq!(actions, 3);
    let pruned = fs::read(world.path().join("audit/pruned")).unwrap();
    let hash: String = {
        use sha2::Digest;
        sha2::Sha256::digest(&pruned)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    assert!(
        world.journal().contains(&hash),
        "the newest entry names the file's hash"
    );
}

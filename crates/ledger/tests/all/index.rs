//! The index may be missing, old, damaged or foreign: the journal decides, and the ledger is the same.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::world::{FailAt, World, files};
use bursar_ledger::journal::{Step, Verdict};
use bursar_ledger::{CheckpointInterval, Ledger, Outcome, Payment, Reason, ReserveError, Source, Usage};

const CENT: u128 = 10_000;

/// Everything that a caller can see of the ledger.
async fn contents(ledger: &dyn Ledger) -> (Vec<Usage>, Vec<Payment>) {
    let mut usage = ledger.usage(&["agent:research"]).await.unwrap();
    usage.sort_by(|a, b| a.window.cmp(&b.window));
    (usage, ledger.open_items().await.unwrap())
}

/// A closed ledger with payments in several states, one of them open, and what callers see of it.
async fn used() -> (World, (Vec<Usage>, Vec<Payment>)) {
    let world = World::new();
    let ledger = world.open();
    for outcome in [
        Outcome::Settled {
            by: Source::Merchant,
            tx: None,
        },
        Outcome::Unknown {
            why: Reason::NoReceipt,
            tx: None,
        },
        Outcome::Expired {
            by: Source::Chain,
            why: bursar_ledger::Reason::NeverCashed,
        },
    ] {
        let rid = ledger.reserve(world.purchase(100 * CENT)).await.unwrap().rid();
        ledger.finish(rid, outcome).await.unwrap();
    }
    let before = contents(&ledger).await;
    ledger.close().await;
    (world, before)
}

async fn expect_same(world: &World, before: &(Vec<Usage>, Vec<Payment>), rebuilt: usize) {
    let ledger = world.open();
    assert_eq!(&contents(&ledger).await, before);
    assert_eq!(world.count("ledger.rebuilt"), rebuilt);
    let settled = &bursar_ledger::read_payments(world.path()).unwrap().read.payments[0];
    assert_eq!(ledger.get(settled.id).await.unwrap().unwrap().rid(), settled.id);
    ledger.close().await;
}

#[tokio::test]
async fn an_index_that_fits_is_used() {
    let (world, before) = used().await;
    expect_same(&world, &before, 0).await;
    expect_same(&world, &before, 0).await;
    assert_eq!(files(world.path(), "index").len(), 1);
}

#[tokio::test]
async fn a_deleted_index_is_rebuilt() {
    let (world, before) = used().await;
    fs::remove_dir_all(world.path().join("index")).unwrap();
    expect_same(&world, &before, 1).await;
    expect_same(&world, &before, 1).await;
}

#[tokio::test]
async fn an_older_index_catches_up() {
    let (world, _) = used().await;
    let (index, older) = (world.path().join("index"), world.path().join("older"));
    copy(&index, &older);
    let ledger = world.open();
    let purchase = world.purchase(100 * CENT);
    let rid = ledger.reserve(purchase.clone()).await.unwrap().rid();
    ledger
        .finish(
            rid,
            Outcome::Settled {
                by: Source::Merchant,
                tx: None,
            },
        )
        .await
        .unwrap();
    let before = contents(&ledger).await;
    ledger.close().await;
    fs::remove_dir_all(&index).unwrap();
    fs::rename(older, index).unwrap();
    expect_same(&world, &before, 0).await;
    let same_nonce = bursar_ledger::Reserve {
        arm: purchase.arm,
        ..world.purchase(100 * CENT)
    };
    assert_eq!(
        world.open().reserve(same_nonce).await.unwrap_err(),
        ReserveError::NonceTaken
    );
}

#[tokio::test]
async fn an_index_with_any_damage_leads_to_the_same_ledger() {
    let (world, before) = used().await;
    let (index, copied) = (world.path().join("index"), world.path().join("copied"));
    copy(&index, &copied);
    let good = fs::read(index.join("db")).unwrap();
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();
    for part in 0..12 {
        fs::remove_dir_all(&index).unwrap();
        copy(&copied, &index);
        let mut bad = good.clone();
        if part < 6 {
            for byte in &mut bad[used * part / 6..][..64] {
                *byte ^= 0xff;
            }
        } else {
            bad.truncate(used * (part - 6) / 6);
        }
        fs::write(index.join("db"), bad).unwrap();
        let ledger = world.open();
        assert_eq!(contents(&ledger).await, before, "part {part}");
        ledger.close().await;
    }
}

/// sled notices most damage and goes back to an older state, starts over silently, or fails; either way the ledger
/// matches the journal.
#[tokio::test]
async fn one_flipped_bit_anywhere_in_the_index_leads_to_the_same_ledger() {
    const PLACES: usize = 96;
    let (world, before) = used().await;
    let (index, copied) = (world.path().join("index"), world.path().join("copied"));
    copy(&index, &copied);
    let good = fs::read(index.join("db")).unwrap();
    let used = good.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for place in 0..PLACES {
        fs::remove_dir_all(&index).unwrap();
        copy(&copied, &index);
        let mut bad = good.clone();
        bad[used * place / PLACES] ^= 1 << (place % 8);
        fs::write(index.join("db"), bad).unwrap();
        let ledger = world.open();
        assert_eq!(contents(&ledger).await, before, "place {place}");
        ledger.close().await;
    }
    let rebuilt = world.count("ledger.rebuilt");
    assert!(rebuilt > 0, "no damage caused a rebuild");
    // If sled starts over by itself, there is nothing to put aside.
    assert!(files(world.path(), "index.bad-").len() <= rebuilt);
}

/// Without its snapshot sled reads its whole log, and some damage in there makes it panic instead of returning an
/// error.
#[tokio::test]
async fn an_index_that_panics_at_open_is_rebuilt_with_an_entry() {
    const PAGE: usize = 4096;
    let world = World::new();
    for _ in 0..12 {
        let ledger = world.open();
        let mut buying = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let (ledger, purchase) = (ledger.clone(), world.purchase(10_000 * CENT));
            buying.spawn(async move { ledger.reserve(purchase).await.unwrap() });
        }
        buying.join_all().await;
        ledger.close().await;
    }
    let ledger = world.open();
    let before = contents(&ledger).await;
    ledger.close().await;
    let (index, copied) = (world.path().join("index"), world.path().join("copied"));
    copy(&index, &copied);
    for snapshot in files(&copied, "snap.") {
        fs::remove_file(snapshot).unwrap();
    }
    let good = fs::read(index.join("db")).unwrap();
    let mut panics = 0;
    for page in 0..good.len() / PAGE {
        fs::remove_dir_all(&index).unwrap();
        copy(&copied, &index);
        let mut bad = good.clone();
        bad[page * PAGE..][..PAGE].fill(0);
        fs::write(index.join("db"), bad).unwrap();
        if !sled_panics_at(&index, world.path()) {
            continue;
        }
        let rebuilt = world.count("ledger.rebuilt");
        let ledger = world.open();
        assert_eq!(contents(&ledger).await, before, "page {page}");
        ledger.close().await;
        assert_eq!(world.count("ledger.rebuilt"), rebuilt + 1, "page {page}");
        panics += 1;
        assert_eq!(files(world.path(), "index.bad-").len(), panics, "page {page}");
        if panics == 5 {
            return;
        }
    }
    panic!("sled no longer panics on such damage: {panics} times");
}

/// What sled by itself does with this directory. On a copy, because opening changes it.
fn sled_panics_at(index: &Path, beside: &Path) -> bool {
    let scratch = beside.join("scratch");
    copy(index, &scratch);
    let opening = scratch.clone();
    let opened = std::thread::spawn(move || sled::open(opening).is_ok()).join();
    fs::remove_dir_all(scratch).unwrap();
    opened.is_err()
}

#[tokio::test]
async fn any_file_of_the_index_may_be_missing_empty_or_unreadable() {
    let (world, before) = used().await;
    let (index, copied) = (world.path().join("index"), world.path().join("copied"));
    copy(&index, &copied);
    let names: Vec<_> = fs::read_dir(&index)
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert!(names.len() >= 2, "{names:?}");
    let spoils: [fn(&Path); 4] = [
        |path| {
            let is_folder = path.is_dir();
            if is_folder {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
            .unwrap();
        },
        |path| {
            if path.is_file() {
                fs::write(path, "").unwrap();
            }
        },
        |path| {
            if path.is_file() {
                fs::write(path, [0xff; 5000]).unwrap();
            }
        },
        // Root can read it all the same, and that is fine too.
        |path| fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap(),
    ];
    for name in names {
        for (number, spoil) in spoils.iter().enumerate() {
            fs::remove_dir_all(&index).unwrap();
            copy(&copied, &index);
            spoil(&index.join(&name));
            let ledger = world.open();
            assert_eq!(contents(&ledger).await, before, "{name:?}, {number}");
            ledger.close().await;
        }
    }
}

#[tokio::test]
async fn a_foreign_index_is_put_aside() {
    let (world, before) = used().await;
    let (other, _) = used().await;
    let index = world.path().join("index");
    // From another ledger, from another program, and not a store at all.
    fs::remove_dir_all(&index).unwrap();
    copy(&other.path().join("index"), &index);
    expect_same(&world, &before, 1).await;
    fs::remove_dir_all(&index).unwrap();
    let db = sled::open(&index).unwrap();
    db.insert("hello", "world").unwrap();
    drop(db);
    expect_same(&world, &before, 2).await;
    fs::remove_dir_all(&index).unwrap();
    fs::write(&index, "a file").unwrap();
    expect_same(&world, &before, 3).await;
    assert_eq!(files(world.path(), "index.bad-").len(), 3);
}

#[tokio::test]
async fn an_index_ahead_of_its_journal_is_rebuilt() {
    let (world, _) = used().await;
    let ledger = world.open_with(|options| {
        let (step, verdict) = (Step::Answer, Verdict::Die);
        options.faults = Some(Box::new(FailAt { step, nth: 4, verdict }));
        // Signs what the start finds, and nothing after it.
        options.signing = CheckpointInterval::every(Duration::MAX, u64::MAX);
    });
    world.wait_until_signed();
    for _ in 0..2 {
        ledger.reserve(world.purchase(100 * CENT)).await.unwrap();
    }
    ledger.reserve(world.purchase(100 * CENT)).await.unwrap_err();
    drop(ledger);
    world.wait_until_released();
    let segment = &world.segments()[0];
    let journal = fs::read_to_string(segment).unwrap();
    // What is signed stays, and the first reservation.
    let kept = journal.match_indices('\n').nth(world.signed()).unwrap().0 + 1;
    fs::write(segment, &journal[..kept]).unwrap();
    let ledger = world.open();
    assert_eq!(world.count("ledger.rebuilt"), 1);
    let (_, open) = contents(&ledger).await;
    assert_eq!(open.len(), 2);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

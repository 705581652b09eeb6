//! Readers compare what they read with what was signed.

use std::fs;
use std::mem::discriminant;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::world::World;
use bursar_ledger::findings::Findings;
use bursar_ledger::lines::asked_about;
use bursar_ledger::{
    CheckpointError, CheckpointInterval, Comparison, Embedded, Ledger, ReadError, compare, read_explained,
    read_payments,
};

const CENT: u128 = 10_000;

/// Signs what a start finds, and nothing after it.
const NEVER: CheckpointInterval = CheckpointInterval::every(Duration::MAX, u64::MAX);

async fn buy(world: &World, ledger: &Embedded, payments: usize) {
    for _ in 0..payments {
        ledger.reserve(world.purchase(1_000 * CENT)).await.unwrap();
    }
}

/// Several segments with twelve payments, all signed.
async fn closed() -> World {
    let world = World::new();
    let ledger = world.open_with(|options| options.segment_bytes = 4000);
    buy(&world, &ledger, 12).await;
    ledger.close().await;
    assert!(world.segments().len() > 2);
    world
}

/// What every reader says about a journal that is damaged.
#[track_caller]
fn damage(world: &World) -> ReadError {
    let some = "01a22bae-5507-74a0-a248-14aaf5668526";
    let some = bursar_ledger::PaymentId::parse(some).unwrap();
    let error = compare(world.path()).unwrap_err();
    let others = [
        read_payments(world.path()).map(drop).unwrap_err(),
        read_explained(world.path(), some).map(drop).unwrap_err(),
        asked_about(world.path()).map(drop).unwrap_err(),
        Findings::read(world.path(), |_, _| 0).map(drop).unwrap_err(),
    ];
    for other in others {
        assert_eq!(discriminant(&other), discriminant(&error), "{other}; {error}");
    }
    error
}

fn checkpoint(world: &World, name: &str) -> PathBuf {
    world.path().join("audit").join(name)
}

#[tokio::test]
async fn a_whole_journal_matches_with_and_without_a_running_ledger() {
    let world = closed().await;
    assert_eq!(compare(world.path()).unwrap(), Comparison::Matches);
    let ledger = world.open_with(|options| options.signing = NEVER);
    // Ahead of its newest checkpoint.
    buy(&world, &ledger, 5).await;
    assert!(world.signed() < world.journal().lines().count());
    let read = read_payments(world.path()).unwrap();
    assert_eq!((read.read.payments.len(), read.comparison), (17, Comparison::Matches));
    ledger.close().await;
    // Either file will do.
    for name in ["checkpoint", "checkpoints.log"] {
        let kept = fs::read(checkpoint(&world, name)).unwrap();
        fs::remove_file(checkpoint(&world, name)).unwrap();
        assert_eq!(compare(world.path()).unwrap(), Comparison::Matches, "without {name}");
        fs::write(checkpoint(&world, name), kept).unwrap();
    }
}

#[tokio::test]
async fn a_journal_that_was_cut_is_damaged_wherever_it_was_cut() {
    let world = closed().await;
    let newest = world.segments().pop().unwrap();
    let good = fs::read(&newest).unwrap();
    let lines: Vec<usize> = (0..good.len()).filter(|at| good[*at] == b'\n').collect();
    // After each whole line but the last, in the middle of a line, and the whole segment.
    let cuts = lines[..lines.len() - 1]
        .iter()
        .map(|at| at + 1)
        .chain([good.len() - 40, 0]);
    for kept in cuts {
        fs::write(&newest, &good[..kept]).unwrap();
        let error = damage(&world);
        let is_shorter = matches!(error, ReadError::Checkpoint(CheckpointError::Shorter { .. }));
        assert!(is_shorter, "{kept}: {error}");
    }
    fs::remove_file(&newest).unwrap();
    assert!(matches!(
        damage(&world),
        ReadError::Checkpoint(CheckpointError::Shorter { .. })
    ));
    fs::write(&newest, &good).unwrap();
    // From the middle.
    let middle = world.segments()[1].clone();
    let good = fs::read(&middle).unwrap();
    fs::remove_file(&middle).unwrap();
    assert!(matches!(damage(&world), ReadError::Journal(_)));
    fs::write(&middle, &good[..good.len() / 2]).unwrap();
    assert!(matches!(damage(&world), ReadError::Journal(_)));
}

#[tokio::test]
async fn a_journal_that_was_changed_or_written_anew_is_damaged() {
    let world = closed().await;
    let second = world.segments()[1].clone();
    let good = fs::read(&second).unwrap();
    for at in (0..good.len()).step_by(499) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&second, bad).unwrap();
        damage(&world);
    }
    fs::write(&second, good).unwrap();
    // Another journal that is valid in itself, as long as ours, under the same key.
    let other = closed().await;
    for (ours, theirs) in world.segments().iter().zip(other.segments()) {
        fs::copy(theirs, ours).unwrap();
    }
    let said = damage(&world).to_string();
    assert!(said.contains("are not the ones that were signed"), "{said}");
}

#[tokio::test]
async fn a_forged_or_foreign_checkpoint_and_a_replaced_key_are_damage() {
    let world = closed().await;
    let good = fs::read_to_string(checkpoint(&world, "checkpoint")).unwrap();
    let other = World::new();
    let key = "ed25519-seed AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n";
    fs::write(other.path().join("log.key"), key).unwrap();
    let ledger = other.open();
    buy(&other, &ledger, 3).await;
    ledger.close().await;
    let foreign = fs::read_to_string(checkpoint(&other, "checkpoint")).unwrap();
    let name = |note: &str| note.lines().next().unwrap().to_owned();
    let forged = foreign.replace(&name(&foreign), &name(&good));
    let size = format!("\n{}\n", world.journal().lines().count());
    let edited = good.replacen(&size, "\n3\n", 1);
    for bad in [foreign, forged, edited, String::new()] {
        fs::write(checkpoint(&world, "checkpoint"), bad).unwrap();
        assert!(matches!(
            damage(&world),
            ReadError::Checkpoint(CheckpointError::Bad { .. })
        ));
    }
    fs::write(checkpoint(&world, "checkpoint"), good).unwrap();
    fs::copy(other.path().join("log.key"), world.path().join("log.key")).unwrap();
    assert!(matches!(
        damage(&world),
        ReadError::Checkpoint(CheckpointError::Bad { .. })
    ));
}

#[tokio::test]
async fn removing_the_checkpoints_hides_nothing() {
    let world = closed().await;
    for name in ["checkpoint", "checkpoints.log"] {
        fs::remove_file(checkpoint(&world, name)).unwrap();
    }
    // A journal that was written just now may be signed soon, and readers wait for that.
    let newest = fs::File::options().append(true).open(world.segments().pop().unwrap());
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    newest.unwrap().set_modified(an_hour_ago).unwrap();
    assert!(matches!(
        damage(&world),
        ReadError::Checkpoint(CheckpointError::NeverSigned { .. })
    ));
    for segment in world.segments() {
        fs::remove_file(segment).unwrap();
    }
    // A ledger was here: its index is.
    assert!(matches!(
        damage(&world),
        ReadError::Checkpoint(CheckpointError::Missing { .. })
    ));
}

#[tokio::test]
async fn without_a_usable_key_everything_is_read_and_nothing_is_certain() {
    let world = closed().await;
    for key in [None, Some("ed25519-seed AQEB\n")] {
        match key {
            None => fs::remove_file(world.path().join("log.key")).unwrap(),
            Some(text) => {
                let readers = bursar_home::Readers::Owner;
                bursar_home::write_atomic(&world.path().join("log.key"), text.as_bytes(), readers).unwrap();
            }
        }
        let read = read_payments(world.path()).unwrap();
        assert_eq!(read.read.payments.len(), 12);
        let Comparison::NotPossible(why) = read.comparison else {
            panic!("it was compared");
        };
        assert!(why.contains("log.key"), "{why}");
    }
    // What is wrong without a key is still wrong.
    let second = world.segments()[1].clone();
    fs::remove_file(second).unwrap();
    assert!(matches!(damage(&world), ReadError::Journal(_)));
}

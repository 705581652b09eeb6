//! What a start does with signed checkpoints: it reads only what is new, and refuses to run when signed history is
//! damaged.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use crate::world::{FailAt, World, counted, files};
use bursar_ledger::journal::{Faults, Step, Verdict};
use bursar_ledger::{
    Alarm, CheckpointError, CheckpointInterval, Embedded, Ledger, OpenError, Outcome, ReserveError, Source,
};

const CENT: u128 = 10_000;

/// Signs what a start finds, and nothing after it.
const NEVER: CheckpointInterval = CheckpointInterval::every(Duration::MAX, u64::MAX);
/// Signs whatever is synced, at once.
const ALWAYS: CheckpointInterval = CheckpointInterval::every(Duration::ZERO, 1);

/// A closed ledger of several segments, all of it signed.
async fn closed() -> World {
    let world = World::new();
    let ledger = world.open_with(|options| options.segment_bytes = 4000);
    buy(&world, &ledger, 12).await;
    ledger.close().await;
    assert!(world.segments().len() > 3);
    world
}

async fn buy(world: &World, ledger: &Embedded, payments: usize) {
    for _ in 0..payments {
        let rid = ledger.reserve(world.purchase(1_000 * CENT)).await.unwrap().rid();
        let settled = Outcome::Settled {
            by: Source::Merchant,
            tx: None,
        };
        ledger.finish(rid, settled).await.unwrap();
    }
}

fn checkpoint(world: &World) -> PathBuf {
    world.path().join("audit/checkpoint")
}

fn checkpoints(world: &World) -> PathBuf {
    world.path().join("audit/checkpoints.log")
}

fn entries(world: &World) -> usize {
    world.journal().lines().count()
}

fn refusal(world: &World) -> OpenError {
    let before = audit(world);
    let error = world.try_open().map(|_| ()).unwrap_err();
    assert_eq!(audit(world), before, "nothing may be changed");
    error
}

/// Every file of the audit directory.
fn audit(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files(&world.path().join("audit"), "");
    files
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_clean_stop_signs_everything_and_the_next_start_reads_nothing_of_it() {
    let world = closed().await;
    assert_eq!(world.signed(), entries(&world));
    // The start does not notice damage in what it does not read: here a byte of a finished segment is wrong.
    flip(&world.segments()[1], 100);
    let (sender, alarms) = mpsc::channel();
    let ledger = world.open_with(|options| {
        let sender = sender.clone();
        options.alarms = std::sync::Arc::new(move |alarm| drop(sender.send(alarm)));
    });
    // It is found a little later, and then nothing is paid any more.
    let alarm = alarms.recv().unwrap();
    let Alarm::StoreFailed { why } = alarm else {
        panic!("{alarm:?}");
    };
    let name = world.segments()[1].file_name().unwrap().to_str().unwrap().to_owned();
    assert!(why.contains(&format!("{name} line ")), "{why}");
    let refused = ledger.reserve(world.purchase(1_000 * CENT)).await.unwrap_err();
    assert!(matches!(refused, ReserveError::Failed(_)), "{refused:?}");
    ledger.close().await;
    // Without the index, the start itself finds it.
    fs::remove_dir_all(world.path().join("index")).unwrap();
    let said = refusal(&world).to_string();
    assert!(said.contains(&format!("{name} line ")), "{said}");
}

#[tokio::test]
async fn what_was_written_after_the_last_checkpoint_is_read_and_signed_at_once() {
    let world = closed().await;
    let ledger = world.open_with(|options| {
        options.signing = NEVER;
        let (step, verdict) = (Step::Answer, Verdict::Die);
        options.faults = Some(Box::new(FailAt { step, nth: 6, verdict }));
    });
    world.wait_until_signed();
    let before = world.signed();
    buy(&world, &ledger, 2).await;
    // Synced, and killed before it was acknowledged or signed.
    let killed = world.purchase(1_000 * CENT);
    let rid = killed.hold.rid;
    ledger.reserve(killed).await.unwrap_err();
    drop(ledger);
    world.wait_until_released();
    assert_eq!((world.signed(), entries(&world)), (before, before + 5));
    let ledger = world.open();
    assert_eq!(counted(&ledger).await, 15 * CENT);
    assert!(ledger.get(rid).await.unwrap().is_some());
    assert_eq!(world.count("ledger.rebuilt"), 0);
    world.wait_until_signed();
    ledger.close().await;
    let (written, sizes) = (fs::read_to_string(checkpoints(&world)).unwrap(), world.journal());
    assert!(written.matches("\u{2014} ").count() >= 3);
    assert_eq!(world.signed(), sizes.lines().count());
}

#[tokio::test]
async fn only_what_is_synced_is_signed() {
    for nth in 2..12 {
        let world = World::new();
        let ledger = world.open_with(|options| {
            options.signing = ALWAYS;
            let (step, verdict) = (Step::Sync, Verdict::Fail);
            options.faults = Some(Box::new(FailAt { step, nth, verdict }));
        });
        while ledger.reserve(world.purchase(1_000 * CENT)).await.is_ok() {}
        ledger.close().await;
        // Written, but the sync failed: the disk may or may not have the last one.
        assert_eq!(entries(&world), nth);
        assert!(world.signed() < nth, "commit {nth}");
    }
}

/// Checks at every step of every commit what is signed.
struct Watch {
    world: PathBuf,
    durable: usize,
}

impl Faults for Watch {
    fn at(&mut self, step: Step) -> Verdict {
        let entries = || {
            let journal = fs::read_to_string(self.world.join("audit/seg-00000000000000000000.jsonl"));
            journal.unwrap().trim_end().lines().count()
        };
        if step == Step::Answer {
            self.durable = entries();
        }
        if let Ok(note) = fs::read_to_string(self.world.join("audit/checkpoint")) {
            let signed: usize = note.lines().nth(1).unwrap().parse().unwrap();
            assert!(signed <= self.durable, "{signed} signed, {} durable", self.durable);
        }
        Verdict::Go
    }
}

#[tokio::test]
async fn at_no_step_is_a_checkpoint_ahead_of_the_sync() {
    let world = World::new();
    let ledger = world.open_with(|options| {
        options.signing = ALWAYS;
        let world = world.path().to_owned();
        options.faults = Some(Box::new(Watch { world, durable: 0 }));
    });
    buy(&world, &ledger, 40).await;
    ledger.close().await;
    assert_eq!(world.signed(), entries(&world), "a watch that panicked ends the writer");
}

#[tokio::test]
async fn a_journal_shorter_than_what_was_signed_is_refused() {
    let world = closed().await;
    let newest = world.segments().pop().unwrap();
    let good = fs::read(&newest).unwrap();
    for with_index in [true, false] {
        if !with_index {
            fs::remove_dir_all(world.path().join("index")).unwrap();
        }
        // At a line, in the middle of one, and the whole segment.
        for kept in [good.len() - 200, 1] {
            fs::write(&newest, &good[..kept]).unwrap();
            let error = refusal(&world);
            let shorter = matches!(error, OpenError::Checkpoint(CheckpointError::Shorter { .. }));
            assert!(shorter, "{error}");
            assert!(error.to_string().contains("from a backup"), "{error}");
        }
        fs::remove_file(&newest).unwrap();
        let error = refusal(&world);
        assert!(
            matches!(error, OpenError::Checkpoint(CheckpointError::Shorter { .. })),
            "{error}"
        );
        fs::write(&newest, &good).unwrap();
    }
    world.open().close().await;
}

#[tokio::test]
async fn old_segments_are_missed_by_name_and_by_size() {
    let world = closed().await;
    let old = world.segments()[1].clone();
    let good = fs::read(&old).unwrap();
    fs::write(&old, &good[..good.len() - 1]).unwrap();
    assert!(matches!(refusal(&world), OpenError::Journal(_)));
    fs::remove_file(&old).unwrap();
    assert!(matches!(refusal(&world), OpenError::Journal(_)));
    fs::write(&old, &good).unwrap();
    world.open().close().await;
    assert_eq!(world.count("ledger.rebuilt"), 0);
}

#[tokio::test]
async fn history_that_was_written_anew_is_refused() {
    let world = closed().await;
    // Another journal of the same length, valid in itself, under the same key.
    let other = closed().await;
    for (ours, theirs) in world.segments().iter().zip(other.segments()) {
        fs::copy(theirs, ours).unwrap();
    }
    for with_index in [true, false] {
        if !with_index {
            fs::remove_dir_all(world.path().join("index")).unwrap();
        }
        let said = refusal(&world).to_string();
        assert!(said.contains("are not the ones that were signed"), "{said}");
    }
}

#[tokio::test]
async fn one_checkpoint_file_replaces_the_other_and_none_is_refused() {
    let world = closed().await;
    fs::remove_file(checkpoint(&world)).unwrap();
    world.open().close().await;
    assert_eq!(world.signed(), entries(&world));
    fs::remove_file(checkpoints(&world)).unwrap();
    world.open().close().await;
    assert_eq!(world.signed(), entries(&world));

    fs::remove_file(checkpoint(&world)).unwrap();
    fs::remove_file(checkpoints(&world)).unwrap();
    let error = refusal(&world);
    assert!(
        matches!(error, OpenError::Checkpoint(CheckpointError::Missing { .. })),
        "{error}"
    );
    // The way out that the error message names.
    fs::remove_dir_all(world.path().join("index")).unwrap();
    world.open().close().await;
    assert_eq!(world.signed(), entries(&world));
}

#[tokio::test]
async fn a_checkpoint_of_another_log_and_a_forged_one_are_refused() {
    let world = closed().await;
    let good = fs::read_to_string(checkpoint(&world)).unwrap();
    let other = World::new();
    let key = "ed25519-seed AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n";
    fs::write(other.path().join("log.key"), key).unwrap();
    let ledger = other.open();
    buy(&other, &ledger, 3).await;
    ledger.close().await;
    let foreign = fs::read_to_string(checkpoint(&other)).unwrap();
    let name = |note: &str| note.lines().next().unwrap().to_owned();
    let forged = foreign.replace(&name(&foreign), &name(&good));
    let edited = good.replacen(&format!("\n{}\n", entries(&world)), "\n3\n", 1);
    for bad in [foreign, forged, edited] {
        fs::write(checkpoint(&world), bad).unwrap();
        let error = refusal(&world);
        assert!(
            matches!(error, OpenError::Checkpoint(CheckpointError::Bad { .. })),
            "{error}"
        );
        let said = error.to_string();
        assert!(said.contains(checkpoint(&world).to_str().unwrap()), "{said}");
    }
    fs::write(checkpoint(&world), good).unwrap();
    // Replacing our key with another does not get around it.
    let ours = fs::read(world.path().join("log.key")).unwrap();
    fs::copy(other.path().join("log.key"), world.path().join("log.key")).unwrap();
    assert!(matches!(
        refusal(&world),
        OpenError::Checkpoint(CheckpointError::Bad { .. })
    ));
    fs::write(world.path().join("log.key"), ours).unwrap();
    world.open().close().await;
}

/// A kill after the log's record and before the newest one, and one in the middle of the record.
#[tokio::test]
async fn a_kill_between_the_two_files_is_made_up_for() {
    let world = World::new();
    let ledger = world.open();
    buy(&world, &ledger, 2).await;
    ledger.close().await;
    let (older, first) = (
        fs::read(checkpoint(&world)).unwrap(),
        fs::read(checkpoints(&world)).unwrap(),
    );
    let ledger = world.open_with(|options| options.signing = NEVER);
    buy(&world, &ledger, 2).await;
    ledger.close().await;
    let all = fs::read(checkpoints(&world)).unwrap();
    for kept in [all.len(), all.len() - 40] {
        fs::write(checkpoint(&world), &older).unwrap();
        fs::write(checkpoints(&world), &all[..kept.max(first.len())]).unwrap();
        let ledger = world.open();
        assert_eq!(counted(&ledger).await, 4 * CENT);
        ledger.close().await;
        assert_eq!(world.signed(), entries(&world));
        let log = fs::read_to_string(checkpoints(&world)).unwrap();
        assert!(log.ends_with(&format!("{}\n", fs::read_to_string(checkpoint(&world)).unwrap())));
    }
}

#[tokio::test]
async fn a_journal_from_before_checkpoints_is_accepted_once() {
    let world = closed().await;
    fs::remove_dir_all(world.path().join("index")).unwrap();
    fs::remove_file(checkpoint(&world)).unwrap();
    fs::remove_file(checkpoints(&world)).unwrap();
    let ledger = world.open();
    assert_eq!(counted(&ledger).await, 12 * CENT);
    ledger.close().await;
    assert_eq!(world.signed(), entries(&world));
    let newest = world.segments().pop().unwrap();
    let good = fs::read(&newest).unwrap();
    fs::write(&newest, &good[..good.len() / 2]).unwrap();
    assert!(matches!(
        refusal(&world),
        OpenError::Checkpoint(CheckpointError::Shorter { .. })
    ));
}

#[tokio::test]
async fn without_the_key_nothing_starts() {
    let world = closed().await;
    fs::remove_file(world.path().join("log.key")).unwrap();
    let error = refusal(&world);
    assert!(
        matches!(error, OpenError::Checkpoint(CheckpointError::Key(_))),
        "{error}"
    );
}

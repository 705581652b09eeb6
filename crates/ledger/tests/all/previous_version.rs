//! A data directory that the version before has left is read, continued and verified (R89).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bursar_ledger::{Ledger, Outcome, RefusalRecord, Source, State, read_payments};

use crate::world::World;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/ledger/v1")
}

/// With the modes that a data directory has, which a checkout does not keep.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        let mode = if from.is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy(&from, &to);
            0o700
        } else {
            fs::write(&to, fs::read(&from).unwrap()).unwrap();
            0o600
        };
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn world() -> World {
    let world = World::new();
    fs::remove_file(world.path().join("log.key")).unwrap();
    copy(&fixture(), world.path());
    world.clock.set("2026-12-01T12:00:00Z".parse().unwrap());
    world
}

#[test]
fn what_the_version_before_wrote_is_read_as_it_was() {
    let world = world();
    let read = read_payments(world.path()).unwrap().read;
    let states: Vec<_> = read.payments.iter().map(|payment| payment.state).collect();
    assert_eq!(states, [State::Settled, State::Settled, State::Released]);
    let rules: Vec<_> = read.refusals.iter().map(|refusal| refusal.rule.as_str()).collect();
    assert_eq!(rules, ["agents.research.per_transaction"; 2]);
    assert_eq!(world.count("pay.denied"), read.refusals.len());
}

#[tokio::test]
async fn it_is_continued_in_new_words_and_not_a_byte_of_the_old_ones_changes() {
    let world = world();
    let before = world.journal();
    assert_eq!(fs::read_to_string(world.path().join("format")).unwrap(), "2\n");

    let ledger = world.open();
    let purchase = world.purchase(1_000_000);
    let id = purchase.hold.rid;
    ledger.reserve(purchase).await.unwrap();
    let outcome = Outcome::Settled {
        by: Source::Merchant,
        tx: None,
    };
    ledger.finish(id, outcome).await.unwrap();
    ledger.refused(RefusalRecord {
        agent: "research".to_owned(),
        group: None,
        host: "api.example.com".to_owned(),
        reason: "over-limit".to_owned(),
        rule: "agents.research.day".to_owned(),
        asked: None,
    });
    world.wait_until_signed();
    ledger.close().await;
    drop(ledger);

    let after = world.journal();
    let added = after.strip_prefix(&before).expect("old lines stay as they are");
    assert!(before.contains("\"v\":1") && !before.contains("\"v\":2"));
    assert!(added.contains("\"v\":2") && !added.contains("\"v\":1"), "{added}");
    assert!(
        added.contains("\"ev\":\"pay.refused\"") && !added.contains("pay.denied"),
        "{added}"
    );
    assert_eq!(
        fs::read_to_string(world.path().join("format")).unwrap(),
        bursar_ledger::format::current()
    );

    // A new start checks the hash chain and the signed checkpoints over both kinds of lines.
    let again = world.open();
    assert_eq!(again.get(id).await.unwrap().unwrap().state, State::Settled);
    again.close().await;
    assert_eq!(read_payments(world.path()).unwrap().read.payments.len(), 4);
}

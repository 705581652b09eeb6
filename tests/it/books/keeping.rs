//! Backups: taken while the ledger is being written, restored without ignoring what is missing, and read by the next
//! version.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::bursar::{Home, WALLET_KEY, bin, bursar, eventually, setup};
use crate::support::seller::shop;
use ::bursar_ledger::format::CURRENT;

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A restored directory that tests can serve.
fn restored(backup: &Path) -> Home {
    let dir = tempfile::tempdir().unwrap();
    let done = bursar(dir.path(), &["restore", path(backup)]);
    assert_eq!(code(&done), 0, "{}", says(&done));
    Home {
        dir,
        token: String::new(),
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for inside in fs::read_dir(folder).unwrap() {
        let path = inside.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn holds(folder: &Path, needle: &[u8]) -> bool {
    files_below(folder).iter().any(|file| {
        fs::read(file)
            .unwrap()
            .windows(needle.len())
            .any(|window| window == needle)
    })
}

fn ids(payments: &[Value]) -> Vec<&str> {
    payments.iter().map(|payment| payment["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_made_while_agents_buy_is_a_prefix_with_everything_that_was_paid_before_it() {
    let shop = Arc::new(shop().await);
    let bursar = setup().trust(&shop.ca_pem).start();
    let agent = Agent::of(&bursar);
    for _ in 0..10 {
        assert_eq!(agent.get(shop.address, "/").await.status, 200);
    }
    let enough = Arc::new(AtomicBool::new(false));
    let buyers: Vec<_> = (0..4)
        .map(|_| {
            let (agent, shop, enough) = (Agent::of(&bursar), shop.clone(), enough.clone());
            tokio::spawn(async move {
                while !enough.load(Ordering::SeqCst) {
                    assert_eq!(agent.get(shop.address, "/").await.status, 200);
                }
            })
        })
        .collect();
    let before = bursar.payments();
    let paid: HashSet<_> = before
        .iter()
        .filter(|payment| payment["state"] == "settled")
        .map(|payment| payment["id"].as_str().unwrap().to_owned())
        .collect();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("copy");
    let made = bursar.run(&["backup", path(&target)]);
    assert_eq!(code(&made), 0, "{}", says(&made));
    let at_least = bursar.payments().len() + 4;
    eventually("they go on buying", || {
        (bursar.payments().len() > at_least).then_some(())
    })
    .await;
    enough.store(true, Ordering::SeqCst);
    for buyer in buyers {
        buyer.await.unwrap();
    }
    assert!(!place.path().join("copy.partial").exists());

    let copy = restored(&target);
    // The keys are not in it: it can be read, and nobody can tell whether it is whole.
    assert_eq!(code(&copy.run(&["payments", "list"])), 3);
    fs::copy(bursar.path().join("log.key"), copy.path().join("log.key")).unwrap();
    let (all, copied) = (bursar.payments(), copy.payments(&[]));
    assert!(copied.len() < all.len());
    assert_eq!(ids(&copied), ids(&all)[..copied.len()]);
    for payment in copied
        .iter()
        .filter(|payment| paid.contains(payment["id"].as_str().unwrap()))
    {
        assert_eq!(payment["state"], "settled");
    }
    assert!(paid.len() >= 10 && paid.iter().all(|id| ids(&copied).contains(&id.as_str())));
    assert!(
        copied[0]["resource"].as_str().unwrap().ends_with('/'),
        "the paths are included"
    );
    assert_eq!(copied[0]["resource"], all[0]["resource"]);
    copy.journal();
}

#[tokio::test]
async fn a_restored_ledger_does_not_pay_before_an_operator_has_accepted_what_is_missing() {
    let shop = shop().await;
    let limits = "timezone = \"UTC\"\n[agents.research]\nday = \"0.02\"\n";
    let mut bursar = setup().limits(limits).trust(&shop.ca_pem).start();
    assert_eq!(Agent::of(&bursar).get(shop.address, "/").await.status, 200);
    assert_eq!(bursar.stop(), 0);
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("copy");
    let made = bursar.run(&["backup", "--with-keys", path(&target)]);
    assert_eq!(code(&made), 0, "{}", says(&made));

    let mut copy = restored(&target);
    copy.token = bursar.home.token.clone();
    let refused = Command::new(bin())
        .args(["serve", "--dir", path(copy.path())])
        .env("BURSAR_TEST_WALLET", WALLET_KEY)
        .output()
        .unwrap();
    assert_eq!(code(&refused), 1);
    let said = says(&refused);
    assert!(
        said.contains("was restored from a backup of") && said.contains("restore --accept"),
        "{said}"
    );
    assert_eq!(code(&copy.run(&["restore", "--accept"])), 2, "a reason is needed");

    let accepted = copy.run(&["restore", "--accept", "--why", "nothing was paid since"]);
    assert_eq!(code(&accepted), 0, "{}", says(&accepted));
    let journal = copy.journal();
    let entry = journal.iter().find(|entry| entry["action"] == "restore").unwrap();
    assert!(
        entry["why"]
            .as_str()
            .unwrap()
            .starts_with("nothing was paid since (backup of "),
        "{entry}"
    );
    assert_eq!(code(&copy.run(&["restore", "--accept", "--why", "again"])), 2);
    let copy = copy.serve();
    let agent = Agent::of(&copy);
    assert_eq!(agent.get(shop.address, "/").await.status, 200);
    assert_eq!(
        agent.get(shop.address, "/").await.problem(),
        "over-limit",
        "what was paid before counts"
    );
}

#[tokio::test]
async fn a_damaged_backup_is_refused_and_nothing_is_put_in_place() {
    let shop = shop().await;
    let server = setup().trust(&shop.ca_pem).start();
    assert_eq!(Agent::of(&server).get(shop.address, "/").await.status, 200);
    let place = tempfile::tempdir().unwrap();
    let good = place.path().join("good");
    assert_eq!(code(&server.run(&["backup", path(&good)])), 0);
    let refused = |what: &str, damage: &dyn Fn(&Path), says_what: &str| {
        let bad = place.path().join("bad");
        let _ = fs::remove_dir_all(&bad);
        assert!(
            Command::new("cp")
                .arg("-r")
                .args([&good, &bad])
                .status()
                .unwrap()
                .success()
        );
        damage(&bad);
        let target = place.path().join("target");
        let done = bursar(&target, &["restore", path(&bad)]);
        assert_eq!(code(&done), 1, "{what}: {}", says(&done));
        assert!(says(&done).contains(says_what), "{what}: {}", says(&done));
        assert!(
            !target.exists() && !place.path().join("target.partial").exists(),
            "{what}"
        );
    };
    for file in files_below(&good) {
        let name = file.strip_prefix(&good).unwrap().to_owned();
        if name == Path::new("backup.json") {
            continue;
        }
        let flip = |bad: &Path| {
            let mut bytes = fs::read(bad.join(&name)).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(bad.join(&name), bytes).unwrap();
        };
        refused(path(&name), &flip, "was changed");
        refused(
            path(&name),
            &|bad| fs::remove_file(bad.join(&name)).unwrap(),
            "is missing",
        );
    }
    let edit = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        move |bad: &Path| {
            let file = bad.join("backup.json");
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains(&from));
            fs::write(file, text.replace(&from, &to)).unwrap();
        }
    };
    refused(
        "an unfinished one",
        &|bad| fs::remove_file(bad.join("backup.json")).unwrap(),
        "not a complete backup",
    );
    refused(
        "a path that leads out",
        &edit("limits.toml", "../limits.toml"),
        "not a file inside it",
    );
    refused(
        "of a newer bursar",
        &edit(
            &format!("\"format\": {CURRENT}"),
            &format!("\"format\": {}", CURRENT + 1),
        ),
        &format!("has format {}", CURRENT + 1),
    );
    refused(
        "other entries",
        &edit("\"entries\": ", "\"entries\": 9"),
        "backup.json says",
    );

    let taken = server.run(&["restore", path(&good)]);
    assert_eq!(
        code(&taken),
        2,
        "a directory in use is not overwritten: {}",
        says(&taken)
    );
}

#[test]
fn keys_are_copied_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(code(&bursar(dir.path(), &["init", "--wallet"])), 0);
    let keys = ["wallet.key", "ca.key", "log.key"];
    let place = tempfile::tempdir().unwrap();
    let (without, with) = (place.path().join("without"), place.path().join("with"));
    let made = bursar(dir.path(), &["backup", path(&without)]);
    assert_eq!(code(&made), 0, "{}", says(&made));
    for key in keys {
        assert!(says(&made).contains(key), "{}", says(&made));
        let secret = fs::read(dir.path().join(key)).unwrap();
        let lines: Vec<&[u8]> = secret
            .split(|byte| *byte == b'\n')
            .filter(|line| line.len() > 20)
            .collect();
        assert!(!lines.is_empty(), "{key}");
        for line in lines.iter().filter(|line| !line.starts_with(b"-----")) {
            assert!(!holds(&without, line), "{key} is in the backup");
        }
    }
    let made = bursar(dir.path(), &["backup", "--with-keys", path(&with)]);
    assert_eq!(code(&made), 0, "{}", says(&made));
    for key in keys {
        assert_eq!(
            fs::read(with.join(key)).unwrap(),
            fs::read(dir.path().join(key)).unwrap()
        );
    }
    use std::os::unix::fs::PermissionsExt;
    for file in files_below(&with) {
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            file.display()
        );
    }
    assert_eq!(fs::metadata(&with).unwrap().permissions().mode() & 0o777, 0o700);

    for (target, why) in [
        (with.clone(), "is not empty"),
        (dir.path().join("copy"), "is inside the data directory"),
    ] {
        let refused = bursar(dir.path(), &["backup", path(&target)]);
        assert_eq!(code(&refused), 2);
        assert!(says(&refused).contains(why), "{}", says(&refused));
    }
    let third = place.path().join("third");
    fs::create_dir(place.path().join("third.partial")).unwrap();
    let refused = bursar(dir.path(), &["backup", path(&third)]);
    assert_eq!(code(&refused), 2);
    assert!(says(&refused).contains("unfinished copy"), "{}", says(&refused));
    assert!(place.path().join("third.partial").exists(), "it is not ours to remove");
}

#[tokio::test]
async fn a_directory_of_the_previous_version_is_migrated_and_one_of_the_next_is_refused() {
    let shop = shop().await;
    let mut bursar = setup().trust(&shop.ca_pem).start();
    assert_eq!(Agent::of(&bursar).get(shop.address, "/").await.status, 200);
    assert_eq!(bursar.stop(), 0);
    let format = bursar.path().join("format");
    let current = fs::read_to_string(&format).unwrap();
    let number: u32 = current.trim_end().parse().unwrap();
    // The previous version wrote none.
    fs::remove_file(&format).unwrap();
    let home = std::mem::replace(&mut bursar.home, setup().home());
    assert_eq!(home.payments(&[]).len(), 1, "readers do not need the format file");
    let mut bursar = home.serve();
    assert_eq!(fs::read_to_string(&format).unwrap(), current);
    assert_eq!(bursar.stop(), 0);

    fs::write(&format, format!("{}\n", number + 1)).unwrap();
    let before = fs::read(bursar.home.path().join("audit/seg-00000000000000000000.jsonl")).unwrap();
    for command in [
        &["serve"][..],
        &["payments", "list"],
        &["clock", "accept", "--why", "w"],
    ] {
        let refused = bursar.run(command);
        assert_ne!(code(&refused), 0);
        assert!(
            says(&refused).contains(&format!(
                "has format {}, and this bursar knows formats up to {number}",
                number + 1
            )),
            "{}",
            says(&refused)
        );
    }
    let after = fs::read(bursar.home.path().join("audit/seg-00000000000000000000.jsonl")).unwrap();
    assert!(before == after, "nothing was written");
}

#[tokio::test]
async fn young_entries_are_not_moved_and_none_under_a_running_server() {
    let mut bursar = setup().start();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("old");
    let old = ["retain", "--before", "2026-01-01", "--to", path(&to)];
    let busy = bursar.run(&old);
    assert_eq!(code(&busy), 5, "{}", says(&busy));
    assert_eq!(bursar.stop(), 0);
    let none = bursar.run(&old);
    assert_eq!(code(&none), 0, "{}", says(&none));
    assert!(says(&none).contains("Nothing to move"), "{}", says(&none));
    let young = bursar.run(&["retain", "--before", "2999-01-01", "--to", path(&to)]);
    assert_eq!(code(&young), 2, "{}", says(&young));
    assert!(says(&young).contains("at least 8 days ago"), "{}", says(&young));
    assert!(!to.exists());
    bursar.journal();
}

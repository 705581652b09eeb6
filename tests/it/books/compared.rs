//! Commands that read the journal compare it with its newest checkpoint before they print: exit code 1 and nothing on
//! stdout if entries are missing or changed, 3 if there is no key to tell.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Home, eventually, setup};
use crate::support::buyer::skip;
use crate::support::seller::shop;

/// A directory with twelve payments, its server running, and everything signed.
async fn twelve() -> Bursar {
    let shop = shop().await;
    let bursar = setup().trust(&shop.ca_pem).start();
    let agent = Agent::of(&bursar);
    for _ in 0..12 {
        assert_eq!(agent.get(shop.address, "/").await.status, 200);
    }
    eventually("a checkpoint of everything", || {
        (signed(bursar.path()) == lines(bursar.path())).then_some(())
    })
    .await;
    bursar
}

fn segment(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("audit")).unwrap();
    let mut segments: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    segments.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("seg-"));
    segments.sort();
    segments.pop().unwrap()
}

/// The entries of the newest segment, without what is written ahead of them.
fn entries(dir: &Path) -> Vec<u8> {
    let text = fs::read_to_string(segment(dir)).unwrap();
    (text.trim_end_matches('\n').to_owned() + "\n").into_bytes()
}

fn lines(dir: &Path) -> usize {
    entries(dir).iter().filter(|byte| **byte == b'\n').count()
}

fn signed(dir: &Path) -> usize {
    let note = fs::read_to_string(dir.join("audit/checkpoint")).unwrap_or_default();
    note.lines().nth(1).map_or(0, |size| size.parse().unwrap())
}

/// Every command that prints what the journal says, with a payment that it holds.
fn readers(home: &Home, id: &str) -> Vec<(String, Output)> {
    let target = tempfile::tempdir().unwrap();
    let target = target.path().join("copy");
    let commands: [&[&str]; 8] = [
        &["payments", "list"],
        &["payments", "list", "--json", "--refused"],
        &["payments", "show", id],
        &["payments", "show", id, "--json"],
        &["payments", "resolve", id, "--settled", "--why", "seen"],
        &["explain", id],
        &["approvals", "export"],
        &["backup", target.to_str().unwrap()],
    ];
    commands
        .iter()
        .map(|command| (command.join(" "), home.run(command)))
        .collect()
}

#[track_caller]
fn all_refuse(home: &Home, id: &str, says: &str) {
    for (command, output) in readers(home, id) {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains(says), "{command}: {said}");
        assert!(
            output.stdout.is_empty(),
            "{command} prints {:?}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

fn last_id(home: &Home) -> String {
    home.payments(&[]).pop().unwrap()["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_journal_is_not_printed_whether_a_server_runs_or_not() {
    let mut bursar = twelve().await;
    let id = last_id(&bursar.home);
    // Beside the running server, which keeps its own file open: the name now leads to a copy that ends earlier.
    let (path, whole) = (segment(bursar.path()), entries(bursar.path()));
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    fs::write(&path, &whole[..ends[ends.len() / 2] + 1]).unwrap();
    all_refuse(&bursar.home, &id, "were signed");
    fs::rename(&aside, &path).unwrap();
    assert_eq!(bursar.payments().len(), 12);

    assert_eq!(bursar.stop(), 0);
    let home = bursar.kill();
    let whole = fs::read(&path).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    // After any whole line but the last.
    for end in &ends[..ends.len() - 1] {
        fs::write(&path, &whole[..end + 1]).unwrap();
        let listed = home.run(&["payments", "list", "--json"]);
        assert_eq!((listed.status.code(), listed.stdout.len()), (Some(1), 0));
    }
    all_refuse(&home, &id, "were signed");
    let Err((home, said)) = home.try_serve_by(std::process::Command::new(crate::support::bursar::bin())) else {
        panic!("it serves");
    };
    assert_eq!(said, "");
    fs::write(&path, &whole).unwrap();
    assert_eq!(home.payments(&[]).len(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_and_a_forged_journal_are_not_printed() {
    let mut bursar = twelve().await;
    let id = last_id(&bursar.home);
    assert_eq!(bursar.stop(), 0);
    let home = bursar.kill();
    let path = segment(home.path());
    let whole = fs::read(&path).unwrap();
    // An amount.
    let changed = String::from_utf8(whole.clone())
        .unwrap()
        .replacen("\"10000\"", "\"90000\"", 1);
    fs::write(&path, changed).unwrap();
    all_refuse(&home, &id, "journal is damaged");

    // Another history of the same length, which is a valid chain and was signed with another key.
    let mut other = twelve().await;
    assert_eq!(other.stop(), 0);
    let other = other.kill();
    fs::copy(segment(other.path()), &path).unwrap();
    all_refuse(&home, &id, "not the ones that were signed");
    for name in ["checkpoint", "checkpoints.log"] {
        fs::copy(
            other.path().join("audit").join(name),
            home.path().join("audit").join(name),
        )
        .unwrap();
    }
    all_refuse(&home, &id, "is not valid");
    // Without any checkpoint.
    for name in ["checkpoint", "checkpoints.log"] {
        fs::remove_file(home.path().join("audit").join(name)).unwrap();
    }
    all_refuse(&home, &id, "no signed checkpoint");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_key_it_is_printed_and_said_that_it_cannot_be_told() {
    let mut bursar = twelve().await;
    let id = last_id(&bursar.home);
    assert_eq!(bursar.stop(), 0);
    let home = bursar.kill();
    let key = fs::read(home.path().join("log.key")).unwrap();
    fs::remove_file(home.path().join("log.key")).unwrap();
    for (command, output) in readers(&home, &id) {
        if command.starts_with("payments resolve") {
            continue;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{command}: {said}");
        assert_eq!(
            said.matches("could not check whether entries").count(),
            1,
            "{command}: {said}"
        );
        assert!(said.contains("log.key"), "{command}: {said}");
        assert!(!output.stdout.is_empty() || command == "approvals export", "{command}");
    }
    let listed = home.run(&["payments", "list", "--json"]);
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 12);
    home_key(&home, &key);
    for (command, output) in readers(&home, &id) {
        if !command.starts_with("payments resolve") {
            assert_eq!(output.status.code(), Some(0), "{command}");
        }
    }
}

fn home_key(home: &Home, key: &[u8]) {
    bursar_home::write_new(&home.path().join("log.key"), key, bursar_home::Readers::Owner).unwrap();
}

/// The server writes and signs all the time; no reader takes that for damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_beside_a_busy_server_never_sees_damage() {
    let shop = shop().await;
    let bursar = setup().trust(&shop.ca_pem).start();
    let (agent, address) = (Agent::of(&bursar), shop.address);
    let buying = tokio::spawn(async move {
        for _ in 0..60 {
            assert_eq!(agent.get(address, "/").await.status, 200);
        }
    });
    let mut looks = 0;
    while !buying.is_finished() || looks < 5 {
        bursar.payments();
        looks += 1;
        tokio::task::yield_now().await;
    }
    buying.await.unwrap();
    assert_eq!(bursar.payments().len(), 60);
}

#[test]
fn a_new_directory_has_no_payments_and_that_is_no_damage() {
    let home = setup().home();
    let listed = home.run(&["payments", "list"]);
    assert_eq!(
        listed.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
}

/// As root, on a directory of another uid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_reads_the_directory_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return skip("files cannot be given away; run the tests as root");
    }
    let mut bursar = twelve().await;
    assert_eq!(bursar.stop(), 0);
    let home = bursar.kill();
    let given = std::process::Command::new("chown")
        .args(["-R", "65534"])
        .arg(home.path())
        .status();
    assert!(given.unwrap().success());
    assert_eq!(home.payments(&[]).len(), 12);
    // A key of a third user is none that the owner of the directory vouches for.
    let given = std::process::Command::new("chown")
        .arg("65533")
        .arg(home.path().join("log.key"))
        .status();
    assert!(given.unwrap().success());
    assert_eq!(home.run(&["payments", "list"]).status.code(), Some(3));
}

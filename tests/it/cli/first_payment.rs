//! The README's own first payment, typed as it stands there, and an auditor's look at what it left.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{DONE, stderr, stdout};
use crate::support::bursar::bin;
use crate::support::buyer::skip;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The block below `## Your own first payment`.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split("## Your own first payment").nth(1).unwrap();
    let block = section.lines().skip_while(|line| !line.starts_with("    bursar"));
    let commands: Vec<_> = block
        .take_while(|line| line.starts_with("    "))
        .map(|line| line.trim().to_owned())
        .collect();
    assert_eq!(commands.len(), 6, "{commands:?}");
    commands
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs the README's commands in one shell. Ports are others, so that tests can run side by side, and what the reader does by
/// waiting for a line is done here by looking for it.
fn type_them(folder: &Path) -> Output {
    let (seller, proxy) = (free_port(), free_port());
    let mut script = String::from("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n");
    let wait = "n=0; until grep -q ' on http' \"$LOG\"; do n=$((n+1)); [ $n -lt 600 ] || exit 9; sleep 0.05; done\n";
    for (number, command) in commands().iter().enumerate() {
        let command = command.split('#').next().unwrap().trim();
        match command.strip_suffix('&') {
            Some(server) => {
                script += &format!("LOG=log{number}; {server} > $LOG 2> $LOG.err &\n{wait}");
            }
            None => {
                script += &format!("{command}\n");
            }
        }
        if number == 0 {
            // The README's ports are the defaults.
            script += &format!(
                "sed -i 's/127.0.0.1:8402/127.0.0.1:{proxy}/; s/:8443/:{seller}/' D/bursar.toml\ngrep -q 127.0.0.1:{proxy} D/bursar.toml\n"
            );
        }
    }
    let script = script
        .replace("localhost:8443", &format!("localhost:{seller}"))
        .replace(
            "bursar sandbox --dir D",
            &format!("bursar sandbox --dir D --listen 127.0.0.1:{seller}"),
        );
    let path = format!(
        "{}:{}",
        Path::new(bin()).parent().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder)
        .env("PATH", path)
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .output()
        .unwrap()
}

#[test]
fn the_readmes_first_payment_pays() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("curl is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let done = type_them(folder.path());
    let text = stdout(&done);
    assert!(done.status.success(), "{text}\n{}", stderr(&done));
    assert!(
        text.contains("200 OK") && text.to_lowercase().contains("bursar-payment: "),
        "{text}"
    );
    let paid = text.lines().find(|line| line.contains("settled")).unwrap_or_default();
    assert!(paid.contains("0.01 USDC") && paid.contains("/v2/quote"), "{text}");
    verified(&folder.path().join("D"), DONE);
}

/// `docs/verify-log.py` on a data directory, with the key that its `log.key` belongs to.
fn verified(dir: &Path, code: i32) {
    let verify = |arguments: &[&str]| {
        Command::new("python3")
            .arg(root().join("docs/verify-log.py"))
            .arg(dir)
            .args(arguments)
            .output()
    };
    let Ok(shown) = verify(&["--show-key"]) else {
        return skip("python3 is not installed");
    };
    let key = stdout(&shown).trim().to_owned();
    let checked = verify(&["--key", &key]).unwrap();
    assert_eq!(
        checked.status.code(),
        Some(code),
        "{}{}",
        stdout(&checked),
        stderr(&checked)
    );
    let untrusted = verify(&[]).unwrap();
    assert_eq!(
        untrusted.status.code(),
        Some(3),
        "{}{}",
        stdout(&untrusted),
        stderr(&untrusted)
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match from.is_dir() {
            true => copy(&from, &to),
            false => {
                std::fs::write(&to, std::fs::read(&from).unwrap()).unwrap();
                Command::new("chmod").arg("600").arg(&to).status().unwrap();
            }
        }
    }
}

/// R89: what the version before wrote is listed, exported and verified by this one.
#[test]
fn a_directory_of_the_version_before_is_read_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let dir: PathBuf = folder.path().join("D");
    copy(&root().join("fixtures/ledger/v1"), &dir);
    let bursar = |arguments: &[&str]| {
        let mut command = Command::new(bin());
        command.args(arguments).output().unwrap()
    };
    let at = dir.to_str().unwrap();
    let listed = bursar(&["payments", "list", "--refused", "--json", "--dir", at]);
    let lines = stdout(&listed);
    assert_eq!(lines.matches("\"state\":\"settled\"").count(), 2, "{lines}");
    assert_eq!(lines.matches("agents.research.per_transaction").count(), 2, "{lines}");
    let exported = bursar(&["approvals", "export", "--dir", at]);
    let file = folder.path().join("approvals.jsonl");
    std::fs::write(&file, &exported.stdout).unwrap();
    let checked = bursar(&["approvals", "verify", file.to_str().unwrap()]);
    assert_eq!(
        checked.status.code(),
        Some(3),
        "undamaged, and nobody's signature: {}",
        stdout(&checked)
    );
    assert!(stdout(&checked).contains("denied"), "{}", stdout(&checked));
    verified(&dir, DONE);

    // One changed byte is found.
    let segment = dir.join("audit/seg-00000000000000000000.jsonl");
    let text = std::fs::read_to_string(&segment).unwrap();
    std::fs::write(&segment, text.replacen("\"count\":1", "\"count\":2", 1)).unwrap();
    let key = Command::new("python3")
        .arg(root().join("docs/verify-log.py"))
        .arg(&dir)
        .arg("--show-key")
        .output();
    let Ok(key) = key else {
        return skip("python3 does not run");
    };
    let checked = Command::new("python3")
        .arg(root().join("docs/verify-log.py"))
        .arg(&dir)
        .args(["--key", stdout(&key).trim()])
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(1), "{}", stdout(&checked));
}

#[test]
fn every_code_can_be_explained() {
    let explain = |arguments: &[&str]| {
        let mut command = Command::new(bin());
        command.arg("explain-code").args(arguments).output().unwrap()
    };
    let text = stdout(&explain(&["urn:bursar:problem:over-limit"]));
    assert!(
        text.starts_with("over-limit (403): The limits do not allow this payment\n"),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&stdout(&explain(&["asset-unknown", "--json"]))).unwrap();
    assert_eq!(
        (&json["code"], &json["status"]),
        (&"asset-unknown".into(), &serde_json::Value::Null)
    );
    let all = stdout(&explain(&["--all"]));
    assert!(
        all.lines().count() > 100 && all.lines().all(|line| line.ends_with('.')),
        "{all}"
    );
    let unknown = explain(&["over-limits"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        stderr(&unknown).contains("did you mean over-limit?"),
        "{}",
        stderr(&unknown)
    );
}

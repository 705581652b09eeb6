//! The commands as people and scripts use them: what they print, where, and with which exit code (R53).

mod agents;
mod ca;
mod first_payment;
mod hostile_text;
mod init;
mod limits;
mod listing;
mod ownership;
mod payments;
mod people;
mod quote;
mod sandbox;
mod serve;
mod spend;
mod usage;
mod wallet;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Output};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, bursar, eventually, setup};
use crate::support::origin::{Origin, answer};
use crate::support::seller;

const DONE: i32 = 0;
const NEGATIVE: i32 = 1;
const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 5;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that must succeed.
fn done(dir: &Path, arguments: &[&str]) -> Output {
    let output = bursar(dir, arguments);
    assert_eq!(output.status.code(), Some(DONE), "{arguments:?} {output:?}");
    output
}

/// Runs a command that must fail with `code`, say `words` on stderr, and nothing on stdout.
fn fails(dir: &Path, arguments: &[&str], code: i32, words: &[&str]) -> String {
    let output = bursar(dir, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?} {output:?}");
    let said = stderr(&output);
    for word in words {
        assert!(said.contains(word), "{arguments:?} does not say {word:?}:\n{said}");
    }
    assert_eq!(stdout(&output), "", "{arguments:?}");
    said
}

fn json_lines(output: &Output) -> Vec<Value> {
    stdout(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .mode()
        & 0o7777
}

/// Kills a child process that a failed test leaves behind.
struct Ended(pub(super) Child);

impl Ended {
    fn signal(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_raw(self.0.id().cast_signed()).unwrap(), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `/paid` gives a receipt, `/unclear` none, `/dear` costs more than the limits allow.
async fn shop() -> Origin {
    Origin::https(|request| async move {
        match (request.target.as_str(), request.is_paid()) {
            ("/dear", _) => seller::asks("2000000"),
            (_, false) => seller::asks("10000"),
            ("/unclear", true) => answer(200, &[], "no receipt"),
            (_, true) => seller::sold("goods"),
        }
    })
    .await
}

/// A server that paid twice for research, once for writer, and refused once.
async fn with_payments() -> (Origin, Bursar) {
    let origin = shop().await;
    let limits = "timezone = \"UTC\"\n[groups.eng]\nday = \"50.00\"\n[agents.research]\nper_transaction = \"1.00\"\nday = \"5.00\"\n\
                  [agents.writer]\ngroup = \"eng\"\nday = \"5.00\"\n";
    let bursar = setup().trust(&origin.ca_pem).limits(limits).start();
    let token = stdout(&done(bursar.path(), &["agents", "add", "writer"]));
    let research = Agent::of(&bursar);
    let writer = Agent {
        login: format!("writer:{}", token.trim()),
        ..Agent::of(&bursar)
    };
    assert_eq!(research.get(origin.address, "/paid?secret=1").await.status, 200);
    assert_eq!(research.get(origin.address, "/unclear").await.status, 200);
    assert_eq!(writer.get(origin.address, "/paid").await.status, 200);
    assert_eq!(research.get(origin.address, "/dear").await.status, 403);
    // Agents do not wait for the record of how their request ended.
    let recorded = || {
        let entries = bursar.journal();
        let count = |ev: &str| entries.iter().filter(|entry| entry["ev"] == ev).count();
        let ends = (count("pay.settled"), count("pay.unknown"), count("pay.refused"));
        (ends == (2, 1, 1)).then_some(())
    };
    eventually("the end of each request", recorded).await;
    (origin, bursar)
}

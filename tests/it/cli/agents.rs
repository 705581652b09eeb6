//! `bursar agents`, against a running server.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{NEGATIVE, USAGE, done, fails, json_lines, stderr, stdout};
use crate::support::agent::Agent;
use crate::support::bursar::{bin, setup};

#[tokio::test]
async fn agents_come_go_and_come_back() {
    let bursar = setup().start();
    let dir = bursar.path().to_owned();
    let added = done(&dir, &["agents", "add", "writer"]);
    let first = stdout(&added).trim().to_owned();
    assert!(
        first.starts_with("bur_") && stdout(&added).lines().count() == 1,
        "{added:?}"
    );
    // Only finance can allow it to spend.
    assert!(stderr(&added).contains("[agents.writer]"), "{added:?}");
    assert!(!stderr(&added).contains(&first));
    fails(
        &dir,
        &["agents", "add", "writer"],
        USAGE,
        &["bursar agents rotate writer"],
    );
    let said = fails(&dir, &["agents", "add", "Writer"], USAGE, &["\"Writer\"", "lower-case"]);
    assert_eq!(said.lines().count(), 1);

    let enters = |token: &str| {
        let agent = Agent {
            login: format!("writer:{token}"),
            ..Agent::of(&bursar)
        };
        async move { agent.connect_answer("localhost:1").await.1.starts_with("HTTP/1.1 200") }
    };
    assert!(enters(&first).await, "added while the server runs");

    let second = stdout(&done(&dir, &["agents", "rotate", "writer"])).trim().to_owned();
    assert_ne!(first, second);
    assert!(enters(&second).await);
    until(async || !enters(&first).await, "the old token ends").await;

    let revoked = done(&dir, &["agents", "revoke", "writer"]);
    assert!(stderr(&revoked).contains("Revoked writer"), "{revoked:?}");
    until(async || !enters(&second).await, "the revoked token ends").await;
    // `run` must not readmit it.
    fails(
        &dir,
        &["run", "--dir", dir.to_str().unwrap(), "--agent", "writer", "--", "true"],
        125,
        &["writer is revoked", "bursar agents rotate writer"],
    );
    fails(&dir, &["env", "--agent", "writer"], USAGE, &["writer is revoked"]);

    let listed = json_lines(&done(&dir, &["agents", "list", "--json"]));
    let names: Vec<&str> = listed.iter().map(|agent| agent["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["research", "writer"]);
    assert_eq!(listed[0]["tokens"][0]["purpose"], "own");
    assert!(listed[0]["tokens"][0]["expires"].is_null());
    assert_eq!(listed[1]["tokens"], Value::Array(vec![]));
    for agent in &listed {
        agent["id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap();
        agent["created"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }
    let table = stdout(&done(&dir, &["agents", "list"]));
    assert!(table.lines().nth(1).unwrap().contains("revoked"), "{table}");

    let third = stdout(&done(&dir, &["agents", "rotate", "writer"])).trim().to_owned();
    assert!(enters(&third).await);
    for unknown in ["rotate", "revoke"] {
        fails(
            &dir,
            &["agents", unknown, "nobody"],
            USAGE,
            &["bursar agents add nobody"],
        );
    }
}

async fn until(mut is_so: impl AsyncFnMut() -> bool, what: &str) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(30), "not in time: {what}");
    }
}

#[test]
fn a_token_that_cannot_be_printed_is_an_error_and_not_a_panic() {
    let home = setup().home();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(bin());
    let output = command
        .args(["agents", "rotate", "research", "--dir"])
        .arg(home.path())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(NEGATIVE));
    assert!(stderr(&output).contains("cannot write to stdout"), "{output:?}");
}

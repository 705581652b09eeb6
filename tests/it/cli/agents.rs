//! `bursar agents`, against a running server.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

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

#[tokio::test]
async fn tokens_are_listed_and_end_one_by_one() {
    let bursar = setup().start();
    let dir = bursar.path().to_owned();
    let own = bursar.home.token.clone();
    let mint = || {
        let printed = done(&dir, &["env", "--agent", "research", "--format", "dotenv"]);
        let after = stdout(&printed).split_once("research:").unwrap().1.to_owned();
        after.split('@').next().unwrap().to_owned()
    };
    let (first, second) = (mint(), mint());
    done(&dir, &["agents", "add", "writer"]);

    let listed = done(&dir, &["agents", "tokens", "research", "--json"]);
    for token in [&own, &first, &second] {
        assert!(!stdout(&listed).contains(&token[4..]), "a token was listed");
    }
    let tokens = json_lines(&listed);
    let purposes: Vec<&str> = tokens.iter().map(|token| token["purpose"].as_str().unwrap()).collect();
    assert_eq!(purposes, ["own", "env", "env"]);
    let mut members: Vec<&String> = tokens[0].as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["agent", "created", "expires", "id", "purpose"]);
    // The id is part of the hash, which is not a secret.
    let id = tokens[1]["id"].as_str().unwrap();
    assert!(sha256(&first).starts_with(id) && id.len() == 12, "{id}");
    assert_eq!(json_lines(&done(&dir, &["agents", "tokens", "--json"])).len(), 4);
    assert_eq!(
        json_lines(&done(&dir, &["agents", "list", "--json"]))[0]["tokens"][1]["id"],
        id
    );
    let table = stdout(&done(&dir, &["agents", "tokens"]));
    assert!(
        table.lines().nth(1).unwrap().contains(&format!("{id} env  since")),
        "{table}"
    );
    assert!(table.lines().next().unwrap().contains("until it is revoked"), "{table}");

    let enters = |token: &str| {
        let agent = Agent {
            login: format!("research:{token}"),
            ..Agent::of(&bursar)
        };
        async move { agent.connect_answer("localhost:1").await.1.starts_with("HTTP/1.1 200") }
    };
    assert!(enters(&first).await);
    let revoked = done(&dir, &["agents", "revoke", "research", "--token", id]);
    assert!(
        stderr(&revoked).contains(&format!("Revoked the token {id} of research")),
        "{revoked:?}"
    );
    until(async || !enters(&first).await, "the revoked token ends").await;
    assert!(enters(&second).await && enters(&own).await, "the others stay valid");

    for (token, why) in [
        (id, "no valid token with the id"),
        ("12", "12 hexadecimal digits"),
        (first.as_str(), "12 hexadecimal digits"),
    ] {
        let arguments = ["agents", "revoke", "research", "--token", token];
        fails(&dir, &arguments, USAGE, &[why, "bursar agents tokens"]);
    }
    // Not by the name of another agent.
    let other = tokens[2]["id"].as_str().unwrap();
    fails(
        &dir,
        &["agents", "revoke", "writer", "--token", other],
        USAGE,
        &["writer has no valid token"],
    );
    fails(
        &dir,
        &["agents", "tokens", "nobody"],
        USAGE,
        &["bursar agents add nobody"],
    );
    assert!(enters(&second).await);

    let own_id = tokens[0]["id"].as_str().unwrap();
    done(&dir, &["agents", "revoke", "research", "--token", own_id]);
    until(async || !enters(&own).await, "the own token ends").await;
    let said = fails(
        &dir,
        &["env", "--agent", "research"],
        USAGE,
        &["bursar agents rotate research"],
    );
    assert!(said.contains("research has no own token"), "{said}");
    assert!(enters(&second).await);
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
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

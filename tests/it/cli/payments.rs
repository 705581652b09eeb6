//! `bursar payments`: what R59 guarantees to scripts, and how the operator resolves payments.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::{DONE, NEGATIVE, USAGE, done, fails, json_lines, stderr, stdout, with_payments};
use crate::support::agent::Agent;
use crate::support::bursar::bin;
use crate::support::seller;

/// The members of R59, in order.
const MEMBERS: [&str; 25] = [
    "id",
    "state",
    "by",
    "agent",
    "group",
    "rail",
    "scheme",
    "network",
    "merchant",
    "resource",
    "asset",
    "symbol",
    "amount",
    "amount_decimal",
    "usd",
    "taken",
    "payee",
    "nonce",
    "valid_before",
    "tx",
    "reason",
    "approval",
    "disputed",
    "created_at",
    "updated_at",
];

fn states(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["state"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn payments_are_listed_alike_with_and_without_a_server() {
    let (_origin, mut bursar) = with_payments().await;
    fn list<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["payments", "list", "--json"], more].concat()
    }
    let running = json_lines(&done(bursar.path(), &list(&[])));
    assert_eq!(states(&running), ["settled", "unknown", "settled"]);
    let text = stdout(&done(bursar.path(), &list(&[])));
    for line in text.lines() {
        assert_eq!(members(line), MEMBERS, "{line}");
    }
    assert!(!text.contains("secret"), "no query in the ledger: {text}");
    assert_shapes(&running);

    let filtered = |more: &[&str]| json_lines(&done(bursar.path(), &list(more)));
    assert_eq!(states(&filtered(&["--state", "unknown"])), ["unknown"]);
    assert_eq!(filtered(&["--agent", "writer"]), running[2..]);
    assert_eq!(filtered(&["--limit", "1"]), running[2..], "the newest");
    assert_eq!(
        filtered(&["--since", running[1]["created_at"].as_str().unwrap()]),
        running[1..]
    );
    assert_eq!(filtered(&["--since", "2999-01-01"]), Vec::<Value>::new());
    assert_eq!(filtered(&["--since", "2026-01-01"]), running);
    assert_eq!(filtered(&["--agent", "nobody"]), Vec::<Value>::new());

    let with_refusals = filtered(&["--refused"]);
    assert_eq!(with_refusals[..3], running);
    let refusal = &with_refusals[3];
    assert_eq!(refusal["state"], "refused");
    assert_eq!(refusal["rule"], "agents.research.per_transaction");
    assert_eq!(refusal["reason"], "over-limit");
    assert_eq!((&refusal["usd"], &refusal["count"]), (&"2.00".into(), &1.into()));
    assert_eq!(filtered(&["--refused", "--agent", "writer"]), running[2..]);

    let table = stdout(&done(bursar.path(), &["payments", "list", "--refused"]));
    for part in [
        "settled",
        "unknown",
        "0.01 USDC",
        "https://localhost:",
        "/paid\n",
        "refused",
        "2.00 USD",
    ] {
        assert!(table.contains(part), "{part} is missing:\n{table}");
    }

    let id = running[0]["id"].as_str().unwrap();
    assert_eq!(
        json_lines(&done(bursar.path(), &["payments", "show", id, "--json"])),
        running[..1]
    );
    let sheet = stdout(&done(bursar.path(), &["payments", "show", id]));
    assert!(sheet.contains(seller::TX) && sheet.contains("settled"), "{sheet}");

    assert_eq!(bursar.stop(), DONE);
    assert_eq!(json_lines(&done(bursar.path(), &list(&[]))), running);
    // R57: readers replay the journal, so they do without the index.
    std::fs::remove_dir_all(bursar.path().join("index")).unwrap();
    assert_eq!(json_lines(&done(bursar.path(), &list(&["--refused"]))), with_refusals);
}

/// The keys of one JSON object, in their order in the text.
fn members(line: &str) -> Vec<String> {
    struct Keys(Vec<String>);
    impl<'de> serde::Deserialize<'de> for Keys {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Keys;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                    let mut keys = Vec::new();
                    while let Some((key, _)) = map.next_entry::<String, Value>()? {
                        keys.push(key);
                    }
                    Ok(Keys(keys))
                }
            }
            deserializer.deserialize_map(Visitor)
        }
    }
    serde_json::from_str::<Keys>(line).unwrap().0
}

fn assert_shapes(payments: &[Value]) {
    for payment in payments {
        for name in MEMBERS {
            let value = &payment[name];
            assert!(value.is_string() || value.is_null(), "{name}: {value}");
        }
        for time in ["created_at", "updated_at", "valid_before"] {
            let text = payment[time].as_str().unwrap();
            assert!(text.ends_with('Z'), "{time} is not UTC: {text}");
            text.parse::<jiff::Timestamp>().unwrap();
        }
        assert_eq!(payment["amount"], "10000");
        assert_eq!(payment["amount_decimal"], "0.01");
        assert_eq!(payment["usd"], "0.01");
        assert_eq!(
            (&payment["rail"], &payment["scheme"]),
            (&"x402".into(), &"exact".into())
        );
        assert_eq!(payment["network"], "eip155:84532");
        assert_eq!(payment["symbol"], "USDC");
        assert_eq!(payment["merchant"], "localhost");
        assert_eq!(payment["payee"], seller::PAYEE.to_lowercase());
        assert_eq!(payment["nonce"].as_str().unwrap().len(), 2 + 64);
        assert!(payment["approval"].is_null());
    }
    assert_eq!(
        (&payments[0]["group"], &payments[2]["group"]),
        (&Value::Null, &"eng".into())
    );
    assert_eq!(
        (&payments[0]["tx"], &payments[1]["tx"]),
        (&seller::TX.into(), &Value::Null)
    );
    assert_eq!(
        (&payments[0]["by"], &payments[1]["by"]),
        (&"merchant".into(), &Value::Null)
    );
    assert_eq!(
        (&payments[0]["reason"], &payments[1]["reason"]),
        (&Value::Null, &"no-receipt".into())
    );
}

#[tokio::test]
async fn an_unknown_payment_is_resolved_by_hand_with_and_without_a_server() {
    let (origin, mut bursar) = with_payments().await;
    assert_eq!(Agent::of(&bursar).get(origin.address, "/unclear").await.status, 200);
    let ids: Vec<String> = bursar
        .payments()
        .iter()
        .map(|payment| payment["id"].as_str().unwrap().to_owned())
        .collect();
    let [settled, first, _, second] = ids.as_slice() else {
        panic!("{ids:?}")
    };
    let nobody = "01a1f8b7-7082-7a04-a377-0dc81aefda02";
    let refuses_nonsense = |dir: &Path| {
        fails(
            dir,
            &["payments", "resolve", settled, "--expired", "--why", "w"],
            NEGATIVE,
            &["is already settled", "outcome is unknown"],
        );
        fails(
            dir,
            &["payments", "resolve", nobody, "--expired", "--why", "w"],
            NEGATIVE,
            &[nobody, "payments list"],
        );
        fails(
            dir,
            &["payments", "resolve", "nonsense", "--expired", "--why", "w"],
            USAGE,
            &["nonsense"],
        );
        fails(dir, &["payments", "show", nobody], NEGATIVE, &[nobody, "payments list"]);
        fails(
            dir,
            &["payments", "resolve", first, "--why", "w"],
            USAGE,
            &["--settled", "--expired"],
        );
        fails(
            dir,
            &["payments", "resolve", first, "--settled", "--expired", "--why", "w"],
            USAGE,
            &["cannot be used with"],
        );
        fails(dir, &["payments", "resolve", first, "--settled"], USAGE, &["--why"]);
        fails(
            dir,
            &["payments", "resolve", first, "--settled", "--why", " "],
            USAGE,
            &["--why is empty"],
        );
    };
    refuses_nonsense(bursar.path());
    assert_eq!(bursar.states(), ["settled", "unknown", "settled", "unknown"]);

    let closed = resolve(bursar.path(), first, "--expired", "the seller never used it");
    assert_eq!(
        stdout(&closed),
        format!("Payment {first} is now expired; its amount is no longer counted.\n")
    );
    // The credential is valid for another minute; anyone who says "expired" should know.
    assert!(stderr(&closed).contains("can still cash it until"), "{closed:?}");
    assert_eq!(bursar.states(), ["settled", "expired", "settled", "unknown"]);
    let payment = bursar.payments().remove(1);
    assert_eq!(
        (&payment["by"], &payment["reason"]),
        (&"operator".into(), &"the seller never used it".into())
    );
    fails(
        bursar.path(),
        &["payments", "resolve", first, "--settled", "--why", "w"],
        NEGATIVE,
        &["is already expired (the seller never used it)"],
    );

    assert_eq!(bursar.stop(), DONE);
    let closed = resolve(bursar.path(), second, "--settled", "the explorer shows it");
    assert_eq!(stdout(&closed), format!("Payment {second} is now settled.\n"));
    assert_eq!(bursar.states(), ["settled", "expired", "settled", "settled"]);
    // The reasons are in the journal, with who gave them.
    let journal = journal(bursar.path());
    let actions: Vec<&Value> = journal.iter().filter(|entry| entry["ev"] == "admin.action").collect();
    assert_eq!(actions.len(), 2, "{journal:?}");
    let uid = format!("uid:{}", rustix::process::getuid().as_raw());
    assert!(
        actions.iter().all(|action| action.to_string().contains(&uid)),
        "{actions:?}"
    );
}

fn resolve(dir: &Path, id: &str, resolution: &str, why: &str) -> Output {
    done(dir, &["payments", "resolve", id, resolution, "--why", why])
}

fn journal(dir: &Path) -> Vec<Value> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let lines = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect::<Vec<Value>>()
    };
    files
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "jsonl"))
        .flat_map(lines)
        .collect()
}

#[tokio::test]
async fn a_reader_that_goes_away_is_not_an_error() {
    let (_origin, bursar) = with_payments().await;
    for arguments in [["payments", "list"], ["agents", "list"], ["ca", "show"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(bin());
        let output = command
            .args(arguments)
            .arg("--dir")
            .arg(bursar.path())
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (Some(DONE), ""),
            "{arguments:?}"
        );
    }
}

#[tokio::test]
async fn a_damaged_journal_is_named_and_not_read_past() {
    let (_origin, mut bursar) = with_payments().await;
    assert_eq!(bursar.stop(), DONE);
    let audit = bursar.path().join("audit");
    let file = std::fs::read_dir(&audit).unwrap().map(|entry| entry.unwrap().path());
    let file = file
        .filter(|file| file.extension().is_some_and(|end| end == "jsonl"))
        .min()
        .unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"10000\"", "\"10001\"", 1)).unwrap();
    let said = fails(
        bursar.path(),
        &["payments", "list"],
        NEGATIVE,
        &[&file.display().to_string()],
    );
    assert!(said.lines().count() <= 3, "{said}");
    // With an index, a start reads the entries under a checkpoint in the background; without one it reads them at once.
    std::fs::remove_dir_all(bursar.path().join("index")).unwrap();
    fails(bursar.path(), &["serve"], NEGATIVE, &[&file.display().to_string()]);
}

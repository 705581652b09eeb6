//! The commands as people and scripts use them: what they print, where, and with which exit code (Ruling 53).

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, WALLET, bin, bursar, setup};
use crate::support::buyer::skip;
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

/// Ends a child that a failed test leaves behind.
struct Ended(Child);

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

// ---- init

#[test]
fn init_makes_everything_for_one_user() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("new/bursar");
    let said = stdout(&done(&dir, &["init"]));
    assert!(said.starts_with(&format!("{} is ready.\n", dir.display())), "{said}");
    assert!(
        said.contains("nothing can be paid") && said.contains("[wallet.evm]"),
        "{said}"
    );
    for folder in ["", "audit", "index", "private", "run"] {
        assert_eq!(mode(&dir.join(folder)), 0o700, "{folder}");
    }
    for file in ["bursar.toml", "limits.toml", "agents.toml", "ca.key", "log.key"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    // Agents under other uids must be able to read these.
    for file in ["ca.pem", "bundle.pem"] {
        assert_eq!(mode(&dir.join(file)), 0o644, "{file}");
    }
    assert!(!dir.join("wallet.key").exists());

    // What init wrote is what the other commands take.
    assert!(stderr(&done(&dir, &["agents", "list"])).contains("bursar agents add NAME"));
    assert!(stderr(&done(&dir, &["payments", "list"])).contains("No payments"));
    done(&dir, &["ca", "show"]);
}

#[test]
fn init_with_a_wallet_says_where_it_is_and_to_back_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let said = stdout(&done(dir.path(), &["init", "--wallet"]));
    let address = said.lines().find_map(|line| line.strip_prefix("Wallet ")).unwrap();
    assert!(said.contains("Back this up") && said.contains("wallet.key"), "{said}");
    assert_eq!(mode(&dir.path().join("wallet.key")), 0o600);
    let shown = done(dir.path(), &["wallet", "show"]);
    assert_eq!(stdout(&shown).lines().next(), Some(address));
    assert!(stderr(&shown).contains("[networks]"), "{shown:?}");
    let key = std::fs::read_to_string(dir.path().join("wallet.key")).unwrap();
    assert!(!said.contains(key.trim()) && !said.contains(key.trim().trim_start_matches("0x")));
}

#[test]
fn init_overwrites_nothing() {
    for file in [
        "bursar.toml",
        "limits.toml",
        "agents.toml",
        "ca.pem",
        "ca.key",
        "log.key",
        "wallet.key",
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(file), "mine").unwrap();
        fails(
            dir.path(),
            &["init", "--wallet"],
            USAGE,
            &[file, "not overwritten", "--dir"],
        );
        assert_eq!(std::fs::read(dir.path().join(file)).unwrap(), b"mine");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{file}");
    }
}

#[test]
fn the_directory_comes_from_the_variable_when_no_flag_names_it() {
    let outer = tempfile::tempdir().unwrap();
    let (by_variable, by_xdg) = (outer.path().join("variable"), outer.path().join("xdg"));
    let init = |variables: &[(&str, &Path)]| {
        let mut command = Command::new(bin());
        command.arg("init").env_remove("BURSAR_DIR").env_remove("XDG_DATA_HOME");
        for (name, value) in variables {
            command.env(name, value);
        }
        command.output().unwrap().status.code()
    };
    assert_eq!(
        init(&[("BURSAR_DIR", &by_variable), ("XDG_DATA_HOME", &by_xdg)]),
        Some(DONE)
    );
    assert!(by_variable.join("bursar.toml").is_file() && !by_xdg.exists());
    assert_eq!(init(&[("XDG_DATA_HOME", &by_xdg)]), Some(DONE));
    assert!(by_xdg.join("bursar/bursar.toml").is_file());
    let mut nowhere = Command::new(bin());
    let nowhere = nowhere.args(["agents", "list"]).env_clear().output().unwrap();
    assert_eq!(nowhere.status.code(), Some(USAGE));
    assert!(stderr(&nowhere).contains("--dir"), "{nowhere:?}");
}

#[test]
fn every_command_on_an_empty_directory_names_init() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().display().to_string();
    let init = format!("bursar init --dir {root}");
    for command in [
        "serve",
        "env --agent a",
        "agents list",
        "agents add a",
        "payments list",
        "payments show 01a1f8b7-7082-7a04-a377-0dc81aefda02",
        "ca show",
        "ca rotate",
        "wallet show",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        fails(dir.path(), &arguments, USAGE, &[&init]);
    }
    fails(
        dir.path(),
        &["run", "--dir", &root, "--agent", "a", "--", "true"],
        125,
        &[&init],
    );
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "reading made nothing"
    );
}

// ---- agents

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
    // Nobody but finance lets it spend.
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
    assert!(stderr(&revoked).contains("writer is revoked"), "{revoked:?}");
    until(async || !enters(&second).await, "the revoked token ends").await;
    // `run` must not be a way back in.
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

// ---- payments

/// The members of Ruling 59, in order.
const MEMBERS: [&str; 23] = [
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
    "payee",
    "nonce",
    "valid_before",
    "tx",
    "reason",
    "approval",
    "created_at",
    "updated_at",
];

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

/// A server that bought twice for research, once for writer, and refused once.
async fn books() -> (Origin, Bursar) {
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
    (origin, bursar)
}

fn states(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["state"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn payments_are_listed_alike_with_and_without_a_server() {
    let (_origin, mut bursar) = books().await;
    fn list<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["payments", "list", "--json"], more].concat()
    }
    let running = json_lines(&done(bursar.path(), &list(&[])));
    assert_eq!(states(&running), ["settled", "unknown", "settled"]);
    let text = stdout(&done(bursar.path(), &list(&[])));
    for line in text.lines() {
        assert_eq!(members(line), MEMBERS, "{line}");
    }
    assert!(!text.contains("secret"), "no query in the books: {text}");
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
        "https://localhost/paid",
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
    // Ruling 57: readers replay the journal, so they do without the index.
    std::fs::remove_dir_all(bursar.path().join("index")).unwrap();
    assert_eq!(json_lines(&done(bursar.path(), &list(&["--refused"]))), with_refusals);
}

/// The keys of one JSON object, in the order in which they stand there.
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
async fn a_doubt_is_closed_by_hand_with_and_without_a_server() {
    let (origin, mut bursar) = books().await;
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
            &["is settled", "in doubt"],
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
    assert_eq!(stdout(&closed), format!("{first} is expired and counts no more.\n"));
    // The credential is valid for a minute more; whoever says "expired" should know.
    assert!(stderr(&closed).contains("can cash it until"), "{closed:?}");
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
        &["is expired (the seller never used it) already"],
    );

    assert_eq!(bursar.stop(), DONE);
    let closed = resolve(bursar.path(), second, "--settled", "the explorer shows it");
    assert_eq!(stdout(&closed), format!("{second} is settled.\n"));
    assert_eq!(bursar.states(), ["settled", "expired", "settled", "settled"]);
    // The words are in the journal, with who said them.
    let journal = journal(bursar.path());
    let actions: Vec<&Value> = journal.iter().filter(|entry| entry["ev"] == "admin.action").collect();
    assert_eq!(actions.len(), 2, "{journal:?}");
    let uid = format!("uid:{}", rustix::process::getuid().as_raw());
    assert!(
        actions.iter().all(|action| action.to_string().contains(&uid)),
        "{actions:?}"
    );
}

fn resolve(dir: &Path, id: &str, word: &str, why: &str) -> Output {
    done(dir, &["payments", "resolve", id, word, "--why", why])
}

fn journal(dir: &Path) -> Vec<Value> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let lines = |file: &std::path::PathBuf| {
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
async fn a_reader_that_goes_away_is_no_error() {
    let (_origin, bursar) = books().await;
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
async fn damaged_books_are_named_and_not_read_past() {
    let (_origin, mut bursar) = books().await;
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
    fails(bursar.path(), &["serve"], NEGATIVE, &[&file.display().to_string()]);
}

// ---- ca

/// `ca.pem` with another end; a root's own signature is not looked at by those who trust it.
fn end_ca(dir: &Path, at: jiff::Timestamp) {
    let path = dir.join("ca.pem");
    let pem = std::fs::read_to_string(&path).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut der = STANDARD.decode(body).unwrap();
    // Two UTCTimes, the second is notAfter (RFC 5280 §4.1.2.5).
    let times: Vec<usize> = (0..der.len() - 15)
        .filter(|&at| der[at..at + 2] == [0x17, 13] && der[at + 14] == b'Z')
        .collect();
    let end = at.strftime("%y%m%d%H%M%SZ").to_string();
    der[times[1] + 2..times[1] + 15].copy_from_slice(end.as_bytes());
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        STANDARD.encode(der)
    );
    std::fs::write(path, pem).unwrap();
}

#[tokio::test]
async fn a_ca_that_ends_is_announced_and_rotated() {
    let origin = shop().await;
    let home = setup().trust(&origin.ca_pem).home();
    let dir = home.path().to_owned();
    let shown = json_lines(&done(&dir, &["ca", "show", "--json"])).remove(0);
    assert_eq!(shown["certificate"], dir.join("ca.pem").display().to_string());
    assert!((363..=365).contains(&shown["days_left"].as_i64().unwrap()), "{shown}");
    let text = done(&dir, &["ca", "show"]);
    assert!(
        stdout(&text).contains(shown["sha256"].as_str().unwrap()) && stderr(&text).is_empty(),
        "{text:?}"
    );
    let openssl = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(dir.join("ca.pem"))
        .output();
    match openssl {
        Ok(openssl) => assert!(
            stdout(&openssl).contains(shown["sha256"].as_str().unwrap()),
            "{openssl:?}"
        ),
        Err(_) => skip("openssl is not installed"),
    }

    end_ca(&dir, jiff::Timestamp::now() + jiff::SignedDuration::from_hours(29 * 24));
    assert!(stderr(&done(&dir, &["ca", "show"])).contains("bursar ca rotate"));
    let mut bursar = home.serve();
    assert!(bursar.log().contains("the CA ends soon"), "{}", bursar.log());
    assert_eq!(bursar.stop(), DONE);

    end_ca(&dir, jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1));
    fails(&dir, &["serve"], USAGE, &["ca.pem ended on", "bursar ca rotate"]);
    fails(
        &dir,
        &["ca", "show"],
        NEGATIVE,
        &["ca.pem ended on", "bursar ca rotate"],
    );

    let old = std::fs::read_to_string(dir.join("ca.pem")).unwrap();
    let rotated = done(&dir, &["ca", "rotate"]);
    assert!(stderr(&rotated).contains("Restart the server"), "{rotated:?}");
    let new = std::fs::read_to_string(dir.join("ca.pem")).unwrap();
    assert_ne!(old, new);
    let bundle = std::fs::read_to_string(dir.join("bundle.pem")).unwrap();
    assert!(bundle.starts_with(&new), "the bundle begins with our certificate");
    assert!(
        bundle.matches("BEGIN CERTIFICATE").count() > 100,
        "the public roots are still there"
    );
    assert_eq!((mode(&dir.join("ca.key")), mode(&dir.join("ca.pem"))), (0o600, 0o644));
    assert!(!stdout(&done(&dir, &["ca", "show"])).contains(shown["sha256"].as_str().unwrap()));

    let bursar = bursar.kill().serve();
    assert!(!bursar.log().contains("the CA ends soon"));
    let page = Agent::of(&bursar).get(origin.address, "/paid").await;
    assert_eq!(page.status, 200, "an agent that trusts the new ca.pem");
}

// ---- wallet

#[test]
fn the_wallet_comes_from_variable_file_or_keystore() {
    let home = setup().home();
    let dir = home.path();
    let first_line = |output: Output| stdout(&output).lines().next().unwrap().to_owned();
    assert_eq!(first_line(done(dir, &["wallet", "show"])), WALLET);
    let line = json_lines(&done(dir, &["wallet", "show", "--json"])).remove(0);
    assert_eq!(
        (&line["address"], &line["symbol"]),
        (&WALLET.to_lowercase().into(), &"USDC".into())
    );
    assert!(
        line["atoms"].is_null() && line["error"].as_str().unwrap().contains("no rpc"),
        "{line}"
    );
    let mut unset = Command::new(bin());
    let unset = unset
        .args(["wallet", "show", "--dir"])
        .arg(dir)
        .env_remove("BURSAR_TEST_WALLET")
        .output()
        .unwrap();
    assert_eq!(unset.status.code(), Some(USAGE));
    assert!(stderr(&unset).contains("BURSAR_TEST_WALLET is not set"), "{unset:?}");

    let configure = |wallet: &str| {
        let networks = "[networks.\"eip155:84532\"]\nrpc = []\n";
        std::fs::write(dir.join("bursar.toml"), format!("{wallet}{networks}")).unwrap();
    };
    configure("");
    fails(
        dir,
        &["wallet", "show"],
        USAGE,
        &["bursar.toml names no wallet", "[wallet.evm]", "file:PATH"],
    );

    let key = dir.join("my.key");
    configure("[wallet.evm]\nkey = \"file:my.key\"\n");
    fails(dir, &["wallet", "show"], USAGE, &["my.key", "No such file"]);
    write_private(&key, crate::support::bursar::WALLET_KEY);
    assert_eq!(first_line(done(dir, &["wallet", "show"])), WALLET);
    write_private(&key, "zz");
    let said = fails(
        dir,
        &["wallet", "show"],
        USAGE,
        &["[wallet.evm]", "file:my.key", "64 hexadecimal digits"],
    );
    assert!(!said.contains("zz"));
    fails(dir, &["serve"], USAGE, &["[wallet.evm]", "file:my.key"]);
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fails(
        dir,
        &["wallet", "show"],
        USAGE,
        &["my.key can be read by other users", "chmod 600"],
    );

    // The example of the Web3 Secret Storage Definition, as published.
    const KEYSTORE: &str = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},"ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt","kdfparams":{"dklen":32,"n":262144,"p":8,"r":1,"salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},"mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
    configure("[wallet.evm]\nkey = \"keystore:wallet.json\"\npassword = \"file:password\"\n");
    write_private(&dir.join("wallet.json"), KEYSTORE);
    write_private(&dir.join("password"), "testpassword\n");
    assert_eq!(
        first_line(done(dir, &["wallet", "show"])),
        "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b"
    );
    write_private(&dir.join("password"), "wrong\n");
    fails(
        dir,
        &["wallet", "show"],
        USAGE,
        &["keystore:", "wallet.json", "password"],
    );
}

fn write_private(path: &Path, text: &str) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

// ---- serve

#[test]
fn a_second_server_on_a_directory_is_turned_away() {
    let mut bursar = setup().start();
    let dir = bursar.path().to_owned();
    fails(
        &dir,
        &["serve"],
        UNAVAILABLE,
        &["another bursar uses", &dir.display().to_string()],
    );
    // The first one is none the worse for it.
    assert_eq!(
        std::fs::read_to_string(dir.join("run/listen")).unwrap().trim(),
        bursar.address.to_string()
    );
    assert_eq!(done(&dir, &["env", "--agent", "research"]).status.code(), Some(DONE));
    assert_eq!(
        (mode(&dir.join("run/admin.sock")), mode(&dir.join("run/listen"))),
        (0o600, 0o600)
    );
    assert_eq!(bursar.stop(), DONE);
    for left in ["run/listen", "run/admin.sock"] {
        assert!(!dir.join(left).exists(), "{left} is left behind");
    }
}

#[test]
fn what_keeps_a_server_from_starting_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home = setup().home();
    let config = |text: &str| std::fs::write(home.path().join("bursar.toml"), text).unwrap();
    let fails = |code: i32, words: &[&str]| fails(home.path(), &["serve"], code, words);

    let address = taken.local_addr().unwrap().to_string();
    config(&format!("[proxy]\nlisten = \"{address}\"\n"));
    fails(UNAVAILABLE, &[&address, "another program has this port", "bursar.toml"]);
    let file = home.path().join("bursar.toml").display().to_string();
    config("[proxy]\nlisten = \"127.0.0.1:0\"\nlisen = 3\n");
    fails(USAGE, &[&format!("{file}:3:1: "), "lisen", "Did you mean `listen`?"]);
    config("[proxy\n");
    fails(USAGE, &[&format!("{file}:1:"), "not valid TOML"]);
    config("[wallet.evm]\nkey = \"0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80\"\n");
    let said = fails(USAGE, &[&format!("{file}:2:"), "env:NAME"]);
    assert!(!said.contains("ac0974"), "{said}");
    config("[upstream]\nextra_ca = \"nowhere.pem\"\n");
    fails(USAGE, &["nowhere.pem"]);

    config("[proxy]\nlisten = \"127.0.0.1:0\"\n");
    let file = home.path().join("limits.toml").display().to_string();
    let limits = |text: &str| std::fs::write(home.path().join("limits.toml"), text).unwrap();
    limits("timezone = \"UTC\"\n[agents.research]\ndaay = \"5.00\"\n");
    fails(USAGE, &[&format!("{file}:3:1: "), "Did you mean `day`?"]);
    limits("timezone = \"UTC\"\n[agents.Research]\nday = \"5.00\"\n");
    fails(
        USAGE,
        &[
            &format!("{file}:2:9: "),
            "cannot be the name of an agent",
            "[agents.research]",
        ],
    );
    limits("timezone = \"UTC\"\n[agents.\"my agent\"]\nday = \"5.00\"\n");
    fails(USAGE, &[&format!("{file}:2:9: "), "lower-case letters"]);
    std::fs::remove_file(&file).unwrap();
    fails(USAGE, &[&file, "No such file"]);
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_named() {
    let home = setup().folder(&"long-".repeat(20)).home();
    fails(
        home.path(),
        &["serve"],
        NEGATIVE,
        &["admin.sock", "at most 107 bytes", "shorter path"],
    );
}

#[test]
fn a_server_says_what_it_can_and_cannot_pay() {
    let bursar = setup().start();
    assert!(
        bursar
            .log()
            .contains(&format!("ready to pay wallet={WALLET} networks=\"eip155:84532\"")),
        "{}",
        bursar.log()
    );
    let without = |remove: &str, expected: &str| {
        let home = setup().home();
        let path = home.path().join("bursar.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, after) = text.split_once(remove).unwrap();
        let after = after.split_once("\n[").map_or("", |(_, rest)| rest);
        std::fs::write(
            &path,
            format!(
                "{before}{}",
                if after.is_empty() {
                    String::new()
                } else {
                    format!("[{after}")
                }
            ),
        )
        .unwrap();
        let bursar = home.serve();
        assert!(bursar.log().contains(expected), "{}", bursar.log());
    };
    without("[wallet.evm]", "no [wallet.evm] in bursar.toml: nothing can be paid");
    without("[networks", "no [networks] in bursar.toml: nothing can be paid");
}

// ---- usage

#[test]
fn mistakes_in_a_command_exit_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["no-such-command"],
        &[],
        &["serve", "--port", "1"],
        &["run", "--agent", "a"],
        &["run", "--", "true"],
        &["agents", "add"],
        &["env", "--agent", "a", "--format", "csh"],
        &["payments", "list", "--state", "paid"],
        &["payments", "list", "--since", "yesterday"],
        &["payments", "list", "--limit", "-1"],
        &["sandbox", "--listen", "localhost"],
        &["--log", "loud=very", "agents", "list"],
    ] {
        let home = setup().home();
        let output = Command::new(bin())
            .args(arguments)
            .env("BURSAR_DIR", home.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{arguments:?} {output:?}");
        assert!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{arguments:?} {output:?}"
        );
    }
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["payments", "resolve", "--help"],
        &["help", "run"],
    ] {
        let output = Command::new(bin()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(DONE));
        assert!(
            output.stderr.is_empty() && !output.stdout.is_empty(),
            "{arguments:?} {output:?}"
        );
    }
}

// ---- sandbox and demo

#[tokio::test]
async fn a_sandbox_sells_to_those_who_pay() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("seller.pem");
    let mut command = Command::new(bin());
    command
        .args(["sandbox", "--listen", "127.0.0.1:0", "--ca-out"])
        .arg(&ca);
    let mut sandbox = Ended(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(sandbox.0.stdout.take().unwrap()).lines();
    let url = lines
        .next()
        .unwrap()
        .unwrap()
        .strip_prefix("selling on ")
        .unwrap()
        .to_owned();
    assert_eq!(mode(&ca), 0o644);

    let mut curl = Command::new("curl");
    curl.args(["-q", "-sS", "--noproxy", "*", "-w", " %{http_code}", "--cacert"])
        .arg(&ca);
    match curl.arg(format!("{url}/v2/quote")).output() {
        Ok(answer) => assert!(stdout(&answer).ends_with(" 402"), "{answer:?}"),
        Err(_) => skip("curl is not installed"),
    }

    let networks = format!("[networks.\"eip155:84532\"]\nrpc = [\"{url}/rpc\"]\n");
    let bursar = setup()
        .trust(&std::fs::read_to_string(&ca).unwrap())
        .config(&networks)
        .start();
    let page = Agent::of(&bursar)
        .get(crate::support::buyer::site(&url), "/v2/quote")
        .await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(bursar.states(), ["settled"]);
    assert_eq!(sandbox.signal(Signal::TERM), Some(DONE));
}

/// The demo without a home, without variables, and with a place for temporary files that can be looked into.
fn demo(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(bin());
    command
        .arg("demo")
        .args(arguments)
        .env_clear()
        .env("TMPDIR", temporary)
        .stdin(Stdio::null());
    command
}

fn assert_empty(dir: &Path) {
    let left: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_demo_pays_is_refused_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let told = demo(temporary.path(), &[]).output().unwrap();
    assert_eq!((told.status.code(), stderr(&told).as_str()), (Some(DONE), ""));
    let text = stdout(&told);
    for part in [
        "sandbox token",
        "GET /v2/quote",
        "200 OK",
        "bursar-payment: ",
        "GET /v1/weather",
        "GET /v2/dataset",
        "403 Forbidden",
        "agents.demo.per_transaction",
        "settled",
        "refused",
        "99.985 sandbox USDC now",
        "0.015 sandbox USDC now",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    assert_empty(temporary.path());

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let unread = demo(temporary.path(), &[]).stdout(writer).output().unwrap();
    assert_eq!((unread.status.code(), stderr(&unread).as_str()), (Some(DONE), ""));
    assert_empty(temporary.path());
}

#[test]
fn a_demo_that_stays_can_be_tried_as_it_says_and_ends_on_a_signal() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = Ended(
            demo(temporary.path(), &["--stay"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(child.0.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let curl = lines.find(|line| line.starts_with("   curl ")).unwrap();
        let list = lines.find(|line| line.starts_with("   bursar ")).unwrap();
        if signal == Signal::TERM {
            let tried = Command::new("sh")
                .args(["-c", &curl])
                .env("NO_PROXY", "")
                .env("no_proxy", "")
                .output()
                .unwrap();
            assert!(stdout(&tried).contains("200 OK\r\n"), "{tried:?}");
            let arguments: Vec<&str> = list.split_whitespace().skip(1).collect();
            let listed = Command::new(bin()).args(&arguments).output().unwrap();
            assert_eq!(stdout(&listed).matches("settled").count(), 3, "{listed:?}");
        }
        assert_eq!(child.signal(signal), Some(DONE), "{signal:?}");
        assert_empty(temporary.path());
    }
}

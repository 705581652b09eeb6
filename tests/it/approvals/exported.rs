//! An exported approval record can be checked without the ledger and the issuer: it is consistent to the byte, or the
//! check says where it is not (R45, R46 and R53).

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::approvals::ciba::{asked, at_ten_cents, fake, home, shown};
use crate::approvals::{self, AT_ONCE};
use crate::support::agent::Agent;
use crate::support::bkey::{APPROVER, Decision, FakeBkey};
use crate::support::bursar::{Bursar, bin, setup};
use crate::support::faults::Faults;
use crate::support::origin::{Origin, answer};
use crate::support::seller;

/// Runs the check as an auditor does: without a data directory or a home.
fn verify(file: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(bin());
    command.env_clear().args(["approvals", "verify"]).arg(file).args(more);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn documents(output: &Output) -> Vec<Value> {
    let text = text(output);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writes a document to a file.
fn written(folder: &Path, document: &Value) -> std::path::PathBuf {
    let path = folder.join("approval.json");
    std::fs::write(&path, document.to_string()).unwrap();
    path
}

/// Buys with a person's approval. Returns the payment id.
async fn bought(bursar: &Bursar, origin: &Origin, fake: &FakeBkey) -> String {
    let (waiting, handle) = asked(bursar, origin, fake).await;
    fake.decide(&handle, Decision::Approved);
    let page = waiting.await.unwrap();
    assert_eq!(page.status, 200, "{page:?}");
    page.header("bursar-payment").unwrap().to_owned()
}

#[tokio::test]
async fn what_was_approved_verifies_without_server_issuer_and_ledger() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let mut bursar = home(&origin, &fake.base, 60, "").serve();
    let id = bought(&bursar, &origin, &fake).await;
    fake.rotate();
    assert_eq!(bursar.stop(), 0);
    let issuer = fake.base.clone();
    drop(fake);

    let exported = bursar.run(&["approvals", "export"]);
    assert!(exported.status.success(), "{exported:?}");
    let [document] = &documents(&exported)[..] else {
        panic!("{exported:?}");
    };
    assert_eq!(
        (&document["format"], &document["id"]),
        (&json!("bursar-approval-2"), &json!(id))
    );
    let ask = &document["asked"]["of"][0];
    assert_eq!(ask["worth"], "signed-by-issuer");
    assert!(
        ask["sentence"]
            .as_str()
            .unwrap()
            .contains(ask["code"].as_str().unwrap())
    );
    assert_eq!(document["asked"]["intent"].as_object().unwrap().len(), 13);
    // The entries are those of the journal, and their leaf hashes are in its tree.
    let entries: Vec<&Value> = document["entries"].as_array().unwrap().iter().collect();
    let journal = bursar.journal();
    let mut names = Vec::new();
    for recorded in entries {
        let number = usize::try_from(recorded["entry"]["seq"].as_u64().unwrap()).unwrap();
        assert_eq!(recorded["entry"], journal[number]);
        if let Some(next) = journal.get(number + 1) {
            assert_eq!(recorded["leaf_sha256"], next["prev"]);
        }
        names.push(recorded["entry"]["ev"].as_str().unwrap());
    }
    let whole = [
        "pay.reserved",
        "approval.requested",
        "approval.granted",
        "pay.armed",
        "pay.settled",
    ];
    assert_eq!(names, whole);

    let elsewhere = tempfile::tempdir().unwrap();
    let file = written(elsewhere.path(), document);
    let key = ask["evidence"]["proof"]["thumbprint"].as_str().unwrap();
    let with_key = verify(&file, &["--key", key]);
    assert_eq!(with_key.status.code(), Some(0), "{with_key:?}");
    let printed = text(&with_key);
    for line in ["result          verified", APPROVER, key, &issuer, "approval.granted"] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    // Anyone can write a document with a key of their own.
    for more in [
        &[][..],
        &["--key", "C_5BDSp6JfeT7pQxsPDcUL1-kN8tZeFJ-c0uqVndNeM"],
        &["--key", "-_5BDSp6JfeT7pQxsPDcUL1-kN8tZeFJ-c0uqVndNeM"],
    ] {
        let output = verify(&file, more);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(text(&output).contains(key), "{output:?}");
    }
    // White space does not matter.
    std::fs::write(&file, serde_json::to_string_pretty(document).unwrap()).unwrap();
    assert_eq!(verify(&file, &["--key", key]).status.code(), Some(0));
    assert_eq!(verify(&elsewhere.path().join("none"), &[]).status.code(), Some(2));
    std::fs::write(&file, "").unwrap();
    assert_eq!(verify(&file, &[]).status.code(), Some(3));

    let ledger = &shown(&bursar, &id)["approval_ledger"];
    assert_eq!((&ledger["agree"], &ledger["decision"]), (&json!(true), &json!("used")));
}

/// The paths of all scalar members.
fn leaves(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(members) => members
            .iter()
            .for_each(|(name, value)| leaves(value, format!("{path}/{name}"), paths)),
        Value::Array(all) => {
            let all = all.iter().enumerate();
            all.for_each(|(place, value)| leaves(value, format!("{path}/{place}"), paths));
        }
        _ => paths.push(path),
    }
}

/// The same value with one byte changed.
fn changed(leaf: &Value) -> Value {
    match leaf {
        Value::String(text) => {
            let mut bytes = text.clone().into_bytes();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte = match byte {
                    b'0'..=b'8' | b'a'..=b'y' | b'A'..=b'Y' => *byte + 1,
                    b'9' => b'8',
                    _ => b'b',
                };
            }
            Value::from(String::from_utf8(bytes).unwrap())
        }
        Value::Number(number) => json!(number.as_i64().unwrap() + 1),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn one_changed_byte_anywhere_in_a_document_is_found() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = home(&origin, &fake.base, 60, "").serve();
    bought(&bursar, &origin, &fake).await;
    let document = documents(&bursar.run(&["approvals", "export"])).remove(0);

    let mut paths = Vec::new();
    leaves(&document, String::new(), &mut paths);
    // The time of asking is not repeated anywhere; its entry has its own time.
    paths.retain(|path| path != "/asked/at");
    for named in [
        "/proof/token",
        "/proof/thumbprint",
        "/intent/payee",
        "/of/0/sentence",
        "/of/0/code",
        "/of/0/disclosure",
        "/asked/rules/0",
    ] {
        assert!(paths.iter().any(|path| path.contains(named)), "{named}");
    }
    let mut all = String::new();
    for path in &paths {
        let mut other = document.clone();
        let leaf = other.pointer_mut(path).unwrap();
        if leaf.is_null() || *leaf == "" {
            *leaf = json!("x");
        } else {
            *leaf = changed(leaf);
        }
        assert_ne!(other, document, "{path}");
        all += &format!("{other}\n");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("changed.jsonl");
    std::fs::write(&file, all).unwrap();
    let key = document["asked"]["of"][0]["evidence"]["proof"]["thumbprint"]
        .as_str()
        .unwrap();
    let output = verify(&file, &["--json", "--key", key]);
    assert_eq!(output.status.code(), Some(1));
    let verdicts = documents(&output);
    assert_eq!(verdicts.len(), paths.len());
    for (path, checked) in paths.iter().zip(&verdicts) {
        assert_eq!(checked["verdict"], "damaged", "{path}: {checked}");
    }
    // Nothing may be added or removed either.
    for (path, value, exit) in [
        ("/more", Some(json!(1)), 1),
        ("/asked", None, 1),
        ("/entries/1", None, 1),
        ("/entries/2", None, 1),
        // `bursar retain` moves first entries away, so this is neither damaged nor proven.
        ("/entries/0", None, 3),
    ] {
        let mut other = document.clone();
        let (parent, name) = path.rsplit_once('/').unwrap();
        match (other.pointer_mut(parent).unwrap(), value) {
            (Value::Object(members), Some(value)) => drop(members.insert(name.to_owned(), value)),
            (Value::Object(members), None) => drop(members.remove(name)),
            (Value::Array(all), _) => drop(all.remove(name.parse().unwrap())),
            (other, _) => panic!("{other}"),
        }
        std::fs::write(&file, other.to_string()).unwrap();
        let output = verify(&file, &["--key", key]);
        assert_eq!(output.status.code(), Some(exit), "{path}: {output:?}");
    }
}

#[tokio::test]
async fn stored_evidence_that_differs_from_the_ledger_is_found() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = home(&origin, &fake.base, 60, "").serve();
    let id = bought(&bursar, &origin, &fake).await;
    let path = bursar.path().join(format!("private/approvals/{id}.json"));
    let stored = std::fs::read_to_string(&path).unwrap();
    let show = || bursar.run(&["payments", "show", &id]);
    let good = show();
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(text(&good).contains("ledger          agrees: "), "{good:?}");

    let entries = bursar.journal();
    let granted = entries
        .iter()
        .position(|entry| entry["ev"] == "approval.granted")
        .unwrap();
    let stored_now: Value = serde_json::from_str(&stored).unwrap();
    let differs = |change: &dyn Fn(&mut Value), what: &str| {
        let mut other = stored_now.clone();
        change(&mut other);
        std::fs::write(&path, serde_json::to_vec_pretty(&other).unwrap()).unwrap();
        let output = show();
        assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
        assert!(
            text(&output).contains(&format!("ledger          DIFFERS: {what}")),
            "{what}: {output:?}"
        );
        let ledger = shown(&bursar, &id)["approval_ledger"].clone();
        assert_eq!(ledger["agree"], false, "{ledger}");
        assert_eq!(
            bursar.run(&["approvals", "export", &id]).status.code(),
            Some(1),
            "{what}"
        );
        other
    };
    // The token still verifies; only the ledger shows that another leeway was configured.
    let other = differs(
        &|stored| stored["asks"][0]["evidence"]["proof"]["policy"]["leeway_s"] = json!(31),
        "the stored evidence does not match the hash in entry",
    );
    assert_eq!(
        other["asks"][0]["evidence"]["proof"]["token"],
        stored_now["asks"][0]["evidence"]["proof"]["token"]
    );
    assert_eq!(shown(&bursar, &id)["approval_check"]["verified"], "yes");
    differs(
        &|stored| stored["intent"]["amount"] = json!("100001"),
        "the intent does not match the hash stored with it",
    );
    differs(
        &|stored| stored["intent_sha256"] = json!("00".repeat(32)),
        "the intent does not match the hash stored with it",
    );
    differs(
        &|stored| stored["asks"][0]["sentence"] = json!("research: pay 0.01 USDC to localhost"),
        "the sentence does not match the intent",
    );
    differs(
        &|stored| drop(stored["asks"][0].as_object_mut().unwrap().remove("evidence")),
        &format!("entry {granted} records an approval, but its evidence is missing"),
    );
    std::fs::write(&path, "{}").unwrap();
    let output = show();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("DIFFERS: the stored question cannot be read"),
        "{output:?}"
    );
    std::fs::remove_file(&path).unwrap();
    let output = show();
    assert_eq!(output.status.code(), Some(1));
    let gone = "ledger          DIFFERS: the question is missing, although the ledger records its approval";
    assert!(text(&output).contains(gone), "{output:?}");
    assert_eq!(bursar.run(&["approvals", "export"]).status.code(), Some(1));
}

#[tokio::test]
async fn an_operators_approval_is_exported_as_unproven() {
    let origin = at_ten_cents().await;
    let limits = "[agents.research]\ntotal = \"1.00\"\napproval_above = \"0.05\"\n";
    let bursar = setup().trust(&origin.ca_pem).limits(limits).config(AT_ONCE).start();
    let agent = Agent::of(&bursar);
    let mut ids = Vec::new();
    for path in ["/one", "/two"] {
        assert_eq!(agent.get(origin.address, path).await.status, 503);
        let (id, code) = approvals::question(&bursar).await;
        ids.push(id.clone());
        if path == "/one" {
            approvals::approve(&bursar, &id, &code);
            assert_eq!(agent.get(origin.address, path).await.status, 200);
        } else {
            assert!(bursar.run(&["deny", &id, "--why", "too dear"]).status.success());
        }
    }
    let all = documents(&bursar.run(&["approvals", "export", "--agent", "research", "--since", "2026-01-01"]));
    assert_eq!(
        all.iter().map(|one| one["id"].as_str().unwrap()).collect::<Vec<_>>(),
        ids
    );
    assert!(documents(&bursar.run(&["approvals", "export", "--agent", "other"])).is_empty());
    assert!(documents(&bursar.run(&["approvals", "export", "--since", "2999-01-01"])).is_empty());
    let [approved, denied] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!(approved["asked"]["of"][0]["worth"], "word-of-operator");
    assert_eq!(approved["asked"]["of"][0]["evidence"]["kind"], "operator");
    assert!(denied["asked"]["of"][0].get("evidence").is_none());

    let folder = tempfile::tempdir().unwrap();
    let output = verify(&written(folder.path(), approved), &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(
        text(&output).contains("not proven: it is this proxy's own statement"),
        "{output:?}"
    );
    let output = verify(&written(folder.path(), denied), &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output).contains("undamaged; nobody approved it"), "{output:?}");
    let output = verify(&written(folder.path(), denied), &["--json"]);
    assert_eq!(documents(&output)[0]["decision"], "denied");
    // It cannot be passed off as stronger evidence.
    let mut better = approved.clone();
    better["asked"]["of"][0]["worth"] = json!("signed-by-issuer");
    assert_eq!(verify(&written(folder.path(), &better), &[]).status.code(), Some(1));

    // Nobody was asked about the free and the cheap requests.
    let nobody = bursar.run(&["approvals", "export", "01900000-0000-7000-8000-000000000000"]);
    assert_eq!(nobody.status.code(), Some(1));
}

/// Documents of a version whose codes followed from the intent, as that version exported them: one approved and used, one
/// denied.
#[test]
fn documents_of_before_codes_were_random_still_verify() {
    const OLD: &str = include_str!("../../../fixtures/approvals/records_1.jsonl");
    let folder = tempfile::tempdir().unwrap();
    let documents: Vec<Value> = OLD.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [used, denied] = &documents[..] else {
        panic!("{documents:?}")
    };
    let output = verify(&written(folder.path(), used), &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let printed = text(&output);
    assert!(
        printed.contains("undamaged, not proven: it is this proxy's own statement"),
        "{printed}"
    );
    let output = verify(&written(folder.path(), denied), &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // Its code is still the one that follows from the intent: another one, with the words to match, is found.
    let code = denied["asked"]["of"][0]["code"].as_str().unwrap();
    let other = denied.to_string().replace(code, "00000000");
    let output = verify(&written(folder.path(), &serde_json::from_str(&other).unwrap()), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output).contains("does not follow from the intent"), "{output:?}");
}

#[tokio::test]
async fn entries_that_were_moved_away_are_not_damage() {
    let origin = Origin::https(|request| async move {
        match request.is_paid() {
            // The outcome of this payment is unknown, so it stays open into the next segment.
            true => answer(500, &[], "sorry"),
            false => seller::asks("100000"),
        }
    })
    .await;
    let faults = Faults::none();
    let home = setup()
        .trust(&origin.ca_pem)
        .limits(approvals::LIMITS)
        .config(AT_ONCE)
        .home();
    let mut bursar = home.serve_by(faults.program_with_clocks());
    let agent = Agent::of(&bursar);
    assert_eq!(agent.get(origin.address, "/report").await.status, 503);
    let (id, code) = approvals::question(&bursar).await;
    approvals::approve(&bursar, &id, &code);
    assert_eq!(agent.get(origin.address, "/report").await.status, 500);
    assert_eq!(bursar.stop(), 0);
    const DAY: u32 = 24 * 3600;
    faults.wakes_up_later(2 * DAY);
    let mut bursar = bursar.kill().serve_by(faults.program_with_clocks());
    let resolved = bursar.run(&["payments", "resolve", &id, "--settled", "--why", "they wrote so"]);
    assert!(resolved.status.success(), "{resolved:?}");
    assert_eq!(bursar.stop(), 0);
    let home = bursar.kill();
    faults.wakes_up_later(12 * DAY);
    let between = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let place = tempfile::tempdir().unwrap();
    let mut retain = faults.program_with_clocks();
    retain.args(["retain", "--before", &between.to_string(), "--to"]);
    retain.arg(place.path().join("old")).arg("--dir").arg(home.path());
    let moved = retain.output().unwrap();
    assert!(
        moved.status.success() && home.path().join("audit/pruned").exists(),
        "{moved:?}"
    );

    let output = home.run(&["payments", "show", &id]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = text(&output);
    assert!(
        printed.contains("ledger          agrees, as far as its entries are here"),
        "{printed}"
    );
    let output = home.run(&["approvals", "export", &id]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("was moved away by `bursar retain`"), "{why}");
}

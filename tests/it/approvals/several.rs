//! Above a second threshold one person is not enough (threat 4.4): several are asked, enough of them must approve
//! separately, and a single denial ends the question for all.

use std::fmt::Write;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::approvals::{assert_problem, at_ten_cents, kinds, pending};
use crate::support::agent::{Agent, Page};
use crate::support::bkey::{CLIENT_ID, CLIENT_SECRET, Call, Decision, Dialect, FakeBkey, Mishap};
use crate::support::bursar::{Bursar, Home, eventually, setup};
use crate::support::faults::{Faults, Moment};
use crate::support::origin::Origin;

const PEOPLE: [&str; 3] = ["did:bkey:zAnna", "did:bkey:zBert", "did:bkey:zCleo"];

fn start(origin: &Origin, fake: &FakeBkey, rules: &str, hold_s: u32) -> Bursar {
    home(origin, fake, rules, hold_s).serve()
}

fn home(origin: &Origin, fake: &FakeBkey, rules: &str, hold_s: u32) -> Home {
    let mut config = format!("[approval]\nbackend = \"ciba\"\nhold_s = {hold_s}\n");
    let issuer = &fake.base;
    let _ = write!(
        config,
        "[approval.ciba]\nissuer = \"{issuer}\"\nclient_id = \"{CLIENT_ID}\"\nclient_secret = \"file:bkey-secret\"\n"
    );
    let people = PEOPLE.map(|name| format!("\"{name}\"")).join(", ");
    let limits = format!("[agents.research]\ntotal = \"5.00\"\napprovers = [{people}]\n{rules}\n");
    let home = setup().trust(&origin.ca_pem).limits(&limits).config(&config).home();
    let secret = home.path().join("bkey-secret");
    std::fs::write(&secret, CLIENT_SECRET).unwrap();
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(secret, owner_only).unwrap();
    home
}

fn fake() -> FakeBkey {
    let fake = FakeBkey::start(Dialect::Oauth);
    fake.looks_are_every(1);
    fake
}

/// A server that is temporarily unavailable.
fn down() -> Mishap {
    Mishap::Answer(503, Vec::new(), String::new())
}

fn waits(bursar: &Bursar, origin: &Origin) -> JoinHandle<Page> {
    let (agent, site) = (Agent::of(bursar), origin.address);
    tokio::spawn(async move { agent.get(site, "/report").await })
}

/// The handles of the questions, sorted by approver: they are asked concurrently.
async fn handles(fake: &FakeBkey, count: usize) -> Vec<String> {
    let all = || Some(fake.handles_by_approver()).filter(|handles| handles.len() >= count);
    eventually("the questions", all).await.into_values().collect()
}

async fn votes(bursar: &Bursar, count: usize) {
    let granted = || kinds(bursar).iter().filter(|kind| *kind == "approval.granted").count();
    eventually("the vote", || (granted() == count).then_some(())).await;
}

#[tokio::test]
async fn two_of_three_must_approve_what_is_above_the_second_threshold() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let rules = "approval_above = \"0.01\"\nsecond_approval_above = \"0.05\"\napprovals_needed = 2";
    let bursar = start(&origin, &fake, rules, 60);
    let waiting = waits(&bursar, &origin);
    let asked = handles(&fake, 3).await;
    assert!(fake.handles_by_approver().into_keys().eq(PEOPLE));
    // Each approver has their own code, so that one cannot answer for another. The provider has the questions a moment
    // before bursar has its answer.
    let listed = || Some(pending(&bursar)).filter(|open| open.len() == 3);
    let open = eventually("the questions on the operator's list", listed).await;
    let codes: std::collections::BTreeSet<String> = open.iter().map(|open| open["code"].to_string()).collect();
    assert_eq!(codes.len(), 3);
    // The operator sees who has not answered, but cannot answer for them.
    let printed = String::from_utf8(bursar.run(&["pending"]).stdout).unwrap();
    assert!(
        printed.contains("waiting for did:bkey:zBert, asked through ciba\n") && !printed.contains("bursar approve"),
        "{printed}"
    );
    let (id, code) = (pending(&bursar)[0]["id"].clone(), pending(&bursar)[0]["code"].clone());
    let output = bursar.run(&["approve", id.as_str().unwrap(), "--code", code.as_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));

    fake.decide(&asked[2], Decision::Approved);
    votes(&bursar, 1).await;
    assert!(origin.payments().is_empty() && !waiting.is_finished());
    fake.decide(&asked[0], Decision::Approved);
    let page = waiting.await.unwrap();
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(origin.payments().len(), 1);
    assert_eq!(
        kinds(&bursar),
        [
            "pay.reserved",
            "approval.requested",
            "approval.granted",
            "approval.granted",
            "pay.armed",
            "pay.settled"
        ]
    );
    let id = page.header("bursar-payment").unwrap();
    let shown: Value = serde_json::from_slice(&bursar.run(&["payments", "show", id, "--json"]).stdout).unwrap();
    let asks = shown["approval_record"]["asks"].as_array().unwrap();
    let approved: Vec<Value> = asks.iter().map(|ask| ask["evidence"]["approver"].clone()).collect();
    assert_eq!(json!(approved), json!([PEOPLE[0], null, PEOPLE[2]]));
    assert_eq!(shown["approval_check"]["keys"].as_array().unwrap().len(), 2);
    assert_eq!(shown["approval_ledger"]["agree"], true, "{}", shown["approval_ledger"]);
    let text = String::from_utf8(bursar.run(&["payments", "show", id]).stdout).unwrap();
    assert!(text.contains("2 of 3 people"), "{text}");
    // An auditor sees both approvals, and needs both.
    let keys = shown["approval_check"]["keys"].as_array().unwrap();
    let exported = bursar.run(&["approvals", "export", id]);
    assert!(exported.status.success(), "{exported:?}");
    let file = bursar.path().join("approval.json");
    let verified = |text: &[u8]| {
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        bursar
            .run(&["approvals", "verify", file, "--key", keys[0].as_str().unwrap()])
            .status
            .code()
    };
    assert_eq!(verified(&exported.stdout), Some(0));
    for (path, change) in [
        ("/asked/needed", json!(1)),
        ("/asked/of/1/approver", json!("did:bkey:zDora")),
        ("/asked/of/2/code", json!("00000000")),
    ] {
        let mut document: Value = serde_json::from_slice(&exported.stdout).unwrap();
        *document.pointer_mut(path).unwrap() = change;
        assert_eq!(verified(document.to_string().as_bytes()), Some(1), "{path}");
    }
    let mut document: Value = serde_json::from_slice(&exported.stdout).unwrap();
    document["asked"]["of"].as_array_mut().unwrap().remove(0);
    assert_eq!(verified(document.to_string().as_bytes()), Some(1));
}

#[tokio::test]
async fn one_of_three_is_enough_below_it() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let rules = "approval_above = \"0.01\"\nsecond_approval_above = \"0.10\"";
    let bursar = start(&origin, &fake, rules, 60);
    let waiting = waits(&bursar, &origin);
    let asked = handles(&fake, 3).await;
    fake.decide(&asked[1], Decision::Approved);
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_single_denial_ends_the_question_for_all() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = start(&origin, &fake, "second_approval_above = \"0.05\"", 60);
    let waiting = waits(&bursar, &origin);
    let asked = handles(&fake, 3).await;
    fake.decide(&asked[0], Decision::Approved);
    votes(&bursar, 1).await;
    fake.decide(&asked[1], Decision::Denied);
    assert_problem(&waiting.await.unwrap(), 403, "approval-denied");
    // Approving afterwards has no effect.
    fake.decide(&asked[2], Decision::Approved);
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        403,
        "approval-denied",
    );
    assert_eq!(bursar.states(), ["released"]);
    assert!(origin.payments().is_empty());
    assert_eq!(fake.count(Call::Ask), 3);
}

#[tokio::test]
async fn a_vote_survives_a_kill_and_is_not_asked_for_again() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let mut bursar = start(&origin, &fake, "second_approval_above = \"0.05\"", 0);
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        503,
        "approval-pending",
    );
    let asked = handles(&fake, 3).await;
    fake.decide(&asked[0], Decision::Approved);
    votes(&bursar, 1).await;
    let mut bursar = bursar.kill().serve();
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        503,
        "approval-pending",
    );
    fake.decide(&asked[1], Decision::Approved);
    votes(&bursar, 2).await;
    let bursar = bursar.kill().serve();
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!((origin.payments().len(), fake.count(Call::Ask)), (1, 3));
}

#[tokio::test]
async fn a_token_of_another_approver_is_not_a_vote() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = start(&origin, &fake, "second_approval_above = \"0.05\"", 60);
    let waiting = waits(&bursar, &origin);
    let asked = handles(&fake, 3).await;
    // The first approver answers on all three phones.
    fake.answers_as(PEOPLE[0]);
    for handle in &asked {
        fake.decide(handle, Decision::Approved);
    }
    assert_problem(&waiting.await.unwrap(), 503, "approval-failed");
    assert_eq!(bursar.states(), ["released"]);
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn one_unreachable_approver_does_not_stop_the_others() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = start(&origin, &fake, "second_approval_above = \"0.05\"", 60);
    // The first of the three cannot be asked.
    fake.mishaps(Call::Ask, &[down()]);
    let waiting = waits(&bursar, &origin);
    for handle in handles(&fake, 2).await {
        fake.decide(&handle, Decision::Approved);
    }
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn with_too_few_reachable_approvers_the_question_fails() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = start(&origin, &fake, "second_approval_above = \"0.05\"", 60);
    fake.mishaps(Call::Ask, &[down(), down()]);
    let page = waits(&bursar, &origin).await.unwrap();
    assert_problem(&page, 503, "approval-failed");
    assert_eq!(bursar.states(), ["released"]);
    assert!(pending(&bursar).is_empty());
}

#[tokio::test]
async fn the_owner_is_not_asked() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let rules = format!("second_approval_above = \"0.05\"\nowner = \"{}\"", PEOPLE[0]);
    let bursar = start(&origin, &fake, &rules, 60);
    let waiting = waits(&bursar, &origin);
    for handle in handles(&fake, 2).await {
        fake.decide(&handle, Decision::Approved);
    }
    assert_eq!(waiting.await.unwrap().status, 200);
    assert!(fake.handles_by_approver().into_keys().eq(PEOPLE[1..].iter().copied()));
}

/// The last approval is polled a moment before a denial that was given earlier: that is the order of asking.
#[tokio::test]
async fn a_denial_given_before_the_last_approval_counts() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = start(&origin, &fake, "second_approval_above = \"0.05\"", 60);
    let waiting = waits(&bursar, &origin);
    let asked = handles(&fake, 3).await;
    fake.decide(&asked[0], Decision::Approved);
    votes(&bursar, 1).await;
    fake.decide(&asked[2], Decision::Denied);
    fake.decide(&asked[1], Decision::Approved);
    assert_problem(&waiting.await.unwrap(), 403, "approval-denied");
    assert!(origin.payments().is_empty());
}

/// Returns whether the process died at this step of the second of two required approvals. In any case it pays once.
async fn killed_while_the_second_approves(origin: &Origin, step: usize) -> bool {
    let when = format!("killed at step {step}");
    let (fake, faults) = (fake(), Faults::none());
    let rules = "second_approval_above = \"0.05\"\napprovals_needed = 2";
    let bursar = home(origin, &fake, rules, 20).serve_by(faults.program());
    let path = format!("/step/{step}");
    let ask = http::Request::get(&path).header("prefer", "respond-async");
    assert_problem(
        &Agent::of(&bursar).request(origin.address, ask).await,
        503,
        "approval-pending",
    );
    let asked = handles(&fake, 3).await;
    fake.decide(&asked[0], Decision::Approved);
    votes(&bursar, 1).await;
    faults.kill(step, Moment::After);
    fake.decide(&asked[1], Decision::Approved);
    let voted = || {
        (faults.steps().len() >= step || kinds(&bursar).iter().filter(|kind| *kind == "approval.granted").count() == 2)
            .then_some(())
    };
    eventually("the second vote", voted).await;
    faults.clear();
    let died = faults.steps().len() >= step;
    let mut bursar = bursar;
    if died {
        assert!(bursar.ended() < 0, "{when}: it came to an orderly end");
        bursar = bursar.kill().serve();
    }
    // A token that was fetched and lost with the process cannot be fetched again: then both are asked again.
    for handle in &fake.handles() {
        fake.decide(handle, Decision::Approved);
    }
    for _ in 0..6 {
        fake.decide_next(Decision::Approved);
    }
    let mut printed = Vec::new();
    for _ in 0..5 {
        let page = Agent::of(&bursar).get(origin.address, &path).await;
        printed.push((page.status.as_u16(), page.header("bursar-payment").map(str::to_owned)));
        if page.status == 200 {
            break;
        }
    }
    assert_eq!(
        printed.last().map(|(status, _)| *status),
        Some(200),
        "{when}: {printed:?}"
    );
    let sent: std::collections::HashSet<_> = origin
        .seen()
        .into_iter()
        .filter(|seen| seen.target == path)
        .filter_map(|seen| seen.payment())
        .collect();
    assert_eq!(sent.len(), 1, "{when}");
    let payments = bursar.payments();
    let id = printed.last().and_then(|(_, id)| id.clone()).unwrap();
    let counted: Vec<_> = payments
        .iter()
        .filter(|payment| payment["state"] != "released")
        .collect();
    assert_eq!(
        (counted.len(), counted[0]["id"].as_str()),
        (1, Some(&*id)),
        "{when}: {payments:?}"
    );
    died
}

/// Each run takes some seconds, mostly waiting, so two tests run in parallel.
async fn killed_at_every_second_step_from(first: usize) {
    let origin = at_ten_cents().await;
    for step in (first..200).step_by(2) {
        if !killed_while_the_second_approves(&origin, step).await {
            assert!(step > 3, "there are hardly any steps, so little was tried");
            return;
        }
    }
    panic!("it does not come to an end");
}

#[tokio::test]
async fn a_kill_at_an_odd_step_of_the_last_vote_pays_once() {
    killed_at_every_second_step_from(1).await;
}

#[tokio::test]
async fn a_kill_at_an_even_step_of_the_last_vote_pays_once() {
    killed_at_every_second_step_from(2).await;
}

/// The first token expires before the question does; then the others must not be left deciding in vain.
#[tokio::test]
async fn a_question_ends_with_the_first_token_that_was_given() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = start(&origin, &fake, "second_approval_above = \"0.05\"", 300);
    let waiting = waits(&bursar, &origin);
    let asked = handles(&fake, 3).await;
    let soon = jiff::Timestamp::now().as_second() + 5;
    fake.tokens_say(json!({ "exp": soon }));
    fake.decide(&asked[0], Decision::Approved);
    votes(&bursar, 1).await;
    assert_problem(&waiting.await.unwrap(), 503, "approval-expired");
    assert!(jiff::Timestamp::now().as_second() >= soon, "it was good until then");
    assert!(pending(&bursar).is_empty());
    assert_eq!(bursar.states(), ["released"]);
    assert!(origin.payments().is_empty());
}

/// It is not written with the next approver's evidence either, or a restart would count it.
#[tokio::test]
async fn evidence_that_could_not_be_written_never_counts() {
    let (origin, fake, faults) = (at_ten_cents().await, fake(), Faults::none());
    let bursar = home(&origin, &fake, "second_approval_above = \"0.05\"", 60).serve_by(faults.program());
    let waiting = waits(&bursar, &origin);
    let asked = handles(&fake, 3).await;
    // The handles are on disk.
    eventually("all three", || {
        (pending(&bursar).len() == 3 && stored(&bursar, "asked") == 3).then_some(())
    })
    .await;
    faults.fail_once("write", "/private/approvals/", rustix::io::Errno::IO);
    fake.decide(&asked[0], Decision::Approved);
    let log = || std::fs::read_to_string(bursar.path().join("serve.log")).unwrap();
    eventually("the failure", || {
        log().contains("the evidence cannot be stored").then_some(())
    })
    .await;
    assert_eq!(
        kinds(&bursar).iter().filter(|kind| *kind == "approval.granted").count(),
        0
    );
    fake.decide(&asked[1], Decision::Approved);
    votes(&bursar, 1).await;
    assert_eq!(stored(&bursar, "evidence"), 1);
    fake.decide(&asked[2], Decision::Approved);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!((stored(&bursar, "evidence"), origin.payments().len()), (2, 1));
}

/// How many approvers have `member` in the stored question.
fn stored(bursar: &Bursar, member: &str) -> usize {
    let mut folder = std::fs::read_dir(bursar.path().join("private/approvals")).unwrap();
    let file = folder
        .find_map(|file| Some(file.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "json")));
    let text = std::fs::read_to_string(file.unwrap()).unwrap();
    let stored: Value = serde_json::from_str(&text).unwrap();
    stored["asks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|ask| ask.get(member).is_some())
        .count()
}

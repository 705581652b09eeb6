//! A person decides on their own device, asked by an identity server. What the server signs is paid once; what it does
//! not sign for this person and this payment is not paid (R39 to R46).

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::agent::{Agent, Page};
use crate::support::bkey::{APPROVER, CLIENT_ID, CLIENT_SECRET, Call, Decision, Dialect, FakeBkey};
use crate::support::bursar::{Bursar, Home, bin, eventually, setup};
use crate::support::origin::Origin;
use crate::support::seller;

/// A threshold below ten US cents.
const LIMITS: &str = "[agents.research]\ntotal = \"1.00\"\napproval_above = \"0.05\"\n";

pub(crate) async fn at_ten_cents() -> Origin {
    Origin::https(|request| async move {
        match request.is_paid() {
            true => seller::sold("goods"),
            false => seller::asks("100000"),
        }
    })
    .await
}

pub(crate) fn fake() -> FakeBkey {
    let fake = FakeBkey::start(Dialect::Oauth);
    fake.looks_are_every(1);
    fake
}

pub(crate) fn home(origin: &Origin, issuer: &str, hold_s: u32, more: &str) -> Home {
    let mut config = format!("[approval]\nbackend = \"ciba\"\nhold_s = {hold_s}\n");
    let _ = write!(
        config,
        "[approval.ciba]\nissuer = \"{issuer}\"\nclient_id = \"{CLIENT_ID}\"\nclient_secret = \"file:bkey-secret\"\n\
         approver = \"{APPROVER}\"\n{more}"
    );
    let home = setup().trust(&origin.ca_pem).limits(LIMITS).config(&config).home();
    write_secret(&home, "bkey-secret", CLIENT_SECRET);
    home
}

fn write_secret(home: &Home, name: &str, secret: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = home.path().join(name);
    std::fs::write(&path, secret).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn assert_problem(page: &Page, status: u16, problem: &str) {
    let actual = (page.status.as_u16(), page.problem());
    assert_eq!(actual, (status, problem.to_owned()), "{:?}", page.body);
}

/// Sends a request that waits for its answer; returns once the person has the question.
pub(crate) async fn asked(
    bursar: &Bursar,
    origin: &Origin,
    fake: &FakeBkey,
) -> (tokio::task::JoinHandle<Page>, String) {
    let known = fake.handles().len();
    let (agent, site) = (Agent::of(bursar), origin.address);
    let waiting = tokio::spawn(async move { agent.get(site, "/report").await });
    let handle = eventually("a question", || fake.handles().get(known).cloned()).await;
    (waiting, handle)
}

pub(crate) fn shown(bursar: &Bursar, id: &str) -> Value {
    let output = bursar.run(&["payments", "show", id, "--json"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn what_a_person_approves_is_paid_once_and_its_token_is_kept() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = home(&origin, &fake.base, 60, "").serve();
    let (waiting, handle) = asked(&bursar, &origin, &fake).await;
    assert!(origin.payments().is_empty());
    assert_eq!(bursar.states(), ["held"]);
    let question = &fake.questions()[0];
    assert_eq!(question["login_hint"], APPROVER);
    let message = question["binding_message"].as_str().unwrap();
    assert!(
        message.starts_with("research: pay 0.10 USDC to localhost #"),
        "{message}"
    );

    fake.decide(&handle, Decision::Approved);
    let page = waiting.await.unwrap();
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]));
    assert_eq!(origin.payments().len(), 1);
    assert_eq!(bursar.states(), ["settled"]);

    let id = page.header("bursar-payment").unwrap();
    let record = shown(&bursar, id);
    let evidence = &record["approval_record"]["asks"][0]["evidence"];
    assert_eq!(
        (&evidence["kind"], &evidence["approver"]),
        (&json!("signed_token"), &json!(APPROVER))
    );
    assert_eq!(evidence["proof"]["token"], *fake.tokens()[0]);
    assert_eq!(record["approval_check"]["verified"], "yes");
    let key = evidence["proof"]["thumbprint"].as_str().unwrap();
    let text = String::from_utf8(bursar.run(&["payments", "show", id]).stdout).unwrap();
    assert!(text.contains(&format!("verified        yes (key {key})")), "{text}");
    // The token is confidential: neither the ledger nor the log has it (R46).
    let journal_text = serde_json::to_string(&bursar.journal()).unwrap();
    let log = std::fs::read_to_string(bursar.path().join("serve.log")).unwrap();
    for token in fake.tokens() {
        assert!(!journal_text.contains(&token) && !log.contains(&token));
    }
    assert!(!log.contains(CLIENT_SECRET));
    // The approval was for one purchase.
    drop(asked(&bursar, &origin, &fake).await);
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn what_a_person_denies_is_not_paid() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = home(&origin, &fake.base, 60, "").serve();
    let (waiting, handle) = asked(&bursar, &origin, &fake).await;
    fake.decide(&handle, Decision::Denied);
    assert_problem(&waiting.await.unwrap(), 403, "approval-denied");
    // The denial holds, and the person is not asked again.
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        403,
        "approval-denied",
    );
    assert_eq!(fake.count(Call::Ask), 1);
    assert_eq!(bursar.states(), ["released"]);
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn a_token_of_somebody_else_or_for_something_else_pays_nothing() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let mut bursar = home(&origin, &fake.base, 60, "").serve();
    let details = |amount: u64| json!({ "action_details": { "amount": amount, "currency": "USD" } });
    let someone = "did:bkey:zSomebodyElse";
    let other_question = json!({ "urn:openid:params:jwt:claim:auth_req_id": "ciba_9999" });
    for (subject, claims, reason) in [
        (someone, json!({}), "wrong_subject"),
        // The agent's own token is signed by the same key and has the scope.
        (CLIENT_ID, json!({}), "wrong_subject"),
        (APPROVER, details(11), "binding_mismatch"),
        (APPROVER, other_question, "binding_mismatch"),
    ] {
        fake.answers_as(subject);
        fake.tokens_say(claims);
        let (waiting, handle) = asked(&bursar, &origin, &fake).await;
        fake.decide(&handle, Decision::Approved);
        let page = waiting.await.unwrap();
        assert_problem(&page, 503, "approval-failed");
        let detail = page.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("token_rejected:{reason}")), "{detail}");
        assert_eq!(page.json()["retryable"], false);
    }
    assert!(bursar.states().iter().all(|state| state == "released"));
    assert!(origin.payments().is_empty());
    // A token that repeats the payment correctly counts as much as one that does not repeat it.
    assert_eq!(bursar.stop(), 0);
    let bursar = bursar.kill().serve();
    fake.answers_as(APPROVER);
    fake.tokens_say(details(10));
    let (waiting, handle) = asked(&bursar, &origin, &fake).await;
    fake.decide(&handle, Decision::Approved);
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn where_tokens_must_repeat_the_payment_one_that_does_not_is_refused() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = home(&origin, &fake.base, 60, "require_bound_details = true\n").serve();
    let (waiting, handle) = asked(&bursar, &origin, &fake).await;
    fake.decide(&handle, Decision::Approved);
    assert_problem(&waiting.await.unwrap(), 503, "approval-failed");

    let (waiting, handle) = asked(&bursar, &origin, &fake).await;
    let details = fake.questions().last().unwrap()["action_details"].clone();
    fake.tokens_say(json!({ "action_details": details }));
    fake.decide(&handle, Decision::Approved);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn a_token_counts_once() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = home(&origin, &fake.base, 60, "").serve();
    fake.tokens_say(json!({ "jti": "the same again" }));
    for status in [200, 503] {
        let (waiting, handle) = asked(&bursar, &origin, &fake).await;
        fake.decide(&handle, Decision::Approved);
        let page = waiting.await.unwrap();
        assert_eq!(page.status, status);
        if status == 503 {
            assert!(page.json()["detail"].as_str().unwrap().contains("replayed"));
        }
    }
    assert_eq!(origin.payments().len(), 1);
    assert_eq!(bursar.states(), ["settled", "released"]);
}

#[tokio::test]
async fn a_server_that_is_down_pays_nothing_and_holds_no_money() {
    let (origin, fake) = (at_ten_cents().await, fake());
    fake.break_down(Call::Discovery);
    let bursar = home(&origin, &fake.base, 60, "").serve();
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_problem(&page, 503, "approval-failed");
    assert_eq!(page.json()["retryable"], true);
    assert_eq!(bursar.states(), ["released"]);
    assert!(origin.payments().is_empty() && fake.count(Call::Ask) == 0);
    // Once the server is back, questions work as before.
    fake.mend();
    let (waiting, handle) = asked(&bursar, &origin, &fake).await;
    fake.decide(&handle, Decision::Approved);
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_question_goes_on_after_a_kill() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let mut bursar = home(&origin, &fake.base, 0, "").serve();
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        503,
        "approval-pending",
    );
    let handle = eventually("a question", || fake.handles().first().cloned()).await;
    eventually("the handle on the disk", || {
        let stored = std::fs::read_dir(bursar.path().join("private/approvals")).ok()?;
        let texts = stored.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
        texts.into_iter().find(|text| text.contains(&handle))
    })
    .await;

    let home = bursar.kill();
    fake.decide(&handle, Decision::Approved);
    let bursar = home.serve();
    let granted = || {
        let entries = bursar.journal();
        entries
            .iter()
            .any(|entry| entry["ev"] == "approval.granted")
            .then_some(())
    };
    eventually("the approval", granted).await;
    assert!(origin.payments().is_empty());
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!((origin.payments().len(), fake.count(Call::Ask)), (1, 1));
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn keys_that_change_meanwhile_are_found_and_old_evidence_stays_good() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let mut bursar = home(&origin, &fake.base, 60, "").serve();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (waiting, handle) = asked(&bursar, &origin, &fake).await;
        fake.rotate();
        fake.decide(&handle, Decision::Approved);
        let page = waiting.await.unwrap();
        assert_eq!(page.status, 200, "{page:?}");
        ids.push(page.header("bursar-payment").unwrap().to_owned());
        // Cached keys are fetched again at most once a minute (approvals §5, check 3); after a start there are none.
        assert_eq!(bursar.stop(), 0);
        bursar = bursar.kill().serve();
    }
    assert_eq!(origin.payments().len(), 3);
    let key = |id: &str| {
        let check = shown(&bursar, id)["approval_check"].clone();
        assert_eq!(check["verified"], "yes", "{check}");
        check["keys"][0].as_str().unwrap().to_owned()
    };
    let keys: std::collections::BTreeSet<String> = ids.iter().map(|id| key(id)).collect();
    assert_eq!(keys.len(), 3);
}

#[tokio::test]
async fn changed_evidence_is_detected() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = home(&origin, &fake.base, 60, "").serve();
    let (waiting, handle) = asked(&bursar, &origin, &fake).await;
    fake.decide(&handle, Decision::Approved);
    let page = waiting.await.unwrap();
    let id = page.header("bursar-payment").unwrap();
    let path = bursar.path().join(format!("private/approvals/{id}.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(APPROVER, "did:bkey:zSomebodyElse")).unwrap();
    assert_eq!(shown(&bursar, id)["approval_check"]["verified"], "no");
    let text = String::from_utf8(bursar.run(&["payments", "show", id]).stdout).unwrap();
    assert!(text.contains("verified        no: "), "{text}");
}

/// Sends a ping and returns the response status.
pub(crate) async fn ping(to: SocketAddr, path: &str, token: &str, handle: &str) -> u16 {
    let body = json!({ "auth_req_id": handle }).to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\nauthorization: Bearer {token}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// With polls so rare that only a ping can wake it.
pub(crate) fn pinged(origin: &Origin, fake: &FakeBkey) -> Home {
    fake.is_standard();
    fake.looks_are_every(60);
    let config = format!(
        "[approval]\nbackend = \"ciba\"\nhold_s = 60\ncallbacks = \"127.0.0.1:0\"\n[approval.ciba]\nstyle = \"standard\"\n\
         issuer = \"{}\"\nclient_id = \"{CLIENT_ID}\"\nclient_secret = \"file:bkey-secret\"\nclient_auth = \"post\"\n\
         approver = \"{APPROVER}\"\ndelivery = \"ping\"\n",
        fake.base
    );
    let home = setup().trust(&origin.ca_pem).limits(LIMITS).config(&config).home();
    write_secret(&home, "bkey-secret", CLIENT_SECRET);
    home
}

#[tokio::test]
async fn a_ping_that_is_quicker_than_the_disk_is_not_lost() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = pinged(&origin, &fake).serve();
    // A ping can be missed only in a short moment, while bursar writes the handle to disk.
    for number in 0..9 {
        fake.decide_next(Decision::Approved);
        let began = Instant::now();
        let (waiting, handle) = asked(&bursar, &origin, &fake).await;
        let questions = fake.questions();
        let token = questions[number]["client_notification_token"].as_str().unwrap();
        // Rejected until bursar has read the response to the question, then accepted at once.
        while ping(bursar.callbacks(), "/approvals/ciba/ping", token, &handle).await != 204 {
            assert!(began.elapsed() < Duration::from_secs(40), "no ping is taken");
        }
        assert_eq!(waiting.await.unwrap().status, 200);
        assert!(began.elapsed() < Duration::from_secs(40), "it was not woken");
    }
}

#[tokio::test]
async fn a_ping_wakes_and_decides_nothing() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let bursar = pinged(&origin, &fake).serve();
    let (waiting, handle) = asked(&bursar, &origin, &fake).await;
    let began = Instant::now();
    let (to, path) = (bursar.callbacks(), "/approvals/ciba/ping");
    let token = fake.questions()[0]["client_notification_token"]
        .as_str()
        .unwrap()
        .to_owned();
    eventually("the question to be open", || {
        bursar.log().contains("a person is asked").then_some(())
    })
    .await;
    assert_eq!(ping(to, path, "guessed", &handle).await, 401);
    assert_eq!(ping(to, path, &token, "ciba_9999").await, 401);
    assert_eq!(ping(to, "/", &token, &handle).await, 404);
    assert_eq!(ping(to, "/approvals/keyra/webhook", &token, &handle).await, 404);
    assert_eq!(fake.count(Call::Look), 0);

    fake.decide(&handle, Decision::Approved);
    assert_eq!(ping(to, path, &token, &handle).await, 204);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert!(began.elapsed() < Duration::from_secs(40), "it was not woken");
    assert_eq!(origin.payments().len(), 1);
    // The question has ended, so its token is no longer valid.
    assert_eq!(ping(to, path, &token, &handle).await, 401);
}

#[tokio::test]
async fn the_client_that_bkeys_tools_know_is_enough() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let home = setup()
        .trust(&origin.ca_pem)
        .limits(LIMITS)
        .config("[approval]\nbackend = \"ciba\"\nhold_s = 60\n")
        .home();
    let serve = |known: &[(&str, &str)]| {
        let mut command = Command::new(bin());
        // Nothing from the account that runs the tests.
        command.env("HOME", home.path()).env_remove("BKEY_PROFILE");
        command.envs(known.iter().copied());
        command
    };
    let half = serve(&[("BKEY_CLIENT_ID", CLIENT_ID)]);
    let whole = serve(&[
        ("BKEY_CLIENT_ID", CLIENT_ID),
        ("BKEY_CLIENT_SECRET", CLIENT_SECRET),
        ("BKEY_API_URL", &fake.base),
        ("BKEY_USER_DID", APPROVER),
    ]);
    let Err((home, _)) = home.try_serve_by(half) else {
        panic!("it started without a secret");
    };
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    assert!(
        log.contains("[approval.ciba]: set both BKEY_CLIENT_ID and BKEY_CLIENT_SECRET"),
        "{log}"
    );

    let bursar = home.serve_by(whole);
    let (waiting, handle) = asked(&bursar, &origin, &fake).await;
    assert_eq!(fake.questions()[0]["login_hint"], APPROVER);
    fake.decide(&handle, Decision::Approved);
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn an_invalid_client_key_stops_the_start_and_is_not_shown() {
    let config = "[approval]\nbackend = \"ciba\"\n[approval.ciba]\nstyle = \"standard\"\nissuer = \"http://127.0.0.1:9\"\n\
                  client_id = \"bursar\"\nclient_auth = \"private_key_jwt\"\nclient_key = \"file:client.pem\"\n";
    let home = setup().config(config).home();
    write_secret(&home, "client.pem", "hunter2\n");
    let Err((home, _)) = home.try_serve_by(Command::new(bin())) else {
        panic!("it started without a key");
    };
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    assert!(log.contains("[approval.ciba]: client_key: expected PEM"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

//! A person decides over KEYRA: what their device signed and KEYRA verified is paid once (R39 to R46, approvals §6).

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bursar_core::clock::SystemClock;
use serde_json::{Value, json};

use crate::keyra_fake::{DEVICE, Echoes, FakeKeyra, Fault, KEY, SECRET, send_webhook_to};
use crate::support::agent::{Agent, Page};
use crate::support::bursar::{Bursar, eventually, setup};
use crate::support::origin::Origin;
use crate::support::seller;

/// A threshold below ten US cents. The approver named here takes precedence over the one in bursar.toml.
const LIMITS: &str = "[agents.research]\ntotal = \"1.00\"\napproval_above = \"0.05\"\napprovers = [\"usr_42\"]\n";

async fn at_ten_cents() -> Origin {
    Origin::https(|request| async move {
        match request.is_paid() {
            true => seller::sold("goods"),
            false => seller::asks("100000"),
        }
    })
    .await
}

async fn fake() -> Arc<FakeKeyra> {
    FakeKeyra::listening(Arc::new(SystemClock), Echoes::Everything).await
}

fn start(origin: &Origin, fake: &FakeKeyra, approval: &str, more: &str) -> Bursar {
    let mut config = format!("[approval]\nbackend = \"keyra\"\nhold_s = 60\n{approval}");
    let _ = write!(
        config,
        "[approval.keyra]\nbase_url = \"{}\"\napi_key = \"file:keyra-key\"\napprover = \"usr_1\"\n{more}",
        fake.base
    );
    let home = setup().trust(&origin.ca_pem).limits(LIMITS).config(&config).home();
    for (name, secret) in [("keyra-key", KEY), ("keyra-webhooks", SECRET)] {
        let path = home.path().join(name);
        std::fs::write(&path, secret).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    home.serve()
}

fn assert_problem(page: &Page, status: u16, problem: &str) {
    let actual = (page.status.as_u16(), page.problem());
    assert_eq!(actual, (status, problem.to_owned()), "{:?}", page.body);
}

/// Sends a request that waits for its answer; returns once the person has the challenge.
async fn asked(bursar: &Bursar, origin: &Origin, fake: &FakeKeyra) -> (tokio::task::JoinHandle<Page>, String) {
    let known = fake.challenges().len();
    let (agent, site) = (Agent::of(bursar), origin.address);
    let waiting = tokio::spawn(async move { agent.get(site, "/report").await });
    let id = eventually("a challenge", || fake.challenges().get(known).cloned()).await;
    (waiting, id)
}

/// The body of the create request that KEYRA received.
fn order(fake: &FakeKeyra) -> Value {
    let seen = fake.seen();
    let created = seen.iter().find(|seen| seen.call == "POST /v1/challenges");
    created.unwrap().body.clone()
}

#[tokio::test]
async fn what_keyra_has_verified_is_paid_once() {
    let (origin, fake) = (at_ten_cents().await, fake().await);
    let bursar = start(&origin, &fake, "", "interval_s = 1\nrequire_echo = true\n");
    let (waiting, challenge) = asked(&bursar, &origin, &fake).await;
    assert!(origin.payments().is_empty());
    let order = order(&fake);
    assert_eq!(
        (&order["userId"], &order["action"]),
        (&json!("usr_42"), &json!("payment.approve"))
    );
    assert_eq!(order["payload"]["amount"], "0.10");

    fake.attest_and_show(&challenge);
    let page = waiting.await.unwrap();
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]));
    assert!(fake.is_verified(&challenge));
    assert_eq!(origin.payments().len(), 1);

    let id = page.header("bursar-payment").unwrap();
    let shown = bursar.run(&["payments", "show", id, "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let evidence = &shown["approval_record"]["asks"][0]["evidence"];
    assert_eq!(
        (&evidence["kind"], &evidence["approver"]),
        (&json!("keyra_verified"), &json!("usr_42"))
    );
    assert_eq!(evidence["proof"]["challenge"], *challenge);
    // Only this proxy vouches for it: there is no signature to check.
    assert!(shown.get("approval_check").is_none());
    let log = std::fs::read_to_string(bursar.path().join("serve.log")).unwrap();
    assert!(!log.contains(KEY));
}

#[tokio::test]
async fn keyras_status_alone_is_enough_only_if_configured() {
    for (trust, status) in [("status", 200), ("verify", 503)] {
        let (origin, fake) = (at_ten_cents().await, fake().await);
        let bursar = start(&origin, &fake, "", &format!("interval_s = 1\ntrust = \"{trust}\"\n"));
        let (waiting, challenge) = asked(&bursar, &origin, &fake).await;
        fake.set_status(&challenge, "approved");
        let page = waiting.await.unwrap();
        assert_eq!(page.status, status, "{page:?}");
        assert_eq!(origin.payments().len(), usize::from(status == 200));
    }
}

#[tokio::test]
async fn what_a_person_denies_is_not_paid() {
    let (origin, fake) = (at_ten_cents().await, fake().await);
    let bursar = start(&origin, &fake, "", "interval_s = 1\n");
    let (waiting, challenge) = asked(&bursar, &origin, &fake).await;
    fake.set_status(&challenge, "rejected");
    assert_problem(&waiting.await.unwrap(), 403, "approval-denied");
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        403,
        "approval-denied",
    );
    assert_eq!(fake.challenges().len(), 1);
    assert_eq!(bursar.states(), ["released"]);
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn an_answer_about_another_payment_pays_nothing() {
    let (origin, fake) = (at_ten_cents().await, fake().await);
    let bursar = start(&origin, &fake, "", "interval_s = 1\n");
    let (waiting, challenge) = asked(&bursar, &origin, &fake).await;
    fake.faults([Fault::Changed(|answer| answer["payload"]["amount"] = json!("0.01"))]);
    fake.attest_and_show(&challenge);
    let page = waiting.await.unwrap();
    assert_problem(&page, 503, "approval-failed");
    assert!(
        page.json()["detail"].as_str().unwrap().contains("echo_mismatch"),
        "{page:?}"
    );
    assert_eq!(bursar.states(), ["released"]);
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn a_service_that_is_down_pays_nothing_and_holds_no_money() {
    let (origin, fake) = (at_ten_cents().await, fake().await);
    let bursar = start(&origin, &fake, "", "interval_s = 1\n");
    fake.faults([Fault::Answer {
        status: 503,
        code: None,
    }]);
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_problem(&page, 503, "approval-failed");
    assert_eq!(bursar.states(), ["released"]);
    let (waiting, challenge) = asked(&bursar, &origin, &fake).await;
    fake.attest_and_show(&challenge);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn a_webhook_wakes_and_decides_nothing() {
    let (origin, fake) = (at_ten_cents().await, fake().await);
    let bursar = start(
        &origin,
        &fake,
        "callbacks = \"127.0.0.1:0\"\n",
        "interval_s = 60\nwebhook_secret = \"file:keyra-webhooks\"\n",
    );
    let (waiting, challenge) = asked(&bursar, &origin, &fake).await;
    let began = Instant::now();
    let to = bursar.callbacks();
    let path = "/approvals/keyra/webhook";
    let look = format!("GET /v1/challenges/{challenge}");
    let looks = || fake.calls().iter().filter(|call| **call == look).count();
    let mut data = json!({ "challengeId": challenge });
    let lie = fake.event("challenge.approved", &data);
    assert_eq!(send_webhook_to(to, path, "whsec_other", &lie).await, 401);
    assert_eq!(send_webhook_to(to, "/v1/keyra/webhook", SECRET, &lie).await, 404);
    assert_eq!(send_webhook_to(to, "/approvals/ciba/ping", SECRET, &lie).await, 404);
    assert_eq!(
        send_webhook_to(to, path, SECRET, &vec![b' '; (64 << 10) + 1]).await,
        413
    );
    // A signed event that is not true: bursar polls, and the challenge is still pending.
    eventually("the question to be open", || {
        bursar.log().contains("a person is asked").then_some(())
    })
    .await;
    assert_eq!(send_webhook_to(to, path, SECRET, &lie).await, 200);
    eventually("a look", || (looks() == 1).then_some(())).await;
    assert!(origin.payments().is_empty());

    data["attestation"] = fake.attest(&challenge);
    data["deviceId"] = json!(DEVICE);
    let event = fake.event("challenge.approved", &data);
    assert_eq!(send_webhook_to(to, path, SECRET, &event).await, 200);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert!(began.elapsed() < Duration::from_secs(40), "it was not woken");
    assert!(fake.is_verified(&challenge));
    assert_eq!(origin.payments().len(), 1);
}

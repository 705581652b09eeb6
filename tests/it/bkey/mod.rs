//! BKey signs with a key on a phone (approvals §4.6). What it signs is compared with the record before it is sent, and
//! what it may have signed is counted, whatever BKey says.

mod chain;
mod killed;
mod tokens;

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;

use alloy_primitives::{Address, B256, U256};
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::agent::{Agent, Page};
use crate::support::bkey::payments::{OrderState, Payments, TransferWithAuthorization};
use crate::support::bkey::{APPROVER, CLIENT_ID, CLIENT_SECRET, Call, Decision, Dialect, FakeBkey, Mishap};
use crate::support::bursar::{Bursar, Home, eventually, setup};
use crate::support::mpp;
use crate::support::origin::Origin;
use crate::support::seller;

/// Room for one purchase at a cent.
const LIMITS: &str = "[agents.research]\ntotal = \"0.015\"\n";

pub(crate) async fn at_a_cent() -> Origin {
    at("10000").await
}

async fn at(atoms: &'static str) -> Origin {
    Origin::https(move |request| async move {
        match request.is_paid() {
            true => seller::sold("goods"),
            false => seller::asks(atoms),
        }
    })
    .await
}

/// The configuration: `[bkey]`, with a section in front of it.
pub(crate) fn config(fake: &FakeBkey, before: &str, hold_s: u32) -> String {
    let mut config = before.to_owned();
    let _ = write!(
        config,
        "[approval]\nhold_s = {hold_s}\n[bkey]\napi_url = \"{}\"\nclient_id = \"{CLIENT_ID}\"\nclient_secret = \
         \"file:bkey-secret\"\n",
        fake.base
    );
    config
}

pub(crate) fn write_secret(home: &Home) {
    let path = home.path().join("bkey-secret");
    std::fs::write(&path, CLIENT_SECRET).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn home(origin: &Origin, fake: &FakeBkey, hold_s: u32, limits: &str) -> Home {
    let home = setup()
        .trust(&origin.ca_pem)
        .limits(limits)
        .wallet("[wallet]\nevm = \"bkey\"\n")
        .config(&config(fake, "", hold_s))
        .home();
    write_secret(&home);
    home
}

pub(crate) fn assert_problem(page: &Page, status: u16, problem: &str) {
    let message = (page.status.as_u16(), page.problem());
    assert_eq!(
        message,
        (status, problem.to_owned()),
        "{}",
        String::from_utf8_lossy(&page.body)
    );
}

fn events(bursar: &Bursar) -> Vec<String> {
    let names = bursar.journal();
    let names = names.iter().map(|entry| entry["ev"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("pay.")).collect()
}

/// The payment counts: nothing else fits into the budget.
pub(crate) async fn is_counted(bursar: &Bursar, origin: &Origin) {
    let page = Agent::of(bursar).get(origin.address, "/another").await;
    assert_problem(&page, 403, "over-limit");
}

/// The same request again gets `payment-in-doubt`, and nothing more is ordered at BKey.
async fn is_not_ordered_again(bursar: &Bursar, origin: &Origin, fake: &FakeBkey) {
    let orders = fake.count(Call::OrderAuthorization);
    let again = Agent::of(bursar).get(origin.address, "/report?q=1").await;
    assert_problem(&again, 409, "payment-in-doubt");
    assert_eq!(fake.count(Call::OrderAuthorization), orders);
}

#[tokio::test]
async fn the_order_is_made_of_the_record_and_its_answer_goes_on_record() {
    let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
    let bursar = home(&origin, &fake, 50, LIMITS).serve();
    let page = Agent::of(&bursar).get(origin.address, "/report?secret=1").await;
    assert_eq!(page.status, 200, "{page:?}");
    let payment = &bursar.payments()[0];
    let id = payment["id"].as_str().unwrap();
    let site = format!("https://localhost:{}", origin.address.port());
    let order = json!({
        "amountCents": 1, "recipientAddress": seller::PAYEE, "chainId": 84_532, "limitCurrency": "USD",
        "description": format!("research: pay 0.01 USDC to localhost, payment {id}"), "resource": format!("{site}/report"),
    });
    assert_eq!(fake.payments(|payments| payments.ordered()), [order]);
    assert_eq!(events(&bursar), ["pay.reserved", "pay.issued", "pay.settled"]);
    let journal = bursar.journal();
    let of = |ev: &str| journal.iter().find(|entry| entry["ev"] == ev).unwrap();
    let (arm, issued) = (&of("pay.reserved")["arm"], of("pay.issued"));
    assert_eq!((&arm["signer"], arm.get("nonce")), (&json!("bkey"), None));
    assert_eq!(issued["authorization"], "auth_0001");
    assert_eq!(issued["nonce"], payment["nonce"]);
    let credential = origin.payments()[0].clone();
    assert_eq!(seller::signed(&credential).0, payment["nonce"].as_str().unwrap());
    let log = bursar.log();
    assert!(!log.contains(CLIENT_SECRET) && fake.tokens().iter().all(|token| !log.contains(token)));
}

#[tokio::test]
async fn what_bkey_cannot_sign_is_passed_on_with_the_reason() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let origin = Origin::https(|request| async move {
        let mut token = seller::requirement("10000");
        token["network"] = json!("eip155:8453");
        token["asset"] = json!("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913");
        token["extra"]["name"] = json!("USD Coin");
        match request.target.as_str() {
            "/mills" => seller::asks("10001"),
            "/less" => seller::asks("9999"),
            "/mpp" => mpp::asks(&[mpp::evm("10000")]),
            _ => seller::v2(&seller::challenge("/", &[token])),
        }
    })
    .await;
    let home = setup()
        .trust(&origin.ca_pem)
        .limits(LIMITS)
        .wallet("[wallet]\nevm = \"bkey\"\n")
        .config(&config(
            &fake,
            "[networks.\"eip155:84532\"]\nrpc = []\n[networks.\"eip155:8453\"]\n",
            50,
        ))
        .home();
    write_secret(&home);
    let bursar = home.serve();
    for (path, why) in [
        ("/mills", "signer-whole-cents"),
        ("/less", "signer-whole-cents"),
        ("/mpp", "signer-chooses-nonce"),
        ("/base", "signer-other-token"),
    ] {
        let page = Agent::of(&bursar).get(origin.address, path).await;
        assert_eq!(page.status, 402, "{path}");
        assert!(page.header("proxy-status").unwrap().contains(why), "{path}: {page:?}");
    }
    assert_eq!(fake.payments(|payments| payments.signatures()), 0);
    assert_eq!(bursar.payments(), Vec::<Value>::new());
}

pub(crate) type Lie = fn(&mut Payments);

/// Falsifies each member in turn, in an otherwise good answer; where possible the signature covers the false value.
#[tokio::test]
async fn nothing_is_sent_that_is_not_what_was_ordered() {
    let lies: [(&str, Lie); 14] = [
        ("to", |of| {
            of.mistake = Some(|signed| signed.to = Address::repeat_byte(9))
        }),
        ("value", |of| {
            of.mistake = Some(|signed| signed.value = U256::from(20_000))
        }),
        ("value", |of| {
            of.mistake = Some(|signed| signed.value = U256::from(9_999))
        }),
        ("from", |of| {
            of.mistake = Some(|signed| signed.from = Address::repeat_byte(9))
        }),
        ("contractAddress", |of| of.contract = Address::repeat_byte(9)),
        ("chainId", |of| of.lie = Some(|answer| answer["chainId"] = json!(8453))),
        ("signature", |of| of.other_key = true),
        ("signature", |of| of.lie = Some(|answer| cut(answer, "signature"))),
        ("nonce", |of| of.lie = Some(|answer| cut(answer, "nonce"))),
        ("signature", |of| {
            of.lie = Some(|answer| answer["nonce"] = json!(B256::repeat_byte(1)));
        }),
        ("signature", |of| {
            of.lie = Some(|answer| answer["validBefore"] = json!(now() + 40))
        }),
        ("to", |of| {
            of.lie = Some(|answer| drop(answer.as_object_mut().unwrap().remove("to")))
        }),
        ("validBefore", |of| of.valid_s = 90),
        ("validBefore", |of| of.valid_s = 3),
    ];
    for (member, lie) in lies {
        let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
        let bursar = home(&origin, &fake, 50, LIMITS).serve();
        fake.payments(lie);
        let page = Agent::of(&bursar).get(origin.address, "/report?q=1").await;
        assert_problem(&page, 503, "signing-failed");
        assert!(origin.payments().is_empty(), "{member}");
        let payment = &bursar.payments()[0];
        assert_eq!(
            (&payment["state"], &payment["reason"]),
            (&json!("unknown"), &json!("signer-differs"))
        );
        let log = bursar.log();
        let message = log
            .lines()
            .any(|line| line.contains("ERROR") && line.contains(&format!("its {member} ")));
        assert!(message, "{member}: {log}");
        // Only with a time out of bounds is it still a signature for this payment, whose nonce can prove how it ends.
        assert_eq!(payment["nonce"].is_null(), member != "validBefore", "{member}");
        is_not_ordered_again(&bursar, &origin, &fake).await;
        is_counted(&bursar, &origin).await;
        // Without a known nonce the chain is not queried, and no command frees the money.
        let id = payment["id"].as_str().unwrap();
        let shown = bursar.run(&["payments", "show", id, "--json"]);
        assert!(shown.status.success(), "{shown:?}");
    }
}

fn cut(answer: &mut Value, member: &str) {
    let text = answer[member].as_str().unwrap().to_owned();
    answer[member] = json!(text[..text.len() - 2]);
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[tokio::test]
async fn a_good_signature_under_a_lie_about_the_time_it_begins_is_not_sent() {
    let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
    let bursar = home(&origin, &fake, 50, LIMITS).serve();
    fake.payments(|of| {
        of.mistake = Some(|signed: &mut TransferWithAuthorization| signed.validAfter += U256::from(80));
    });
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report?q=1").await,
        503,
        "signing-failed",
    );
    assert!(origin.payments().is_empty());
    assert_eq!(events(&bursar), ["pay.reserved", "pay.issued", "pay.unknown"]);
    is_counted(&bursar, &origin).await;
}

#[tokio::test]
async fn a_nonce_is_taken_once() {
    let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
    let limits = "[agents.research]\ntotal = \"0.025\"\n";
    let bursar = home(&origin, &fake, 50, limits).serve();
    fake.payments(|of| of.nonce = Some(B256::repeat_byte(7)));
    let agent = Agent::of(&bursar);
    assert_eq!(agent.get(origin.address, "/first").await.status, 200);
    assert_problem(&agent.get(origin.address, "/report?q=1").await, 503, "signing-failed");
    assert_eq!(origin.payments().len(), 1);
    assert_eq!(bursar.states(), ["settled", "unknown"]);
    let payments = bursar.payments();
    assert_eq!(
        (&payments[1]["reason"], &payments[1]["nonce"]),
        (&json!("signer-nonce-used"), &Value::Null)
    );
    is_not_ordered_again(&bursar, &origin, &fake).await;
    is_counted(&bursar, &origin).await;
}

#[tokio::test]
async fn what_cannot_have_been_signed_holds_no_money() {
    let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
    let bursar = home(&origin, &fake, 50, LIMITS).serve();
    let agent = Agent::of(&bursar);
    let refused = |status: u16, error: Value| {
        let body = json!({ "success": false, "error": error }).to_string();
        Mishap::Answer(status, Vec::new(), body)
    };
    for (status, error, retryable) in [
        (403, json!({ "code": "insufficient_scope", "message": "no" }), false),
        (400, json!({ "type": "invalid_request", "message": "no" }), false),
        (429, json!("rate_limited"), true),
    ] {
        fake.mishaps(Call::OrderAuthorization, &[refused(status, error)]);
        let page = agent.get(origin.address, "/report?q=1").await;
        assert_problem(&page, 503, "signer-unavailable");
        assert_eq!(page.json()["retryable"], retryable, "{page:?}");
    }
    // Our token is no longer valid; the next one is.
    fake.mishaps(Call::OrderAuthorization, &[refused(401, json!("unauthorized"))]);
    assert_problem(
        &agent.get(origin.address, "/report?q=1").await,
        503,
        "signer-unavailable",
    );
    assert_eq!(bursar.states(), ["expired"; 4]);
    assert_eq!(agent.get(origin.address, "/report?q=1").await.status, 200);
    assert_eq!(bursar.states()[4], "settled");
    assert_eq!(fake.payments(|payments| payments.signatures()), 1);
}

#[tokio::test]
async fn without_bkey_free_traffic_goes_on_and_nothing_is_held() {
    let origin = Origin::https(|request| async move {
        match (request.target.as_str(), request.is_paid()) {
            ("/free", _) => crate::support::origin::answer(200, &[], "welcome"),
            (_, true) => seller::sold("goods"),
            (_, false) => seller::asks("10000"),
        }
    })
    .await;
    let fake = FakeBkey::start(Dialect::Oauth);
    let mut bursar = home(&origin, &fake, 50, LIMITS).serve();
    let wallet = fake.payments(|payments| payments.address());
    drop(fake);
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_problem(&page, 503, "signer-unavailable");
    assert_eq!(page.json()["retryable"], true);
    assert_eq!(bursar.states(), ["expired"]);
    assert!(origin.payments().is_empty());
    // A start does not need BKey either, once its wallet is known.
    assert_eq!(bursar.stop(), 0);
    let bursar = bursar.kill().serve();
    assert!(bursar.log().contains(&format!("{wallet}")), "{}", bursar.log());
    assert_eq!(Agent::of(&bursar).get(origin.address, "/free").await.status, 200);
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        503,
        "signer-unavailable",
    );
    assert_eq!(bursar.states(), ["expired", "expired"]);
}

/// BKey may have signed: the payment is counted, and never ordered again.
#[tokio::test]
async fn what_may_have_been_signed_is_counted_and_not_ordered_again() {
    for (mishap, signed) in [
        (Mishap::CutAfter, 1),
        (Mishap::CutBefore, 0),
        (Mishap::Answer(502, Vec::new(), "bad gateway".to_owned()), 0),
        (Mishap::Answer(403, Vec::new(), "<html>".to_owned()), 0),
        (
            Mishap::Answer(409, Vec::new(), json!({ "error": { "code": "conflict" } }).to_string()),
            0,
        ),
        (
            Mishap::Answer(200, Vec::new(), json!({ "status": "pending_approval" }).to_string()),
            0,
        ),
        (
            Mishap::Answer(200, Vec::new(), json!({ "status": "authorized" }).to_string()),
            0,
        ),
    ] {
        let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
        let mut bursar = home(&origin, &fake, 50, LIMITS).serve();
        fake.mishaps(Call::OrderAuthorization, std::slice::from_ref(&mishap));
        let page = Agent::of(&bursar).get(origin.address, "/report?q=1").await;
        assert_eq!(page.status, 503, "{mishap:?}");
        assert_eq!(bursar.states(), ["unknown"], "{mishap:?}");
        assert_eq!(fake.count(Call::OrderAuthorization), 1, "{mishap:?}");
        assert_eq!(fake.payments(|payments| payments.signatures()), signed);
        is_not_ordered_again(&bursar, &origin, &fake).await;
        is_counted(&bursar, &origin).await;
        // A restart changes nothing.
        assert_eq!(bursar.stop(), 0);
        let bursar = bursar.kill().serve();
        is_not_ordered_again(&bursar, &origin, &fake).await;
        is_counted(&bursar, &origin).await;
        assert!(origin.payments().is_empty());
    }
}

#[tokio::test]
async fn a_person_confirms_in_every_dialect() {
    for (dialect, packed) in [(Dialect::Oauth, false), (Dialect::Status, true), (Dialect::Both, true)] {
        let (origin, fake) = (at_a_cent().await, FakeBkey::start(dialect));
        let bursar = home(&origin, &fake, 60, LIMITS).serve();
        fake.payments(|of| (of.order_state, of.packed) = (OrderState::Waits, packed));
        // A failed poll decides nothing.
        fake.mishaps(
            Call::LookAuthorization,
            &[
                Mishap::None,
                Mishap::CutBefore,
                Mishap::Answer(500, Vec::new(), String::new()),
            ],
        );
        let (agent, site) = (Agent::of(&bursar), origin.address);
        let waiting = tokio::spawn(async move { agent.get(site, "/report").await });
        eventually("a look", || (fake.count(Call::LookAuthorization) > 1).then_some(())).await;
        assert_eq!(bursar.states(), ["armed"]);
        assert!(bursar.payments()[0]["nonce"].is_null());
        fake.payments(|of| of.decide(&OrderState::Made));
        let page = waiting.await.unwrap();
        assert_eq!(
            (page.status.as_u16(), &page.body[..]),
            (200, &b"goods"[..]),
            "{dialect:?}"
        );
        assert_eq!(fake.count(Call::OrderAuthorization), 1);
        assert_eq!(
            (origin.payments().len(), bursar.states()),
            (1, vec!["settled".to_owned()])
        );
    }
}

/// BKey says that the payment will not happen. That is not a proof (R11).
#[tokio::test]
async fn what_a_person_does_not_confirm_stays_counted() {
    for (order_state, reason) in [
        (OrderState::Over("expired"), "signer-says-expired"),
        (OrderState::Over("failed"), "signer-says-failed"),
        (OrderState::Over("settled"), "signer-says-settled"),
    ] {
        let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
        let bursar = home(&origin, &fake, 60, LIMITS).serve();
        fake.payments(|of| of.order_state = order_state.clone());
        let page = Agent::of(&bursar).get(origin.address, "/report?q=1").await;
        assert_problem(&page, 403, "payment-declined");
        let payment = &bursar.payments()[0];
        assert_eq!(
            (&payment["state"], &payment["reason"]),
            (&json!("unknown"), &json!(reason))
        );
        is_not_ordered_again(&bursar, &origin, &fake).await;
        is_counted(&bursar, &origin).await;
        // Only a person can resolve it.
        let id = payment["id"].as_str().unwrap();
        let compared = bursar.run(&["reconcile", "--json"]);
        let text = String::from_utf8_lossy(&compared.stdout).into_owned() + &String::from_utf8_lossy(&compared.stderr);
        assert_ne!(bursar.states(), ["expired"], "{text}");
        let why = "BKey's list has no such signature";
        assert!(
            bursar
                .run(&["payments", "resolve", id, "--expired", "--why", why])
                .status
                .success()
        );
        assert_eq!(bursar.states(), ["expired"]);
    }
}

/// The agent's request ends before the person confirms. A repeat finds what was confirmed meanwhile, and sends it.
#[tokio::test]
async fn what_is_confirmed_late_is_kept_for_the_repeat() {
    let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
    let bursar = home(&origin, &fake, 1, LIMITS).serve();
    fake.payments(|of| of.order_state = OrderState::Waits);
    let agent = Agent::of(&bursar);
    let page = agent.get(origin.address, "/report?q=1").await;
    assert_problem(&page, 503, "signer-pending");
    assert_eq!(page.json()["retryable"], true);
    assert_eq!(bursar.states(), ["armed"]);
    is_not_ordered_again(&bursar, &origin, &fake).await;
    is_counted(&bursar, &origin).await;
    fake.payments(|of| {
        of.valid_s = 30;
        of.decide(&OrderState::Made);
    });
    eventually("the signature on record", || {
        (bursar.states() == ["unknown"]).then_some(())
    })
    .await;
    assert_eq!(
        events(&bursar)[..3],
        ["pay.reserved", "pay.refused", "pay.issued"],
        "{:?}",
        events(&bursar)
    );
    assert!(origin.payments().is_empty(), "nobody asked for it");
    let page = agent.get(origin.address, "/report?q=1").await;
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]), "{page:?}");
    assert_eq!((origin.payments().len(), fake.count(Call::OrderAuthorization)), (1, 1));
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn an_order_that_waits_has_an_unknown_outcome_after_a_restart() {
    let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
    let mut bursar = home(&origin, &fake, 60, LIMITS).serve();
    fake.payments(|of| of.order_state = OrderState::Waits);
    let (agent, site) = (Agent::of(&bursar), origin.address);
    let waiting = tokio::spawn(async move {
        let mut connection = agent.connect(site, &["http/1.1"]).await;
        let request = Request::get("/report?q=1").body(Full::default()).unwrap();
        connection.send(site, request).await
    });
    eventually("an order", || (fake.count(Call::OrderAuthorization) > 0).then_some(())).await;
    let bursar = bursar.kill().serve();
    assert!(waiting.await.unwrap().is_err());
    fake.payments(|of| of.decide(&OrderState::Made));
    assert_eq!(bursar.states(), ["unknown"]);
    is_not_ordered_again(&bursar, &origin, &fake).await;
    is_counted(&bursar, &origin).await;
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_person() {
    let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
    let mut bursar = home(&origin, &fake, 60, LIMITS).serve();
    fake.payments(|of| of.order_state = OrderState::Waits);
    let (agent, site) = (Agent::of(&bursar), origin.address);
    let waiting = tokio::spawn(async move { agent.get(site, "/report").await });
    eventually("an order", || (fake.count(Call::OrderAuthorization) > 0).then_some(())).await;
    assert_eq!(bursar.stop(), 0);
    assert_problem(&waiting.await.unwrap(), 503, "signer-pending");
    assert_eq!(bursar.home.payments(&[])[0]["state"], "unknown");
}

/// What `serve` says when it does not start.
fn does_not_start(home: Home) -> (Home, String) {
    let (home, said) = home
        .try_serve_by(std::process::Command::new(crate::support::bursar::bin()))
        .err()
        .expect("it started");
    assert_eq!(said, "");
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    (home, log)
}

#[tokio::test]
async fn a_wallet_that_does_not_fit_is_reported_at_the_start() {
    let origin = at_a_cent().await;
    let wrong: [(Lie, &str); 3] = [
        (
            |of| of.contract = Address::repeat_byte(9),
            "not in bursar's table of tokens",
        ),
        (|of| of.chain = 8453, "not in bursar's table of tokens"),
        (
            |of| {
                of.chain = 8453;
                of.contract = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913".parse().unwrap();
            },
            "add [networks.\"eip155:8453\"]",
        ),
    ];
    for (lie, message) in wrong {
        let fake = FakeBkey::start(Dialect::Oauth);
        fake.payments(lie);
        let (home, log) = does_not_start(home(&origin, &fake, 50, LIMITS));
        assert!(log.contains("[wallet]: ") && log.contains(message), "{log}");
        fake.payments(|of| *of = Payments::default());
        home.serve();
    }
    let fake = FakeBkey::start(Dialect::Oauth);
    let home = home(&origin, &fake, 50, LIMITS);
    drop(fake);
    let (_, log) = does_not_start(home);
    assert!(log.contains("start again when it is reachable"), "{log}");
}

/// The same BKey asks the person and signs, for one client that only `[approval.ciba]` names.
#[tokio::test]
async fn what_a_person_approves_is_signed_as_the_same_client() {
    let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
    fake.looks_are_every(1);
    fake.decide_next(Decision::Approved);
    let config = format!(
        "[approval]\nbackend = \"ciba\"\nhold_s = 60\n[approval.ciba]\nissuer = \"{}\"\nclient_id = \"{CLIENT_ID}\"\n\
         client_secret = \"file:bkey-secret\"\napprover = \"{APPROVER}\"\n",
        fake.base
    );
    let home = setup()
        .trust(&origin.ca_pem)
        .limits("[agents.research]\ntotal = \"1.00\"\napproval_above = \"0.005\"\n")
        .wallet("[wallet]\nevm = \"bkey\"\n")
        .config(&config)
        .home();
    write_secret(&home);
    let bursar = home.serve();
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(
        events(&bursar),
        ["pay.reserved", "pay.armed", "pay.issued", "pay.settled"]
    );
    let journal = bursar.journal();
    let armed = journal.iter().find(|entry| entry["ev"] == "pay.armed").unwrap();
    assert_eq!(
        (&armed["arm"]["signer"], armed["arm"].get("nonce")),
        (&json!("bkey"), None)
    );
    assert_eq!((fake.count(Call::Ask), fake.count(Call::OrderAuthorization)), (1, 1));
}

/// A shared ledger records the same.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_ledger_records_what_bkey_signs() {
    let database = crate::postgres_cluster::cluster().database().await;
    let (origin, fake) = (at_a_cent().await, FakeBkey::start(Dialect::Oauth));
    let store = format!("[store]\nurl = \"{}\"\n", database.url());
    let home = setup()
        .trust(&origin.ca_pem)
        .limits("[agents.research]\ntotal = \"0.025\"\n")
        .wallet("[wallet]\nevm = \"bkey\"\n")
        .config(&config(&fake, &store, 50))
        .home();
    write_secret(&home);
    let mut bursar = home.serve();
    fake.payments(|of| of.nonce = Some(B256::repeat_byte(7)));
    let agent = Agent::of(&bursar);
    assert_eq!(agent.get(origin.address, "/first").await.status, 200);
    assert_problem(&agent.get(origin.address, "/report?q=1").await, 503, "signing-failed");
    is_not_ordered_again(&bursar, &origin, &fake).await;
    is_counted(&bursar, &origin).await;
    assert_eq!(bursar.stop(), 0);
    let bursar = bursar.kill().serve();
    is_not_ordered_again(&bursar, &origin, &fake).await;
    is_counted(&bursar, &origin).await;
    assert_eq!(bursar.states(), ["settled", "unknown"]);
    assert_eq!(events(&bursar)[..3], ["pay.reserved", "pay.issued", "pay.settled"]);
    assert_eq!(origin.payments().len(), 1);
}

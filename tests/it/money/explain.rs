//! `bursar explain`: why a payment took its offer, and why each other offer of the same 402 was not taken.

use std::sync::Arc;

use http::{HeaderValue, Request};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Home, LIMITS, setup};
use crate::support::mpp::{self, evm};
use crate::support::origin::{Answer, Origin, Seen, Speaks, answer, certificate};
use crate::support::seller::{self, PAYEE, challenge, encoded, requirement};

const DENIED: &str = "0x00000000000000000000000000000000000000B0";
const NETWORKS: &str = "[networks.\"eip155:84532\"]\nrpc = []\n[networks.\"eip155:8453\"]\nrpc = []\n";

fn with_x402(mut asks: Answer, accepts: &[Value]) -> Answer {
    let x402 = encoded(&challenge("/", accepts));
    asks.headers_mut()
        .insert("payment-required", HeaderValue::from_str(&x402).unwrap());
    asks
}

/// `requirement` with other members.
fn changed(amount: &str, members: Value) -> Value {
    let mut requirement = requirement(amount);
    for (name, value) in members.as_object().unwrap() {
        requirement[name] = value.clone();
    }
    requirement
}

/// Every reason for not taking an offer, as far as one 402 can combine them, around an offer of one cent.
fn mixed() -> Answer {
    let base = json!({
        "network": "eip155:8453", "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        "extra": { "name": "USD Coin", "version": "2" }
    });
    let polygon = json!({
        "network": "eip155:137", "asset": "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359",
        "extra": { "name": "USD Coin", "version": "2" }
    });
    let extra = |name: &str, value: &str| json!({ "extra": { "name": "USDC", "version": "2", name: value } });
    let accepts = [
        requirement("10000"),
        requirement("20000"),
        changed("5000", base),
        changed("5000", json!({ "payTo": DENIED })),
        changed("5000", json!({ "amount": 5000 })),
        changed("5000", polygon),
        changed("5000", json!({ "scheme": "escrow" })),
        changed("5000", extra("assetTransferMethod", "permit2")),
        changed("10000", extra("paymentFlow", "upfront")),
    ];
    let stripe = json!({ "amount": "1", "currency": "usd", "methodDetails": { "networkId": "profile_test_x" } });
    let challenges = [
        evm("1000").with("method", "solana"),
        evm("10000"),
        evm("1000").with("expires", "2020-01-01T00:00:00Z"),
        evm("1000").without("request"),
        evm("2000000"),
        evm("1")
            .with("method", "stripe")
            .with("request", &mpp::encoded(&stripe)),
        evm("10000"),
    ];
    with_x402(mpp::asks(&challenges), &accepts)
}

fn others_of_mixed() -> Value {
    let all = [
        ("x402 0", Some("x402"), Some("0.01"), "rail-order", None),
        ("x402 1", Some("x402"), Some("0.02"), "dearer", None),
        (
            "x402 2",
            Some("x402"),
            Some("0.005"),
            "network-not-allowed",
            Some("agents.research.networks"),
        ),
        (
            "x402 3",
            Some("x402"),
            Some("0.005"),
            "payee-not-allowed",
            Some("agents.research.payees.deny"),
        ),
        ("x402 4", None, None, "amount-not-text", None),
        ("x402 5", Some("x402"), Some("0.005"), "network-not-configured", None),
        ("x402 6", None, None, "scheme-unsupported", None),
        (
            "x402 7",
            Some("x402.permit2"),
            Some("0.005"),
            "rail-not-allowed",
            Some("rails"),
        ),
        ("x402 8", Some("x402"), Some("0.01"), "upfront", None),
        ("mpp 0", None, None, "mpp-solana-not-paid", None),
        ("mpp 2", Some("mpp.evm"), Some("0.001"), "challenge-expired", None),
        ("mpp 3", None, None, "mpp-parameter-missing", None),
        (
            "mpp 4",
            Some("mpp.evm"),
            Some("2.00"),
            "over-limit",
            Some("agents.research.per_transaction"),
        ),
        ("mpp 5", Some("mpp.stripe"), Some("0.01"), "stripe-not-configured", None),
        ("mpp 6", Some("mpp.evm"), Some("0.01"), "later", None),
    ];
    let rows = all
        .iter()
        .map(|(at, rail, usd, why, rule)| json!({ "at": at, "rail": rail, "usd": usd, "why": why, "rule": rule }));
    rows.collect()
}

fn buyer(origin: &Origin) -> Bursar {
    let limits = format!("{LIMITS}networks = [\"eip155:84532\"]\npayees = {{ deny = [\"{DENIED}\"] }}\n");
    setup().limits(&limits).config(NETWORKS).trust(&origin.ca_pem).start()
}

/// `explain --json` of the newest payment.
fn explained(home: &Home) -> Value {
    let id = newest(home);
    let output = home.run(&["explain", &id, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let explained: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(explained["id"], id);
    explained
}

fn newest(home: &Home) -> String {
    let newest = home.payments(&[]).pop().unwrap();
    newest["id"].as_str().unwrap().to_owned()
}

/// `others` without their sentences; each must have one.
fn others(explained: &Value) -> Value {
    let mut others = explained["others"].clone();
    for other in others.as_array_mut().unwrap() {
        let detail = other.as_object_mut().unwrap().remove("detail").unwrap();
        assert!(!detail.as_str().unwrap().is_empty(), "{other}");
    }
    others
}

/// `at` and `why` of each.
fn reasons(explained: &Value) -> Vec<(&str, &str)> {
    let others = explained["others"].as_array().unwrap().iter();
    others
        .map(|other| (other["at"].as_str().unwrap(), other["why"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn every_other_offer_of_a_402_is_explained_with_and_without_a_server() {
    let origin = Origin::https(|request: Seen| async move {
        match request.is_paid() {
            true => mpp::sold("goods"),
            false => mixed(),
        }
    })
    .await;
    let mut bursar = buyer(&origin);
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 200);

    let running = explained(&bursar.home);
    let id = running["id"].as_str().unwrap();
    let chosen = json!({
        "id": id, "state": "settled", "merchant": "localhost", "rail": "mpp.evm", "usd": "0.01", "why": "preferred",
        "others": running["others"]
    });
    assert_eq!(running, chosen);
    assert_eq!(others(&running), others_of_mixed());

    let text = String::from_utf8(bursar.run(&["explain", id]).stdout).unwrap();
    let mut lines = text.lines();
    let first = format!(
        "Payment {id} (settled): 0.01 USD to localhost over mpp.evm, the first of the cheapest offers that the limits \
         allow."
    );
    assert_eq!(lines.next(), Some(&*first));
    assert_eq!(lines.next(), Some("Not taken:"));
    assert_eq!(lines.count(), 15);
    for line in [
        "  x402 0  x402           0.01 USD  same price; mpp.evm comes before x402 in `rails`\n",
        "  x402 3  x402          0.005 USD  agents.research.payees.deny in limits.toml did not allow this payee\n",
        "  mpp 0   -                     -  mpp-solana-not-paid: The offer is for MPP's solana method, which bursar does not support.\n",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }

    // Only the journal is read (R57).
    assert_eq!(bursar.stop(), 0);
    std::fs::remove_dir_all(bursar.path().join("index")).unwrap();
    assert_eq!(explained(&bursar.home), running);
}

#[tokio::test]
async fn a_kill_between_reserving_and_the_answer_loses_no_reason() {
    let holds = Arc::new(Notify::new());
    let held = holds.clone();
    let origin = Origin::https(move |request: Seen| {
        let held = held.clone();
        async move {
            if request.is_paid() {
                held.notify_one();
                std::future::pending().await
            }
            mixed()
        }
    })
    .await;
    let mut bursar = buyer(&origin);
    let (agent, address) = (Agent::of(&bursar), origin.address);
    let asking = tokio::spawn(async move {
        let mut connection = agent.connect(address, &["http/1.1"]).await;
        let request = Request::get("/").body(http_body_util::Full::default()).unwrap();
        connection.send(address, request).await.is_err()
    });
    holds.notified().await;
    let home = bursar.kill();
    assert!(asking.await.unwrap(), "nobody answered");

    let dead = explained(&home);
    assert_eq!((&dead["state"], &dead["why"]), (&json!("armed"), &json!("preferred")));
    assert_eq!(others(&dead), others_of_mixed());
    let bursar = home.serve();
    let restarted = explained(&bursar.home);
    assert_eq!(restarted["state"], "unknown");
    assert_eq!(restarted["others"], dead["others"]);
}

#[tokio::test]
async fn an_offer_that_turns_out_to_be_used_up_or_for_another_body_is_explained() {
    let origin = Origin::https(|request: Seen| async move {
        if request.is_paid() {
            return mpp::sold("goods");
        }
        let mpp = match request.target.as_str() {
            "/used" => evm("10000").with("id", "the-one"),
            // Of `{"q":"hello"}`.
            _ => evm("10000").with("digest", "sha-256=CFdtBA5fXO1HaQ8sdv75T9kcnF5ed8M5LhPNrKzrx/I="),
        };
        with_x402(mpp::asks(&[mpp]), &[requirement("20000"), requirement("30000")])
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    agent.get(origin.address, "/used").await;
    let first = explained(&bursar.home);
    assert_eq!((&first["rail"], &first["why"]), (&json!("mpp.evm"), &json!("cheapest")));
    assert_eq!(reasons(&first), [("x402 0", "dearer"), ("x402 1", "dearer")]);

    agent.get(origin.address, "/used").await;
    let second = explained(&bursar.home);
    assert_eq!((&second["rail"], &second["usd"]), (&json!("x402"), &json!("0.02")));
    assert_eq!(reasons(&second), [("x402 1", "dearer"), ("mpp 0", "challenge-used")]);
    assert_eq!(
        others(&second)[1],
        json!({ "at": "mpp 0", "rail": "mpp.evm", "usd": "0.01", "why": "challenge-used", "rule": null })
    );

    agent.post(origin.address, "/", &b"{\"q\":\"bye\"}"[..]).await;
    let third = explained(&bursar.home);
    assert_eq!(reasons(&third), [("x402 1", "dearer"), ("mpp 0", "digest-mismatch")]);
    // The earlier record is unchanged.
    assert_eq!(bursar.payments().len(), 3);
    let again = bursar.run(&["explain", first["id"].as_str().unwrap(), "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap(), first);
}

#[tokio::test]
async fn what_the_chain_does_not_allow_is_explained() {
    // A node where the wallet holds enough but has no Permit2 allowance.
    let node = |request: Seen| async move {
        let question: Value = serde_json::from_slice(&request.body).unwrap();
        let asks_allowance = question["params"].to_string().contains("0xdd62ed3e");
        let result = match question["method"].as_str().unwrap() {
            "eth_chainId" => "0x14a34".to_owned(),
            _ if asks_allowance => format!("0x{:064x}", 0),
            _ => format!("0x{:064x}", 1_000_000_000),
        };
        let said = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
        answer(200, &[("content-type", "application/json")], said.to_string())
    };
    let node = Origin::start(Speaks::Plain, certificate(&["localhost"], |_| {}), node).await;
    let origin = Origin::https(|request: Seen| async move {
        if request.is_paid() {
            return seller::sold("goods");
        }
        let permit2 = json!({ "extra": { "name": "USDC", "version": "2", "assetTransferMethod": "permit2" } });
        seller::v2(&challenge("/", &[changed("5000", permit2), requirement("10000")]))
    })
    .await;
    let network = format!(
        "[networks.\"eip155:84532\"]\nrpc = [\"http://127.0.0.1:{}\"]\n",
        node.address.port()
    );
    let bursar = setup()
        .limits(&format!("rails = [\"x402.permit2\", \"x402\"]\n{LIMITS}"))
        .config(&network)
        .trust(&origin.ca_pem)
        .start();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 200);
    let explained = explained(&bursar.home);
    assert_eq!(
        (&explained["rail"], &explained["why"]),
        (&json!("x402"), &json!("only-allowed"))
    );
    assert_eq!(
        others(&explained),
        json!([{ "at": "x402 0", "rail": "x402.permit2", "usd": "0.005", "why": "allowance-missing", "rule": null }])
    );
}

#[tokio::test]
async fn a_single_offer_and_an_unknown_payment_id_are_explained() {
    let origin = seller::shop().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 200);
    let alone = explained(&bursar.home);
    assert_eq!(
        (&alone["why"], &alone["others"]),
        (&json!("no-others-recorded"), &json!([]))
    );
    // Nothing is written if there is nothing to explain.
    let journal = bursar.journal();
    let reserved = journal.iter().find(|entry| entry["ev"] == "pay.reserved").unwrap();
    assert!(reserved.get("others").is_none(), "{reserved}");
    assert_eq!(reserved["payee"], PAYEE.to_lowercase());

    let nobody = "01a1f8b7-7082-7a04-a377-0dc81aefda02";
    for (id, code, words) in [(nobody, 1, "bursar payments list"), ("nonsense", 2, "not a payment id")] {
        let output = bursar.run(&["explain", id]);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(code), &b""[..]));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(id) && said.contains(words), "{said}");
    }
}

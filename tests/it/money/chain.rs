//! Against real counterparts (`tests/interop`): what counts is what moved on the chain, not what anybody claims.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::agent::Agent;
use crate::support::bursar::bursar;
use crate::support::buyer::{Buyer, Transfer, buyer, buyer_within, fund, lab, site};
use crate::support::lab::Lab;
use crate::support::seller;

const CENT: u128 = 10_000;
pub(crate) const FUNDS: u128 = 1_000_000;

/// One cent went to the seller, once, and the ledger names the transaction that moved it.
pub(crate) fn assert_one_cent_moved(buyer: &Buyer, lab: &Lab) -> Value {
    let payments = buyer.bursar.payments();
    assert_eq!(payments.len(), 1, "{payments:?}");
    let tx = payments[0]["tx"].as_str().unwrap_or_else(|| panic!("{payments:?}"));
    let moved = Transfer {
        to: lab.pay_to.to_lowercase(),
        atoms: CENT,
        tx: tx.to_owned(),
    };
    assert_eq!(buyer.transfers(), [moved]);
    assert_eq!(buyer.balance(), FUNDS - CENT);
    assert_eq!(payments[0]["state"], "settled");
    assert_eq!(payments[0]["by"], "merchant");
    assert_eq!(payments[0]["amount"], "10000");
    assert_eq!(payments[0]["amount_decimal"], "0.01");

    // The ledger names the authorization that the facilitator cashed.
    let seen = lab.seen(&lab.facilitator);
    let cashed = seen["settlements"].as_array().unwrap().iter();
    let cashed: Vec<&Value> = cashed.filter(|settlement| settlement["transaction"] == tx).collect();
    assert_eq!(cashed.len(), 1, "{seen}");
    assert_eq!(cashed[0]["nonce"], payments[0]["nonce"]);
    assert_eq!(cashed[0]["from"], buyer.wallet.as_str());
    payments[0].clone()
}

#[tokio::test]
async fn a_v2_purchase_moves_the_money_once() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v2), "/paid").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.json()["paid"], true);
    let payment = assert_one_cent_moved(&buyer, lab);
    let receipt = seller::decoded(page.header("payment-response").unwrap());
    assert_eq!(receipt["transaction"], payment["tx"]);
    assert_eq!(page.header("bursar-payment"), payment["id"].as_str());
}

#[tokio::test]
async fn a_v1_purchase_moves_the_money_once() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v1), "/v1/paid").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.json()["path"], "/v1/paid");
    let payment = assert_one_cent_moved(&buyer, lab);
    let receipt = seller::decoded(page.header("x-payment-response").unwrap());
    assert_eq!(receipt["transaction"], payment["tx"]);
}

#[tokio::test]
async fn the_paid_repetition_carries_the_same_300_kilobytes() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let body: Vec<u8> = (0..300_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let request = Request::post("/echo")
        .header("content-type", "application/octet-stream")
        .header("x-of-the-agent", "1")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let page = Agent::of(&buyer.bursar).send(site(&lab.v2), request).await;
    assert_eq!(page.status, 200);
    let echoed = page.json();
    assert_eq!(echoed["length"], 300_000);
    assert_eq!(echoed["sha256"], digest);
    // The credential is the only field that was added, and no trace of the proxy is visible.
    let fields: Vec<&str> = echoed["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "content-length",
            "content-type",
            "host",
            "payment-signature",
            "x-of-the-agent"
        ]
    );
    assert_one_cent_moved(&buyer, lab);
}

#[tokio::test]
async fn a_paid_event_stream_arrives_whole() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v2), "/stream").await;
    assert!(page.header("content-type").unwrap().starts_with("text/event-stream"));
    assert_eq!(page.body.windows(11).filter(|line| line == b"event: tick").count(), 5);
    assert_one_cent_moved(&buyer, lab);
}

#[tokio::test]
async fn the_payment_identifier_is_the_payment_id() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v2), "/id").await;
    assert_eq!(page.status, 200, "{page:?}");
    let payment = assert_one_cent_moved(&buyer, lab);
    let id = payment["id"].as_str().unwrap().replace('-', "");
    assert_eq!(page.json()["identifier"], format!("pay_{id}"));
}

#[tokio::test]
async fn the_cheapest_payable_offer_of_several_is_taken() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v2), "/multi").await;
    assert_eq!(page.status, 200);
    let payment = assert_one_cent_moved(&buyer, lab);
    assert_eq!(payment["network"], "eip155:84532");
    assert_eq!(
        payment["asset"].as_str().unwrap().to_lowercase(),
        format!("eip155:84532/erc20:{}", lab.token.to_lowercase())
    );
}

#[tokio::test]
async fn a_seller_that_settles_before_it_serves_is_paid() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v2), "/upfront").await;
    assert_eq!(page.status, 200);
    assert_one_cent_moved(&buyer, lab);
}

#[tokio::test]
async fn a_sellers_own_failure_reaches_the_agent_and_stays_counted() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v2), "/broken").await;
    assert_eq!(page.status, 500);
    assert_eq!(page.json()["error"], "the handler failed");
    let payment = &buyer.bursar.payments()[0];
    assert_eq!(payment["state"], "unknown");
    assert_eq!(payment["reason"], "no-receipt");
    assert!(payment["tx"].is_null());
    assert_eq!(page.header("bursar-payment"), payment["id"].as_str());
    assert_eq!((buyer.transfers(), buyer.balance()), (vec![], FUNDS));
}

#[tokio::test]
async fn money_whose_answer_was_lost_is_counted_and_can_be_closed_by_hand() {
    let Some(lab) = lab() else { return };
    let limits = "timezone = \"UTC\"\n[agents.research]\nday = \"0.015\"\n";
    let buyer = buyer_within(lab, FUNDS, limits);
    let agent = Agent::of(&buyer.bursar);
    let page = agent.get(site(&lab.v2), "/lost").await;
    assert_eq!(page.status, 502);
    assert_eq!(page.problem(), "answer-lost");
    let payment = buyer.bursar.payments().remove(0);
    let id = payment["id"].as_str().unwrap();
    assert_eq!(payment["state"], "unknown");
    assert_eq!(page.header("bursar-payment"), Some(id));
    assert_eq!(page.json()["payment"], id, "{page:?}");
    assert_eq!(
        buyer.transfers().len(),
        1,
        "the seller has the money although the answer was lost"
    );
    assert_eq!(buyer.balance(), FUNDS - CENT);

    // It counts: the rest of the budget is half a cent.
    let next = agent.get(site(&lab.v2), "/paid").await;
    assert_eq!(next.status, 403);
    assert_eq!(next.problem(), "over-limit");
    assert_eq!(buyer.transfers().len(), 1);

    let why = "the explorer shows the transfer";
    let closed = bursar(
        buyer.bursar.path(),
        &["payments", "resolve", id, "--settled", "--why", why],
    );
    assert!(closed.status.success(), "{closed:?}");
    assert_eq!(buyer.bursar.states(), ["settled"]);
    assert_eq!(agent.get(site(&lab.v2), "/paid").await.status, 403);
}

#[tokio::test]
async fn what_the_limits_refuse_never_reaches_the_chain() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, 10_000_000);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v2), "/dear").await;
    assert_eq!(page.status, 403);
    assert_eq!(page.problem(), "over-limit");
    assert_eq!(page.json()["rule"], "agents.research.per_transaction");
    assert_eq!(page.json()["asked"], "5.00");
    assert_eq!((buyer.transfers(), buyer.balance()), (vec![], 10_000_000));
    assert_eq!(buyer.bursar.payments(), Vec::<Value>::new());
    assert_eq!(lab.seen(&lab.v2)["routes"]["GET /dear"]["with_payment"], 0);
}

#[tokio::test]
async fn purchases_side_by_side_settle_once_each() {
    const PURCHASES: usize = 8;
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let agent = Agent::of(&buyer.bursar);
    let (v2, v1) = (site(&lab.v2), site(&lab.v1));
    let shop = |i: usize| {
        let agent = &agent;
        async move {
            match i % 2 {
                0 => agent.get(v2, "/paid").await.status,
                _ => agent.get(v1, "/v1/paid").await.status,
            }
        }
    };
    let statuses = join_all((0..PURCHASES).map(shop)).await;
    assert_eq!(statuses, [http::StatusCode::OK; PURCHASES]);

    let mut on_chain: Vec<String> = buyer.transfers().into_iter().map(|transfer| transfer.tx).collect();
    let booked = |payment: &Value| payment["tx"].as_str().unwrap().to_owned();
    let mut recorded: Vec<String> = buyer.bursar.payments().iter().map(booked).collect();
    on_chain.sort();
    recorded.sort();
    assert_eq!(on_chain, recorded);
    assert_eq!(on_chain.len(), PURCHASES);
    assert_eq!(buyer.balance(), FUNDS - CENT * PURCHASES as u128);
    assert_eq!(buyer.bursar.states(), ["settled"; PURCHASES]);
}

#[tokio::test]
async fn an_empty_wallet_refuses_until_it_is_funded() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, 0);
    // The chain is queried in the background; the result is in the log.
    eventually("the balance is known", || buyer.bursar.log().contains("wallet balance"));
    let agent = Agent::of(&buyer.bursar);
    let page = agent.get(site(&lab.v2), "/paid").await;
    assert_eq!(page.status, 403);
    assert_eq!(page.problem(), "wallet-insufficient");
    assert!(
        page.json()["detail"].as_str().unwrap().contains(&buyer.wallet),
        "{page:?}"
    );
    assert_eq!(buyer.bursar.payments(), Vec::<Value>::new());

    fund(lab, &buyer.wallet, FUNDS);
    let began = Instant::now();
    let mut status = page.status;
    while status != 200 && began.elapsed() < Duration::from_secs(30) {
        status = agent.get(site(&lab.v2), "/paid").await.status;
    }
    assert_eq!(status, 200, "the server found the money");
    assert_one_cent_moved(&buyer, lab);
}

#[tokio::test]
async fn wallet_show_prints_the_balances_on_the_chain() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, 1_234_567);
    let text = bursar_shows_wallet(buyer.bursar.path());
    assert!(text.starts_with(&format!("{}\n", buyer.wallet)), "{text}");
    assert!(text.contains("1.234567 USDC"), "{text}");

    Agent::of(&buyer.bursar).get(site(&lab.v2), "/paid").await;
    let shown = bursar(buyer.bursar.path(), &["wallet", "show", "--json"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let usdc = lines.iter().find(|line| line["symbol"] == "USDC").unwrap();
    assert_eq!(usdc["balance"], "1.224567");
    assert_eq!(usdc["atoms"], buyer.balance().to_string());
    assert_eq!(usdc["network"], "eip155:84532");
    assert!(usdc["error"].is_null());
}

#[tokio::test]
async fn a_node_of_another_chain_is_not_believed() {
    let Some(lab) = lab() else { return };
    let mut buyer = buyer(lab, FUNDS);
    let home = buyer.bursar.kill();
    let config = std::fs::read_to_string(home.path().join("bursar.toml")).unwrap();
    // The lab's chain reports chain id 84532.
    std::fs::write(
        home.path().join("bursar.toml"),
        config.replace("eip155:84532", "eip155:8453"),
    )
    .unwrap();
    let bursar = home.serve();
    eventually("the wrong node is detected", || {
        bursar.log().contains("serves eip155:84532, not eip155:8453")
    });
    let shown = bursar_shows_wallet(bursar.path());
    assert!(
        shown.contains("unknown USDC") && shown.contains("serves eip155:84532"),
        "{shown}"
    );
    // Its offer is on a network that we no longer use: passed on, unpaid.
    let page = Agent::of(&bursar).get(site(&lab.v2), "/paid").await;
    assert_eq!(page.status, 402);
    assert!(page.header("proxy-status").unwrap().contains("network"), "{page:?}");
    assert_eq!(buyer.transfers(), []);
}

fn bursar_shows_wallet(dir: &std::path::Path) -> String {
    let shown = bursar(dir, &["wallet", "show"]);
    assert!(shown.status.success(), "{shown:?}");
    String::from_utf8(shown.stdout).unwrap()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "not in time: {what}");
        std::thread::yield_now();
    }
}

/// All concurrently, on this task.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut running {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        match running.iter().all(|(_, output)| output.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

//! The wallet's balance as the operator's node reports it: too little refuses payments, and a silent node blocks
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::bursar::{WALLET, eventually, setup};
use crate::support::origin::{Origin, Seen, Speaks, answer, certificate};
use crate::support::seller::shop;

/// A Base Sepolia node that reports `balance` atoms of every token.
async fn node(balance: Arc<AtomicU64>) -> Origin {
    let script = move |request: Seen| {
        let balance = balance.load(Ordering::SeqCst);
        async move {
            let question: Value = serde_json::from_slice(&request.body).unwrap();
            let result = match question["method"].as_str().unwrap() {
                "eth_chainId" => "0x14a34".to_owned(),
                _ => format!("0x{balance:064x}"),
            };
            let said = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
            answer(200, &[("content-type", "application/json")], said.to_string())
        }
    };
    Origin::start(Speaks::Plain, certificate(&["localhost"], |_| {}), script).await
}

fn network(node: &Origin) -> String {
    format!(
        "[networks.\"eip155:84532\"]\nrpc = [\"http://127.0.0.1:{}\"]\n",
        node.address.port()
    )
}

#[tokio::test]
async fn what_the_wallet_cannot_cover_is_refused_until_it_is_funded() {
    let origin = shop().await;
    let balance = Arc::new(AtomicU64::new(9_999));
    let node = node(balance.clone()).await;
    let bursar = setup().trust(&origin.ca_pem).config(&network(&node)).start();
    let agent = Agent::of(&bursar);
    let began = Instant::now();
    // Until the node has answered the balance is unknown, and nothing is refused because of it.
    let page = loop {
        let page = agent.get(origin.address, "/").await;
        if page.status == 403 {
            break page;
        }
        assert!(began.elapsed() < Duration::from_secs(60));
    };
    assert_eq!(page.problem(), "wallet-insufficient");
    assert_eq!(page.json()["retryable"], false);
    let detail = page.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.starts_with("The wallet holds less than 0.01 USDC on eip155:84532."),
        "{detail}"
    );
    assert!(detail.contains(WALLET), "{detail}");
    let before = origin.payments().len();
    let refused = eventually("the refusal is on record", || bursar.refusals().pop()).await;
    assert_eq!(refused["reason"], "wallet-insufficient");

    balance.store(10_000, Ordering::SeqCst);
    loop {
        let page = agent.get(origin.address, "/").await;
        if page.status == 200 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60));
    }
    assert_eq!(origin.payments().len(), before + 1);
}

#[tokio::test]
async fn a_node_that_never_answers_holds_up_neither_payments_nor_the_end() {
    let origin = shop().await;
    let silent = |_| std::future::pending();
    let silent = Origin::start(Speaks::Plain, certificate(&["localhost"], |_| {}), silent).await;
    let mut bursar = setup().trust(&origin.ca_pem).config(&network(&silent)).start();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 200);
    eventually("the node is asked", || (!silent.seen().is_empty()).then_some(())).await;
    let began = Instant::now();
    assert_eq!(bursar.stop(), 0);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "stopped after {:?}",
        began.elapsed()
    );
}

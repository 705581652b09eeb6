//! Buying from the sandbox over real TLS, with the tests' own payer and client.

mod chain;
mod client;
mod over_mpp;
pub(crate) mod payer;
mod reference;
mod refusals;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::hex;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Funding, Options, Sandbox};
use bursar_core::clock::ManualClock;
use bursar_core::money::Atoms;
use client::{Client, Protocol};
use payer::{Payer, encode};

const NOW: u64 = 1_760_000_000;

/// A sandbox whose clock stands still, and a payer with one sandbox USDC.
async fn open(event_pause: Duration) -> (Sandbox, Payer) {
    let options = Options {
        clock: Arc::new(ManualClock::at(Timestamp::from_second(NOW as i64).unwrap())),
        event_pause,
        ..Options::default()
    };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sandbox = Sandbox::start(listen, options).await.unwrap();
    let payer = Payer::named("buyer");
    sandbox.token().fund(payer.address(), Atoms::new(1_000_000)).unwrap();
    (sandbox, payer)
}

fn assert_paid(sandbox: &Sandbox, payer: &Payer, total: u128) {
    assert_eq!(sandbox.token().balance_of(sandbox.pay_to()), Atoms::new(total));
    assert_eq!(
        sandbox.token().balance_of(payer.address()),
        Atoms::new(1_000_000 - total)
    );
}

#[tokio::test]
async fn a_v2_purchase_is_settled_and_has_a_receipt() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (sandbox, payer) = open(Duration::ZERO).await;
        let mut client = Client::connect(&sandbox, protocol).await;
        let challenge = client.get("/v2/quote?of=BRSR").await.v2_challenge();
        assert_eq!(challenge["error"], "Payment required");
        assert_eq!(
            challenge["resource"]["url"],
            format!("{}/v2/quote?of=BRSR", sandbox.base_url())
        );

        let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
        let answer = client
            .pay("/v2/quote?of=BRSR", &payer.v2(&challenge, &authorization))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{protocol:?} {answer:?}");
        assert_eq!(answer.headers["cache-control"], "private");
        assert_eq!(answer.json()["symbol"], "BRSR");
        let transfers = sandbox.token().transfers();
        assert_eq!(
            answer.decoded("payment-response"),
            json!({
                "success": true,
                "transaction": transfers[0].transaction,
                "network": "eip155:84532",
                "payer": payer.address().to_checksum(None),
            })
        );
        assert_eq!(transfers.len(), 1);
        assert_paid(&sandbox, &payer, 10_000);
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn a_v1_purchase_is_settled_and_has_a_receipt() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    for (path, price, nonce) in [("/v1/weather", 5_000, "one"), ("/v1/joke", 1_000, "two")] {
        let unpaid = client.get(path).await;
        assert!(unpaid.headers.get("payment-required").is_none());
        let challenge = unpaid.v1_challenge();
        assert_eq!(challenge["error"], "X-PAYMENT header is required");
        let requirement = &challenge["accepts"][0];
        assert_eq!(requirement["maxAmountRequired"], price.to_string());

        let authorization = payer.authorize(requirement, NOW, nonce);
        let answer = client.pay_v1(path, &payer.v1(&challenge, &authorization)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let receipt = answer.decoded("x-payment-response");
        assert_eq!(receipt["success"], true);
        assert_eq!(receipt["network"], "base-sepolia");
        assert!(!answer.body.is_empty());
    }
    assert_paid(&sandbox, &payer, 6_000);
}

#[tokio::test]
async fn sixteen_presentations_of_one_authorization_move_money_once() {
    for (path, challenge_in_header) in [("/v2/quote", true), ("/v1/weather", false)] {
        let (sandbox, payer) = open(Duration::ZERO).await;
        let mut client = Client::connect(&sandbox, Protocol::Http1).await;
        let unpaid = client.get(path).await;
        let (name, header, price) = if challenge_in_header {
            let challenge = unpaid.v2_challenge();
            let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
            let payload = payer.v2(&challenge, &authorization);
            ("PAYMENT-SIGNATURE", encode(&payload), 10_000)
        } else {
            let challenge = unpaid.v1_challenge();
            let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
            let payload = payer.v1(&challenge, &authorization);
            ("X-PAYMENT", encode(&payload), 5_000)
        };
        let mut clients = Vec::new();
        for n in 0..16 {
            let protocol = if n % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 };
            clients.push(Client::connect(&sandbox, protocol).await);
        }
        let mut presentations = tokio::task::JoinSet::new();
        for mut client in clients {
            let header = header.clone();
            presentations.spawn(async move { client.send(Method::GET, path, Some((name, &header)), "").await.status });
        }
        let statuses = presentations.join_all().await;
        let sold = statuses.iter().filter(|status| **status == StatusCode::OK).count();
        let refused = statuses
            .iter()
            .filter(|status| **status == StatusCode::PAYMENT_REQUIRED)
            .count();
        assert_eq!((sold, refused), (1, 15), "{statuses:?}");
        assert_eq!(sandbox.token().transfers().len(), 1);
        assert_paid(&sandbox, &payer, price);
    }
}

#[tokio::test]
async fn a_translation_is_paid_with_its_body() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http2).await;
    let order = r#"{"text":"Good morning, world"}"#;
    let challenge = client
        .send(Method::POST, "/v2/translate", None, order)
        .await
        .v2_challenge();
    let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let header = encode(&payer.v2(&challenge, &authorization));
    let payment = Some(("payment-signature", header.as_str()));

    let unfillable = client.send(Method::POST, "/v2/translate", payment, "{}").await;
    assert_eq!(unfillable.status, StatusCode::BAD_REQUEST);
    assert_paid(&sandbox, &payer, 0);

    let answer = client.send(Method::POST, "/v2/translate", payment, order).await;
    assert_eq!(answer.json()["text"], "gut Morgen, Welt");
    assert_paid(&sandbox, &payer, 20_000);
}

#[tokio::test]
async fn a_stream_begins_before_it_is_complete_and_carries_its_receipt() {
    // With an hour between events, a first event that arrives can only have been sent by itself.
    let (sandbox, payer) = open(Duration::from_secs(3600)).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v2/stream").await.v2_challenge();
    let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let header = encode(&payer.v2(&challenge, &authorization));
    let mut answer = client
        .open(Method::GET, "/v2/stream", Some(("PAYMENT-SIGNATURE", &header)), "")
        .await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert!(answer.headers().contains_key("payment-response"));
    let first = answer.body_mut().frame().await.unwrap().unwrap();
    assert!(first.into_data().unwrap().starts_with(b"id: 1\ndata: "));
    assert_paid(&sandbox, &payer, 50_000);
}

#[tokio::test]
async fn an_identified_payment_is_answered_again_without_paying_again() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v2/report").await.v2_challenge();
    let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let mut payload = payer.v2(&challenge, &authorization);
    payload["extensions"]["payment-identifier"]["info"]["id"] = "pay_0123456789abcdef".into();

    let first = client.pay("/v2/report", &payload).await;
    let again = client.pay("/v2/report", &payload).await;
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    assert_eq!(again.status, StatusCode::OK);
    assert_eq!(first.body, again.body);
    assert_eq!(first.headers["payment-response"], again.headers["payment-response"]);

    let anew = payer.authorize(&challenge["accepts"][0], NOW, "two");
    payload["payload"] = payer.exact(&anew);
    let conflict = client.pay("/v2/report", &payload).await;
    assert_eq!(conflict.status, StatusCode::CONFLICT);
    assert_paid(&sandbox, &payer, 250_000);
}

#[tokio::test]
async fn what_is_free_is_free_and_the_index_says_what_is_not() {
    let (sandbox, _) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http2).await;
    let index = client.get("/").await;
    assert_eq!(index.headers["content-type"], "text/plain; charset=utf-8");
    assert!(String::from_utf8_lossy(&index.body).contains("/v2/dataset"));
    let (one, two) = (client.get("/free").await, client.get("/free").await);
    assert_eq!(one.status, StatusCode::OK);
    assert_ne!(one.body, two.body);
    assert_eq!(client.get("/nothing").await.status, StatusCode::NOT_FOUND);
    let posted = client.send(Method::POST, "/v2/quote", None, "").await;
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(posted.headers["allow"], "GET");
    let head = client.send(Method::HEAD, "/v2/quote", None, "").await;
    assert!(head.body.is_empty());
    assert_eq!(head.v2_challenge()["accepts"][0]["amount"], "10000");
    let long = "x".repeat((64 << 10) + 1);
    let posted = client.send(Method::POST, "/v2/translate", None, &long).await;
    assert_eq!(posted.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn every_address_may_be_funded_on_first_sight_and_read_over_rpc() {
    let options = Options {
        funding: Funding::FirstSight(Atoms::new(5_000_000)),
        names: vec!["seller.internal".to_owned()],
        ..Options::default()
    };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sandbox = Sandbox::start(listen, options).await.unwrap();
    let mut client = Client::connect_as(&sandbox, Protocol::Http1, "seller.internal")
        .await
        .unwrap();
    let unknown = Client::connect_as(&sandbox, Protocol::Http1, "other.internal").await;
    assert!(
        unknown.is_err(),
        "the certificate was accepted for a name it was not issued for"
    );

    let payer = Payer::named("never seen before");
    let balance = |holder: &[u8]| {
        let input = format!("0x70a08231000000000000000000000000{}", hex::encode(holder));
        json!({
            "jsonrpc": "2.0", "id": 1, "method": "eth_call",
            "params": [{ "to": "0x036cbd53842c5426634e7929541ec2318f3dcf7e", "data": input }, "latest"],
        })
        .to_string()
    };
    for (holder, atoms) in [(payer.address(), 5_000_000), (sandbox.pay_to(), 0)] {
        let answer = client
            .send(Method::POST, "/rpc", None, &balance(holder.as_slice()))
            .await;
        assert_eq!(answer.json()["result"], Value::from(format!("0x{atoms:064x}")));
    }
    assert_eq!(sandbox.token().balance_of(sandbox.pay_to()), Atoms::new(0));
}

#[tokio::test]
async fn a_stop_lets_an_answer_finish_and_takes_no_more() {
    let (sandbox, payer) = open(Duration::from_millis(5)).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v2/stream").await.v2_challenge();
    let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let header = encode(&payer.v2(&challenge, &authorization));
    let answer = client
        .open(Method::GET, "/v2/stream", Some(("PAYMENT-SIGNATURE", &header)), "")
        .await;
    let address = sandbox.address();
    let (body, ()) = tokio::join!(answer.into_body().collect(), sandbox.stop());
    let body = body.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("event: end"));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_dropped_sandbox_waits_for_nothing() {
    let (sandbox, payer) = open(Duration::from_secs(3600)).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v2/stream").await.v2_challenge();
    let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let header = encode(&payer.v2(&challenge, &authorization));
    let answer = client
        .open(Method::GET, "/v2/stream", Some(("PAYMENT-SIGNATURE", &header)), "")
        .await;
    drop(sandbox);
    assert!(answer.into_body().collect().await.is_err());
}

//! Sellers that misbehave once they hold a payment: one credential is sent, its answer comes back unchanged, and the
//! ledger claims no more than is known.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, WALLET, eventually, setup};
use crate::support::origin::{Origin, Parts, Raw, answer, read_request, streamed};
use crate::support::seller::{self, TX, challenge, encoded, receipt, requirement};

#[tokio::test]
async fn an_answer_after_payment_is_passed_on_byte_for_byte_with_the_payment_named() {
    let again = challenge("/", &[requirement("900000")]);
    let text = encoded(&again);
    let second = text.clone();
    let origin = Origin::https(move |request| {
        let second = second.clone();
        async move {
            match (request.is_paid(), request.target.as_str()) {
                (false, "/next") => answer(200, &[], "free"),
                (false, _) => seller::asks("10000"),
                (true, "/402") => {
                    let fields = [
                        ("payment-required", second.as_str()),
                        ("bursar-payment", "forged"),
                        ("x-b", "2"),
                    ];
                    answer(402, &fields, "\u{0}pay me again\r\n")
                }
                (true, _) => {
                    let fields = [
                        ("location", "https://elsewhere.example/x"),
                        ("bursar-approved", "yes"),
                        ("set-cookie", "a=1"),
                        ("set-cookie", "b=2"),
                    ];
                    answer(307, &fields, "")
                }
            }
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);

    let page = agent.get(origin.address, "/402").await;
    assert_eq!(
        (page.status.as_u16(), &page.body[..]),
        (402, &b"\0pay me again\r\n"[..])
    );
    assert_eq!(page.header("payment-required"), Some(text.as_str()));
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"still-402-after-payment\"")
    );
    assert_eq!(page.header("bursar-payment"), bursar.payments()[0]["id"].as_str());
    assert_eq!(page.headers.get_all("bursar-payment").iter().count(), 1);

    let page = agent.get(origin.address, "/307").await;
    assert_eq!(page.status, 307);
    assert_eq!(page.header("location"), Some("https://elsewhere.example/x"));
    assert!(!page.headers.contains_key("bursar-approved"));
    assert_eq!(page.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(page.header("bursar-payment"), bursar.payments()[1]["id"].as_str());

    // The agent follows redirects itself, without anything of the payment.
    let page = agent.get(origin.address, "/next").await;
    assert_eq!(page.status, 200);
    assert!(!page.headers.contains_key("bursar-payment"));
    assert_eq!(origin.payments().len(), 2);
}

#[tokio::test]
async fn a_seller_that_takes_and_never_gives_is_stopped_by_the_budget() {
    let origin = Origin::https(|_| async { seller::asks("10000") }).await;
    let limits = "timezone = \"UTC\"\n[agents.research]\nday = \"0.03\"\n";
    let bursar = setup().limits(limits).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for number in 0..3 {
        assert_eq!(agent.get(origin.address, &format!("/{number}")).await.status, 402);
    }
    let page = agent.get(origin.address, "/3").await;
    assert_eq!(page.status, 403);
    let problem = page.json();
    assert_eq!(
        (&problem["used"], &problem["reserved"]),
        (&json!("0.00"), &json!("0.03"))
    );
    let mut nonces: Vec<_> = origin
        .payments()
        .iter()
        .map(|credential| seller::signed(credential).0)
        .collect();
    assert_eq!(nonces.len(), 3);
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), 3, "each purchase has a nonce of its own");
    assert_eq!(bursar.states(), ["unknown", "unknown", "unknown"]);
}

/// A seller that asks for payment on every request, and after payment writes `said` and drops the connection.
async fn breaks_off(said: &'static [u8]) -> (Origin, Arc<Mutex<Vec<Raw>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let origin = Origin::raw(move |mut stream, _| {
        let log = log.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let paid = request.is_paid();
                log.lock().unwrap().push(request);
                if paid {
                    stream.write_all(said).await.unwrap();
                    stream.flush().await.unwrap();
                    return;
                }
                let challenge = encoded(&challenge("/", &[requirement("10000")]));
                let head = format!("HTTP/1.1 402 Pay\r\npayment-required: {challenge}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (origin, seen)
}

fn one_credential(seen: &Mutex<Vec<Raw>>) {
    let seen = seen.lock().unwrap();
    let asked: Vec<bool> = seen.iter().map(Raw::is_paid).collect();
    assert_eq!(asked, [false, true], "asked once, paid once, nothing resent");
}

fn lost(bursar: &Bursar, page: &crate::support::agent::Page) {
    let payment = &bursar.payments()[0];
    assert_eq!(page.header("bursar-payment"), payment["id"].as_str());
    assert_eq!(page.json()["payment"], payment["id"]);
    // The same request again presents the same payment.
    assert_eq!(page.json()["retryable"], true);
    let detail = page.json()["detail"].as_str().unwrap().to_owned();
    let id = payment["id"].as_str().unwrap();
    let sent = format!("Payment {id} was sent, and the merchant may have taken it: ");
    assert!(
        detail.starts_with(&sent) && detail.contains("stays counted"),
        "{detail}"
    );
    assert_eq!(payment["state"], "unknown");
}

#[tokio::test]
async fn an_answer_lost_before_its_head_is_a_502_that_names_the_payment() {
    for said in [
        &b""[..],
        b"HTTP/1.1 200 O",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"\x15\x03\x01 no HTTP\r\n\r\n",
    ] {
        let (origin, seen) = breaks_off(said).await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let page = Agent::of(&bursar).get(origin.address, "/").await;
        assert_eq!(page.status, 502, "{page:?}");
        assert_eq!(page.problem(), "answer-lost");
        lost(&bursar, &page);
        assert_eq!(bursar.payments()[0]["reason"], "answer-lost");
        one_credential(&seen);
    }
}

#[tokio::test]
async fn an_answer_cut_in_its_body_is_settled_by_its_head_and_broken_for_the_agent() {
    let said = format!(
        "HTTP/1.1 200 OK\r\npayment-response: {}\r\ncontent-length: 1000\r\n\r\nhalf of it",
        receipt(true, TX)
    );
    let (origin, seen) = breaks_off(said.leak().as_bytes()).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut connection = Agent::of(&bursar).connect(origin.address, &["http/1.1"]).await;
    let page = connection.send(origin.address, Request::new(Full::default())).await;
    assert!(page.is_err(), "a clean end: {page:?}");
    assert_eq!(bursar.states(), ["settled"]);
    one_credential(&seen);
}

#[tokio::test]
async fn a_seller_that_stays_silent_is_a_504_and_stays_counted() {
    let (held, mut arrived) = mpsc::unbounded_channel();
    let origin = Origin::https(move |request| {
        let held = held.clone();
        async move {
            if request.is_paid() {
                held.send(()).unwrap();
                std::future::pending::<()>().await;
            }
            seller::asks("10000")
        }
    })
    .await;
    let bursar = setup()
        .trust(&origin.ca_pem)
        .config("[timeouts]\nresponse_head_s = 1\n")
        .start();
    let page = Agent::of(&bursar).get(origin.address, "/").await;
    assert_eq!(page.status, 504);
    assert_eq!(page.problem(), "answer-late");
    lost(&bursar, &page);
    assert_eq!(bursar.payments()[0]["reason"], "answer-late");
    arrived.recv().await.unwrap();
    assert!(arrived.try_recv().is_err(), "sent once");
}

/// A seller that holds the paid request until the test releases it.
async fn holds() -> (Origin, Arc<Notify>, mpsc::UnboundedReceiver<()>) {
    let go = Arc::new(Notify::new());
    let (held, arrived) = mpsc::unbounded_channel();
    let gate = go.clone();
    let origin = Origin::https(move |request| {
        let (gate, held) = (gate.clone(), held.clone());
        async move {
            if !request.is_paid() {
                return seller::asks("10000");
            }
            held.send(()).unwrap();
            gate.notified().await;
            seller::sold("goods")
        }
    })
    .await;
    (origin, go, arrived)
}

#[tokio::test]
async fn an_agent_that_hangs_up_does_not_take_the_outcome_along() {
    for alpn in ["http/1.1", "h2"] {
        let (origin, go, mut arrived) = holds().await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let mut connection = Agent::of(&bursar).connect(origin.address, &[alpn]).await;
        let address = origin.address;
        let asking = tokio::spawn(async move { connection.send(address, Request::new(Full::default())).await });
        arrived.recv().await.unwrap();
        asking.abort();
        assert!(asking.await.is_err());
        assert_eq!(bursar.states(), ["armed"]);
        go.notify_one();
        eventually("the late receipt settles", || {
            (bursar.states() == ["settled"]).then_some(())
        })
        .await;
        assert_eq!(origin.payments().len(), 1, "{alpn}");
    }
}

#[tokio::test]
async fn nobody_waits_for_ever_for_a_receipt() {
    let (origin, _go, mut arrived) = holds().await;
    let bursar = setup()
        .trust(&origin.ca_pem)
        .config("[timeouts]\nsettle_wait_s = 1\n")
        .start();
    let mut connection = Agent::of(&bursar).connect(origin.address, &["http/1.1"]).await;
    let address = origin.address;
    let asking = tokio::spawn(async move { connection.send(address, Request::new(Full::default())).await });
    arrived.recv().await.unwrap();
    asking.abort();
    eventually("unknown after settle_wait", || {
        (bursar.states() == ["unknown"]).then_some(())
    })
    .await;
    assert_eq!(bursar.payments()[0]["reason"], "answer-late");
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn a_slow_settlement_is_waited_for() {
    let (origin, go, mut arrived) = holds().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let address = origin.address;
    let asking = tokio::spawn(async move { agent.get(address, "/").await });
    arrived.recv().await.unwrap();
    assert_eq!(bursar.states(), ["armed"], "on record while the seller settles");
    go.notify_one();
    let page = asking.await.unwrap();
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]));
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn a_paid_stream_flows_before_its_end_and_is_settled_by_its_head() {
    let (sender, parts) = Parts::new();
    let parts = Arc::new(Mutex::new(Some(parts)));
    let origin = Origin::https(move |request| {
        let parts = parts.clone();
        async move {
            if !request.is_paid() {
                return seller::asks("10000");
            }
            let head = [
                ("payment-response", receipt(true, TX)),
                ("content-type", "text/event-stream".into()),
            ];
            let head = head.each_ref().map(|(name, value)| (*name, value.as_str()));
            streamed(answer(200, &head, ""), parts.lock().unwrap().take().unwrap())
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut connection = Agent::of(&bursar).connect(origin.address, &["http/1.1"]).await;
    let mut response = connection
        .open(origin.address, Request::new(Full::default()))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        bursar.states(),
        ["settled"],
        "in the ledger before the agent sees the head"
    );
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        sender.send(Ok(Bytes::from_static(event.as_bytes()))).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    drop(sender);
    assert!(response.body_mut().frame().await.is_none());
    assert_eq!(bursar.payments()[0]["payee"], seller::PAYEE.to_lowercase());
    let payer = &seller::decoded(&origin.payments()[0])["payload"]["authorization"]["from"];
    assert_eq!(payer, WALLET);
}

//! HTTP/2: what the site has provably not processed goes out again, and nothing else does (R1, R92).

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};

use crate::support::agent::{Agent, Connection, Page};
use crate::support::bursar::{Bursar, setup};
use crate::support::frames::{Script, scripted};
use crate::support::origin::{Answer, Origin, answer};
use crate::support::seller;
use crate::support::wire::soon;

/// The bodies that a site has processed, and how often.
type Processed = Arc<Mutex<HashMap<Bytes, usize>>>;

async fn counting(script: impl Fn(usize) -> Script + Send + Sync + 'static) -> (Origin, Connections, Processed) {
    let processed = Processed::default();
    let counted = processed.clone();
    let (origin, connections) = scripted(script, move |request: Request<Bytes>| {
        let body = request.into_body();
        *counted.lock().unwrap().entry(body.clone()).or_default() += 1;
        async move { answer(200, &[], body) }
    })
    .await;
    (origin, connections, processed)
}

type Connections = Arc<std::sync::atomic::AtomicUsize>;

async fn post(bursar: &Bursar, origin: &Origin, body: impl Into<Bytes>) -> Page {
    let mut connection = Agent::of(bursar).connect(origin.address, &["h2"]).await;
    let request = Request::post("/").body(Full::new(body.into())).unwrap();
    soon(connection.send(origin.address, request)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_posts_to_a_site_that_ends_its_connections_arrive_once_each() {
    const AT_ONCE: usize = 16;
    const EACH: usize = 125;
    const KEEPALIVE_REQUESTS: usize = 100;
    let (origin, connections, processed) = counting(|_| Script::GoAwayAfter(KEEPALIVE_REQUESTS)).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let connection = Agent::of(&bursar).connect(origin.address, &["h2"]).await;
    let Connection::H2(sender, authority) = connection else {
        panic!("not h2")
    };
    let mut asking = tokio::task::JoinSet::new();
    for task in 0..AT_ONCE {
        let (mut sender, authority) = (sender.clone(), authority.clone());
        asking.spawn(async move {
            for number in 0..EACH {
                let body = format!("{task} {number}");
                let request = Request::post(format!("https://{authority}/")).body(Full::from(body.clone()));
                sender.ready().await.unwrap();
                let answer = sender.send_request(request.unwrap()).await.unwrap();
                let status = answer.status();
                let got = answer.into_body().collect().await.unwrap().to_bytes();
                assert_eq!((status.as_u16(), got), (200, Bytes::from(body)));
            }
        });
    }
    while let Some(asked) = soon(asking.join_next()).await {
        asked.unwrap();
    }
    let processed = processed.lock().unwrap();
    assert_eq!(processed.len(), AT_ONCE * EACH);
    assert!(processed.values().all(|times| *times == 1), "{processed:?}");
    let connections = connections.load(Ordering::SeqCst);
    let fewest = AT_ONCE * EACH / KEEPALIVE_REQUESTS;
    assert!(
        (fewest..=fewest * 2).contains(&connections),
        "{connections} connections"
    );
}

#[tokio::test]
async fn what_was_not_processed_goes_out_again_three_times_at_most() {
    // More than one window, so that a part of it is on its way when the site refuses.
    let body: Bytes = (0..400_000).map(|at: u32| (at % 251) as u8).collect::<Vec<_>>().into();
    for refusal in [Script::RefuseAt(0), Script::GoAwayAt(0)] {
        for (refusals, status) in [(1, 200), (3, 200), (4, 502)] {
            let (origin, connections, processed) = counting(move |connection| match connection {
                _ if connection < refusals => refusal,
                _ => Script::Serve,
            })
            .await;
            let bursar = setup().trust(&origin.ca_pem).start();
            let page = post(&bursar, &origin, body.clone()).await;
            assert_eq!(page.status, status, "{refusal:?} {refusals}");
            let times = processed.lock().unwrap().get(&body).copied().unwrap_or(0);
            assert_eq!(times, usize::from(status == 200), "{refusal:?} {refusals}");
            assert_eq!(connections.load(Ordering::SeqCst), usize::min(refusals + 1, 4));
            match status {
                200 => assert!(page.body == body),
                _ => assert_eq!(page.problem(), "upstream-broken"),
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_is_not_kept_is_not_sent_again() {
    let (origin, connections, processed) = counting(|connection| match connection {
        0 => Script::RefuseAt(0),
        _ => Script::Serve,
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let page = post(&bursar, &origin, vec![b'x'; (1 << 20) + 1]).await;
    // Refused at its head, it may not have been read beyond what is kept.
    let sent_again = page.status == 200;
    assert!(sent_again || page.problem() == "upstream-broken");
    assert_eq!(processed.lock().unwrap().len(), usize::from(sent_again));
    assert!(connections.load(Ordering::SeqCst) <= 2);
}

#[tokio::test]
async fn what_may_have_been_processed_is_not_sent_again() {
    for (script, processed_times) in [(Script::CloseAt(0), 1), (Script::VanishAt(0), 0)] {
        let (origin, connections, processed) = counting(move |connection| match connection {
            0 => script,
            _ => Script::Serve,
        })
        .await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let page = post(&bursar, &origin, "x").await;
        assert_eq!(
            (page.status.as_u16(), page.problem().as_str()),
            (502, "upstream-broken")
        );
        assert_eq!(
            processed.lock().unwrap().values().sum::<usize>(),
            processed_times,
            "{script:?}"
        );
        assert_eq!(connections.load(Ordering::SeqCst), 1, "{script:?}");
    }
}

/// A seller whose first connection follows the script; the credentials of the requests that it has processed.
async fn shop(script: Script) -> (Origin, Arc<Mutex<Vec<String>>>) {
    let credentials = Arc::new(Mutex::new(Vec::new()));
    let seen = credentials.clone();
    let of_connection = move |connection| match connection {
        0 => script,
        _ => Script::Serve,
    };
    let (origin, _) = scripted(of_connection, move |request: Request<Bytes>| {
        let paid = request.headers().get("payment-signature").cloned();
        let answer: Answer = match paid {
            Some(credential) => {
                assert_eq!(request.body(), "order");
                seen.lock().unwrap().push(credential.to_str().unwrap().to_owned());
                seller::sold("goods")
            }
            None => seller::asks("10000"),
        };
        async move { answer }
    })
    .await;
    (origin, credentials)
}

#[tokio::test]
async fn a_payment_that_was_not_processed_is_presented_again() {
    for script in [Script::RefuseAt(1), Script::GoAwayAt(1), Script::GoAwayAfter(1)] {
        let (origin, credentials) = shop(script).await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let page = post(&bursar, &origin, "order").await;
        assert_eq!(
            (page.status.as_u16(), &page.body[..]),
            (200, &b"goods"[..]),
            "{script:?}"
        );
        assert_eq!(credentials.lock().unwrap().len(), 1, "{script:?}");
        assert_eq!(bursar.states(), ["settled"], "{script:?}");
    }
}

#[tokio::test]
async fn a_seller_that_lies_about_it_gets_the_same_credential_and_can_cash_it_once() {
    let (origin, credentials) = shop(Script::LieAt(1)).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let page = post(&bursar, &origin, "order").await;
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]));
    let credentials = credentials.lock().unwrap();
    assert_eq!(credentials.len(), 2);
    assert_eq!(credentials[0], credentials[1], "one signature, to the byte");
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn a_payment_that_may_have_been_processed_is_presented_once_and_stays_counted() {
    for script in [Script::CloseAt(1), Script::VanishAt(1)] {
        let (origin, credentials) = shop(script).await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let page = post(&bursar, &origin, "order").await;
        assert_eq!(
            (page.status.as_u16(), page.problem().as_str()),
            (502, "answer-lost"),
            "{script:?}"
        );
        assert!(credentials.lock().unwrap().len() <= 1, "{script:?}");
        assert_eq!(bursar.states(), ["unknown"], "{script:?}");
    }
}

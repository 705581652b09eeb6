//! The agent repeats a request: while the outcome of its payment is unknown the same bytes are presented, never a
//! second signature; honest purchases of the same thing remain separate (R1 to R5).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::sync::Notify;

use crate::approvals::assert_problem;
use crate::support::agent::Agent;
use crate::support::bursar::{bursar, eventually, setup};
use crate::support::credentials;
use crate::support::origin::{Origin, Seen, Speaks, answer, certificate};
use crate::support::seller::{self, TX, receipt};

/// A seller that fails the first `failures` presentations and then delivers.
async fn unreliable(failures: usize, failure: fn() -> crate::support::origin::Answer) -> (Origin, Arc<AtomicUsize>) {
    let presented = Arc::new(AtomicUsize::new(0));
    let count = presented.clone();
    let origin = Origin::https(move |request| {
        let count = count.clone();
        async move {
            if !request.is_paid() {
                return seller::asks("10000");
            }
            if count.fetch_add(1, Ordering::SeqCst) < failures {
                failure()
            } else {
                seller::sold("goods")
            }
        }
    })
    .await;
    (origin, presented)
}

fn all_equal(credentials: &[String]) -> bool {
    credentials.windows(2).all(|pair| pair[0] == pair[1])
}

#[tokio::test]
async fn a_repeat_after_an_error_presents_the_same_bytes_and_pays_once() {
    let (origin, _) = unreliable(1, || answer(500, &[], "oops")).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);

    let first = agent.get(origin.address, "/quote").await;
    assert_eq!(first.status, 500);
    assert_eq!(bursar.states(), ["unknown"]);

    let second = agent.get(origin.address, "/quote").await;
    assert_eq!((second.status.as_u16(), &second.body[..]), (200, &b"goods"[..]));
    assert_eq!(second.header("bursar-payment"), first.header("bursar-payment"));
    assert_eq!(bursar.states(), ["settled"]);
    assert_eq!(origin.payments().len(), 2);
    assert!(all_equal(&origin.payments()), "the same bytes");
    // Not even a new challenge was requested.
    assert_eq!(origin.seen().iter().filter(|request| !request.is_paid()).count(), 1);

    // Delivered: the next request is a separate purchase.
    agent.get(origin.address, "/quote").await;
    assert_eq!(bursar.states(), ["settled", "settled"]);
    assert!(!all_equal(&origin.payments()));
}

#[tokio::test]
async fn a_site_that_switches_protocols_after_payment_is_presented_the_same_bytes() {
    let failed = Arc::new(Mutex::new(BTreeSet::new()));
    let script = move |request: Seen| {
        let first = request.is_paid() && failed.lock().unwrap().insert(request.target.clone());
        async move {
            match (request.is_paid(), first) {
                (false, _) => seller::asks("10000"),
                (true, true) => answer(101, &[("connection", "upgrade"), ("upgrade", "x")], ""),
                (true, false) => seller::sold("goods"),
            }
        }
    };
    let certificate = certificate(&["localhost", "127.0.0.1"], |_| {});
    let origin = Origin::start(Speaks::H1, certificate, script).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for target in ["/quote?1", "/quote?2"] {
        assert_problem(&agent.get(origin.address, target).await, 502, "answer-lost");
        assert_eq!(agent.get(origin.address, target).await.status, 200);
    }
    let payments = origin.payments();
    assert_eq!(payments.len(), 4);
    assert!(payments.chunks(2).all(|pair| pair[0] == pair[1]), "the same bytes");
    assert_eq!(bursar.states(), ["settled"; 2]);
}

#[tokio::test]
async fn two_honest_purchases_stay_two() {
    let (origin, _) = unreliable(0, || answer(500, &[], "")).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    agent.get(origin.address, "/quote").await;
    agent.get(origin.address, "/quote").await;
    let (one, two) = tokio::join!(agent.get(origin.address, "/quote"), agent.get(origin.address, "/quote"));
    assert_eq!((one.status.as_u16(), two.status.as_u16()), (200, 200));
    assert_eq!(bursar.states(), ["settled"; 4]);
    let mut credentials = origin.payments();
    credentials.sort();
    credentials.dedup();
    assert_eq!(credentials.len(), 4);
}

#[tokio::test]
async fn only_the_same_request_is_a_repeat() {
    let (origin, _) = unreliable(usize::MAX, || answer(500, &[], "oops")).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let post = |body: &'static str| Request::post("/echo").body(Full::from(Bytes::from(body))).unwrap();
    for request in [
        post("a"),
        post("b"),
        Request::get("/echo").body(Full::default()).unwrap(),
    ] {
        agent.send(origin.address, request).await;
    }
    agent.get(origin.address, "/echo?q=1").await;
    assert_eq!(bursar.payments().len(), 4);

    agent.send(origin.address, post("a")).await;
    assert_eq!(bursar.payments().len(), 4, "the first POST again");
    let sent: Vec<_> = origin
        .seen()
        .into_iter()
        .filter(|r| r.is_paid() && &r.body[..] == b"a")
        .collect();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].payment(), sent[1].payment());
}

#[tokio::test]
async fn after_three_presentations_the_repeat_is_refused_and_nothing_more_is_sent() {
    let (origin, presented) = unreliable(usize::MAX, || answer(402, &[], "{}")).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for _ in 0..4 {
        assert_eq!(agent.get(origin.address, "/quote").await.status, 402);
    }
    let reply = agent.get(origin.address, "/quote").await;
    assert_eq!(reply.status, 409);
    assert_eq!(reply.problem(), "payment-in-doubt");
    assert_eq!(reply.json()["payment"], bursar.payments()[0]["id"]);
    assert_eq!(presented.load(Ordering::SeqCst), 4);
    assert!(all_equal(&origin.payments()));
    assert_eq!(bursar.states(), ["unknown"]);
}

#[tokio::test]
async fn paid_but_never_delivered_is_reported_as_such() {
    let settled_then_error = || answer(500, &[("payment-response", &receipt(true, TX))], "oops");
    let (origin, _) = unreliable(usize::MAX, settled_then_error).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for _ in 0..4 {
        assert_eq!(agent.get(origin.address, "/quote").await.status, 500);
    }
    assert_eq!(
        agent.get(origin.address, "/quote").await.problem(),
        "paid-not-delivered"
    );
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn a_repeat_joins_a_purchase_whose_agent_hung_up() {
    let (hold, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (held, seen) = (hold.clone(), arrived.clone());
    let origin = Origin::https(move |request| {
        let (held, seen) = (held.clone(), seen.clone());
        async move {
            if !request.is_paid() {
                return seller::asks("10000");
            }
            seen.notify_one();
            held.notified().await;
            seller::sold("goods")
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let first = tokio::spawn({
        let (agent, site) = (Agent::of(&bursar), origin.address);
        async move { agent.get(site, "/quote").await }
    });
    arrived.notified().await;
    first.abort();
    eventually("the proxy notices", || {
        bursar.log().contains("the agent hung up").then_some(())
    })
    .await;
    // The answer comes when nobody waits any more; then the repeat presents the same bytes and gets its own answer.
    let second = tokio::spawn(async move { agent.get(origin.address, "/quote").await.status });
    hold.notify_one();
    arrived.notified().await;
    hold.notify_one();
    assert_eq!(second.await.unwrap(), 200);
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn a_repeat_after_kill_and_restart_presents_the_same_bytes() {
    let arrived = Arc::new(Notify::new());
    let (seen, first) = (arrived.clone(), Arc::new(AtomicUsize::new(0)));
    let origin = Origin::https(move |request| {
        let (seen, first) = (seen.clone(), first.clone());
        async move {
            if !request.is_paid() {
                return seller::asks("10000");
            }
            if first.fetch_add(1, Ordering::SeqCst) == 0 {
                seen.notify_one();
                std::future::pending::<()>().await;
            }
            seller::sold("goods")
        }
    })
    .await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    let (agent, site) = (Agent::of(&bursar), origin.address);
    let asking = tokio::spawn(async move { agent.get(site, "/quote").await });
    arrived.notified().await;
    let home = bursar.kill();
    asking.abort();

    let mut bursar = home.serve();
    assert_eq!(bursar.states(), ["unknown"]);
    let page = Agent::of(&bursar).get(origin.address, "/quote").await;
    assert_eq!(page.status, 200);
    assert!(all_equal(&origin.payments()) && origin.payments().len() == 2);
    assert_eq!(bursar.states(), ["settled"]);
    assert_eq!(bursar.stop(), 0);
    assert!(credentials::is_empty(bursar.path()), "delivered, so nothing is kept");
}

/// A repeat before the kill counts after it, and what is torn is neither presented nor bought again.
#[tokio::test]
async fn presentations_are_counted_across_a_kill_and_a_torn_slot_is_a_lost_credential() {
    let (origin, _) = unreliable(100, || answer(500, &[], "oops")).await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    for path in ["/counted", "/torn"] {
        assert_eq!(Agent::of(&bursar).get(origin.address, path).await.status, 500);
    }
    assert_eq!(Agent::of(&bursar).get(origin.address, "/counted").await.status, 500);
    let home = bursar.kill();
    let stored = credentials::stored(home.path());
    let counts: Vec<u8> = stored.iter().map(|stored| stored.presented).collect();
    assert_eq!(
        (counts, stored.iter().any(|stored| stored.delivered)),
        (vec![1, 0], false)
    );
    stored[1].tear(home.path());
    let bursar = home.serve();
    let agent = Agent::of(&bursar);
    let torn = agent.get(origin.address, "/torn").await;
    assert_eq!(
        (torn.status.as_u16(), torn.problem().as_str()),
        (409, "payment-in-doubt")
    );
    assert_eq!(torn.json()["payment"], stored[1].id.as_str());
    for status in [500, 500, 409] {
        assert_eq!(agent.get(origin.address, "/counted").await.status, status);
    }
    assert_eq!(
        (bursar.states(), origin.payments().len()),
        (vec!["unknown".to_owned(); 2], 5)
    );
}

/// Before there were slots, each payment had a file.
#[tokio::test]
async fn the_file_of_an_older_bursar_is_presented_as_often_as_it_still_may() {
    let (origin, _) = unreliable(100, || answer(500, &[], "oops")).await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 500);
    let home = bursar.kill();
    let folder = home.path().join("private/credentials");
    let stored = credentials::stored(home.path()).remove(0);
    let mut body = stored.body.clone();
    body["presented"] = 1.into();
    let old = folder.join(format!("{}.json", stored.id));
    std::fs::write(&old, body.to_string()).unwrap();
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::remove_file(folder.join("slots")).unwrap();
    std::fs::write(home.path().join("format"), "4\n").unwrap();
    let mut bursar = home.serve();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 500);
    assert!(!old.exists());
    let bursar = bursar.kill().serve();
    for status in [500, 409] {
        assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, status);
    }
    assert!(all_equal(&origin.payments()) && origin.payments().len() == 3);
}

#[tokio::test]
async fn a_payment_that_the_operator_declares_expired_is_bought_anew() {
    let (origin, _) = unreliable(1, || answer(500, &[], "oops")).await;
    let bursar_ = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar_);
    agent.get(origin.address, "/quote").await;
    let id = bursar_.payments()[0]["id"].as_str().unwrap().to_owned();
    let resolved = bursar(
        bursar_.path(),
        &["payments", "resolve", &id, "--expired", "--why", "asked the seller"],
    );
    assert!(
        resolved.status.success(),
        "{}",
        String::from_utf8_lossy(&resolved.stderr)
    );

    assert_eq!(agent.get(origin.address, "/quote").await.status, 200);
    assert_eq!(bursar_.states(), ["expired", "settled"]);
    assert!(!all_equal(&origin.payments()));
}

/// A body that is read ahead to detect a repeat is forwarded whole, large or small.
#[tokio::test]
async fn a_request_that_turns_out_to_be_no_repeat_loses_nothing() {
    let (origin, _) = unreliable(1, || answer(500, &[], "oops")).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let post = |body: Vec<u8>| Request::post("/echo").body(Full::from(Bytes::from(body))).unwrap();
    agent.send(origin.address, post(b"first".to_vec())).await;
    assert_eq!(bursar.states(), ["unknown"], "the outcome is unknown from here on");

    for size in [0, 1, 300_000, 3 << 20] {
        let body: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8).collect();
        agent.send(origin.address, post(body.clone())).await;
        let unpaid: Vec<_> = origin.seen().into_iter().filter(|request| !request.is_paid()).collect();
        assert!(
            unpaid.last().unwrap().body == body,
            "{size} bytes arrived as they were sent"
        );
    }
    assert_eq!(
        bursar.payments().len(),
        1 + 3,
        "3 MiB cannot be sent twice, so they were not paid for"
    );
}

#[tokio::test]
async fn an_agent_that_pays_by_itself_does_not_get_our_credential() {
    let (origin, _) = unreliable(1, || answer(500, &[], "oops")).await;
    let bursar = setup()
        .proxy("agent_payments = \"pass\"\n")
        .trust(&origin.ca_pem)
        .start();
    let agent = Agent::of(&bursar);
    agent.get(origin.address, "/quote").await;
    let own = Request::get("/quote").header("payment-signature", "its-own");
    assert_eq!(agent.request(origin.address, own).await.status, 200);
    assert_eq!(origin.payments().last().unwrap(), "its-own");
    assert_eq!(bursar.states(), ["unknown"]);
}

#[tokio::test]
async fn a_payment_being_presented_again_cannot_be_declared_expired_meanwhile() {
    let (hold, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (held, seen, count) = (hold.clone(), arrived.clone(), Arc::new(AtomicUsize::new(0)));
    let origin = Origin::https(move |request| {
        let (held, seen, count) = (held.clone(), seen.clone(), count.clone());
        async move {
            if !request.is_paid() {
                return seller::asks("10000");
            }
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                return answer(500, &[], "oops");
            }
            seen.notify_one();
            held.notified().await;
            seller::sold("goods")
        }
    })
    .await;
    let server = setup().trust(&origin.ca_pem).start();
    let (agent, site) = (Agent::of(&server), origin.address);
    agent.get(site, "/quote").await;
    let id = server.payments()[0]["id"].as_str().unwrap().to_owned();
    let again = tokio::spawn(async move { agent.get(site, "/quote").await.status });
    arrived.notified().await;
    let declared = bursar(
        server.path(),
        &["payments", "resolve", &id, "--expired", "--why", "too early"],
    );
    assert_eq!(
        declared.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&declared.stderr)
    );
    hold.notify_one();
    assert_eq!(again.await.unwrap(), 200);
    assert_eq!(server.states(), ["settled"]);
}

#[tokio::test]
async fn a_repeat_of_a_payment_whose_credential_is_lost_does_not_pay_twice() {
    let (origin, _) = unreliable(1, || answer(500, &[], "oops")).await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    Agent::of(&bursar).get(origin.address, "/").await;
    let home = bursar.kill();
    let folder = home.path().join("private/credentials");
    for file in std::fs::read_dir(&folder).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let bursar = home.serve();
    let agent = Agent::of(&bursar);
    let id = bursar.payments()[0]["id"].as_str().unwrap().to_owned();
    let page = agent.get(origin.address, "/").await;
    assert_eq!(
        (page.status.as_u16(), page.problem().as_str()),
        (409, "payment-in-doubt")
    );
    assert_eq!(page.json()["payment"], id.as_str());
    assert_eq!(origin.payments().len(), 1);
    // Once the payment is known to have expired, the same request buys again.
    let closed = bursar.run(&["payments", "resolve", &id, "--expired", "--why", "the seller says so"]);
    assert!(closed.status.success());
    assert_eq!(agent.get(origin.address, "/").await.status, 200);
    let credentials = origin.payments();
    assert_eq!(credentials.len(), 2);
    assert_ne!(credentials[0], credentials[1]);
}

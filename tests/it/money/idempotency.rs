//! An agent that sends `Idempotency-Key`: under one key nothing is signed twice within 24 hours, whatever happens in
//! between, and keys do not affect free traffic (R6).

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tokio::sync::{Barrier, Notify};

use crate::support::agent::{Agent, Page};
use crate::support::bursar::{Bursar, eventually, setup};
use crate::support::credentials::{is_empty, stored};
use crate::support::origin::{Origin, answer};
use crate::support::seller::{self, TX};

const KEY: &str = "idempotency-key";

/// Sells to anyone who pays; the first `failures` payments end in an error.
async fn seller(failures: usize) -> Origin {
    let count = Arc::new(AtomicUsize::new(0));
    Origin::https(move |request| {
        let count = count.clone();
        async move {
            match request.is_paid() {
                false => seller::asks("10000"),
                true if count.fetch_add(1, Ordering::SeqCst) < failures => answer(500, &[], "oops"),
                true => seller::sold("goods"),
            }
        }
    })
    .await
}

async fn get(agent: &Agent, origin: &Origin, key: &str) -> Page {
    agent
        .request(origin.address, Request::get("/quote").header(KEY, key))
        .await
}

fn different(credentials: &[String]) -> usize {
    credentials.iter().collect::<HashSet<_>>().len()
}

fn unpaid(origin: &Origin) -> usize {
    origin.seen().iter().filter(|request| !request.is_paid()).count()
}

#[tokio::test]
async fn after_delivery_the_site_is_asked_unpaid_and_given_the_same_bytes_if_it_wants_money_again() {
    let origin = seller(0).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let first = get(&agent, &origin, "order-1").await;
    for again in 1..=3 {
        let page = get(&agent, &origin, "order-1").await;
        assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]));
        assert_eq!(page.header("bursar-payment"), first.header("bursar-payment"));
        assert_eq!((unpaid(&origin), origin.payments().len()), (again + 1, again + 1));
    }
    // R3 allows three presentations.
    let reply = get(&agent, &origin, "order-1").await;
    assert_eq!(
        (reply.status.as_u16(), reply.problem()),
        (409, "already-paid".to_owned())
    );
    assert_eq!(reply.json()["payment"], bursar.payments()[0]["id"]);
    assert_eq!(reply.json()["tx"], TX);
    assert_eq!((unpaid(&origin), different(&origin.payments())), (5, 1));
    assert_eq!(bursar.states(), ["settled"]);
    // The header belongs to the agent and the site: every request carries it as it was sent.
    assert!(origin.seen().iter().all(|request| request.headers[KEY] == "order-1"));
}

#[tokio::test]
async fn a_site_that_knows_its_customers_answers_again_without_money() {
    let sold = Arc::new(Mutex::new(HashSet::new()));
    let origin = Origin::https(move |request| {
        let sold = sold.clone();
        async move {
            let key = request.headers[KEY].clone();
            if request.is_paid() {
                sold.lock().unwrap().insert(key);
                return seller::sold("goods");
            }
            match sold.lock().unwrap().contains(&key) {
                true => answer(200, &[], "the same goods"),
                false => seller::asks("10000"),
            }
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    get(&agent, &origin, "\"quoted\"").await;
    let page = get(&agent, &origin, "\"quoted\"").await;
    assert_eq!(
        (page.status.as_u16(), &page.body[..]),
        (200, &b"the same goods"[..]),
        "the site's answer, not one of ours"
    );
    assert_eq!(page.header("bursar-payment"), None, "nothing was paid for it");
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn while_the_outcome_is_unknown_the_same_bytes_are_presented_at_once() {
    let origin = seller(1).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    assert_eq!(get(&agent, &origin, "k").await.status, 500);
    assert_eq!(get(&agent, &origin, "k").await.status, 200);
    assert_eq!(unpaid(&origin), 1, "not even a price was asked for");
    assert_eq!((origin.payments().len(), different(&origin.payments())), (2, 1));
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn while_the_outcome_stays_unknown_nothing_is_signed_again() {
    let origin = seller(usize::MAX).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for _ in 0..4 {
        assert_eq!(get(&agent, &origin, "k").await.status, 500);
    }
    assert_eq!(get(&agent, &origin, "k").await.problem(), "payment-in-doubt");
    assert_eq!((origin.payments().len(), different(&origin.payments())), (4, 1));
}

#[tokio::test]
async fn a_key_does_not_take_over_an_unknown_payment_of_another_key_or_of_none() {
    let origin = seller(2).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    agent.get(origin.address, "/quote").await;
    get(&agent, &origin, "one").await;
    assert_eq!(get(&agent, &origin, "two").await.status, 200);
    assert_eq!(different(&origin.payments()), 3);
    assert_eq!(bursar.states(), ["unknown", "unknown", "settled"]);
}

#[tokio::test]
async fn another_request_under_a_paid_key_is_refused_and_not_forwarded() {
    let origin = seller(0).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let request = |method: Method, path: &str, body: Vec<u8>| {
        let request = Request::builder().method(method).uri(path).header(KEY, "k");
        request.body(Full::from(Bytes::from(body))).unwrap()
    };
    agent
        .send(origin.address, request(Method::POST, "/order", b"one".to_vec()))
        .await;
    let seen = origin.seen().len();
    for other in [
        request(Method::POST, "/order", b"two".to_vec()),
        request(Method::POST, "/order?x=1", b"one".to_vec()),
        request(Method::PUT, "/order", b"one".to_vec()),
        // Too large to have been paid for.
        request(Method::POST, "/order", vec![7; 2 << 20]),
    ] {
        let reply = agent.send(origin.address, other).await;
        assert_eq!(
            (reply.status.as_u16(), reply.problem()),
            (422, "idempotency-key-reused".to_owned())
        );
    }
    assert_eq!(origin.seen().len(), seen);

    // Keys are per agent.
    bursar
        .home
        .write_limits("timezone = \"UTC\"\n[agents.research]\nday = \"1.00\"\n[agents.writer]\nday = \"1.00\"\n");
    let token = bursar.home.add_agent("writer");
    let writer = Agent::named(&bursar, "writer", &token);
    let reply = eventually_paid(&writer, &origin, "k").await;
    assert_eq!(reply.status, 200);
    assert_eq!(different(&origin.payments()), 2);
}

/// New limits are in force within a second.
async fn eventually_paid(agent: &Agent, origin: &Origin, key: &str) -> Page {
    loop {
        let page = get(agent, origin, key).await;
        if page.status != 403 && page.status != 407 {
            return page;
        }
    }
}

#[tokio::test]
async fn twenty_at_once_under_one_key_sign_once() {
    const MANY: usize = 20;
    let (gate, arrived) = (Arc::new(Barrier::new(MANY)), Arc::new(AtomicUsize::new(0)));
    let origin = Origin::https(move |request| {
        let (gate, arrived) = (gate.clone(), arrived.clone());
        async move {
            if request.is_paid() {
                return seller::sold("goods");
            }
            // All of them have their 402 before anyone can have paid.
            if arrived.fetch_add(1, Ordering::SeqCst) < MANY {
                gate.wait().await;
            }
            seller::asks("10000")
        }
    })
    .await;
    // Enough for one purchase; a used-up limit is no reason to refuse what has already been paid.
    let limits = "timezone = \"UTC\"\n[agents.research]\nday = \"0.01\"\n";
    let bursar = setup().limits(limits).trust(&origin.ca_pem).start();
    let origin = Arc::new(origin);
    let asking: Vec<_> = (0..MANY)
        .map(|_| {
            let (agent, origin) = (Agent::of(&bursar), origin.clone());
            tokio::spawn(async move { get(&agent, &origin, "k").await })
        })
        .collect();
    let mut goods = 0;
    for page in asking {
        let page = page.await.unwrap();
        if page.status == 200 {
            goods += 1;
        } else {
            assert_eq!(page.problem(), "already-paid");
        }
    }
    assert_eq!(goods, 1 + 3, "the purchase and three presentations of its credential");
    assert_eq!(
        unpaid(&origin),
        MANY + (MANY - 1),
        "the others asked again after the payment"
    );
    assert_eq!((origin.payments().len(), different(&origin.payments())), (4, 1));
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn other_keys_and_no_key_are_purchases_of_their_own() {
    let origin = seller(0).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let pages = tokio::join!(
        get(&agent, &origin, "one"),
        get(&agent, &origin, "two"),
        agent.get(origin.address, "/quote"),
        agent.get(origin.address, "/quote"),
    );
    for page in [pages.0, pages.1, pages.2, pages.3] {
        assert_eq!(page.status, 200);
    }
    assert_eq!((origin.payments().len(), different(&origin.payments())), (4, 4));
}

#[tokio::test]
async fn the_same_request_waits_for_the_purchase_under_way() {
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
    let origin = Arc::new(origin);
    let ask = || {
        let (agent, origin) = (Agent::of(&bursar), origin.clone());
        tokio::spawn(async move { get(&agent, &origin, "k").await.status })
    };
    let first = ask();
    arrived.notified().await;
    let second = ask();
    let waits = || bursar.log().contains("waits for the payment").then_some(());
    eventually("the second request waits", waits).await;
    assert_eq!(origin.seen().len(), 2, "nothing of it was forwarded");
    hold.notify_one();
    assert_eq!(first.await.unwrap(), 200);
    arrived.notified().await;
    hold.notify_one();
    assert_eq!(second.await.unwrap(), 200);
    assert_eq!((origin.payments().len(), different(&origin.payments())), (2, 1));
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn a_request_that_waits_too_long_is_answered_and_nothing_is_signed() {
    let arrived = Arc::new(Notify::new());
    let seen = arrived.clone();
    let origin = Origin::https(move |request| {
        let seen = seen.clone();
        async move {
            if request.is_paid() {
                seen.notify_one();
                std::future::pending::<()>().await;
            }
            seller::asks("10000")
        }
    })
    .await;
    let quickly = "[timeouts]\nsettle_wait_s = 1\n";
    let bursar = setup().config(quickly).trust(&origin.ca_pem).start();
    let origin = Arc::new(origin);
    let (agent, site) = (Agent::of(&bursar), origin.clone());
    let _first = tokio::spawn(async move { get(&agent, &site, "k").await });
    arrived.notified().await;
    let reply = get(&Agent::of(&bursar), &origin, "k").await;
    assert_eq!(reply.problem(), "payment-in-doubt");
    assert_eq!((&reply.json()["retryable"], origin.seen().len()), (&true.into(), 2));
}

#[tokio::test]
async fn a_restart_forgets_no_key() {
    let origin = seller(0).await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    get(&Agent::of(&bursar), &origin, "k").await;
    assert_eq!(stored(bursar.path()).len(), 1, "as long as it is valid");
    let bursar = bursar.kill().serve();
    let agent = Agent::of(&bursar);
    let other = Request::get("/other").header(KEY, "k");
    let reply = agent.request(origin.address, other).await;
    assert_eq!(reply.problem(), "idempotency-key-reused");
    assert_eq!(get(&agent, &origin, "k").await.status, 200);
    assert_eq!((origin.payments().len(), different(&origin.payments())), (2, 1));
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn without_its_files_bursar_still_knows_the_key_from_the_journal() {
    let origin = seller(0).await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    get(&Agent::of(&bursar), &origin, "k").await;
    let home = bursar.kill();
    std::fs::remove_dir_all(home.path().join("private/credentials")).unwrap();
    std::fs::remove_dir_all(home.path().join("index")).unwrap();
    let bursar = home.serve();
    let reply = get(&Agent::of(&bursar), &origin, "k").await;
    assert_eq!(reply.problem(), "already-paid");
    assert_eq!(reply.json()["tx"], TX);
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn a_credential_that_is_no_longer_valid_is_not_presented_and_not_kept() {
    let origin = seller(0).await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    get(&Agent::of(&bursar), &origin, "k").await;
    let delivered = || stored(bursar.path()).iter().all(|record| record.delivered);
    eventually("the delivery is noted", || delivered().then_some(())).await;
    let home = bursar.kill();
    // Let time pass: the record contains the expiry.
    let record = stored(home.path()).remove(0);
    let mut body = record.body.clone();
    let ends = body["valid_before"].as_i64().unwrap();
    body["valid_before"] = (ends - 60).into();
    record.rewrite(home.path(), &body);
    let bursar = home.serve();
    assert_eq!(get(&Agent::of(&bursar), &origin, "k").await.problem(), "already-paid");
    assert_eq!(origin.payments().len(), 1);
    let gone = || is_empty(bursar.path()).then_some(());
    eventually("the credential is cleared", gone).await;
}

#[tokio::test]
async fn a_kill_while_waiting_repeats_the_same_bytes() {
    let (arrived, count) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let seen = arrived.clone();
    let origin = Origin::https(move |request| {
        let (seen, count) = (seen.clone(), count.clone());
        async move {
            if !request.is_paid() {
                return seller::asks("10000");
            }
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                seen.notify_one();
                std::future::pending::<()>().await;
            }
            seller::sold("goods")
        }
    })
    .await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    let (agent, site) = (Agent::of(&bursar), origin.address);
    let asking = tokio::spawn(async move { agent.request(site, Request::get("/quote").header(KEY, "k")).await });
    arrived.notified().await;
    let home = bursar.kill();
    asking.abort();
    let bursar = home.serve();
    assert_eq!(get(&Agent::of(&bursar), &origin, "k").await.status, 200);
    assert_eq!((origin.payments().len(), different(&origin.payments())), (2, 1));
    assert_eq!(unpaid(&origin), 1);
}

fn declare_dead(bursar: &Bursar) {
    let id = bursar.payments()[0]["id"].as_str().unwrap().to_owned();
    let resolved = bursar.run(&["payments", "resolve", &id, "--expired", "--why", "asked the seller"]);
    assert!(resolved.status.success(), "{resolved:?}");
}

#[tokio::test]
async fn a_payment_that_is_proven_dead_gives_its_key_back() {
    for path in ["/quote", "/other"] {
        let origin = seller(1).await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let agent = Agent::of(&bursar);
        get(&agent, &origin, "k").await;
        declare_dead(&bursar);
        let request = Request::get(path).header(KEY, "k");
        assert_eq!(agent.request(origin.address, request).await.status, 200);
        assert_eq!(bursar.states(), ["expired", "settled"]);
        assert_eq!(different(&origin.payments()), 2);
    }
}

#[tokio::test]
async fn a_purchase_that_was_refused_takes_no_key() {
    let origin = seller::shop().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let dear = Request::get("/2000000").header(KEY, "k");
    assert_eq!(agent.request(origin.address, dear).await.status, 403);
    let cheap = Request::get("/10000").header(KEY, "k");
    assert_eq!(agent.request(origin.address, cheap).await.status, 200);
}

#[tokio::test]
async fn free_traffic_with_keys_of_any_kind_is_untouched() {
    let origin = Origin::https(|_| async { answer(200, &[], "free") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let before = bursar.journal().len();
    let long = "k".repeat(5000);
    for keys in [&["k"][..], &["k"], &["a", "b"], &[""], &[&long]] {
        for path in ["/one", "/two"] {
            let request = keys
                .iter()
                .fold(Request::get(path), |request, key| request.header(KEY, *key));
            let page = agent.request(origin.address, request).await;
            assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"free"[..]));
            let seen = origin.seen().pop().unwrap();
            let arrived: Vec<_> = seen.headers.get_all(KEY).iter().collect();
            assert_eq!(arrived, keys);
        }
    }
    assert_eq!(bursar.journal().len(), before);
    assert!(is_empty(bursar.path()));
}

#[tokio::test]
async fn nothing_is_paid_under_an_invalid_key() {
    let origin = seller(0).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let ask = |keys: &[&str]| {
        keys.iter()
            .fold(Request::get("/quote"), |request, key| request.header(KEY, *key))
    };
    let long = "k".repeat(1025);
    for keys in [&["a", "b"][..], &[""], &[&long]] {
        let reply = agent.request(origin.address, ask(keys)).await;
        assert_eq!(
            (reply.status.as_u16(), reply.problem()),
            (400, "idempotency-key-unusable".to_owned())
        );
    }
    assert!(origin.payments().is_empty() && bursar.payments().is_empty());
    // Sent twice, it is still one key.
    assert_eq!(agent.request(origin.address, ask(&["a", "a"])).await.status, 200);
}

#[tokio::test]
async fn paid_but_never_delivered_is_reported_as_such() {
    let receipt = seller::receipt(true, TX);
    let origin = Origin::https(move |request| {
        let answered = match request.is_paid() {
            true => answer(500, &[("payment-response", &receipt)], "oops"),
            false => seller::asks("10000"),
        };
        async move { answered }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for _ in 0..4 {
        assert_eq!(get(&agent, &origin, "k").await.status, 500);
    }
    assert_eq!(get(&agent, &origin, "k").await.problem(), "paid-not-delivered");
    assert_eq!((origin.payments().len(), different(&origin.payments())), (4, 1));
}

//! What one agent may use at once: connections, requests, and how often it is refused.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Town, get, held, tunnel};
use crate::support::agent::Agent;
use crate::support::bursar::{eventually, setup};
use crate::support::wire::soon;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_tunnels_than_one_agent_may_have_are_answered_busy() {
    const MOST: usize = 20;
    let config = format!("[capacity]\nconnections_per_agent = {MOST}\nbefore_login = 32\n");
    let mut town = Town::new(setup().config(&config), held(), None).await;
    let port = town.shop.address.port();
    let mut open = Vec::new();
    for _ in 0..MOST {
        open.push(tunnel(&town.bad, "localhost", port, &["http/1.1"]).await.unwrap());
    }
    // CONNECT itself succeeds: clients hide the body of one that does not.
    let page = get(&town.bad, "localhost", town.shop.address, "/free").await;
    assert_eq!((page.status.as_u16(), page.problem().as_str()), (503, "agent-busy"));
    assert_eq!(page.header("retry-after"), Some("2"));
    assert_eq!(page.header("connection"), Some("close"));
    let page = town.bad.get_plain(&format!("http://localhost:{port}/")).await;
    assert_eq!((page.status.as_u16(), page.problem().as_str()), (503, "agent-busy"));
    // Tunnels beyond that do not count for the agent: like strangers, they make room for others.
    let bad = Arc::new(Agent::of(&town.bursar));
    let mut beyond = JoinSet::new();
    for _ in 0..60 {
        let bad = bad.clone();
        beyond.spawn(async move { tunnel(&bad, "localhost", port, &["http/1.1"]).await });
    }
    town.good_ones_buy(super::GOOD).await;
    assert_eq!(
        town.shop.seen().iter().filter(|seen| !seen.is_paid()).count(),
        super::GOOD * 2
    );
    drop(beyond);
    // One that is closed may be replaced.
    drop(open.pop());
    soon(async {
        loop {
            let page = get(&town.bad, "localhost", town.shop.address, "/free").await;
            if page.status == 200 {
                break;
            }
            assert_eq!(page.problem(), "agent-busy");
        }
    })
    .await;
    town.the_books_are_right().await;
}

/// Sends `count` requests at once over as few HTTP/2 connections as possible; the statuses of those that were answered.
async fn streams(town: &Town, path: &'static str, count: usize) -> JoinSet<(u16, Option<String>)> {
    const EACH: usize = 100;
    let port = town.shop.address.port();
    let mut asking = JoinSet::new();
    for first in (0..count).step_by(EACH) {
        let stream = tunnel(&town.bad, "localhost", port, &["h2"]).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        for _ in first..count.min(first + EACH) {
            let mut sender = sender.clone();
            asking.spawn(async move {
                let uri = format!("https://localhost:{port}{path}");
                let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
                sender.ready().await.unwrap();
                let response = sender.send_request(request).await.unwrap();
                let details = response.headers().get("proxy-status");
                (
                    response.status().as_u16(),
                    details.map(|value| value.to_str().unwrap().to_owned()),
                )
            });
        }
    }
    asking
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_one_agent_may_have_under_way_are_answered_busy() {
    const MOST: usize = 64;
    const SENT: usize = 300;
    let config = format!("[capacity]\nrequests_per_agent = {MOST}\n");
    let held: Arc<Semaphore> = held();
    let mut town = Town::new(setup().config(&config), held.clone(), None).await;
    let mut asking = streams(&town, "/held/free", SENT).await;
    for _ in 0..SENT - MOST {
        let (status, details) = asking.join_next().await.unwrap().unwrap();
        assert_eq!(status, 503);
        assert!(details.unwrap().contains("agent-busy"));
    }
    eventually("the others reach the site", || {
        (town.shop.seen().len() == MOST).then_some(())
    })
    .await;
    town.good_ones_buy(super::GOOD).await;
    assert_eq!(asking.len(), MOST, "still under way");
    held.add_permits(MOST);
    while let Some(asked) = asking.join_next().await {
        // The seller wants money for these, and the bad agent has none.
        assert_eq!(asked.unwrap().0, 403);
    }
    town.the_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_refused_all_the_time_delays_nobody() {
    const AT_ONCE: usize = 100;
    let mut town = Town::new(setup(), held(), None).await;
    let mut refused = 0;
    for _ in 0..5 {
        let mut asking = streams(&town, "/paid", AT_ONCE).await;
        town.good_ones_buy(super::GOOD).await;
        while let Some(asked) = asking.join_next().await {
            assert_eq!(asked.unwrap().0, 403);
            refused += 1;
        }
    }
    assert_eq!(refused, 5 * AT_ONCE);
    town.the_books_are_right().await;
    let recorded = town.bursar.refusals();
    assert!(
        !recorded.is_empty() && recorded.len() <= 10,
        "{} entries for {refused} refusals",
        recorded.len()
    );
}

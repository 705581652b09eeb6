//! An agent chooses how long its request waits for a person (RFC 7240, approvals §9).

use http::Request;

use crate::approvals::{AT_ONCE, approve, assert_problem, at_ten_cents, question};
use crate::support::agent::Agent;
use crate::support::bursar::setup;

const LIMITS: &str = "[agents.research]\ntotal = \"1.00\"\napproval_above = \"0.05\"\n";

fn preferring(words: &str) -> http::request::Builder {
    Request::get("/report").header("prefer", words)
}

#[tokio::test]
async fn an_agent_that_does_not_want_to_wait_is_answered_at_once() {
    let origin = at_ten_cents().await;
    let holds = "[approval]\nbackend = \"operator\"\nhold_s = 300\n";
    let bursar = setup().trust(&origin.ca_pem).limits(LIMITS).config(holds).start();
    let page = Agent::of(&bursar)
        .request(origin.address, preferring("respond-async"))
        .await;
    assert_problem(&page, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    approve(&bursar, &id, &code);
    let page = Agent::of(&bursar)
        .request(origin.address, preferring("respond-async"))
        .await;
    assert_eq!(page.status, 200);
    // The site got the header like any other.
    assert!(
        origin
            .seen()
            .iter()
            .all(|seen| seen.headers["prefer"] == "respond-async")
    );
}

#[tokio::test]
async fn an_agent_that_wants_to_wait_longer_does() {
    let origin = at_ten_cents().await;
    let bursar = setup().trust(&origin.ca_pem).limits(LIMITS).config(AT_ONCE).start();
    let (agent, site) = (Agent::of(&bursar), origin.address);
    let waiting = tokio::spawn(async move { agent.request(site, preferring("wait=60")).await });
    let (id, code) = question(&bursar).await;
    assert!(!waiting.is_finished());
    approve(&bursar, &id, &code);
    assert_eq!(waiting.await.unwrap().status, 200);
}

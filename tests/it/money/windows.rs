//! Rolling windows and `max_pending`, through the real binary.

use serde_json::json;

use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::origin::{Origin, answer};
use crate::support::seller::{self, shop};

#[tokio::test]
async fn a_rolling_window_is_a_limit_and_says_so() {
    let origin = shop().await;
    let limits = "[agents.research]\nrolling = { \"24h\" = \"0.02\", \"7d\" = \"5.00\" }\n";
    let mut bursar = setup().limits(limits).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for path in ["/10000", "/10000"] {
        let page = agent.get(origin.address, path).await;
        assert_eq!(page.status, 200, "{page:?}");
    }
    let page = agent.get(origin.address, "/10000").await;
    assert_eq!(page.problem(), "over-limit");
    let problem = page.json();
    assert_eq!(problem["rule"], "agents.research.rolling.24h");
    assert_eq!(
        (&problem["limit"], &problem["used"], &problem["reserved"]),
        (&json!("0.02"), &json!("0.02"), &json!("0.00"))
    );
    assert!(problem.get("resets_at").is_none(), "it does not reset at any one time");
    // Both payments leave the window with a bucket of 24 minutes, a day after they were made.
    let now = jiff::Timestamp::now();
    let retry: jiff::Timestamp = problem["retry_at"].as_str().unwrap().parse().unwrap();
    let wait = now.duration_until(retry).as_mins();
    assert!((24 * 60 - 1..=24 * 60 + 24).contains(&wait), "{wait} minutes");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("0.02 USD within any 24 hours"), "{detail}");
    assert_eq!(origin.payments().len(), 2);

    // The amount spent is still known after a restart.
    let bursar = bursar.kill().serve();
    assert_eq!(
        Agent::of(&bursar).get(origin.address, "/10001").await.problem(),
        "over-limit"
    );
    assert_eq!(origin.payments().len(), 2);
}

#[tokio::test]
async fn unknown_payments_are_pending_and_settled_ones_are_not() {
    let origin = Origin::https(|request| async move {
        if !request.is_paid() {
            return seller::asks("10000");
        }
        if request.target.starts_with("/honest") {
            seller::sold("goods")
        } else {
            // Took the credential, and says nothing about settlement.
            answer(200, &[("content-type", "text/plain")], "goods")
        }
    })
    .await;
    let limits = "[agents.research]\ntotal = \"5.00\"\nmax_pending = \"0.02\"\n";
    let bursar = setup().limits(limits).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for path in ["/honest/1", "/silent/1", "/honest/2", "/honest/3", "/silent/2"] {
        assert_eq!(agent.get(origin.address, path).await.status, 200, "{path}");
    }
    let page = agent.get(origin.address, "/honest/4").await;
    assert_eq!(page.problem(), "over-limit");
    let problem = page.json();
    assert_eq!(problem["rule"], "agents.research.max_pending");
    assert_eq!(
        (&problem["used"], &problem["reserved"]),
        (&json!("0.00"), &json!("0.02"))
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("Room returns as payments are settled or proven expired."),
        "{detail}"
    );
    assert_eq!(origin.payments().len(), 5);
}

#[tokio::test]
async fn max_pending_alone_is_not_a_budget() {
    let origin = shop().await;
    let bursar = setup()
        .limits("[agents.research]\nmax_pending = \"1.00\"\n")
        .trust(&origin.ca_pem)
        .start();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.problem(), "no-budget");
    assert!(origin.payments().is_empty());
}

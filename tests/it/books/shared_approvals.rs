//! Approvals with several servers on one database: each server asks for its own payments, nobody is asked twice, and
//! decisions survive the loss of a server or of the database.

use std::time::Instant;

use http::Request;

use crate::approvals::{AT_ONCE, approve, at_ten_cents, pending, question};
use crate::postgres_cluster::{Cluster, Database, cluster};
use crate::support::agent::{Agent, Page};
use crate::support::bursar::{Bursar, Home, eventually, setup};
use crate::support::origin::Origin;

/// A budget for one purchase of ten cents and a little more; every purchase needs approval.
const LIMITS: &str = "[agents.research]\ntotal = \"0.15\"\napproval_above = \"0.05\"\n";

fn home(database: &Database, origin: &Origin) -> Home {
    let config = format!("{AT_ONCE}[store]\nurl = \"{}\"\n", database.url());
    setup().trust(&origin.ca_pem).limits(LIMITS).config(&config).home()
}

async fn report(bursar: &Bursar, origin: &Origin) -> Page {
    Agent::of(bursar).get(origin.address, "/report").await
}

fn assert_problem(page: &Page, status: u16, problem: &str) {
    assert_eq!(
        (page.status.as_u16(), page.problem()),
        (status, problem.to_owned()),
        "{:?}",
        page.body
    );
}

fn is_paid(page: &Page, id: &str) {
    let actual = (page.status.as_u16(), page.header("bursar-payment"));
    assert_eq!(actual, (200, Some(id)), "{:?}", page.body);
}

#[tokio::test]
async fn what_was_asked_and_approved_survives_a_kill_and_its_log_can_be_verified() {
    let (origin, database) = (at_ten_cents().await, cluster().database().await);
    let mut bursar = home(&database, &origin).serve();
    assert_problem(&report(&bursar, &origin).await, 503, "approval-pending");
    let asked = question(&bursar).await;
    let mut bursar = bursar.kill().serve();
    assert_eq!(question(&bursar).await, asked);
    let (id, code) = asked;
    approve(&bursar, &id, &code);
    let mut bursar = bursar.kill().serve();
    assert!(origin.payments().is_empty());
    is_paid(&report(&bursar, &origin).await, &id);
    assert_eq!(origin.payments().len(), 1);
    assert_eq!(bursar.stop(), 0);

    let kinds: Vec<String> = bursar
        .journal()
        .iter()
        .map(|entry| entry["ev"].as_str().unwrap_or_default().to_owned())
        .filter(|kind| kind.starts_with("approval.") || kind.starts_with("pay."))
        .collect();
    assert_eq!(
        kinds,
        [
            "pay.reserved",
            "approval.requested",
            "approval.granted",
            "pay.armed",
            "pay.settled"
        ]
    );
    // Reading commands show the same as for a ledger in a directory.
    let shown = bursar.run(&["payments", "show", &id]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for actual in ["settled", "research: pay 0.10 USDC", "ledger          agrees"] {
        assert!(shown.contains(actual), "{actual}: {shown}");
    }
    let exported = bursar.run(&["approvals", "export"]);
    let file = bursar.path().join("exported");
    std::fs::write(&file, exported.stdout).unwrap();
    let verified = bursar.run(&["approvals", "verify", file.to_str().unwrap()]);
    // Exit code 3: nothing is wrong, but the operator's word is the only evidence.
    assert_eq!(verified.status.code(), Some(3), "{verified:?}");
    assert!(String::from_utf8_lossy(&verified.stdout).contains("undamaged"));
}

#[tokio::test]
async fn a_question_of_one_server_is_not_put_by_another() {
    let (origin, database) = (at_ten_cents().await, cluster().database().await);
    let (first, second) = (home(&database, &origin).serve(), home(&database, &origin).serve());
    assert_problem(&report(&first, &origin).await, 503, "approval-pending");
    let (id, code) = question(&first).await;
    // The budget has no room for two, but that is not the reason given.
    for _ in 0..2 {
        let page = report(&second, &origin).await;
        assert_problem(&page, 503, "approval-busy");
        assert_eq!(page.json()["approval_id"], *id);
        assert!(page.header("retry-after").is_some());
    }
    assert!(pending(&second).is_empty());
    let elses = second.run(&["approve", &id, "--code", &code]);
    assert_eq!(elses.status.code(), Some(1), "{elses:?}");

    // After a denial there, nobody is asked here.
    assert!(first.run(&["deny", &id, "--why", "no"]).status.success());
    for server in [&first, &second] {
        assert_problem(&report(server, &origin).await, 403, "approval-denied");
    }
    let other = async |server: &Bursar| Agent::of(server).get(origin.address, "/other").await;
    assert_problem(&other(&second).await, 503, "approval-pending");
    let (id, code) = question(&second).await;
    approve(&second, &id, &code);
    assert_problem(&other(&first).await, 503, "approval-busy");
    is_paid(&other(&second).await, &id);
    // The approval was for one purchase, and the budget is used up.
    assert_problem(&other(&first).await, 403, "over-limit");
    assert_eq!(
        (origin.payments().len(), second.states()),
        (1, vec!["settled".to_owned()])
    );
    assert!(first.states().iter().all(|state| state == "released"));
}

#[tokio::test]
async fn a_key_whose_question_waits_with_one_server_is_not_paid_for_another() {
    let (origin, database) = (at_ten_cents().await, cluster().database().await);
    let ask = async |server: &Bursar| {
        let request = Request::get("/report").header("idempotency-key", "order-1");
        Agent::of(server).request(origin.address, request).await
    };
    let (first, second) = (home(&database, &origin).serve(), home(&database, &origin).serve());
    assert_problem(&ask(&first).await, 503, "approval-pending");
    let (id, code) = question(&first).await;
    // One server started before there was a question; the other finds the key held when it starts.
    let third = home(&database, &origin).serve();
    for server in [&second, &third] {
        assert_problem(&ask(server).await, 503, "approval-busy");
    }
    approve(&first, &id, &code);
    is_paid(&ask(&first).await, &id);
    // Now it is paid.
    for server in [&second, &third] {
        assert_problem(&ask(server).await, 409, "already-paid");
    }
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn when_a_server_is_gone_another_asks_and_what_was_approved_there_pays_nothing() {
    let (origin, database) = (at_ten_cents().await, cluster().database().await);
    let mut gone = home(&database, &origin).serve();
    assert_problem(&report(&gone, &origin).await, 503, "approval-pending");
    let (id, code) = question(&gone).await;
    approve(&gone, &id, &code);
    let lost = gone.kill();
    database
        .run("update bursar.node set heartbeat = now() - interval '61 seconds'")
        .await;
    // A new server checks for silent ones at once.
    let other = home(&database, &origin).serve();
    let began = Instant::now();
    while database.ask("select count(*) from bursar.approval").await != "0" {
        assert!(began.elapsed().as_secs() < 60);
        tokio::task::yield_now().await;
    }
    assert_problem(&report(&other, &origin).await, 503, "approval-pending");
    let (new, code) = question(&other).await;
    assert_ne!(new, id);

    let back = lost.serve();
    assert!(pending(&back).is_empty());
    let page = report(&back, &origin).await;
    assert_problem(&page, 503, "approval-busy");
    assert_eq!(page.json()["approval_id"], *new);
    approve(&other, &new, &code);
    is_paid(&report(&other, &origin).await, &new);
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn a_database_that_was_away_loses_neither_a_question_nor_an_answer() {
    let origin = at_ten_cents().await;
    let own = Cluster::start();
    let database = own.database().await;
    let mut bursar = home(&database, &origin).serve();
    assert_problem(&report(&bursar, &origin).await, 503, "approval-pending");
    let asked = question(&bursar).await;

    // A server started without the database finds the question once it is back.
    let stopped = bursar.kill();
    own.down();
    let bursar = stopped.serve();
    assert_problem(&report(&bursar, &origin).await, 503, "store-unavailable");
    assert!(pending(&bursar).is_empty());
    own.up();
    assert_eq!(question(&bursar).await, asked);

    // An answer that cannot be recorded is not lost.
    let (id, code) = asked;
    own.down();
    let said = bursar.run(&["approve", &id, "--code", &code]);
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        !said.status.success() && text.contains("not recorded in the ledger"),
        "{text}"
    );
    assert!(origin.payments().is_empty());
    own.up();
    eventually("the approval", || {
        let open = pending(&bursar);
        open.iter()
            .any(|open| open["id"] == *id && open["state"] == "approved")
            .then_some(())
    })
    .await;
    is_paid(&report(&bursar, &origin).await, &id);
    assert_eq!(
        (origin.payments().len(), bursar.states()),
        (1, vec!["settled".to_owned()])
    );
}

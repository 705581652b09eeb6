//! The disk fails under a running server: what cannot be recorded is not paid, free traffic continues, and recording
//! only resumes after a restart (R203). Files other than the journal may fail without agents noticing.

use std::sync::Arc;

use http::Request;
use http_body_util::Full;
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Home, setup};
use crate::support::faults::Faults;
use crate::support::origin::{Origin, answer};
use crate::support::seller;

/// Everything under `/buy` costs a cent; the answer to a credential is held back until there is a permit.
async fn shop(open: &Arc<Semaphore>) -> Origin {
    let open = open.clone();
    Origin::https(move |request| {
        let open = open.clone();
        async move {
            if !request.target.starts_with("/buy") {
                return answer(200, &[], "free");
            }
            if !request.is_paid() {
                return seller::asks("10000");
            }
            open.acquire().await.unwrap().forget();
            seller::sold("goods")
        }
    })
    .await
}

fn many() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1000))
}

fn home(origin: &Origin) -> Home {
    setup().trust(&origin.ca_pem).home()
}

/// Payments are refused, even if the disk works again, and free traffic passes.
async fn refuses_to_pay(bursar: &Bursar, origin: &Origin, sent: usize) {
    let agent = Agent::of(bursar);
    for path in ["/buy/2", "/buy/3"] {
        let page = agent.get(origin.address, path).await;
        assert_eq!(page.status, 503, "{page:?}");
        assert_eq!(page.problem(), "store-unavailable");
        assert!(page.header("retry-after").is_some(), "{page:?}");
    }
    let free = agent.get(origin.address, "/").await;
    assert_eq!((free.status.as_u16(), &free.body[..]), (200, &b"free"[..]));
    assert_eq!(origin.payments().len(), sent, "nothing more went out");
}

fn counted(bursar: &Bursar) -> usize {
    let counts = |state: &String| ["held", "armed", "unknown", "settled"].contains(&state.as_str());
    bursar.states().iter().filter(|state| counts(state)).count()
}

const JOURNAL_FAILURES: [(&str, Errno); 5] = [
    ("write", Errno::NOSPC),
    ("write", Errno::IO),
    ("write", Errno::ROFS),
    ("sync", Errno::IO),
    ("sync", Errno::NOSPC),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_journal_cannot_take_is_not_paid_until_a_restart() {
    for (call, error) in JOURNAL_FAILURES {
        let (origin, faults) = (shop(&many()).await, Faults::none());
        let mut bursar = home(&origin).serve_by(faults.program());
        faults.fail_once(call, "/audit/seg-", error);
        let page = Agent::of(&bursar).get(origin.address, "/buy/1").await;
        assert_eq!(page.status, 503, "{call} {error}: {page:?}");
        assert_eq!(page.problem(), "store-unavailable");
        assert_eq!(page.json()["retryable"], true);
        // The disk works again, but that proves nothing about what it lost.
        faults.clear();
        refuses_to_pay(&bursar, &origin, 0).await;
        assert_eq!(bursar.stop(), 0);

        let bursar = bursar.kill().serve();
        let page = Agent::of(&bursar).get(origin.address, "/buy/4").await;
        assert_eq!(page.status, 200, "{call} {error}: {page:?}");
        assert_eq!(origin.payments().len(), 1);
        // What was written before the failed sync may or may not be there, and counts if it is.
        let expected: &[&str] = if call == "sync" {
            &["unknown", "settled"]
        } else {
            &["settled"]
        };
        assert_eq!(bursar.states(), expected, "{call} {error}");
        bursar.journal();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_the_journal_cannot_take_is_handed_over_and_stays_counted() {
    for (call, error) in JOURNAL_FAILURES {
        let open = Arc::new(Semaphore::new(0));
        let (origin, faults) = (shop(&open).await, Faults::none());
        let mut bursar = home(&origin).serve_by(faults.program());
        let (agent, address) = (Agent::of(&bursar), origin.address);
        let asking = tokio::spawn(async move { agent.get(address, "/buy/1").await });
        crate::support::bursar::eventually("a credential", || (!origin.payments().is_empty()).then_some(())).await;
        faults.fail_once(call, "/audit/seg-", error);
        open.add_permits(1000);
        let page = asking.await.unwrap();
        assert_eq!(
            (page.status.as_u16(), &page.body[..]),
            (200, &b"goods"[..]),
            "{call} {error}"
        );
        assert!(page.header("bursar-payment").is_some());
        faults.clear();
        refuses_to_pay(&bursar, &origin, 1).await;
        assert_eq!(counted(&bursar), 1, "{call} {error}");
        assert_eq!(bursar.stop(), 0);

        let bursar = bursar.kill().serve();
        assert_eq!(counted(&bursar), 1, "{call} {error}");
        assert_eq!(Agent::of(&bursar).get(origin.address, "/buy/4").await.status, 200);
        bursar.journal();
    }
}

/// As if the disk is full before the server starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_cannot_be_recorded_is_none() {
    for (call, error) in JOURNAL_FAILURES {
        let (origin, faults) = (shop(&many()).await, Faults::none());
        let mut bursar = home(&origin).serve();
        assert_eq!(Agent::of(&bursar).get(origin.address, "/buy/1").await.status, 200);
        let home = bursar.kill();
        faults.fail(call, "/audit/seg-", error);
        let Err((home, said)) = home.try_serve_by(faults.program()) else {
            panic!("{call} {error}: it serves");
        };
        assert_eq!(said, "");
        let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
        let last = log.lines().last().unwrap();
        let expected = error.to_string();
        let kind = expected.split(" (").next().unwrap();
        assert!(last.contains("seg-") && last.contains(kind), "{call} {error}: {last}");
        faults.clear();
        let bursar = home.serve();
        assert_eq!(bursar.states(), ["settled"], "{call} {error}");
        bursar.journal();
    }
}

/// Paths for reports, the files that repeats need, and the index: none of them is the ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_go_on_when_the_disk_takes_nothing_but_the_journal() {
    for (call, folder) in [
        ("write", "/private/"),
        ("open", "/private/"),
        ("write", "/index/"),
        ("sync", "/index/"),
        ("sync_file_range", "/index/"),
    ] {
        let (origin, faults) = (shop(&many()).await, Faults::none());
        let mut bursar = home(&origin).serve_by(faults.program());
        faults.fail(call, folder, Errno::NOSPC);
        let agent = Agent::of(&bursar);
        let mut connection = agent.connect(origin.address, &["http/1.1"]).await;
        for number in 0..5 {
            let request = Request::get(format!("/buy/{number}")).body(Full::default()).unwrap();
            let page = connection.send(origin.address, request).await.unwrap();
            assert_eq!(page.status, 200, "{call} {folder}: {page:?}");
        }
        drop(connection);
        // Stopping writes the index as well.
        assert_eq!(bursar.stop(), 0);
        let met = faults.steps();
        let met = met.iter().any(|step| step.call == call && step.what.contains(folder));
        assert!(met, "{call} {folder}: never met");
        faults.clear();
        let bursar = bursar.kill().serve();
        assert_eq!(bursar.states(), ["settled"; 5], "{call} {folder}");
        assert_eq!(origin.payments().len(), 5);
        bursar.journal();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_starts_and_pays_although_its_index_cannot_be_made() {
    let (origin, faults) = (shop(&many()).await, Faults::none());
    let home = home(&origin);
    faults.fail("open", "/index/", Errno::NOSPC);
    let mut bursar = home.serve_by(faults.program());
    assert_eq!(Agent::of(&bursar).get(origin.address, "/buy/1").await.status, 200);
    assert_eq!(bursar.states(), ["settled"]);
    let id = bursar.payments()[0]["id"].as_str().unwrap().to_owned();
    assert!(bursar.run(&["payments", "show", &id]).status.success());
    assert_eq!(bursar.stop(), 0);
    faults.clear();
    let bursar = bursar.kill().serve();
    assert_eq!(bursar.states(), ["settled"]);
    assert!(bursar.journal().iter().any(|entry| entry["ev"] == "ledger.rebuilt"));
}

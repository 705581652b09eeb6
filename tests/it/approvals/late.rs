//! Between a person's approval and the payment, time passes, the agent hangs up, the store fails or the proxy stops.
//! The approval is neither lost nor good for longer or for more (R41 and R43 to R45).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::io::Errno;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;

use crate::approvals::{AT_ONCE, HOLDS, LIMITS, approve, assert_problem, at_ten_cents, kinds, pending, question};
use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Home, eventually, setup};
use crate::support::faults::{Faults, Moment};
use crate::support::origin::Origin;
use crate::support::seller;
use crate::support::wire::{Wire, soon};

fn home(origin: &Origin, approval: &str) -> Home {
    setup().trust(&origin.ca_pem).limits(LIMITS).config(approval).home()
}

/// Sells at each of `prices` in turn, then always at the last. `None`: the site does not answer.
async fn asking(prices: &'static [Option<&'static str>]) -> (Origin, Arc<Semaphore>) {
    let (asked, given_up) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let signal = given_up.clone();
    let origin = Origin::https(move |request| {
        let (asked, signal) = (asked.clone(), signal.clone());
        async move {
            if request.is_paid() {
                return seller::sold("goods");
            }
            let turn = asked.fetch_add(1, Ordering::SeqCst).min(prices.len() - 1);
            if prices[turn].is_none() {
                let _given_up = GivenUp(signal);
                std::future::pending::<()>().await;
            }
            seller::asks(prices[turn].unwrap())
        }
    })
    .await;
    (origin, given_up)
}

/// Signals that nobody waits for the site's answer any more.
struct GivenUp(Arc<Semaphore>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

/// A person takes `seconds`, then approves the open question. Returns its id.
async fn approved_after(seconds: u32, bursar: &Bursar, faults: &Faults) -> String {
    let (id, code) = question(bursar).await;
    faults.passed(seconds);
    approve(bursar, &id, &code);
    id
}

#[tokio::test]
async fn after_thirty_seconds_the_site_is_asked_again_and_before_it_is_not() {
    for (seconds, asked) in [(29, 1), (31, 2)] {
        let (origin, faults) = (at_ten_cents().await, Faults::none());
        let bursar = home(&origin, HOLDS).serve_by(faults.program_with_clocks());
        let (agent, site) = (Agent::of(&bursar), origin.address);
        let waiting = tokio::spawn(async move { agent.get(site, "/report").await });
        let id = approved_after(seconds, &bursar, &faults).await;
        let page = waiting.await.unwrap();
        let signal = (page.status.as_u16(), page.header("bursar-payment"));
        assert_eq!(signal, (200, Some(&*id)), "{seconds}: {:?}", page.body);
        assert_eq!(origin.seen().len(), asked + 1, "{seconds}");
        assert_eq!(
            (origin.payments().len(), bursar.states()),
            (1, vec!["settled".to_owned()])
        );
    }
}

#[tokio::test]
async fn what_the_site_asks_by_then_is_not_what_was_approved() {
    let (origin, _) = asking(&[Some("100000"), Some("110000")]).await;
    let faults = Faults::none();
    let bursar = home(&origin, HOLDS).serve_by(faults.program_with_clocks());
    let (agent, site) = (Agent::of(&bursar), origin.address);
    let waiting = tokio::spawn(async move { agent.get(site, "/report").await });
    let id = approved_after(31, &bursar, &faults).await;
    // A new question with another code; the money of the first is released.
    let other = || pending(&bursar).into_iter().find(|open| open["id"] != *id);
    let other = eventually("another question", other).await;
    assert!(
        other["sentence"]
            .as_str()
            .unwrap()
            .starts_with("research: pay 0.11 USDC")
    );
    assert_eq!(bursar.states(), ["released", "held"]);
    assert!(origin.payments().is_empty());
    let code = other["code"].as_str().unwrap();
    approve(&bursar, other["id"].as_str().unwrap(), code);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(bursar.states(), ["released", "settled"]);
    assert_eq!(
        (origin.payments().len(), &bursar.payments()[1]["amount"]),
        (1, &json!("110000"))
    );
}

#[tokio::test]
async fn an_agent_that_hangs_up_before_its_payment_is_armed_leaves_the_approval_to_its_repeat() {
    let (origin, given_up) = asking(&[Some("100000"), None, Some("100000")]).await;
    let faults = Faults::none();
    let bursar = home(&origin, HOLDS).serve_by(faults.program_with_clocks());
    let agent = Agent::of(&bursar);
    let mut wire = Wire::new(agent.tls(origin.address, "localhost", &["http/1.1"]).await.unwrap());
    let port = origin.address.port();
    wire.say(format!("GET /report HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"))
        .await;
    let id = approved_after(31, &bursar, &faults).await;
    // The request has taken the approval. The site is asked for its terms again, and is slow.
    eventually("the site to be asked again", || {
        (origin.seen().len() == 2).then_some(())
    })
    .await;
    drop(wire);
    soon(given_up.acquire()).await.unwrap().forget();
    assert_eq!(bursar.states(), ["held"]);

    let page = agent.get(origin.address, "/report").await;
    assert_eq!(
        (page.status.as_u16(), page.header("bursar-payment")),
        (200, Some(&*id)),
        "{:?}",
        page.body
    );
    assert_eq!(
        (origin.payments().len(), bursar.states()),
        (1, vec!["settled".to_owned()])
    );
    let asked = kinds(&bursar)
        .iter()
        .filter(|kind| *kind == "approval.requested")
        .count();
    assert_eq!(asked, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_read_pays_nothing_and_leaves_the_approval() {
    let (origin, faults) = (at_ten_cents().await, Faults::none());
    let mut bursar = home(&origin, AT_ONCE).serve_by(faults.program());
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    approve(&bursar, &id, &code);
    // After a failed write, the state of the disk is not known.
    faults.fail_once("write", "/audit/seg-", Errno::IO);
    assert_problem(&agent.get(origin.address, "/other").await, 503, "store-unavailable");
    faults.clear();
    // Every failed attempt puts the approval back for the next request.
    for _ in 0..2 {
        let page = agent.get(origin.address, "/report").await;
        assert_problem(&page, 503, "store-unavailable");
        let detail = page.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains("could not be asked") && detail.contains("the approval is kept"),
            "{detail}"
        );
    }
    assert!(origin.payments().is_empty());
    assert_eq!(bursar.stop(), 0);

    let bursar = bursar.kill().serve();
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_eq!(
        (page.status.as_u16(), page.header("bursar-payment")),
        (200, Some(&*id)),
        "{:?}",
        page.body
    );
    assert_eq!(origin.payments().len(), 1);
}

fn stored(home: &Home, id: &str) -> Value {
    let path = home.path().join(format!("private/approvals/{id}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn entry(bursar: &Bursar, ev: &str) -> Option<Value> {
    bursar.journal().into_iter().find(|entry| entry["ev"] == ev)
}

/// Kills the process when the answer is on disk but not in the ledger, and restarts it `seconds` after the answer.
async fn found_again_after(seconds: u32) -> (Origin, Bursar, String, Timestamp) {
    let (origin, faults) = (at_ten_cents().await, Faults::none());
    let mut bursar = home(&origin, AT_ONCE).serve_by(faults.program_with_clocks());
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        503,
        "approval-pending",
    );
    let (id, code) = question(&bursar).await;
    faults.kill_at("write", "/audit/seg-", 1, Moment::Before);
    assert!(!bursar.run(&["approve", &id, "--code", &code]).status.success());
    assert!(bursar.ended() < 0, "it came to an orderly end");
    faults.clear();
    let home = bursar.kill();
    assert!(home.journal().iter().all(|entry| entry["ev"] != "approval.granted"));
    let decided_at = stored(&home, &id)["asks"][0]["evidence"]["decided_at"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    faults.wakes_up_later(seconds);
    let bursar = home.serve_by(faults.program_with_clocks());
    (origin, bursar, id, decided_at)
}

#[tokio::test]
async fn an_answer_that_is_found_again_counts_from_when_it_was_given() {
    let (origin, bursar, id, decided_at) = found_again_after(14 * 60).await;
    let granted = eventually("the approval", || entry(&bursar, "approval.granted")).await;
    let use_by: Timestamp = granted["use_by"].as_str().unwrap().parse().unwrap();
    let good_for = use_by.duration_since(decided_at);
    // Entries have microsecond precision.
    let quarter = SignedDuration::from_mins(15);
    assert!(
        good_for <= quarter && quarter - good_for < SignedDuration::from_micros(1),
        "{good_for:?}"
    );
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_eq!(
        (page.status.as_u16(), page.header("bursar-payment")),
        (200, Some(&*id)),
        "{:?}",
        page.body
    );
}

#[tokio::test]
async fn an_answer_that_is_found_again_after_15_minutes_has_expired() {
    let (origin, bursar, id, _) = found_again_after(15 * 60).await;
    let over = eventually("its end", || entry(&bursar, "approval.expired")).await;
    assert_eq!((&over["id"], &over["why"]), (&json!(id), &json!("unused")));
    assert!(entry(&bursar, "approval.granted").is_none());
    let released = || (bursar.states() == ["released"]).then_some(());
    eventually("the money back", released).await;
    // The same request asks a new question.
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        503,
        "approval-pending",
    );
    assert_ne!(question(&bursar).await.0, id);
    assert!(origin.payments().is_empty());
}

/// Waits until new connections are refused, that is, until the stop has begun.
async fn refuses(bursar: &Bursar) {
    let mut stopping = tokio::time::interval(Duration::from_millis(1));
    let closed = async {
        while TcpStream::connect(bursar.address).await.is_ok() {
            stopping.tick().await;
        }
    };
    soon(closed).await;
}

#[tokio::test]
async fn an_approval_during_a_stop_is_recorded_or_rejected() {
    let origin = at_ten_cents().await;
    let mut bursar = home(&origin, AT_ONCE).serve();
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        503,
        "approval-pending",
    );
    let (id, code) = question(&bursar).await;
    // Half of the operator's command has been sent when the stop begins; the rest arrives afterwards.
    let word = json!({ "id": id, "code": code }).to_string();
    let (begun, rest) = word.split_at(word.len() / 2);
    let mut socket = UnixStream::connect(bursar.path().join("run/admin.sock")).await.unwrap();
    let head = format!(
        "POST /approvals/approve HTTP/1.1\r\nhost: bursar\r\ncontent-length: {}\r\n\r\n{begun}",
        word.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // The response to this one shows that the head has been read before the stop.
    assert_eq!(pending(&bursar).len(), 1);
    bursar.terminate();
    refuses(&bursar).await;
    socket.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(socket.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(bursar.ended(), 0);

    let granted = entry(&bursar, "approval.granted").is_some();
    if answer.starts_with("HTTP/1.1 200") {
        assert!(granted, "what was answered with 200 is on record");
    } else {
        // The grant may still be recorded after this answer, which leaves open whether it was.
        assert!(
            answer.contains("the server is stopping; `bursar pending` shows"),
            "{answer}"
        );
    }
    assert!(origin.payments().is_empty());
    let bursar = bursar.kill().serve();
    let (again, code) = question(&bursar).await;
    assert_eq!(again, id);
    if !granted {
        approve(&bursar, &id, &code);
    }
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_eq!((page.status.as_u16(), page.header("bursar-payment")), (200, Some(&*id)));
    assert_eq!(origin.payments().len(), 1);
}

//! The answers that bursar writes itself: one shape, stable names, and whether money left. And what happens when it
//! cannot write its ledger.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::agent::{Agent, Page};
use crate::support::bursar::{bin, setup};
use crate::support::origin::{Origin, answer, read_request};
use crate::support::seller;

/// Checks type, status, title and `Proxy-Status`, and that there is no unlisted member.
fn is_problem(page: &Page, status: u16, error: &str, code: &str, title: &str, more: &[&str]) {
    assert_eq!(page.status, status, "{page:?}");
    assert_eq!(page.problem(), code);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let said = format!("bursar; error={error}; details=\"{code}\"");
    assert_eq!(page.header("proxy-status"), Some(said.as_str()));
    let problem = page.json();
    assert_eq!((&problem["status"], &problem["title"]), (&json!(status), &json!(title)));
    let members: BTreeSet<&str> = problem.as_object().unwrap().keys().map(String::as_str).collect();
    let expected: BTreeSet<&str> = ["type", "title", "status", "detail"]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    assert_eq!(members, expected, "{code}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.ends_with('.') && detail.len() > 20, "{code}: {detail}");
}

async fn asks() -> Origin {
    Origin::https(|request| async move {
        match (request.target.as_str(), request.is_paid()) {
            ("/free", _) => answer(200, &[], "free"),
            (_, true) => seller::sold("goods"),
            (_, false) => seller::asks("10000"),
        }
    })
    .await
}

#[tokio::test]
async fn a_refusal_is_this_document_and_no_other() {
    let origin = asks().await;
    let limits = "timezone = \"Europe/Berlin\"\n[account]\ntotal = \"9.00\"\n[agents.research]\nday = \"0.015\"\n";
    let bursar = setup().limits(limits).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let paid = agent.get(origin.address, "/").await;
    assert_eq!(
        (paid.status, paid.header("bursar-price")),
        (http::StatusCode::OK, Some("0.01 USD"))
    );
    let remaining = paid.header("bursar-remaining").unwrap().to_owned();
    let page = agent.get(origin.address, "/").await;
    let ends = page.json()["resets_at"].as_str().unwrap().to_owned();
    assert_eq!(
        remaining,
        format!("0.005 USD; rule=\"agents.research.day\"; resets_at=\"{ends}\"")
    );
    assert_eq!(
        page.json(),
        json!({
            "type": "urn:bursar:problem:over-limit",
            "title": "The limits do not allow this payment",
            "status": 403,
            "detail": format!(
                "This payment of 0.01 USD would exceed agents.research.day, which is 0.015 USD per day: 0.01 USD used, \
                 0.00 USD reserved. The current day ends at {ends}, and the count then restarts. Finance can raise \
                 agents.research.day in limits.toml."
            ),
            "rule": "agents.research.day",
            "limit": "0.015",
            "used": "0.01",
            "reserved": "0.00",
            "asked": "0.01",
            "resets_at": ends,
            "retry_at": ends,
            "agent": "research",
            "merchant": "localhost",
            "retryable": false,
        })
    );
    assert!(ends.ends_with(":00:00Z"), "{ends}");
}

#[tokio::test]
async fn an_agent_that_pays_by_itself_is_refused_or_left_alone() {
    let origin = Origin::https(|_| async { seller::asks("10000") }).await;
    let strict = setup().trust(&origin.ca_pem).start();
    for (name, value) in [
        ("x-payment", "e30="),
        ("payment-signature", "e30="),
        ("payment-authorization", "x"),
        ("x-payment-spt", "spt_1"),
        ("authorization", "Payment e30="),
    ] {
        let page = Agent::of(&strict)
            .request(origin.address, Request::get("/").header(name, value))
            .await;
        is_problem(
            &page,
            403,
            "http_request_denied",
            "agent-payment",
            "Agents do not pay by themselves here",
            &["retryable"],
        );
    }
    assert_eq!(origin.seen().len(), 0, "nothing was forwarded");

    let lenient = setup()
        .proxy("agent_payments = \"pass\"\n")
        .trust(&origin.ca_pem)
        .start();
    let request = Request::get("/").header("authorization", "Payment e30=");
    let page = Agent::of(&lenient).request(origin.address, request).await;
    assert_eq!(page.status, 402, "passed on, and not paid a second time");
    assert_eq!(page.header("proxy-status"), Some("bursar; details=\"agent-pays\""));
    let note = page.header("bursar-note").unwrap();
    assert!(
        note.starts_with("Not paid (agent-pays): ") && note.ends_with('.'),
        "{note}"
    );
    assert_eq!(
        (page.header("bursar-price"), page.header("bursar-remaining")),
        (None, None)
    );
    assert_eq!(origin.payments(), ["Payment e30="], "the agent's own");
    assert_eq!(lenient.payments().len(), 0);
}

#[tokio::test]
async fn every_unreachable_site_has_a_problem_of_its_own_kind() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let bursar = setup().config("[timeouts]\nresponse_head_s = 1\n").start();
    let agent = Agent::of(&bursar);
    let refused = agent.get_plain(&format!("http://{free}/")).await;
    is_problem(
        &refused,
        502,
        "connection_refused",
        "upstream-unreachable",
        "The site could not be reached",
        &[],
    );
    let unknown = agent.get_plain("http://no-such-name.invalid/").await;
    is_problem(
        &unknown,
        502,
        "dns_error",
        "upstream-name",
        "The site's name could not be resolved",
        &[],
    );
    let own = agent.get_plain(&format!("http://{}/", bursar.address)).await;
    is_problem(
        &own,
        508,
        "proxy_loop_detected",
        "loop",
        "The request leads back to this proxy",
        &[],
    );

    let origin = Origin::https(|_| std::future::pending()).await;
    let distrusted = agent.get(origin.address, "/").await;
    let title = "The site's certificate could not be verified";
    is_problem(
        &distrusted,
        502,
        "tls_certificate_error",
        "upstream-certificate",
        title,
        &[],
    );

    let silent = setup()
        .trust(&origin.ca_pem)
        .config("[timeouts]\nresponse_head_s = 1\n")
        .start();
    let late = Agent::of(&silent).get(origin.address, "/").await;
    is_problem(
        &late,
        504,
        "http_response_timeout",
        "upstream-timeout",
        "The site did not answer in time",
        &[],
    );

    let rude = Origin::raw(|mut stream, _| async move {
        read_request(&mut stream).await;
    })
    .await;
    let broken = setup().trust(&rude.ca_pem).start();
    let cut = Agent::of(&broken).get(rude.address, "/").await;
    is_problem(
        &cut,
        502,
        "connection_terminated",
        "upstream-broken",
        "The site broke off the exchange",
        &[],
    );

    let closed = setup().upstream("allow_private = []\n").start();
    let guarded = Agent::of(&closed).get_plain(&format!("http://{free}/")).await;
    let title = "This destination may not be reached through the proxy";
    is_problem(
        &guarded,
        403,
        "destination_ip_prohibited",
        "destination-not-allowed",
        title,
        &[],
    );
}

#[tokio::test]
async fn a_tunnel_is_for_one_host_and_the_proxy_for_those_it_knows() {
    let origin = asks().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let page = agent
        .request(origin.address, Request::get("/").header("host", "other.example"))
        .await;
    let title = "The request names another host than the tunnel";
    is_problem(&page, 421, "http_request_denied", "host-mismatch", title, &[]);

    let stranger = Agent::named(&bursar, "research", "not-the-token");
    let page = stranger.get_plain("http://127.0.0.1:1/").await;
    let title = "The proxy does not know which agent this is";
    is_problem(&page, 407, "http_request_denied", "proxy-authentication", title, &[]);
    assert!(page.header("proxy-authenticate").unwrap().starts_with("Basic "));
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn without_a_disk_nothing_is_signed_and_free_traffic_passes() {
    let origin = asks().await;
    let home = setup().trust(&origin.ca_pem).home();
    // The file size limit below must make writes fail, as a full disk does, and not kill the process.
    let mut ignoring = Command::new("sh");
    ignoring.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", bin()]);
    let mut bursar = home.serve_by(ignoring);
    let agent = Agent::of(&bursar);
    assert_eq!(agent.get(origin.address, "/").await.status, 200);

    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let pid = Pid::from_raw(bursar.pid() as i32);
    prlimit(pid, Resource::Fsize, none).unwrap();
    for _ in 0..3 {
        let page = agent.get(origin.address, "/").await;
        let title = "The payment could not be recorded, so nothing was paid";
        is_problem(
            &page,
            503,
            "proxy_internal_error",
            "store-unavailable",
            title,
            &["retryable"],
        );
        assert_eq!(page.json()["retryable"], true);
        assert_eq!(page.header("retry-after"), Some("30"));
        assert!(!page.headers.contains_key("bursar-payment"));
        let detail = page.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with(|c: char| c.is_ascii_uppercase()), "{detail}");
        assert!(
            detail.contains("Nothing was paid; requests that cost nothing still pass."),
            "{detail}"
        );
        assert!(!detail.contains(bursar.path().to_str().unwrap()), "{detail}");
    }
    for _ in 0..3 {
        let page = agent.get(origin.address, "/free").await;
        assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"free"[..]));
    }
    assert_eq!(origin.payments().len(), 1);
    assert_eq!(bursar.states(), ["settled"], "what was recorded can still be read");

    // With free space and a restart, it pays again.
    let home = bursar.kill();
    let bursar = home.serve();
    // Another request: the answer to the last one may have been on its way to the agent when the process was killed.
    assert_eq!(Agent::of(&bursar).get(origin.address, "/?again").await.status, 200);
    assert_eq!(bursar.states(), ["settled", "settled"]);
    bursar.journal();
}

#[tokio::test]
async fn a_receipt_that_cannot_be_recorded_leaves_the_payment_counted() {
    let full = Arc::new(AtomicBool::new(false));
    let (held, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let go = full.clone();
    let origin = Origin::https(move |request| {
        let (held, go) = (held.clone(), go.clone());
        async move {
            if !request.is_paid() {
                return seller::asks("10000");
            }
            held.send(()).unwrap();
            while !go.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            seller::sold("goods")
        }
    })
    .await;
    let limits = "timezone = \"UTC\"\n[agents.research]\ntotal = \"0.01\"\n";
    let home = setup().limits(limits).trust(&origin.ca_pem).home();
    let mut ignoring = Command::new("sh");
    ignoring.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", bin()]);
    let mut bursar = home.serve_by(ignoring);
    let agent = Agent::of(&bursar);
    let address = origin.address;
    let asking = tokio::spawn(async move { agent.get(address, "/").await });
    arrived.recv().await.unwrap();
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    prlimit(Pid::from_raw(bursar.pid() as i32), Resource::Fsize, none).unwrap();
    full.store(true, Ordering::SeqCst);
    let page = asking.await.unwrap();
    assert_eq!(
        (page.status.as_u16(), &page.body[..]),
        (200, &b"goods"[..]),
        "it is paid, so it is delivered"
    );
    assert_eq!(bursar.states(), ["armed"]);

    let home = bursar.kill();
    let bursar = home.serve();
    assert_eq!(bursar.states(), ["unknown"]);
    let page = Agent::of(&bursar).get(origin.address, "/another").await;
    assert_eq!(page.problem(), "over-limit");
    assert_eq!(page.json()["reserved"], "0.01");
}

#[tokio::test]
async fn a_request_that_is_not_for_a_proxy_gets_an_explanation() {
    let bursar = setup().start();
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "400"),
        (
            "GET /favicon.ico HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "400",
        ),
        (
            "CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\nConnection: close\r\n\r\n",
            "407",
        ),
    ] {
        let mut stream = TcpStream::connect(bursar.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
            .await
            .unwrap();
        let mut said = String::new();
        if status == "400" {
            stream.read_to_string(&mut said).await.unwrap();
        } else {
            said = crate::support::agent::read_head(&mut stream).await;
        }
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        assert!(
            said.to_ascii_lowercase().contains("proxy-status: bursar; error="),
            "{said}"
        );
    }
    assert_eq!(bursar.payments().len(), 0);
}

//! What no request may do, paid or free: reach internal addresses, name a second host, pay by itself, or exceed the
//! size limits.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::agent::{Agent, client_config};
use crate::support::bursar::setup;
use crate::support::origin::{Origin, Speaks, answer, certificate};
use crate::support::seller;
use crate::support::wire::Wire;

const H1: &[&str] = &["http/1.1"];

#[tokio::test]
async fn addresses_inside_are_refused_and_never_dialled() {
    let inside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    let port = inside.local_addr().unwrap().port();
    // Exceptions cover only what they name.
    let bursar = setup().upstream("allow_private = [\"127.0.0.9/32\"]\n").start();
    let agent = Agent::of(&bursar);
    for host in [
        "localhost",
        "LocalHost.",
        "127.0.0.1",
        "127.0.0.8",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "0.0.0.0",
        "[::]",
        "127.1",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "2130706433",
        "0x7f000001",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[fe80::1]",
        "[fd00::1]",
        "[ff02::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:db8::1]",
    ] {
        let authority = format!("{host}:{port}");
        let mut wire = Wire::new(agent.tunnel(&authority).await);
        wire.say(format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
        let page = wire.answer().await.unwrap();
        assert_eq!(
            (page.status(), page.problem().as_str()),
            (403, "destination-not-allowed"),
            "{host}"
        );
        // This tunnel ends; another one may still work.
        assert_eq!(page.field("connection"), Some("close"));
        assert_eq!(wire.rest().await, b"");
    }
    let site = inside.local_addr().unwrap();
    for offer in [H1, &["h2"]] {
        let mut connection = agent.connect(site, offer).await;
        let page = connection
            .send(site, Request::get("/").body(Full::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(page.status, 403);
        assert_eq!(page.problem(), "destination-not-allowed");
        assert!(
            !String::from_utf8_lossy(&page.body).contains("127.0.0.1"),
            "addresses are not disclosed"
        );
    }
    let came = inside.accept();
    assert!(came.is_err(), "somebody connected: {came:?}");
}

/// TLS inside a tunnel to `connect`, with this SNI or none.
async fn sealed(agent: &Agent, connect: &str, sni: Option<&str>, alpn: &[&str]) -> TlsStream<TcpStream> {
    let host = connect.rsplit_once(':').unwrap().0;
    let mut config = client_config(&agent.ca, alpn);
    config.enable_sni = sni.is_some();
    let name = ServerName::try_from(sni.unwrap_or(host).to_owned()).unwrap();
    let tunnel = agent.tunnel(connect).await;
    TlsConnector::from(Arc::new(config))
        .connect(name, tunnel)
        .await
        .unwrap()
}

#[tokio::test]
async fn all_that_names_a_host_must_name_the_same_one() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let port = origin.address.port();
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let (name, address) = (format!("localhost:{port}"), format!("127.0.0.1:{port}"));
    let mut served = 0;
    for (connect, sni, host, status) in [
        (&name, Some("localhost"), name.as_str(), 200),
        (&name, Some("localhost"), "localhost", 200),
        (&name, Some("localhost"), "LOCALHOST.", 200),
        (&name, Some("LOCALHOST"), &name, 200),
        (&name, None, &name, 200),
        (&address, None, &address, 200),
        (&name, Some("localhost"), "other.example", 421),
        (&name, Some("localhost"), &address, 421),
        (&name, Some("localhost"), "localhost:1", 421),
        (&name, Some("localhost"), "localhost, other.example", 421),
        (&name, None, "other.example", 421),
        (&name, Some("other.example"), &name, 421),
        (&name, Some("other.example"), "other.example", 421),
        (&address, Some("localhost"), &address, 421),
        (&address, Some("localhost"), &name, 421),
        (&address, None, &name, 421),
    ] {
        let mut wire = Wire::new(sealed(&agent, connect, sni, H1).await);
        wire.say(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let page = wire.answer().await.unwrap();
        assert_eq!(page.status(), status, "CONNECT {connect}, SNI {sni:?}, Host {host}");
        if status == 421 {
            assert_eq!(page.problem(), "host-mismatch");
        }
        served += usize::from(status == 200);
        assert_eq!(origin.seen().len(), served);
    }
}

#[tokio::test]
async fn a_second_name_in_one_request_is_refused() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let port = origin.address.port();
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for head in [
        format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nHost: localhost:{port}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nhost: other.example\r\n"),
        format!("GET https://other.example/ HTTP/1.1\r\nHost: localhost:{port}\r\n"),
        format!("GET https://localhost:{port}/ HTTP/1.1\r\nHost: other.example\r\n"),
        format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n"),
        format!("CONNECT other.example:443 HTTP/1.1\r\nHost: localhost:{port}\r\n"),
    ] {
        let mut wire = Wire::new(agent.tls(origin.address, "localhost", H1).await.unwrap());
        wire.say(format!("{head}\r\n")).await;
        let page = wire.answer().await.unwrap();
        assert_eq!(
            (page.status(), page.problem().as_str()),
            (421, "host-mismatch"),
            "{head}"
        );
    }
    assert_eq!(origin.seen().len(), 0);
    // The same name twice, once in the target: the site gets the origin form.
    let mut wire = Wire::new(agent.tls(origin.address, "localhost", H1).await.unwrap());
    wire.say(format!(
        "GET https://localhost:{port}/x HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"
    ))
    .await;
    assert_eq!(wire.answer().await.unwrap().status(), 200);
    assert_eq!(origin.seen().len(), 1);
    assert_eq!(origin.seen()[0].target, "/x");
}

#[tokio::test]
async fn h2_authorities_are_held_to_the_same_rule() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let port = origin.address.port();
    let bursar = setup().trust(&origin.ca_pem).start();
    let stream = Agent::of(&bursar)
        .tls(origin.address, "localhost", &["h2"])
        .await
        .unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for (uri, host, status) in [
        (format!("https://localhost:{port}/1"), None, 200),
        (
            format!("https://localhost:{port}/2"),
            Some(format!("localhost:{port}")),
            200,
        ),
        (
            format!("https://localhost:{port}/"),
            Some("other.example".to_owned()),
            421,
        ),
        ("https://other.example/".to_owned(), None, 421),
        (format!("https://localhost:{}/", port ^ 1), None, 421),
        (format!("http://localhost:{port}/"), None, 421),
    ] {
        let mut request = Request::get(&uri);
        if let Some(host) = &host {
            request = request.header("host", host);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status, "{uri} {host:?}");
    }
    assert_eq!(origin.seen().len(), 2);
}

const PAYMENTS: [(&str, &str); 7] = [
    ("X-PAYMENT", "e30="),
    ("x-Payment", ""),
    ("payment-SIGNATURE", "e30="),
    ("Payment-Authorization", "x"),
    ("X-payment-SPT", "spt_1"),
    ("Authorization", "Payment eyJ9"),
    ("AUTHORIZATION", "bearer t, pAYMENT  eyJ9"),
];

#[tokio::test]
async fn agents_do_not_pay_by_themselves() {
    let origin = Origin::https(|_| async { seller::asks("10000") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let port = origin.address.port();
    for (name, value) in PAYMENTS {
        let mut wire = Wire::new(agent.tls(origin.address, "localhost", H1).await.unwrap());
        wire.say(format!(
            "GET / HTTP/1.1\r\nHost: localhost:{port}\r\n{name}: {value}\r\n\r\n"
        ))
        .await;
        let page = wire.answer().await.unwrap();
        assert_eq!(
            (page.status(), page.problem().as_str()),
            (403, "agent-payment"),
            "{name}: {value}"
        );
    }
    assert_eq!(origin.seen().len(), 0);
    assert_eq!(bursar.payments().len(), 0);
}

#[tokio::test]
async fn agents_may_pay_by_themselves_where_the_operator_says_so() {
    let origin = Origin::https(|_| async { seller::asks("10000") }).await;
    let bursar = setup()
        .proxy("agent_payments = \"pass\"\n")
        .trust(&origin.ca_pem)
        .start();
    let agent = Agent::of(&bursar);
    let port = origin.address.port();
    for (asked, (name, value)) in (1..).zip(PAYMENTS) {
        let mut wire = Wire::new(agent.tls(origin.address, "localhost", H1).await.unwrap());
        wire.say(format!(
            "GET / HTTP/1.1\r\nHost: localhost:{port}\r\n{name}: {value}\r\n\r\n"
        ))
        .await;
        let page = wire.answer().await.unwrap();
        assert_eq!(page.status(), 402, "{name}: {value}");
        assert_eq!(page.field("proxy-status"), Some("bursar; details=\"agent-pays\""));
        assert_eq!(origin.seen().len(), asked);
        assert_eq!(origin.seen()[asked - 1].headers[name.to_ascii_lowercase()], value);
    }
    assert_eq!(bursar.payments().len(), 0);
}

#[tokio::test]
async fn heads_have_bounds_on_both_sides() {
    let origin = Origin::start(
        Speaks::H1AndH2,
        certificate(&["localhost"], |_| {}),
        |request| async move {
            let large = "x".repeat(70_000);
            let many: Vec<String> = (0..300).map(|n| format!("x-{n}")).collect();
            let fields: Vec<(&str, &str)> = match request.target.as_str() {
                "/large" => vec![("x-large", &large)],
                "/many" => many.iter().map(|name| (name.as_str(), "1")).collect(),
                _ => Vec::new(),
            };
            answer(200, &fields, "ok")
        },
    )
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for offer in [H1, &["h2"]] {
        let get = |path: &str| Request::get(path);
        let most = (0..200).fold(get("/most"), |request, n| request.header(format!("x-{n}"), "1"));
        let many = (0..300).fold(get("/"), |request, n| request.header(format!("x-{n}"), "1"));
        for (request, statuses) in [
            (most, &[200][..]),
            (get("/").header("x-long", "y".repeat(40_000)), &[200]),
            (many, &[400, 431]),
            (get("/").header("x-large", "y".repeat(70_000)), &[431]),
            (get("/large"), &[502]),
            (get("/many"), &[502]),
        ] {
            let mut connection = agent.connect(origin.address, offer).await;
            let request = request.body(Full::default()).unwrap();
            let path = request.uri().clone();
            let seen = origin.seen().len();
            let page = connection.send(origin.address, request).await.unwrap();
            assert!(
                statuses.contains(&page.status.as_u16()),
                "{offer:?} {path} {}",
                page.status
            );
            let reached = usize::from(page.status == 200 || page.status == 502);
            assert_eq!(origin.seen().len(), seen + reached, "{offer:?} {path}");
        }
    }
}

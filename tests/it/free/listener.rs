//! What real clients send to a proxy, and who may send it (R232).

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncWriteExt, copy_bidirectional, duplex};
use tokio_rustls::TlsConnector;

use crate::support::agent::{Agent, client_config};
use crate::support::bursar::{Bursar, Setup, bursar, setup};
use crate::support::origin::{Origin, Speaks, answer, certificate, pem_files};
use crate::support::wire::{Wire, soon};

async fn plain(body: &'static str) -> Origin {
    let script = move |_| async move { answer(200, &[], body) };
    Origin::start(Speaks::Plain, certificate(&["localhost"], |_| {}), script).await
}

fn login(name: &str, token: &str) -> String {
    let credential = STANDARD.encode(format!("{name}:{token}"));
    format!("Proxy-Authorization: Basic {credential}\r\n")
}

fn right(bursar: &Bursar) -> String {
    login("research", &bursar.home.token)
}

/// A listening socket to which nothing may ever connect.
struct Untouched(TcpListener);

impl Untouched {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn assert_untouched(&self) {
        let came = self.0.accept();
        assert!(came.is_err(), "somebody connected: {came:?}");
    }
}

#[tokio::test]
async fn connect_in_http_1_0_without_a_host() {
    let origin = plain("inside").await;
    let bursar = setup().start();
    let mut wire = Wire::to(&bursar).await;
    let port = origin.address.port();
    wire.say(format!("CONNECT localhost:{port} HTTP/1.0\r\n{}\r\n", right(&bursar)))
        .await;
    assert_eq!(wire.head().await.unwrap().status(), 200);
    wire.say(format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"))
        .await;
    assert_eq!(wire.answer().await.unwrap().text(), "inside");
}

#[tokio::test]
async fn connect_with_the_first_bytes_of_tls_in_the_same_segment() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let connector = TlsConnector::from(Arc::new(client_config(&bursar.ca(), &["http/1.1"])));
    let (near, mut far) = duplex(64 << 10);
    let name = ServerName::try_from("localhost").unwrap();
    let shaking = tokio::spawn(async move { connector.connect(name, near).await });

    let mut hello = Wire::new(&mut far);
    // The record's length is in bytes 3 and 4 (RFC 8446 §5.1).
    let mut opening = hello.exactly(5).await.unwrap();
    let length = u16::from_be_bytes([opening[3], opening[4]]);
    opening.extend(hello.exactly(length.into()).await.unwrap());
    let port = origin.address.port();
    let mut first = format!(
        "CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n{}\r\n",
        right(&bursar)
    )
    .into_bytes();
    first.extend(opening);
    let mut wire = Wire::to(&bursar).await;
    wire.say(first).await;
    assert_eq!(wire.head().await.unwrap().status(), 200);
    let (mut proxy, early) = wire.into_parts();
    far.write_all(&early).await.unwrap();
    tokio::spawn(async move { copy_bidirectional(&mut far, &mut proxy).await });

    let mut wire = Wire::new(soon(shaking).await.unwrap().unwrap());
    wire.say(format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"))
        .await;
    assert_eq!(wire.answer().await.unwrap().text(), "ok");
}

#[tokio::test]
async fn absolute_form_goes_to_the_host_of_its_url() {
    let clear = plain("clear").await;
    let sealed = Origin::https(|_| async { answer(200, &[], "sealed") }).await;
    let bursar = setup().trust(&sealed.ca_pem).start();
    let mut wire = Wire::to(&bursar).await;
    for (scheme, origin, body) in [
        ("http", &clear, "clear"),
        ("https", &sealed, "sealed"),
        ("http", &clear, "clear"),
    ] {
        let port = origin.address.port();
        wire.say(format!(
            "GET {scheme}://localhost:{port}/a?b=c HTTP/1.1\r\nHost: another.example\r\n{}Proxy-Connection: keep-alive\r\n\r\n",
            right(&bursar)
        ))
        .await;
        let answered = wire.answer().await.unwrap();
        assert_eq!((answered.status(), answered.text().as_str()), (200, body));
        let seen = origin.seen().pop().unwrap();
        assert_eq!(seen.target, "/a?b=c");
        assert_eq!(seen.headers["host"], format!("localhost:{port}"));
        assert_eq!(seen.headers.len(), 1, "{:?}", seen.headers);
    }
    for (line, target) in [
        ("GET http://localhost:PORT?x=1", "/?x=1"),
        ("OPTIONS http://localhost:PORT", "*"),
        ("OPTIONS http://localhost:PORT/", "/"),
    ] {
        let line = line.replace("PORT", &clear.address.port().to_string());
        wire.say(format!("{line} HTTP/1.1\r\n{}\r\n", right(&bursar))).await;
        assert_eq!(wire.answer().await.unwrap().text(), "clear", "{line}");
        assert_eq!(clear.seen().pop().unwrap().target, target, "{line}");
    }
    wire.say(format!(
        "GET http://localhost:{} HTTP/1.0\r\n{}\r\n",
        clear.address.port(),
        right(&bursar)
    ))
    .await;
    assert_eq!(wire.answer().await.unwrap().text(), "clear");
    assert_eq!(clear.seen().pop().unwrap().target, "/");
    assert_eq!(wire.rest().await, b"", "HTTP/1.0 ends with its answer");
}

#[tokio::test]
async fn what_is_not_for_a_proxy_gets_400() {
    let bursar = setup().start();
    let login = right(&bursar);
    let mut wire = Wire::to(&bursar).await;
    wire.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let page = wire.answer().await.unwrap();
    assert_eq!(page.status(), 400);
    assert_eq!(page.field("content-type"), Some("text/plain; charset=utf-8"));
    assert!(page.text().contains("bursar env"), "{}", page.text());
    for line in [
        "GET /other HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET ftp://localhost/ HTTP/1.1",
        "GET http://user:secret@localhost/ HTTP/1.1",
        "GET http://-bad-/ HTTP/1.1",
        "CONNECT localhost HTTP/1.1",
        "CONNECT localhost:0 HTTP/1.1",
        "CONNECT bad_\u{1}:1 HTTP/1.1",
    ] {
        let mut wire = Wire::to(&bursar).await;
        wire.say(format!("{line}\r\nHost: x\r\n{login}\r\n")).await;
        let page = wire.answer().await.unwrap();
        assert_eq!(page.status(), 400, "{line}");
        // hyper itself answers anything that is not a request line, without a body.
        if !page.body.is_empty() {
            assert_eq!(page.problem(), "bad-request", "{line}");
        }
    }
}

#[tokio::test]
async fn plain_http_inside_a_tunnel_on_any_port() {
    let origin = plain("inside").await;
    let bursar = setup().start();
    let tunnel = Agent::of(&bursar)
        .tunnel(&format!("localhost:{}", origin.address.port()))
        .await;
    let mut wire = Wire::new(tunnel);
    for path in ["/1", "/2"] {
        let port = origin.address.port();
        wire.say(format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"))
            .await;
        assert_eq!(wire.answer().await.unwrap().text(), "inside");
        assert_eq!(origin.seen().pop().unwrap().target, path);
    }
    // HTTP/1.0 may omit the host, and the connection ends with the answer. The site is asked in the same version.
    wire.say("GET /3 HTTP/1.0\r\n\r\n").await;
    assert_eq!(wire.answer().await.unwrap().text(), "inside");
    assert_eq!(wire.rest().await, b"");
    let seen = origin.seen().pop().unwrap();
    assert_eq!(seen.version, http::Version::HTTP_10);
    assert!(!seen.headers.contains_key("host"), "{seen:?}");
}

#[tokio::test]
async fn what_is_neither_tls_nor_http_is_closed_without_dialling() {
    let site = Untouched::new();
    let bursar = setup().start();
    let agent = Agent::of(&bursar);
    for opening in [
        &b"SSH-2.0-OpenSSH_9.6\r\n"[..],
        b"\x05\x01\x00",
        b"\0",
        b"get / HTTP/1.1\r\n\r\n",
        b"* OK IMAP\r\n",
    ] {
        let mut wire = Wire::new(agent.tunnel(&site.address().to_string()).await);
        wire.say(opening).await;
        assert_eq!(wire.rest().await, b"", "{opening:?}");
    }
    site.assert_untouched();
}

#[tokio::test]
async fn without_a_login_the_connection_stays_for_the_next_try() {
    let origin = plain("inside").await;
    let bursar = setup().start();
    let added = crate::support::bursar::bursar(bursar.path(), &["agents", "add", "writer"]);
    let writer = String::from_utf8(added.stdout).unwrap().trim().to_owned();
    let port = origin.address.port();
    let mut wire = Wire::to(&bursar).await;
    let token = bursar.home.token.as_str();
    for wrong in [
        String::new(),
        login("research", "wrong"),
        login("writer", token),
        login("research", &writer),
        login("", token),
        login("nobody", token),
        "Proxy-Authorization: Bearer x\r\n".to_owned(),
        "Proxy-Authorization: Basic !!\r\n".to_owned(),
        // A login for the site is not one for the proxy.
        login("research", token).replace("Proxy-", ""),
    ] {
        for target in [
            format!("CONNECT localhost:{port}"),
            format!("GET http://localhost:{port}/"),
        ] {
            wire.say(format!("{target} HTTP/1.1\r\nHost: localhost:{port}\r\n{wrong}\r\n"))
                .await;
            let page = wire.answer().await.unwrap();
            assert_eq!(page.status(), 407, "{target} {wrong}");
            assert!(page.field("proxy-authenticate").unwrap().starts_with("Basic "));
            assert_eq!(page.problem(), "proxy-authentication");
            assert!(!page.text().contains(token));
        }
    }
    assert_eq!(origin.seen().len(), 0);
    for (name, token) in [("writer", writer.as_str()), ("research", token)] {
        wire.say(format!(
            "GET http://localhost:{port}/ HTTP/1.1\r\n{}\r\n",
            login(name, token)
        ))
        .await;
        assert_eq!(wire.answer().await.unwrap().status(), 200, "{name}");
    }
    wire.say(format!(
        "CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n{}\r\n",
        right(&bursar)
    ))
    .await;
    assert_eq!(wire.head().await.unwrap().status(), 200);
    wire.say(format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"))
        .await;
    assert_eq!(wire.answer().await.unwrap().status(), 200);
    assert!(
        origin
            .seen()
            .iter()
            .all(|seen| !seen.headers.contains_key("proxy-authorization"))
    );
    assert!(!bursar.log().contains(token));
}

/// Guessing gets nowhere (threat 2.13): after ten failures a minute no more are checked or logged. The right token always
/// passes, so that a neighbour on the same address locks nobody out.
#[tokio::test]
async fn failed_logins_are_limited_per_source_and_lock_nobody_out() {
    let origin = plain("inside").await;
    let bursar = setup().start();
    let port = origin.address.port();
    let mut wire = Wire::to(&bursar).await;
    let mut details = Vec::new();
    for guess in 0..30 {
        let wrong = login("research", &format!("guess-{guess}"));
        wire.say(format!("GET http://localhost:{port}/ HTTP/1.1\r\n{wrong}\r\n"))
            .await;
        let page = wire.answer().await.unwrap();
        assert_eq!(page.status(), 407, "{guess}");
        details.push(
            serde_json::from_str::<serde_json::Value>(&page.text()).unwrap()["detail"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let limited = details
        .iter()
        .filter(|detail| detail.contains("too many failed log-ins in the last minute"));
    // Room for a few more comes back while a slow machine is guessing.
    let limited = limited.count();
    assert!((15..=20).contains(&limited), "{details:?}");
    assert!(!details[9].contains("too many"), "{details:?}");
    let logged = bursar.log().matches("proxy login failed").count();
    assert_eq!(logged, 30 - limited);
    assert!(!bursar.log().contains("guess-"), "a guess is not logged");
    assert_eq!(origin.seen().len(), 0);
    wire.say(format!(
        "GET http://localhost:{port}/ HTTP/1.1\r\n{}\r\n",
        right(&bursar)
    ))
    .await;
    assert_eq!(wire.answer().await.unwrap().status(), 200);
}

/// Retries until the listener's answer to this login changes.
async fn becomes(bursar: &Bursar, token: &str, status: u16) -> Duration {
    let began = Instant::now();
    loop {
        let mut wire = Wire::to(bursar).await;
        wire.say(format!(
            "CONNECT localhost:1 HTTP/1.1\r\n{}\r\n",
            login("research", token)
        ))
        .await;
        if wire.head().await.unwrap().status() == status {
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(20), "still not {status}");
    }
}

#[tokio::test]
async fn a_rotated_and_a_revoked_token_end_within_a_second() {
    // The file is checked once a second; the rest is margin for a loaded machine.
    const BOUND: Duration = Duration::from_secs(5);
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let server = setup().trust(&origin.ca_pem).start();
    let get = || http::Request::get("/").body(http_body_util::Full::default()).unwrap();
    let mut open = Vec::new();
    for offer in ["http/1.1", "h2"] {
        let mut connection = Agent::of(&server).connect(origin.address, &[offer]).await;
        assert_eq!(connection.send(origin.address, get()).await.unwrap().status, 200);
        open.push(connection);
    }
    let old = server.home.token.clone();
    let rotated = bursar(server.path(), &["agents", "rotate", "research"]);
    let new = String::from_utf8(rotated.stdout).unwrap().trim().to_owned();
    assert!(becomes(&server, &old, 407).await < BOUND);
    assert!(becomes(&server, &new, 200).await < BOUND);
    // Tunnels opened with it end as well.
    for mut connection in open {
        let page = connection.send(origin.address, get()).await.unwrap();
        assert_eq!(
            (page.status.as_u16(), page.problem().as_str()),
            (407, "proxy-authentication")
        );
        // Closed; on h2 a stream sent before GOAWAY arrived still gets its answer (RFC 9113 §6.8).
        if let Ok(page) = connection.send(origin.address, get()).await {
            assert_eq!(page.status, 407);
        }
    }
    assert_eq!(origin.seen().len(), 2);
    let revoked = bursar(server.path(), &["agents", "revoke", "research"]);
    assert!(revoked.status.success());
    assert!(becomes(&server, &new, 407).await < BOUND);
}

#[tokio::test]
async fn the_listener_itself_may_speak_tls() {
    let origin = Origin::https(|_| async { answer(200, &[], "twice sealed") }).await;
    let folder = tempfile::tempdir().unwrap();
    let (listener_ca, cert, key) = pem_files(folder.path());
    let lines = format!("tls_cert = {:?}\ntls_key = {:?}\n", cert, key);
    let bursar = setup().proxy(&lines).trust(&origin.ca_pem).start();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, listener_ca).unwrap();
    assert_eq!(
        std::fs::read_to_string(bursar.path().join("run/listen"))
            .unwrap()
            .trim(),
        bursar.address.to_string()
    );

    let (clear, outer) = (
        Wire::to(&bursar).await,
        TlsConnector::from(Arc::new(client_config(&ca, &[]))),
    );
    let stream = outer
        .connect(ServerName::try_from("localhost").unwrap(), clear.stream)
        .await
        .unwrap();
    let mut wire = Wire::new(stream);
    let port = origin.address.port();
    wire.say(format!(
        "CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n{}\r\n",
        right(&bursar)
    ))
    .await;
    assert_eq!(wire.head().await.unwrap().status(), 200);
    let inner = TlsConnector::from(Arc::new(client_config(&bursar.ca(), &["http/1.1"])));
    let stream = inner
        .connect(ServerName::try_from("localhost").unwrap(), wire.stream)
        .await
        .unwrap();
    let mut wire = Wire::new(stream);
    wire.say(format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"))
        .await;
    assert_eq!(wire.answer().await.unwrap().text(), "twice sealed");
}

/// A directory whose listener is on all interfaces.
fn open_to_all(setup: Setup) -> crate::support::bursar::Home {
    let home = setup.home();
    let path = home.path().join("bursar.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"127.0.0.1:0\"", "\"0.0.0.0:0\"")).unwrap();
    home
}

#[tokio::test]
async fn listening_beyond_loopback_must_be_configured() {
    let home = open_to_all(setup());
    let refused = bursar(home.path(), &["serve"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("allow_plain") && said.contains("tls_cert"), "{said}");
    assert_eq!(String::from_utf8(refused.stdout).unwrap(), "");
}

#[tokio::test]
async fn a_request_to_the_proxy_itself_is_a_loop() {
    let bursar = open_to_all(setup().proxy("allow_plain = true\n")).serve();
    let port = bursar.address.port();
    let login = right(&bursar);
    for host in ["localhost", "LOCALHOST", "127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        let mut wire = Wire::new(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        wire.say(format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: x\r\n{login}\r\n"))
            .await;
        let page = wire.answer().await.unwrap();
        assert_eq!((page.status(), page.problem().as_str()), (508, "loop"), "{host}");
    }
    let mut wire = Wire::new(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    wire.say(format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: x\r\n{login}\r\n"))
        .await;
    assert_eq!(wire.answer().await.unwrap().status(), 508);
}

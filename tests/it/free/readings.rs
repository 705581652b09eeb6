//! What the servers that are paid read as a payment, our guard refuses. The corpus goes as the same bytes to the
//! parsers of the reference servers (`tests/interop/readings.mjs`) and through the real binary.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::agent::{Agent, Connection};
use crate::support::bursar::setup;
use crate::support::buyer;
use crate::support::lab::{installed, interop};
use crate::support::origin::{Origin, answer};
use crate::support::wire::Wire;

/// Field lines of one request.
type Lines = Vec<(&'static str, Vec<u8>)>;

/// The reference servers' parsers behind Node's own.
struct Readers {
    h1: u16,
    h2: u16,
    child: Child,
}

impl Readers {
    /// `None` if they are not installed.
    fn start() -> Option<Self> {
        if !installed() {
            buyer::skip("the packages in tests/interop");
            return None;
        }
        let mut child = Command::new("node")
            .arg(interop().join("readings.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let ports: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("readings.mjs said {line:?}"));
        let port = |name: &str| u16::try_from(ports[name].as_u64().unwrap()).unwrap();
        let (h1, h2) = (port("h1"), port("h2"));
        Some(Self { h1, h2, child })
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(name: &'static str, value: &[u8]) -> Lines {
    vec![(name, value.to_vec())]
}

/// Nobody should be kept from logging in like this.
fn ordinary() -> Vec<Lines> {
    let values: [&[u8]; 9] = [
        b"Bearer eyJhbGciOiJFZERTQSJ9.e30.c2ln",
        b"Bearer payment",
        b"Basic UGF5bWVudDogZXlKOQ==",
        b"Digest username=\"agent\", realm=\"a \\\"b\\\"\", uri=\"/payment\", payment=\"x\"",
        b"AWS4-HMAC-SHA256 Credential=a/20261130/s3/aws4_request, SignedHeaders=host;payment, Signature=fe5f80",
        b"Negotiate YIIJvwYGKwYBBQUCoIIJszCC",
        b"Payments x",
        b"Payment-Plan monthly",
        b"Token t\xfcr",
    ];
    let mut all: Vec<Lines> = values.iter().map(|value| line("Authorization", value)).collect();
    all.push(line("Accept-Payment", b"evm"));
    all.push(line("X-Payment-Response", b"e30="));
    all
}

/// Written by hand, and put together at random from what parsers trip over.
fn corpus() -> Vec<Lines> {
    let values: [&[u8]; 12] = [
        b"Payment eyJ9",
        b"Bearer \"x, Payment eyJ9\"",
        b"Bearer \"x, Payment eyJ9",
        b"Bearer \"x\\\", Payment eyJ9\"",
        b"Digest username=\"a,Payment b\"",
        b"Bearer t,pAYMENT\teyJ9",
        b"\xa0Payment eyJ9",
        b"Bearer t,\xa0Payment\xa0eyJ9",
        b"Bearer t,\xef\xbb\xbfPayment eyJ9",
        b"Payment\xe3\x80\x80eyJ9",
        b",,Payment =,",
        b"Payment",
    ];
    let mut all: Vec<Lines> = Vec::new();
    for name in ["Authorization", "Payment-Authorization"] {
        all.extend(values.iter().map(|value| line(name, value)));
    }
    for name in ["X-Payment", "x-PAYMENT", "Payment-Signature", "X-Payment-Spt"] {
        all.push(line(name, b"eyJ4NDAyVmVyc2lvbiI6Mn0="));
    }
    let login = ("Authorization", b"Bearer t".to_vec());
    all.push(vec![login.clone(), ("AUTHORIZATION", b"Payment eyJ9".to_vec())]);
    all.push(vec![("authorization", b"Payment eyJ9".to_vec()), login]);

    let pieces: [&[u8]; 14] = [
        b"Payment",
        b"payment ",
        b"eyJ9",
        b" ",
        b"\t",
        b",",
        b", ",
        b"\"",
        b"\\",
        b"Bearer x",
        b"a=",
        b"\xa0",
        b"\xe2\x80\x83",
        b";",
    ];
    // A fixed sequence (Knuth's multiplier), so that a failure can be repeated.
    let mut state: u64 = 0x402;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..250 {
        let value = (0..=next(7))
            .flat_map(|_| pieces[next(pieces.len())].to_vec())
            .collect();
        all.push(vec![("Authorization", value)]);
    }
    all
}

/// As HTTP/1.1; `None` if the server closes without an answer.
async fn ask<S>(wire: &mut Wire<S>, host: &str, lines: &Lines) -> Option<(u16, String)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    for (name, value) in lines {
        head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    wire.say(head).await;
    let page = wire.answer().await?;
    Some((page.status(), page.text()))
}

fn request(uri: &str, lines: &Lines) -> Request<Full<bytes::Bytes>> {
    let mut request = Request::get(uri).body(Full::default()).unwrap();
    for (name, value) in lines {
        let name: HeaderName = name.to_ascii_lowercase().parse().unwrap();
        request
            .headers_mut()
            .append(name, HeaderValue::from_bytes(value.trim_ascii()).unwrap());
    }
    request
}

fn shown(lines: &Lines) -> String {
    let line = |(name, value): &(&str, Vec<u8>)| format!("{name}: {}", value.escape_ascii());
    lines.iter().map(line).collect::<Vec<_>>().join(" | ")
}

#[tokio::test]
async fn what_a_reference_server_reads_as_a_payment_is_refused() {
    let Some(readers) = Readers::start() else { return };
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let (agent, host) = (Agent::of(&bursar), format!("localhost:{}", origin.address.port()));
    let mut passed = 0;

    let mut found = 0;
    for lines in corpus() {
        let mut node = Wire::new(TcpStream::connect(("127.0.0.1", readers.h1)).await.unwrap());
        let read = match ask(&mut node, "x", &lines).await {
            Some((200, names)) => names,
            // Node's parser did not take the request.
            _ => "[]".to_owned(),
        };
        let mut wire = Wire::new(agent.tls(origin.address, "localhost", &["http/1.1"]).await.unwrap());
        let (status, text) = ask(&mut wire, &host, &lines).await.unwrap();
        if read != "[]" {
            found += 1;
            assert_eq!(status, 403, "{} is a payment to {read}: {text}", shown(&lines));
            assert!(text.contains("urn:bursar:problem:agent-payment"), "{text}");
        }
        passed += usize::from(status == 200);
        assert_eq!(origin.seen().len(), passed, "{}", shown(&lines));
    }
    assert!(
        found > 40,
        "the reference servers found only {found} payments over HTTP/1.1"
    );

    let stream = TcpStream::connect(("127.0.0.1", readers.h2)).await.unwrap();
    let (mut node, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut connection = agent.connect(origin.address, &["h2"]).await;
    assert!(matches!(connection, Connection::H2(..)));
    let mut found = 0;
    for lines in corpus() {
        let answer = node.send_request(request("http://x/", &lines)).await.unwrap();
        let read = answer.into_body().collect().await.unwrap().to_bytes();
        let page = connection.send(origin.address, request("/", &lines)).await.unwrap();
        if read != "[]" {
            found += 1;
            assert_eq!(page.status, 403, "{} is a payment to {read:?}", shown(&lines));
            assert_eq!(page.problem(), "agent-payment");
        }
        passed += usize::from(page.status == 200);
        assert_eq!(origin.seen().len(), passed, "{}", shown(&lines));
    }
    assert!(
        found > 40,
        "the reference servers found only {found} payments over HTTP/2"
    );
    assert_eq!(bursar.payments().len(), 0);
}

#[tokio::test]
async fn ordinary_logins_pass_unchanged() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for alpn in ["http/1.1", "h2"] {
        let mut connection = agent.connect(origin.address, &[alpn]).await;
        for lines in ordinary() {
            let page = connection.send(origin.address, request("/", &lines)).await.unwrap();
            assert_eq!(page.status, 200, "{alpn} {}", shown(&lines));
            let seen = origin.seen().pop().unwrap();
            let (name, value) = &lines[0];
            assert_eq!(seen.headers[*name].as_bytes(), value, "{alpn} {}", shown(&lines));
        }
    }
}

#[tokio::test]
async fn a_field_that_a_gateway_takes_for_a_payment_is_refused() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    // CGI and WSGI see HTTP_X_PAYMENT for both spellings.
    for name in [
        "x_payment",
        "PAYMENT_SIGNATURE",
        "payment_authorization",
        "x-payment_spt",
    ] {
        for alpn in ["http/1.1", "h2"] {
            let mut connection = agent.connect(origin.address, &[alpn]).await;
            let page = connection
                .send(origin.address, request("/", &line(name, b"e30=")))
                .await
                .unwrap();
            assert_eq!(
                (page.status.as_u16(), page.problem().as_str()),
                (403, "agent-payment"),
                "{name}"
            );
        }
    }
    assert_eq!(origin.seen().len(), 0);
}

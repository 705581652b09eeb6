//! The site: HTTP/1.1 on one port, HTTP/2 on another, both over TLS, in one thread. `site FOLDER [name-server]`
//!
//! It prints its two addresses. As a name server it also answers on port 53 that every name is at 127.0.0.1.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bursar_bench_proxy::{Fault, keys, sockets};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// Between the first event and the second, which ends the stream. A proxy that waits for the end shows in the median.
const BETWEEN_EVENTS: Duration = Duration::from_millis(5);

struct Pages {
    small: Bytes,
    medium: Bytes,
    large: Bytes,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("no folder")?;
    sockets::raise_limit()?;
    let pages = Arc::new(Pages {
        small: Bytes::from(format!("{{\"ok\": true, \"padding\": \"{}\"}}", "x".repeat(172))),
        medium: Bytes::from(noise(64 << 10)),
        large: Bytes::from(noise(10 << 20)),
    });
    if arguments.next().as_deref() == Some("name-server") {
        tokio::spawn(answer_names(UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).await?));
    }
    let certified = Arc::new(keys::site(Path::new(&folder))?);
    let (plain, h1_address) = sockets::listen()?;
    let (multiplexed, h2_address) = sockets::listen()?;
    println!("{h1_address} {h2_address}");
    tokio::spawn(accept(
        multiplexed,
        acceptor(&certified, b"h2")?,
        pages.clone(),
        Version::H2,
    ));
    accept(plain, acceptor(&certified, b"http/1.1")?, pages, Version::H1).await;
    Ok(())
}

#[derive(Clone, Copy)]
enum Version {
    H1,
    H2,
}

#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn acceptor(certified: &Arc<CertifiedKey>, alpn: &[u8]) -> Result<TlsAcceptor, Fault> {
    let mut config = ServerConfig::builder_with_provider(keys::classical())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Only(certified.clone())));
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, pages: Arc<Pages>, version: Version) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("site: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let (tls, pages) = (tls.clone(), pages.clone());
        tokio::spawn(async move {
            // A connection that breaks is the load's to report.
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let pages = pages.clone();
                async move { Ok::<_, Infallible>(answer(&pages, request)) }
            });
            let stream = TokioIo::new(stream);
            let _ = match version {
                Version::H1 => {
                    http1::Builder::new()
                        .serve_connection(stream, service)
                        .with_upgrades()
                        .await
                }
                Version::H2 => {
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(stream, service)
                        .await
                }
            };
        });
    }
}

fn answer(pages: &Pages, request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/small" => page(&pages.small, "application/json"),
        "/64k" => page(&pages.medium, "application/octet-stream"),
        "/10m" => page(&pages.large, "application/octet-stream"),
        "/events" => events(),
        "/echo" => echo(request),
        _ => {
            let mut response = Response::new(Either::Left(Full::default()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

fn page(body: &Bytes, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body.clone())));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The head leaves before the first event, as from a server that still thinks.
fn events() -> Response<Body> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        tokio::task::yield_now().await;
        // The client may have left.
        let _ = sender.send_data(Bytes::from_static(b"data: first\n\n")).await;
        tokio::time::sleep(BETWEEN_EVENTS).await;
        let _ = sender.send_data(Bytes::from_static(b"data: last\n\n")).await;
    });
    let mut response = Response::new(Either::Right(body));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn echo(mut request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::default()));
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).expect("base64 is a field value");
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else {
            return;
        };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_binary() && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// Bytes that do not compress (a xorshift generator).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Every name has the address 127.0.0.1 and no other record.
async fn answer_names(socket: UdpSocket) {
    let mut question = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else {
            continue;
        };
        if let Some(reply) = reply(&question[..length]) {
            send(&socket, &reply, from).await;
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    // Who does not hear it asks again.
    let _ = socket.send_to(reply, to).await;
}

/// RFC 1035: the header and the question come back, with one record for type A, and none for any other type.
fn reply(message: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    let name = message.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let end = HEADER + name + 1 + 4;
    let kind = message.get(end - 4..end - 2)?;
    let mut reply = message.get(..end)?.to_vec();
    // A response, recursion available, no error; one question; no authority, nothing additional.
    reply[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    if kind == TYPE_A {
        reply[7] = 1;
        // The name of the question, type A, class IN, 60 s, four bytes.
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::reply;

    fn question(kind: u8) -> Vec<u8> {
        [
            &[9, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1],
            &b"\x01a\x04test\x00"[..],
            &[0, kind, 0, 1],
            b"opt record",
        ]
        .concat()
    }

    #[test]
    fn only_type_a_has_a_record() {
        let with = reply(&question(1)).unwrap();
        assert_eq!(&with[..12], [9, 9, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert!(with.ends_with(&[127, 0, 0, 1]));
        let without = reply(&question(28)).unwrap();
        assert_eq!(without[7], 0);
        assert!(without.ends_with(&[0, 28, 0, 1]));
    }

    #[test]
    fn a_cut_question_gets_no_reply() {
        for length in 0..question(1).len() - 12 {
            assert!(reply(&question(1)[..length]).is_none(), "{length}");
        }
    }
}

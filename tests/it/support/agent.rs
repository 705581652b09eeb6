//! An agent: CONNECT, TLS, HTTP/1.1 or h2, through the proxy. It knows nothing about payments.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::bursar::Bursar;

pub(crate) struct Agent {
    pub proxy: SocketAddr,
    pub login: String,
    pub ca: std::path::PathBuf,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Page {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Page {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The `type` of a problem, without its prefix.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        self.json()["type"]
            .as_str()
            .unwrap()
            .strip_prefix("urn:bursar:problem:")
            .unwrap()
            .to_owned()
    }
}

pub(crate) enum Connection {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>, String),
}

impl Agent {
    pub(crate) fn of(bursar: &Bursar) -> Self {
        Self {
            proxy: bursar.address,
            login: format!("research:{}", bursar.home.token),
            ca: bursar.ca(),
        }
    }

    /// An agent other than `research`.
    pub(crate) fn named(bursar: &Bursar, name: &str, token: &str) -> Self {
        Self {
            login: format!("{name}:{token}"),
            ..Self::of(bursar)
        }
    }

    pub(crate) async fn get(&self, site: SocketAddr, path: &str) -> Page {
        self.request(site, Request::get(path)).await
    }

    pub(crate) async fn request(&self, site: SocketAddr, request: http::request::Builder) -> Page {
        self.send(site, request.body(Full::default()).unwrap()).await
    }

    pub(crate) async fn post(&self, site: SocketAddr, path: &str, body: impl Into<Bytes>) -> Page {
        self.send(site, Request::post(path).body(Full::new(body.into())).unwrap())
            .await
    }

    /// `GET http://…` on the listener itself, as clients do for plain HTTP.
    pub(crate) async fn get_plain(&self, url: &str) -> Page {
        let stream = TcpStream::connect(self.proxy).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let login = format!("Basic {}", STANDARD.encode(&self.login));
        let authority = url.split('/').nth(2).unwrap();
        let request = Request::get(url)
            .header("host", authority)
            .header("proxy-authorization", login)
            .body(Full::<Bytes>::default())
            .unwrap();
        whole(sender.send_request(request).await.unwrap()).await.unwrap()
    }

    /// One request on a tunnel of its own, over HTTP/1.1.
    pub(crate) async fn send(&self, site: SocketAddr, request: Request<Full<Bytes>>) -> Page {
        let mut connection = self.connect(site, &["http/1.1"]).await;
        connection.send(site, request).await.unwrap()
    }

    pub(crate) async fn connect(&self, site: SocketAddr, alpn: &[&str]) -> Connection {
        let stream = self.tls(site, "localhost", alpn).await.unwrap();
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
            tokio::spawn(connection);
            return Connection::H2(sender, format!("localhost:{}", site.port()));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Connection::H1(sender)
    }

    pub(crate) async fn tls(
        &self,
        site: SocketAddr,
        name: &str,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let tunnel = self.tunnel(&format!("localhost:{}", site.port())).await;
        self.tls_over(tunnel, name, alpn).await
    }

    /// TLS with the site that a tunnel leads to.
    pub(crate) async fn tls_over(
        &self,
        tunnel: TcpStream,
        name: &str,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(client_config(&self.ca, alpn)))
            .connect(name, tunnel)
            .await
    }

    pub(crate) async fn tunnel(&self, authority: &str) -> TcpStream {
        let (stream, head) = self.connect_answer(authority).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream
    }

    /// The answer to CONNECT, whatever it is.
    pub(crate) async fn connect_answer(&self, authority: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let login = STANDARD.encode(&self.login);
        let head =
            format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Basic {login}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        (stream, head)
    }
}

impl Connection {
    pub(crate) async fn open(
        &mut self,
        site: SocketAddr,
        mut request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::H1(sender) => {
                if !request.headers().contains_key("host") {
                    let host = format!("localhost:{}", site.port());
                    request.headers_mut().insert("host", host.parse().unwrap());
                }
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::H2(sender, authority) => {
                let uri = format!("https://{authority}{}", request.uri());
                *request.uri_mut() = uri.parse().unwrap();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub(crate) async fn send(&mut self, site: SocketAddr, request: Request<Full<Bytes>>) -> hyper::Result<Page> {
        whole(self.open(site, request).await?).await
    }
}

async fn whole(response: Response<Incoming>) -> hyper::Result<Page> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Page {
        status: head.status,
        headers: head.headers,
        body,
    })
}

/// Reads up to the empty line.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

pub(crate) fn client_config(ca: &Path, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

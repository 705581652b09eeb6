//! A client for tests: real TLS against the sandbox's own authority, one connection, h2 or HTTP/1.1.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::payer::{decode, encode};
use crate::Sandbox;

#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// One connection to a sandbox.
pub(super) struct Client {
    sender: Sender,
    authority: String,
}

/// An answer whose body was read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    pub(super) async fn connect(sandbox: &Sandbox, protocol: Protocol) -> Self {
        Self::connect_as(sandbox, protocol, "localhost").await.unwrap()
    }

    /// Fails only if the certificate is not valid for `name`.
    pub(super) async fn connect_as(sandbox: &Sandbox, protocol: Protocol, name: &str) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(sandbox.ca_pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = match protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        let stream = TcpStream::connect(sandbox.address()).await?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(name.to_owned()).unwrap(), stream)
            .await?;
        let negotiated = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let io = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http1 => {
                assert_eq!(negotiated.as_deref(), Some(&b"http/1.1"[..]));
                let (sender, connection) = http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                assert_eq!(negotiated.as_deref(), Some(&b"h2"[..]));
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self {
            sender,
            authority: format!("localhost:{}", sandbox.address().port()),
        })
    }

    /// The response's head, its body still to be read.
    pub(super) async fn open(
        &mut self,
        method: Method,
        path: &str,
        payment: Option<(&str, &str)>,
        body: &str,
    ) -> http::Response<Incoming> {
        let fields: Vec<_> = payment
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        self.open_with(method, path, &fields, body).await
    }

    async fn open_with(
        &mut self,
        method: Method,
        path: &str,
        fields: &[(&str, String)],
        body: &str,
    ) -> http::Response<Incoming> {
        let mut request = Request::builder().method(method);
        request = match self.sender {
            Sender::Http1(_) => request.uri(path).header("host", &self.authority),
            Sender::Http2(_) => request.uri(format!("https://{}{path}", self.authority)),
        };
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Sender::Http2(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
        }
    }

    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        payment: Option<(&str, &str)>,
        body: &str,
    ) -> Answer {
        Answer::of(self.open(method, path, payment, body).await).await
    }

    /// Sends a request with arbitrary header fields.
    pub(super) async fn ask(&mut self, method: Method, path: &str, fields: &[(&str, String)], body: &str) -> Answer {
        Answer::of(self.open_with(method, path, fields, body).await).await
    }

    pub(super) async fn post(&mut self, path: &str, fields: &[(&str, String)], body: &str) -> Answer {
        self.ask(Method::POST, path, fields, body).await
    }

    pub(super) async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, None, "").await
    }

    /// Presents a v2 payload.
    pub(super) async fn pay(&mut self, path: &str, payload: &Value) -> Answer {
        let header = encode(payload);
        self.send(Method::GET, path, Some(("PAYMENT-SIGNATURE", &header)), "")
            .await
    }

    /// Presents a v1 payload.
    pub(super) async fn pay_v1(&mut self, path: &str, payload: &Value) -> Answer {
        let header = encode(payload);
        self.send(Method::GET, path, Some(("X-PAYMENT", &header)), "").await
    }
}

impl Answer {
    async fn of(response: http::Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The JSON in a base64 header.
    pub(super) fn decoded(&self, header: &str) -> Value {
        decode(self.headers[header].as_bytes())
    }

    pub(super) fn v2_challenge(&self) -> Value {
        assert_eq!(self.status, StatusCode::PAYMENT_REQUIRED);
        assert_eq!(self.headers["cache-control"], "no-store");
        self.decoded("payment-required")
    }

    pub(super) fn v1_challenge(&self) -> Value {
        assert_eq!(self.status, StatusCode::PAYMENT_REQUIRED);
        assert_eq!(self.headers["cache-control"], "no-store");
        self.json()
    }
}

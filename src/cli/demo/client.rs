//! The demo's client: sends GET through a proxy like any HTTP client. It knows CONNECT, TLS and HTTP, and nothing about
//! payments.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Failure;
use crate::agents::IssuedToken;

pub(super) struct Client {
    proxy: SocketAddr,
    authorization: String,
    tls: TlsConnector,
}

/// The parts of a response that are shown.
pub(super) struct Page {
    pub status: u16,
    pub reason: &'static str,
    pub fields: Vec<(String, String)>,
    pub body: String,
}

impl Client {
    pub(super) fn new(proxy: SocketAddr, agent: &IssuedToken, ca: &[u8]) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            let certificate = certificate.map_err(|error| failed(&error))?;
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let login = format!("{}:{}", agent.agent, agent.token.expose_secret());
        Ok(Self {
            proxy,
            authorization: STANDARD.encode(login),
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    pub(super) async fn visit(&self, site: SocketAddr, path: &str) -> Result<Page, Failure> {
        self.get(site, path).await.map_err(|error| failed(error.as_ref()))
    }

    async fn get(&self, site: SocketAddr, path: &str) -> Result<Page, Box<dyn std::error::Error>> {
        let authority = format!("localhost:{}", site.port());
        let tunnel = self.tunnel(&authority).await?;
        let stream = self.tls.connect(ServerName::try_from("localhost")?, tunnel).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(HOST, &authority)
            .header(USER_AGENT, "plain-client/1")
            .header(ACCEPT, "*/*")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let fields = ["content-type", "bursar-payment", "proxy-status"]
            .iter()
            .filter_map(|name| {
                Some((
                    (*name).to_owned(),
                    response.headers().get(*name)?.to_str().ok()?.to_owned(),
                ))
            })
            .collect();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Page {
            status: status.as_u16(),
            reason: status.canonical_reason().unwrap_or_default(),
            fields,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    async fn tunnel(&self, authority: &str) -> Result<TcpStream, Box<dyn std::error::Error>> {
        let mut stream = TcpStream::connect(self.proxy).await?;
        let head = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Basic {}\r\n\r\n",
            self.authorization
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") && answer.len() < 8192 {
            answer.push(stream.read_u8().await?);
        }
        if answer.starts_with(b"HTTP/1.1 200") {
            return Ok(stream);
        }
        Err(format!(
            "the proxy answered {}",
            String::from_utf8_lossy(&answer).lines().next().unwrap_or_default()
        )
        .into())
    }
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::negative(format!("the demo's client failed: {error}"))
}

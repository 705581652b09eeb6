//! A TLS connection to the site: directly, or in a tunnel through the proxy.

use std::net::SocketAddr;
use std::sync::Arc;

use bursar_bench_proxy::order::{ProxyLogin, Route};
use bursar_bench_proxy::{Fault, keys, sockets};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) type Stream = TlsStream<TcpStream>;

#[derive(Clone, Copy)]
pub(crate) enum Version {
    H1,
    H2,
}

/// Opens connections, each as a program that has just started would: no session is resumed.
pub(crate) struct Tunnels {
    tls: TlsConnector,
    site: SocketAddr,
    proxy: Option<ProxyLogin>,
}

impl Tunnels {
    pub(crate) fn new(route: &Route, version: Version) -> Result<Self, Fault> {
        let mut tls = ClientConfig::builder_with_provider(keys::classical())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(keys::roots([route.ca.as_path()])?)
            .with_no_client_auth();
        tls.resumption = Resumption::disabled();
        let (alpn, site): (&[u8], _) = match version {
            Version::H1 => (b"http/1.1", route.http1),
            Version::H2 => (b"h2", route.http2),
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        Ok(Self {
            tls: TlsConnector::from(Arc::new(tls)),
            site,
            proxy: route.proxy.clone(),
        })
    }

    pub(crate) fn authority(&self, host: &str) -> String {
        format!("{host}:{}", self.site.port())
    }

    pub(crate) async fn open(&self, host: &str) -> Result<Stream, Fault> {
        let stream = match &self.proxy {
            None => sockets::connect(self.site).await?,
            Some(proxy) => connect(proxy, &self.authority(host)).await?,
        };
        Ok(self.tls.connect(ServerName::try_from(host.to_owned())?, stream).await?)
    }
}

async fn connect(proxy: &ProxyLogin, authority: &str) -> Result<TcpStream, Fault> {
    let mut stream = sockets::connect(proxy.address).await?;
    let login = proxy
        .basic
        .iter()
        .map(|basic| format!("Proxy-Authorization: Basic {basic}\r\n"));
    let login: String = login.collect();
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{login}\r\n");
    stream.write_all(head.as_bytes()).await?;
    // The proxy says nothing after its head before we do.
    let mut answer = Vec::with_capacity(512);
    while !answer.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("the proxy closed the connection after CONNECT".into());
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(format!("CONNECT was answered {}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(stream)
}

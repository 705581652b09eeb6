//! The least that a proxy which reads TLS can do. `floor splice|parse FOLDER`
//!
//! * `splice`: CONNECT, a certificate for the host, TLS on both sides, and bytes copied from one to the other.
//! * `parse`: the same with hyper's HTTP/1.1 or HTTP/2 on both sides, and one upstream connection for each tunnel.
//!
//! It has no limits, no log, no log-in and no timeouts, and checks no address.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bursar_bench_proxy::{Fault, keys, sockets};
use http::header::UPGRADE;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{Issuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

type AgentStream = tokio_rustls::server::TlsStream<TcpStream>;
type SiteStream = tokio_rustls::client::TlsStream<TcpStream>;

const LONGEST_HEAD: usize = 8 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Splice,
    Parse,
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, folder] = arguments.as_slice() else {
        return Err("usage: floor splice|parse FOLDER".into());
    };
    let kind = match kind.as_str() {
        "splice" => Kind::Splice,
        "parse" => Kind::Parse,
        other => return Err(format!("no floor is called {other}").into()),
    };
    sockets::raise_limit()?;
    let floor = Arc::new(Floor::new(kind, Path::new(folder))?);
    let (listener, address) = sockets::listen()?;
    println!("listening on http://{address}");
    loop {
        let (agent, _) = listener.accept().await?;
        let floor = floor.clone();
        tokio::spawn(async move {
            // A tunnel that breaks is the load's to report.
            let _ = floor.tunnel(agent).await;
        });
    }
}

struct Floor {
    kind: Kind,
    leaves: Leaves,
    /// What the agent is offered, with the site's protocol; the certificate is put in for each tunnel.
    http1: ServerConfig,
    http2: ServerConfig,
    site_http1: TlsConnector,
    site_http2: TlsConnector,
}

impl Floor {
    fn new(kind: Kind, folder: &Path) -> Result<Self, Fault> {
        let provider = keys::provider();
        let leaves = Leaves::new(folder, &provider)?;
        let none = Arc::new(Fixed(leaves.for_host("none.invalid")?));
        let agent = |alpn: &[u8]| -> Result<_, Fault> {
            let mut config = ServerConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_cert_resolver(none.clone());
            config.alpn_protocols = vec![alpn.to_vec()];
            Ok(config)
        };
        let site = |alpn: &[&[u8]]| -> Result<_, Fault> {
            let mut config = ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()?
                .with_root_certificates(keys::roots([folder.join(keys::SITE_CA).as_path()])?)
                .with_no_client_auth();
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self {
            kind,
            http1: agent(b"http/1.1")?,
            http2: agent(b"h2")?,
            site_http1: site(&[b"http/1.1"])?,
            site_http2: site(&[b"h2", b"http/1.1"])?,
            leaves,
        })
    }

    async fn tunnel(&self, mut agent: TcpStream) -> Result<(), Fault> {
        let authority = connect_target(&mut agent).await?;
        let (host, _) = authority.rsplit_once(':').ok_or("no port")?;
        agent.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), agent).await?;
        let offers_h2 = hello
            .client_hello()
            .alpn()
            .is_some_and(|mut offer| offer.any(|name| name == b"h2"));
        let connector = if offers_h2 { &self.site_http2 } else { &self.site_http1 };
        let site = sockets::connect(authority.as_str()).await?;
        let site = connector.connect(ServerName::try_from(host.to_owned())?, site).await?;
        let is_h2 = site.get_ref().1.alpn_protocol() == Some(b"h2");
        let mut config = if is_h2 { &self.http2 } else { &self.http1 }.clone();
        config.cert_resolver = Arc::new(Fixed(self.leaves.for_host(host)?));
        let agent = hello.into_stream(Arc::new(config)).await?;
        match (self.kind, is_h2) {
            (Kind::Splice, _) => splice(agent, site).await,
            (Kind::Parse, false) => parse_h1(agent, site).await,
            (Kind::Parse, true) => parse_h2(agent, site).await,
        }
    }
}

async fn connect_target(agent: &mut TcpStream) -> Result<String, Fault> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > LONGEST_HEAD || agent.read_buf(&mut head).await? == 0 {
            return Err("no CONNECT".into());
        }
    }
    let mut words = std::str::from_utf8(&head)?.split(' ');
    match (words.next(), words.next()) {
        (Some("CONNECT"), Some(authority)) => Ok(authority.to_owned()),
        _ => Err("no CONNECT".into()),
    }
}

async fn splice(mut agent: AgentStream, mut site: SiteStream) -> Result<(), Fault> {
    const BUFFER: usize = 16 << 10;
    tokio::io::copy_bidirectional_with_sizes(&mut agent, &mut site, BUFFER, BUFFER).await?;
    Ok(())
}

async fn parse_h1(agent: AgentStream, site: SiteStream) -> Result<(), Fault> {
    let (sender, connection) = client::conn::http1::handshake(TokioIo::new(site)).await?;
    tokio::spawn(connection.with_upgrades());
    // Requests come one after the other, so nobody waits for the lock.
    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    let service = service_fn(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let mut sender = sender.lock().await;
            sender.ready().await?;
            if request.headers().contains_key(UPGRADE) {
                return upgrade(&mut sender, request).await;
            }
            sender.send_request(request).await
        }
    });
    let connection = server::conn::http1::Builder::new().serve_connection(TokioIo::new(agent), service);
    Ok(connection.with_upgrades().await?)
}

async fn upgrade(
    sender: &mut client::conn::http1::SendRequest<Incoming>,
    mut request: Request<Incoming>,
) -> hyper::Result<Response<Incoming>> {
    let agent = hyper::upgrade::on(&mut request);
    let mut response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let site = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(agent), Ok(site)) = tokio::join!(agent, site) {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(agent), &mut TokioIo::new(site)).await;
            }
        });
    }
    Ok(response)
}

async fn parse_h2(agent: AgentStream, site: SiteStream) -> Result<(), Fault> {
    let builder = client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(TokioIo::new(site)).await?;
    tokio::spawn(connection);
    let service = service_fn(move |request: Request<Incoming>| sender.clone().send_request(request));
    let builder = server::conn::http2::Builder::new(TokioExecutor::new());
    Ok(builder.serve_connection(TokioIo::new(agent), service).await?)
}

/// One key for all certificates, so that a new host costs one signature.
struct Leaves {
    issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    signer: Arc<dyn SigningKey>,
    issued: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl Leaves {
    fn new(folder: &Path, provider: &CryptoProvider) -> Result<Self, Fault> {
        let key = keys::leaf_key()?;
        let der = PrivateKeyDer::try_from(key.serialize_der())?;
        Ok(Self {
            issuer: keys::proxy_issuer(folder)?,
            signer: provider.key_provider.load_private_key(der)?,
            key,
            issued: Mutex::default(),
        })
    }

    fn for_host(&self, host: &str) -> Result<Arc<CertifiedKey>, Fault> {
        let issued = || self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(certified) = issued().get(host) {
            return Ok(certified.clone());
        }
        let leaf = keys::leaf(vec![host.to_owned()], &self.key, &self.issuer)?;
        let certified = Arc::new(CertifiedKey::new(vec![leaf.der().clone()], self.signer.clone()));
        issued().insert(host.to_owned(), certified.clone());
        Ok(certified)
    }
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

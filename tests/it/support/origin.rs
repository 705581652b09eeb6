//! A scripted HTTPS site: real TLS with its own CA, HTTP through hyper or as raw bytes, and a record of every request.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

pub(crate) type Answer = Response<BoxBody<Bytes, std::io::Error>>;
type Script = Arc<dyn Fn(Seen) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// A request as it arrived, with its body.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub method: String,
    pub target: String,
    pub version: http::Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Which connection, counted from 0.
    pub connection: usize,
}

impl Seen {
    /// The credential, of whichever protocol and version.
    pub(crate) fn payment(&self) -> Option<String> {
        let own = ["payment-signature", "x-payment", "payment-authorization"];
        let own = own.iter().find_map(|name| self.headers.get(*name));
        let authorization = self.headers.get("authorization");
        own.or(authorization.filter(|value| value.as_bytes().starts_with(b"Payment ")))
            .map(|value| value.to_str().unwrap().to_owned())
    }

    pub(crate) fn is_paid(&self) -> bool {
        self.payment().is_some()
    }
}

pub(crate) struct Origin {
    pub address: SocketAddr,
    pub ca_pem: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

/// The protocol an origin speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    H1,
    H1AndH2,
    /// Without TLS.
    Plain,
}

pub(crate) struct Certificate {
    pub ca_pem: String,
    leaf_pem: String,
    key_pem: String,
    pub config: ServerConfig,
}

/// A certificate for localhost as files, for sellers that are separate programs: CA, certificate, key.
pub(crate) fn pem_files(dir: &std::path::Path) -> (String, std::path::PathBuf, std::path::PathBuf) {
    let made = certificate(&["localhost"], |_| {});
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&cert, made.leaf_pem).unwrap();
    std::fs::write(&key, made.key_pem).unwrap();
    (made.ca_pem, cert, key)
}

/// A CA and a leaf for `names`; `edit` may spoil the leaf.
pub(crate) fn certificate(names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Certificate {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "test origin CA");
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut leaf = CertificateParams::new(names).unwrap();
    leaf.use_authority_key_identifier_extension = true;
    edit(&mut leaf);
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let (leaf_pem, key_pem) = (leaf.pem(), key.serialize_pem());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    Certificate {
        ca_pem,
        leaf_pem,
        key_pem,
        config,
    }
}

impl Certificate {
    /// As PEM texts: the certificate and its key.
    pub(crate) fn pems(&self) -> (&str, &str) {
        (&self.leaf_pem, &self.key_pem)
    }

    /// The site serves only clients with a certificate of this CA.
    pub(crate) fn for_clients_of(mut self, ca_pem: &str) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap())
            .unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .unwrap();
        self.config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(self.leaf_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap(),
            )
            .unwrap();
        self
    }
}

impl Origin {
    pub(crate) async fn https<F, Fut>(script: F) -> Self
    where
        F: Fn(Seen) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        Self::start(
            Speaks::H1AndH2,
            certificate(&["localhost", "127.0.0.1"], |_| {}),
            script,
        )
        .await
    }

    pub(crate) async fn start<F, Fut>(speaks: Speaks, mut certificate: Certificate, script: F) -> Self
    where
        F: Fn(Seen) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Script = Arc::new(move |request| Box::pin(script(request)));
        certificate.config.alpn_protocols = match speaks {
            Speaks::H1AndH2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            _ => vec![b"http/1.1".to_vec()],
        };
        let acceptor = TlsAcceptor::from(Arc::new(certificate.config));
        let log = seen.clone();
        let task = tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                stream.set_nodelay(true).unwrap();
                let (acceptor, script, log) = (acceptor.clone(), script.clone(), log.clone());
                tokio::spawn(async move {
                    if speaks == Speaks::Plain {
                        return serve(stream, false, connection, script, log).await;
                    }
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    serve(stream, h2, connection, script, log).await;
                });
            }
        });
        Self {
            address,
            ca_pem: certificate.ca_pem,
            seen,
            task,
        }
    }

    /// Hands each TLS connection to `talk`, which writes what it likes.
    pub(crate) async fn raw<F, Fut>(talk: F) -> Self
    where
        F: Fn(tokio_rustls::server::TlsStream<tokio::net::TcpStream>, usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::raw_with(&["http/1.1"], talk).await
    }

    /// The same, offering these ALPN protocols.
    pub(crate) async fn raw_with<F, Fut>(alpn: &[&str], talk: F) -> Self
    where
        F: Fn(tokio_rustls::server::TlsStream<tokio::net::TcpStream>, usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut certificate = certificate(&["localhost", "127.0.0.1"], |_| {});
        certificate.config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(certificate.config));
        let talk = Arc::new(talk);
        let task = tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let (acceptor, talk) = (acceptor.clone(), talk.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        talk(stream, connection).await;
                    }
                });
            }
        });
        Self {
            address,
            ca_pem: certificate.ca_pem,
            seen: Arc::default(),
            task,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Every credential that ever arrived here.
    pub(crate) fn payments(&self) -> Vec<String> {
        self.seen().iter().filter_map(Seen::payment).collect()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S>(stream: S, h2: bool, connection: usize, script: Script, log: Arc<Mutex<Vec<Seen>>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (script, log) = (script.clone(), log.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let seen = Seen {
                method: head.method.to_string(),
                target: head
                    .uri
                    .path_and_query()
                    .map_or_else(|| "/".to_owned(), ToString::to_string),
                version: head.version,
                headers: head.headers,
                body,
                connection,
            };
            log.lock().unwrap().push(seen.clone());
            Ok::<_, Infallible>(script(seen).await)
        }
    });
    let io = TokioIo::new(stream);
    if h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(1 << 20)
            .serve_connection(io, service)
            .await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new()
            .max_headers(512)
            .serve_connection(io, service)
            .with_upgrades()
            .await;
    }
}

/// A request as raw bytes: the head up to the empty line, and the body as long as its `Content-Length`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    pub head: String,
    pub body: Vec<u8>,
}

impl Raw {
    pub(crate) fn is_paid(&self) -> bool {
        self.payment().is_some()
    }

    pub(crate) fn payment(&self) -> Option<&str> {
        let field = |line: &'_ str| line.split_once(": ").map(|(name, _)| name.to_ascii_lowercase());
        self.head
            .lines()
            .find(|line| field(line).is_some_and(|name| name == "payment-signature" || name == "x-payment"))
            .and_then(|line| Some(line.split_once(": ")?.1))
    }
}

/// Reads one HTTP/1.1 request; `None` when the other side is done.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Raw> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Raw { head, body })
}

/// A body that the test sends part by part. An error cuts the connection.
pub(crate) struct Parts(mpsc::Receiver<std::io::Result<Bytes>>);

impl Parts {
    pub(crate) fn new() -> (mpsc::Sender<std::io::Result<Bytes>>, Self) {
        let (sender, receiver) = mpsc::channel(64);
        (sender, Self(receiver))
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|part| part.map(|part| part.map(Frame::data)))
    }
}

/// `answer` with another body.
pub(crate) fn streamed(answer: Answer, parts: Parts) -> Answer {
    answer.map(|_| parts.boxed())
}

pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response
        .body(Full::from(body.into()).map_err(|never| match never {}).boxed())
        .unwrap()
}

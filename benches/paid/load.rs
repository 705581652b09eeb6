//! Agents: kept tunnels (or direct connections), each asking again as soon as it has its answer. Know nothing of payments
//! beyond counting them.
//!
//! The order comes as one line on standard input. When every connection is open and warm it says `ready`; the next line
//! starts the measured part, whose result is one line.

use std::cell::Cell;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::LocalSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Fault;
use crate::figures::Lap;
use crate::seller::nanoseconds;
use crate::wire::Inbox;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub wanted: Wanted,
    pub clients: usize,
    pub count: u64,
    pub route: Route,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wanted {
    Free,
    Paid,
}

/// Where the seller is, and how to get there.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Route {
    pub port: u16,
    /// Who must have signed the certificate that is met.
    pub ca: PathBuf,
    pub proxy: Option<ProxyLogin>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ProxyLogin {
    pub address: SocketAddr,
    pub basic: String,
}

/// What the load has measured.
#[derive(Serialize, Deserialize)]
pub(crate) struct Measured {
    pub wall_ns: u64,
    pub done: u64,
    pub latency: Lap,
    pub failed: u64,
    pub first_failure: Option<String>,
}

impl Order {
    pub(crate) fn new(wanted: Wanted, clients: usize, count: u64) -> Self {
        Self {
            wanted,
            clients,
            count,
            route: Route::default(),
        }
    }

    /// Requests of each client before the clock starts.
    fn warm_up_each(&self) -> u64 {
        (200 / self.clients as u64).max(10)
    }
}

pub(crate) fn run() -> Result<(), Fault> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line)?;
    let tls = TlsConnector::from(Arc::new(client_config(&order.route.ca)?));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, measure(order, tls))?;
    println!("{}", serde_json::to_string(&result)?);
    Ok(())
}

#[derive(Default)]
struct Progress {
    given_out: Cell<u64>,
    failed: Cell<u64>,
    first_failure: Cell<Option<String>>,
}

async fn measure(order: Order, tls: TlsConnector) -> Result<Measured, Fault> {
    let (warm, start) = (
        Rc::new(Barrier::new(order.clients + 1)),
        Rc::new(Barrier::new(order.clients + 1)),
    );
    let progress = Rc::new(Progress::default());
    let mut clients = Vec::with_capacity(order.clients);
    for number in 0..order.clients {
        let (order, tls) = (order.clone(), tls.clone());
        let (warm, start, progress) = (warm.clone(), start.clone(), progress.clone());
        clients.push(tokio::task::spawn_local(async move {
            // A client that cannot begin must not keep the others waiting.
            let client = Client::open(&order, tls, number as u64).await;
            warm.wait().await;
            start.wait().await;
            let mut client = client?;
            let mut latencies = Vec::new();
            while progress.given_out.get() < order.count {
                progress.given_out.set(progress.given_out.get() + 1);
                let asked = Instant::now();
                match client.ask().await {
                    Ok(()) => latencies.push(nanoseconds(asked.elapsed())),
                    Err(fault) => {
                        progress.failed.set(progress.failed.get() + 1);
                        let first = progress.first_failure.take();
                        progress.first_failure.set(first.or(Some(fault.to_string())));
                        client.reopen().await?;
                    }
                }
            }
            Ok::<_, Fault>(latencies)
        }));
    }
    warm.wait().await;
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    let began = Instant::now();
    start.wait().await;
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await??);
    }
    let wall_ns = nanoseconds(began.elapsed());
    Ok(Measured {
        wall_ns,
        done: latencies.len() as u64,
        latency: Lap::of(latencies),
        failed: progress.failed.get(),
        first_failure: progress.first_failure.take(),
    })
}

struct Client {
    order: Order,
    tls: TlsConnector,
    stream: TlsStream<TcpStream>,
    inbox: Inbox,
    /// Makes every target its own, so that the seller can tell which replay follows which 402.
    next: u64,
}

impl Client {
    async fn open(order: &Order, tls: TlsConnector, number: u64) -> Result<Self, Fault> {
        let stream = connect(&order.route, &tls).await?;
        let mut client = Self {
            order: order.clone(),
            tls,
            stream,
            inbox: Inbox::default(),
            next: number << 32,
        };
        for _ in 0..order.warm_up_each() {
            client.ask().await?;
        }
        Ok(client)
    }

    async fn reopen(&mut self) -> Result<(), Fault> {
        self.stream = connect(&self.order.route, &self.tls).await?;
        self.inbox = Inbox::default();
        Ok(())
    }

    async fn ask(&mut self) -> Result<(), Fault> {
        self.next += 1;
        let (target, port) = (self.target(), self.order.route.port);
        let head = format!("GET {target} HTTP/1.1\r\nhost: localhost:{port}\r\naccept: */*\r\n\r\n");
        let answer = timeout(Duration::from_secs(20), async {
            self.stream.write_all(head.as_bytes()).await?;
            self.stream.flush().await?;
            let answer = self.inbox.head(&mut self.stream).await?;
            let length = answer.content_length().ok_or("an answer without a length")?;
            self.inbox.skip(&mut self.stream, length).await?;
            Ok::<_, Fault>(answer)
        });
        let answer = answer.await.map_err(|_| "no answer within 20 s")??;
        let as_wanted = match self.order.wanted {
            Wanted::Free => answer.second_word() == b"200",
            Wanted::Paid => answer.second_word() == b"200" && answer.field("bursar-payment").is_some(),
        };
        if as_wanted { Ok(()) } else { Err(answer.text().into()) }
    }

    fn target(&self) -> String {
        match self.order.wanted {
            Wanted::Free => "/free".to_owned(),
            Wanted::Paid => format!("/paid?n={}", self.next),
        }
    }
}

pub(crate) async fn connect(route: &Route, tls: &TlsConnector) -> Result<TlsStream<TcpStream>, Fault> {
    let site = format!("localhost:{}", route.port);
    let stream = match &route.proxy {
        None => {
            let stream = TcpStream::connect(("127.0.0.1", route.port)).await?;
            stream.set_nodelay(true)?;
            stream
        }
        Some(proxy) => tunnel(proxy, &site).await?,
    };
    Ok(tls.connect(ServerName::try_from("localhost")?, stream).await?)
}

/// A tunnel through bursar, with nothing in it yet.
pub(crate) async fn tunnel(proxy: &ProxyLogin, site: &str) -> Result<TcpStream, Fault> {
    let mut stream = TcpStream::connect(proxy.address).await?;
    stream.set_nodelay(true)?;
    let login = &proxy.basic;
    let head = format!("CONNECT {site} HTTP/1.1\r\nHost: {site}\r\nProxy-Authorization: Basic {login}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let answer = Inbox::default().head(&mut stream).await?;
    if answer.second_word() != b"200" {
        return Err(answer.text().into());
    }
    Ok(stream)
}

pub(crate) fn client_config(ca: &Path) -> Result<ClientConfig, Fault> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

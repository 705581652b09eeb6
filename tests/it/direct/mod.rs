//! Free traffic compared with the direct run: a client talks to a site straight, then through the proxy, and both see
//! the same. No row says what is right; the direct run does. What may differ is listed in `compare`.

mod answers;
mod clients;
mod compare;
mod frames;
mod h2;
mod hpack;
mod message;
mod requests;
mod script;
mod streams;
mod targets;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::agent::{Agent, client_config};
use crate::support::bursar::{Bursar, setup};
use crate::support::origin::pem_files;
use compare::{Outcome, differences};
use message::Kind;
use script::{Line, Marks, Player, Record, Step};

/// How a client speaks to a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `https://`: CONNECT, then TLS.
    Tls,
    /// `http://`: the absolute form, without a tunnel.
    Absolute,
    /// `http://` inside a tunnel, as Node does.
    PlainTunnel,
}

/// A conversation. The site has one script for each connection, in their order.
#[derive(Clone)]
struct Situation {
    name: String,
    way: Way,
    client: Vec<Step>,
    site: Vec<Vec<Step>>,
    /// The bytes are no HTTP/1, and are compared one by one.
    is_raw: bool,
    /// What the proxy may also answer, with a problem document and without touching the site's next request: such
    /// bytes could be read in two ways.
    or_refused: Option<u16>,
}

impl Situation {
    fn new(name: impl Into<String>, client: Vec<Step>, site: Vec<Step>) -> Self {
        Self {
            name: name.into(),
            way: Way::Tls,
            client,
            site: vec![site],
            is_raw: false,
            or_refused: None,
        }
    }

    fn or_refused(mut self, status: u16) -> Self {
        self.or_refused = Some(status);
        self
    }

    /// The same in each of these ways.
    fn each(self, ways: &[Way]) -> Vec<Self> {
        ways.iter().map(|way| self.clone().by(*way)).collect()
    }

    fn by(mut self, way: Way) -> Self {
        self.way = way;
        self.name = format!("{} ({way:?})", self.name);
        self
    }
}

/// One proxy, and a certificate that all sites share.
struct World {
    bursar: Bursar,
    agent: Agent,
    site_ca: PathBuf,
    acceptor: TlsAcceptor,
    h2_acceptor: TlsAcceptor,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ca_pem, certificate, key) = pem_files(folder.path());
        let site_ca = folder.path().join("ca.pem");
        std::fs::write(&site_ca, &ca_pem).unwrap();
        let chain = CertificateDer::pem_file_iter(certificate).unwrap();
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
            .unwrap();
        let mut h2 = config.clone();
        h2.alpn_protocols = vec![b"h2".to_vec()];
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let bursar = setup().trust(&ca_pem).start();
        Self {
            agent: Agent::of(&bursar),
            bursar,
            site_ca,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            h2_acceptor: TlsAcceptor::from(Arc::new(h2)),
            _folder: folder,
        }
    }

    async fn run(&self, situation: &Situation, proxied: bool) -> Outcome {
        let marks = Marks::new();
        let acceptor = (situation.way == Way::Tls).then(|| self.acceptor.clone());
        let site = Site::start(acceptor, situation, marks.clone()).await;
        let host = format!("localhost:{}", site.address.port());
        let line = self.line(situation.way, site.address, proxied, &["http/1.1"]).await;
        let mut client = Player::new(line, marks, Kind::Answers);
        let is_absolute = proxied && situation.way == Way::Absolute;
        let steps = situation
            .client
            .iter()
            .map(|step| self.addressed(step, &host, is_absolute));
        client.play(&steps.collect::<Vec<_>>()).await;
        client.line = None;
        Outcome {
            client: without_port(client.record, &host),
            site: site.records(&host).await,
        }
    }

    async fn line(&self, way: Way, site: SocketAddr, proxied: bool, alpn: &[&str]) -> Line {
        let stream = match (proxied, way) {
            (false, _) => TcpStream::connect(site).await.unwrap(),
            (true, Way::Absolute) => TcpStream::connect(self.bursar.address).await.unwrap(),
            (true, _) => self.agent.tunnel(&format!("localhost:{}", site.port())).await,
        };
        if way != Way::Tls {
            return Line::Plain(stream);
        }
        let ca = if proxied { &self.agent.ca } else { &self.site_ca };
        let connector = TlsConnector::from(Arc::new(client_config(ca, alpn)));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        Line::Tls(Box::new(stream.into()))
    }

    /// A step with the site's address in it; in the absolute form also with credentials.
    fn addressed(&self, step: &Step, host: &str, is_absolute: bool) -> Step {
        let fill = |bytes: &[u8]| {
            let to = if is_absolute {
                format!("http://{host}")
            } else {
                String::new()
            };
            let login = STANDARD.encode(&self.agent.login);
            let host_line = if is_absolute {
                format!("Proxy-Authorization: Basic {login}\r\nHost: {host}")
            } else {
                format!("Host: {host}")
            };
            // `OPTIONS *`, and a query without a path, are written differently in the absolute form.
            let (all, root) = if is_absolute {
                (to.as_str(), to.as_str())
            } else {
                ("*", "/")
            };
            let bytes = replaced(bytes, b"{to*}", all.as_bytes());
            let bytes = replaced(&bytes, b"{to/}", root.as_bytes());
            let bytes = replaced(&bytes, b"Host: {site}", host_line.as_bytes());
            let bytes = replaced(&bytes, b"{site}", host.as_bytes());
            replaced(&bytes, b"{to}", to.as_bytes())
        };
        match step {
            Step::Say(bytes) => Step::Say(fill(bytes)),
            Step::SayBytewise(bytes) => Step::SayBytewise(fill(bytes)),
            other => other.clone(),
        }
    }
}

/// A site that plays its scripts.
struct Site {
    address: SocketAddr,
    accepted: Arc<Mutex<usize>>,
    records: mpsc::UnboundedReceiver<(usize, Record)>,
    over: Marks,
    task: tokio::task::JoinHandle<()>,
}

impl Site {
    async fn start(acceptor: Option<TlsAcceptor>, situation: &Situation, marks: Marks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(Mutex::new(0));
        let (sender, records) = mpsc::unbounded_channel();
        let over = Marks::new();
        let (counter, end, scripts) = (accepted.clone(), over.clone(), situation.site.clone());
        let task = tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                *counter.lock().unwrap() += 1;
                let is_scripted = number < scripts.len();
                let steps = scripts.get(number).cloned().unwrap_or_else(|| vec![Step::HearEnd]);
                let (acceptor, marks, end, sender) = (acceptor.clone(), marks.clone(), end.clone(), sender.clone());
                tokio::spawn(async move {
                    let line = match acceptor {
                        None => Some(Line::Plain(stream)),
                        Some(acceptor) => {
                            let stream = acceptor.accept(stream).await.ok();
                            stream.map(|stream| Line::Tls(Box::new(stream.into())))
                        }
                    };
                    let Some(line) = line else {
                        let _ = sender.send((number, Record::default()));
                        return;
                    };
                    let mut player = Player::new(line, marks, Kind::Requests);
                    tokio::select! {
                        () = player.play(&steps) => {}
                        // A connection that the scripts know nothing of ends with the run.
                        () = end.wait("over"), if !is_scripted => {}
                    }
                    let _ = sender.send((number, player.record.clone()));
                    // A script that does not close leaves the connection open until the run is over.
                    end.wait("over").await;
                });
            }
        });
        Self {
            address,
            accepted,
            records,
            over,
            task,
        }
    }

    /// What arrived on each connection. Called when the client has left.
    async fn records(mut self, host: &str) -> Vec<Record> {
        let accepted = *self.accepted.lock().unwrap();
        let mut records = vec![Record::default(); accepted];
        for _ in 0..accepted {
            let (number, record) = self.records.recv().await.unwrap();
            if let Some(place) = records.get_mut(number) {
                *place = without_port(record, host);
            }
        }
        self.over.set("over");
        self.task.abort();
        records.retain(|record| !record.heard.is_empty());
        records
    }
}

/// Ports differ between runs.
fn without_port(record: Record, host: &str) -> Record {
    Record {
        said: replaced(&record.said, host.as_bytes(), b"{site}"),
        heard: replaced(&record.heard, host.as_bytes(), b"{site}"),
        ..record
    }
}

fn replaced(bytes: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(what.len()).position(|window| window == what) {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(by);
        rest = &rest[at + what.len()..];
    }
    result.extend_from_slice(rest);
    result
}

/// Runs all rows at once, each both ways, and fails with all differences.
async fn assert_as_direct(rows: Vec<Situation>) {
    let world = Arc::new(World::new());
    let mut running = JoinSet::new();
    let count = rows.len();
    for (number, row) in rows.into_iter().enumerate() {
        let world = world.clone();
        running.spawn(async move {
            let direct = world.run(&row, false).await;
            let stuck = direct
                .client
                .stuck
                .iter()
                .chain(direct.site.iter().filter_map(|site| site.stuck.as_ref()));
            let stuck: Vec<_> = stuck.collect();
            assert!(
                stuck.is_empty(),
                "{}: the direct run is stuck: {stuck:?}\n{direct:?}",
                row.name
            );
            assert!(!direct.site.is_empty(), "{}: the site saw nothing", row.name);
            // A row whose direct runs differ would prove nothing.
            let again = differences(&direct, &world.run(&row, false).await, row.is_raw);
            assert!(again.is_empty(), "{}: two direct runs differ: {again:?}", row.name);
            let mut proxied = world.run(&row, true).await;
            if row.way == Way::Absolute {
                compare::excuse_open(&direct.client, &mut proxied.client);
            }
            let is_refused = row
                .or_refused
                .is_some_and(|status| compare::is_problem(&proxied.client, status));
            let differing = if is_refused {
                Vec::new()
            } else {
                differences(&direct, &proxied, row.is_raw)
            };
            (number, row.name, differing)
        });
    }
    let mut found = Vec::new();
    while let Some(row) = running.join_next().await {
        found.push(row.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    found.sort();
    // Otherwise its log would hide the list.
    drop(world);
    report(count, found.into_iter().map(|(_, name, differing)| (name, differing)));
}

/// Fails if anything differs.
fn report(count: usize, rows: impl Iterator<Item = (String, Vec<String>)>) {
    let mut text = String::new();
    let mut differing = 0;
    for (name, lines) in rows.filter(|(_, lines)| !lines.is_empty()) {
        differing += 1;
        text += &format!("\n* {name}");
        for line in lines {
            text += &format!("\n    - {line}");
        }
    }
    assert!(
        differing == 0,
        "{differing} of {count} situations differ from the direct run:{text}\n"
    );
}

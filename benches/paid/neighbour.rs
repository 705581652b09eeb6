//! One bad agent beside fifty clients that buy: how much longer their slowest payments take while it attacks.
//!
//! The attacks are paced: they are to show what bursar lets through to others, not how the machine's two cores are divided
//! between an attacker and everybody else.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsConnector;

use crate::Fault;
use crate::figures::{Lap, median};
use crate::load::{Measured, Order, ProxyLogin, Route, Wanted, client_config, connect, tunnel};
use crate::process::Process;
use crate::proxy::{Proxy, Settings};
use crate::seller::{Opened, Seen};
use crate::wire::Inbox;

const LIMITS: &str = "timezone = \"UTC\"\n[agents.research]\nday = \"1000000.00\"\n";
const CLIENTS: usize = 50;
/// Of one load. All rounds of all attacks end before the benchmark's deadline.
const PAYMENTS: u64 = 2_000;
/// The p99 under attack divided by that of the same round without.
const RATIO: f64 = 3.0;

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Attack {
    /// Connections that never log in, 1000 a second.
    Strangers,
    /// Tunnels beyond the agent's share, 200 a second.
    Tunnels,
    /// 320 names that nobody answers for, given up after half a second and asked again.
    Names,
    /// Five uploads in chunks of one byte.
    Chunks,
    /// Requests that the limits refuse, 500 a second.
    Refusals,
}

impl Attack {
    const ALL: [Self; 5] = [
        Self::Strangers,
        Self::Tunnels,
        Self::Names,
        Self::Chunks,
        Self::Refusals,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Strangers => "idle connections without a log-in",
            Self::Tunnels => "tunnels beyond the agent's share",
            Self::Names => "names that nobody answers for",
            Self::Chunks => "uploads in chunks of one byte",
            Self::Refusals => "requests that the limits refuse",
        }
    }
}

/// One attack and the same load without it, round by round.
#[derive(Serialize)]
struct Beside {
    attack: Attack,
    calm: Vec<Lap>,
    attacked: Vec<Lap>,
    /// The median of the rounds' ratios.
    p99_ratio: f64,
}

#[derive(Serialize)]
pub(crate) struct Neighbour {
    clients: usize,
    payments: u64,
    beside: Vec<Beside>,
}

pub(crate) fn measure(program: &Path, rounds: usize) -> Result<Neighbour, Fault> {
    let mut street = Street::new(program)?;
    let mut beside = Vec::new();
    for attack in Attack::ALL {
        if matches!(attack, Attack::Names) && street.names.is_none() {
            eprintln!("paid: slow names left out: they need root, port 53 on loopback and unshare");
            continue;
        }
        eprintln!("paid: {}", attack.name());
        let (mut calm, mut attacked) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            calm.push(street.buy(None)?);
            attacked.push(street.buy(Some(attack))?);
        }
        let ratios = calm.iter().zip(&attacked);
        let p99_ratio = median(ratios.map(|(calm, attacked)| p99(attacked) / p99(calm)).collect());
        beside.push(Beside {
            attack,
            calm,
            attacked,
            p99_ratio,
        });
    }
    street.bursar.close(street.sold)?;
    Ok(Neighbour {
        clients: CLIENTS,
        payments: PAYMENTS,
        beside,
    })
}

pub(crate) fn table(neighbour: &Neighbour) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<44}{:>11}{:>11}{:>9}",
        format!("{} clients buy; p99, us", neighbour.clients),
        "alone",
        "attacked",
        "ratio"
    );
    for one in &neighbour.beside {
        let middle = |laps: &[Lap]| median(laps.iter().map(p99).collect()) / 1e3;
        let verdict = if one.p99_ratio <= RATIO { "met" } else { "missed" };
        let _ = writeln!(
            text,
            "  {:<42}{:>11.0}{:>11.0}{:>9.2}   target <= {RATIO}: {verdict}",
            one.attack.name(),
            middle(&one.calm),
            middle(&one.attacked),
            one.p99_ratio
        );
    }
    text
}

fn p99(lap: &Lap) -> f64 {
    lap.p99 as f64
}

struct Street {
    bursar: Proxy,
    seller: Process,
    opened: Opened,
    good: ProxyLogin,
    bad: ProxyLogin,
    sold: u64,
    names: Option<Names>,
    _dir: TempDir,
}

impl Street {
    fn new(program: &Path) -> Result<Self, Fault> {
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
        let mut seller = Process::role("seller")?;
        let opened: Opened = serde_json::from_str(&seller.next_line()?)?;
        let names = Names::new(dir.path(), program);
        let settings = Settings {
            program: names.as_ref().map_or(program, |names| &names.program),
            home: dir.path().join("home"),
            seller: &opened,
            limits: LIMITS,
            more: "",
        };
        let (bursar, [good, bad]) = Proxy::start(settings, ["research", "bad"])?;
        Ok(Self {
            bursar,
            seller,
            opened,
            good,
            bad,
            sold: 0,
            names,
            _dir: dir,
        })
    }

    fn route(&self, login: &ProxyLogin) -> Route {
        Route {
            port: self.opened.address.port(),
            ca: self.bursar.home.join("ca.pem"),
            proxy: Some(login.clone()),
        }
    }

    /// The payments of the good ones, while the attack goes on.
    fn buy(&mut self, attack: Option<Attack>) -> Result<Lap, Fault> {
        let mut order = Order::new(Wanted::Paid, CLIENTS, PAYMENTS);
        order.route = self.route(&self.good);
        let mut load = Process::role("load")?;
        load.say(&serde_json::to_string(&order)?)?;
        load.next_line()?;
        let attacking = attack
            .map(|attack| Attacking::begin(attack, self.route(&self.bad)))
            .transpose()?;
        load.say("go")?;
        let measured: Measured = serde_json::from_str(&load.next_line()?)?;
        if let Some(attacking) = attacking {
            attacking.end()?;
        }
        self.seller.say("seen")?;
        let seen: Seen = serde_json::from_str(&self.seller.next_line()?)?;
        self.sold += seen.sold;
        match measured.first_failure {
            Some(failure) => Err(format!("{} good requests failed: {failure}", measured.failed).into()),
            None => Ok(measured.latency),
        }
    }
}

/// An attack on a thread of its own.
struct Attacking {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<Result<(), Fault>>,
}

impl Attacking {
    /// Returns once it is in full swing.
    fn begin(attack: Attack, route: Route) -> Result<Self, Fault> {
        let (stop, mut stopped) = oneshot::channel();
        let (swing, in_full_swing) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::select! {
                    ended = run(attack, &route, swing) => ended,
                    _ = &mut stopped => Ok(()),
                }
            })
        });
        in_full_swing.recv().map_err(|_| "the attack did not begin")?;
        Ok(Self { stop, thread })
    }

    fn end(self) -> Result<(), Fault> {
        drop(self.stop);
        self.thread.join().map_err(|_| "the attack panicked")?
    }
}

/// Goes on until it is dropped.
async fn run(attack: Attack, route: &Route, swing: std::sync::mpsc::Sender<()>) -> Result<(), Fault> {
    let proxy = route.proxy.clone().ok_or("an attack without a proxy")?;
    match attack {
        Attack::Strangers => strangers(proxy.address, swing).await,
        Attack::Tunnels => tunnels(route, swing).await,
        Attack::Names => names(&proxy, swing).await,
        Attack::Chunks => chunks(&proxy, swing).await,
        Attack::Refusals => refusals(route, swing).await,
    }
}

async fn strangers(address: SocketAddr, swing: std::sync::mpsc::Sender<()>) -> Result<(), Fault> {
    const OPEN: usize = 512;
    let mut open = std::collections::VecDeque::new();
    let mut pace = paced(1_000);
    loop {
        if open.len() == OPEN {
            let _ = swing.send(());
            open.pop_front();
        } else {
            open.push_back(TcpStream::connect(address).await?);
            continue;
        }
        pace.tick().await;
    }
}

async fn tunnels(route: &Route, swing: std::sync::mpsc::Sender<()>) -> Result<(), Fault> {
    let tls = TlsConnector::from(Arc::new(client_config(&route.ca)?));
    let (mut open, mut pace) = (std::collections::VecDeque::new(), paced(200));
    loop {
        // One that is closed to make room for others is what is to be expected.
        open.extend(connect(route, &tls).await.ok());
        if open.len() >= 300 {
            let _ = swing.send(());
            open.pop_front();
            pace.tick().await;
        }
    }
}

async fn names(proxy: &ProxyLogin, swing: std::sync::mpsc::Sender<()>) -> Result<(), Fault> {
    for turn in 0.. {
        let mut asked = Vec::new();
        for number in 0..320 {
            let site = format!("slow{turn}-{number}.test:80");
            asked.extend(plain(proxy, &site, b"GET / HTTP/1.1\r\n\r\n").await.ok());
        }
        let _ = swing.send(());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn chunks(proxy: &ProxyLogin, swing: std::sync::mpsc::Sender<()>) -> Result<(), Fault> {
    let sink = TcpListener::bind("127.0.0.1:0").await?;
    let port = sink.local_addr()?.port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut readers = JoinSet::new();
        while let Ok((mut stream, _)) = sink.accept().await {
            readers.spawn(async move {
                let mut part = vec![0; 64 << 10];
                while stream.read(&mut part).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    for _ in 0..5 {
        let proxy = proxy.clone();
        let head = format!("POST /up HTTP/1.1\r\nHost: localhost:{port}\r\nTransfer-Encoding: chunked\r\n\r\n");
        tasks.spawn(async move {
            let Ok(mut stream) = plain(&proxy, &format!("localhost:{port}"), head.as_bytes()).await else {
                return;
            };
            let (mut pace, some) = (paced(50), b"1\r\nu\r\n".repeat(256));
            while stream.write_all(&some).await.is_ok() {
                pace.tick().await;
            }
        });
    }
    let _ = swing.send(());
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn refusals(route: &Route, swing: std::sync::mpsc::Sender<()>) -> Result<(), Fault> {
    let tls = TlsConnector::from(Arc::new(client_config(&route.ca)?));
    let mut stream = connect(route, &tls).await?;
    let (mut inbox, mut pace) = (Inbox::default(), paced(500));
    let request = format!("GET /paid HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", route.port);
    loop {
        stream.write_all(request.as_bytes()).await?;
        let answer = inbox.head(&mut stream).await?;
        if answer.second_word() != b"403" {
            return Err(answer.text().into());
        }
        let length = answer.content_length().ok_or("a refusal without a length")?;
        inbox.skip(&mut stream, length).await?;
        let _ = swing.send(());
        pace.tick().await;
    }
}

/// A tunnel without TLS in it, and the first bytes.
async fn plain(proxy: &ProxyLogin, site: &str, first: &[u8]) -> Result<TcpStream, Fault> {
    let mut stream = tunnel(proxy, site).await?;
    stream.write_all(first).await?;
    Ok(stream)
}

fn paced(per_second: u32) -> tokio::time::Interval {
    let mut pace = interval(Duration::from_secs(1) / per_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// A name server that never answers, and a bursar that asks it.
struct Names {
    program: PathBuf,
    _server: UdpSocket,
}

impl Names {
    /// `None` where this may not be set up.
    fn new(dir: &Path, program: &Path) -> Option<Self> {
        let address = Ipv4Addr::new(127, 53, 99, 99);
        let server = UdpSocket::bind((address, 53)).ok()?;
        let (file, script) = (dir.join("resolv.conf"), dir.join("bursar"));
        std::fs::write(&file, format!("nameserver {address}\noptions timeout:30 attempts:1\n")).ok()?;
        let text = format!(
            "#!/bin/sh\nexec unshare --mount --propagation private sh -c \
             'mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"' '{}' '{}' \"$@\"\n",
            file.display(),
            program.display()
        );
        std::fs::write(&script, text).ok()?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).ok()?;
        let works = Command::new(&script).arg("--version").output().ok()?.status.success();
        works.then_some(Self {
            program: script,
            _server: server,
        })
    }
}

//! From a person's yes to the first byte of what was bought, with an identity server on this machine that is polled each second,
//! and with one that pings. The server is the tests' own, in this process; its "yes" is a value set under a lock.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::Fault;
use crate::bkey::{APPROVER, CLIENT_ID, Decision, Dialect, FakeBkey};
use crate::figures::Lap;
use crate::load::{ProxyLogin, Route, client_config, connect};
use crate::process::Process;
use crate::proxy::{Proxy, Settings};
use crate::seller::{Opened, Seen, nanoseconds};
use crate::wire::Inbox;

/// `asked` pays nothing without a person, `plain` everything. No cap is reached.
const LIMITS: &str = r#"
[agents.plain]
total = "1000.00"
[agents.asked]
total = "1000.00"
approval_above = "0.005"
"#;

/// The shortest that bursar takes from a server.
const INTERVAL: Duration = Duration::from_secs(1);
/// Decided in turns, spread evenly over one interval, so that every wait for the next look comes up.
const TOGETHER: u32 = 8;
const BATCHES: u32 = 5;
const PINGED: usize = 100;
const PLAIN: usize = 300;
/// Not counted: keys are fetched, connections are made.
const WARM_UP: usize = 3;
/// Nothing takes as long, on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Serialize)]
pub(crate) struct Approved {
    pub interval_s: f64,
    /// From the yes, polled.
    pub polled: Series,
    /// From the yes, with a ping.
    pub pinged: Series,
    /// No part of bursar: a file as long as what is kept of an answer, synced, renamed, and its folder synced.
    pub file: Series,
    /// A paid request that nobody is asked about, from its first byte to the answer's.
    pub plain: Series,
}

/// Milliseconds.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Series {
    pub samples: usize,
    pub p50: f64,
    pub p99: f64,
    pub longest: f64,
}

impl Series {
    fn of(times: &[Duration]) -> Self {
        let lap = Lap::of(times.iter().copied().map(nanoseconds).collect());
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self {
            samples: lap.samples,
            p50: lap.p50_us() / 1e3,
            p99: lap.p99_us() / 1e3,
            longest: times.iter().max().copied().map_or(f64::NAN, ms),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Polled,
    Pinged,
}

pub(crate) fn measure(program: &Path) -> Result<Approved, Fault> {
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut seller = Process::role("seller")?;
    let opened: Opened = serde_json::from_str(&seller.next_line()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut sold = || -> Result<u64, Fault> {
        seller.say("seen")?;
        Ok(serde_json::from_str::<Seen>(&seller.next_line()?)?.sold)
    };
    let mut polled = Vec::new();
    let (mut pinged, mut plain) = (Vec::new(), Vec::new());
    for way in [Way::Polled, Way::Pinged] {
        let cast = Cast::set(program, dir.path(), &opened, way)?;
        LocalSet::new().block_on(&runtime, async {
            match way {
                Way::Polled => polled = cast.polled().await?,
                Way::Pinged => {
                    plain = cast.plain().await?;
                    pinged = cast.pinged().await?;
                }
            }
            Ok::<_, Fault>(())
        })?;
        cast.proxy.close(sold()?)?;
    }
    Ok(Approved {
        file: Series::of(&bare_files(dir.path())?),
        interval_s: INTERVAL.as_secs_f64(),
        polled: Series::of(&polled),
        pinged: Series::of(&pinged),
        plain: Series::of(&plain),
    })
}

fn bare_files(folder: &Path) -> Result<Vec<Duration>, Fault> {
    let (draft, done) = (folder.join("draft"), folder.join("done"));
    let one = || -> Result<Duration, Fault> {
        let began = Instant::now();
        let mut file = File::create(&draft)?;
        file.write_all(&[b'x'; 4000])?;
        file.sync_all()?;
        std::fs::rename(&draft, &done)?;
        File::open(folder)?.sync_all()?;
        Ok(began.elapsed())
    };
    (0..PINGED).map(|_| one()).collect()
}

/// A proxy, who decides, and who buys.
struct Cast {
    proxy: Proxy,
    issuer: FakeBkey,
    plain: Buyer,
    asked: Buyer,
}

#[derive(Clone)]
struct Buyer {
    route: Route,
    tls: TlsConnector,
}

impl Cast {
    fn set(program: &Path, dir: &Path, seller: &Opened, way: Way) -> Result<Self, Fault> {
        let issuer = FakeBkey::start(Dialect::Oauth);
        issuer.is_standard();
        let (name, callbacks, delivery) = match way {
            Way::Polled => {
                issuer.looks_are_every(INTERVAL.as_secs());
                ("polled", "", "poll")
            }
            Way::Pinged => {
                // Too long to be of any help.
                issuer.looks_are_every(60);
                ("pinged", "callbacks = \"127.0.0.1:0\"\n", "ping")
            }
        };
        let more = format!(
            "[approval]\nbackend = \"ciba\"\nhold_s = 50\nmax_pending_per_agent = 100\nmax_pending_per_approver = 100\n\
             prompts_per_hour = 1000\n{callbacks}[approval.ciba]\nstyle = \"standard\"\nissuer = \"{}\"\n\
             client_id = \"{CLIENT_ID}\"\nclient_secret = \"env:BENCH_SECRET\"\nclient_auth = \"post\"\n\
             approver = \"{APPROVER}\"\ndelivery = \"{delivery}\"\n",
            issuer.base
        );
        let settings = Settings {
            program,
            home: dir.join(name),
            seller,
            limits: LIMITS,
            more: &more,
        };
        let (proxy, [plain, asked]) = Proxy::start(settings, ["plain", "asked"])?;
        let tls = TlsConnector::from(std::sync::Arc::new(client_config(&proxy.home.join("ca.pem"))?));
        let buyer = |login: ProxyLogin| Buyer {
            route: Route {
                port: seller.address.port(),
                ca: proxy.home.join("ca.pem"),
                proxy: Some(login),
            },
            tls: tls.clone(),
        };
        Ok(Self {
            plain: buyer(plain),
            asked: buyer(asked),
            proxy,
            issuer,
        })
    }

    async fn plain(&self) -> Result<Vec<Duration>, Fault> {
        let mut times = Vec::new();
        for number in 0..WARM_UP + PLAIN {
            let (sent, first) = self.plain.buys(format!("/paid?plain={number}")).await?;
            times.push(first - sent);
        }
        Ok(times.split_off(WARM_UP))
    }

    /// Questions wait together, and are decided one after the other within an interval.
    async fn polled(&self) -> Result<Vec<Duration>, Fault> {
        let mut times = Vec::new();
        for batch in 0..=BATCHES {
            let mut waiting = Vec::new();
            for number in 0..TOGETHER {
                waiting.push(self.asks(format!("/paid?polled={batch}-{number}")).await?);
            }
            let mut decided = Vec::new();
            for (handle, first) in waiting {
                sleep(INTERVAL / TOGETHER).await;
                decided.push((self.approve(&handle), first));
            }
            for (yes, first) in decided {
                let (_, first) = first.await??;
                // The first of them fetch the keys.
                if batch > 0 {
                    times.push(first - yes);
                }
            }
        }
        Ok(times)
    }

    async fn pinged(&self) -> Result<Vec<Duration>, Fault> {
        let log = self.proxy.log()?;
        let callbacks = log
            .lines()
            .find(|line| line.contains("listening for callbacks from the approval backend"))
            .and_then(|line| line.split("address=").nth(1))
            .ok_or("bursar does not say where it hears pings")?;
        let mut times = Vec::new();
        for number in 0..WARM_UP + PINGED {
            let (handle, first) = self.asks(format!("/paid?pinged={number}")).await?;
            let token = self
                .issuer
                .questions()
                .last()
                .map(|asked| asked["client_notification_token"].clone());
            let token = token
                .as_ref()
                .and_then(|token| token.as_str())
                .ok_or("no token for pings")?;
            let yes = self.approve(&handle);
            ping(callbacks.trim(), token, &handle).await?;
            let (_, first) = first.await??;
            times.push(first - yes);
        }
        Ok(times.split_off(WARM_UP))
    }

    /// The person's yes is there from now on.
    fn approve(&self, handle: &str) -> Instant {
        let yes = Instant::now();
        self.issuer.decide(handle, Decision::Approved);
        yes
    }

    /// A purchase that waits for a person, and by what the identity server knows the question.
    async fn asks(&self, target: String) -> Result<(String, Bought), Fault> {
        let known = self.issuer.handles().len();
        let buyer = self.asked.clone();
        let first = tokio::task::spawn_local(async move { buyer.buys(target).await });
        let began = Instant::now();
        loop {
            if let Some(handle) = self.issuer.handles().get(known) {
                // bursar has the answer to its question when it has kept the handle; a person takes longer than that.
                sleep(Duration::from_millis(20)).await;
                return Ok((handle.clone(), first));
            }
            if began.elapsed() > PATIENCE || first.is_finished() {
                return Err("nobody was asked".into());
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// When the request was sent, and when the first byte of the answer came.
type Bought = JoinHandle<Result<(Instant, Instant), Fault>>;

impl Buyer {
    /// Over a connection of its own, opened beforehand.
    async fn buys(&self, target: String) -> Result<(Instant, Instant), Fault> {
        let mut stream = connect(&self.route, &self.tls).await?;
        let head = format!(
            "GET {target} HTTP/1.1\r\nhost: localhost:{}\r\naccept: */*\r\n\r\n",
            self.route.port
        );
        let sent = Instant::now();
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
        let mut inbox = Inbox::default();
        timeout(PATIENCE, inbox.begin(&mut stream))
            .await
            .map_err(|_| "no answer")??;
        let first = Instant::now();
        let answer = inbox.head(&mut stream).await?;
        match answer.second_word() == b"200" && answer.field("bursar-payment").is_some() {
            true => Ok((sent, first)),
            false => Err(answer.text().into()),
        }
    }
}

/// As an identity server sends it (CIBA Core, section 10.2).
async fn ping(to: &str, token: &str, handle: &str) -> Result<(), Fault> {
    let body = serde_json::json!({ "auth_req_id": handle }).to_string();
    let head = format!(
        "POST /approvals/ciba/ping HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\n\
         authorization: Bearer {token}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.starts_with("HTTP/1.1 204") {
        true => Ok(()),
        false => Err(format!("the ping was answered {answer}").into()),
    }
}

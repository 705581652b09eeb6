//! One bad agent beside fifty good ones: whatever the bad one does, no request of the good ones fails, and they pay.

mod capacity;
mod descriptors;
mod floods;
mod names;
mod uploads;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::agent::{Agent, Page, client_config, read_head};
use crate::support::bursar::{Bursar, Setup};
use crate::support::origin::{Origin, Seen, Speaks, answer, certificate};
use crate::support::seller::{self, challenge, requirement};
use crate::support::wire::soon;

const GOOD: usize = 50;
/// A name of the seller's that the machine does not know by itself.
const SHOP: &str = "shop.good.test";

/// The proxy, a seller, and those who use them.
struct Town {
    bursar: Bursar,
    shop: Origin,
    good: Vec<Arc<Agent>>,
    bad: Agent,
}

/// Sells what is under /paid for one cent. A request under /held is answered when the test gives a permit.
async fn shop(held: Arc<Semaphore>) -> Origin {
    let script = move |seen: Seen| {
        let held = held.clone();
        async move {
            if seen.target.starts_with("/held") {
                let _turn = held.acquire().await;
            }
            match (seen.target.starts_with("/free"), seen.is_paid()) {
                (true, _) => answer(200, &[], "free"),
                (false, true) => seller::sold("goods"),
                (false, false) => seller::v2(&challenge("/", &[requirement("10000")])),
            }
        }
    };
    Origin::start(Speaks::H1AndH2, certificate(&["localhost", SHOP], |_| {}), script).await
}

impl Town {
    async fn new(setup: Setup, held: Arc<Semaphore>, program: Option<Command>) -> Self {
        Self::trusting(setup, held, program, "").await
    }

    /// The sellers of `more_ca` are trusted as well.
    async fn trusting(setup: Setup, held: Arc<Semaphore>, program: Option<Command>, more_ca: &str) -> Self {
        let names: Vec<String> = (0..GOOD).map(|number| format!("good-{number}")).collect();
        let mut limits = "timezone = \"UTC\"\n".to_owned();
        for name in &names {
            limits += &format!("[agents.{name}]\nday = \"100.00\"\n");
        }
        let shop = shop(held).await;
        // Only one test has an agent of this name.
        limits += "[agents.payer]\nday = \"1.00\"\n";
        // `research` is the bad one. It has no budget.
        let home = setup.limits(&limits).trust(&format!("{}{more_ca}", shop.ca_pem)).home();
        let tokens: Vec<String> = names.iter().map(|name| home.add_agent(name)).collect();
        let bursar = match program {
            Some(program) => home.serve_by(program),
            None => home.serve(),
        };
        let named = |(name, token): (&String, &String)| Arc::new(Agent::named(&bursar, name, token));
        Self {
            good: names.iter().zip(&tokens).map(named).collect(),
            bad: Agent::of(&bursar),
            shop,
            bursar,
        }
    }

    /// Each of the good ones gets something for nothing and buys something, `at_a_time` of them at once.
    async fn good_ones_buy(&self, at_a_time: usize) {
        self.good_ones_buy_from("localhost", at_a_time).await;
    }

    async fn good_ones_buy_from(&self, host: &'static str, at_a_time: usize) {
        let paid_before = self.shop.payments().len();
        let turns = Arc::new(Semaphore::new(at_a_time));
        let mut buying = JoinSet::new();
        for (number, agent) in self.good.iter().cloned().enumerate() {
            let (turns, site) = (turns.clone(), self.shop.address);
            buying.spawn(async move {
                let _turn = turns.acquire().await;
                for (path, body) in [("/free", "free"), ("/paid", "goods")] {
                    let page = soon(get(&agent, host, site, path)).await;
                    assert_eq!(
                        (page.status.as_u16(), &page.body[..]),
                        (200, body.as_bytes()),
                        "good-{number}: {page:?}"
                    );
                }
            });
        }
        while let Some(bought) = buying.join_next().await {
            bought.unwrap();
        }
        assert_eq!(
            self.shop.payments().len() - paid_before,
            GOOD,
            "each good one paid once"
        );
    }

    /// Every payment that the seller got is settled in the ledger, and there are no others. The log is signed to its end.
    async fn the_books_are_right(&mut self) {
        let sold = self.shop.payments();
        let nonces: std::collections::HashSet<String> = sold.iter().map(|sold| seller::signed(sold).0).collect();
        assert_eq!(nonces.len(), sold.len(), "no credential was sent twice");
        assert_eq!(self.bursar.stop(), 0);
        let booked = self.bursar.payments();
        assert_eq!(booked.len(), sold.len());
        for payment in &booked {
            assert_eq!(payment["state"], "settled", "{payment}");
            assert!(nonces.contains(payment["nonce"].as_str().unwrap()), "{payment}");
            assert!(payment["agent"].as_str().unwrap().starts_with("good-"), "{payment}");
        }
        let signed = std::fs::read_to_string(self.bursar.path().join("audit/checkpoint")).unwrap();
        assert_eq!(signed.lines().nth(1).unwrap(), self.bursar.journal().len().to_string());
    }

    /// A command that needs the server is answered.
    fn commands_work(&self) {
        let accepted = self.bursar.run(&["clock", "accept", "--why", "a test"]);
        assert!(
            accepted.status.success(),
            "{}",
            String::from_utf8_lossy(&accepted.stderr)
        );
    }
}

/// Memory that a process uses now, in bytes.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// A tunnel with TLS in it; an error where the proxy or the site closes instead.
async fn tunnel(agent: &Agent, host: &str, port: u16, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    use tokio::io::AsyncWriteExt;
    let mut stream = TcpStream::connect(agent.proxy).await?;
    stream.set_nodelay(true)?;
    let login = STANDARD.encode(&agent.login);
    let head =
        format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\nProxy-Authorization: Basic {login}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let answer = read_head(&mut stream).await;
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(std::io::Error::other(format!("CONNECT got {answer:?}")));
    }
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(Arc::new(client_config(&agent.ca, alpn)))
        .connect(name, stream)
        .await
}

/// One request on a tunnel of its own.
async fn get(agent: &Agent, host: &str, site: SocketAddr, path: &str) -> Page {
    use http_body_util::{BodyExt, Full};
    let stream = tunnel(agent, host, site.port(), &["http/1.1"]).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", format!("{host}:{}", site.port()));
    let response = sender
        .send_request(request.body(Full::<bytes::Bytes>::default()).unwrap())
        .await
        .unwrap();
    let (head, body) = response.into_parts();
    Page {
        status: head.status,
        headers: head.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

/// No permits: what is held stays held until the test gives some.
fn held() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

//! Name servers as they are: dead, half dead, or failing. Each test has name servers of its own, which only its bursar
//! asks; for that its resolv.conf is replaced in a mount namespace.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Setup, bin, setup};
use crate::support::buyer::skip;
use crate::support::origin::{Origin, Speaks, answer, certificate};
use crate::support::wire::{Message, Wire};

const NAME: &str = "shop.test";

/// What a name server does with a question.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Answers A with 127.0.0.1, and AAAA with nothing.
    Answer,
    /// As firewalls do that know no AAAA.
    DropAaaa,
    /// `gone.test` does not exist, and for `broken.test` it has failed.
    Fail,
    Nothing,
}

struct NameServer {
    address: IpAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const A: u16 = 1;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

impl NameServer {
    /// On a loopback address of its own, since resolv.conf knows no port. `None` if this user may not use port 53.
    async fn start(does: Does) -> Option<Self> {
        let random = RandomState::new().hash_one(0).to_be_bytes();
        let address = Ipv4Addr::new(127, random[0] | 1, random[1], random[2] | 2);
        let socket = match UdpSocket::bind((address, 53)).await {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                skip(&format!(
                    "port 53 of {address} cannot be used ({error}): run the tests as root"
                ));
                return None;
            }
        };
        let task = tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                if let Some(answer) = reply(does, &question[..length]) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Some(Self {
            address: address.into(),
            task,
        })
    }
}

/// RFC 1035 §4: the header, the question as it came, and at most one answer.
fn reply(does: Does, question: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut name = Vec::new();
    while *question.get(at)? != 0 {
        let end = at + 1 + usize::from(question[at]);
        name.push(String::from_utf8_lossy(question.get(at + 1..end)?).to_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes(question.get(at + 1..at + 3)?.try_into().ok()?);
    let status = match (does, name.join(".").as_str()) {
        (Does::Nothing, _) => return None,
        (Does::DropAaaa, _) if kind != A => return None,
        (Does::Fail, "gone.test") => NXDOMAIN,
        (Does::Fail, "broken.test") => SERVFAIL,
        _ => 0,
    };
    let has_address = status == 0 && kind == A;
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | status, 0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    answer.extend(&question[12..at + 5]);
    if has_address {
        // The name as in the question; one hour.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--mount");
    command
}

/// Starts bursar where resolv.conf names these servers.
fn asking(setup: Setup, servers: &[&NameServer]) -> Option<Bursar> {
    let possible = unshare().args(["true"]).stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        skip("this machine allows no mount namespaces: run the tests as root, with util-linux");
        return None;
    }
    let home = setup.home();
    let lines: Vec<String> = servers
        .iter()
        .map(|server| format!("nameserver {}\n", server.address))
        .collect();
    let file = home.path().join("resolv.conf");
    std::fs::write(&file, lines.concat()).unwrap();
    let mut program = unshare();
    program
        .args([
            "sh",
            "-c",
            "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"",
            "sh",
        ])
        .arg(file)
        .arg(bin());
    Some(home.serve_by(program))
}

async fn get(bursar: &Bursar, name: &str, site: SocketAddr) -> Message {
    let agent = Agent::of(bursar);
    let authority = format!("{name}:{}", site.port());
    let tunnel = agent.tunnel(&authority).await;
    let mut wire = Wire::new(agent.tls_over(tunnel, name, &["http/1.1"]).await.unwrap());
    wire.say(format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await;
    wire.answer().await.unwrap()
}

async fn site() -> Origin {
    Origin::start(Speaks::H1AndH2, certificate(&[NAME], |_| {}), |_| async {
        answer(200, &[], "ok")
    })
    .await
}

/// glibc waits for the first one for 5 s, and then asks the second.
#[tokio::test]
async fn a_dead_first_name_server_is_survived() {
    let (Some(dead), Some(good)) = (
        NameServer::start(Does::Nothing).await,
        NameServer::start(Does::Answer).await,
    ) else {
        return;
    };
    let origin = site().await;
    let Some(bursar) = asking(setup().trust(&origin.ca_pem), &[&dead, &good]) else {
        return;
    };
    let began = Instant::now();
    assert_eq!(get(&bursar, NAME, origin.address).await.status(), 200);
    assert!(
        began.elapsed() >= Duration::from_secs(4),
        "the dead one was asked first"
    );
    // What is known is not asked again.
    let began = Instant::now();
    assert_eq!(get(&bursar, NAME, origin.address).await.status(), 200);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn where_aaaa_is_dropped_nobody_waits_for_it() {
    let Some(half) = NameServer::start(Does::DropAaaa).await else {
        return;
    };
    let origin = site().await;
    let Some(bursar) = asking(setup().trust(&origin.ca_pem), &[&half]) else {
        return;
    };
    let began = Instant::now();
    assert_eq!(get(&bursar, NAME, origin.address).await.status(), 200);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_cause_is_told_in_words() {
    let (Some(failing), Some(silent)) = (
        NameServer::start(Does::Fail).await,
        NameServer::start(Does::Nothing).await,
    ) else {
        return;
    };
    let origin = site().await;
    let Some(failing) = asking(setup(), &[&failing]) else {
        return;
    };
    let Some(silent) = asking(setup().config("[timeouts]\ndns_s = 1\n"), &[&silent]) else {
        return;
    };
    for (bursar, name, status, words) in [
        (&failing, "gone.test", 502, "The host name does not exist."),
        (
            &failing,
            "broken.test",
            502,
            "the name servers reported a failure or cannot be reached.",
        ),
        (&silent, NAME, 504, "the name servers did not answer in 1 s."),
    ] {
        let page = get(bursar, name, origin.address).await;
        let problem: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            page.status() == status && detail.contains(words),
            "{name}: {} {detail}",
            page.status()
        );
        assert!(detail.ends_with("Nothing was paid."), "{detail}");
    }
}

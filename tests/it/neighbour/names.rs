//! Names that nobody answers for. The server runs with a name server of the test's own, which needs a mount of its own over
//! /etc/resolv.conf.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;

use super::{SHOP, Town, held};
use crate::support::bursar::{bin, eventually, setup};
use crate::support::buyer::skip;

/// Knows the shop, and is silent about names that begin with `slow`.
struct NameServer {
    address: Ipv4Addr,
    asked: Arc<Mutex<HashSet<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl NameServer {
    /// `None` where the test may not listen on port 53.
    async fn start() -> Option<Self> {
        // An address of its own, because others may use the port on 127.0.0.1, and tests run in parallel.
        let [a, b] = std::process::id().to_be_bytes()[2..].try_into().unwrap();
        let address = Ipv4Addr::new(127, 53, a, b.max(1));
        let socket = UdpSocket::bind((address, 53)).await.ok()?;
        let asked: Arc<Mutex<HashSet<String>>> = Arc::default();
        let log = asked.clone();
        let task = tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let Some((name, question)) = question(&query[..length]) else {
                    continue;
                };
                let is_slow = name.starts_with("slow");
                log.lock().unwrap().insert(name);
                if !is_slow {
                    let _ = socket.send_to(&reply(&query[..length], question), from).await;
                }
            }
        });
        Some(Self { address, asked, task })
    }

    fn slow_names_asked(&self) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|name| name.starts_with("slow")).count()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The name that is asked for, and where the question ends (RFC 1035 §4.1.2).
fn question(query: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        let label = query.get(at + 1..at + 1 + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + length;
    }
    (query.len() >= at + 5).then(|| (labels.join("."), at + 5))
}

/// 127.0.0.1 for an A question, nothing for any other.
fn reply(query: &[u8], question_end: usize) -> Vec<u8> {
    let is_a = query[question_end - 4..question_end - 2] == [0, 1];
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    reply.extend(&query[12..question_end]);
    if is_a {
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    reply
}

/// The binary, for which `file` is /etc/resolv.conf.
fn resolving_by(file: &Path) -> Command {
    let mut unshare = Command::new("unshare");
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    unshare.arg(file).arg(bin());
    unshare
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_nobody_answers_for_delay_nobody_else() {
    const NAMES: usize = 320;
    const EACH: usize = 16;
    let Some(names) = NameServer::start().await else {
        return skip("port 53 may not be used: run the test as root");
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    let address = names.address;
    std::fs::write(&file, format!("nameserver {address}\noptions timeout:30 attempts:2\n")).unwrap();
    let mut probe = resolving_by(&file);
    if !probe
        .arg("--version")
        .output()
        .is_ok_and(|probe| probe.status.success())
    {
        return skip("no mount can be made: run the test as root, with unshare of util-linux");
    }
    let mut town = Town::new(setup(), held(), Some(resolving_by(&file))).await;
    town.good_ones_buy_from(SHOP, super::GOOD).await;

    let mut bad = Vec::new();
    for number in 0..NAMES {
        let mut stream = town.bad.tunnel(&format!("slow{number}.bad.test:80")).await;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        bad.push(stream);
        if number == NAMES / 2 {
            // Half of them hang up while the others come.
            bad.clear();
        }
    }
    eventually("its look-ups are under way", || {
        (names.slow_names_asked() >= EACH).then_some(())
    })
    .await;
    town.good_ones_buy_from(SHOP, super::GOOD).await;
    town.good_ones_buy(super::GOOD).await;
    drop(bad);
    town.good_ones_buy_from(SHOP, super::GOOD).await;
    // Those that nobody waits for any more are never asked.
    assert!(names.slow_names_asked() <= EACH * 2, "{}", names.slow_names_asked());
    town.the_books_are_right().await;
}

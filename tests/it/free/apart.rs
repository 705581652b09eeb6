//! What one agent, or one host, brought to a connection is not used for another (threat 2.18, R36).

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use http::Request;
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::support::agent::{Agent, client_config};
use crate::support::bursar::{Bursar, setup};
use crate::support::origin::{Origin, answer};
use crate::support::wire::{Wire, soon};

/// A site that closes each connection after one answer, and how each connection began.
async fn closing(alpn: &'static [&'static str]) -> (Origin, Arc<Mutex<Vec<HandshakeKind>>>) {
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let seen = kinds.clone();
    let origin = Origin::raw_with(alpn, move |stream, _| {
        let seen = seen.clone();
        async move {
            seen.lock().unwrap().push(stream.get_ref().1.handshake_kind().unwrap());
            let mut wire = Wire::new(stream);
            if wire.head().await.is_some() {
                wire.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                    .await;
            }
        }
    })
    .await;
    (origin, kinds)
}

fn two_agents(bursar: &Bursar) -> [Agent; 2] {
    let token = bursar.home.add_agent("other");
    [Agent::of(bursar), Agent::named(bursar, "other", &token)]
}

#[tokio::test]
async fn agents_never_resume_each_others_tls_sessions() {
    let (origin, kinds) = closing(&["http/1.1"]).await;
    let bursar = setup()
        .limits("timezone = \"UTC\"\n[agents.research]\nday = \"1.00\"\n[agents.other]\nday = \"1.00\"\n")
        .trust(&origin.ca_pem)
        .start();
    let agents = two_agents(&bursar);
    for turn in [0, 0, 1, 1, 0] {
        let before = kinds.lock().unwrap().len();
        assert_eq!(agents[turn].get(origin.address, "/").await.status, 200);
        assert_eq!(
            kinds.lock().unwrap().len(),
            before + 1,
            "one connection for each request"
        );
    }
    use HandshakeKind::{Full, Resumed};
    assert_eq!(*kinds.lock().unwrap(), [Full, Resumed, Full, Resumed, Resumed]);
}

/// One request for `host`, in a tunnel to it. The name in the certificate must be the host's.
async fn get(agent: &Agent, host: &str, port: u16, alpn: &str) -> u16 {
    let tunnel = agent.tunnel(&format!("{host}:{port}")).await;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(client_config(&agent.ca, &[alpn])));
    let stream = connector.connect(name, tunnel).await.unwrap();
    if alpn == "http/1.1" {
        let mut wire = Wire::new(stream);
        wire.say(format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")).await;
        return wire.answer().await.unwrap().status();
    }
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("https://{host}:{port}/"));
    let body = http_body_util::Empty::<bytes::Bytes>::new();
    sender
        .send_request(request.body(body).unwrap())
        .await
        .unwrap()
        .status()
        .as_u16()
}

#[tokio::test]
async fn two_hosts_on_one_address_never_share_a_connection() {
    // Its certificate holds for both, so a client that coalesces connections (RFC 9113 §9.1.1) would use one.
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let (agent, port) = (Agent::of(&bursar), origin.address.port());
    const HOSTS: [&str; 2] = ["localhost", "127.0.0.1"];
    for alpn in ["h2", "http/1.1"] {
        let before = origin.seen().len();
        // Until each host has had a connection again: a tunnel's end takes effect after the agent has hung up.
        let used = soon(async {
            loop {
                for host in HOSTS {
                    assert_eq!(get(&agent, host, port, alpn).await, 200, "{alpn} {host}");
                }
                let seen = origin.seen();
                let used = [0, 1].map(|turn| {
                    let own = seen[before..].iter().skip(turn).step_by(HOSTS.len());
                    own.map(|seen| seen.connection).collect::<Vec<_>>()
                });
                let is_reused = |used: &Vec<usize>| used.iter().collect::<HashSet<_>>().len() < used.len();
                if used.iter().all(is_reused) {
                    return used;
                }
            }
        })
        .await;
        assert!(
            used[0].iter().all(|connection| !used[1].contains(connection)),
            "{alpn} {used:?}"
        );
    }
}

//! A login that holds for a connection holds for the agent's connection only (threat 2.18).

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::origin::Origin;
use crate::support::wire::{Wire, soon};

/// A site that logs a connection in, as with NTLM, and says who asks. It tells when a connection has ended.
async fn remembers(login: &'static str, challenge: &'static str) -> (Origin, mpsc::UnboundedReceiver<usize>) {
    let (ended, ends) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |stream, connection| {
        let ended = ended.clone();
        async move {
            let mut wire = Wire::new(stream);
            let mut who = "nobody";
            while let Some(request) = wire.request().await {
                if request.field("authorization").is_some_and(|field| field == login) {
                    who = "alice";
                }
                let (status, more) = match who {
                    "alice" => ("200 OK", "Persistent-Auth: false\r\n".to_owned()),
                    _ => (
                        "401 Unauthorized",
                        format!("WWW-Authenticate: Basic realm=\"x\"\r\n{challenge}"),
                    ),
                };
                let length = who.len();
                wire.say(format!(
                    "HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\n\r\n{who}"
                ))
                .await;
            }
            ended.send(connection).unwrap();
        }
    })
    .await;
    (origin, ends)
}

#[tokio::test]
async fn a_later_tunnel_is_not_served_as_the_one_that_logged_a_connection_in() {
    let both = "WWW-Authenticate: ntlm\r\n";
    for (login, challenge) in [
        // The answer offers it, the request uses it, or both.
        ("NTLM TlRMTVNTUAADAAAA", both),
        ("negotiate YIIZ", ""),
        (
            "Bearer of-a-connection",
            "WWW-Authenticate: Digest realm=\"y\", Negotiate\r\n",
        ),
    ] {
        let (origin, mut ends) = remembers(login, challenge).await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let agent = Agent::of(&bursar);
        let host = format!("Host: localhost:{}\r\n", origin.address.port());
        let mut alice = Wire::new(agent.tls(origin.address, "localhost", &["http/1.1"]).await.unwrap());
        for (fields, who) in [
            (String::new(), "nobody"),
            (format!("Authorization: {login}\r\n"), "alice"),
            // The login is the connection's, so the tunnel keeps it.
            (String::new(), "alice"),
        ] {
            alice.say(format!("GET / HTTP/1.1\r\n{host}{fields}\r\n")).await;
            assert_eq!(alice.answer().await.unwrap().text(), who, "{login}");
        }
        drop(alice);
        assert_eq!(soon(ends.recv()).await, Some(0), "{login}: it is kept for others");
        let page = agent.get(origin.address, "/").await;
        assert_eq!(&page.body[..], b"nobody", "{login}");
    }
}

#[tokio::test]
async fn a_login_of_a_request_costs_no_connection() {
    let (origin, _ends) = remembers("Basic x", "").await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Arc::new(Agent::of(&bursar));
    // Basic holds for a request; that this site takes it for a connection's shows that the connection was kept.
    soon(async {
        loop {
            let request = http::Request::get("/").header("authorization", "Basic x");
            assert_eq!(&agent.request(origin.address, request).await.body[..], b"alice");
            if agent.get(origin.address, "/").await.body == "alice" {
                return;
            }
        }
    })
    .await;
}

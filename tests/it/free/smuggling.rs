//! Messages that two readers could read differently: refused, or sent on in an unambiguous form (threat 2.5).

use tokio::sync::mpsc;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, setup};
use crate::support::origin::Origin;
use crate::support::wire::{Message, Wire};

const H1: &[&str] = &["http/1.1"];

/// A site behind a tunnel, and the requests it could read.
struct Target {
    origin: Origin,
    bursar: Bursar,
    seen: mpsc::UnboundedReceiver<Message>,
}

impl Target {
    async fn new() -> Self {
        let (saw, seen) = mpsc::unbounded_channel();
        let origin = Origin::raw(move |stream, _| {
            let saw = saw.clone();
            async move {
                let mut wire = Wire::new(stream);
                while let Some(request) = wire.request().await {
                    saw.send(request).unwrap();
                    wire.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        })
        .await;
        let bursar = setup().trust(&origin.ca_pem).start();
        Self { origin, bursar, seen }
    }

    /// Sends `bytes` into a tunnel; returns every request that arrived, and the first answer.
    async fn smuggle(&mut self, bytes: &str) -> (Vec<Message>, Option<Message>) {
        let host = format!("localhost:{}", self.origin.address.port());
        let agent = Agent::of(&self.bursar);
        let mut wire = Wire::new(agent.tls(self.origin.address, "localhost", H1).await.unwrap());
        wire.say(bytes.replace("HOST", &host)).await;
        let first = wire.answer().await;
        let mut requests = Vec::new();
        while let Ok(request) = self.seen.try_recv() {
            requests.push(request);
        }
        (requests, first)
    }
}

/// Each is either refused or sent on unambiguously: `Message` does not parse two lengths, bare line feeds and the like.
#[tokio::test]
async fn requests_that_could_be_read_in_two_ways() {
    let mut target = Target::new().await;
    for bytes in [
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3, 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0x3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 90\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: HOST\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX y: 1\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: HOST\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\n: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/9.1\r\nHost: HOST\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let (requests, answered) = target.smuggle(bytes).await;
        assert_eq!(requests, [], "{bytes:?}");
        let answered = answered.unwrap_or_else(|| panic!("no answer to {bytes:?}"));
        assert_eq!(
            (answered.status(), answered.problem().as_str()),
            (400, "bad-request"),
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn requests_that_are_made_plain_on_the_way() {
    let mut target = Target::new().await;
    // What the agent sends, and the body as the site reads it.
    for (bytes, body) in [
        (
            "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\n\r\n",
            "abc",
        ),
        (
            "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nConnection: Content-Length\r\n\r\nabc",
            "abc",
        ),
        (
            "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "abc",
        ),
        ("GET / HTTP/1.1\nHost: HOST\n\n", ""),
        (
            "GET / HTTP/1.1\r\nHost: HOST\r\nUpgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: x\r\n\r\n",
            "",
        ),
    ] {
        let (requests, answered) = target.smuggle(bytes).await;
        assert_eq!(answered.unwrap().status(), 200, "{bytes:?}");
        assert_eq!(requests.len(), 1, "{bytes:?}");
        assert_eq!(requests[0].text(), body, "{bytes:?}");
        for gone in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(requests[0].field(gone), None, "{bytes:?}");
        }
    }
}

#[tokio::test]
async fn a_request_that_was_refused_ends_its_connection() {
    let mut target = Target::new().await;
    // What follows the ambiguous body must not be read as the next request.
    let bytes = "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcGET /next HTTP/1.1\r\nHost: HOST\r\n\r\n";
    let (requests, _) = target.smuggle(bytes).await;
    assert_eq!(requests, []);
}

#[tokio::test]
async fn answers_that_could_be_read_in_two_ways() {
    for (said, as_read) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
            None,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc", None),
        // As clients take it: nothing that decides where the answer ends.
        ("HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n", Some("")),
        ("HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 0\r\n\r\n", Some("")),
        ("HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n", None),
        ("nothing that is HTTP\r\n\r\n", None),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            Some("abc"),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 90\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            Some("abc"),
        ),
        // More than the declared length: the rest must not answer any request.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
            Some("abc"),
        ),
    ] {
        let origin = Origin::raw(move |stream, connection| async move {
            let mut wire = Wire::new(stream);
            while wire.request().await.is_some() {
                wire.say(if connection == 0 {
                    said
                } else {
                    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
                })
                .await;
            }
        })
        .await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let get = format!("GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", origin.address.port());
        let mut wire = Wire::new(Agent::of(&bursar).tls(origin.address, "localhost", H1).await.unwrap());
        wire.say(&get).await;
        let page = wire.answer().await.unwrap();
        match as_read {
            Some(body) => assert_eq!((page.status(), page.text().as_str()), (200, body), "{said:?}"),
            None => assert_eq!(
                (page.status(), page.problem().as_str()),
                (502, "upstream-broken"),
                "{said:?}"
            ),
        }
        wire.say(&get).await;
        let page = wire.answer().await.unwrap();
        let fresh = ["next", as_read.unwrap_or("next")];
        assert!(fresh.contains(&page.text().as_str()), "{said:?} then {page:?}");
    }
}

//! When a paid answer counts as delivered: what was written to the agent, however its connection ends, and answers that
//! end with the site's connection (R94).

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::origin::{Origin, Seen, answer, read_request};
use crate::support::seller;
use crate::support::wire::Wire;

/// How the site closes the connection after its answer.
#[derive(Clone, Copy, PartialEq)]
enum Closes {
    WithNotify,
    WithoutNotify,
}

/// Sells `goods`, and gives `/free` away. Each answer ends with its connection, so that no length is said.
async fn old_server(closes: Closes) -> Origin {
    Origin::raw(move |mut stream, _| async move {
        let Some(request) = read_request(&mut stream).await else {
            return;
        };
        let challenge = seller::encoded(&seller::challenge("/", &[seller::requirement("10000")]));
        let receipt = seller::receipt(true, seller::TX);
        let answer = match (request.is_paid(), request.head.starts_with("GET /free ")) {
            (false, false) => {
                format!("402 Payment Required\r\nContent-Length: 2\r\nPayment-Required: {challenge}\r\n\r\n{{}}")
            }
            (true, _) => format!("200 OK\r\nPayment-Response: {receipt}\r\n\r\ngoods"),
            (false, true) => "200 OK\r\n\r\nfree".to_owned(),
        };
        stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        if closes == Closes::WithNotify {
            stream.shutdown().await.unwrap();
        }
    })
    .await
}

async fn connect(agent: &Agent, origin: &Origin) -> Wire<TlsStream<TcpStream>> {
    Wire::new(agent.tls(origin.address, "localhost", &["http/1.1"]).await.unwrap())
}

/// The body, and whether it ended as its framing says.
async fn get(agent: &Agent, origin: &Origin, path: &str) -> (Vec<u8>, bool) {
    let port = origin.address.port();
    let mut wire = connect(agent, origin).await;
    wire.say(format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"))
        .await;
    let head = wire.head().await.unwrap();
    assert_eq!((head.status(), head.field("transfer-encoding")), (200, Some("chunked")));
    let mut body = Vec::new();
    loop {
        match wire.chunk_size().await {
            None => return (body, false),
            Some(0) => return (body, true),
            Some(size) => {
                body.extend(wire.exactly(size).await.unwrap());
                wire.exactly(2).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn what_was_bought_is_whole_when_its_connection_ends() {
    for closes in [Closes::WithNotify, Closes::WithoutNotify] {
        let origin = old_server(closes).await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let agent = Agent::of(&bursar);
        // Delivered: the same request again is a new purchase, and no repeat of the first.
        for count in 1..=2 {
            assert_eq!(get(&agent, &origin, "/goods").await, (b"goods".to_vec(), true));
            assert_eq!(bursar.states(), vec!["settled"; count]);
        }
        let ids: Vec<_> = bursar
            .payments()
            .iter()
            .map(|payment| payment["nonce"].clone())
            .collect();
        assert_ne!(ids[0], ids[1]);
        // Nothing was bought here: the agent sees that the end was not confirmed, as it would without us.
        let (body, whole) = get(&agent, &origin, "/free").await;
        assert_eq!((&body[..], whole), (&b"free"[..], closes == Closes::WithNotify));
    }
}

/// Sells goods in chunks, with a checksum behind them.
async fn with_trailers() -> Origin {
    Origin::raw(|mut stream, _| async move {
        while let Some(request) = read_request(&mut stream).await {
            let challenge = seller::encoded(&seller::challenge("/", &[seller::requirement("10000")]));
            let receipt = seller::receipt(true, seller::TX);
            let answer = match request.is_paid() {
                false => {
                    format!("402 Payment Required\r\nContent-Length: 2\r\nPayment-Required: {challenge}\r\n\r\n{{}}")
                }
                true => format!(
                    "200 OK\r\nPayment-Response: {receipt}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                     5\r\ngoods\r\n0\r\nX-Sum: 5\r\n\r\n"
                ),
            };
            stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn what_was_bought_is_delivered_with_its_trailers() {
    let origin = with_trailers().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for count in 1..=2 {
        assert_eq!(get(&agent, &origin, "/goods").await, (b"goods".to_vec(), true));
        // Delivered: the same request again is a new purchase, and no repeat of the first.
        assert_eq!(bursar.states(), vec!["settled"; count]);
    }
    let payments = bursar.payments();
    assert_ne!(payments[0]["nonce"], payments[1]["nonce"]);
}

/// How the agent ends its connection.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    InOrder,
    /// A program that exits at once: the kernel sends a reset.
    WithReset,
}

#[tokio::test]
async fn an_answer_that_was_read_is_delivered_however_the_agent_leaves() {
    for leaves in [Leaves::InOrder, Leaves::WithReset] {
        // Without a body, with one that fits everywhere, and with one that fits no socket.
        for length in [0, 5, 5 << 20] {
            let origin = Origin::https(move |request: Seen| async move {
                match request.is_paid() {
                    true => answer(
                        200,
                        &[("payment-response", &seller::receipt(true, seller::TX))],
                        vec![b'x'; length],
                    ),
                    false => seller::asks("10000"),
                }
            })
            .await;
            let bursar = setup().trust(&origin.ca_pem).start();
            let agent = Agent::of(&bursar);
            for _ in 0..2 {
                let mut wire = connect(&agent, &origin).await;
                let port = origin.address.port();
                wire.say(format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"))
                    .await;
                let page = wire.answer().await.unwrap();
                assert_eq!((page.status(), page.body.len()), (200, length));
                if let Leaves::WithReset = leaves {
                    wire.stream.get_ref().0.set_zero_linger().unwrap();
                }
            }
            let mut credentials = origin.payments();
            assert_eq!(credentials.len(), 2, "{leaves:?} {length}");
            credentials.dedup();
            assert_eq!(
                credentials.len(),
                2,
                "the second request is a purchase of its own: {leaves:?} {length}"
            );
            assert_eq!(bursar.states(), ["settled"; 2]);
        }
    }
}

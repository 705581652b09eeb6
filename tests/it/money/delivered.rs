//! When a paid answer counts as delivered: what was written to the agent, however its connection ends, and answers that
//! end with the site's connection (R94).

use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::agent::{Agent, Page};
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
    assert_eq!(head.status(), 200);
    if head.field("transfer-encoding").is_some() {
        return chunks(wire).await;
    }
    let (mut stream, mut body) = wire.into_parts();
    // TLS says whether the end was meant.
    let whole = stream.read_to_end(&mut body).await.is_ok();
    (body, whole)
}

/// A body in chunks, and whether its trailers came.
async fn chunks(mut wire: Wire<TlsStream<TcpStream>>) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(size) = wire.chunk_size().await {
        if size == 0 {
            let trailers = wire.until("\r\n\r\n").await;
            return (body, trailers.is_some_and(|trailers| trailers.contains("X-Sum: 5")));
        }
        body.extend(wire.exactly(size).await.unwrap());
        wire.exactly(2).await.unwrap();
    }
    (body, false)
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

/// What HTTP/2 lets a site send on a stream before it may send more (RFC 9113 §6.9.2).
const WINDOW: usize = 65_535;

/// `GET /` as the first stream of an h2 connection.
fn h2_get(authority: &str) -> Vec<u8> {
    // By number in HPACK's table: GET, https, /; and the authority as text.
    let mut fields = vec![0x82, 0x87, 0x84, 0x41, u8::try_from(authority.len()).unwrap()];
    fields.extend(authority.as_bytes());
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS, empty; HEADERS with END_HEADERS and END_STREAM.
    said.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    said.extend([0, 0, u8::try_from(fields.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    said.extend(fields);
    said
}

/// The site's data on the only stream, up to so many bytes. No window is ever enlarged.
async fn h2_read(wire: &mut Wire<TlsStream<TcpStream>>, most: usize) -> usize {
    const DATA: u8 = 0;
    let mut read = 0;
    while read < most {
        let head = wire.exactly(9).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        wire.exactly(length).await.unwrap();
        if head[3] == DATA {
            assert_eq!(head[4] & 1, 0, "ended after {read} + {length} bytes");
            read += length;
        }
    }
    read
}

async fn h2_page(agent: &Agent, origin: &Origin, path: &str) -> Page {
    let mut connection = agent.connect(origin.address, &["h2"]).await;
    let request = Request::get(path).body(Full::default()).unwrap();
    connection.send(origin.address, request).await.unwrap()
}

#[tokio::test]
async fn an_answer_whose_last_bytes_wait_for_the_window_is_not_delivered() {
    let origin = Origin::https(|request: Seen| async move {
        match (request.target.as_str(), request.is_paid()) {
            ("/free", _) => answer(200, &[], "free"),
            (_, false) => seller::asks("10000"),
            (_, true) => answer(
                200,
                &[("payment-response", &seller::receipt(true, seller::TX))],
                vec![b'x'; 70_000],
            ),
        }
    })
    .await;
    // One request at a time, so that it shows when the proxy is done with one.
    let bursar = setup()
        .config(
            "[capacity]
requests_per_agent = 1
",
        )
        .trust(&origin.ca_pem)
        .start();
    let agent = Agent::of(&bursar);
    let stream = agent.tls(origin.address, "localhost", &["h2"]).await.unwrap();
    let mut wire = Wire::new(stream);
    wire.say(h2_get(&format!("localhost:{}", origin.address.port()))).await;
    assert_eq!(h2_read(&mut wire, WINDOW).await, WINDOW);
    assert_ne!(
        h2_page(&agent, &origin, "/free").await.status,
        200,
        "the first is under way"
    );
    drop(wire);
    while h2_page(&agent, &origin, "/free").await.status != 200 {}

    // The repeat gets the rest too, for the same money; after it, the same request is a new purchase.
    for payments in 1..=2 {
        let page = h2_page(&agent, &origin, "/").await;
        assert_eq!((page.status.as_u16(), page.body.len()), (200, 70_000));
        assert_eq!(bursar.states(), vec!["settled"; payments]);
    }
    let credentials = origin.payments();
    assert_eq!(credentials.len(), 3);
    assert_eq!(credentials[0], credentials[1], "the same bytes");
    assert_ne!(credentials[1], credentials[2]);
}

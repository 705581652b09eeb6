//! Answers that end with their connection, as old servers send them (R94).

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use crate::support::agent::{Agent, client_config};
use crate::support::bursar::setup;
use crate::support::origin::{Origin, read_request};
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

/// The body, and whether it ended as its framing says.
async fn get(agent: &Agent, origin: &Origin, path: &str) -> (Vec<u8>, bool) {
    let port = origin.address.port();
    let tunnel = agent.tunnel(&format!("localhost:{port}")).await;
    let connector = TlsConnector::from(Arc::new(client_config(&agent.ca, &["http/1.1"])));
    let name = ServerName::try_from("localhost").unwrap();
    let mut wire = Wire::new(connector.connect(name, tunnel).await.unwrap());
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

//! Answers of a site that speaks HTTP/1.1.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::h1::client::Connection;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const IDLE: Duration = Duration::from_secs(600);

/// What the site says as the answer to one request, and whether its connection is free again.
async fn relay(said: String) -> (Relay, Arc<AtomicBool>) {
    let (ours, mut site) = duplex(64 << 10);
    let mut connection = Connection::new(ours);
    tokio::spawn(async move {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(site.read_u8().await.unwrap());
        }
        site.write_all(said.as_bytes()).await.unwrap();
        // Open until the test is over.
        std::future::pending::<()>().await;
    });
    let request = Request::get("/")
        .header("host", "site.example")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = connection.send(request).await.unwrap();
    let framing = Framing::of(&response);
    let is_free = Arc::<AtomicBool>::default();
    let at_end = {
        let is_free = is_free.clone();
        Box::new(move || is_free.store(true, Ordering::Relaxed))
    };
    (
        Relay::new(SiteBody::H1(response.into_body()), framing, IDLE, Some(at_end)),
        is_free,
    )
}

#[tokio::test]
async fn a_chunked_answer_that_was_read_ahead_whole_frees_its_connection() {
    for (trailers, has_trailers) in [("", false), ("x-sum: 5\r\n", true)] {
        let (mut relay, is_free) = relay(format!("{CHUNKED}5\r\nhello\r\n0\r\n{trailers}\r\n")).await;
        let (read, end) = relay.read_up_to(1 << 10, IDLE).await;
        assert_eq!((&read[..], end), (&b"hello"[..], ReadEnd::Whole));
        assert!(is_free.load(Ordering::Relaxed), "{trailers:?}");
        // It is passed on as if it had not been read.
        relay.unread(read);
        let passed_on = relay.collect().await.unwrap();
        assert_eq!(passed_on.trailers().is_some(), has_trailers);
        assert_eq!(passed_on.to_bytes(), "hello");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_not_read_whole_keeps_its_connection() {
    for (cap, end) in [(4, ReadEnd::TooLong), (1 << 10, ReadEnd::Late)] {
        let (mut relay, is_free) = relay(format!("{CHUNKED}5\r\nhello\r\n")).await;
        let (read, ended) = relay.read_up_to(cap, Duration::from_secs(1)).await;
        assert_eq!((&read[..], ended), (&b"hello"[..], end));
        assert!(!is_free.load(Ordering::Relaxed), "{end:?}");
    }
}

/// hyper's server does not ask for more after trailers.
#[tokio::test]
async fn an_answer_has_ended_with_its_trailers() {
    let (mut relay, is_free) = relay(format!("{CHUNKED}5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n")).await;
    relay.when_delivered(Box::new(|| ()));
    assert_eq!(relay.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
    assert!(relay.due.is_none() && !is_free.load(Ordering::Relaxed));
    assert!(relay.frame().await.unwrap().unwrap().is_trailers());
    assert!(relay.due.is_some() && is_free.load(Ordering::Relaxed));
}

//! Uploads of an agent that speaks HTTP/1.1, as hyper's server reads them.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, duplex};
use tokio::sync::mpsc;

use super::*;
use crate::body::ReplayBudget;
use crate::idle::Busy;

/// The body of a request of which the agent says this, and then nothing more.
async fn uploaded(chunks: &str) -> BufferedBody {
    let (mut agent, ours) = duplex(64 << 10);
    let said = format!("POST / HTTP/1.1\r\nHost: site.example\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    agent.write_all(said.as_bytes()).await.unwrap();
    let (hand_over, mut requests) = mpsc::unbounded_channel();
    let service = service_fn(move |request: Request<Incoming>| {
        hand_over.send(request).unwrap();
        // The body is read elsewhere; there is no answer, and the connection stays.
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    });
    tokio::spawn(async move {
        let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(ours), service);
        drop((serving.await, agent));
    });
    let request = AgentBody::of(requests.recv().await.unwrap(), Busy::default().begin());
    let budget = ReplayBudget::new(1 << 20).of(&"research".parse().unwrap());
    BufferedBody::new(request.into_body(), false, budget)
}

#[tokio::test]
async fn a_broken_upload_stays_broken_for_later_reads() {
    let body = uploaded("5\r\nhello\r\nno size\r\n").await;
    assert_eq!(body.collect().await.err(), Some(NotReplayable::Broken));
    let mut first = body.first();
    assert!(!first.is_end_stream());
    assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
    for _ in 0..3 {
        assert!(!first.is_end_stream());
        assert!(first.frame().await.unwrap().is_err(), "no end of what was cut off");
    }
    assert!(!body.progress().is_over());
    assert_eq!(body.take().await.err(), Some(NotReplayable::Broken));
}

#[tokio::test]
async fn a_collected_upload_ends_after_its_last_byte() {
    let body = uploaded("5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!(body.collect().await.ok().unwrap().bytes, "hello");
    let mut first = body.first();
    assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
    assert!(first.frame().await.is_none());
    assert!(body.progress().is_over());
}

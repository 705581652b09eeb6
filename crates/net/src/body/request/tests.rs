//! Uploads of an agent that speaks HTTP/1.1.

use http_body_util::BodyExt;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::body::ReplayBudget;
use crate::h1::{Incoming, Shared, Wire};
use crate::idle::Busy;
use bursar_core::h1::Length;

/// The chunked body of a request of which the agent says this, and then nothing more.
async fn uploaded(chunks: &str) -> (BufferedBody, DuplexStream) {
    let (mut agent, ours) = duplex(64 << 10);
    agent.write_all(chunks.as_bytes()).await.unwrap();
    let wire = Shared::new(Wire::new(ours));
    let incoming = Incoming::of_request(&wire, Length::Chunked, None);
    let body = AgentBody::of_h1(incoming, &wire, Busy::default().begin());
    let budget = || ReplayBudget::new(1 << 20).of(&"research".parse().unwrap());
    (BufferedBody::new(body, false, budget), agent)
}

#[tokio::test]
async fn a_broken_upload_stays_broken_for_later_reads() {
    let (body, _agent) = uploaded("5\r\nhello\r\nno size\r\n").await;
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
    let (body, _agent) = uploaded("5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!(body.collect().await.ok().unwrap().bytes, "hello");
    let mut first = body.first();
    assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
    assert!(first.frame().await.is_none());
    assert!(body.progress().is_over());
}

#[tokio::test]
async fn a_request_without_a_body_is_whole_from_the_beginning() {
    let (_agent, ours) = duplex(64);
    let wire = Shared::new(Wire::new(ours));
    let incoming = Incoming::of_request(&wire, Length::Empty, None);
    let source = AgentBody::of_h1(incoming, &wire, Busy::default().begin());
    let body = BufferedBody::new(source, false, || unreachable!("no memory is counted for it"));
    assert!(body.progress().is_over() && body.first().is_end_stream());
    let uploading = body.answered(StatusCode::PAYMENT_REQUIRED, true);
    for replay in [body.collect().await, body.take().await] {
        let replay = replay.ok().unwrap();
        assert!(replay.is_empty() && replay.trailers.is_none());
        assert_eq!(replay.sha256, <[u8; 32]>::from(Sha256::digest(b"")));
    }
    body.refused();
    drop(uploading);
    assert!(body.first().frame().await.is_none());
    assert!(wire.lock().is_read(), "the connection can go on");
}

//! Floods of HTTP/2 frames (CVE-2023-44487, CVE-2019-9512, CVE-2019-9515, CVE-2024-27316), byte by byte, inside a tunnel.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::{Town, held, resident, tunnel};
use crate::support::bursar::setup;

/// The connection preface and an empty SETTINGS frame (RFC 9113 §3.4).
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// What the server may use more than before, whatever it is sent.
const MEMORY: usize = 24 << 20;
/// A connection on which nothing moves for so long pushes back.
const STUCK: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
enum Kind {
    Headers = 1,
    RstStream = 3,
    Settings = 4,
    Ping = 6,
    Continuation = 9,
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind as u8, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// `GET /free` in static table entries and one literal (RFC 7541).
fn get(port: u16) -> Vec<u8> {
    let authority = format!("localhost:{port}");
    let mut block = vec![0x82, 0x87, 0x04, 5];
    block.extend(b"/free");
    block.extend([0x41, u8::try_from(authority.len()).unwrap()]);
    block.extend(authority.as_bytes());
    block
}

/// What became of a flood.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// All of it was taken.
    Taken,
    /// The proxy closed the connection.
    Cut,
    /// The proxy reads no more before the other side does.
    Stuck,
}

/// Sends all of it, as far as it is taken, and reads nothing.
async fn send(stream: &mut TlsStream<TcpStream>, frames: impl Iterator<Item = Vec<u8>>) -> End {
    const AT_ONCE: usize = 64 << 10;
    let mut frames = frames.peekable();
    while frames.peek().is_some() {
        let mut bytes = Vec::with_capacity(AT_ONCE);
        while bytes.len() < AT_ONCE
            && let Some(frame) = frames.next()
        {
            bytes.extend(frame);
        }
        match timeout(STUCK, stream.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Cut,
            Err(_) => return End::Stuck,
        }
    }
    End::Taken
}

/// A flood beside good ones that buy, and what the server is after it.
async fn flood(count: usize, frame_of: impl Fn(u16, usize) -> Vec<u8> + Send + Sync + 'static) -> End {
    let mut town = Town::new(setup(), held(), None).await;
    town.good_ones_buy(super::GOOD).await;
    let port = town.shop.address.port();
    let mut stream = tunnel(&town.bad, "localhost", port, &["h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let before = resident(town.bursar.pid());
    stream.write_all(OPENING).await.unwrap();
    let flooding = tokio::spawn(async move {
        let end = send(&mut stream, (0..count).map(|number| frame_of(port, number))).await;
        (end, stream)
    });
    town.good_ones_buy(super::GOOD).await;
    let (end, mut stream) = flooding.await.unwrap();
    let grown = resident(town.bursar.pid()).saturating_sub(before);
    assert!(grown < MEMORY, "{} KiB more, and the flood was {end:?}", grown >> 10);
    town.good_ones_buy(super::GOOD).await;
    if end == End::Cut {
        let mut rest = Vec::new();
        let _ = timeout(STUCK, stream.read_to_end(&mut rest)).await;
    }
    drop(stream);
    town.the_books_are_right().await;
    end
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_at_once_harm_nobody() {
    const STREAMS: usize = 20_000;
    let cancel = 8_u32.to_be_bytes();
    flood(STREAMS, move |port, number| {
        let stream = u32::try_from(number).unwrap() * 2 + 1;
        let mut both = frame(Kind::Headers, END_STREAM | END_HEADERS, stream, &get(port));
        both.extend(frame(Kind::RstStream, 0, stream, &cancel));
        both
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_without_an_end_is_cut_off() {
    // 16 KiB each, one header field of which begins in the first frame and never ends.
    const FRAMES: usize = 2_000;
    let end = flood(FRAMES, |port, number| match number {
        0 => frame(Kind::Headers, END_STREAM, 1, &get(port)),
        _ => {
            // A literal field without indexing: name `x`, 100 bytes of value.
            let field = [&[0, 1, b'x', 100][..], &[b'v'; 100]].concat();
            frame(Kind::Continuation, 0, 1, &field.repeat(16_384 / field.len()))
        }
    })
    .await;
    assert_eq!(end, End::Cut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_never_acknowledged_are_not_collected() {
    // Each is to be answered, and the answers are never read.
    flood(500_000, |_, _| frame(Kind::Settings, 0, 0, &[0, 3, 0, 0, 0, 100])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_whose_answers_nobody_reads_are_not_collected() {
    flood(500_000, |_, number| frame(Kind::Ping, 0, 0, &number.to_be_bytes())).await;
}

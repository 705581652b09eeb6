//! Shutdown: running requests finish within their time limit, idle connections are closed, nothing new begins (R65).

use std::time::{Duration, Instant};

use http::Request;
use http_body_util::Full;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, setup};
use crate::support::origin::{Origin, answer};
use crate::support::wire::{Wire, soon};

const H1: &[&str] = &["http/1.1"];
/// Less than the 10 s and more that each step may take, and enough for a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(8);

async fn wire(bursar: &Bursar, origin: &Origin) -> Wire<TlsStream<TcpStream>> {
    Wire::new(Agent::of(bursar).tls(origin.address, "localhost", H1).await.unwrap())
}

/// A site that sends each chunk the test gives it, and ends at an empty one.
async fn chunks() -> (Origin, mpsc::UnboundedSender<&'static str>) {
    let (say, said) = mpsc::unbounded_channel::<&'static str>();
    let said = std::sync::Arc::new(tokio::sync::Mutex::new(said));
    let origin = Origin::raw(move |stream, _| {
        let said = said.clone();
        async move {
            let mut wire = Wire::new(stream);
            while wire.request().await.is_some() {
                wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                let mut said = said.lock().await;
                while let Some(part) = said.recv().await {
                    wire.say(format!("{:x}\r\n{part}\r\n", part.len())).await;
                    if part.is_empty() {
                        break;
                    }
                }
            }
        }
    })
    .await;
    (origin, say)
}

/// A stream in progress, with its first chunk read.
async fn streaming(
    bursar: &Bursar,
    origin: &Origin,
    say: &mpsc::UnboundedSender<&'static str>,
) -> Wire<TlsStream<TcpStream>> {
    let mut wire = wire(bursar, origin).await;
    wire.say(format!(
        "GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n",
        origin.address.port()
    ))
    .await;
    wire.head().await.unwrap();
    say.send("one").unwrap();
    assert_eq!(wire.chunk().await.unwrap(), b"one");
    wire
}

async fn refuses(bursar: &Bursar) {
    let began = Instant::now();
    while TcpStream::connect(bursar.address).await.is_ok() {
        assert!(began.elapsed() < AT_ONCE, "still accepting");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_running_stream_is_finished_and_nothing_new_begins() {
    let (origin, say) = chunks().await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    let mut stream = streaming(&bursar, &origin, &say).await;
    let mut kept = Wire::to(&bursar).await;
    kept.say("CONNECT localhost:1 HTTP/1.1\r\n\r\n").await;
    assert_eq!(kept.answer().await.unwrap().status(), 407);
    bursar.terminate();
    refuses(&bursar).await;
    assert_eq!(kept.rest().await, b"", "an idle connection is closed");
    say.send("two").unwrap();
    assert_eq!(stream.chunk().await.unwrap(), b"two");
    say.send("").unwrap();
    assert!(stream.until("0\r\n\r\n").await.is_some());
    assert_eq!(stream.rest().await, b"", "and its connection ends");
    assert_eq!(bursar.ended(), 0);
    assert!(!bursar.path().join("run/listen").exists());
}

#[tokio::test]
async fn h2_streams_are_finished_as_well() {
    let (release, released) = tokio::sync::watch::channel(false);
    let origin = Origin::https(move |_| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            answer(200, &[], "finished")
        }
    })
    .await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    let mut connection = Agent::of(&bursar).connect(origin.address, &["h2"]).await;
    let site = origin.address;
    let asked = tokio::spawn(async move {
        let request = Request::get("/").body(Full::default()).unwrap();
        connection.send(site, request).await
    });
    let began = Instant::now();
    while origin.seen().is_empty() {
        assert!(began.elapsed() < AT_ONCE);
        tokio::task::yield_now().await;
    }
    bursar.terminate();
    refuses(&bursar).await;
    release.send(true).unwrap();
    assert_eq!(soon(asked).await.unwrap().unwrap().body, "finished");
    assert_eq!(bursar.ended(), 0);
}

// Two threads, so that the h2 client can answer while the test waits for the server to stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rests_does_not_hold_up_the_end() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    // No bytes sent; a silent tunnel; half a client hello; open tunnels, used and unused.
    let silent = Wire::to(&bursar).await;
    let empty = agent.tunnel(&format!("localhost:{}", origin.address.port())).await;
    let mut half = Wire::new(agent.tunnel(&format!("localhost:{}", origin.address.port())).await);
    half.say(b"\x16\x03\x01\x02\x00").await;
    let unused = agent.tls(origin.address, "localhost", H1).await.unwrap();
    let mut used = Vec::new();
    for offer in [H1, &["h2"]] {
        let mut connection = agent.connect(origin.address, offer).await;
        let request = Request::get("/").body(Full::default()).unwrap();
        connection.send(origin.address, request).await.unwrap();
        used.push(connection);
    }
    let began = Instant::now();
    assert_eq!(bursar.stop(), 0);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    drop((silent, empty, half, unused, used));
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_cut_at_its_bound() {
    let (origin, say) = chunks().await;
    let bounds = "[timeouts]\ndrain_s = 1\nsettle_wait_s = 1\n";
    let mut bursar = setup().config(bounds).trust(&origin.ca_pem).start();
    let mut stream = streaming(&bursar, &origin, &say).await;
    let began = Instant::now();
    assert_eq!(bursar.stop(), 0);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < AT_ONCE, "{took:?}");
    assert_eq!(stream.rest().await, b"", "and is not made to look finished");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (origin, say) = chunks().await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    let stream = streaming(&bursar, &origin, &say).await;
    bursar.terminate();
    refuses(&bursar).await;
    let began = Instant::now();
    assert_eq!(bursar.stop(), 0);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    drop(stream);
}

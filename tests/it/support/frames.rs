//! An HTTP/2 site whose frames the test decides about. A real server answers; between it and the client stands a relay that
//! ends connections and refuses streams as a [`Script`] says. It reads frames, not the heads in them; a connection whose
//! head the server did not get can carry no further one, for the two sides' tables of fields differ then.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::origin::{Answer, Origin};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const REFUSED_STREAM: u32 = 7;
const PREFACE: usize = 24;

/// What happens to one connection. Streams are counted from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Script {
    /// Nothing.
    Serve,
    /// When this many streams have come, a GOAWAY with the last one's id; later ones are not processed. The connection is
    /// closed when all streams are answered. So does nginx (`keepalive_requests`).
    GoAwayAfter(usize),
    /// At this stream a GOAWAY that does not count it; it is not processed.
    GoAwayAt(usize),
    /// `REFUSED_STREAM` for this stream, which is not processed.
    RefuseAt(usize),
    /// This stream is processed, and instead of the answer comes a GOAWAY whose last id is 0.
    LieAt(usize),
    /// This stream is processed, and instead of the answer comes a GOAWAY that counts it, and the end.
    CloseAt(usize),
    /// The end at this stream, which is not processed, without a word.
    VanishAt(usize),
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn goaway(last: u32) -> Self {
        let payload = [last.to_be_bytes(), 0u32.to_be_bytes()].concat();
        Self {
            kind: GOAWAY,
            flags: 0,
            stream: 0,
            payload,
        }
    }

    fn refusal(stream: u32) -> Self {
        let payload = REFUSED_STREAM.to_be_bytes().to_vec();
        Self {
            kind: RST_STREAM,
            flags: 0,
            stream,
            payload,
        }
    }

    fn ends_stream(&self) -> bool {
        match self.kind {
            DATA | HEADERS => self.flags & END_STREAM != 0,
            kind => kind == RST_STREAM,
        }
    }

    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(id) & 0x7fff_ffff;
        Some(Self {
            kind,
            flags,
            stream,
            payload,
        })
    }

    async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> Option<()> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        stream.write_all(&bytes).await.ok()?;
        stream.flush().await.ok()
    }
}

/// A site on HTTP/2 whose connection number n follows `script(n)`, and how many connections it has had. `answer` is called
/// for what is really processed.
pub(crate) async fn scripted<F, Fut>(
    script: impl Fn(usize) -> Script + Send + Sync + 'static,
    answer: F,
) -> (Origin, Arc<AtomicUsize>)
where
    F: Fn(Request<Bytes>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let (count, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
    let counting = count.clone();
    let origin = Origin::raw_with(&["h2"], move |stream, number| {
        counting.fetch_add(1, Ordering::SeqCst);
        let (near, far) = tokio::io::duplex(256 << 10);
        let answer = answer.clone();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let answer = answer.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                Ok::<_, Infallible>(answer(Request::from_parts(head, body)).await)
            }
        });
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(serving.serve_connection(TokioIo::new(near), service));
        let script = script(number);
        async move {
            relay(stream, far, script).await;
        }
    })
    .await;
    (origin, count)
}

enum From {
    Client(Frame),
    Server(Frame),
    ServerGone,
}

/// `None` when a side has gone.
async fn relay<S>(stream: S, server: tokio::io::DuplexStream, script: Script) -> Option<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let mut preface = [0; PREFACE];
    from_client.read_exact(&mut preface).await.ok()?;
    to_server.write_all(&preface).await.ok()?;
    let (events, mut happening) = mpsc::channel(64);
    let of_server = events.clone();
    tokio::spawn(async move {
        while let Some(frame) = Frame::read(&mut from_client).await {
            if events.send(From::Client(frame)).await.is_err() {
                // Read to the end: closing with unread bytes would reset the connection.
                while Frame::read(&mut from_client).await.is_some() {}
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(frame) = Frame::read(&mut from_server).await {
            if of_server.send(From::Server(frame)).await.is_err() {
                return;
            }
        }
        let _ = of_server.send(From::ServerGone).await;
    });
    // Which streams came, which of them the server has, and which it has not answered.
    let (mut came, mut accepted, mut unanswered) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut last = u32::MAX;
    while let Some(event) = happening.recv().await {
        match event {
            From::Client(frame) if frame.stream > last => {}
            From::Client(frame) => {
                let is_new = frame.kind == HEADERS && !came.contains(&frame.stream);
                if is_new {
                    let number = came.len();
                    came.push(frame.stream);
                    match script {
                        Script::GoAwayAt(at) if at == number => {
                            last = accepted.last().copied().unwrap_or(0);
                            Frame::goaway(last).write(&mut to_client).await?;
                            if unanswered.is_empty() {
                                break;
                            }
                            continue;
                        }
                        Script::RefuseAt(at) if at == number => {
                            Frame::refusal(frame.stream).write(&mut to_client).await?;
                            continue;
                        }
                        Script::VanishAt(at) if at == number => break,
                        _ => {}
                    }
                    accepted.insert(frame.stream);
                    unanswered.insert(frame.stream);
                }
                if frame.stream != 0 && !accepted.contains(&frame.stream) {
                    continue;
                }
                frame.write(&mut to_server).await?;
                if let Script::GoAwayAfter(count) = script
                    && is_new
                    && accepted.len() == count
                {
                    last = frame.stream;
                    Frame::goaway(last).write(&mut to_client).await?;
                }
            }
            From::ServerGone => break,
            From::Server(frame) => {
                let number = came.iter().position(|stream| *stream == frame.stream);
                let last_id = match script {
                    Script::LieAt(at) if Some(at) == number => Some(0),
                    Script::CloseAt(at) if Some(at) == number => Some(frame.stream),
                    _ => None,
                };
                if let Some(last_id) = last_id
                    && frame.kind == HEADERS
                {
                    Frame::goaway(last_id).write(&mut to_client).await?;
                    break;
                }
                frame.write(&mut to_client).await?;
                if frame.ends_stream() {
                    unanswered.remove(&frame.stream);
                }
                if last != u32::MAX && unanswered.is_empty() {
                    break;
                }
            }
        }
    }
    to_client.shutdown().await.ok()
}

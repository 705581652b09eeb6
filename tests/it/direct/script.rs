//! What one side of a conversation does, as a list of steps on raw bytes, and a record of what it saw.
//!
//! Nothing waits for time to pass. Where an order matters, one side waits for a mark that the other side sets. A side
//! that waits in vain is recorded as stuck, with its step.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::message::{Kind, finals, methods, parse};

/// A step that takes as long as this is stuck. Reached only where a run differs from the direct one.
const PATIENCE: Duration = Duration::from_secs(8);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Writes these bytes at once. `{site}` stands for the site's host and port, `{to}` for what precedes a path in
    /// the request line of a client that speaks to a proxy in the absolute form.
    Say(Vec<u8>),
    /// Writes these bytes one at a time.
    SayBytewise(Vec<u8>),
    /// Reads until these bytes have arrived, after those that earlier steps were waiting for.
    Hear(Vec<u8>),
    /// Reads until so many messages are whole, counted from the beginning; interim answers do not count.
    HearMessages(usize),
    /// Reads until the other side ends.
    HearEnd,
    /// Sets a mark for the other side.
    Mark(&'static str),
    /// Waits for a mark of the other side.
    Await(&'static str),
    /// Ends its own direction and goes on reading: `close_notify` and FIN.
    HalfClose,
    /// Ends its own direction by FIN alone, without `close_notify`.
    Cut,
    /// RST.
    Reset,
    /// Closes both directions.
    Leave,
}

pub(super) fn say(bytes: impl AsRef<[u8]>) -> Step {
    Step::Say(bytes.as_ref().to_vec())
}

pub(super) fn hear(bytes: impl AsRef<[u8]>) -> Step {
    Step::Hear(bytes.as_ref().to_vec())
}

/// The end of a head.
pub(super) fn hear_head() -> Step {
    hear(b"\r\n\r\n")
}

/// How a direction ended, as its reader saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By `close_notify`; FIN on a connection without TLS.
    Closed,
    /// FIN without `close_notify`.
    Cut,
    Reset,
}

/// What a side said and saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub said: Vec<u8>,
    pub heard: Vec<u8>,
    pub end: Option<End>,
    /// The step that did not come to its end.
    pub stuck: Option<String>,
}

pub(super) enum Line {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Line {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    pub(super) async fn read(&mut self, part: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(part).await,
            Self::Tls(stream) => stream.read(part).await,
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    async fn half_close(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => stream.shutdown().await,
        }
    }

    async fn cut(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.shutdown().await,
            Self::Tls(stream) => match &mut **stream {
                TlsStream::Client(stream) => stream.get_mut().0.shutdown().await,
                TlsStream::Server(stream) => stream.get_mut().0.shutdown().await,
            },
        }
    }
}

/// Marks that are set in one run, by either side.
#[derive(Clone)]
pub(super) struct Marks(watch::Sender<Vec<&'static str>>);

impl Marks {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }

    pub(super) fn set(&self, mark: &'static str) {
        self.0.send_modify(|marks| marks.push(mark));
    }

    pub(super) async fn wait(&self, mark: &'static str) {
        let mut marks = self.0.subscribe();
        let _ = marks.wait_for(|marks| marks.contains(&mark)).await;
    }
}

/// Plays one side. The connection stays open if a step did not close it; the caller drops it.
pub(super) struct Player {
    pub line: Option<Line>,
    pub marks: Marks,
    /// What this side reads: the client answers, the site requests.
    pub reads: Kind,
    pub record: Record,
    /// How much of what was heard earlier steps have waited for.
    consumed: usize,
}

impl Player {
    pub(super) fn new(line: Line, marks: Marks, reads: Kind) -> Self {
        let _ = line.socket().set_nodelay(true);
        Self {
            line: Some(line),
            marks,
            reads,
            record: Record::default(),
            consumed: 0,
        }
    }

    pub(super) async fn play(&mut self, steps: &[Step]) {
        for (number, step) in steps.iter().enumerate() {
            if timeout(PATIENCE, self.step(step)).await.is_err() {
                let step = format!("{step:?}");
                let step: String = step.chars().take(80).collect();
                self.record.stuck = Some(format!("step {} ({step})", number + 1));
                return;
            }
        }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Say(bytes) => self.write(bytes).await,
            Step::SayBytewise(bytes) => {
                for byte in bytes {
                    self.write(&[*byte]).await;
                    tokio::task::yield_now().await;
                }
            }
            Step::Hear(bytes) => loop {
                let new = &self.record.heard[self.consumed..];
                if let Some(at) = new.windows(bytes.len()).position(|window| window == bytes) {
                    self.consumed += at + bytes.len();
                    return;
                }
                if !self.more().await {
                    return;
                }
            },
            Step::HearMessages(count) => loop {
                let messages = parse(&self.record.heard, self.reads, &methods(&self.record.said), false);
                if finals(&messages) >= *count {
                    self.consumed = self.record.heard.len();
                    return;
                }
                if !self.more().await {
                    return;
                }
            },
            Step::HearEnd => while self.more().await {},
            Step::Mark(mark) => self.marks.set(mark),
            Step::Await(mark) => self.marks.wait(mark).await,
            Step::HalfClose => {
                if let Some(line) = &mut self.line {
                    let _ = line.half_close().await;
                }
            }
            Step::Cut => {
                if let Some(line) = &mut self.line {
                    let _ = line.cut().await;
                }
            }
            Step::Leave => {
                if let Some(mut line) = self.line.take() {
                    let _ = line.half_close().await;
                }
            }
            Step::Reset => {
                if let Some(line) = self.line.take() {
                    let _ = line.socket().set_zero_linger();
                }
            }
        }
    }

    /// A write that fails says nothing that the next read does not say better.
    async fn write(&mut self, bytes: &[u8]) {
        self.record.said.extend_from_slice(bytes);
        if let Some(line) = &mut self.line {
            let _ = line.write(bytes).await;
        }
    }

    /// Reads once; false at the end.
    async fn more(&mut self) -> bool {
        let Some(line) = self.line.as_mut().filter(|_| self.record.end.is_none()) else {
            return false;
        };
        let mut part = vec![0; 64 << 10];
        self.record.end = Some(match line.read(&mut part).await {
            Ok(0) => End::Closed,
            Ok(count) => {
                self.record.heard.extend_from_slice(&part[..count]);
                return true;
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => End::Cut,
            Err(_) => End::Reset,
        });
        false
    }
}

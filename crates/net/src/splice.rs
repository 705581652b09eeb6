//! TLS that is not opened: the agent's hello is read for the name in it, and then both sides are joined byte by byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::{Instant, sleep_until};

pub use hello::{Hello, HelloReader, Malformed};

mod hello;

/// For each direction. A TLS record is about as long.
const BUFFER: usize = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("the stream ended within the hello")]
    Ended,
    #[error("it is not a TLS hello")]
    Malformed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a hello until it is complete: a post-quantum one spans segments. Nothing is answered.
pub async fn hello(stream: &mut (impl AsyncRead + Unpin)) -> Result<Hello, HelloError> {
    let mut reader = HelloReader::default();
    loop {
        reader.bytes.reserve(2048);
        if stream.read_buf(&mut reader.bytes).await? == 0 {
            return Err(HelloError::Ended);
        }
        if let Some(hello) = reader.read().map_err(|Malformed| HelloError::Malformed)? {
            return Ok(hello);
        }
    }
}

/// Why a hello is not answered. TLS has a word for it, and nothing else could be read by the client (RFC 8446 §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    AccessDenied,
    UnrecognizedName,
}

/// Refuses the client's hello, and ends the stream.
pub async fn refuse(stream: &mut (impl AsyncWrite + Unpin), alert: Alert) -> io::Result<()> {
    let description = match alert {
        Alert::AccessDenied => 49,
        Alert::UnrecognizedName => 112,
    };
    // A record of type alert, as all versions write it before they have agreed on one; a fatal alert.
    stream
        .write_all(&[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, description])
        .await?;
    stream.shutdown().await
}

/// How many bytes went each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    pub to_site: u64,
    pub to_agent: u64,
}

/// Joins both sides until both have ended, one of them fails, or no byte has moved for `idle`. An end in one direction is
/// passed on, and the other direction goes on.
pub async fn join<A, S>(agent: A, site: S, idle: Duration) -> io::Result<Passed>
where
    A: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Arc::new(Moved::now());
    let (mut agent, mut site) = (Noting::new(agent, &moved), Noting::new(site, &moved));
    let joined = copy_bidirectional_with_sizes(&mut agent, &mut site, BUFFER, BUFFER);
    tokio::select! {
        passed = joined => passed.map(|(to_site, to_agent)| Passed { to_site, to_agent }),
        () = moved.rested(idle) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// When a byte was last moved.
struct Moved {
    since: Instant,
    millis: AtomicU64,
}

impl Moved {
    fn now() -> Self {
        Self {
            since: Instant::now(),
            millis: AtomicU64::new(0),
        }
    }

    fn note(&self) {
        let millis = self.since.elapsed().as_millis();
        self.millis
            .store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Resolves when nothing has moved for so long.
    async fn rested(&self, idle: Duration) {
        loop {
            let last = self.since + Duration::from_millis(self.millis.load(Ordering::Relaxed));
            if last.elapsed() >= idle {
                return;
            }
            sleep_until(last + idle).await;
        }
    }
}

/// A side, with a note of each byte that moves.
struct Noting<S> {
    stream: S,
    moved: Arc<Moved>,
}

impl<S> Noting<S> {
    fn new(stream: S, moved: &Arc<Moved>) -> Self {
        Self {
            stream,
            moved: moved.clone(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noting<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.moved.note();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noting<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(_)) = polled {
            this.moved.note();
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;

//! A connection that one side has reset is reset for the other side, too. With a FIN in its place, an answer that ends
//! with its connection would look whole.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::h1::Ending;

/// Says of a socket, wherever it is by then, that it is to be closed with a reset. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reset(Arc<AtomicBool>);

impl Reset {
    pub fn on_close(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Called when the socket is about to be closed.
    pub(crate) fn apply(&self, socket: &TcpStream) {
        if self.0.load(Ordering::Relaxed)
            && let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO))
        {
            tracing::debug!(%error, "a connection ends with a FIN in place of a reset");
        }
    }
}

/// A socket that was accepted.
#[derive(Debug)]
pub struct Accepted {
    stream: TcpStream,
    reset: Reset,
}

impl Accepted {
    pub const fn new(stream: TcpStream, reset: Reset) -> Self {
        Self { stream, reset }
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.reset.apply(&self.stream);
    }
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// One of two joined sides: if it breaks, the other one is to be reset.
pub struct Telling<S> {
    stream: S,
    other: Reset,
}

impl<S> Telling<S> {
    pub const fn new(stream: S, other: Reset) -> Self {
        Self { stream, other }
    }

    fn passed_on<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            if Ending::of(error) == Ending::Broken {
                self.other.on_close();
            }
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Telling<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        Poll::Ready(this.passed_on(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Telling<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf));
        Poll::Ready(this.passed_on(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = ready!(Pin::new(&mut this.stream).poll_flush(cx));
        Poll::Ready(this.passed_on(flushed))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

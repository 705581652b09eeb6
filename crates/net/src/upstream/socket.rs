//! A socket to a site. It counts for its agent until it is closed, wherever the stream is by then: in a handshake, in an
//! exchange, kept for the next one, or upgraded.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::dial::Stream;
use crate::reset::Reset;
use crate::shares::Share;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub struct Socket {
    stream: Stream,
    reset: Reset,
    _share: Share,
}

impl Socket {
    pub(super) fn new(stream: Stream, share: Share) -> Self {
        Self {
            stream,
            reset: Reset::default(),
            _share: share,
        }
    }

    pub fn reset(&self) -> Reset {
        self.reset.clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reset.apply(self.stream.socket());
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
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

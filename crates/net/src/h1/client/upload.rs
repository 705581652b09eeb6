//! A request's body on its way to the site.

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{Line, lock};
use crate::body::BoxError;
use crate::h1::{TrailerLines, Wire};
use bursar_core::h1::{Encoder, Length};

pub(super) struct Upload<B> {
    /// `None` once all of it is handed to the wire.
    body: Option<B>,
    encoder: Encoder,
    /// What a declared length still owes.
    left: Option<u64>,
    /// How its trailers were written.
    trailer_lines: Option<TrailerLines>,
}

/// Why an upload did not come to its end.
pub(super) enum Stopped {
    /// The site takes no more.
    Site(io::Error),
    /// Where it comes from, there is no more.
    Source(BoxError),
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(body: B, framing: Length, trailer_lines: Option<TrailerLines>) -> Self {
        Self {
            trailer_lines,
            body: (framing != Length::Empty).then_some(body),
            encoder: Encoder::new(framing),
            left: match framing {
                Length::Known(length) => Some(length),
                _ => None,
            },
        }
    }

    /// Ready when everything is written. What is there already leaves in one write with the head.
    pub(super) fn poll(&mut self, line: &Mutex<Line>, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            let mut waits = false;
            while !waits && self.body.is_some() && !lock(line).wire.is_full() {
                // Not under the lock: the body may belong to another connection.
                match self.poll_frame(cx) {
                    Poll::Pending => waits = true,
                    Poll::Ready(frame) => self.take(frame, &mut lock(line).wire)?,
                }
            }
            ready!(lock(line).wire.poll_flush(cx)).map_err(Stopped::Site)?;
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            } else if waits {
                return Poll::Pending;
            }
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn take(&mut self, frame: Option<Result<Frame<Bytes>, B::Error>>, wire: &mut Wire) -> Result<(), Stopped> {
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(Stopped::Source(error.into())),
            None => return self.finish(None, wire),
        };
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => self.data(data, wire)?,
            Err(frame) => return self.finish(frame.into_trailers().ok().as_ref(), wire),
        }
        match &self.body {
            Some(body) if body.is_end_stream() => self.finish(None, wire),
            _ => Ok(()),
        }
    }

    fn data(&mut self, data: Bytes, wire: &mut Wire) -> Result<(), Stopped> {
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(data.len() as u64)
                .ok_or_else(|| Stopped::Source("it is longer than its length says".into()))?;
        }
        self.encoder.begin(data.len(), wire.output());
        wire.write(data);
        self.encoder.end(wire.output());
        Ok(())
    }

    fn finish(&mut self, trailers: Option<&http::HeaderMap>, wire: &mut Wire) -> Result<(), Stopped> {
        if self.left.is_some_and(|left| left > 0) {
            return Err(Stopped::Source("it is shorter than its length says".into()));
        }
        self.body = None;
        let lines = self.trailer_lines.as_ref().and_then(TrailerLines::get);
        self.encoder
            .finish(trailers.map(|trailers| (trailers, lines)), wire.output());
        Ok(())
    }
}

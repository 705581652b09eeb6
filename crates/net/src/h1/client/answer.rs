//! An answer's body as it arrives.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{Line, lock};
use crate::h1::upgrade::Upgraded;
use crate::h1::{BodyError, Ending, Filled};
use crate::reset::Reset;
use bursar_core::h1::{Decoded, Decoder, Length, Lines};

/// Bytes leave the connection's buffer without being copied. If it is dropped before its end, the connection carries
/// no other request.
pub struct Answer {
    line: Arc<Mutex<Line>>,
    decoder: Decoder,
    /// How much of a declared length is to come.
    left: Option<u64>,
    is_over: bool,
    ending: Option<Ending>,
    trailer_lines: Option<Lines>,
}

impl Answer {
    pub(super) fn new(line: Arc<Mutex<Line>>, length: Length) -> Self {
        let mut answer = Self {
            line,
            decoder: Decoder::of_response(length),
            left: match length {
                Length::Empty => Some(0),
                Length::Known(length) => Some(length),
                Length::Chunked | Length::UntilClose => None,
            },
            is_over: false,
            ending: None,
            trailer_lines: None,
        };
        if answer.decoder.is_done() {
            answer.finish();
        }
        answer
    }

    /// How the connection ended, if this ended with it.
    pub const fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Ends our side, once the whole request is written: no other will follow on this connection. The answer goes on.
    pub(crate) fn end_request(&self, cx: &mut Context<'_>) {
        lock(&self.line).end_requests(cx);
    }

    /// The trailers as the site wrote them, once they have arrived.
    pub const fn trailer_lines(&self) -> Option<&Lines> {
        self.trailer_lines.as_ref()
    }

    /// After `101 Switching Protocols`: the stream, beginning with what the site has sent already, and the handle of the
    /// socket below it.
    pub fn switched(&self) -> Option<(Upgraded, Reset)> {
        let wire = &mut lock(&self.line).wire;
        Some((wire.take_stream()?, wire.reset()))
    }

    fn finish(&mut self) {
        self.is_over = true;
        lock(&self.line).answered();
    }

    fn fail(&mut self, ending: Ending, error: BodyError) -> BodyError {
        self.is_over = true;
        self.ending = Some(ending);
        lock(&self.line).end();
        error
    }

    /// The site will send no more: right for an answer that ends with the connection, if TLS says the same.
    fn ended(&mut self, ending: Ending) -> Option<Result<Frame<Bytes>, BodyError>> {
        if ending != Ending::Clean || self.decoder.end_of_input().is_err() {
            return Some(Err(self.fail(ending, BodyError::Ended(ending))));
        }
        self.ending = Some(ending);
        self.finish();
        None
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        loop {
            let decoded = this.decoder.decode(&mut lock(&this.line).wire.input);
            match decoded {
                Ok(Decoded::Data(data)) => {
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    if this.decoder.is_done() {
                        this.finish();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers, lines)) => {
                    this.trailer_lines = Some(lines);
                    this.finish();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    this.finish();
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(error) => return Poll::Ready(Some(Err(this.fail(Ending::Broken, error.into())))),
            }
            let read = ready!(lock(&this.line).wire.poll_fill(cx));
            if let Filled::Ended(ending) = read {
                return Poll::Ready(this.ended(ending));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.is_over {
            lock(&self.line).end();
        }
    }
}

//! The body of a message that is being read from a wire.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use super::{Ending, Filled, Shared};
use crate::idle::Serving;
use bursar_core::h1::{Decoded, Decoder, Length, Lines, Malformed};

/// Reads from its connection when it is polled. Trailers come as a frame; [`TrailerLines`] say how they were written.
pub struct Incoming {
    wire: Shared,
    decoder: Decoder,
    /// What is still to come, if the head said how much.
    left: Option<u64>,
    stage: Stage,
    trailers: Option<TrailerLines>,
}

/// An extension of a request whose body is chunked: its trailers as the agent wrote them, once they have arrived.
#[derive(Clone, Default)]
pub struct TrailerLines(Arc<OnceLock<Lines>>);

impl TrailerLines {
    pub fn get(&self) -> Option<&Lines> {
        self.0.get()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Reading,
    Over,
    /// It will have no end.
    Failed,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BodyError {
    #[error("the body cannot be read: {0}")]
    Malformed(#[from] Malformed),
    /// The connection ended before the body did; for a body that the connection's end ends, it ended without TLS's
    /// `close_notify`.
    #[error("the connection ended before the body did")]
    Ended(Ending),
}

impl Incoming {
    pub fn of_request(wire: &Shared, length: Length, trailers: Option<TrailerLines>) -> Self {
        let decoder = Decoder::of_request(length);
        let stage = match decoder.is_done() {
            true => Stage::Over,
            false => Stage::Reading,
        };
        if stage == Stage::Reading {
            wire.lock().begin_body();
        }
        Self {
            wire: wire.clone(),
            decoder,
            left: match length {
                Length::Empty => Some(0),
                Length::Known(length) => Some(length),
                Length::Chunked | Length::UntilClose => None,
            },
            stage,
            trailers,
        }
    }

    /// Gives up the rest, which the connection then reads and drops; it counts for `serving` meanwhile.
    pub(crate) fn leave(mut self, serving: &Serving) {
        if std::mem::replace(&mut self.stage, Stage::Failed) == Stage::Reading {
            let rest = self.take_decoder();
            self.wire.lock().leave_body(rest, Some(serving.clone()));
        }
    }

    fn take_decoder(&mut self) -> Decoder {
        std::mem::replace(&mut self.decoder, Decoder::of_request(Length::Empty))
    }

    /// Nothing after this can be read as part of any message.
    fn fail(&mut self, wire: &mut super::Wire, error: BodyError) -> BodyError {
        self.stage = Stage::Failed;
        wire.leave_body(self.take_decoder(), None);
        error
    }

    fn end(&mut self, wire: &mut super::Wire) {
        self.stage = Stage::Over;
        wire.end_body();
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.stage != Stage::Reading {
            return Poll::Ready(None);
        }
        let shared = this.wire.clone();
        let mut wire = shared.lock();
        loop {
            let found = match this.decoder.decode(&mut wire.input) {
                Ok(found) => found,
                Err(malformed) => return Poll::Ready(Some(Err(this.fail(&mut wire, malformed.into())))),
            };
            match found {
                Decoded::NeedMore => {}
                Decoded::End => {
                    this.end(&mut wire);
                    return Poll::Ready(None);
                }
                Decoded::Trailers(trailers, lines) => {
                    this.end(&mut wire);
                    if let Some(trailers) = &this.trailers {
                        // A body has trailers once.
                        let _ = trailers.0.set(lines);
                    }
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Decoded::Data(data) => {
                    if let Some(left) = &mut this.left {
                        *left -= data.len() as u64;
                    }
                    if this.decoder.is_done() {
                        this.end(&mut wire);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
            let filled = match wire.poll_fill(cx) {
                Poll::Ready(filled) => filled,
                Poll::Pending => {
                    wire.read_by(cx);
                    return Poll::Pending;
                }
            };
            let Filled::Ended(ending) = filled else { continue };
            let whole = ending == Ending::Clean && this.decoder.end_of_input().is_ok();
            if !whole {
                return Poll::Ready(Some(Err(this.fail(&mut wire, BodyError::Ended(ending)))));
            }
            this.end(&mut wire);
            return Poll::Ready(None);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stage == Stage::Over
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.stage == Stage::Reading {
            let rest = self.take_decoder();
            self.wire.lock().leave_body(rest, None);
        }
    }
}

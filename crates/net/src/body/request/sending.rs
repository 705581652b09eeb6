//! The request body as it goes to the site.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{BoxError, Hold, Replay, State, lock};

/// The request body that is sent to the site.
pub struct RequestBody(Source);

enum Source {
    Empty,
    First(Arc<Mutex<State>>),
    /// Boxed: a request is handed on several times, and hardly any is sent again.
    Replay(Box<Sending>),
}

struct Sending {
    data: Bytes,
    trailers: Option<HeaderMap>,
    next: Next,
}

impl From<Replay> for Sending {
    fn from(replay: Replay) -> Self {
        Self {
            data: replay.bytes,
            trailers: replay.trailers,
            next: Next::Data,
        }
    }
}

/// What is still to be sent of a replay, which keeps its bytes in case they must go out once more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Data,
    Trailers,
    Nothing,
}

impl RequestBody {
    /// What the agent sends, as it arrives.
    pub(super) const fn first(state: Arc<Mutex<State>>) -> Self {
        Self(Source::First(state))
    }

    pub fn empty() -> Self {
        Self(Source::Empty)
    }

    pub fn full(data: Bytes) -> Self {
        Self(Source::Replay(Box::new(Sending {
            data,
            trailers: None,
            next: Next::Data,
        })))
    }

    /// The same body from its first byte, if all that was read of it is still kept. What the agent has not sent yet
    /// follows as it arrives.
    pub(crate) fn rewind(self) -> Option<Self> {
        match self.0 {
            Source::Empty => Some(self),
            Source::First(state) => {
                let is_kept = lock(&state).rewind();
                is_kept.then_some(Self(Source::First(state)))
            }
            Source::Replay(mut sending) => {
                sending.next = Next::Data;
                Some(Self(Source::Replay(sending)))
            }
        }
    }
}

impl From<Replay> for RequestBody {
    fn from(replay: Replay) -> Self {
        Self(Source::Replay(Box::new(replay.into())))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Source::Empty => Poll::Ready(None),
            Source::First(state) => {
                let mut state = lock(state);
                let polled = match state.hold {
                    Hold::None => match state.next_ahead() {
                        Some(frame) => Poll::Ready(Some(Ok(frame))),
                        None => state.poll_source(cx),
                    },
                    _ if state.answered => Poll::Ready(Some(Err("the site responded without the request body".into()))),
                    _ => Poll::Pending,
                };
                if polled.is_pending() {
                    state.first = Some(cx.waker().clone());
                }
                polled
            }
            Source::Replay(sending) => {
                let Sending { data, trailers, next } = &mut **sending;
                let frame = match next {
                    Next::Data if !data.is_empty() => {
                        *next = Next::Trailers;
                        Some(Frame::data(data.clone()))
                    }
                    Next::Data | Next::Trailers => {
                        *next = Next::Nothing;
                        trailers.clone().map(Frame::trailers)
                    }
                    Next::Nothing => None,
                };
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Empty => true,
            Source::First(state) => {
                let state = lock(state);
                !state.is_ahead() && state.source.as_ref().is_some_and(Body::is_end_stream)
            }
            Source::Replay(sending) => match sending.next {
                Next::Data => sending.data.is_empty() && sending.trailers.is_none(),
                Next::Trailers => sending.trailers.is_none(),
                Next::Nothing => true,
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Empty => SizeHint::with_exact(0),
            Source::First(state) => {
                let state = lock(state);
                let ahead: u64 = state.ahead.iter().map(|part| part.len() as u64).sum();
                let mut hint = state.source.as_ref().map(Body::size_hint).unwrap_or_default();
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper + ahead);
                }
                hint.set_lower(hint.lower() + ahead);
                hint
            }
            Source::Replay(sending) => {
                let Sending { data, trailers, next } = &**sending;
                let left = match next {
                    Next::Data => data.len() as u64,
                    Next::Trailers | Next::Nothing => 0,
                };
                if trailers.is_none() {
                    return SizeHint::with_exact(left);
                }
                // Trailers need a framing in which a length is not known.
                let mut hint = SizeHint::new();
                hint.set_lower(left);
                hint
            }
        }
    }
}

//! The body of an agent's request, as it arrives.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::idle::Serving;
use crate::shares::Share;
use bursar_core::hop;

/// How long the rest of an unwanted upload is still read, and how long it may be silent meanwhile.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_SILENCE: Duration = Duration::from_secs(5);

/// The agent's upload. If the rest of it is not needed, it is read and discarded: closing a socket with unread bytes
/// resets the connection, and the reset can destroy the response before the agent has read it (RFC 9112 §9.6).
pub struct AgentBody {
    incoming: Option<Incoming>,
    serving: Serving,
    rest: Rest,
}

/// What happens to the unread rest when the body is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Discard,
    /// The agent waits for `100 Continue` and has sent nothing.
    Uninvited,
    /// An h2 stream can be cancelled without affecting the other streams.
    Cancel,
}

impl AgentBody {
    /// Takes over a request from hyper; its connection counts as busy until the whole body has arrived.
    pub fn of(request: Request<Incoming>, serving: Serving) -> Request<Self> {
        let rest = match request.version() {
            Version::HTTP_2 => Rest::Cancel,
            _ if hop::expects_continue(request.headers()) => Rest::Uninvited,
            _ => Rest::Discard,
        };
        request.map(|incoming| Self {
            incoming: Some(incoming),
            serving,
            rest,
        })
    }

    /// Its request counts for the agent until the whole body has arrived.
    pub fn count(&mut self, share: Arc<Share>) {
        self.serving.count(share);
    }

    /// A guard that keeps the connection busy beyond this exchange, for the stream after an upgrade.
    pub fn serving(&self) -> Serving {
        self.serving.clone()
    }
}

impl Body for AgentBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(incoming) = this.incoming.as_mut() else {
            return Poll::Ready(None);
        };
        if this.rest == Rest::Uninvited {
            // hyper sends `100 Continue` when the body is first polled.
            this.rest = Rest::Discard;
        }
        let polled = Pin::new(incoming).poll_frame(cx);
        polled.map_ok(|frame| match frame.into_trailers() {
            Ok(mut trailers) => {
                hop::strip_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for AgentBody {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take() else { return };
        if self.rest != Rest::Discard || incoming.is_end_stream() {
            return;
        }
        // Without a runtime the process is shutting down, and the connection with it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(discard(incoming, self.serving.clone()));
        }
    }
}

async fn discard(mut incoming: Incoming, serving: Serving) {
    let reading = async { while let Ok(Some(Ok(_))) = timeout(LINGER_SILENCE, incoming.frame()).await {} };
    // The exchange is over, so an error from the agent no longer matters.
    let _ = timeout(LINGER, reading).await;
    drop(serving);
}

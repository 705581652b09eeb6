//! The body of an agent's request, as it arrives.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};

use super::BoxError;
use crate::h1::server::Exchange;
use crate::h1::{self, Shared};
use crate::idle::Serving;
use crate::shares::Share;
use bursar_core::hop;

/// The agent's upload. If the rest of it is not needed, it is read and discarded: closing a socket with unread bytes
/// resets the connection, and the reset can destroy the response before the agent has read it (RFC 9112 §9.6). On h1 the
/// connection's loop does that; an h2 stream can be cancelled without affecting the others.
pub struct AgentBody {
    incoming: Option<Incoming>,
    serving: Serving,
    exchange: Exchange,
}

enum Incoming {
    H1(h1::Incoming),
    H2(hyper::body::Incoming),
}

impl AgentBody {
    /// Takes over a request from hyper; its connection counts as busy until the whole body has arrived.
    pub fn of_h2(request: Request<hyper::body::Incoming>, serving: Serving) -> Request<Self> {
        request.map(|incoming| Self {
            incoming: Some(Incoming::H2(incoming)),
            serving,
            exchange: Exchange::none(),
        })
    }

    pub(crate) fn of_h1(incoming: h1::Incoming, wire: &Shared, serving: Serving) -> Self {
        Self {
            incoming: Some(Incoming::H1(incoming)),
            serving,
            exchange: Exchange::on(wire),
        }
    }

    /// Its request counts for the agent until the whole body has arrived.
    pub fn count(&mut self, share: Arc<Share>) {
        self.serving.count(share);
    }

    /// A guard that keeps the connection busy beyond this exchange, for the stream after an upgrade.
    pub fn serving(&self) -> Serving {
        self.serving.clone()
    }

    /// The agent at the other end, beyond its body.
    pub fn exchange(&self) -> Exchange {
        self.exchange.clone()
    }
}

impl Body for AgentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = match self.get_mut().incoming.as_mut() {
            None => return Poll::Ready(None),
            Some(Incoming::H1(incoming)) => Pin::new(incoming).poll_frame(cx).map_err(BoxError::from),
            Some(Incoming::H2(incoming)) => Pin::new(incoming).poll_frame(cx).map_err(BoxError::from),
        };
        polled.map_ok(|frame| match frame.into_trailers() {
            Ok(mut trailers) => {
                hop::strip_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.incoming {
            None => true,
            Some(Incoming::H1(incoming)) => incoming.is_end_stream(),
            Some(Incoming::H2(incoming)) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.incoming {
            None => SizeHint::with_exact(0),
            Some(Incoming::H1(incoming)) => incoming.size_hint(),
            Some(Incoming::H2(incoming)) => incoming.size_hint(),
        }
    }
}

impl Drop for AgentBody {
    fn drop(&mut self) {
        if let Some(Incoming::H1(incoming)) = self.incoming.take() {
            incoming.leave(&self.serving);
        }
    }
}

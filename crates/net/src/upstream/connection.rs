//! One HTTP/1.1 connection to a site: its state, and sending a request on it. All use of the HTTP/1.1 client is here.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use http::request::Parts;
use tokio::time::timeout;

use super::timer::Timer;
use crate::body::{Progress, RequestBody, SiteBody};
use crate::h1::Stream;
use crate::h1::client::{self, Fault};
use crate::reset::Reset;

/// A connection that carries one request at a time.
pub(super) struct Connection {
    line: client::Connection,
    pub(super) address: SocketAddr,
    pub(super) use_so_far: Use,
    /// An agent has logged in on it: it is for one tunnel only.
    pub(super) is_bound: bool,
    /// The tunnel that has it is woken when it ends.
    pub(super) is_watched: bool,
    /// Bounds the wait for each answer; kept, because to set a timer costs more than to let it run on.
    pub(super) timer: Timer,
}

/// What a connection was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Dialled for the tunnel that has it.
    Nothing,
    /// It comes from the pool, and its new tunnel has sent nothing on it yet: the site may have closed it unseen.
    ByOthers,
    /// It has answered in the tunnel that has it.
    ByThisTunnel,
}

/// Why there is no response, and whether the request may have arrived.
pub(super) enum Failed {
    /// Nothing of it was sent.
    Unsent(Box<RequestBody>, Fault),
    /// It was sent, at least in part.
    Sent(Fault),
}

impl Connection {
    pub(super) fn new(stream: impl Stream, address: SocketAddr, reset: Reset) -> Self {
        Self {
            line: client::Connection::resetting(stream, reset),
            address,
            use_so_far: Use::Nothing,
            is_bound: false,
            is_watched: false,
            timer: Timer::default(),
        }
    }

    /// Closes it in the middle of an exchange.
    fn cut(&self) {
        self.line.cut();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.line.is_closed()
    }

    /// Ready when the site has closed it.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.line.poll_closed(cx)
    }

    /// Called before every send: the rest of an upload that its answer overtook may still be under way. A connection that
    /// does not become ready soon has bytes of an earlier request to send, and is abandoned.
    pub(super) async fn ready(&mut self) -> bool {
        const SOON: Duration = Duration::from_millis(100);
        let mut ready = pin!(self.line.ready());
        // Nearly always it is at once, and needs no timer.
        match poll_fn(|cx| Poll::Ready(ready.as_mut().poll(cx))).await {
            Poll::Ready(is_ready) => is_ready,
            Poll::Pending => timeout(SOON, ready).await.unwrap_or(false),
        }
    }

    pub(super) async fn send(&mut self, head: &Parts, body: RequestBody) -> Result<Response<SiteBody>, Failed> {
        match self.line.exchange(head, body).await {
            Ok(response) => Ok(response.map(SiteBody::H1)),
            Err(client::SendError::Unsent(body, fault)) => Err(Failed::Unsent(body, fault)),
            Err(client::SendError::Sent(fault)) => Err(Failed::Sent(fault)),
        }
    }
}

/// A connection while it carries an exchange.
pub(super) struct Carrier {
    connection: Option<Connection>,
    /// The site may still be reading the upload after its response is complete.
    progress: Progress,
    /// The response was read to its end.
    is_answered: bool,
}

impl Carrier {
    pub(super) const fn new(connection: Connection, progress: Progress) -> Self {
        Self {
            connection: Some(connection),
            progress,
            is_answered: false,
        }
    }

    /// The response is complete. If it came early, the rest of the upload is still unsent and the connection cannot be
    /// reused (R228).
    pub(super) fn free(mut self) -> Option<Connection> {
        self.is_answered = true;
        self.connection.take_if(|_| self.progress.is_over())
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // The upload would go on waiting for a site that no longer reads, or for an agent that is gone.
        if let Some(connection) = &self.connection
            && !self.progress.is_over()
            && !(self.is_answered && self.progress.is_wanted())
        {
            connection.cut();
        }
    }
}

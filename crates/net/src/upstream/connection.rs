//! One connection to a site: its state, and sending a request on it.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::{UpstreamError, Version};
use crate::body::{Progress, RequestBody};

/// A connection that can carry a request now.
pub struct Connection {
    pub(super) sender: Sender,
    pub(super) address: SocketAddr,
    pub(super) reused: bool,
}

pub(super) enum Sender {
    H1(http1::SendRequest<RequestBody>, AbortHandle),
    H2(http2::SendRequest<RequestBody>),
}

/// Why there is no response, and whether the request may have arrived.
pub enum SendError {
    /// It was not sent: hyper handed it back.
    Unsent(Box<Request<RequestBody>>, UpstreamError),
    /// It was sent, at least in part.
    Sent(UpstreamError),
}

impl Connection {
    pub fn version(&self) -> Version {
        match self.sender {
            Sender::H1(..) => Version::H1,
            Sender::H2(_) => Version::H2,
        }
    }

    /// Closes an h1 connection in the middle of an exchange; on h2 dropping the stream is enough.
    fn cut(&self) {
        if let Sender::H1(_, driving) = &self.sender {
            driving.abort();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::H1(sender, _) => sender.is_closed(),
            Sender::H2(sender) => sender.is_closed(),
        }
    }

    /// Whether an exchange failed because the connection was lost, as a reused one may be, and not because of a
    /// malformed response or a stream reset.
    pub(super) fn was_lost(&self, error: &UpstreamError) -> bool {
        let UpstreamError::Broken(error) = error else {
            return false;
        };
        match &self.sender {
            Sender::H1(..) => !error.is_parse(),
            Sender::H2(sender) => sender.is_closed(),
        }
    }

    /// Called before every send on a reused connection: right after the last body byte even a healthy one is not ready
    /// yet. One that does not become ready soon still has bytes of an earlier request to send, and is abandoned.
    pub(super) async fn ready(&mut self) -> bool {
        const SOON: Duration = Duration::from_millis(100);
        let ready = async {
            match &mut self.sender {
                Sender::H1(sender, _) => sender.ready().await,
                Sender::H2(sender) => sender.ready().await,
            }
        };
        matches!(timeout(SOON, ready).await, Ok(Ok(())))
    }

    pub(super) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let sent = match &mut self.sender {
            Sender::H1(sender, _) => sender.try_send_request(request).await,
            Sender::H2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| {
            let unsent = error.take_message();
            let cause = UpstreamError::Broken(error.into_error());
            match unsent {
                Some(request) => SendError::Unsent(Box::new(request), cause),
                None => SendError::Sent(cause),
            }
        })
    }
}

/// An h1 connection while it carries an exchange.
pub(super) struct Carrier {
    pub(super) connection: Option<Connection>,
    pub(super) progress: Progress,
    /// The status was a success, so the site may still be reading the upload after its response is complete.
    pub(super) wanted: bool,
}

impl Carrier {
    /// The response is complete. If it came early, the rest of the upload is still unsent and the connection cannot be
    /// reused (R228).
    pub(super) fn free(mut self) -> Option<Connection> {
        self.connection.take_if(|_| self.progress.is_over())
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // hyper would go on waiting for a site that no longer reads.
        if let Some(connection) = &self.connection
            && !self.progress.is_over()
            && !self.wanted
        {
            connection.cut();
        }
    }
}

impl SendError {
    pub fn into_error(self) -> UpstreamError {
        match self {
            Self::Unsent(_, error) | Self::Sent(error) => error,
        }
    }
}

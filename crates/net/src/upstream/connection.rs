//! One connection to a site: its state, and sending a request on it.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http2;
use tokio::time::timeout;

use super::{UpstreamError, Version};
use crate::body::{Progress, RequestBody, SiteBody};
use crate::h1::{self, Stream};

/// A connection that can carry a request now.
pub struct Connection {
    pub(super) sender: Sender,
    pub(super) address: SocketAddr,
    pub(super) reused: bool,
}

pub(super) enum Sender {
    H1(h1::client::Connection),
    H2(http2::SendRequest<RequestBody>),
}

/// Why there is no response, and whether the request may have arrived.
pub enum SendError {
    /// Nothing of it was sent.
    Unsent(Box<Request<RequestBody>>, UpstreamError),
    /// It was sent, at least in part.
    Sent(UpstreamError),
}

impl Connection {
    pub(super) fn h1(stream: impl Stream, address: SocketAddr) -> Self {
        Self {
            sender: Sender::H1(h1::client::Connection::new(stream)),
            address,
            reused: false,
        }
    }

    pub fn version(&self) -> Version {
        match self.sender {
            Sender::H1(_) => Version::H1,
            Sender::H2(_) => Version::H2,
        }
    }

    /// Closes an h1 connection in the middle of an exchange; on h2 dropping the stream is enough.
    fn cut(&self) {
        if let Sender::H1(connection) = &self.sender {
            connection.cut();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::H1(connection) => connection.is_closed(),
            Sender::H2(sender) => sender.is_closed(),
        }
    }

    /// Whether an exchange failed because the connection was lost, as a reused one may be, and not because of a
    /// malformed response or a stream reset.
    pub(super) fn was_lost(&self, error: &UpstreamError) -> bool {
        match (error, &self.sender) {
            (UpstreamError::H1(fault), _) => fault.is_loss(),
            (UpstreamError::Broken(_), Sender::H2(sender)) => sender.is_closed(),
            _ => false,
        }
    }

    /// Called before every send on a reused connection: right after the last body byte even a healthy one is not ready
    /// yet. One that does not become ready soon still has bytes of an earlier request to send, and is abandoned.
    pub(super) async fn ready(&mut self) -> bool {
        const SOON: Duration = Duration::from_millis(100);
        let ready = async {
            match &mut self.sender {
                Sender::H1(connection) => connection.ready().await,
                Sender::H2(sender) => sender.ready().await.is_ok(),
            }
        };
        matches!(timeout(SOON, ready).await, Ok(true))
    }

    pub(super) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<SiteBody>, SendError> {
        match &mut self.sender {
            Sender::H1(connection) => match connection.send(request).await {
                Ok(response) => Ok(response.map(SiteBody::H1)),
                Err(h1::client::SendError::Unsent(request, fault)) => {
                    Err(SendError::Unsent(request, UpstreamError::H1(fault)))
                }
                Err(h1::client::SendError::Sent(fault)) => Err(SendError::Sent(UpstreamError::H1(fault))),
            },
            Sender::H2(sender) => match sender.try_send_request(request).await {
                Ok(response) => Ok(response.map(SiteBody::H2)),
                Err(mut error) => {
                    let unsent = error.take_message();
                    let cause = UpstreamError::Broken(error.into_error());
                    Err(match unsent {
                        Some(request) => SendError::Unsent(Box::new(request), cause),
                        None => SendError::Sent(cause),
                    })
                }
            },
        }
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
        // The upload would go on waiting for a site that no longer reads.
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

//! One connection to a site, and what it does with a request.

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

/// What became of a request.
pub enum SendError {
    /// It never left: hyper gave it back.
    Unsent(Box<Request<RequestBody>>, UpstreamError),
    /// It left, at least in part.
    Sent(UpstreamError),
}

impl Connection {
    pub fn version(&self) -> Version {
        match self.sender {
            Sender::H1(..) => Version::H1,
            Sender::H2(_) => Version::H2,
        }
    }

    /// Ends an h1 connection in the middle of an exchange; on h2 only the stream ends, and by itself.
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

    /// Whether an exchange failed because the connection went, as a kept one may; a bad answer or a stream that was
    /// reset is another matter.
    pub(super) fn was_lost(&self, error: &UpstreamError) -> bool {
        let UpstreamError::Broken(error) = error else {
            return false;
        };
        match &self.sender {
            Sender::H1(..) => !error.is_parse(),
            Sender::H2(sender) => sender.is_closed(),
        }
    }

    /// Always before a send: right after the last body byte even a healthy connection is not ready yet. One that does not
    /// become ready soon still owes bytes of an earlier request, and is given up.
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
    /// The site has said yes, so it may still be reading an upload when its answer is through.
    pub(super) wanted: bool,
}

impl Carrier {
    /// The answer is through. After an early one the connection still owes the rest of the upload and cannot be used
    /// again (R228).
    pub(super) fn free(mut self) -> Option<Connection> {
        self.connection.take_if(|_| self.progress.is_over())
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // hyper would wait for a site that does not read to take the rest.
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

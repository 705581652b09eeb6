//! One HTTP/1.1 connection to a site: its state, and sending a request on it. All use of the HTTP/1.1 client is here.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::{HEAD_BYTES, HEAD_FIELDS};
use crate::body::{Progress, RequestBody};

/// A connection that carries one request at a time.
pub(super) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    driving: AbortHandle,
    /// Resolves when the connection has ended.
    ended: oneshot::Receiver<Infallible>,
    pub(super) address: SocketAddr,
    pub(super) use_so_far: Use,
    /// An agent has logged in on it: it is for one tunnel only.
    pub(super) is_bound: bool,
    /// The tunnel that has it is woken when it ends.
    pub(super) is_watched: bool,
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
    /// It was not sent: hyper handed it back.
    Unsent(Box<Request<RequestBody>>, hyper::Error),
    /// It was sent, at least in part.
    Sent(hyper::Error),
}

impl Connection {
    pub(super) async fn set_up<S>(stream: S, address: SocketAddr) -> Result<Self, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_headers(HEAD_FIELDS)
            .max_header_size(HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        let (ending, ended) = oneshot::channel();
        let driving = tokio::spawn(async move {
            // Dropped when the connection is: whoever sees the end finds it closed.
            let _ending = ending;
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Self {
            sender,
            driving: driving.abort_handle(),
            ended,
            address,
            use_so_far: Use::Nothing,
            is_bound: false,
            is_watched: false,
        })
    }

    /// Closes it in the middle of an exchange.
    fn cut(&self) {
        self.driving.abort();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Ready when the site has closed it. Not to be called again after that.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.ended).poll(cx).map(|_| ())
    }

    /// Called before every send: right after the last body byte even a healthy connection is not ready yet. One that
    /// does not become ready soon still has bytes of an earlier request to send, and is abandoned.
    pub(super) async fn ready(&mut self) -> bool {
        const SOON: Duration = Duration::from_millis(100);
        matches!(timeout(SOON, self.sender.ready()).await, Ok(Ok(())))
    }

    pub(super) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, Failed> {
        self.sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message();
            let cause = error.into_error();
            match unsent {
                Some(request) => Failed::Unsent(Box::new(request), cause),
                None => Failed::Sent(cause),
            }
        })
    }
}

/// Whether the connection was lost, as a kept one may be, and not because of a malformed response.
pub(super) fn is_loss(error: &hyper::Error) -> bool {
    !error.is_parse()
}

/// A connection while it carries an exchange.
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

//! HTTP/2 to a site. It stands on `h2` itself, because what may be sent again depends on what exactly `h2` knows of a
//! stream (R92).
//!
//! Two facts prove that the site has processed nothing of a request, and no others are taken for proof:
//!
//! * The stream's own error is a GOAWAY that the site sent. `h2` gives this error to the streams above the GOAWAY's last
//!   id only (`Inner::recv_go_away`), and streams at or below it end with the connection's own error: that of the socket,
//!   or the end of it.
//! * The stream's own error is a `RST_STREAM` with `REFUSED_STREAM` that the site sent.
//!
//! A request that `h2` does not accept was not sent: of a connection that has ended or is going away.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::HEAD_BYTES;
use crate::body::RequestBody;

/// What one stream, and one connection, may have sent before it is read.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// One HTTP/2 connection to a site. Clones are the same connection.
#[derive(Clone)]
pub(super) struct Line {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
}

struct State {
    address: SocketAddr,
    ping: tokio::sync::Mutex<Option<PingPong>>,
    /// The site has said how many streams it allows.
    is_settled: AtomicBool,
    /// Streams that are open, or about to be.
    open: AtomicUsize,
    /// It was dialled for the tunnel that has it, or has answered in that tunnel: the site has not closed it unseen.
    is_proven: AtomicBool,
    /// It has answered a request, in whatever tunnel.
    has_served: AtomicBool,
    /// An agent has logged in on it: it is for one tunnel only.
    is_bound: AtomicBool,
}

/// One stream's place on a line.
pub(super) struct Place(Arc<State>);

/// Why there is no answer.
pub(super) struct Failed {
    pub error: h2::Error,
    /// The body from its first byte, if the site has provably processed nothing and all of the body is kept.
    pub unprocessed: Option<RequestBody>,
    /// The line has ended: a request that changes nothing may be repeated.
    pub was_lost: bool,
}

impl Line {
    pub(super) async fn set_up<S>(stream: S, address: SocketAddr) -> Result<Self, h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, mut connection) = Builder::new()
            .enable_push(false)
            .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(1 << 20)
            .handshake::<_, Bytes>(stream)
            .await?;
        let ping = tokio::sync::Mutex::new(connection.ping_pong());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        let state = State {
            address,
            ping,
            is_settled: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            is_proven: AtomicBool::new(true),
            has_served: AtomicBool::new(false),
            is_bound: AtomicBool::new(false),
        };
        Ok(Self {
            sender,
            state: Arc::new(state),
        })
    }

    /// Waits until the site has said how many streams it allows, once: its settings come before its answer to a ping. A
    /// client does not have to wait for them, but the next connection must not be overrun as the last one was.
    pub(super) async fn settle(&self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        if self.is_settled() {
            return;
        }
        let mut ping = self.state.ping.lock().await;
        if let Some(pinging) = ping.as_mut() {
            let _ = timeout(PATIENCE, pinging.ping(Ping::opaque())).await;
            *ping = None;
            self.state.is_settled.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.state.is_settled.load(Ordering::Relaxed)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.state.address
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// Whether it takes no more requests: it has ended, or the site has sent GOAWAY, or it has used up its stream ids.
    pub(super) fn is_closed(&self) -> bool {
        let mut sender = self.sender.clone();
        matches!(
            sender.poll_ready(&mut Context::from_waker(Waker::noop())),
            Poll::Ready(Err(_))
        )
    }

    /// How many streams the site allows at once, as far as it has said.
    pub(super) fn most_streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    pub(super) fn has_room(&self) -> bool {
        self.open_streams() < self.most_streams()
    }

    pub(super) fn open_streams(&self) -> usize {
        self.state.open.load(Ordering::Relaxed)
    }

    pub(super) fn is_proven(&self) -> bool {
        self.state.is_proven.load(Ordering::Relaxed)
    }

    /// Another tunnel takes it over: the site may have closed it meanwhile.
    pub(super) fn doubt(&self) {
        self.state.is_proven.store(false, Ordering::Relaxed);
    }

    pub(super) fn has_served(&self) -> bool {
        self.state.has_served.load(Ordering::Relaxed)
    }

    pub(super) fn bind(&self) {
        self.state.is_bound.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_bound(&self) -> bool {
        self.state.is_bound.load(Ordering::Relaxed)
    }

    /// Taken before the request is sent, so that those who choose a line at the same time see each other.
    pub(super) fn place(&self) -> Place {
        self.state.open.fetch_add(1, Ordering::Relaxed);
        Place(self.state.clone())
    }

    pub(super) async fn send(&self, place: Place, request: Request<RequestBody>) -> Result<Response<Received>, Failed> {
        let (head, mut body) = request.into_parts();
        let is_empty = body.is_end_stream();
        let sent = {
            let mut sender = self.sender.clone();
            sender.send_request(Request::from_parts(head, ()), is_empty)
        };
        let (mut answer, stream) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                return Err(Failed {
                    error,
                    unprocessed: body.rewind(),
                    was_lost: false,
                });
            }
        };
        let place = Arc::new(place);
        let mut upload = None;
        if !is_empty {
            let body = std::mem::replace(&mut body, RequestBody::empty());
            upload = Some(Upload {
                stream,
                body,
                next: None,
            });
        }
        let mut is_uploaded = is_empty;
        let answered = poll_fn(|cx| {
            if let Some(upload) = upload.as_mut().filter(|_| !is_uploaded) {
                is_uploaded = upload.poll_all(cx).is_ready();
            }
            Pin::new(&mut answer).poll(cx)
        })
        .await;
        match answered {
            Ok(response) => {
                if let Some(upload) = upload.filter(|_| !is_uploaded) {
                    tokio::spawn(upload.finish(place.clone()));
                }
                self.state.has_served.store(true, Ordering::Relaxed);
                self.state.is_settled.store(true, Ordering::Relaxed);
                self.state.is_proven.store(true, Ordering::Relaxed);
                Ok(received(response, place))
            }
            Err(error) => {
                let body = upload.map_or(body, |upload| upload.body);
                Err(Failed {
                    unprocessed: if is_unprocessed(&error) { body.rewind() } else { None },
                    was_lost: self.is_closed(),
                    error,
                })
            }
        }
    }
}

/// See the top of this file.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM))
}

fn received(response: Response<RecvStream>, place: Arc<Place>) -> Response<Received> {
    let declared = declared_length(response.headers());
    response.map(|stream| Received {
        left: match stream.is_end_stream() {
            true => Some(declared.unwrap_or(0)),
            false => declared,
        },
        stream,
        data_is_over: false,
        _place: place,
    })
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    /// Read from the body, and not handed over yet.
    next: Option<Bytes>,
}

impl Upload {
    /// Ready when there is nothing more to send, also because the site has reset the stream.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            if self.next.is_some() {
                // No more is read than the site has room for.
                self.stream.reserve_capacity(1);
                while self.stream.capacity() == 0 {
                    match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return Poll::Ready(()),
                    }
                }
            }
            let is_last = self.body.is_end_stream();
            if let Some(data) = self.next.take()
                && (self.stream.send_data(data, is_last).is_err() || is_last)
            {
                return Poll::Ready(());
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.next = Some(data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            let _ = self.stream.send_trailers(trailers);
                            return Poll::Ready(());
                        }
                    }
                },
                None => {
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(());
                }
                // Cut off: the site must not take what it got for all of it.
                Some(Err(error)) => {
                    tracing::debug!(%error, "upload broken off");
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(());
                }
            }
        }
    }

    /// The site has answered before it had all of it.
    async fn finish(mut self, _place: Arc<Place>) {
        poll_fn(|cx| self.poll_all(cx)).await;
    }
}

/// The body of a site's answer on HTTP/2.
pub struct Received {
    stream: RecvStream,
    /// As far as the site has declared it.
    left: Option<u64>,
    data_is_over: bool,
    /// The stream is open as long as this or the upload is.
    _place: Arc<Place>,
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        if !this.data_is_over {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.data_is_over = true,
            }
        }
        let trailers = ready!(this.stream.poll_trailers(cx));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

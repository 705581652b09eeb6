//! The site's side: one request after the other on a connection, and their answers.
//!
//! An exchange runs where it is awaited: no task drives the connection, and no channel lies between. A request is
//! written and its answer read at the same time, so that an answer that comes before the upload's end is always seen,
//! also if the site closes the connection in the same moment. Only an upload that its answer overtook goes on in a task
//! of its own, so that neither side waits for the other.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderMap, Response, Version};
use http_body::Body;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::{Ending, Filled, Interims, Stream, TrailerLines, Wire};
use crate::body::BoxError;
use crate::fault::in_words;
use crate::reset::Reset;
use bursar_core::h1::{Hop, Length, Malformed, Persistence, head_length, response_length, write_request};

pub use answer::Answer;
use reading::Reading;
use upload::{Stopped, Upload};

mod answer;
mod reading;
#[cfg(test)]
mod tests;
mod upload;

/// How long a site that has rejected a request may leave the rest of its upload unread.
const UNREAD: Duration = Duration::from_secs(1);

/// A connection to a site.
pub struct Connection {
    line: Arc<Mutex<Line>>,
}

/// A connection as its exchange, its answer's body and its upload share it.
struct Line {
    wire: Wire,
    stage: Stage,
    /// Whether the connection may carry another request after this one.
    persists: bool,
    /// An upload that its answer overtook.
    uploading: Option<AbortHandle>,
    /// Who waits for the upload's end.
    waiting: Option<Waker>,
    /// Our side of it was ended in order, or that has failed.
    has_ended: bool,
    /// Who is to know when the site closes the connection between two exchanges.
    watching: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A request may be sent.
    Idle,
    /// A request was begun, and its answer has not ended.
    Exchange,
    /// No request will be sent any more.
    Over,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the site closed the connection before it had answered")]
    Closed,
    #[error("the site broke the connection off before it had answered")]
    Broken(#[source] io::Error),
    /// And the site had not answered when that was found.
    #[error("the request could not be written: {}", in_words(.0))]
    Unwritten(#[source] io::Error),
    #[error("the site sent bytes that nothing had asked for")]
    Unasked,
    #[error("the request cannot be written: {0}")]
    Request(Malformed),
    #[error("the request's body broke off: {0}")]
    Upload(BoxError),
    #[error("the answer was not read: {0}")]
    Malformed(#[from] Malformed),
    #[error("the head of the answer is too long")]
    HeadTooLong,
    #[error(
        "more than {} informational answers came before the final one",
        reading::MOST_INTERIMS
    )]
    Interims,
    #[error("the site switched protocols before it had the whole request")]
    SwitchedEarly,
}

impl Fault {
    /// Whether the connection was lost, as a kept one may be, and the site said nothing wrong.
    pub const fn is_loss(&self) -> bool {
        matches!(self, Self::Closed | Self::Broken(_) | Self::Unwritten(_))
    }

    fn of(ending: Ending, failure: Option<io::Error>) -> Self {
        match ending {
            Ending::Clean | Ending::Bare => Self::Closed,
            Ending::Broken => Self::Broken(failure.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())),
        }
    }
}

/// Why there is no answer, and whether the site may have seen the request.
#[derive(Debug)]
pub enum SendError<B> {
    /// Nothing of the request was written: the connection was of no use any more, or the request cannot be written.
    Unsent(Box<B>, Fault),
    /// At least the attempt was made. Below TLS a failed write does not say how many bytes left before it failed, so
    /// the first write already counts.
    Sent(Fault),
}

impl Connection {
    pub fn new(stream: impl Stream + 'static) -> Self {
        Self::resetting(stream, Reset::default())
    }

    /// `reset` is the handle of the socket below.
    pub fn resetting(stream: impl Stream + 'static, reset: Reset) -> Self {
        Self {
            line: Arc::new(Mutex::new(Line {
                wire: Wire::new(stream).resetting(reset),
                stage: Stage::Idle,
                persists: true,
                uploading: None,
                waiting: None,
                has_ended: false,
                watching: None,
            })),
        }
    }

    /// Sends a request and waits for the final answer's head. A future that is dropped before leaves a connection that
    /// cannot be used again.
    pub async fn exchange<B>(&mut self, head: &Parts, body: B) -> Result<Response<Answer>, SendError<B>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        if let Err(fault) = poll_fn(|cx| Poll::Ready(lock(&self.line).look(cx))).await {
            return Err(SendError::Unsent(Box::new(body), fault));
        }
        let framing = match framing(head, &body) {
            Ok(framing) => framing,
            Err(error) => return Err(SendError::Unsent(Box::new(body), Fault::Request(error))),
        };
        let interims = head.extensions.get::<Interims>().cloned();
        let trailer_lines = head.extensions.get::<TrailerLines>().cloned();
        {
            let mut line = lock(&self.line);
            line.stage = Stage::Exchange;
            let hop = Hop {
                framing,
                connection: head
                    .extensions
                    .get()
                    .copied()
                    .filter(|said| *said == Persistence::KeepAlive),
            };
            write_request(head, hop, line.wire.output());
        }
        let mut upload = Some(Upload::new(body, framing, trailer_lines));
        let mut reading = Reading::new(interims);
        let (response, unwritten) = poll_fn(|cx| self.poll_exchange(&mut upload, &mut reading, cx))
            .await
            .map_err(|fault| {
                lock(&self.line).end();
                SendError::Sent(fault)
            })?;
        let length = response_length(&head.method, &response).map_err(|error| {
            lock(&self.line).end();
            SendError::Sent(Fault::Malformed(error))
        })?;
        let switches = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        // An old client that did not ask for it to stay does not expect it to.
        let asked = head.version != Version::HTTP_10 || head.extensions.get() == Some(&Persistence::KeepAlive);
        let has_end = length != Length::UntilClose && !switches && asked;
        lock(&self.line).persists = has_end && !unwritten && says_it_persists(&response);
        if let Some(upload) = upload {
            if switches {
                lock(&self.line).end();
                return Err(SendError::Sent(Fault::SwitchedEarly));
            }
            self.go_on(upload, response.status().is_success());
        }
        Ok(response.map(|()| Answer::new(self.line.clone(), length)))
    }

    /// Writes and reads until the answer's head is there; whether writing failed meanwhile comes with it. A site that
    /// has answered may have closed its end already: then the write fails, and the answer waits to be read.
    fn poll_exchange<B>(
        &self,
        upload: &mut Option<Upload<B>>,
        reading: &mut Reading,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response<()>, bool), Fault>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        // An upload that never has to wait would use up what the task may do at once, and its answer would be seen last.
        // Nothing is read before the head is written, though: that would be the answer to something else.
        let is_first = !std::mem::replace(&mut reading.has_begun, true);
        if !is_first && let Poll::Ready(read) = reading.poll(&self.line, cx) {
            return Poll::Ready(read);
        }
        let Some(writing) = upload else {
            return Poll::Pending;
        };
        match writing.poll(&self.line, cx) {
            Poll::Pending if !is_first => return Poll::Pending,
            Poll::Pending => {}
            Poll::Ready(Ok(())) => *upload = None,
            Poll::Ready(Err(Stopped::Source(error))) => return Poll::Ready(Err(Fault::Upload(error))),
            Poll::Ready(Err(Stopped::Site(error))) => {
                *upload = None;
                reading.unwritten = Some(error);
            }
        }
        reading.poll(&self.line, cx)
    }

    /// The rest of an upload whose answer has begun. A site that has agreed may read it whenever it likes. One that has
    /// not, and reads no more, does not get it: the agent may have to be rid of it before it reads the answer (R228).
    fn go_on<B>(&self, mut upload: Upload<B>, agreed: bool)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        // The task sets it back under the same lock, so not before it is set.
        let mut ours = lock(&self.line);
        let line = self.line.clone();
        let task = tokio::spawn(async move {
            let sent = {
                let mut sending = pin!(poll_fn(|cx| upload.poll(&line, cx)));
                loop {
                    let before = lock(&line).wire.sent();
                    match timeout(UNREAD, sending.as_mut()).await {
                        Ok(sent) => break sent,
                        Err(_) if !agreed && lock(&line).wire.is_stuck_since(before) => {
                            break Err(Stopped::Site(io::ErrorKind::TimedOut.into()));
                        }
                        Err(_) => {}
                    }
                }
            };
            drop(upload);
            if let Err(Stopped::Source(_)) = sent {
                // The site must not wait for the rest, nor take what it has for all of it. Its answer may go on.
                let _ = poll_fn(|cx| lock(&line).wire.poll_shutdown(cx)).await;
            }
            lock(&line).uploaded(sent.is_ok());
        });
        ours.uploading = Some(task.abort_handle());
    }

    /// Closes the connection in the middle of an exchange, also for an upload that goes on. Its answer may be kept for
    /// long after it has ended, and must not keep the socket.
    pub fn cut(&self) {
        let mut line = lock(&self.line);
        if let Some(upload) = line.uploading.take() {
            upload.abort();
        }
        line.wire.cut();
        line.end();
    }

    /// Waits until what is left of an upload is written. Whether a request may be sent then.
    pub async fn ready(&mut self) -> bool {
        poll_fn(|cx| {
            let mut line = lock(&self.line);
            if line.uploading.is_some() {
                line.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(line.look(cx).is_ok())
        })
        .await
    }

    /// Whether no further request can be sent. Does not disturb somebody who waits in [`Connection::closed`].
    pub fn is_closed(&self) -> bool {
        let mut line = lock(&self.line);
        if line.uploading.is_some() {
            return line.stage == Stage::Over;
        }
        line.look_for_watcher().is_err()
    }

    /// Resolves when the site has closed the connection between two exchanges, or has made it useless otherwise. Once it
    /// was polled, it is woken by what happens after later exchanges, too.
    pub async fn closed(&self) {
        poll_fn(|cx| self.poll_closed(cx)).await;
    }

    pub fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut line = lock(&self.line);
        match &mut line.watching {
            Some(watching) => watching.clone_from(cx.waker()),
            None => line.watching = Some(cx.waker().clone()),
        }
        if line.stage == Stage::Exchange || line.uploading.is_some() {
            return Poll::Pending;
        }
        match line.look(cx) {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(()),
        }
    }
}

impl Line {
    /// Looks whether the site has closed a connection that carries nothing, or has said something unasked, such as a
    /// 408 before it closes.
    fn look(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        if self.stage != Stage::Idle || self.uploading.is_some() {
            return Err(Fault::Closed);
        }
        let fault = match self.wire.poll_quiet(cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Filled::Ended(ending)) => Fault::of(ending, self.wire.take_failure()),
            Poll::Ready(Filled::More) => Fault::Unasked,
        };
        self.end();
        Err(fault)
    }

    /// The task that watches the connection is woken by what is found later.
    fn look_for_watcher(&mut self) -> Result<(), Fault> {
        let waker = self.watching.clone();
        self.look(&mut Context::from_waker(waker.as_ref().unwrap_or(Waker::noop())))
    }

    /// The answer has ended by its own framing. Bytes behind it belong to no request: nothing after them can be trusted.
    fn answered(&mut self) {
        self.stage = match self.persists && self.wire.input.is_empty() {
            true => Stage::Idle,
            false => Stage::Over,
        };
        self.wire.rest();
        self.watch_on();
    }

    /// Ends our side in order while an answer arrives.
    fn end_requests(&mut self, cx: &mut Context<'_>) {
        self.persists = false;
        if self.uploading.is_some() {
            self.waiting = Some(cx.waker().clone());
        } else if !self.has_ended {
            // If it fails, the answer's next read says so.
            self.has_ended = self.wire.poll_flush(cx).is_ready() && self.wire.poll_shutdown(cx).is_ready();
        }
    }

    fn uploaded(&mut self, whole: bool) {
        self.uploading = None;
        if !whole {
            self.persists = false;
            if self.stage == Stage::Idle {
                self.stage = Stage::Over;
            }
        }
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        self.watch_on();
    }

    /// An exchange or its upload is over: reading is the watcher's again.
    fn watch_on(&mut self) {
        let may_be_watched = self.watching.is_some() && self.uploading.is_none() && self.stage != Stage::Exchange;
        if may_be_watched && self.look_for_watcher().is_err() {
            self.end();
        }
    }

    fn end(&mut self) {
        self.stage = Stage::Over;
        self.persists = false;
        for waker in [self.waiting.take(), self.watching.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

// Nothing panics while the lock is held; if it did, the stage would still say that the exchange has not ended.
fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the request's body is framed: as the agent said, or as it is known here. Trailers need chunks.
fn framing<B: Body>(head: &Parts, body: &B) -> Result<Length, Malformed> {
    let declared = head_length(head.version, &head.headers)?;
    match declared {
        Length::Empty if body.is_end_stream() => Ok(Length::Empty),
        Length::Empty => Ok(body.size_hint().exact().map_or(Length::Chunked, Length::Known)),
        declared => Ok(declared),
    }
}

/// RFC 9112 §9.3.
fn says_it_persists<B>(response: &Response<B>) -> bool {
    match response.version() {
        Version::HTTP_11 => !has_option(response.headers(), b"close"),
        _ => has_option(response.headers(), b"keep-alive") && !has_option(response.headers(), b"close"),
    }
}

fn has_option(headers: &HeaderMap, option: &[u8]) -> bool {
    let lines = headers.get_all(CONNECTION).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|one| one.trim_ascii().eq_ignore_ascii_case(option))
}

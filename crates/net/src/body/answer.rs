//! Response bodies for the agent: one that bursar wrote, or the site's as it streams.

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, Sleep};

use super::piece::{Left, Piece};
use super::{BoxError, SiteBody, SiteError, Uploading};
use crate::h1::upgrade::Upgraded;
use crate::h1::{BodyError, Ending};
use crate::idle::{Serving, Written};
use crate::reset::Reset;
use bursar_core::h1::{self, Lines};
use bursar_core::hop::{self, Presented};

/// The body of a response to the agent.
pub struct AnswerBody {
    content: Content,
    serving: Option<Serving>,
    /// What of it is not sent yet, if somebody wants to know when all of it is.
    left: Option<Arc<Left>>,
}

enum Content {
    Full(Full<Bytes>),
    /// Boxed: it is large, and a response is moved several times on its way to hyper.
    Relay(Box<Relay>),
}

impl AnswerBody {
    pub fn full(bytes: Bytes) -> Self {
        Content::Full(Full::new(bytes)).into()
    }

    /// The agent's connection counts as busy until the last byte of this body is handed over.
    pub fn while_serving(mut self, serving: Serving) -> Self {
        self.serving = Some(serving);
        // An empty body is never polled: its head is written next.
        self.announce_end();
        self
    }

    /// The end of the body was handed over. It is delivered once all of it is written to the socket.
    fn announce_end(&mut self) {
        if let (Content::Relay(relay), Some(left), Some(serving)) = (&mut self.content, &self.left, &self.serving)
            && let Some(delivered) = relay.due.take()
        {
            left.end(delivered, serving.clone());
        }
    }

    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// What ends it where it comes from.
    pub(crate) const fn framing(&self) -> Framing {
        match &self.content {
            Content::Full(_) => Framing::Own,
            Content::Relay(relay) => relay.framing,
        }
    }

    /// How the site's connection ended, if this is the site's answer and ended with it: the agent's is to end so too.
    pub const fn ending(&self) -> Option<Ending> {
        match &self.content {
            Content::Full(_) => None,
            Content::Relay(relay) => relay.rest.ending(),
        }
    }

    /// Called while this is sent to an agent that has ended its side in order: the site sees that, as it would without
    /// us, and may stop a stream that nobody reads. What was bought is not disturbed.
    pub(crate) fn agent_ended(&self, cx: &mut Context<'_>) {
        if let Content::Relay(relay) = &self.content
            && relay.delivered.is_none()
            && !relay.rest.is_end_stream()
        {
            relay.rest.end_request(cx);
        }
    }

    /// The trailers as the site wrote them, once they have arrived.
    pub const fn trailer_lines(&self) -> Option<&Lines> {
        match &self.content {
            Content::Full(_) => None,
            Content::Relay(relay) => relay.rest.trailer_lines(),
        }
    }
}

impl From<Content> for AnswerBody {
    fn from(content: Content) -> Self {
        Self {
            content,
            serving: None,
            left: None,
        }
    }
}

impl From<Relay> for AnswerBody {
    fn from(relay: Relay) -> Self {
        let is_awaited = relay.delivered.is_some() || relay.due.is_some();
        Self {
            left: is_awaited.then(Arc::default),
            ..Content::Relay(Box::new(relay)).into()
        }
    }
}

impl Body for AnswerBody {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let this = self.get_mut();
        let polled = match &mut this.content {
            Content::Full(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Content::Relay(body) => Pin::new(body).poll_frame(cx),
        };
        // The last piece is counted before the end is announced.
        let piece = |bytes| Piece::new(bytes, this.left.as_ref());
        let polled = polled.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(piece))));
        this.announce_end();
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(body) => body.is_end_stream(),
            Content::Relay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(body) => body.size_hint(),
            Content::Relay(body) => body.size_hint(),
        }
    }
}

/// The site's response as it arrives: first the bytes that were read to look for a challenge, then the stream.
pub struct Relay {
    read: Option<Bytes>,
    /// What reading ahead found after the data: trailers, or an error, which must reach the agent as such.
    after: Option<Result<Frame<Bytes>, SiteError>>,
    rest: SiteBody,
    framing: Framing,
    idle: Duration,
    /// Created when the stream first has to wait; most responses never need it.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// Called when the stream has ended cleanly: returns the connection to its tunnel.
    at_end: Option<Box<dyn FnOnce() + Send>>,
    uploading: Option<Uploading>,
    /// The credential that this answers, which trailers must not repeat.
    presented: Option<Presented>,
    /// Called when all of it has been written to the agent; dropped uncalled if the agent does not take all of it.
    delivered: Option<Written>,
    /// The same, once all of it has been handed over.
    due: Option<Written>,
}

impl Relay {
    pub fn new(rest: SiteBody, framing: Framing, idle: Duration, at_end: Option<Box<dyn FnOnce() + Send>>) -> Self {
        let mut relay = Self {
            read: None,
            after: None,
            rest,
            framing,
            idle,
            timer: None,
            waiting: false,
            at_end,
            uploading: None,
            presented: None,
            delivered: None,
            due: None,
        };
        relay.finish_if_ended();
        relay
    }

    /// Keeps the request's upload, which may still be in progress, alive until this response has ended.
    pub fn hold(&mut self, uploading: Uploading) {
        if !self.rest.is_end_stream() {
            self.uploading = Some(uploading);
        }
    }

    /// What the site's connection has become, after `101 Switching Protocols`. The first caller gets it.
    pub fn switched(&self) -> Option<(Upgraded, Reset)> {
        self.rest.switched()
    }

    /// Removes trailers that repeat this credential, as the head's fields were removed (R35).
    pub fn withhold(&mut self, presented: Presented) {
        self.presented = Some(presented);
    }

    /// `delivered` is called when the last of this has been written to the agent's connection, and dropped uncalled
    /// otherwise.
    pub fn when_delivered(&mut self, delivered: Written) {
        match self.is_end_stream() {
            true => self.due = Some(delivered),
            false => self.delivered = Some(delivered),
        }
    }

    /// Puts back the bytes that were read ahead.
    pub fn unread(&mut self, read: Bytes) {
        self.read = Some(read).filter(|read| !read.is_empty());
    }

    /// Reads from the beginning, for at most `patience`, and stops at the first frame that exceeds `cap` bytes. It can
    /// be repeated once the bytes are put back with [`Relay::unread`].
    pub async fn read_up_to(&mut self, cap: usize, patience: Duration) -> (Bytes, ReadEnd) {
        let mut read = BytesMut::from(self.read.take().unwrap_or_default());
        let reading = async {
            loop {
                if read.len() > cap {
                    return ReadEnd::TooLong;
                }
                match self.rest.frame().await {
                    None => return ReadEnd::Whole,
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => read.extend_from_slice(&data),
                        Err(trailers) => self.after = Some(Ok(trailers)),
                    },
                    Some(Err(error)) => {
                        self.after = Some(Err(error));
                        return ReadEnd::Broken;
                    }
                }
            }
        };
        let end = tokio::time::timeout(patience, reading).await.unwrap_or(ReadEnd::Late);
        // Of a chunked body only the stream's `None` says that it has ended.
        if end == ReadEnd::Whole {
            self.finish();
        }
        (read.freeze(), end)
    }

    /// Trailers without what no trailer may say.
    fn cleaned(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(mut trailers) => {
                hop::strip_trailers(&mut trailers);
                if let Some(presented) = &self.presented {
                    presented.remove_echoes(&mut trailers);
                }
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }

    /// Many sites end such an answer by closing the socket, without TLS's `close_notify`. What was bought counts as
    /// whole then (R94): cut off, it would be asked for again, and either paid twice or never had. An agent that bought
    /// nothing sees the missing end as it would without us.
    fn is_whole_despite(&self, error: &SiteError) -> bool {
        self.framing == Framing::UntilClose
            && self.delivered.is_some()
            && matches!(error, SiteError::H1(BodyError::Ended(Ending::Bare)))
    }

    /// Nothing follows trailers, and hyper's server does not ask for what follows them.
    fn finish_if_last<E>(&mut self, frame: &Result<Frame<Bytes>, E>) {
        match frame {
            Ok(frame) if frame.is_trailers() => self.finish(),
            _ => self.finish_if_ended(),
        }
    }

    fn finish_if_ended(&mut self) {
        if self.rest.is_end_stream() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end();
        }
        self.uploading = None;
        if let Some(delivered) = self.delivered.take() {
            self.due = Some(delivered);
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + idle);
        }
        timer.as_mut().poll(cx)
    }
}

/// What ends a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A length, a last chunk or `END_STREAM`.
    Own,
    /// The end of the connection (RFC 9112 §6.3).
    UntilClose,
}

impl Framing {
    pub fn of<B>(response: &http::Response<B>) -> Self {
        // Of an answer that has a body at all.
        let own = response.version() >= http::Version::HTTP_2
            || h1::response_length(&http::Method::GET, response) != Ok(h1::Length::UntilClose);
        if own { Self::Own } else { Self::UntilClose }
    }
}

/// How reading ahead ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    Whole,
    TooLong,
    Late,
    Broken,
}

impl Body for Relay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(read) = this.read.take() {
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        if let Some(after) = this.after.take() {
            this.finish_if_last(&after);
            return Poll::Ready(Some(after.map(|frame| this.cleaned(frame)).map_err(Into::into)));
        }
        match Pin::new(&mut this.rest).poll_frame(cx) {
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) if this.is_whole_despite(&error) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => {
                this.waiting = false;
                this.finish_if_last(&frame);
                Poll::Ready(Some(frame.map(|frame| this.cleaned(frame)).map_err(Into::into)))
            }
            Poll::Pending => this
                .poll_idle(cx)
                .map(|()| Some(Err("the site stopped sending: idle timeout".into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.after.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.rest.size_hint();
        let read = self.read.as_ref().map_or(0, |read| read.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + read);
        }
        hint.set_lower(hint.lower() + read);
        hint
    }
}

//! One connection: its stream, what was read ahead, and what is still to be written.

use std::any::Any;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::Ending;
use super::upgrade::Upgrade;
use crate::idle::{Rewind, Serving};
use crate::reset::Reset;
use bursar_core::h1::Decoder;

/// Room for one read: heads and small bodies first, more while reads fill it.
const LEAST: usize = 4 << 10;
const MOST: usize = 64 << 10;
/// Larger pieces are written from where they are; smaller ones are copied behind one another.
const WORTH_A_SLICE: usize = 2 << 10;
const SLICES: usize = 16;

/// Anything that bytes go over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// For who knows what it is and wants it back.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// A wire that its connection's loop and the body that is being read from it use in turn. Both normally run in one
/// task, so the lock is free; it is never held while anything is awaited.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Wire>>);

impl Shared {
    pub fn new(wire: Wire) -> Self {
        Self(Arc::new(Mutex::new(wire)))
    }

    // A panic under the lock leaves a connection that at worst ends too early.
    pub fn lock(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Wire {
    /// `None` once it was taken for another protocol.
    stream: Option<Box<dyn Stream>>,
    /// What was read and not yet used.
    pub input: BytesMut,
    /// How often something was read.
    reads: u64,
    /// Room for the next read.
    room: usize,
    ended: Option<Ending>,
    /// What reading failed with, which may be an alert of TLS that says why.
    failure: Option<io::Error>,
    output: Output,
    body: Body,
    /// The connection's loop, while it waits for something that a body or another task does.
    owner: Option<Waker>,
    reader: Option<Waker>,
    pub(super) agent: Agent,
    reset: Reset,
}

/// What has become of the body of the message that was read last.
enum Body {
    /// All of it was read, or there was none.
    Read,
    /// An [`super::Incoming`] reads it.
    Reading,
    /// Dropped before its end.
    Left {
        rest: Decoder,
        /// It counts for its agent until it is read or given up.
        _serving: Option<Serving>,
    },
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    More,
    Ended(Ending),
}

impl Wire {
    pub fn new(stream: impl Stream) -> Self {
        Self::with(Box::new(stream), BytesMut::new())
    }

    /// `input` was read from the stream already.
    pub fn with(stream: Box<dyn Stream>, input: BytesMut) -> Self {
        Self {
            stream: Some(stream),
            input,
            reads: 0,
            room: LEAST,
            ended: None,
            failure: None,
            output: Output::default(),
            body: Body::Read,
            owner: None,
            reader: None,
            agent: Agent::default(),
            reset: Reset::default(),
        }
    }

    /// `reset` is the handle of the socket below.
    #[must_use]
    pub fn resetting(self, reset: Reset) -> Self {
        Self { reset, ..self }
    }

    /// For a connection that goes on as another protocol.
    pub(super) fn reset(&self) -> Reset {
        self.reset.clone()
    }

    /// Reads once.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Filled> {
        if let Some(ended) = self.ended {
            return Poll::Ready(Filled::Ended(ended));
        }
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Filled::Ended(Ending::Broken));
        };
        if self.input.capacity() - self.input.len() < self.room {
            self.input.reserve(self.room);
        }
        let room = self.input.capacity() - self.input.len();
        // Safe to drop and to make again: it holds nothing between two polls.
        let ended = match ready!(pin!(stream.read_buf(&mut self.input)).poll(cx)) {
            Ok(0) => Ending::Clean,
            Ok(count) => {
                self.reads = self.reads.wrapping_add(1);
                self.room = match count {
                    _ if count == room => (self.room * 2).min(MOST),
                    _ if count < self.room / 4 => (self.room / 2).max(LEAST),
                    _ => self.room,
                };
                return Poll::Ready(Filled::More);
            }
            Err(error) => {
                let ended = Ending::of(&error);
                self.failure = Some(error);
                ended
            }
        };
        self.ended = Some(ended);
        Poll::Ready(Filled::Ended(ended))
    }

    /// Changes while an upload moves.
    pub(super) const fn reads(&self) -> u64 {
        self.reads
    }

    /// Reads on a connection on which nothing should arrive: whether anything did, or the stream has ended. Needs no
    /// buffer while it waits, as most connections do.
    pub(super) fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<Filled> {
        if !self.input.is_empty() {
            return Poll::Ready(Filled::More);
        }
        if let Some(ended) = self.ended {
            return Poll::Ready(Filled::Ended(ended));
        }
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Filled::Ended(Ending::Broken));
        };
        let mut few = [0; 16];
        let mut few = ReadBuf::new(&mut few);
        let ended = match ready!(Pin::new(stream).poll_read(cx, &mut few)) {
            Ok(()) if few.filled().is_empty() => Ending::Clean,
            Ok(()) => {
                self.input.extend_from_slice(few.filled());
                return Poll::Ready(Filled::More);
            }
            Err(error) => {
                let ended = Ending::of(&error);
                self.failure = Some(error);
                ended
            }
        };
        self.ended = Some(ended);
        Poll::Ready(Filled::Ended(ended))
    }

    /// What reading failed with, the first time that it is asked for.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// How the other side's bytes ended, if they have.
    pub const fn ended(&self) -> Option<Ending> {
        self.ended
    }

    /// Whether the other side has ended its side in order, after a whole message that was the last.
    pub(super) fn has_said_all(&self) -> bool {
        self.ended == Some(Ending::Clean) && self.is_read() && self.input.is_empty() && self.agent.needed == 0
    }

    /// Where heads, chunk sizes and other small things are written; sent by the next [`Wire::poll_flush`].
    pub fn output(&mut self) -> &mut BytesMut {
        self.output.due = true;
        &mut self.output.small
    }

    /// Sent after what was written before it, without being copied if it is large.
    pub fn write(&mut self, bytes: Bytes) {
        self.output.due = true;
        if bytes.len() < WORTH_A_SLICE {
            return self.output.small.extend_from_slice(&bytes);
        }
        if !self.output.small.is_empty() {
            let before = self.output.small.split().freeze();
            self.output.queue.push_back(before);
        }
        self.output.queue.push_back(bytes);
    }

    /// Bytes that were written here and that the stream has not taken.
    pub fn unwritten(&self) -> usize {
        self.output.len()
    }

    /// Whether enough waits to be written that no more should be added.
    pub fn is_full(&self) -> bool {
        self.output.len() >= MOST || self.output.queue.len() >= SLICES - 2
    }

    /// How many bytes the stream has taken.
    pub(super) const fn sent(&self) -> u64 {
        self.output.sent
    }

    /// Whether something waits to be sent, and nothing was since `sent` bytes were.
    pub(super) const fn is_stuck_since(&self, sent: u64) -> bool {
        self.output.due && self.output.sent == sent
    }

    /// Hands everything over to the kernel.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.output.due {
            return Poll::Ready(Ok(()));
        }
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        while self.output.len() > 0 {
            let count = ready!(self.output.poll_write(stream, cx))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(count);
        }
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.output.due = false;
        Poll::Ready(Ok(()))
    }

    /// Ends our side: `close_notify` and FIN.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream.as_mut() {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Ends the connection at once. TLS says no `close_notify`.
    pub fn cut(&mut self) {
        self.stream = None;
        self.ended.get_or_insert(Ending::Broken);
        self.output = Output::default();
        self.wake_owner();
        // A socket that is closed wakes nobody who reads from it.
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Who waits for the next part of the body, perhaps in a task of its own.
    pub(super) fn read_by(&mut self, cx: &Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            None => self.reader = Some(cx.waker().clone()),
        }
    }

    /// Ends the connection as one that is broken, so that nobody takes what it carried for whole.
    pub(super) fn break_off(&mut self) {
        self.reset.on_close();
        self.cut();
    }

    /// Gives memory back; called while the connection rests.
    pub fn rest(&mut self) {
        self.room = LEAST;
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = BytesMut::new();
        }
        if self.output.len() == 0 && self.output.small.capacity() > 0 {
            self.output = Output {
                due: self.output.due,
                sent: self.output.sent,
                ..Output::default()
            };
        }
    }

    /// For another protocol: the stream, with what was read ahead in front of it.
    pub fn take_stream(&mut self) -> Option<Rewind<Box<dyn Stream>>> {
        let stream = self.stream.take()?;
        self.ended.get_or_insert(Ending::Broken);
        Some(Rewind::new(std::mem::take(&mut self.input).freeze(), stream))
    }

    /// The loop of the connection is woken when a body is done with, and by [`Wire::wake_owner`].
    pub fn own(&mut self, cx: &Context<'_>) {
        match &mut self.owner {
            Some(owner) => owner.clone_from(cx.waker()),
            None => self.owner = Some(cx.waker().clone()),
        }
    }

    /// The loop looks by itself, so that a body which it polls need not wake it.
    pub fn disown(&mut self) {
        self.owner = None;
    }

    pub fn wake_owner(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
    }

    /// Whether an [`super::Incoming`] may still read from this wire.
    pub const fn is_being_read(&self) -> bool {
        matches!(self.body, Body::Reading)
    }

    /// Whether the last message was read to its end.
    pub const fn is_read(&self) -> bool {
        matches!(self.body, Body::Read)
    }

    pub(super) fn begin_body(&mut self) {
        self.body = Body::Reading;
    }

    pub(super) fn end_body(&mut self) {
        self.body = Body::Read;
        self.wake_owner();
    }

    pub(super) fn leave_body(&mut self, rest: Decoder, serving: Option<Serving>) {
        self.body = Body::Left {
            rest,
            _serving: serving,
        };
        self.wake_owner();
    }

    /// Reads and drops the rest of a body that nobody wants.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Discarded> {
        use bursar_core::h1::Decoded;
        loop {
            let Body::Left { rest, .. } = &mut self.body else {
                return Poll::Ready(Discarded::Whole);
            };
            match rest.decode(&mut self.input) {
                Ok(Decoded::Data(_)) => return Poll::Ready(Discarded::Some),
                Ok(Decoded::Trailers(..) | Decoded::End) => self.body = Body::Read,
                Ok(Decoded::NeedMore) => match ready!(self.poll_fill(cx)) {
                    Filled::More => {}
                    Filled::Ended(_) => return Poll::Ready(Discarded::Never),
                },
                Err(_) => return Poll::Ready(Discarded::Never),
            }
        }
    }

    /// We need the body, for which the agent waits to be asked, before the site has asked for it.
    pub(super) fn invite(&mut self) {
        self.agent.was_invited = true;
        if std::mem::take(&mut self.agent.waits) {
            self.output().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.wake_owner();
        }
    }
}

/// What an exchange has agreed on with the agent at the other end of the wire.
#[derive(Default)]
pub(super) struct Agent {
    /// It waits for `100 Continue`, and nobody reads its body.
    pub(super) waits: bool,
    /// All of its body was wanted here: from now on a `100 Continue` of the site concerns us.
    pub(super) was_invited: bool,
    /// It may get informational answers.
    pub(super) informs: bool,
    /// How many need it to be there in both directions.
    pub(super) needed: usize,
    /// Who waits for the connection if it changes to another protocol.
    pub(super) upgrade: Option<Upgrade>,
}

/// How far the rest of an unwanted body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discarded {
    Some,
    Whole,
    /// It will not end.
    Never,
}

/// What waits to be written: `queue` first, then `small`.
#[derive(Default)]
struct Output {
    queue: VecDeque<Bytes>,
    small: BytesMut,
    /// Something was written that the stream may not have flushed.
    due: bool,
    sent: u64,
}

impl Output {
    fn len(&self) -> usize {
        self.queue.iter().map(Bytes::len).sum::<usize>() + self.small.len()
    }

    fn poll_write(&self, stream: &mut Box<dyn Stream>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(stream);
        let Some(first) = self.queue.front() else {
            return stream.poll_write(cx, &self.small);
        };
        if !stream.is_write_vectored() {
            return stream.poll_write(cx, first);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let parts = self.queue.iter().map(AsRef::as_ref).chain([self.small.as_ref()]);
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        stream.poll_write_vectored(cx, slices.get(..count).unwrap_or_default())
    }

    fn advance(&mut self, mut count: usize) {
        self.sent += count as u64;
        while let Some(first) = self.queue.front_mut() {
            if count < first.len() {
                return first.advance(count);
            }
            count -= first.len();
            self.queue.pop_front();
        }
        self.small.advance(count.min(self.small.len()));
    }
}

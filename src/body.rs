//! Bodies on their way through: the agent's request, kept while it streams so that it can be sent once more; the
//! answer, streamed with an idle bound.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, Sleep};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One request may be kept up to this size (Ruling 9).
pub const REPLAY_CAP: usize = 1 << 20;
/// All kept requests together (Ruling 9).
pub const REPLAY_CAP_ALL: usize = 256 << 20;

// --- the request ---------------------------------------------------------------------------------------------------

/// The memory that kept requests share; a request that finds none left is forwarded all the same and is not payable.
#[derive(Clone, Default)]
pub struct ReplayBudget(Arc<AtomicUsize>);

impl ReplayBudget {
    fn take(&self, bytes: usize) -> bool {
        self.0
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|used| *used <= REPLAY_CAP_ALL)
            })
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The agent's request body: streams to the site once, and can be taken whole afterwards.
pub struct Kept(Arc<Mutex<State>>);

struct State {
    source: Option<Incoming>,
    kept: Vec<Bytes>,
    size: usize,
    trailers: Option<HeaderMap>,
    whole: Whole,
    budget: ReplayBudget,
    /// The first sending lost its right to the source: the replay owns it now.
    taken: bool,
    /// The first sending, to be told that it lost.
    first: Option<Waker>,
    /// When the last part went by, for the response-head timeout of long uploads.
    progress: Arc<AtomicU64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Streaming,
    Ended,
    TooLarge,
}

/// A request that can be sent again byte for byte.
#[derive(Clone)]
pub struct Replay {
    pub bytes: Bytes,
    pub trailers: Option<HeaderMap>,
    pub sha256: [u8; 32],
}

/// Why a body cannot be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReplayable {
    TooLarge,
    /// The agent stopped sending.
    Broken,
}

impl Kept {
    pub fn new(source: Incoming, budget: ReplayBudget) -> Self {
        let declared = source.size_hint().lower();
        let whole = if source.is_end_stream() {
            Whole::Ended
        } else if declared > REPLAY_CAP as u64 {
            Whole::TooLarge
        } else {
            Whole::Streaming
        };
        Self(Arc::new(Mutex::new(State {
            source: Some(source),
            kept: Vec::new(),
            size: 0,
            trailers: None,
            whole,
            budget,
            taken: false,
            first: None,
            progress: Arc::new(AtomicU64::new(0)),
        })))
    }

    /// The body of the first sending. With a `gate`, no byte is asked of the agent before the gate opens
    /// (`Expect: 100-continue`: a 402 that comes first saves the upload).
    pub fn first(&self, gate: Option<Gate>) -> RequestBody {
        let state = lock(&self.0);
        if state.whole == Whole::Ended {
            return RequestBody(Source::Empty);
        }
        RequestBody(Source::First {
            state: self.0.clone(),
            gate,
        })
    }

    pub fn progress(&self) -> Progress {
        Progress(lock(&self.0).progress.clone())
    }

    /// Takes the body away from the first sending and reads the rest of it.
    pub async fn take(&self) -> Result<Replay, NotReplayable> {
        {
            let mut state = lock(&self.0);
            // The 402 is passed on then, and it may come to its end only if the upload goes on.
            if state.whole == Whole::TooLarge {
                return Err(NotReplayable::TooLarge);
            }
            state.taken = true;
            if let Some(first) = state.first.take() {
                first.wake();
            }
        }
        std::future::poll_fn(|cx| {
            loop {
                let mut state = lock(&self.0);
                match state.whole {
                    Whole::TooLarge => return Poll::Ready(Err(NotReplayable::TooLarge)),
                    Whole::Ended => return Poll::Ready(Ok(state.replay())),
                    Whole::Streaming => match state.poll_source(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(NotReplayable::Broken)),
                        Poll::Ready(_) => {}
                    },
                }
            }
        })
        .await
    }
}

impl State {
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(source) = self.source.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(source).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.progress.fetch_add(1, Ordering::Relaxed);
                self.keep(frame);
            }
            Poll::Ready(None) => self.end(),
            _ => {}
        }
        if self.source.as_ref().is_some_and(Body::is_end_stream) {
            self.end();
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn end(&mut self) {
        if self.whole == Whole::Streaming {
            self.whole = Whole::Ended;
        }
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.whole != Whole::Streaming {
            return;
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        let Some(data) = frame.data_ref() else { return };
        if self.size + data.len() > REPLAY_CAP || !self.budget.take(data.len()) {
            self.whole = Whole::TooLarge;
            self.forget();
            return;
        }
        self.size += data.len();
        self.kept.push(data.clone());
    }

    fn forget(&mut self) {
        self.budget.give_back(self.size);
        self.size = 0;
        self.kept.clear();
    }

    fn replay(&self) -> Replay {
        let bytes = match self.kept.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => {
                let mut all = BytesMut::with_capacity(self.size);
                many.iter().for_each(|part| all.extend_from_slice(part));
                all.freeze()
            }
        };
        let sha256 = Sha256::digest(&bytes).into();
        Replay {
            bytes,
            trailers: self.trailers.clone(),
            sha256,
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.forget();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the parts of an upload as they go by, so that a slow upload is not taken for a silent site.
#[derive(Clone)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// For a request whose body is in memory.
    pub fn none() -> Self {
        Self(Arc::default())
    }

    pub fn parts(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Opens when the site says `100 Continue`, or after a while if it never does (RFC 9110 §10.1.1 asks clients not to wait
/// for ever).
#[derive(Clone)]
pub struct Gate(Arc<Mutex<(bool, Option<Waker>)>>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(Mutex::new((false, None))))
    }

    pub fn open(&self) {
        let mut gate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gate.0 = true;
        if let Some(waker) = gate.1.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut gate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if gate.0 {
            return Poll::Ready(());
        }
        gate.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// What is sent to the site.
pub struct RequestBody(Source);

enum Source {
    Empty,
    First {
        state: Arc<Mutex<State>>,
        gate: Option<Gate>,
    },
    Replay {
        data: Option<Bytes>,
        trailers: Option<HeaderMap>,
    },
}

impl RequestBody {
    pub fn empty() -> Self {
        Self(Source::Empty)
    }

    pub fn full(bytes: Bytes) -> Self {
        Self(Source::Replay {
            data: Some(bytes).filter(|bytes| !bytes.is_empty()),
            trailers: None,
        })
    }
}

impl From<Replay> for RequestBody {
    fn from(replay: Replay) -> Self {
        let data = Some(replay.bytes).filter(|bytes| !bytes.is_empty());
        Self(Source::Replay {
            data,
            trailers: replay.trailers,
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Source::Empty => Poll::Ready(None),
            Source::First { state, gate } => {
                if let Some(closed) = gate {
                    std::task::ready!(closed.poll(cx));
                    *gate = None;
                }
                let mut state = lock(state);
                if state.taken {
                    return Poll::Ready(Some(Err("the body went into the replay".into())));
                }
                let polled = state.poll_source(cx);
                if polled.is_pending() {
                    state.first = Some(cx.waker().clone());
                }
                polled
            }
            Source::Replay { data, trailers } => Poll::Ready(
                data.take()
                    .map(Frame::data)
                    .or_else(|| trailers.take().map(Frame::trailers))
                    .map(Ok),
            ),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Empty => true,
            Source::First { state, .. } => lock(state).source.as_ref().is_none_or(Body::is_end_stream),
            Source::Replay { data, trailers } => data.is_none() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Empty => SizeHint::with_exact(0),
            Source::First { state, .. } => lock(state).source.as_ref().map(Body::size_hint).unwrap_or_default(),
            Source::Replay { data, .. } => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
        }
    }
}

// --- the answer ----------------------------------------------------------------------------------------------------

/// What is sent to the agent.
pub enum AnswerBody {
    Full(Full<Bytes>),
    Relay(Relay),
}

impl AnswerBody {
    pub fn full(bytes: Bytes) -> Self {
        Self::Full(Full::new(bytes))
    }

    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Full(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Relay(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(body) => body.is_end_stream(),
            Self::Relay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(body) => body.size_hint(),
            Self::Relay(body) => body.size_hint(),
        }
    }
}

/// The site's answer as it comes: first what was read to look for a challenge, then the stream.
pub struct Relay {
    read: Option<Bytes>,
    /// What reading ahead met behind the data: trailers, or the error that an agent must not take for a clean end.
    after: Option<Result<Frame<Bytes>, hyper::Error>>,
    rest: Incoming,
    idle: Duration,
    /// Made when the stream first has to wait; most answers never need it.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// Runs once the stream ended cleanly: hands the connection back.
    at_end: Option<Box<dyn FnOnce() + Send>>,
}

impl Relay {
    pub fn new(rest: Incoming, idle: Duration, at_end: Option<Box<dyn FnOnce() + Send>>) -> Self {
        let mut relay = Self {
            read: None,
            after: None,
            rest,
            idle,
            timer: None,
            waiting: false,
            at_end,
        };
        relay.finish_if_ended();
        relay
    }

    /// Puts back what was read ahead.
    pub fn unread(&mut self, read: Bytes) {
        self.read = Some(read).filter(|read| !read.is_empty());
    }

    /// Reads at most `cap` bytes within `patience`; the bytes read can be put back.
    pub async fn read_up_to(&mut self, cap: usize, patience: Duration) -> (Bytes, ReadEnd) {
        let mut read = BytesMut::new();
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
        if end == ReadEnd::Whole {
            self.finish_if_ended();
        }
        (read.freeze(), end)
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
            return Poll::Ready(Some(after.map_err(Into::into)));
        }
        match Pin::new(&mut this.rest).poll_frame(cx) {
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => {
                this.waiting = false;
                this.finish_if_ended();
                Poll::Ready(Some(frame.map_err(Into::into)))
            }
            Poll::Pending => this
                .poll_idle(cx)
                .map(|()| Some(Err("the site sent nothing for too long".into()))),
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

//! The request body: streams to the site once, and can then be taken whole for the one replay.

#[cfg(test)]
mod tests;

mod progress;
mod sending;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use sha2::{Digest, Sha256};

use super::kept::Kept;
use super::{AgentBody, AgentBudget, BoxError, REPLAY_CAP};

pub use progress::Progress;
pub use sending::RequestBody;

/// The agent's request body: streams to the site once, and can be taken whole afterwards.
///
/// Cheap to clone; all clones are the same body. `None`: there is none, as in most requests, and nothing is kept for it.
#[derive(Clone)]
pub struct BufferedBody(Option<Arc<Mutex<State>>>);

struct State {
    /// `None` once the site has rejected the request and the rest is not needed.
    source: Option<AgentBody>,
    kept: Kept,
    /// What [`BufferedBody::collect`] has read is still to be sent.
    collected: bool,
    /// What it has read, once it has read all that it will.
    ahead: VecDeque<Bytes>,
    trailers_ahead: bool,
    trailers: Option<HeaderMap>,
    whole: Whole,
    hold: Hold,
    /// The site's response has ended, or is no longer read.
    answered: bool,
    /// The site ends the connection after its response.
    closes: bool,
    /// The site does not get the rest of the upload after its response.
    refused: bool,
    /// Wakes the first sending when something changes.
    first: Option<Waker>,
    progress: Progress,
}

/// Why the first sending may not send its next byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    None,
    /// `Expect: 100-continue`: an early 402 saves the upload.
    Invitation,
    /// The site answered without asking for the body.
    Uninvited,
    /// The replay has taken over the source.
    Taken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Streaming,
    Ended,
    NotKept(NotReplayable),
}

/// A request that can be sent again byte for byte.
#[derive(Clone)]
pub struct Replay {
    pub bytes: Bytes,
    pub trailers: Option<HeaderMap>,
    pub sha256: [u8; 32],
}

impl Replay {
    pub fn of(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        let sha256 = Sha256::digest(&bytes).into();
        Self {
            bytes,
            trailers,
            sha256,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Why a body cannot be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReplayable {
    TooLarge,
    /// Other requests use up the memory that buffered bodies share.
    NoRoom,
    /// The agent stopped sending.
    Broken,
}

impl BufferedBody {
    /// With `expects` (`Expect: 100-continue`), no byte is read before [`BufferedBody::open`], and the agent is not asked
    /// for any, unless the whole body is needed here.
    pub fn new(source: AgentBody, expects: bool, budget: impl FnOnce() -> AgentBudget) -> Self {
        let is_over = source.is_end_stream();
        // An agent that announces a body and has none may wait to be asked for it all the same.
        if is_over && !expects {
            return Self(None);
        }
        let declared = source.size_hint().lower();
        let kept = Kept::new(budget(), source.size_hint().exact());
        let whole = if is_over {
            Whole::Ended
        } else if declared > REPLAY_CAP as u64 {
            Whole::NotKept(NotReplayable::TooLarge)
        } else {
            Whole::Streaming
        };
        let progress = Progress::begun();
        if is_over {
            progress.end();
        }
        Self(Some(Arc::new(Mutex::new(State {
            source: Some(source),
            kept,
            collected: false,
            ahead: VecDeque::new(),
            trailers_ahead: false,
            trailers: None,
            whole,
            hold: if expects { Hold::Invitation } else { Hold::None },
            answered: false,
            closes: false,
            refused: false,
            first: None,
            progress,
        }))))
    }

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        self.0.as_deref().map(lock)
    }

    /// The body of the first sending.
    pub fn first(&self) -> RequestBody {
        match &self.0 {
            Some(body) if !lock(body).has_ended() => RequestBody::first(body.clone()),
            _ => RequestBody::empty(),
        }
    }

    pub fn progress(&self) -> Progress {
        self.state().map_or_else(Progress::none, |state| state.progress.clone())
    }

    /// Starts an upload that waits for `100 Continue`: the site has said so, or takes too long to say anything.
    pub fn open(&self) {
        if let Some(mut state) = self.state() {
            state.open();
        }
    }

    /// The site's response has begun. It may go on reading the upload, and gets the rest of it as it comes
    /// (RFC 9112 §9.3), unless it has rejected the request and `closes` the connection, or rejected it before it had
    /// asked for the upload. After a 402 this stays undecided until [`BufferedBody::refused`], since the replay needs
    /// the rest.
    pub fn answered(&self, status: StatusCode, closes: bool) -> Uploading {
        if let Some(mut state) = self.state() {
            if status.is_success() {
                state.open();
            }
            state.change(Hold::Invitation, Hold::Uninvited);
            state.closes = closes;
            state.refused = closes && !status.is_success() && status != StatusCode::PAYMENT_REQUIRED;
        }
        Uploading(self.0.clone())
    }

    /// The 402 is passed on.
    pub fn refused(&self) {
        let Some(mut state) = self.state() else { return };
        // What was taken for a replay is not there to be sent.
        state.refused = state.closes || state.hold != Hold::None;
        state.progress.want(!state.refused);
        state.let_go();
    }

    /// Reads the whole body before any of it is sent, for a request that may repeat another. If it turns out too large,
    /// it is streamed after all, starting with what was read.
    pub async fn collect(&self) -> Result<Replay, NotReplayable> {
        if let Some(mut state) = self.state() {
            state.collected = state.whole == Whole::Streaming;
            state.invite();
        }
        let replay = self.read_rest().await?;
        if let Some(mut state) = self.state() {
            state.put_ahead(&replay);
        }
        Ok(replay)
    }

    /// Takes the body away from the first sending and reads the rest of it. If it turns out too large, the first
    /// sending stays paused where it is, so that the site's response can still be read on that connection.
    pub async fn take(&self) -> Result<Replay, NotReplayable> {
        if let Some(mut state) = self.state()
            && state.whole == Whole::Streaming
        {
            state.hold = Hold::Taken;
            state.invite();
        }
        self.read_rest().await
    }

    async fn read_rest(&self) -> Result<Replay, NotReplayable> {
        let Some(body) = &self.0 else {
            return Ok(Replay::of(Bytes::new(), None));
        };
        std::future::poll_fn(|cx| {
            loop {
                let mut state = lock(body);
                match state.whole {
                    Whole::NotKept(why) => return Poll::Ready(Err(why)),
                    Whole::Ended => return Poll::Ready(state.replay()),
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
            return Poll::Ready(match self.whole {
                Whole::Ended => None,
                Whole::NotKept(NotReplayable::Broken) => Some(Err("the agent stopped sending the request body".into())),
                _ => Some(Err("the site responded before it had the whole request body".into())),
            });
        };
        let polled = Pin::new(&mut *source).poll_frame(cx);
        let ended = source.is_end_stream();
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.progress.moved();
                self.keep(frame);
            }
            // Asked again, a broken stream may say that it has ended; the site would take what it got for all of it.
            Poll::Ready(Some(Err(_))) => self.break_off(),
            Poll::Ready(None) => self.end(),
            Poll::Pending => {}
        }
        if ended {
            self.end();
        }
        polled
    }

    /// A site that no longer reads would otherwise block the agent, which may write to the end before it reads.
    fn let_go(&mut self) {
        if self.answered && self.refused {
            self.source = None;
            self.wake_first();
        }
    }

    /// Puts everything that was read so far in front again. False if not all of it is kept, or if the replay has it.
    fn rewind(&mut self) -> bool {
        if matches!(self.whole, Whole::NotKept(_)) || self.hold == Hold::Taken {
            return false;
        }
        let Ok(kept) = self.kept.so_far() else { return false };
        self.ahead.clear();
        self.ahead.extend(Some(kept).filter(|bytes| !bytes.is_empty()));
        self.trailers_ahead = self.trailers.is_some();
        true
    }

    /// Nothing of it is still to be sent or read.
    fn has_ended(&self) -> bool {
        self.whole == Whole::Ended && !self.is_ahead()
    }

    fn is_ahead(&self) -> bool {
        self.trailers_ahead || !self.ahead.is_empty()
    }

    /// What was collected whole is what the first sending begins with.
    fn put_ahead(&mut self, whole: &Replay) {
        if std::mem::take(&mut self.collected) {
            self.ahead
                .extend(Some(whole.bytes.clone()).filter(|bytes| !bytes.is_empty()));
            self.trailers_ahead = self.trailers.is_some();
        }
    }

    fn next_ahead(&mut self) -> Option<Frame<Bytes>> {
        if let Some(data) = self.ahead.pop_front() {
            return Some(Frame::data(data));
        }
        let trailers = std::mem::take(&mut self.trailers_ahead).then(|| self.trailers.clone())?;
        trailers.map(Frame::trailers)
    }

    fn end(&mut self) {
        self.progress.end();
        if self.whole == Whole::Streaming {
            self.whole = Whole::Ended;
        }
    }

    fn open(&mut self) {
        if self.hold == Hold::Invitation {
            if let Some(source) = &self.source {
                source.exchange().open();
            }
            self.change(Hold::Invitation, Hold::None);
        }
    }

    /// We need all of it now.
    fn invite(&self) {
        if let Some(source) = &self.source {
            source.exchange().invite();
        }
    }

    fn change(&mut self, from: Hold, to: Hold) {
        if self.hold == from {
            self.hold = to;
            self.wake_first();
        }
    }

    fn wake_first(&mut self) {
        if let Some(first) = self.first.take() {
            first.wake();
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
        let not_kept = if self.kept.size() + data.len() > REPLAY_CAP {
            Some(NotReplayable::TooLarge)
        } else {
            self.kept.add(data).err().map(|_| NotReplayable::NoRoom)
        };
        if let Some(why) = not_kept {
            self.give_up(why, Some(data));
        }
    }

    /// From here on the body streams only. What was collected, and the frame that did not fit, are still to be sent.
    fn give_up(&mut self, why: NotReplayable, frame: Option<&Bytes>) {
        if self.whole != Whole::Streaming && self.whole != Whole::Ended {
            return;
        }
        self.whole = Whole::NotKept(why);
        let mut kept = self.kept.hand_over();
        if std::mem::take(&mut self.collected) {
            self.ahead.append(&mut kept);
            self.ahead.extend(frame.cloned());
            self.trailers_ahead = self.trailers.is_some();
        }
    }

    /// The agent stopped sending. A later read gets what was collected, and then an error.
    fn break_off(&mut self) {
        self.give_up(NotReplayable::Broken, None);
        self.source = None;
    }

    fn replay(&mut self) -> Result<Replay, NotReplayable> {
        let Ok(bytes) = self.kept.whole() else {
            self.give_up(NotReplayable::NoRoom, None);
            return Err(NotReplayable::NoRoom);
        };
        Ok(Replay::of(bytes, self.trailers.clone()))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lives as long as the site's response. When it is dropped, a first sending that may not continue gives up its
/// connection.
pub struct Uploading(Option<Arc<Mutex<State>>>);

impl Drop for Uploading {
    fn drop(&mut self) {
        if let Some(body) = &self.0 {
            let mut state = lock(body);
            state.answered = true;
            state.let_go();
            state.wake_first();
        }
    }
}

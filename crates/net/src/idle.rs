//! An agent's connection with its two timeouts: a request head that has begun must be complete within `head`, and a
//! connection on which no byte moves in either direction is closed after `idle` (R35).
//!
//! hyper's own header timeout also runs while a keep-alive connection is idle, so it cannot distinguish a slow head
//! from a quiet agent.
//!
//! It also knows what was written to the agent: an answer that only waits in a buffer of ours is not delivered (R94).

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::shares::Share;

/// Whether a request is being served; shared between the connection and its requests.
#[derive(Clone, Default)]
pub struct Busy(Arc<Requests>);

#[derive(Default)]
struct Requests {
    /// Guards that are held for exchanges in progress.
    serving: AtomicUsize,
    /// Incremented with every head, so that a request that is answered at once is noticed too.
    begun: AtomicUsize,
    unwritten: Mutex<Unwritten>,
    /// Whether anything waits there; most flushes find nothing.
    any_unwritten: AtomicBool,
}

/// Called when all bytes that were handed over before it are written to the socket; dropped uncalled if that fails.
pub type Written = Box<dyn FnOnce() + Send>;

enum Unwritten {
    Waiting(Vec<Written>),
    /// The connection is gone: nothing more is written.
    Ended,
}

impl Default for Unwritten {
    fn default() -> Self {
        Self::Waiting(Vec::new())
    }
}

impl Busy {
    /// The head is complete: from here on only the idle timeout applies.
    pub fn begin(&self) -> Serving {
        self.serve(None)
    }

    fn serve(&self, share: Option<Arc<Share>>) -> Serving {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.serving.fetch_add(1, Ordering::Relaxed);
        Serving {
            busy: self.clone(),
            share,
        }
    }

    /// Everything that was handed over is with the kernel.
    fn flushed(&self) {
        if self.0.any_unwritten.swap(false, Ordering::AcqRel) {
            let waiting = match &mut *self.unwritten() {
                Unwritten::Waiting(waiting) => std::mem::take(waiting),
                Unwritten::Ended => Vec::new(),
            };
            waiting.into_iter().for_each(|written| written());
        }
    }

    // Nothing panics while the lock is held.
    fn unwritten(&self) -> std::sync::MutexGuard<'_, Unwritten> {
        self.0.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_busy(&self) -> bool {
        self.0.serving.load(Ordering::Relaxed) > 0
    }
}

/// Held by the request body and the response body: until both are done, no new head can begin.
pub struct Serving {
    busy: Busy,
    /// The request's place among those that its agent may have under way.
    share: Option<Arc<Share>>,
}

impl Serving {
    /// The request counts for its agent as long as this, or a clone that is made from now on, exists.
    pub fn count(&mut self, share: Arc<Share>) {
        self.share = Some(share);
    }

    pub fn when_written(&self, written: Written) {
        let busy = &self.busy;
        match &mut *busy.unwritten() {
            Unwritten::Waiting(waiting) => waiting.push(written),
            Unwritten::Ended => return,
        }
        busy.0.any_unwritten.store(true, Ordering::Release);
    }
}

impl Clone for Serving {
    fn clone(&self) -> Self {
        self.busy.serve(self.share.clone())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.busy.0.serving.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Drops what still waits when the connection ends.
struct Ending(Busy);

impl Drop for Ending {
    fn drop(&mut self) {
        let waiting = std::mem::replace(&mut *self.0.unwritten(), Unwritten::Ended);
        drop(waiting);
    }
}

pub struct Watched<S> {
    stream: S,
    _ending: Ending,
    busy: Busy,
    head: Duration,
    idle: Duration,
    last_byte: Instant,
    head_began: Option<Instant>,
    /// How many heads were complete at the last check.
    heads: usize,
    timer: Pin<Box<Sleep>>,
    /// Set while bytes wait to be written: an agent that has ended its side is no longer read from.
    unwritten: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    pub fn new(stream: S, busy: Busy, head: Duration, idle: Duration) -> Self {
        let now = Instant::now();
        Self {
            stream,
            _ending: Ending(busy.clone()),
            busy,
            head,
            idle,
            last_byte: now,
            // The first head is due at once.
            head_began: Some(now),
            heads: 0,
            timer: Box::pin(tokio::time::sleep(head)),
            unwritten: None,
        }
    }

    pub fn into_inner(self) -> S {
        self.stream
    }

    fn moved(&mut self) {
        self.last_byte = Instant::now();
    }

    /// A head that was completed since the last check is no longer due.
    fn look(&mut self) {
        let heads = self.busy.0.begun.load(Ordering::Relaxed);
        if heads != self.heads {
            self.heads = heads;
            self.head_began = None;
        }
    }

    fn deadline(&mut self) -> Instant {
        self.look();
        match self.head_began {
            Some(began) => began + self.head,
            None => self.last_byte + self.idle,
        }
    }

    /// The idle timeout for what waits to be written. The other timer wakes the reader.
    fn poll_unwritten<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            let deadline = self.last_byte + self.idle;
            let timer = self
                .unwritten
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            std::task::ready!(timer.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// The timer is moved forward only when it fires, not on every byte.
    fn poll_bounds(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let deadline = self.deadline();
            if deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.look();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                if buf.filled().len() > before {
                    this.moved();
                    if this.head_began.is_none() && !this.busy.is_busy() {
                        this.head_began = Some(this.last_byte);
                    }
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_bounds(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        match polled {
            Poll::Ready(Ok(_)) => this.moved(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => return this.poll_unwritten(cx),
        }
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        match polled {
            Poll::Ready(Ok(_)) => this.moved(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => return this.poll_unwritten(cx),
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        match polled {
            Poll::Ready(Ok(())) => this.busy.flushed(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => return this.poll_unwritten(cx),
        }
        polled
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// A stream with bytes that were already read from it put back in front.
pub struct Rewind<S> {
    read: bytes::Bytes,
    stream: S,
}

impl<S> Rewind<S> {
    pub fn new(read: bytes::Bytes, stream: S) -> Self {
        Self { read, stream }
    }

    pub fn into_parts(self) -> (bytes::Bytes, S) {
        (self.read, self.stream)
    }

    /// Waits for the first bytes and returns them without consuming them; empty at end of stream.
    pub async fn first_bytes(&mut self) -> io::Result<&[u8]>
    where
        S: AsyncRead + Unpin,
    {
        use tokio::io::AsyncReadExt;
        if self.read.is_empty() {
            let mut buffer = bytes::BytesMut::with_capacity(2048);
            self.stream.read_buf(&mut buffer).await?;
            self.read = buffer.freeze();
        }
        Ok(&self.read)
    }

    /// What was read from it and is in front.
    pub fn read_ahead(&self) -> &[u8] {
        &self.read
    }

    /// Resolves when the other side has ended the stream: with an error if it is broken. What it sends meanwhile is kept
    /// and read later; more than a little of it ends the watch, not the stream.
    pub async fn hung_up(&mut self) -> io::Result<()>
    where
        S: AsyncRead + Unpin,
    {
        use tokio::io::AsyncReadExt;
        const MOST: usize = 16 << 10;
        while self.read.len() < MOST {
            let mut more = bytes::BytesMut::with_capacity(1024);
            match self.stream.read_buf(&mut more).await {
                Ok(0) => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) if self.read.is_empty() => self.read = more.freeze(),
                Ok(_) => self.read = [self.read.as_ref(), more.as_ref()].concat().into(),
            }
        }
        std::future::pending().await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let part = this.read.split_to(this.read.len().min(buf.remaining()));
        buf.put_slice(&part);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn a_dripping_head_ends_after_its_bound() {
        let (mut agent, ours) = duplex(64);
        let mut watched = Watched::new(ours, Busy::default(), HEAD, IDLE);
        let began = Instant::now();
        let drip = async {
            loop {
                agent.write_all(b"G").await.unwrap();
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        };
        let read = async {
            let mut buffer = [0; 8];
            loop {
                if let Err(error) = watched.read(&mut buffer).await {
                    return error;
                }
            }
        };
        tokio::select! {
            error = read => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            () = drip => unreachable!(),
        }
        assert!(began.elapsed() < HEAD + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_agent_keeps_its_connection_until_it_is_idle() {
        let (mut agent, ours) = duplex(64);
        let busy = Busy::default();
        let mut watched = Watched::new(ours, busy.clone(), HEAD, IDLE);
        let mut buffer = [0; 3];
        agent.write_all(b"GET").await.unwrap();
        watched.read_exact(&mut buffer).await.unwrap();
        // Answered at once; from here the connection is idle between requests.
        drop(busy.begin());
        let began = Instant::now();
        let waited = tokio::time::timeout(HEAD * 6, watched.read(&mut buffer)).await;
        assert!(waited.is_err(), "closed within six head timeouts");
        let error = watched.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= IDLE - Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_early_waits_for_the_answer_before_it() {
        let (mut agent, ours) = duplex(64);
        let busy = Busy::default();
        let mut watched = Watched::new(ours, busy.clone(), HEAD, IDLE);
        let mut buffer = [0; 3];
        agent.write_all(b"GET").await.unwrap();
        watched.read_exact(&mut buffer).await.unwrap();
        // The response is a long stream: its body's guard outlives the request's.
        let (head, body) = (busy.begin(), busy.begin());
        drop(head);
        agent.write_all(b"POS").await.unwrap();
        watched.read_exact(&mut buffer).await.unwrap();
        let waited = tokio::time::timeout(HEAD * 6, watched.read(&mut buffer)).await;
        assert!(waited.is_err(), "cut while an answer was streaming");
        drop(body);
        agent.write_all(b"T").await.unwrap();
        assert_eq!(watched.read(&mut buffer).await.unwrap(), 1);
        let began = Instant::now();
        let error = watched.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() <= HEAD, "the head timeout applies again");
    }

    /// An answer of 1000 bytes that waits in a buffer above `watched`, and whether it was written.
    async fn buffered(
        watched: Watched<tokio::io::DuplexStream>,
        busy: &Busy,
    ) -> (
        tokio::io::BufWriter<Watched<tokio::io::DuplexStream>>,
        Arc<Mutex<Vec<&'static str>>>,
    ) {
        /// Says so when it is dropped.
        struct Noted(Arc<Mutex<Vec<&'static str>>>);
        impl Drop for Noted {
            fn drop(&mut self) {
                self.0.lock().unwrap().push("dropped");
            }
        }
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let mut writer = tokio::io::BufWriter::with_capacity(4096, watched);
        writer.write_all(&[b'x'; 1000]).await.unwrap();
        let noted = Noted(seen.clone());
        busy.begin()
            .when_written(Box::new(move || noted.0.lock().unwrap().push("written")));
        (writer, seen)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_written_when_the_last_byte_has_left() {
        let (mut agent, ours) = duplex(64);
        let busy = Busy::default();
        let (mut writer, seen) = buffered(Watched::new(ours, busy.clone(), HEAD, IDLE), &busy).await;
        let soon = tokio::time::timeout(Duration::from_secs(1), writer.flush()).await;
        assert!(soon.is_err(), "nobody reads");
        assert!(seen.lock().unwrap().is_empty(), "64 bytes have left");
        let mut read = [0; 1000];
        let (flushed, _) = tokio::join!(writer.flush(), agent.read_exact(&mut read));
        flushed.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["written", "dropped"]);
        // What nothing was written for is not waited for.
        writer.flush().await.unwrap();
        assert_eq!(seen.lock().unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_not_written_if_the_agent_leaves_before_its_end() {
        let (agent, ours) = duplex(64);
        let busy = Busy::default();
        let (mut writer, seen) = buffered(Watched::new(ours, busy.clone(), HEAD, IDLE), &busy).await;
        drop(agent);
        writer.flush().await.unwrap_err();
        assert!(seen.lock().unwrap().is_empty());
        drop(writer);
        assert_eq!(*seen.lock().unwrap(), ["dropped"]);
        // An answer that comes after the end has nobody to go to.
        let (_, late) = (busy.begin(), seen.clone());
        busy.begin()
            .when_written(Box::new(move || late.lock().unwrap().push("late")));
        assert_eq!(*seen.lock().unwrap(), ["dropped"]);
    }

    #[tokio::test]
    async fn a_hang_up_is_noticed_and_what_was_said_before_it_is_not_lost() {
        let (mut agent, ours) = duplex(64 << 10);
        agent.write_all(b"hello").await.unwrap();
        let mut stream = Rewind::new(bytes::Bytes::new(), ours);
        stream.first_bytes().await.unwrap();
        agent.write_all(b", proxy").await.unwrap();
        let watched = tokio::time::timeout(Duration::from_millis(10), stream.hung_up()).await;
        assert!(watched.is_err(), "it has not hung up");
        drop(agent);
        stream.hung_up().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello, proxy");
    }

    #[tokio::test]
    async fn a_request_counts_until_its_last_body_is_done() {
        let bounds = crate::shares::Bounds {
            all: 1,
            each: 1,
            queue_each: 0,
        };
        let shares = crate::shares::Shares::new(crate::shares::What::Requests, bounds);
        let agent = "research".parse().unwrap();
        let mut serving = Busy::default().begin();
        serving.count(Arc::new(shares.take(&agent, 1).unwrap()));
        let upload = serving.clone();
        drop(serving);
        assert!(shares.take(&agent, 1).is_err());
        drop(upload);
        assert!(shares.take(&agent, 1).is_ok());
    }

    #[tokio::test]
    async fn what_was_sniffed_is_read_again() {
        let (mut agent, ours) = duplex(64);
        agent.write_all(b"hello").await.unwrap();
        let mut stream = Rewind::new(bytes::Bytes::new(), ours);
        assert_eq!(stream.first_bytes().await.unwrap(), b"hello");
        let mut five = [0; 5];
        stream.read_exact(&mut five).await.unwrap();
        assert_eq!(&five, b"hello");
    }
}

//! A connection's place on the listener. Before the log-in all connections share one bounded pool, and when it is full the
//! one that has been there longest is closed, so that idle strangers cannot lock out an agent, not even from the same
//! address. It is given a moment to log in first; meanwhile the next ones wait in the kernel. After the log-in a connection counts for its agent.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use bursar_core::agent_name::AgentName;
use bursar_net::shares::{Full, Share, Shares};

/// The pool before the log-in.
pub(crate) struct Lobby {
    most: usize,
    inside: Mutex<Inside>,
    left: Notify,
}

#[derive(Default)]
struct Inside {
    next: u64,
    /// In the order in which they came.
    waiting: BTreeMap<u64, Stranger>,
}

struct Stranger {
    since: Instant,
    closing: CancellationToken,
}

/// Clients log in with their first bytes. A burst of them, larger than the pool, must not push each other out.
const GRACE: Duration = Duration::from_millis(50);

/// Cheap to clone; given up when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Seat(Arc<Mutex<Place>>);

enum Place {
    Lobby(Entry),
    Agent(Share),
}

/// A place in the lobby.
struct Entry {
    lobby: Arc<Lobby>,
    number: u64,
    closing: CancellationToken,
}

impl Lobby {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            inside: Mutex::default(),
            left: Notify::new(),
        })
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Seat {
        let closing = CancellationToken::new();
        let mut inside = self.lock();
        let number = inside.next;
        inside.next += 1;
        let stranger = Stranger {
            since: Instant::now(),
            closing: closing.clone(),
        };
        inside.waiting.insert(number, stranger);
        Seat(Arc::new(Mutex::new(Place::Lobby(Entry {
            lobby: self.clone(),
            number,
            closing,
        }))))
    }

    /// Closes the oldest connections until no more are inside than may be, and waits until they are gone, but not for
    /// ever: the next one that comes asks again.
    pub(crate) async fn make_room(&self) {
        /// A task that is to end does so when it is next polled.
        const SOON: Duration = Duration::from_millis(200);
        const TRIES: usize = 10;
        for _ in 0..TRIES {
            let left = self.left.notified();
            let patience = {
                let inside = self.lock();
                if inside.waiting.len() <= self.most {
                    return;
                }
                let young = inside
                    .oldest()
                    .map(|oldest| GRACE.saturating_sub(oldest.since.elapsed()));
                young.filter(|young| !young.is_zero())
            };
            if patience.is_none() {
                self.close_oldest();
            }
            let _ = timeout(patience.unwrap_or(SOON), left).await;
        }
    }

    /// Asks the oldest connection that has not been asked to end. False if there is none.
    pub(crate) fn close_oldest(&self) -> bool {
        let inside = self.lock();
        inside.oldest().inspect(|oldest| oldest.closing.cancel()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn oldest(&self) -> Option<&Stranger> {
        self.waiting.values().find(|stranger| !stranger.closing.is_cancelled())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.lobby.lock().waiting.remove(&self.number);
        self.lobby.left.notify_one();
    }
}

impl Seat {
    /// The connection belongs to `agent` from here on. If the agent may have no more connections, and none of its others
    /// ends soon, it stays where it is.
    pub(crate) async fn admit(&self, connections: &Shares, agent: &AgentName) -> Result<(), Full> {
        /// Clients that replace a connection do not wait until the old one is closed here.
        const SOON: Duration = Duration::from_secs(1);
        if matches!(&*self.lock(), Place::Agent(share) if share.agent() == agent) {
            return Ok(());
        }
        let share = timeout(SOON, connections.wait(agent)).await;
        let share = share.unwrap_or_else(|_| Err(connections.why_full(agent)))?;
        *self.lock() = Place::Agent(share);
        Ok(())
    }

    /// Resolves when the connection has to make room; `None` once it belongs to an agent.
    fn closing(&self) -> Option<CancellationToken> {
        match &*self.lock() {
            Place::Lobby(entry) => Some(entry.closing.clone()),
            Place::Agent(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection with its seat, which it takes along into a tunnel or an upgrade.
pub(crate) struct Seated<S> {
    stream: S,
    seat: Seat,
    /// Present until the log-in.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    last: LastRead,
}

/// What has arrived when the connection is to close is still read once: it may be the log-in.
#[derive(PartialEq, Eq)]
enum LastRead {
    ToCome,
    Done,
}

impl<S> Seated<S> {
    pub(crate) fn new(stream: S, seat: Seat) -> Self {
        let closing = seat.closing().map(|closing| Box::pin(closing.cancelled_owned()));
        Self {
            stream,
            seat,
            closing,
            last: LastRead::ToCome,
        }
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(closing) = &mut self.closing else {
            return Poll::Pending;
        };
        if self.seat.closing().is_none() {
            self.closing = None;
            return Poll::Pending;
        }
        closing
            .as_mut()
            .poll(cx)
            .map(|()| io::ErrorKind::ConnectionAborted.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Seated<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let closing = this.poll_closing(cx);
        if closing.is_ready() && std::mem::replace(&mut this.last, LastRead::Done) == LastRead::Done {
            return closing.map(Err);
        }
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Pending => closing.map(Err),
            read => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Seated<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write(cx, buf) {
            Poll::Pending => this.poll_closing(cx).map(Err),
            written => written,
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write_vectored(cx, bufs) {
            Poll::Pending => this.poll_closing(cx).map(Err),
            written => written,
        }
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;
    use bursar_net::shares::{Bounds, By, What};

    /// A connection that is read until it ends, and the other end of it.
    fn connect(lobby: &Arc<Lobby>) -> (DuplexStream, Seat, JoinHandle<io::Result<usize>>) {
        let (agent, ours) = duplex(64);
        let seat = lobby.enter();
        let mut stream = Seated::new(ours, seat.clone());
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await
        });
        (agent, seat, reading)
    }

    fn connections(all: usize, each: usize) -> Shares {
        let bounds = Bounds {
            all,
            each,
            queue_each: 4,
        };
        Shares::new(What::Connections, bounds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_agents_does_not_push_itself_out() {
        let (lobby, connections) = (Lobby::new(4), connections(64, 64));
        let agent: AgentName = "research".parse().unwrap();
        let mut logging_in = Vec::new();
        for number in 0..20 {
            let (end, seat, reading) = connect(&lobby);
            let (connections, agent) = (connections.clone(), agent.clone());
            // Each needs a little longer than the one before it.
            let log_in = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(10 + number)).await;
                seat.admit(&connections, &agent).await
            });
            logging_in.push((end, reading, log_in));
            lobby.make_room().await;
        }
        for (_end, reading, log_in) in logging_in {
            log_in.await.unwrap().unwrap();
            assert!(!reading.is_finished());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_stranger_makes_room_and_an_agent_stays() {
        let (lobby, connections) = (Lobby::new(2), connections(8, 8));
        let (mut agents_end, seat, agent) = connect(&lobby);
        seat.admit(&connections, &"research".parse().unwrap()).await.unwrap();
        drop(seat);
        let mut strangers = Vec::new();
        for _ in 0..5 {
            let (end, seat, reading) = connect(&lobby);
            drop(seat);
            strangers.push((end, reading));
            lobby.make_room().await;
        }
        let last = strangers.split_off(3);
        for (_end, reading) in strangers {
            assert_eq!(
                reading.await.unwrap().unwrap_err().kind(),
                io::ErrorKind::ConnectionAborted
            );
        }
        assert!(last.iter().all(|(_, reading)| !reading.is_finished()));
        assert!(!agent.is_finished());
        agents_end.write_all(b"still here").await.unwrap();
        drop(agents_end);
        assert_eq!(agent.await.unwrap().unwrap(), 10);
        assert_eq!(lobby.lock().waiting.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_counts_for_the_agent_that_logged_in_last() {
        let (lobby, connections) = (Lobby::new(8), connections(8, 1));
        let [a, b] = ["a", "b"].map(|name| name.parse::<AgentName>().unwrap());
        let (first, second) = (lobby.enter(), lobby.enter());
        first.admit(&connections, &a).await.unwrap();
        first.admit(&connections, &a).await.unwrap();
        let refused = second.admit(&connections, &a).await.unwrap_err();
        assert_eq!(refused.by, By::Agent);
        assert!(second.closing().is_some(), "it can still be closed to make room");
        first.admit(&connections, &b).await.unwrap();
        second.admit(&connections, &a).await.unwrap();
        assert!(lobby.lock().waiting.is_empty());
        drop((first, second));
        assert!(connections.take(&a, 1).is_ok() && connections.take(&b, 1).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_just_being_closed_makes_room_for_the_next() {
        let (lobby, connections) = (Lobby::new(8), connections(8, 1));
        let agent: AgentName = "a".parse().unwrap();
        let (old, new) = (lobby.enter(), lobby.enter());
        old.admit(&connections, &agent).await.unwrap();
        let closing = async {
            tokio::task::yield_now().await;
            drop(old);
        };
        let (admitted, ()) = tokio::join!(new.admit(&connections, &agent), closing);
        assert!(admitted.is_ok());
    }
}

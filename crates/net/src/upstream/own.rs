//! The connections of one tunnel, which are its own as long as it lives: what another tunnel does or leaves undone never
//! holds it up, and what its agent has said on them says nothing about another's. At the end they go to the pool.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::connection::{Connection, Use};
use super::h2::{Line, Place};
use super::pool::Kept;
use super::{Key, Upstreams, Version};

pub(super) struct Own {
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) key: Key,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// On HTTP/1.1: the one connection, while no exchange has it.
    idle: Option<Connection>,
    /// On HTTP/2: as many as the site's limit of streams makes necessary.
    lines: Vec<Line>,
    /// A request was sent.
    has_begun: bool,
    /// The site has closed the idle connection, and the agent is to see it.
    was_closed: bool,
    watcher: Option<Waker>,
}

impl Own {
    pub(super) fn new(upstreams: Arc<Upstreams>, key: Key) -> Self {
        Self {
            upstreams,
            key,
            held: Mutex::default(),
        }
    }

    // Nothing panics while the lock is held.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection with which the tunnel was opened.
    pub(super) fn begin(&self, connection: Kept) -> Version {
        let mut held = self.held();
        match connection {
            Kept::H1(connection) => {
                held.idle = Some(connection);
                Version::H1
            }
            Kept::H2(line) => {
                held.lines.push(line);
                Version::H2
            }
        }
    }

    /// The tunnel's connection, and whether this is the tunnel's first request. One from the pool carries only what may
    /// be repeated: whether the site still has it shows only when it answers.
    pub(super) async fn take(&self, is_repeatable: bool) -> (Option<Connection>, bool) {
        let (idle, is_first) = {
            let mut held = self.held();
            (held.idle.take(), !std::mem::replace(&mut held.has_begun, true))
        };
        let Some(mut connection) = idle else {
            return (None, is_first);
        };
        if connection.use_so_far == Use::ByOthers && !is_repeatable {
            self.upstreams.keep(&self.key, Kept::H1(connection));
            return (None, is_first);
        }
        let is_ready = connection.ready().await;
        (is_ready.then_some(connection), is_first)
    }

    /// After an exchange.
    pub(super) fn give_back(&self, mut connection: Connection) {
        connection.use_so_far = Use::ByThisTunnel;
        let mut held = self.held();
        let (is_news, unneeded) = if connection.is_closed() {
            // Unless another one has taken its place: a payment may have needed one.
            held.was_closed = held.idle.is_none();
            (held.was_closed, Some(connection))
        } else {
            held.was_closed = false;
            (!connection.is_watched, held.idle.replace(connection))
        };
        let watcher = held.watcher.take_if(|_| is_news);
        drop(held);
        drop(unneeded);
        if let Some(watcher) = watcher {
            watcher.wake();
        }
    }

    /// Ready when the site has closed the tunnel's own connection while nothing was under way on it.
    pub(super) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut held = self.held();
        if let Some(connection) = &mut held.idle {
            connection.is_watched = true;
            if connection.poll_closed(cx).is_ready() {
                // Of one that others used before, the agent knows nothing.
                held.was_closed = connection.use_so_far != Use::ByOthers;
                held.idle = None;
            }
        }
        if held.was_closed {
            return Poll::Ready(());
        }
        if !held
            .watcher
            .as_ref()
            .is_some_and(|watcher| watcher.will_wake(cx.waker()))
        {
            held.watcher = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// A place on a line with a free stream, but on none of `not`, where the request has failed. Where the site allows no
    /// stream at all for now, its queue is as good as another's.
    pub(super) fn place(&self, is_repeatable: bool, not: &[Line]) -> Option<(Line, Place)> {
        let mut held = self.held();
        held.has_begun = true;
        held.lines.retain(|line| !line.is_closed());
        let line = held.lines.iter().find(|line| {
            (line.is_proven() || is_repeatable)
                && !not.iter().any(|failed| failed.is(line))
                && (line.has_room() || line.most_streams() == 0)
        })?;
        Some((line.clone(), line.place()))
    }

    /// Gives lines that only others have used to the pool, where they may be closed to make room.
    pub(super) fn give_up_doubtful(&self) {
        let is_doubtful = |line: &mut Line| !line.is_proven() && line.open_streams() == 0;
        let doubtful: Vec<Line> = self.held().lines.extract_if(.., is_doubtful).collect();
        for line in doubtful {
            self.upstreams.keep(&self.key, Kept::H2(line));
        }
    }

    /// Whether there is a line that would do if it had a free stream.
    pub(super) fn is_full(&self) -> bool {
        self.held().lines.iter().any(Line::is_proven)
    }

    /// A place in a line's queue, when there is no other line to be had.
    pub(super) fn queue(&self, is_repeatable: bool) -> Option<(Line, Place)> {
        let held = self.held();
        let usable = held
            .lines
            .iter()
            .filter(|line| !line.is_closed() && (line.is_proven() || is_repeatable));
        let line = usable.min_by_key(|line| line.open_streams())?;
        Some((line.clone(), line.place()))
    }

    pub(super) fn add(&self, line: &Line) -> Place {
        let place = line.place();
        self.held().lines.push(line.clone());
        place
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let held = std::mem::take(self.held.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Some(connection) = held.idle.filter(|connection| !connection.is_bound) {
            self.upstreams.keep(&self.key, Kept::H1(connection));
        }
        for line in held.lines {
            if line.open_streams() == 0 && !line.is_bound() {
                self.upstreams.keep(&self.key, Kept::H2(line));
            }
        }
    }
}

//! The end of a connection, and the rest of an upload that nobody wants. A socket that is closed while bytes of the
//! agent are unread resets the connection, and the reset can destroy the answer before the agent has read it
//! (RFC 9112 §9.6).

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::super::wire::Discarded;
use super::super::{Filled, Shared};

/// How long the rest of an unwanted upload is still read, and how long it may be silent meanwhile.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// How long an upload that outlives its answer may stand still (R35).
const UPLOAD_SILENCE: Duration = Duration::from_secs(10 * 60);
/// How long the last words to an agent that does not read may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Waits until the body of the request is read by who reads it, and reads what is left of it. False if the connection
/// cannot go on.
pub(super) async fn read_rest(shared: &Shared) -> bool {
    if shared.lock().is_read() {
        return true;
    }
    if !reader_is_done(shared).await {
        return false;
    }
    let until = Instant::now() + LINGER;
    loop {
        let part = timeout(LINGER_SILENCE, poll_fn(|cx| shared.lock().poll_discard(cx)));
        match timeout_at(until, part).await {
            Ok(Ok(Discarded::Some)) => {}
            Ok(Ok(Discarded::Whole)) => return true,
            _ => return false,
        }
    }
}

/// Waits until nobody reads the body any more: what is read by two would arrive with holes. False if the upload stands
/// still, because the site has stopped reading it.
async fn reader_is_done(shared: &Shared) -> bool {
    loop {
        let reads = shared.lock().reads();
        let done = poll_fn(|cx| {
            let mut wire = shared.lock();
            wire.own(cx);
            match wire.is_being_read() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        });
        if timeout(UPLOAD_SILENCE, done).await.is_ok() {
            return true;
        }
        if shared.lock().reads() == reads {
            return false;
        }
    }
}

/// Ends a connection in order.
pub(super) async fn close(shared: &Shared) {
    let unread = {
        let wire = shared.lock();
        !wire.is_read() || !wire.input.is_empty()
    };
    if unread {
        return linger(shared).await;
    }
    shut_down(shared).await;
    shared.lock().cut();
}

/// Ends it, and drops what the agent is still sending.
pub(super) async fn linger(shared: &Shared) {
    shut_down(shared).await;
    if !reader_is_done(shared).await {
        return shared.lock().cut();
    }
    let until = Instant::now() + LINGER;
    loop {
        let part = poll_fn(|cx| {
            let mut wire = shared.lock();
            wire.input.clear();
            wire.poll_fill(cx)
        });
        match timeout_at(until, timeout(LINGER_SILENCE, part)).await {
            Ok(Ok(Filled::More)) => {}
            _ => break,
        }
    }
    shared.lock().cut();
}

async fn shut_down(shared: &Shared) {
    // It may be gone, and then needs no farewell.
    let _ = timeout(FAREWELL, poll_fn(|cx| shared.lock().poll_shutdown(cx))).await;
}

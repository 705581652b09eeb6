//! How long there has been no connection, and when the next attempt is due.

use std::time::Duration;

use tokio::time::Instant;

/// The pause between two attempts to connect: the first, and the longest.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long there has been no connection.
pub(super) struct Outage {
    pub why: String,
    pub next_try: Instant,
    pub pause: Duration,
    pub reported: bool,
}

impl Outage {
    pub(super) fn none() -> Self {
        Self {
            why: String::new(),
            next_try: Instant::now(),
            pause: FIRST_PAUSE,
            reported: false,
        }
    }
}

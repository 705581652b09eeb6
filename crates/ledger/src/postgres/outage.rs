//! The connection: got when it is needed, got again by itself, and given up for good when this node is somebody else.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::connect::NoConnection;
use super::engine::Engine;
use crate::model::Alarm;

/// Between two attempts to connect: at first, and at most.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Connecting again, all in all; the first time there is more to do.
const RECONNECTING: Duration = Duration::from_secs(5);
const STARTING: Duration = Duration::from_secs(30);

/// How long there has been no connection.
pub struct Outage {
    pub why: String,
    pub next_try: Instant,
    pub pause: Duration,
    pub told: bool,
}

impl Outage {
    pub fn none() -> Self {
        Self {
            why: String::new(),
            next_try: Instant::now(),
            pause: FIRST_PAUSE,
            told: false,
        }
    }
}

impl Engine {
    /// Another process writes as this node: this one must not.
    pub fn stop(&mut self) -> String {
        let why = "another bursar runs as this node on the shared books: a copy of this data directory is in use. Stop one of \
                   the two; a directory must not be copied to make a second node"
            .to_owned();
        tracing::error!(%why, "payments are refused until a restart");
        (self.alarms)(Alarm::StoreFailed { why: why.clone() });
        self.session = None;
        self.stopped = Some(why.clone());
        why
    }

    /// A connection that can be used, or why there is none. Bounded.
    pub async fn connected(&mut self) -> Result<(), String> {
        if let Some(why) = &self.stopped {
            return Err(why.clone());
        }
        if self.session.as_ref().is_some_and(|session| session.client.is_closed()) {
            (self.session, self.outage.next_try) = (None, Instant::now());
        }
        if self.session.is_some() {
            return Ok(());
        }
        if Instant::now() < self.outage.next_try {
            return Err(self.outage.why.clone());
        }
        let patience = if self.epoch.is_some() { RECONNECTING } else { STARTING };
        let is_first = self.epoch.is_none();
        let established = timeout(patience, self.establish()).await;
        if established.is_err() && is_first {
            self.epoch = None;
        }
        let late = || Err(NoConnection::Down("it takes too long to answer".to_owned()));
        match established.unwrap_or_else(|_| late()) {
            Ok(()) => {
                if self.outage.told {
                    tracing::info!("connected to the database again");
                }
                self.outage = Outage::none();
                Ok(())
            }
            Err(no_way) => Err(self.went_down(&no_way)),
        }
    }

    pub fn went_down(&mut self, no_way: &NoConnection) -> String {
        self.session = None;
        let why = format!("the database with the books cannot be used: {}", no_way.text());
        self.outage.next_try = Instant::now() + self.outage.pause;
        self.outage.pause = (self.outage.pause * 2).min(LONGEST_PAUSE);
        if !std::mem::replace(&mut self.outage.told, true) {
            tracing::error!(%why, "payments are refused until it can");
            (self.alarms)(Alarm::StoreFailed { why: why.clone() });
        }
        self.outage.why.clone_from(&why);
        why
    }
}

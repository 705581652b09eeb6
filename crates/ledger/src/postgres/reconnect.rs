//! The connection: opened when it is needed, reopened automatically, and given up permanently when another process
//! writes as this node.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::connect::NoConnection;
use super::engine::Engine;
use super::outage::{LONGEST_PAUSE, Outage};
use crate::model::Alarm;

/// The time allowed for a reconnection; the first connection has more to do.
const RECONNECTING: Duration = Duration::from_secs(5);
const STARTING: Duration = Duration::from_secs(30);

impl Engine {
    /// Another process writes as this node, so this one must stop writing.
    pub(super) fn stop(&mut self) -> String {
        let why = "another bursar runs as this node on the shared ledger: a copy of this data directory is in use. \
                   Stop one of the two; for a second node, run `bursar init` in a new directory instead of copying \
                   this one"
            .to_owned();
        tracing::error!(%why, "payments are refused until a restart");
        (self.alarms)(Alarm::StoreFailed { why: why.clone() });
        self.session = None;
        self.stopped = Some(why.clone());
        why
    }

    /// Makes sure that there is a usable connection, or says why there is none. Takes a bounded time.
    pub(super) async fn connected(&mut self) -> Result<(), String> {
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
                if self.outage.reported {
                    tracing::info!("connected to the database again");
                }
                self.outage = Outage::none();
                Ok(())
            }
            Err(no_way) => Err(self.went_down(&no_way)),
        }
    }

    pub(super) fn went_down(&mut self, no_way: &NoConnection) -> String {
        self.session = None;
        let why = format!("the ledger's database cannot be used: {}", no_way.text());
        self.outage.next_try = Instant::now() + self.outage.pause;
        self.outage.pause = (self.outage.pause * 2).min(LONGEST_PAUSE);
        if !std::mem::replace(&mut self.outage.reported, true) {
            tracing::error!(%why, "payments are refused until the database can be used");
            (self.alarms)(Alarm::StoreFailed { why: why.clone() });
        }
        self.outage.why.clone_from(&why);
        why
    }
}

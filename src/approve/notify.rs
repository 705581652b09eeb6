//! Tells an approver that a question waits, by the operator's own command or webhook.
//!
//! What is told has the code in its sentence, so it is for the approver's eyes: it goes to the configured ways and nowhere else,
//! least of all into a log (Ruling 47).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::alerts::Way;
use crate::approval::Question;
use crate::clock::SharedClock;
use crate::ledger::Rid;

const KIND: &str = "approval";

/// Who is told, and how.
pub struct Notify {
    ways: Vec<Way>,
    clock: SharedClock,
}

/// Members in this order. No `Debug`: the code is in it.
#[derive(Serialize)]
struct Notice {
    kind: &'static str,
    id: Rid,
    sentence: String,
    /// For a command that tells several people.
    approver: String,
    expires_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// By one way at least.
    Somehow,
    /// By none, or there is none. The question still waits for whoever looks by themselves.
    Nohow,
}

impl Notify {
    pub fn new(ways: Vec<Way>, clock: SharedClock) -> Self {
        Self { ways, clock }
    }

    /// Tells by all ways at once, each with the retries of an alert, until the question is over. Whoever stops waiting stops the
    /// telling; a command is killed then.
    pub async fn tell(&self, question: &Question, expires_at: Timestamp) -> Told {
        let left = expires_at.duration_since(self.clock.now());
        let Ok(left) = Duration::try_from(left) else {
            return Told::Nohow;
        };
        let notice = Arc::new(Notice {
            kind: KIND,
            id: question.id,
            sentence: question.sentence.clone(),
            approver: question.intent.member("approver").unwrap_or_default().to_owned(),
            expires_at,
        });
        let mut telling = JoinSet::new();
        for way in &self.ways {
            let (way, notice) = (way.clone(), notice.clone());
            telling.spawn(async move {
                let never = CancellationToken::new();
                timeout(left, way.insist(KIND, Some(notice.id), &*notice, &never)).await
            });
        }
        let mut told = Told::Nohow;
        while let Some(ended) = telling.join_next().await {
            if matches!(ended, Ok(Ok(Ok(())))) {
                told = Told::Somehow;
            }
        }
        told
    }
}

#[cfg(test)]
mod tests;

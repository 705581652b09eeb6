//! Notifies an approver that a question is waiting, through the operator's own command or webhook.
//!
//! The notice contains the code, so it is for the approver only: it goes to the configured channels and nowhere else,
//! least of all into a log (R47).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Alert, Alerts, Channel};
use bursar_approvals::questions::Bound;
use bursar_approvals::{Notified, Notifier, Reply};
use bursar_core::approval::Question;
use bursar_core::clock::SharedClock;
use bursar_core::payment_id::PaymentId;
use bursar_core::plain::plain;

const KIND: &str = "approval";

/// The channels through which approvers are notified.
pub struct QuestionNotifier {
    channels: Vec<Channel>,
    clock: SharedClock,
    alerts: Alerts,
}

/// Members in this order. No `Debug`, because it contains the code.
#[derive(Serialize)]
struct Notice {
    kind: &'static str,
    id: PaymentId,
    sentence: String,
    /// For a command that notifies several people.
    approver: String,
    expires_at: Timestamp,
}

impl QuestionNotifier {
    pub fn new(channels: Vec<Channel>, clock: SharedClock, alerts: Alerts) -> Self {
        Self {
            channels,
            clock,
            alerts,
        }
    }
}

impl Notifier for QuestionNotifier {
    /// Uses all channels at once, each with the retries of an alert, until the question is over. Dropping the future
    /// stops the notices; a command that is running is killed then.
    fn notify<'a>(&'a self, question: &'a Question, expires_at: Timestamp) -> Reply<'a, Notified> {
        Box::pin(self.through_all_channels(question, expires_at))
    }

    fn bounded(&self, bound: &Bound) {
        self.alerts.raise(Alert::ApprovalFlood(bound.clone()));
    }
}

impl QuestionNotifier {
    async fn through_all_channels(&self, question: &Question, expires_at: Timestamp) -> Notified {
        let left = expires_at.duration_since(self.clock.now());
        let Ok(left) = Duration::try_from(left) else {
            return Notified::ByNone;
        };
        let notice = Arc::new(Notice {
            kind: KIND,
            id: question.id,
            sentence: plain(&question.sentence).into_owned(),
            approver: plain(question.intent.member("approver").unwrap_or_default()).into_owned(),
            expires_at,
        });
        let mut attempts = JoinSet::new();
        for channel in &self.channels {
            let (channel, notice) = (channel.clone(), notice.clone());
            attempts.spawn(async move {
                let never = CancellationToken::new();
                timeout(left, channel.send_with_retries(KIND, Some(notice.id), &*notice, &never)).await
            });
        }
        let mut notified = Notified::ByNone;
        while let Some(ended) = attempts.join_next().await {
            if matches!(ended, Ok(Ok(Ok(())))) {
                notified = Notified::ByOneAtLeast;
            }
        }
        notified
    }
}

#[cfg(test)]
mod tests;

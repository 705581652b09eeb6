//! A request that waits for its question, and takes the approval.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::{Over, Questions, Row, Stage};
use bursar_core::approval::ApprovalIntent;
use bursar_ledger::PaymentId;

/// How long the ledger and the backend may take to accept a question, before the agent has to ask again.
const PUTTING: Duration = Duration::from_secs(15);
/// A request waiting for its question.
pub struct Wait {
    pub(super) questions: Questions,
    pub(super) row: Arc<Row>,
    pub(super) stage: watch::Receiver<Stage>,
}

/// An approval taken by one request. If dropped unused, another request may take it.
pub struct Taken {
    pub(super) questions: Questions,
    pub(super) row: Arc<Row>,
    use_by: Timestamp,
    pub(super) used: bool,
}

impl Wait {
    pub fn id(&self) -> PaymentId {
        self.row.id
    }

    pub fn ends(&self) -> Timestamp {
        self.row.ends
    }

    /// The stage once the question is approved or over; `None` after `hold`, which begins when an approver has the
    /// question.
    pub async fn decided(&mut self, hold: Duration) -> Option<Stage> {
        let put = self.stage.wait_for(|stage| !matches!(stage, Stage::Asking));
        let put = tokio::time::timeout(PUTTING, async { drop(put.await) });
        if put.await.is_err() {
            return None;
        }
        let decided = self.stage.wait_for(|stage| match stage {
            Stage::Asking | Stage::Open | Stage::Taken { .. } => false,
            Stage::Approved { .. } | Stage::Over(_) => true,
        });
        match tokio::time::timeout(hold, decided).await {
            Ok(Ok(stage)) => Some(stage.clone()),
            // `Err` is the timeout. The channel cannot close: `self` keeps the row, and so its sender, alive.
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// `None` if another request took the approval first, or if it has expired.
    pub fn take(&self) -> Option<Taken> {
        let now = self.questions.0.clock.now();
        let mut until = None;
        self.row.stage.send_if_modified(|stage| match *stage {
            Stage::Approved { use_by } if now < use_by => {
                *stage = Stage::Taken { use_by };
                until = Some(use_by);
                true
            }
            _ => false,
        });
        until.map(|use_by| Taken {
            questions: self.questions.clone(),
            row: self.row.clone(),
            use_by,
            used: false,
        })
    }
}

impl Taken {
    pub fn id(&self) -> PaymentId {
        self.row.id
    }

    /// The intent that was approved.
    pub fn intent(&self) -> &ApprovalIntent {
        &self.row.intent
    }

    /// Whether the question named this rule, so that the approval lifts it.
    pub fn names(&self, rule: &str) -> bool {
        self.row.rules.iter().any(|named| named == rule)
    }

    /// Whether any of these owners was allowed to approve: the agent's owners may have changed since the question was
    /// asked.
    pub fn may_have_been_approved_by(&self, owners: &[String]) -> bool {
        owners.iter().any(|owner| !self.row.owners.contains(owner))
    }

    /// The payment is armed: the approval is used up.
    pub fn used(mut self) {
        self.used = true;
        self.questions.over(&self.row, Over::Used);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.used {
            let use_by = self.use_by;
            self.row.stage.send_replace(Stage::Approved { use_by });
        }
    }
}

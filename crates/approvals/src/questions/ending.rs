//! How a question ends: its approval is used or not, or it is denied, expires or fails. The end is recorded in the ledger
//! (R45), then the held money is released, and then the waiting requests are woken.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::sleep;

use super::{Denied, Over, Questions, Row, Stage, Taken, later, until};
use crate::{Denial, Failure};
use bursar_ledger::{ApprovalStep, LedgerError, Outcome, PaymentId, Reason};

/// Why an approval is not used for what would be paid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// The site asks for something else.
    Terms,
    /// A rule that the question did not name is passed as well (R82).
    AnotherRule,
    /// The person who approved owns the agent.
    Owner,
}

impl Withdrawn {
    /// As the ledger records it.
    const fn name(self) -> &'static str {
        match self {
            Self::Terms => "terms-changed",
            Self::AnotherRule => "another-rule",
            Self::Owner => "owner",
        }
    }
}

impl Questions {
    pub(super) async fn wait_for_use(&self, row: Arc<Row>, use_by: Timestamp) {
        let mut stage = row.stage.subscribe();
        let used = stage.wait_for(|stage| matches!(stage, Stage::Over(_)));
        let left = until(self.0.clock.now(), use_by);
        // The guard holds the channel's lock, so drop it before the next wait.
        let used = async { drop(used.await) };
        tokio::select! {
            () = used => return self.forget(&row),
            () = self.0.stop.cancelled() => return,
            () = sleep(left) => {}
        }
        // A request may have taken the approval just now: wait until it uses it or puts it back.
        let settled = stage.wait_for(|stage| !matches!(stage, Stage::Taken { .. })).await;
        let is_over = settled.is_ok_and(|stage| matches!(*stage, Stage::Over(_)));
        match is_over {
            true => self.forget(&row),
            false => self.expired(&row, "unused").await,
        }
    }

    /// Ends an approval that does not cover what would be paid now.
    pub async fn withdraw(&self, mut taken: Taken, why: Withdrawn) {
        taken.used = true;
        self.expired(&taken.row, why.name()).await;
    }

    /// Ends an approval that cannot be used: it expired, or another proxy took over the payment.
    pub async fn run_out(&self, mut taken: Taken) {
        taken.used = true;
        self.expired(&taken.row, "unused").await;
    }

    /// Denies an approval that is not used yet. Returns how the question ended.
    pub(super) async fn revoke(&self, mut taken: Taken, denial: Denial) -> Over {
        taken.used = true;
        self.denied(&taken.row, denial).await;
        match &*taken.row.stage.borrow() {
            Stage::Over(over) => over.clone(),
            Stage::Asking | Stage::Open | Stage::Approved { .. } | Stage::Taken { .. } => Over::Expired,
        }
    }

    pub(super) async fn denied(&self, row: &Arc<Row>, denial: Denial) {
        let until = later(self.0.clock.now(), self.0.settings.deny_cooldown);
        tracing::info!(approval = %row.id, agent = %row.agent, by = denial.by.as_deref(), "payment denied");
        let refused = ApprovalStep::Refused {
            id: row.id,
            by: denial.by.clone(),
            why: denial.why.clone().unwrap_or_else(|| "denied".to_owned()),
            until,
        };
        let remembered = Denied {
            denial: denial.clone(),
            until,
        };
        self.state().denied.insert(row.asker(), remembered);
        self.end(row, refused, Reason::ApprovalDenied, Over::Denied(denial))
            .await;
    }

    pub(super) async fn expired(&self, row: &Arc<Row>, why: &'static str) {
        tracing::info!(approval = %row.id, agent = %row.agent, why, "the question expired");
        let step = ApprovalStep::Expired {
            id: row.id,
            why: why.to_owned(),
        };
        self.end(row, step, Reason::ApprovalExpired, Over::Expired).await;
    }

    pub(super) async fn fails(&self, row: &Arc<Row>, failure: Failure) {
        tracing::error!(approval = %row.id, agent = %row.agent, code = failure.code, "the question failed");
        let (id, why) = (row.id, format!("error:{}", failure.code));
        let step = ApprovalStep::Expired { id, why };
        self.end(row, step, Reason::ApprovalFailed, Over::Failed(failure)).await;
    }

    /// Records the end, releases the money, then wakes the waiting requests.
    async fn end(&self, row: &Arc<Row>, step: ApprovalStep, released: Reason, over: Over) {
        self.close(row);
        let over = match self.0.ledger.approval(step).await {
            Ok(()) => over,
            // Another proxy took over the payment meanwhile and released the money.
            Err(LedgerError::Approval(error)) => {
                tracing::warn!(approval = %row.id, %error, "the question had already ended");
                return self.over(row, over);
            }
            // A ledger in a database records the end and the release once it is reachable again.
            Err(error) => {
                tracing::error!(approval = %row.id, %error, "cannot record the end of the question in the ledger");
                Over::NotRecorded(error)
            }
        };
        self.release(row.id, released).await;
        self.over(row, over);
    }

    /// Lets the backend forget the question: no answer is needed any more.
    pub(super) fn close(&self, row: &Row) {
        for ask in &row.asks {
            self.0.backend.close(&ask.question);
        }
    }

    pub(super) async fn give_up(&self, id: PaymentId, rid: PaymentId, why: &str) {
        let step = ApprovalStep::Expired {
            id,
            why: why.to_owned(),
        };
        if let Err(error) = self.0.ledger.approval(step).await {
            tracing::error!(approval = %id, %error, "cannot record the end of the question in the ledger");
        }
        self.release(rid, Reason::ApprovalFailed).await;
    }

    pub(super) async fn release(&self, rid: PaymentId, why: Reason) {
        if let Err(error) = self.0.ledger.finish(rid, Outcome::Released { why }).await {
            tracing::error!(payment = %rid, %error, "cannot release the held money; the next start releases it");
        }
    }

    /// Forgets the question, so that an equal one can be asked, then wakes the waiting requests.
    pub(super) fn over(&self, row: &Arc<Row>, over: Over) {
        self.forget(row);
        row.stage.send_replace(Stage::Over(over));
    }

    fn forget(&self, row: &Arc<Row>) {
        let mut state = self.state();
        let asker = row.asker();
        if state.live.get(&asker).is_some_and(|live| live.id == row.id) {
            state.live.remove(&asker);
        }
    }
}

pub(super) fn failure(code: &str, retryable: bool) -> Failure {
    Failure {
        code: code.to_owned(),
        retryable,
    }
}

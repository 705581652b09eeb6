//! The operator's commands: list open questions, approve, deny. An answer counts once the ledger has recorded it.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Ask, Over, Questions, Row, Stage};
use crate::Denial;
use crate::operator::{NotTaken, Operator};
use bursar_core::approval::Question;
use bursar_ledger::PaymentId;

/// A question as `bursar pending` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pending {
    pub id: PaymentId,
    pub agent: String,
    pub approver: String,
    /// The backend as named in bursar.toml. Only `operator` questions can be approved by command.
    pub backend: String,
    pub state: String,
    pub sentence: String,
    pub code: String,
    pub resource: String,
    pub method: String,
    pub payee: String,
    pub network: String,
    /// Paths in limits.toml of the rules that require the approval, and that it lifts.
    pub rules: Vec<String>,
    pub ends: Timestamp,
}

/// Why an operator's answer was not taken.
#[derive(Debug, Error)]
pub enum NotAnswered {
    #[error("[approval] backend in bursar.toml is {0:?}: approvers answer on their own devices, not here")]
    OtherBackend(&'static str),
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    /// Threat 4.4.
    #[error("{0} owns this agent in limits.toml and cannot approve its purchases; another account, or root, must")]
    Owner(String),
    #[error("the answer was not recorded in the ledger: {0}")]
    NotRecorded(String),
}

impl Questions {
    /// Questions that wait for a person, and approvals not used yet, oldest first.
    pub fn pending(&self) -> Vec<Pending> {
        let mut pending: Vec<Pending> = self
            .state()
            .live
            .values()
            .flat_map(|row| row.pending(self.0.backend.name()))
            .collect();
        pending.sort_by_key(|pending| pending.id);
        pending
    }

    /// Approves a question. Returns once the ledger has recorded it.
    pub async fn approve(&self, id: PaymentId, code: &str, by: String) -> Result<(), NotAnswered> {
        let operator = self.operator()?;
        if self.row(id).is_some_and(|row| row.owners.contains(&by)) {
            return Err(NotAnswered::Owner(by));
        }
        operator.approve(id, code, by)?;
        self.answered(id).await
    }

    /// Denies a question, or revokes an approval that is not used yet.
    pub async fn deny(&self, id: PaymentId, why: String, by: String) -> Result<(), NotAnswered> {
        let operator = self.operator()?;
        if let Some(taken) = self.row(id).and_then(|row| self.watching(row).take()) {
            let denial = Denial {
                by: Some(by),
                why: Some(why),
            };
            return match self.revoke(taken, denial).await {
                Over::NotRecorded(error) => Err(NotAnswered::NotRecorded(error.to_string())),
                _ => Ok(()),
            };
        }
        operator.deny(id, why, by)?;
        self.answered(id).await
    }

    fn operator(&self) -> Result<&Operator, NotAnswered> {
        let name = self.0.backend.name();
        self.0.operator.as_deref().ok_or(NotAnswered::OtherBackend(name))
    }

    async fn answered(&self, id: PaymentId) -> Result<(), NotAnswered> {
        let Some(row) = self.row(id) else {
            return Err(NotTaken::NotOpen(id).into());
        };
        let mut stage = row.stage.subscribe();
        row.asks.iter().for_each(|ask| ask.wake.notify_one());
        let decided = async {
            let decided = stage.wait_for(|stage| !matches!(stage, Stage::Asking | Stage::Open));
            decided.await.map(|stage| stage.clone())
        };
        let decided = tokio::select! {
            biased;
            decided = decided => decided,
            // The question's task may have stopped before it saw the answer.
            () = self.0.stop.cancelled() => {
                let why = "the server is stopping; `bursar pending` shows after the next start whether it was";
                return Err(NotAnswered::NotRecorded(why.to_owned()));
            }
        };
        match decided {
            Ok(Stage::Over(Over::NotRecorded(error))) => Err(NotAnswered::NotRecorded(error.to_string())),
            Ok(Stage::Over(Over::Failed(failure))) => Err(NotAnswered::NotRecorded(failure.to_string())),
            Ok(Stage::Over(Over::Expired)) => Err(NotTaken::NotOpen(id).into()),
            _ => Ok(()),
        }
    }

    fn row(&self, id: PaymentId) -> Option<Arc<Row>> {
        self.state().live.values().find(|row| row.id == id).cloned()
    }
}

impl Row {
    /// One item per approver.
    fn pending(&self, backend: &str) -> Vec<Pending> {
        let state = match &*self.stage.borrow() {
            Stage::Asking | Stage::Over(_) => return Vec::new(),
            Stage::Open => "open",
            Stage::Approved { .. } | Stage::Taken { .. } => "approved",
        };
        let pending = self.asks.iter().map(|Ask { question, .. }| {
            let Question {
                id,
                intent,
                code,
                sentence,
                ..
            } = question;
            let member = |name| intent.member(name).unwrap_or_default().to_owned();
            Pending {
                id: *id,
                agent: self.agent.clone(),
                approver: member("approver"),
                backend: backend.to_owned(),
                state: state.to_owned(),
                sentence: sentence.clone(),
                code: code.to_string(),
                resource: member("resource"),
                method: member("method"),
                payee: member("payee"),
                network: member("network"),
                rules: self.rules.clone(),
                ends: self.ends,
            }
        });
        pending.collect()
    }
}

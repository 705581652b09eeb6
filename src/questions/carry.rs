//! One question from the hold to its end. Every step is in the books before anybody acts on it: a crash anywhere finds either a
//! question that goes on, or money that is given back (Rulings 44 and 45).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use super::kept::{self, Kept};
use super::{Denied, Over, Questions, Row, Stage, Taken, evidence_bytes, later, until};
use crate::approval::{Evidence, Question};
use crate::approve::{Asked, Denial, Failure, Standing};
use crate::ledger::{ApprovalRow, ApprovalState, ApprovalStep, Hold, LedgerError, Outcome, Requested, Rid};

/// An approval that was given and not used ends after this (Ruling 43).
const UNUSED: Duration = Duration::from_secs(15 * 60);
/// What is seen after the end may have been decided before it (digest §7).
const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// How long the replay key of an answer without an end of its own is kept beyond its use.
const REPLAY: Duration = Duration::from_secs(3600);

impl Questions {
    /// Sets the money aside, asks, and stays with it to its end.
    pub(super) async fn put(&self, row: Arc<Row>, hold: Hold) {
        let (backend, question) = (&self.0.backend, &row.question);
        if let Err(error) = self.0.ledger.hold(hold).await {
            // Nobody was bothered.
            self.state().prompts.take_back(&row.prompt());
            return self.over(&row, Over::NotHeld(error));
        }
        let requested = ApprovalStep::Requested(Requested {
            id: row.id(),
            rid: row.id(),
            agent: row.agent.clone(),
            approver: question.intent.member("approver").unwrap_or_default().to_owned(),
            backend: backend.name().to_owned(),
            intent: question.intent.hash(),
            until: row.ends,
        });
        if let Err(error) = self.0.ledger.approval(requested).await {
            self.release(row.id(), "approval-not-recorded").await;
            return self.over(&row, Over::NotRecorded(error));
        }
        let mut kept = self.describe(&row);
        // Before the backend hears of it: without the file nobody could read later what was asked.
        if let Err(error) = kept.write(&self.0.folder) {
            tracing::error!(approval = %row.id(), %error, "the question cannot be kept, so it is not asked");
            return self.fails(&row, failure("not_kept", true)).await;
        }
        let asked = match backend.start(question).await {
            Ok(asked) => asked,
            Err(failure) => return self.fails(&row, failure).await,
        };
        let _ = row.handle.set(asked.handle.clone());
        kept.asked = Some((&asked).into());
        if let Err(error) = kept.write(&self.0.folder) {
            // It goes on; only a restart would not find it again.
            tracing::error!(approval = %row.id(), %error, "the handle of the question cannot be kept");
        }
        tracing::info!(approval = %row.id(), agent = %row.agent, backend = backend.name(), "a person is asked");
        self.tell(row.clone());
        row.stage.send_replace(Stage::Open);
        self.wait_for_answer(row, asked, kept).await;
    }

    /// By the operator's own ways, until one way has told it or it is decided. The log is not one of them (Ruling 47).
    fn tell(&self, row: Arc<Row>) {
        let questions = self.clone();
        self.0.tasks.spawn(async move {
            let mut stage = row.stage.subscribe();
            let decided = async {
                drop(
                    stage
                        .wait_for(|stage| !matches!(stage, Stage::Asking | Stage::Open))
                        .await,
                )
            };
            tokio::select! {
                _ = questions.0.notify.tell(&row.question, row.ends) => {}
                () = decided => {}
                () = questions.0.stop.cancelled() => {}
            }
        });
    }

    /// A question of an earlier run.
    pub(super) async fn take_up(&self, live: ApprovalRow) {
        let ApprovalRow { id, rid, agent, .. } = live;
        if live.backend != self.0.backend.name() {
            tracing::error!(approval = %id, asked = live.backend, "bursar.toml asks by another way now; the payment is given up");
            return self.give_up(id, rid, "error:other_backend").await;
        }
        let kept = kept::read(&self.0.folder, id);
        let question = kept.as_ref().and_then(Kept::question).filter(|question| {
            // The books say what was asked; a file that says otherwise is not it.
            question.intent.hash() == live.intent && id == rid
        });
        let (Some(kept), Some(question)) = (kept, question) else {
            tracing::error!(approval = %id, "what was asked is not in private/approvals any more; the payment is given up");
            return self.give_up(id, rid, "error:question_lost").await;
        };
        let row = Row::new(question, agent, kept.idempotency(), kept.ends);
        self.state().live.insert(row.asker(), row.clone());
        let questions = self.clone();
        match (live.state, &kept.asked, &kept.evidence) {
            (ApprovalState::Granted { use_by, .. }, ..) => {
                row.stage.send_replace(Stage::Approved { use_by });
                self.0
                    .tasks
                    .spawn(async move { questions.wait_for_use(row, use_by).await });
            }
            // Verified, and then the process died before the books had it.
            (ApprovalState::Pending { .. }, _, Some(evidence)) => {
                let evidence = evidence.clone();
                self.0
                    .tasks
                    .spawn(async move { questions.grant(row, evidence, kept).await });
            }
            (ApprovalState::Pending { .. }, Some(handle), None) => {
                let asked = Asked::from(handle.clone());
                self.0.backend.take_up(&row.question);
                row.stage.send_replace(Stage::Open);
                self.0
                    .tasks
                    .spawn(async move { questions.wait_for_answer(row, asked, kept).await });
            }
            // Somebody may have been asked, and nobody can hear the answer (Ruling 44).
            (ApprovalState::Pending { .. }, None, None) => self.fails(&row, failure("start_unknown", true)).await,
        }
    }

    async fn wait_for_answer(&self, row: Arc<Row>, mut asked: Asked, kept: Kept) {
        let (backend, question, clock) = (&self.0.backend, &row.question, &self.0.clock);
        let last = asked
            .expires_at
            .min(row.ends)
            .saturating_add(GRACE)
            .unwrap_or(Timestamp::MAX);
        let _ = row.handle.set(asked.handle.clone());
        // Neither a clock that goes ahead nor one that is set back makes the wait longer (digest §10).
        let deadline = Instant::now() + until(clock.now(), last);
        let mut wait = asked.interval;
        loop {
            let left = until(clock.now(), last).min(deadline.saturating_duration_since(Instant::now()));
            tokio::select! {
                biased;
                // An answer that was given is heard, whatever else happens.
                () = row.wake.notified() => {}
                // The books have it as open; the next start takes it up.
                () = self.0.stop.cancelled() => return,
                () = sleep(wait.min(left)) => {}
            }
            let is_last = clock.now() >= last || Instant::now() >= deadline;
            wait = match backend.poll(question, &mut asked).await {
                Standing::Approved(evidence) => return self.grant(row, *evidence, kept).await,
                Standing::Denied(denial) => return self.denied(&row, denial).await,
                Standing::Failed(failure) => return self.fails(&row, failure).await,
                Standing::Pending { wait } if !is_last => wait,
                Standing::Pending { .. } | Standing::Expired => return self.expired(&row, "timeout").await,
            };
        }
    }

    /// The evidence is on the disk before its entry says so, and the entry before anybody may use it.
    async fn grant(&self, row: Arc<Row>, evidence: Evidence, mut kept: Kept) {
        let now = self.0.clock.now();
        // Counted from the answer: one that was found again after a long stop is none any more.
        let unused = later(evidence.decided_at.min(now), UNUSED);
        let use_by = evidence.good_until.map_or(unused, |good_until| good_until.min(unused));
        if use_by <= now {
            return self.expired(&row, "unused").await;
        }
        let Ok(replay) = alloy_primitives::hex::decode_to_array(&evidence.replay_key) else {
            return self.fails(&row, failure("no_replay_key", false)).await;
        };
        let granted = ApprovalStep::Granted {
            id: row.id(),
            by: evidence.approver.clone(),
            kind: evidence.kind,
            evidence_sha256: Sha256::digest(evidence_bytes(&evidence)).into(),
            replay,
            replay_until: later(use_by.max(evidence.good_until.unwrap_or(use_by)), REPLAY),
            use_by,
        };
        let by = evidence.approver.clone();
        kept.evidence = Some(evidence);
        if let Err(error) = kept.write(&self.0.folder) {
            tracing::error!(approval = %row.id(), %error, "the evidence cannot be kept, so it does not count");
            return self.fails(&row, failure("evidence_not_kept", true)).await;
        }
        match self.0.ledger.approval(granted).await {
            Ok(()) => {}
            Err(LedgerError::Approval(error)) => {
                tracing::error!(approval = %row.id(), %error, "the evidence does not count");
                return self.fails(&row, failure("replayed", false)).await;
            }
            Err(error) => return self.over(&row, Over::NotRecorded(error)),
        }
        tracing::info!(approval = %row.id(), agent = %row.agent, %by, "approved");
        row.stage.send_replace(Stage::Approved { use_by });
        self.wait_for_use(row, use_by).await;
    }

    async fn wait_for_use(&self, row: Arc<Row>, use_by: Timestamp) {
        let mut stage = row.stage.subscribe();
        let used = stage.wait_for(|stage| matches!(stage, Stage::Over(_)));
        let left = until(self.0.clock.now(), use_by);
        // No lock of the channel's may be held from one wait to the next.
        let used = async { drop(used.await) };
        tokio::select! {
            () = used => return self.forget(&row),
            () = self.0.stop.cancelled() => return,
            () = sleep(left) => {}
        }
        // One request may have it in its hands just now; whoever comes later finds it over.
        let settled = stage.wait_for(|stage| !matches!(stage, Stage::Taken { .. })).await;
        let is_over = settled.is_ok_and(|stage| matches!(*stage, Stage::Over(_)));
        match is_over {
            true => self.forget(&row),
            false => self.expired(&row, "unused").await,
        }
    }

    /// What was approved is not what would be paid now.
    pub async fn withdraw(&self, mut taken: Taken) {
        taken.used = true;
        self.expired(&taken.row, "terms-changed").await;
    }

    /// What was approved is denied after all, before anybody has used it. Answers how it ended.
    pub(super) async fn revoke(&self, mut taken: Taken, denial: Denial) -> Over {
        taken.used = true;
        self.denied(&taken.row, denial).await;
        match &*taken.row.stage.borrow() {
            Stage::Over(over) => over.clone(),
            Stage::Asking | Stage::Open | Stage::Approved { .. } | Stage::Taken { .. } => Over::Expired,
        }
    }

    async fn denied(&self, row: &Arc<Row>, denial: Denial) {
        let until = later(self.0.clock.now(), self.0.settings.deny_cooldown);
        tracing::info!(approval = %row.id(), agent = %row.agent, by = denial.by.as_deref(), "denied");
        let refused = ApprovalStep::Refused {
            id: row.id(),
            by: denial.by.clone(),
            why: denial.why.clone().unwrap_or_else(|| "denied".to_owned()),
            until,
        };
        let remembered = Denied {
            denial: denial.clone(),
            until,
        };
        self.state().denied.insert(row.asker(), remembered);
        self.end(row, refused, "approval-denied", Over::Denied(denial)).await;
    }

    async fn expired(&self, row: &Arc<Row>, why: &'static str) {
        tracing::info!(approval = %row.id(), agent = %row.agent, why, "the question has run out");
        let id = row.id();
        let step = ApprovalStep::Expired {
            id,
            why: why.to_owned(),
        };
        self.end(row, step, "approval-expired", Over::Expired).await;
    }

    async fn fails(&self, row: &Arc<Row>, failure: Failure) {
        tracing::error!(approval = %row.id(), agent = %row.agent, code = failure.code, "there will be no answer");
        let (id, why) = (row.id(), format!("error:{}", failure.code));
        let step = ApprovalStep::Expired { id, why };
        self.end(row, step, "approval-failed", Over::Failed(failure)).await;
    }

    /// Into the books, the money back, and then those who wait are told.
    async fn end(&self, row: &Arc<Row>, step: ApprovalStep, released: &'static str, over: Over) {
        self.0.backend.close(&row.question);
        if let Err(error) = self.0.ledger.approval(step).await {
            tracing::error!(approval = %row.id(), %error, "the end of the question is not recorded");
            return self.over(row, Over::NotRecorded(error));
        }
        self.release(row.id(), released).await;
        self.over(row, over);
    }

    async fn give_up(&self, id: Rid, rid: Rid, why: &str) {
        let step = ApprovalStep::Expired {
            id,
            why: why.to_owned(),
        };
        match self.0.ledger.approval(step).await {
            Ok(()) => self.release(rid, "approval-failed").await,
            Err(error) => tracing::error!(approval = %id, %error, "the end of the question is not recorded"),
        }
    }

    async fn release(&self, rid: Rid, why: &'static str) {
        if let Err(error) = self.0.ledger.finish(rid, Outcome::Released { why }).await {
            tracing::error!(payment = %rid, %error, "the held money is not given back; the next start does it");
        }
    }

    /// Out of the way of the next one that asks the same, then told.
    pub(super) fn over(&self, row: &Arc<Row>, over: Over) {
        self.forget(row);
        row.stage.send_replace(Stage::Over(over));
    }

    fn forget(&self, row: &Arc<Row>) {
        let mut state = self.state();
        let asker = row.asker();
        if state.live.get(&asker).is_some_and(|live| live.id() == row.id()) {
            state.live.remove(&asker);
        }
    }

    fn describe(&self, row: &Row) -> Kept {
        let Question {
            id,
            intent,
            sentence,
            compact,
            usd_cents,
            ttl,
        } = &row.question;
        let hex = |bytes: [u8; 32]| alloy_primitives::hex::encode(bytes);
        Kept {
            id: *id,
            agent: row.agent.clone(),
            backend: self.0.backend.name().to_owned(),
            asked_at: self.0.clock.now(),
            intent: BTreeMap::from_iter(intent.members()),
            intent_sha256: hex(intent.hash()),
            code: intent.code().to_string(),
            sentence: sentence.clone(),
            compact: compact.clone(),
            usd_cents: *usd_cents,
            ttl_s: ttl.as_secs(),
            ends: row.ends,
            idempotency: row.idempotency.map(hex),
            asked: None,
            evidence: None,
        }
    }
}

fn failure(code: &str, retryable: bool) -> Failure {
    Failure {
        code: code.to_owned(),
        retryable,
    }
}

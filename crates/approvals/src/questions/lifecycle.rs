//! One question from the hold to its end. Every step is recorded in the ledger before it takes effect, so after a crash
//! either the question resumes or its money is released (R44 and R45). Collecting the answers is in `votes.rs`, and how
//! the question ends in `ending.rs`.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::ending::failure;
use super::stored::{self, StoredAsk, StoredQuestion};
use super::votes::Votes;
use super::{Ask, Over, Questions, Row, Stage};
use crate::{Asked, Denial, Failure};
use bursar_core::approval::{ApprovalIntent, Question};
use bursar_ledger::{ApprovalError, ApprovalRow, ApprovalState, ApprovalStep, Hold, LedgerError, Reason, Requested};

impl Questions {
    /// Holds the money, asks the approvers, and follows the question to its end.
    pub(super) async fn put(&self, row: Arc<Row>, hold: Hold) {
        let backend = &self.0.backend;
        if let Some(over) = self.known_elsewhere(&row).await {
            return self.not_put(&row, over);
        }
        if let Err(error) = self.0.ledger.hold(hold).await {
            return self.not_put(&row, Over::NotHeld(error));
        }
        let requested = ApprovalStep::Requested(Requested {
            id: row.id,
            rid: row.id,
            agent: row.agent.clone(),
            approver: row.intent.member("approver").unwrap_or_default().to_owned(),
            backend: backend.name().to_owned(),
            intent: row.intent.hash(),
            needed: u8::try_from(row.needed).unwrap_or(u8::MAX),
            rules: row.rules.clone(),
            codes: row.asks.iter().filter_map(|ask| ask.disclosure.clone()).collect(),
            until: row.ends,
        });
        if let Err(error) = self.0.ledger.approval(requested).await {
            self.release(row.id, Reason::ApprovalNotRecorded).await;
            return match error {
                // Another proxy asked a moment earlier; or the question is ours and lost its task while the database
                // was unreachable.
                LedgerError::Approval(ApprovalError::AskedAlready(id)) => {
                    self.not_put(&row, Over::AskedAlready(id));
                    self.resume_later();
                }
                LedgerError::Approval(ApprovalError::Refused { until }) => {
                    self.remember(row.asker(), until);
                    self.not_put(&row, Over::Denied(Denial::default()));
                }
                error => self.over(&row, Over::NotRecorded(error)),
            };
        }
        let mut stored = self.describe(&row);
        // Before the backend gets it: without the file, nobody could find out later what was asked.
        if let Err(error) = stored.write(&self.0.folder) {
            tracing::error!(approval = %row.id, %error, "the question cannot be stored, so it is not asked");
            return self.fails(&row, failure("not_kept", true)).await;
        }
        let (mut voting, mut starting) = (Votes::of(row.needed), JoinSet::new());
        for place in 0..row.asks.len() {
            let (questions, row) = (self.clone(), row.clone());
            starting.spawn(async move { (place, questions.start(&row, place).await) });
        }
        while let Some(started) = starting.join_next().await {
            let Ok((place, started)) = started else {
                // The task panicked: a bug.
                voting.lost(failure("internal", true));
                continue;
            };
            match started {
                Ok(asked) => {
                    let _ = row.asks[place].handle.set(asked.handle.clone());
                    stored.asks[place].asked = Some((&asked).into());
                    if let Err(error) = stored.write(&self.0.folder) {
                        // The question goes on; only a restart would not be able to resume it.
                        tracing::error!(approval = %row.id, %error, "the question's handle cannot be stored");
                    }
                    voting.await_vote(self, &row, place, asked);
                    // The agent's hold begins once an approver has the question.
                    row.stage.send_replace(Stage::Open);
                }
                Err(failure) => voting.lost(failure),
            }
        }
        row.stage.send_replace(Stage::Open);
        self.collect_votes(row, stored, voting).await;
    }

    /// Whether another proxy on the same ledger has this question open or saw it denied. Checked before the hold, so
    /// that one purchase does not count twice against a limit.
    async fn known_elsewhere(&self, row: &Row) -> Option<Over> {
        // If the ledger cannot be read, the hold that follows fails too and reports the reason.
        let known = self.0.ledger.approvals().await.ok()?;
        let asker = row.asker();
        let is_same = |agent: &str, intent: &[u8; 32]| agent == asker.agent && *intent == asker.intent;
        let asked = known.elsewhere.iter().find(|row| is_same(&row.agent, &row.intent));
        if let Some(asked) = asked {
            return Some(Over::AskedAlready(asked.id));
        }
        let denied = known
            .denied
            .iter()
            .find(|denied| is_same(&denied.agent, &denied.intent))?;
        if denied.until <= self.0.clock.now() {
            return None;
        }
        self.remember(asker, denied.until);
        Some(Over::Denied(Denial::default()))
    }

    /// Ends a question that reached no approver; it does not count against the hourly limit.
    fn not_put(&self, row: &Arc<Row>, over: Over) {
        for ask in &row.asks {
            let by = (row.agent.clone(), ask.approver().to_owned());
            self.state().prompts.take_back(&by);
        }
        self.over(row, over);
    }

    /// Asks one approver, and starts notifying them.
    async fn start(&self, row: &Arc<Row>, place: usize) -> Result<Asked, Failure> {
        let (backend, question) = (&self.0.backend, &row.asks[place].question);
        let asked = backend.start(question).await.inspect_err(|failure| {
            tracing::error!(approval = %row.id, code = failure.code, "the approver could not be asked");
        })?;
        tracing::info!(approval = %row.id, agent = %row.agent, backend = backend.name(), "a person is asked");
        let (questions, row) = (self.clone(), row.clone());
        self.0
            .tasks
            .spawn(async move { questions.notify_approver(row, place).await });
        Ok(asked)
    }

    /// Notifies over the operator's alert channels, until one has delivered it or the question is decided. The log is
    /// not a channel (R47).
    async fn notify_approver(&self, row: Arc<Row>, place: usize) {
        let mut stage = row.stage.subscribe();
        let decided = async {
            let decided = stage.wait_for(|stage| !matches!(stage, Stage::Asking | Stage::Open));
            drop(decided.await);
        };
        tokio::select! {
            _ = self.0.notifier.notify(&row.asks[place].question, row.ends) => {}
            () = decided => {}
            () = self.0.stop.cancelled() => {}
        }
    }

    /// Resumes a question of an earlier run.
    pub(super) async fn take_up(&self, live: ApprovalRow) {
        let ApprovalRow { id, rid, .. } = live;
        if live.backend != self.0.backend.name() {
            tracing::error!(
                approval = %id,
                asked = live.backend,
                "[approval] backend has changed since this question was asked; the held money is released"
            );
            return self.give_up(id, rid, "error:other_backend").await;
        }
        let found = stored::read(&self.0.folder, id).and_then(|stored| {
            let row = Row::stored(&stored)?;
            // The ledger decides what was asked; a file that disagrees is ignored.
            let is_it = id == rid && row.intent.hash() == live.intent && row.needed == usize::from(live.needed);
            let is_it = is_it && stored.is_committed(&live.sd) && stored.names_rules(&live.rules);
            (is_it && row.agent == live.agent).then_some((stored, row))
        });
        let Some((stored, row)) = found else {
            tracing::error!(
                approval = %id,
                "the question is not in private/approvals or does not match the ledger; the held money is released"
            );
            return self.give_up(id, rid, "error:question_lost").await;
        };
        match self.state().live.entry(row.asker()) {
            // It already has a task, or the task of an equal question is about to find it.
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => drop(place.insert(row.clone())),
        }
        let votes = match live.state {
            ApprovalState::Granted { use_by, .. } => {
                row.stage.send_replace(Stage::Approved { use_by });
                let questions = self.clone();
                self.0
                    .tasks
                    .spawn(async move { questions.wait_for_use(row, use_by).await });
                return;
            }
            ApprovalState::Pending { votes, .. } => votes,
        };
        let mut voting = Votes::of(row.needed);
        for (place, ask) in stored.asks.iter().enumerate() {
            let of_this = |by: &str| ask.evidence.as_ref().is_some_and(|evidence| evidence.approver == by);
            match (votes.iter().find(|vote| of_this(&vote.by)), &ask.evidence, &ask.asked) {
                (Some(vote), ..) => voting.voted(vote.use_by),
                // Verified, but the process died before the ledger had recorded it.
                (None, Some(evidence), _) => voting.knows(place, evidence.clone()),
                (None, None, Some(handle)) => {
                    self.0.backend.take_up(&row.asks[place].question);
                    voting.await_vote(self, &row, place, Asked::from(handle.clone()));
                }
                // The approver may have been asked, but without a handle the answer cannot be fetched (R44).
                (None, None, None) => voting.lost(failure("start_unknown", true)),
            }
        }
        row.stage.send_replace(Stage::Open);
        let questions = self.clone();
        self.0
            .tasks
            .spawn(async move { questions.collect_votes(row, stored, voting).await });
    }

    fn describe(&self, row: &Row) -> StoredQuestion {
        let hex = |bytes: [u8; 32]| alloy_primitives::hex::encode(bytes);
        let first = row.asks.first().map(|ask| &ask.question);
        StoredQuestion {
            id: row.id,
            agent: row.agent.clone(),
            backend: self.0.backend.name().to_owned(),
            asked_at: self.0.clock.now(),
            intent: BTreeMap::from_iter(row.intent.members()),
            intent_sha256: hex(row.intent.hash()),
            usd_cents: first.map_or(0, |question| question.usd_cents),
            ttl_s: first.map_or(0, |question| question.ttl.as_secs()),
            ends: row.ends,
            rules: row.rules.clone(),
            needed: row.needed,
            owners: row.owners.clone(),
            idempotency: row.idempotency.map(hex),
            asks: row.asks.iter().map(StoredAsk::of).collect(),
        }
    }
}

impl Row {
    /// `None` if the file does not hold a valid question.
    fn stored(stored: &StoredQuestion) -> Option<Arc<Self>> {
        let asks: Option<Vec<Ask>> = stored
            .asks
            .iter()
            .map(|ask| Some(Ask::new(stored.question(ask)?, ask.disclosure.clone())))
            .collect();
        let asks = asks.filter(|asks| !asks.is_empty())?;
        Some(Arc::new(Self {
            id: stored.id,
            agent: stored.agent.clone(),
            intent: ApprovalIntent::recorded(&stored.intent)?,
            rules: stored.rules.clone(),
            asks,
            needed: stored.needed,
            owners: stored.owners.clone(),
            idempotency: stored.idempotency(),
            ends: stored.ends,
            stage: tokio::sync::watch::Sender::new(Stage::Asking),
        }))
    }
}

impl StoredAsk {
    fn of(ask: &Ask) -> Self {
        let Question {
            id,
            code,
            sentence,
            compact,
            ..
        } = &ask.question;
        Self {
            id: *id,
            approver: ask.approver().to_owned(),
            code: code.to_string(),
            disclosure: ask.disclosure.clone(),
            sentence: sentence.clone(),
            compact: compact.clone(),
            asked: None,
            evidence: None,
        }
    }
}

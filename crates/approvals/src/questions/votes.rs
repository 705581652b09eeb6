//! Collects the approvers' votes. Enough approvals approve the payment; a single denial before that ends the question
//! (threat 4.4).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::ending::failure;
use super::stored::StoredQuestion;
use super::{Over, Questions, Row, Stage, evidence_bytes, later, until};
use crate::{Asked, Denial, Failure, QuestionStatus};
use bursar_core::approval::Evidence;
use bursar_ledger::{ApprovalError, ApprovalStep, LedgerError};

/// An unused approval expires after this (R43).
const UNUSED: Duration = Duration::from_secs(15 * 60);
/// An answer found this long after the end may have been given before it (approvals §7).
const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// How long to poll the remaining approvers once enough have approved: one of them may have denied already.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// How long a replay key is kept after its approval and its evidence have expired.
const REPLAY: Duration = Duration::from_secs(3600);

/// The votes so far, and the approvers still being polled.
pub(super) struct Votes {
    needed: usize,
    given: usize,
    /// The earliest expiry of the approvals given.
    use_by: Timestamp,
    /// Verified approvals that the ledger has not recorded yet.
    known: Vec<(usize, Box<Evidence>)>,
    open: JoinSet<(usize, Answer)>,
    /// Why an approver can no longer vote.
    lost: Option<Lost>,
}

/// How the question to one approver ended.
enum Answer {
    Approved(Box<Evidence>),
    Denied(Denial),
    Lost(Lost),
    /// The program is stopping. The ledger still has the question open; the next start resumes it.
    Stopped,
}

enum Lost {
    /// No answer in time, or an approval that came too late to be used.
    Late(&'static str),
    Failed(Failure),
}

/// The result of recording one approval.
enum Vote {
    Counts(Timestamp),
    Lost(Lost),
    NotRecorded(LedgerError),
}

impl Votes {
    pub(super) fn of(needed: usize) -> Self {
        Self {
            needed,
            given: 0,
            use_by: Timestamp::MAX,
            known: Vec::new(),
            open: JoinSet::new(),
            lost: None,
        }
    }

    /// Starts polling for one approver's answer.
    pub(super) fn await_vote(&mut self, questions: &Questions, row: &Arc<Row>, place: usize, asked: Asked) {
        let (questions, row) = (questions.clone(), row.clone());
        self.open
            .spawn(async move { (place, questions.follow(&row, place, asked).await) });
    }

    /// Adds an approval that the ledger has not recorded yet.
    pub(super) fn knows(&mut self, place: usize, evidence: Evidence) {
        self.known.push((place, Box::new(evidence)));
    }

    /// Adds an approval that the ledger has recorded.
    pub(super) fn voted(&mut self, use_by: Timestamp) {
        self.given += 1;
        self.use_by = self.use_by.min(use_by);
    }

    pub(super) fn lost(&mut self, failure: Failure) {
        self.loses(Lost::Failed(failure));
    }

    /// A failure is a better explanation than a timeout, so it is not overwritten.
    fn loses(&mut self, lost: Lost) {
        if !matches!(self.lost, Some(Lost::Failed(_))) {
            self.lost = Some(lost);
        }
    }

    fn is_enough(&self) -> bool {
        self.given >= self.needed
    }

    fn can_be_enough(&self) -> bool {
        self.given + self.known.len() + self.open.len() >= self.needed
    }

    /// `None` if no approver is left, or if an approval expired before the others answered.
    async fn next(&mut self, now: Timestamp) -> Option<(usize, Answer)> {
        if let Some((place, evidence)) = self.known.pop() {
            return Some((place, Answer::Approved(evidence)));
        }
        match self.given {
            0 => self.next_answer().await,
            _ => match timeout(until(now, self.use_by), self.next_answer()).await {
                Ok(next_answer) => next_answer,
                Err(_) => {
                    self.loses(Lost::Late("unused"));
                    None
                }
            },
        }
    }

    async fn next_answer(&mut self) -> Option<(usize, Answer)> {
        match self.open.join_next().await? {
            Ok(said) => Some(said),
            // The task panicked: a bug. Which approver it was for is not known.
            Err(_) => Some((usize::MAX, Answer::Lost(Lost::Failed(failure("internal", true))))),
        }
    }
}

impl Questions {
    /// Runs until enough people have approved, one has denied, or too few are left.
    pub(super) async fn collect_votes(&self, row: Arc<Row>, mut stored: StoredQuestion, mut voting: Votes) {
        let mut stopped = false;
        while !voting.is_enough() && (stopped || voting.can_be_enough()) {
            let Some((place, answer)) = voting.next(self.0.clock.now()).await else {
                break;
            };
            match answer {
                Answer::Approved(evidence) => match self.grant(&row, place, *evidence, &mut stored).await {
                    Vote::Counts(use_by) => voting.voted(use_by),
                    Vote::Lost(lost) => voting.loses(lost),
                    Vote::NotRecorded(error) => {
                        self.close(&row);
                        self.over(&row, Over::NotRecorded(error));
                        // The evidence is on disk, and counts once the ledger's database can record it.
                        return self.resume_later();
                    }
                },
                Answer::Denied(denial) => return self.denied(&row, denial).await,
                Answer::Lost(lost) => voting.loses(lost),
                // Other approvers' answers that are already on their way are still collected.
                Answer::Stopped => stopped = true,
            }
        }
        if stopped && !voting.is_enough() {
            return;
        }
        if !voting.is_enough() {
            return match voting.lost {
                Some(Lost::Failed(failure)) => self.fails(&row, failure).await,
                Some(Lost::Late(why)) => self.expired(&row, why).await,
                None => self.expired(&row, "timeout").await,
            };
        }
        let use_by = voting.use_by;
        if let Some(denial) = self.last_look(&row, voting).await {
            return self.denied(&row, denial).await;
        }
        self.close(&row);
        // The first approval may have expired while the last approver was deciding.
        if use_by <= self.0.clock.now() {
            return self.expired(&row, "unused").await;
        }
        tracing::info!(approval = %row.id, agent = %row.agent, "approved");
        row.stage.send_replace(Stage::Approved { use_by });
        self.wait_for_use(row, use_by).await;
    }

    /// Polls the approvers who have not answered once more: a denial already given counts, even if approvals were seen
    /// first.
    async fn last_look(&self, row: &Row, mut voting: Votes) -> Option<Denial> {
        if voting.open.is_empty() {
            return None;
        }
        for ask in &row.asks {
            ask.is_last.store(true, Ordering::Release);
            ask.wake.notify_one();
        }
        let denied = async {
            loop {
                match voting.next_answer().await? {
                    (_, Answer::Denied(denial)) => return Some(denial),
                    (_, Answer::Approved(_) | Answer::Lost(_) | Answer::Stopped) => {}
                }
            }
        };
        timeout(LAST_LOOK, denied).await.ok().flatten()
    }

    async fn follow(&self, row: &Row, place: usize, mut asked: Asked) -> Answer {
        let (backend, clock, ask) = (&self.0.backend, &self.0.clock, &row.asks[place]);
        let last = asked
            .expires_at
            .min(row.ends)
            .saturating_add(GRACE)
            .unwrap_or(Timestamp::MAX);
        let _ = ask.handle.set(asked.handle.clone());
        // Changing the wall clock, in either direction, cannot make the wait longer (approvals §10).
        let deadline = Instant::now() + until(clock.now(), last);
        let mut wait = asked.interval;
        loop {
            let left = until(clock.now(), last).min(deadline.saturating_duration_since(Instant::now()));
            tokio::select! {
                biased;
                // First, so that an answer already given is fetched even when the program is stopping.
                () = ask.wake.notified() => {}
                () = self.0.stop.cancelled() => return Answer::Stopped,
                () = sleep(wait.min(left)) => {}
            }
            let is_over = clock.now() >= last || Instant::now() >= deadline;
            let is_last = is_over || ask.is_last.load(Ordering::Acquire);
            wait = match backend.poll(&ask.question, &mut asked).await {
                QuestionStatus::Approved(evidence) => return Answer::Approved(evidence),
                QuestionStatus::Denied(denial) => return Answer::Denied(denial),
                QuestionStatus::Failed(failure) => return Answer::Lost(Lost::Failed(failure)),
                QuestionStatus::Pending { wait } if !is_last => wait,
                QuestionStatus::Pending { .. } | QuestionStatus::Expired => return Answer::Lost(Lost::Late("timeout")),
            };
        }
    }

    /// Writes the evidence to disk, then its entry to the ledger; only then does the approval count.
    async fn grant(&self, row: &Row, place: usize, evidence: Evidence, stored: &mut StoredQuestion) -> Vote {
        let now = self.0.clock.now();
        // Counted from the answer, so that one found again after a long downtime has expired.
        let unused = later(evidence.decided_at.min(now), UNUSED);
        let use_by = evidence.good_until.map_or(unused, |good_until| good_until.min(unused));
        if use_by <= now {
            return Vote::Lost(Lost::Late("unused"));
        }
        let Ok(replay) = alloy_primitives::hex::decode_to_array(&evidence.replay_key) else {
            return Vote::Lost(Lost::Failed(failure("no_replay_key", false)));
        };
        let granted = ApprovalStep::Granted {
            id: row.id,
            by: evidence.approver.clone(),
            kind: evidence.kind,
            evidence_sha256: Sha256::digest(evidence_bytes(&evidence)).into(),
            replay,
            replay_until: later(use_by.max(evidence.good_until.unwrap_or(use_by)), REPLAY),
            use_by,
        };
        let by = evidence.approver.clone();
        if let Some(ask) = stored.asks.get_mut(place) {
            ask.evidence = Some(evidence);
        }
        if let Err(error) = stored.write(&self.0.folder) {
            // It must not be written together with the next approver's evidence either.
            if let Some(ask) = stored.asks.get_mut(place) {
                ask.evidence = None;
            }
            tracing::error!(approval = %row.id, %error, "the evidence cannot be stored, so it does not count");
            return Vote::Lost(Lost::Failed(failure("evidence_not_kept", true)));
        }
        match self.0.ledger.approval(granted).await {
            Ok(()) => {}
            Err(LedgerError::Approval(ApprovalError::NotLive(_))) => {
                tracing::error!(approval = %row.id, "another proxy took over the payment and released its money");
                return Vote::Lost(Lost::Failed(failure("taken_over", true)));
            }
            Err(LedgerError::Approval(error)) => {
                tracing::error!(approval = %row.id, %error, "the ledger rejected the evidence");
                return Vote::Lost(Lost::Failed(failure("replayed", false)));
            }
            Err(error) => return Vote::NotRecorded(error),
        }
        tracing::info!(approval = %row.id, agent = %row.agent, %by, needed = row.needed, "a person has approved");
        Vote::Counts(use_by)
    }
}

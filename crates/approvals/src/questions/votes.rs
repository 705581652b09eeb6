//! What the people who were asked say. Enough leaves make an approval; one denial ends the question for all
//! (threat 4.4).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::lifecycle::failure;
use super::stored::StoredQuestion;
use super::{Over, Questions, Row, Stage, evidence_bytes, later, until};
use crate::{Asked, Denial, Failure, QuestionStatus};
use bursar_core::approval::Evidence;
use bursar_ledger::{ApprovalError, ApprovalStep, LedgerError};

/// An approval that was given and not used ends after this (R43).
const UNUSED: Duration = Duration::from_secs(15 * 60);
/// What is seen after the end may have been decided before it (approvals §7).
const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// How long the others are looked at once enough have approved: one of them may have denied it before.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// How long the replay key of an answer without an end of its own is kept beyond its use.
const REPLAY: Duration = Duration::from_secs(3600);

/// Who has said what so far, and who is listened to.
pub(super) struct Votes {
    needed: usize,
    given: usize,
    /// The earliest of those that were given.
    use_by: Timestamp,
    /// Answers that were found and are not in the books yet.
    known: Vec<(usize, Box<Evidence>)>,
    open: JoinSet<(usize, Word)>,
    /// Why somebody who was asked does not count any more.
    lost: Option<Lost>,
}

/// What one person's question has come to.
enum Word {
    Approved(Box<Evidence>),
    Denied(Denial),
    Lost(Lost),
    /// The books have it as open; the next start takes it up.
    Stopped,
}

enum Lost {
    /// No answer in time, or one that came too late to be used.
    Late(&'static str),
    Failed(Failure),
}

/// What one person's leave is worth.
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

    /// Listens for one person's answer.
    pub(super) fn hears(&mut self, questions: &Questions, row: &Arc<Row>, place: usize, asked: Asked) {
        let (questions, row) = (questions.clone(), row.clone());
        self.open
            .spawn(async move { (place, questions.follow(&row, place, asked).await) });
    }

    /// An answer that is not in the books yet.
    pub(super) fn knows(&mut self, place: usize, evidence: Evidence) {
        self.known.push((place, Box::new(evidence)));
    }

    /// In the books.
    pub(super) fn voted(&mut self, use_by: Timestamp) {
        self.given += 1;
        self.use_by = self.use_by.min(use_by);
    }

    pub(super) fn lost(&mut self, failure: Failure) {
        self.loses(Lost::Failed(failure));
    }

    /// A failure says more than that time has passed.
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

    /// `None`: nobody is left, or what was given is over before the others have answered.
    async fn next(&mut self, now: Timestamp) -> Option<(usize, Word)> {
        if let Some((place, evidence)) = self.known.pop() {
            return Some((place, Word::Approved(evidence)));
        }
        match self.given {
            0 => self.heard().await,
            _ => match timeout(until(now, self.use_by), self.heard()).await {
                Ok(heard) => heard,
                Err(_) => {
                    self.loses(Lost::Late("unused"));
                    None
                }
            },
        }
    }

    async fn heard(&mut self) -> Option<(usize, Word)> {
        match self.open.join_next().await? {
            Ok(said) => Some(said),
            // Only a bug ends one like that; it has no place among the asked any more.
            Err(_) => Some((usize::MAX, Word::Lost(Lost::Failed(failure("internal", true))))),
        }
    }
}

impl Questions {
    /// Until enough people have approved, one has denied, or too few are left.
    pub(super) async fn hear(&self, row: Arc<Row>, mut kept: StoredQuestion, mut tally: Votes) {
        let mut stopped = false;
        while !tally.is_enough() && (stopped || tally.can_be_enough()) {
            let Some((place, word)) = tally.next(self.0.clock.now()).await else {
                break;
            };
            match word {
                Word::Approved(evidence) => match self.grant(&row, place, *evidence, &mut kept).await {
                    Vote::Counts(use_by) => tally.voted(use_by),
                    Vote::Lost(lost) => tally.loses(lost),
                    Vote::NotRecorded(error) => {
                        self.close(&row);
                        self.over(&row, Over::NotRecorded(error));
                        // The evidence is kept, and counts as soon as books in a database can record it.
                        return self.resume_later();
                    }
                },
                Word::Denied(denial) => return self.denied(&row, denial).await,
                Word::Lost(lost) => tally.loses(lost),
                // An answer that is on its way to somebody else is heard yet.
                Word::Stopped => stopped = true,
            }
        }
        if stopped && !tally.is_enough() {
            return;
        }
        if !tally.is_enough() {
            return match tally.lost {
                Some(Lost::Failed(failure)) => self.fails(&row, failure).await,
                Some(Lost::Late(why)) => self.expired(&row, why).await,
                None => self.expired(&row, "timeout").await,
            };
        }
        let use_by = tally.use_by;
        if let Some(denial) = self.last_look(&row, tally).await {
            return self.denied(&row, denial).await;
        }
        self.close(&row);
        // The first may have run out while the last one thought about it.
        if use_by <= self.0.clock.now() {
            return self.expired(&row, "unused").await;
        }
        tracing::info!(approval = %row.id, agent = %row.agent, "approved");
        row.stage.send_replace(Stage::Approved { use_by });
        self.wait_for_use(row, use_by).await;
    }

    /// Whoever has not answered is asked for their answer once more: a denial that is there counts, though others were heard first.
    async fn last_look(&self, row: &Row, mut tally: Votes) -> Option<Denial> {
        if tally.open.is_empty() {
            return None;
        }
        for ask in &row.asks {
            ask.is_last.store(true, Ordering::Release);
            ask.wake.notify_one();
        }
        let denied = async {
            loop {
                match tally.heard().await? {
                    (_, Word::Denied(denial)) => return Some(denial),
                    (_, Word::Approved(_) | Word::Lost(_) | Word::Stopped) => {}
                }
            }
        };
        timeout(LAST_LOOK, denied).await.ok().flatten()
    }

    async fn follow(&self, row: &Row, place: usize, mut asked: Asked) -> Word {
        let (backend, clock, ask) = (&self.0.backend, &self.0.clock, &row.asks[place]);
        let last = asked
            .expires_at
            .min(row.ends)
            .saturating_add(GRACE)
            .unwrap_or(Timestamp::MAX);
        let _ = ask.handle.set(asked.handle.clone());
        // Neither a clock that goes ahead nor one that is set back makes the wait longer (approvals §10).
        let deadline = Instant::now() + until(clock.now(), last);
        let mut wait = asked.interval;
        loop {
            let left = until(clock.now(), last).min(deadline.saturating_duration_since(Instant::now()));
            tokio::select! {
                biased;
                // An answer that was given is heard, whatever else happens.
                () = ask.wake.notified() => {}
                () = self.0.stop.cancelled() => return Word::Stopped,
                () = sleep(wait.min(left)) => {}
            }
            let is_over = clock.now() >= last || Instant::now() >= deadline;
            let is_last = is_over || ask.is_last.load(Ordering::Acquire);
            wait = match backend.poll(&ask.question, &mut asked).await {
                QuestionStatus::Approved(evidence) => return Word::Approved(evidence),
                QuestionStatus::Denied(denial) => return Word::Denied(denial),
                QuestionStatus::Failed(failure) => return Word::Lost(Lost::Failed(failure)),
                QuestionStatus::Pending { wait } if !is_last => wait,
                QuestionStatus::Pending { .. } | QuestionStatus::Expired => return Word::Lost(Lost::Late("timeout")),
            };
        }
    }

    /// The evidence is on the disk before its entry says so, and the entry before it counts.
    async fn grant(&self, row: &Row, place: usize, evidence: Evidence, kept: &mut StoredQuestion) -> Vote {
        let now = self.0.clock.now();
        // Counted from the answer: one that was found again after a long stop is none any more.
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
        if let Some(ask) = kept.asks.get_mut(place) {
            ask.evidence = Some(evidence);
        }
        if let Err(error) = kept.write(&self.0.folder) {
            // Nor with the next one's.
            if let Some(ask) = kept.asks.get_mut(place) {
                ask.evidence = None;
            }
            tracing::error!(approval = %row.id, %error, "the evidence cannot be kept, so it does not count");
            return Vote::Lost(Lost::Failed(failure("evidence_not_kept", true)));
        }
        match self.0.ledger.approval(granted).await {
            Ok(()) => {}
            Err(LedgerError::Approval(ApprovalError::NotLive(_))) => {
                tracing::error!(approval = %row.id, "another proxy has taken the payment over and given the money back");
                return Vote::Lost(Lost::Failed(failure("taken_over", true)));
            }
            Err(LedgerError::Approval(error)) => {
                tracing::error!(approval = %row.id, %error, "the evidence does not count");
                return Vote::Lost(Lost::Failed(failure("replayed", false)));
            }
            Err(error) => return Vote::NotRecorded(error),
        }
        tracing::info!(approval = %row.id, agent = %row.agent, %by, needed = row.needed, "a person has approved");
        Vote::Counts(use_by)
    }
}

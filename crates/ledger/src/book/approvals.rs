//! Which approvals are live, which evidence was used, and which denials are remembered (approvals §7 and §10, R45).
//!
//! A live approval belongs to one held payment, and a payment has at most one. When the payment is no longer held,
//! because it was armed or released, its approval ends with it. The passing of time alone ends none: the process that
//! asked records how it ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Payment;
use crate::entry::{ApprovalGranted, ApprovalRequested};
use crate::model::{ApprovalError, ApprovalRow, ApprovalState, Approvals, Denied, State, Vote};
use crate::text::Moment;
use bursar_core::payment_id::PaymentId;

/// What an entry changed, for the index. The values are absolute, as in all effects.
#[derive(Debug, Default)]
pub struct ApprovalChanges {
    /// The row that the entry is about, and what happened to it.
    pub row: Option<(ApprovalRow, RowChange)>,
    /// Evidence that was used, and until when it is remembered; `None` if it was forgotten.
    pub replays: Vec<(ReplayKey, Option<Moment>)>,
    /// Denials, in the same form as `replays`.
    pub denials: Vec<(Subject, Option<Moment>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChange {
    Live,
    Over,
}

/// Hash of what makes evidence single use.
pub type ReplayKey = [u8; 32];

/// An agent's intent, which can be asked about only once at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    pub agent: String,
    pub intent: [u8; 32],
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Register {
    rows: BTreeMap<PaymentId, ApprovalRow>,
    /// The approval that a payment waits for.
    of_payment: HashMap<PaymentId, PaymentId>,
    of_subject: HashMap<Subject, PaymentId>,
    replays: Remembered<ReplayKey>,
    denials: Remembered<Subject>,
}

impl Register {
    /// Whether an approval may be requested. `payment` is the payment that the request names, if it is open.
    pub(crate) fn may_request(
        &self,
        requested: &ApprovalRequested,
        payment: Option<&Payment>,
    ) -> Result<(), ApprovalError> {
        let (id, rid) = (requested.id, requested.rid);
        if payment.is_none_or(|payment| payment.state != State::Held) {
            return Err(ApprovalError::NotHeld(rid));
        }
        if self.rows.contains_key(&id) {
            return Err(ApprovalError::IdTaken(id));
        }
        if let Some(&id) = self.of_payment.get(&rid) {
            return Err(ApprovalError::Waits { rid, id });
        }
        match self.of_subject.get(&subject_asked(requested)) {
            Some(&other) => Err(ApprovalError::AskedAlready(other)),
            None => Ok(()),
        }
    }

    /// Whether a person may be bothered with it. This is not a rule for entries: a question that was asked anyway is
    /// replayed as it was recorded.
    pub(crate) fn is_worth_asking(&self, requested: &ApprovalRequested, now: Moment) -> Result<(), ApprovalError> {
        match self.denials.end(&subject_asked(requested)) {
            Some(until) if until >= now => Err(ApprovalError::Refused {
                until: until.timestamp(),
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn may_grant(&self, granted: &ApprovalGranted, now: Moment) -> Result<(), ApprovalError> {
        let ApprovalState::Pending { votes, .. } = &self.live(granted.id)?.state else {
            return Err(ApprovalError::GrantedBefore(granted.id));
        };
        if votes.iter().any(|vote| vote.by == granted.by) {
            return Err(ApprovalError::VotedBefore(granted.id));
        }
        if self.replays.holds(&granted.replay.0, now) {
            return Err(ApprovalError::Replayed(granted.id));
        }
        Ok(())
    }

    /// The approval with that id, if it has not ended.
    pub fn live(&self, id: PaymentId) -> Result<&ApprovalRow, ApprovalError> {
        self.rows.get(&id).ok_or(ApprovalError::NotLive(id))
    }

    /// Whether a held payment may be armed with the approval that the caller names: it must have been granted for this
    /// payment and not be over. A payment that waits for a person cannot be armed without it.
    pub(crate) fn may_arm(&self, rid: PaymentId, approval: Option<&str>, now: Moment) -> Result<(), ApprovalError> {
        let Some(text) = approval else {
            return match self.of_payment(rid) {
                Some(row) => Err(ApprovalError::Waits { rid, id: row.id }),
                None => Ok(()),
            };
        };
        let row = self
            .of_payment(rid)
            .filter(|row| PaymentId::parse(text) == Some(row.id));
        let row = row.ok_or(ApprovalError::NoneOf(rid))?;
        match row.state {
            ApprovalState::Pending { .. } => Err(ApprovalError::NotGranted(row.id)),
            ApprovalState::Granted { use_by, .. } if use_by < now.timestamp() => Err(ApprovalError::Over(row.id)),
            ApprovalState::Granted { .. } => Ok(()),
        }
    }

    /// The live approval of a payment.
    pub(crate) fn of_payment(&self, rid: PaymentId) -> Option<&ApprovalRow> {
        self.rows.get(self.of_payment.get(&rid)?)
    }

    /// Call only after `Register::may_request`.
    pub fn request(&mut self, requested: &ApprovalRequested, now: Moment, changes: &mut ApprovalChanges) {
        let row = ApprovalRow {
            id: requested.id,
            rid: requested.rid,
            agent: requested.agent.clone(),
            approver: requested.approver.clone(),
            backend: requested.backend.clone(),
            intent: requested.intent.0,
            needed: requested.needed,
            rules: requested.rules.clone(),
            sd: requested.sd.clone(),
            state: ApprovalState::Pending {
                until: requested.until.timestamp(),
                votes: Vec::new(),
            },
            requested_at: now.timestamp(),
        };
        self.restore_row(row.clone());
        changes.row = Some((row, RowChange::Live));
    }

    /// Call only after `Register::may_grant`. Evidence is remembered at least as long as the approval that it granted
    /// can be used, whatever the evidence says.
    pub fn grant(&mut self, granted: &ApprovalGranted, changes: &mut ApprovalChanges) {
        let until = granted.replay_until.max(granted.use_by);
        self.replays.put(granted.replay.0, until);
        changes.replays.push((granted.replay.0, Some(until)));
        if let Some(row) = self.rows.get_mut(&granted.id) {
            row.vote(Vote {
                by: granted.by.clone(),
                kind: granted.kind,
                use_by: granted.use_by.timestamp(),
            });
            changes.row = Some((row.clone(), RowChange::Live));
        }
    }

    /// Call only after [`Register::live`]. If a subject was denied twice, the denial that is remembered longer counts.
    pub fn refuse(&mut self, id: PaymentId, until: Moment, changes: &mut ApprovalChanges) {
        if let Some(row) = self.end(id, changes) {
            let subject = subject_of(&row);
            let until = self.denials.end(&subject).map_or(until, |before| before.max(until));
            self.denials.put(subject.clone(), until);
            changes.denials.push((subject, Some(until)));
        }
    }

    /// Removes a row.
    pub fn end(&mut self, id: PaymentId, changes: &mut ApprovalChanges) -> Option<ApprovalRow> {
        let row = self.rows.remove(&id)?;
        self.of_payment.remove(&row.rid);
        self.of_subject.remove(&subject_of(&row));
        changes.row = Some((row.clone(), RowChange::Over));
        Some(row)
    }

    /// The payment is no longer held: it was armed after `Register::may_arm`, or released.
    pub fn leave(&mut self, rid: PaymentId, changes: &mut ApprovalChanges) {
        if let Some(&id) = self.of_payment.get(&rid) {
            self.end(id, changes);
        }
    }

    pub fn fade(&mut self, now: Moment, changes: &mut ApprovalChanges) {
        let gone = self.replays.fade(now).into_iter().map(|replay| (replay, None));
        changes.replays.extend(gone);
        let gone = self.denials.fade(now).into_iter().map(|subject| (subject, None));
        changes.denials.extend(gone);
    }

    /// The view for callers.
    pub fn known_at(&self, now: Moment) -> Approvals {
        Approvals {
            live: self.rows.values().cloned().collect(),
            elsewhere: Vec::new(),
            denied: self.denied().filter(|denied| denied.until >= now.timestamp()).collect(),
        }
    }

    /// Oldest first.
    pub fn rows(&self) -> impl Iterator<Item = &ApprovalRow> {
        self.rows.values()
    }

    pub fn replays(&self) -> impl Iterator<Item = (&ReplayKey, Moment)> {
        self.replays.all()
    }

    pub fn denials(&self) -> impl Iterator<Item = (&Subject, Moment)> {
        self.denials.all()
    }

    pub fn denied(&self) -> impl Iterator<Item = Denied> {
        self.denials.all().map(|(subject, until)| Denied {
            agent: subject.agent.clone(),
            intent: subject.intent,
            until: until.timestamp(),
        })
    }

    pub(crate) fn restore_row(&mut self, row: ApprovalRow) {
        self.of_payment.insert(row.rid, row.id);
        self.of_subject.insert(subject_of(&row), row.id);
        self.rows.insert(row.id, row);
    }

    pub(crate) fn restore_replay(&mut self, replay: ReplayKey, until: Moment) {
        self.replays.put(replay, until);
    }

    pub(crate) fn restore_denial(&mut self, subject: Subject, until: Moment) {
        self.denials.put(subject, until);
    }

    /// Reduces the register to one payment.
    pub(crate) fn of_alone(&self, rid: PaymentId) -> Self {
        let mut alone = Self::default();
        if let Some(row) = self.of_payment(rid) {
            alone.restore_row(row.clone());
        }
        alone
    }
}

fn subject_asked(requested: &ApprovalRequested) -> Subject {
    Subject {
        agent: requested.agent.clone(),
        intent: requested.intent.0,
    }
}

fn subject_of(row: &ApprovalRow) -> Subject {
    Subject {
        agent: row.agent.clone(),
        intent: row.intent,
    }
}

/// Keys that are remembered up to and including a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remembered<K> {
    ends: BTreeMap<K, Moment>,
    fading: BTreeSet<(Moment, K)>,
}

impl<K> Default for Remembered<K> {
    fn default() -> Self {
        Self {
            ends: BTreeMap::new(),
            fading: BTreeSet::new(),
        }
    }
}

impl<K: Clone + Ord> Remembered<K> {
    /// Correct even if nothing was recorded since its end.
    fn holds(&self, key: &K, now: Moment) -> bool {
        self.end(key).is_some_and(|end| end >= now)
    }

    fn end(&self, key: &K) -> Option<Moment> {
        self.ends.get(key).copied()
    }

    fn put(&mut self, key: K, end: Moment) {
        if let Some(before) = self.ends.insert(key.clone(), end) {
            self.fading.remove(&(before, key.clone()));
        }
        self.fading.insert((end, key));
    }

    fn all(&self) -> impl Iterator<Item = (&K, Moment)> {
        self.ends.iter().map(|(key, end)| (key, *end))
    }

    /// Forgets the keys whose time is over, and returns them.
    fn fade(&mut self, now: Moment) -> Vec<K> {
        let mut gone = Vec::new();
        while let Some((end, _)) = self.fading.first()
            && *end < now
            && let Some((_, key)) = self.fading.pop_first()
        {
            self.ends.remove(&key);
            gone.push(key);
        }
        gone
    }
}

#[cfg(test)]
mod tests;

//! What a transaction results in, and what is kept when the answer to its commit was lost.

use super::asks::Verdict;
use super::log::Lines;
use super::policy::Mine;
use crate::disclosure::Disclosure;
use crate::model::Alarm;
use crate::pauses::Pauses;
use crate::payment::Payment;
use crate::text::Moment;
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::PauseScope;

/// The results of a transaction, valid once it is committed.
pub(super) struct Done {
    pub verdicts: Vec<Verdict>,
    pub lines: Lines,
    pub disclosures: Vec<(u64, Disclosure)>,
    pub alarms: Vec<Alarm>,
    pub mine: Mine,
    /// The pauses in force after it, and the scopes that it has paused or resumed.
    pub pauses: Pauses,
    pub scopes: Vec<PauseScope>,
    /// The payments that it has changed, as it left them.
    pub payments: Vec<Payment>,
    pub now: Moment,
}

/// A commit whose answer was lost.
pub(super) struct Unclear {
    pub done: Done,
    /// What it reserves. If its callers were answered that the outcome is unknown, no caller gets these.
    pub rids: Vec<PaymentId>,
    pub commit_state: CommitState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitState {
    /// Its callers still wait.
    Open,
    /// They were answered that the outcome is unknown.
    Reported,
    Committed,
    RolledBack,
}

impl Unclear {
    /// The last entry that the transaction would have written.
    pub(super) fn last(&self) -> Option<(u64, &[u8])> {
        let (seq, bytes) = self.done.lines.entries.last()?;
        Some((*seq, bytes))
    }
}

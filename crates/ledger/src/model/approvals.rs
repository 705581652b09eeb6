//! Approvals as the ledger has them: the steps that are put on record, and what is live or remembered afterwards
//! (R44 to R46).
//!
//! Of what was asked and answered there are only hashes here. Question, token and proof are disclosures, and nobody's text but
//! ours and the names of agent, approver and backend goes into an entry.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::text::hex32;
use bursar_core::approval::EvidenceKind;
use bursar_core::payment_id::PaymentId;

/// What happens to one approval. It is granted once as many people have granted it as it needs. Its use is no step: the
/// arming that names it uses it up (R45).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApprovalStep {
    /// A person is about to be asked.
    Requested(Requested),
    /// The evidence of one person was verified. Recording this is what makes it single use.
    Granted {
        id: PaymentId,
        /// Who answered, as the backend names them.
        by: String,
        kind: EvidenceKind,
        evidence_sha256: [u8; 32],
        /// Hash of issuer and `jti`, or of a challenge's id: never seen before.
        replay: [u8; 32],
        /// How long it must not be seen again; never less than `use_by`.
        replay_until: Timestamp,
        use_by: Timestamp,
    },
    /// A person said no.
    Refused {
        id: PaymentId,
        by: Option<String>,
        /// A code of ours.
        why: String,
        /// Until when that is remembered for the same intent of the same agent.
        until: Timestamp,
    },
    /// It ended without a word: too late, unused, or an error of the backend.
    Expired {
        id: PaymentId,
        /// A code of ours, such as `timeout`, `unused`, `error:start_unknown`.
        why: String,
    },
}

/// What a held payment waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    pub id: PaymentId,
    /// The payment, which is held.
    pub rid: PaymentId,
    pub agent: String,
    /// Who is asked; of several, all of their names.
    pub approver: String,
    pub backend: String,
    /// Hash of the intent.
    pub intent: [u8; 32],
    /// So many people must grant it.
    pub needed: u8,
    /// When the approver's time is over.
    pub until: Timestamp,
}

impl ApprovalStep {
    /// The approval's.
    pub const fn id(&self) -> PaymentId {
        match self {
            Self::Requested(requested) => requested.id,
            Self::Granted { id, .. } | Self::Refused { id, .. } | Self::Expired { id, .. } => *id,
        }
    }
}

/// An approval that has not ended. Its payment is held; one that is past its time stays until somebody says how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRow {
    pub id: PaymentId,
    pub rid: PaymentId,
    pub agent: String,
    pub approver: String,
    pub backend: String,
    #[serde(with = "hex32")]
    pub intent: [u8; 32],
    /// `audit/pruned` of before there could be several has none.
    #[serde(default = "one")]
    pub needed: u8,
    pub state: ApprovalState,
    pub requested_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApprovalState {
    Pending {
        until: Timestamp,
        /// Of those who have granted it, while others must yet.
        #[serde(default)]
        votes: Vec<Vote>,
    },
    /// By all whom it needs.
    Granted {
        /// The earliest of theirs.
        use_by: Timestamp,
        /// The weakest of theirs.
        kind: EvidenceKind,
        /// All of their names.
        by: String,
    },
}

impl ApprovalRow {
    /// One person more has granted it.
    pub fn vote(&mut self, vote: Vote) {
        let ApprovalState::Pending { votes, .. } = &mut self.state else {
            return;
        };
        votes.push(vote);
        if votes.len() < usize::from(self.needed) {
            return;
        }
        let names: Vec<&str> = votes.iter().map(|vote| vote.by.as_str()).collect();
        let earliest = votes.iter().map(|vote| vote.use_by).min();
        let weakest = votes.iter().map(|vote| vote.kind).max();
        if let (Some(use_by), Some(kind)) = (earliest, weakest) {
            let by = names.join(", ");
            self.state = ApprovalState::Granted { use_by, kind, by };
        }
    }
}

/// One person's leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    pub by: String,
    pub kind: EvidenceKind,
    pub use_by: Timestamp,
}

/// A refusal that is remembered: the same agent does not ask the same again before its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Denied {
    pub agent: String,
    #[serde(with = "hex32")]
    pub intent: [u8; 32],
    /// The last moment of it.
    pub until: Timestamp,
}

/// What the books know of approvals now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approvals {
    /// Oldest first; on shared books what this proxy has asked.
    pub live: Vec<ApprovalRow>,
    /// What other proxies on shared books have asked. It is theirs to say how it ends.
    pub elsewhere: Vec<ApprovalRow>,
    /// In force, whoever asked.
    pub denied: Vec<Denied>,
}

/// Why an approval does not take that step, or a payment is not armed by it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ApprovalError {
    #[error("no live approval has the id {0}")]
    NotLive(PaymentId),
    #[error("approval {0} is live already")]
    IdTaken(PaymentId),
    #[error("approval {0} is live and asks the same for the same agent")]
    AskedAlready(PaymentId),
    /// A person said no to the same, and that is remembered.
    #[error("the same was refused to the same agent, which is remembered until {until}")]
    Refused { until: Timestamp },
    #[error("payment {0} is not held")]
    NotHeld(PaymentId),
    #[error("payment {rid} waits for approval {id} already")]
    Waits { rid: PaymentId, id: PaymentId },
    #[error("approval {0} was granted before")]
    GrantedBefore(PaymentId),
    #[error("the same person has granted approval {0} before")]
    VotedBefore(PaymentId),
    /// Its `jti`, or what stands for it, has granted an approval already.
    #[error("the evidence for approval {0} was used before")]
    Replayed(PaymentId),
    #[error("payment {0} has no live approval of that name")]
    NoneOf(PaymentId),
    #[error("approval {0} is not granted")]
    NotGranted(PaymentId),
    #[error("approval {0} was not used in time")]
    Over(PaymentId),
}

const fn one() -> u8 {
    1
}

//! Approvals as the ledger records them: the steps of an approval, and what is live or remembered afterwards (R44 to
//! R46).
//!
//! Entries hold only hashes of what was asked and answered. Question, token and proof are disclosures; the only texts
//! in an entry are ours and the names of agent, approver and backend.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::disclosure::Disclosure;
use crate::text::hex32;
use bursar_core::approval::EvidenceKind;
use bursar_core::payment_id::PaymentId;

/// One step of an approval. It is granted once it has as many votes as it needs. Its use is no step of its own: the
/// arming that names it consumes it (R45).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApprovalStep {
    /// A person is about to be asked.
    Requested(Requested),
    /// One person's evidence was verified. Recording it here is what makes it single use.
    Granted {
        id: PaymentId,
        /// Who answered, as the backend names them.
        by: String,
        kind: EvidenceKind,
        evidence_sha256: [u8; 32],
        /// Hash of issuer and `jti`, or of a challenge's id. It must not have been used before.
        replay: [u8; 32],
        /// Until when it must not be used again; never before `use_by`.
        replay_until: Timestamp,
        use_by: Timestamp,
    },
    /// A person denied it.
    Refused {
        id: PaymentId,
        by: Option<String>,
        /// One of our own codes.
        why: String,
        /// How long the denial applies to the same intent of the same agent.
        until: Timestamp,
    },
    /// It ended without a decision: too late, unused, or a backend error.
    Expired {
        id: PaymentId,
        /// One of our own codes, such as `timeout`, `unused`, `error:start_unknown`.
        why: String,
    },
}

/// The approval that a held payment waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    pub id: PaymentId,
    /// The payment, which is held.
    pub rid: PaymentId,
    pub agent: String,
    /// The approver; all names, if there are several.
    pub approver: String,
    pub backend: String,
    /// Hash of the intent.
    pub intent: [u8; 32],
    /// How many people must approve.
    pub needed: u8,
    /// Paths in limits.toml of the rules that the approval lifts (R82).
    pub rules: Vec<String>,
    /// The codes, one for each approver. The entry has only the commitments to them; a shared ledger keeps them in its
    /// table as long as the question is open.
    pub codes: Vec<Disclosure>,
    /// The approver's deadline.
    pub until: Timestamp,
}

impl ApprovalStep {
    /// The id of the approval.
    pub const fn id(&self) -> PaymentId {
        match self {
            Self::Requested(requested) => requested.id,
            Self::Granted { id, .. } | Self::Refused { id, .. } | Self::Expired { id, .. } => *id,
        }
    }
}

/// An approval that has not ended; its payment is held. One past its deadline stays until a step records how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRow {
    pub id: PaymentId,
    pub rid: PaymentId,
    pub agent: String,
    pub approver: String,
    pub backend: String,
    #[serde(with = "hex32")]
    pub intent: [u8; 32],
    /// Missing in an `audit/pruned` written before approvals could need several people.
    #[serde(default = "one")]
    pub needed: u8,
    /// The rules that the approval lifts; none for a question of format 3 or before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Commitments to the codes; none for a question of format 3 or before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sd: Vec<String>,
    pub state: ApprovalState,
    pub requested_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApprovalState {
    Pending {
        until: Timestamp,
        /// Approved by some, while others still have to decide.
        #[serde(default)]
        votes: Vec<Vote>,
    },
    /// Approved by as many people as it needs.
    Granted {
        /// The earliest of the votes.
        use_by: Timestamp,
        /// The weakest of the votes.
        kind: EvidenceKind,
        /// The names of all voters.
        by: String,
    },
}

impl ApprovalRow {
    /// Adds one person's vote, and grants the approval if that completes it.
    pub(crate) fn vote(&mut self, vote: Vote) {
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

/// One person's approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    pub by: String,
    pub kind: EvidenceKind,
    pub use_by: Timestamp,
}

/// A remembered denial: until it expires, the same agent may not ask for the same again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Denied {
    pub agent: String,
    #[serde(with = "hex32")]
    pub intent: [u8; 32],
    /// The last moment at which it is remembered.
    pub until: Timestamp,
}

/// The state of all approvals in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approvals {
    /// Oldest first; on a shared ledger only those that this proxy asked for.
    pub live: Vec<ApprovalRow>,
    /// Those that other proxies on a shared ledger asked for. Only those proxies record how they end.
    pub elsewhere: Vec<ApprovalRow>,
    /// In force, whichever proxy recorded them.
    pub denied: Vec<Denied>,
}

/// Why a step of an approval, or arming a payment with it, is not possible.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ApprovalError {
    #[error("no live approval has the id {0}")]
    NotLive(PaymentId),
    #[error("approval {0} already exists and has not ended")]
    IdTaken(PaymentId),
    #[error("approval {0} already asks for the same on behalf of the same agent")]
    AskedAlready(PaymentId),
    /// A person denied the same request, and that is remembered.
    #[error("a person denied the same request of this agent; it can be asked again after {until}")]
    Refused { until: Timestamp },
    #[error("payment {0} is not held")]
    NotHeld(PaymentId),
    #[error("payment {rid} already waits for approval {id}")]
    Waits { rid: PaymentId, id: PaymentId },
    #[error("approval {0} is already granted")]
    GrantedBefore(PaymentId),
    #[error("this person has already granted approval {0}")]
    VotedBefore(PaymentId),
    /// Its `jti`, or its equivalent, has already granted an approval.
    #[error("the evidence for approval {0} has already been used")]
    Replayed(PaymentId),
    #[error("payment {0} has no live approval with that id")]
    NoneOf(PaymentId),
    #[error("approval {0} is not granted")]
    NotGranted(PaymentId),
    #[error("approval {0} was not used in time")]
    Over(PaymentId),
}

const fn one() -> u8 {
    1
}

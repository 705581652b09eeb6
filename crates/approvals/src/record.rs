//! The approval record: everything about one approval in one document. It has the question, the answers with their
//! evidence, and the payment's ledger entries. Anyone who has the document can check it without bursar's data directory
//! ([`examine`]).
//!
//! The ledger has only hashes of question and evidence; their texts are in `private/approvals/` (R46). The record joins
//! the two.

mod examined;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::questions::{StoredAsk, StoredQuestion};
use bursar_core::approval::{Evidence, EvidenceKind};
use bursar_ledger::PaymentId;
use bursar_ledger::disclosure::Disclosure;
use bursar_ledger::lines::Recorded;
pub use examined::{BoundBy, Decision, Difference, Examined, Proof, Token, examine};

/// One approval. The document has its members in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRecord {
    pub format: Format,
    /// The payment id, which is also the approval's id.
    pub id: PaymentId,
    /// Absent if the stored question is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// All entries of the payment, oldest first.
    pub entries: Vec<Recorded>,
}

/// The version of the document's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// The codes follow from the intent.
    #[serde(rename = "bursar-approval-1")]
    One,
    /// The codes are random, and the ledger has commitments to them.
    #[serde(rename = "bursar-approval-2")]
    Two,
}

/// What `private/approvals/` stores, without the handle: with the handle, an answer could be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub agent: String,
    /// The backend that delivered the question.
    pub backend: String,
    pub at: Timestamp,
    /// When the question expired.
    pub ends: Timestamp,
    pub usd_cents: u64,
    /// With several approvers, its `approver` names all of them and how many must approve.
    pub intent: BTreeMap<String, String>,
    /// Hex.
    pub intent_sha256: String,
    pub needed: usize,
    /// Paths in limits.toml of the rules that the approval lifts. Not in documents of `bursar-approval-1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// One item per approver.
    pub of: Vec<Ask>,
}

/// What one approver was asked and answered. The intent that they saw names only them as `approver`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub approver: String,
    pub sentence: String,
    pub compact: String,
    pub code: String,
    /// What opens the commitment to the code in the `approval.requested` entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disclosure: Option<Disclosure>,
    /// How much the evidence proves to someone who does not trust this proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worth: Option<EvidenceStrength>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// Who vouches for a piece of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceStrength {
    /// The issuer, by its signature.
    SignedByIssuer,
    /// A service, in an answer that only this proxy received.
    WordOfService,
    /// This proxy: someone who had the code answered on its machine.
    WordOfOperator,
}

/// Why a document is not an approval record.
#[derive(Debug, Error)]
pub enum NotRead {
    #[error("not an approval record as `bursar approvals export` writes it: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Rejected, because readers might take unknown members for checked ones.
    #[error("the document has members that bursar never writes")]
    Members,
}

impl ApprovalRecord {
    pub fn of(id: PaymentId, stored: Option<&StoredQuestion>, entries: Vec<Recorded>) -> Self {
        Self {
            format: match stored.is_some_and(is_committed) {
                true => Format::Two,
                false => Format::One,
            },
            id,
            asked: stored.map(Asked::of),
            entries,
        }
    }

    /// Reads an exported document. White space does not matter; unknown members are an error.
    pub fn read(json: serde_json::Value) -> Result<Self, NotRead> {
        let read = Self::deserialize(&json)?;
        match serde_json::to_value(&read)? == json {
            true => Ok(read),
            false => Err(NotRead::Members),
        }
    }
}

/// Whether the ledger has commitments to the codes.
fn is_committed(stored: &StoredQuestion) -> bool {
    stored.asks.iter().any(|ask| ask.disclosure.is_some())
}

impl Asked {
    fn of(stored: &StoredQuestion) -> Self {
        Self {
            agent: stored.agent.clone(),
            backend: stored.backend.clone(),
            at: stored.asked_at,
            ends: stored.ends,
            usd_cents: stored.usd_cents,
            intent: stored.intent.clone(),
            intent_sha256: stored.intent_sha256.clone(),
            needed: stored.needed,
            rules: match is_committed(stored) {
                true => stored.rules.clone(),
                false => Vec::new(),
            },
            of: stored.asks.iter().map(Ask::of).collect(),
        }
    }
}

impl Ask {
    fn of(stored: &StoredAsk) -> Self {
        Self {
            approver: stored.approver.clone(),
            sentence: stored.sentence.clone(),
            compact: stored.compact.clone(),
            code: stored.code.clone(),
            disclosure: stored.disclosure.clone(),
            worth: stored.evidence.as_ref().map(|evidence| evidence.kind.into()),
            evidence: stored.evidence.clone(),
        }
    }
}

impl From<EvidenceKind> for EvidenceStrength {
    fn from(kind: EvidenceKind) -> Self {
        match kind {
            EvidenceKind::SignedToken => Self::SignedByIssuer,
            EvidenceKind::KeyraVerified | EvidenceKind::KeyraStatus => Self::WordOfService,
            EvidenceKind::Operator => Self::WordOfOperator,
        }
    }
}

impl EvidenceStrength {
    /// A description for people; completes the sentence "the evidence is ...".
    pub const fn text(self) -> &'static str {
        match self {
            Self::SignedByIssuer => "signed by the issuer",
            Self::WordOfService => "the approval service's statement, which only this proxy received",
            Self::WordOfOperator => "this proxy's own statement: someone who had the code answered on its machine",
        }
    }
}

//! All that there is about one approval, in one document: what was asked, what was answered and by what that is proven, and the
//! lines of the books about it. Whoever has the document can check it without us and without the data directory ([`examine`]).
//!
//! The books hold hashes of question and evidence, `private/approvals/` the texts (R46); here the two are held
//! together.

mod examined;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::questions::{StoredAsk, StoredQuestion};
use bursar_core::approval::{Evidence, EvidenceKind};
use bursar_ledger::PaymentId;
use bursar_ledger::lines::Recorded;
pub use examined::{BoundBy, Decision, Difference, Examined, Proof, Token, examine};

/// One approval; members in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRecord {
    pub format: Format,
    /// The approval's and its payment's.
    pub id: PaymentId,
    /// Absent if what was asked is not kept any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// All of the payment, oldest first.
    pub entries: Vec<Recorded>,
}

/// Which members there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    #[serde(rename = "bursar-approval-1")]
    One,
}

/// The part that lies in `private/approvals/`, but for the handle, by which an answer could be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub agent: String,
    /// Who carried the question.
    pub backend: String,
    pub at: Timestamp,
    /// When the approver's time was over.
    pub ends: Timestamp,
    pub usd_cents: u64,
    /// Of several approvers it names all, and how many of them must approve.
    pub intent: BTreeMap<String, String>,
    /// Hex.
    pub intent_sha256: String,
    pub needed: usize,
    /// One for each approver.
    pub of: Vec<Ask>,
}

/// What one approver was asked, and answered: the intent, with this approver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub approver: String,
    pub sentence: String,
    pub compact: String,
    pub code: String,
    /// How much the evidence proves, to somebody who does not believe this proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worth: Option<EvidenceStrength>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// Whose word evidence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceStrength {
    /// The issuer's, by its signature.
    SignedByIssuer,
    /// A service's, which only this proxy has heard.
    WordOfService,
    /// This proxy's own: somebody with the code answered on its machine.
    WordOfOperator,
}

/// Why a text is no dossier.
#[derive(Debug, Error)]
pub enum NotRead {
    #[error("it is not the JSON that `bursar approvals export` writes: {0}")]
    Malformed(#[from] serde_json::Error),
    /// What is read past could be taken for checked.
    #[error("it has members that bursar does not write")]
    Members,
}

impl ApprovalRecord {
    pub fn of(id: PaymentId, kept: Option<&StoredQuestion>, entries: Vec<Recorded>) -> Self {
        Self {
            format: Format::One,
            id,
            asked: kept.map(Asked::of),
            entries,
        }
    }

    /// Reads what was written, whatever its white space, and nothing else.
    pub fn read(json: serde_json::Value) -> Result<Self, NotRead> {
        let read = Self::deserialize(&json)?;
        match serde_json::to_value(&read)? == json {
            true => Ok(read),
            false => Err(NotRead::Members),
        }
    }
}

impl Asked {
    fn of(kept: &StoredQuestion) -> Self {
        Self {
            agent: kept.agent.clone(),
            backend: kept.backend.clone(),
            at: kept.asked_at,
            ends: kept.ends,
            usd_cents: kept.usd_cents,
            intent: kept.intent.clone(),
            intent_sha256: kept.intent_sha256.clone(),
            needed: kept.needed,
            of: kept.asks.iter().map(Ask::of).collect(),
        }
    }
}

impl Ask {
    fn of(kept: &StoredAsk) -> Self {
        Self {
            approver: kept.approver.clone(),
            sentence: kept.sentence.clone(),
            compact: kept.compact.clone(),
            code: kept.code.clone(),
            worth: kept.evidence.as_ref().map(|evidence| evidence.kind.into()),
            evidence: kept.evidence.clone(),
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
    /// What it means, for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::SignedByIssuer => "signed by the issuer",
            Self::WordOfService => "the word of the service, which only this proxy has heard",
            Self::WordOfOperator => "the word of this proxy alone: somebody with the code answered on its own machine",
        }
    }
}

//! A person's decision about one payment: what is asked ([`ApprovalIntent`], [`Question`]) and what comes back
//! ([`Evidence`]). Pure: the backends that ask are in the crate `bursar-approvals`.
//!
//! One approval is for one intent. An agent never sees the code in the question and never supplies evidence: the proxy
//! fetches it itself, over the handle that it got when it asked (approvals §8.2).

mod decimal;
pub mod details;
pub mod intent;
pub mod jwks;
pub mod proof;
pub mod rejected;
pub mod replay;
pub mod token;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::payment_id::PaymentId;
pub use intent::{ApprovalIntent, Code};

/// The question to one approver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The approval's id, in the same form as a payment id.
    pub id: PaymentId,
    pub intent: ApprovalIntent,
    /// Drawn for this question; it is in both wordings below.
    pub code: Code,
    /// Up to 200 characters: who pays how much to which host, and the code (approvals §8.4).
    pub sentence: String,
    /// The same in up to 20 characters, for backends with the narrowest alphabet.
    pub compact: String,
    /// What the payment counts as, in US cents, rounded up.
    pub usd_cents: u64,
    /// How long the approver may take.
    pub ttl: Duration,
}

/// An answer that a backend has verified, with its proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub kind: EvidenceKind,
    /// Who answered, by the names of the backend: a token's `sub`, a KEYRA user, a local account.
    pub approver: String,
    pub decided_at: Timestamp,
    /// It must not be used after this time.
    pub good_until: Option<Timestamp>,
    /// SHA-256 of what makes it single-use: issuer and `jti`, or the challenge's id (approvals §10).
    pub replay_key: String,
    /// What an auditor needs to check it again, as JSON: the token and the key that signed it, or the answers of the
    /// service.
    pub proof: serde_json::Value,
}

/// How much an answer proves, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    /// A token that the issuer signed.
    SignedToken,
    /// KEYRA states that it verified the approver's attestation; nothing else proves it.
    KeyraVerified,
    /// KEYRA reports the status "approved".
    KeyraStatus,
    /// Somebody who had the code and access to this machine's socket.
    Operator,
}

impl EvidenceKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::SignedToken => "signed_token",
            Self::KeyraVerified => "keyra_verified",
            Self::KeyraStatus => "keyra_status",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

//! Credentials that an external signer makes for us, and what the ledger can record of them before they exist.

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

/// A signer other than our own key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signer {
    /// Keys on a phone, or a card kept there (approvals §4.6).
    Bkey,
}

/// The nonce, as far as it is known when money is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArmedNonce {
    Known(B256),
    /// The signer chooses it, and may already have done so. No placeholder may be recorded instead: the chain would
    /// "prove" that it was never used, and money that is signed away would be given back.
    Signers,
}

/// What a signer chose, to be compared with what was armed. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    pub nonce: B256,
    pub valid_after: u64,
    pub valid_before: u64,
    /// The signer's id for it; bounded ASCII.
    pub authorization: Option<String>,
}

impl ArmedNonce {
    pub const fn known(self) -> Option<B256> {
        match self {
            Self::Known(nonce) => Some(nonce),
            Self::Signers => None,
        }
    }
}

impl From<B256> for ArmedNonce {
    fn from(nonce: B256) -> Self {
        Self::Known(nonce)
    }
}

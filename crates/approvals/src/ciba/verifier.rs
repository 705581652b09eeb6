//! The interface to what verifies tokens (approvals §5), given the token, the question and the issuer's keys.

use jiff::Timestamp;

use super::poll::Grant;
use super::request::SentDetails;
use super::settings::{CibaSettings, Secret};
use bursar_core::approval::{Evidence, Question};

/// Verifies tokens (approvals §5). Pure.
pub trait Verifier: Send + Sync + 'static {
    type Keys: Send + Sync + 'static;

    /// Reads a JWKS document. `None` rejects all of it.
    fn keys(&self, document: &[u8]) -> Option<Self::Keys>;

    fn verify(&self, presented: &Presented<'_>, keys: &Self::Keys) -> Result<Evidence, Rejected>;
}

/// A token that was fetched with this question's handle.
pub struct Presented<'a> {
    pub settings: &'a CibaSettings,
    pub question: &'a Question,
    pub auth_req_id: &'a str,
    /// The token that the settings declare as evidence.
    pub token: &'a Secret,
    /// The whole token response; it has, for example, the scope that an ID token lacks.
    pub grant: &'a Grant,
    pub sent: &'a SentDetails,
    pub now: Timestamp,
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The key is unknown; newer keys may include it.
    UnknownKid,
    /// A reason code of approvals §5.
    Because(&'static str),
}

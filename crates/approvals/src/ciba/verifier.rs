//! The seam to whatever judges tokens (approvals §5): it is given a token, what was asked, and the issuer's keys.

use jiff::Timestamp;

use super::poll::Grant;
use super::request::SentDetails;
use super::settings::{CibaSettings, Secret};
use bursar_core::approval::{Evidence, Question};

/// What judges a token (approvals §5). Pure.
pub trait Verifier: Send + Sync + 'static {
    type Keys: Send + Sync + 'static;

    /// Reads a JWKS document, or refuses all of it.
    fn keys(&self, document: &[u8]) -> Option<Self::Keys>;

    fn verify(&self, presented: &Presented<'_>, keys: &Self::Keys) -> Result<Evidence, Rejected>;
}

/// A token that was fetched, by the handle of this very question.
pub struct Presented<'a> {
    pub settings: &'a CibaSettings,
    pub question: &'a Question,
    pub auth_req_id: &'a str,
    /// The one that is evidence by the settings.
    pub token: &'a Secret,
    /// The whole answer, such as the scope that an id token does not carry.
    pub grant: &'a Grant,
    pub sent: &'a SentDetails,
    pub now: Timestamp,
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Newer keys may know it.
    UnknownKid,
    /// By a reason code of approvals §5.
    Because(&'static str),
}

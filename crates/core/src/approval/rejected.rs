//! Why a token is rejected: the reasons in approvals §5, as the test vectors name them.

use thiserror::Error;

/// Why a token does not count as an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    #[error("it is longer than 8192 characters")]
    TooLong,
    #[error("it is not a well-formed JWT (RFC 7515, RFC 7519)")]
    Malformed,
    #[error("its algorithm is not allowed")]
    AlgNotAllowed,
    #[error("its header has `crit`, which is not supported")]
    CritNotSupported,
    /// The issuer may have a new key, so its JWKS is worth fetching again.
    #[error("the issuer has no key with its `kid`")]
    UnknownKid,
    #[error("its signature does not verify")]
    BadSignature,
    #[error("its `{0}` has the wrong type")]
    ClaimType(&'static str),
    #[error("it has no `{0}`")]
    ClaimMissing(&'static str),
    #[error("it is from another issuer")]
    WrongIssuer,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it was issued in the future")]
    IssuedInFuture,
    #[error("its lifetime is too long for the approval of one action")]
    LifetimeTooLong,
    #[error("it is for another audience")]
    WrongAudience,
    #[error("it was issued to another client")]
    WrongClient,
    #[error("it is not from the approver who was asked")]
    WrongSubject,
    #[error("it lacks the required scope")]
    ScopeMissing,
    #[error("its `{0}` differs from what was asked")]
    BindingMismatch(&'static str),
}

impl Rejected {
    pub const fn code(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::AlgNotAllowed => "alg_not_allowed",
            Self::CritNotSupported => "crit_not_supported",
            Self::UnknownKid => "unknown_kid",
            Self::BadSignature => "bad_signature",
            Self::ClaimType(_) => "claim_type",
            Self::ClaimMissing(_) => "claim_missing",
            Self::WrongIssuer => "wrong_issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::LifetimeTooLong => "lifetime_too_long",
            Self::WrongAudience => "wrong_audience",
            Self::WrongClient => "wrong_client",
            Self::WrongSubject => "wrong_subject",
            Self::ScopeMissing => "scope_missing",
            Self::BindingMismatch(_) => "binding_mismatch",
        }
    }
}

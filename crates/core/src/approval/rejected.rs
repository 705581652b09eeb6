//! The reasons of approvals §5 and of the test vectors.

use thiserror::Error;

/// Why a token is no approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    #[error("it is longer than 8192 characters")]
    TooLong,
    #[error("it is not a JWT as RFC 7515 and 7519 write them")]
    Malformed,
    #[error("its algorithm is not allowed")]
    AlgNotAllowed,
    #[error("it has `crit`")]
    CritNotSupported,
    /// Perhaps the issuer has a new key: worth fetching its JWKS once more.
    #[error("the issuer has no key of that name")]
    UnknownKid,
    #[error("its signature is wrong")]
    BadSignature,
    #[error("its `{0}` is of the wrong type")]
    ClaimType(&'static str),
    #[error("it has no `{0}`")]
    ClaimMissing(&'static str),
    #[error("it is another issuer's")]
    WrongIssuer,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it was issued in the future")]
    IssuedInFuture,
    #[error("it lives too long for the approval of one action")]
    LifetimeTooLong,
    #[error("it is for another audience")]
    WrongAudience,
    #[error("it was issued to another client")]
    WrongClient,
    #[error("it is not from the approver who was asked")]
    WrongSubject,
    #[error("it lacks the scope")]
    ScopeMissing,
    #[error("its `{0}` is not what was asked")]
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

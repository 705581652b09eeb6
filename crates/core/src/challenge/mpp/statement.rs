//! Problem bodies of MPP servers (MPP §5): the reason they give for not accepting a payment.
//!
//! It is a statement, not a proof: whatever it says, the money stays counted (R11). The ledger records which statement
//! it was, because it shows who has to act.

use super::super::json::{self, Object};

const PREFIX: &str = "https://paymentauth.org/problems/";

/// The class of a problem's `type`. The rest of the document is the seller's text and is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    PaymentRequired,
    PaymentInsufficient,
    PaymentExpired,
    VerificationFailed,
    MalformedCredential,
    InvalidPayload,
    InvalidChallenge,
    MethodUnsupported,
    BadRequest,
    InternalPaymentError,
}

impl Statement {
    pub const ALL: [Self; 10] = [
        Self::PaymentRequired,
        Self::PaymentInsufficient,
        Self::PaymentExpired,
        Self::VerificationFailed,
        Self::MalformedCredential,
        Self::InvalidPayload,
        Self::InvalidChallenge,
        Self::MethodUnsupported,
        Self::BadRequest,
        Self::InternalPaymentError,
    ];

    /// Reads an `application/problem+json` body. `None` if it is not one of MPP's, or unknown.
    pub fn read(body: &[u8]) -> Option<Self> {
        let object = Object::read(json::checked(body).ok()?)?;
        let kind = object.text("type")?;
        let name = kind.strip_prefix(PREFIX)?;
        Self::ALL
            .into_iter()
            .find(|statement| statement.code().strip_prefix("seller-says-") == Some(name))
    }

    /// Stable text for entries and lists, never renamed.
    pub const fn code(self) -> &'static str {
        match self {
            Self::PaymentRequired => "seller-says-payment-required",
            Self::PaymentInsufficient => "seller-says-payment-insufficient",
            Self::PaymentExpired => "seller-says-payment-expired",
            Self::VerificationFailed => "seller-says-verification-failed",
            Self::MalformedCredential => "seller-says-malformed-credential",
            Self::InvalidPayload => "seller-says-invalid-payload",
            Self::InvalidChallenge => "seller-says-invalid-challenge",
            Self::MethodUnsupported => "seller-says-method-unsupported",
            Self::BadRequest => "seller-says-bad-request",
            Self::InternalPaymentError => "seller-says-internal-payment-error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_problems_are_read_and_nothing_else() {
        for statement in Statement::ALL {
            let name = statement.code().trim_start_matches("seller-says-");
            let body = format!(r#"{{"type":"{PREFIX}{name}","title":"t","status":402,"detail":"d"}}"#);
            assert_eq!(Statement::read(body.as_bytes()), Some(statement), "{name}");
        }
        for body in [
            "",
            "[]",
            "{}",
            r#"{"type":"about:blank"}"#,
            r#"{"type":"verification-failed"}"#,
            r#"{"type":"https://paymentauth.org/problems/session/insufficient-balance"}"#,
            r#"{"type":"https://paymentauth.org/problems/bad-request","type":"x"}"#,
        ] {
            assert_eq!(Statement::read(body.as_bytes()), None, "{body}");
        }
    }
}

//! The reasons for a 402, with the wording of `mppx` (MPP §5).

use serde::Serialize;

/// Included with the first challenge and for a malformed credential.
const HINT: &str = "Use a wallet that can pay by one of the methods in the WWW-Authenticate header.";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request carried no payment.
    Required {
        description: &'static str,
    },
    /// Not a credential at all.
    Malformed(&'static str),
    /// The challenge was not issued here, or is for something else.
    InvalidChallenge {
        id: String,
        reason: &'static str,
    },
    Expired {
        at: String,
    },
    /// The payload of the credential does not match its method.
    InvalidPayload,
    /// This challenge has already been paid.
    Processed,
    /// Stripe did not accept the charge.
    Stripe {
        reason: String,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    challenge_id: &'a str,
}

impl Problem {
    /// The last part of the problem's type.
    pub(crate) fn code(&self) -> &'static str {
        self.names().0
    }

    fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Required { .. } => ("payment-required", "Payment Required"),
            Self::Malformed(_) => ("malformed-credential", "Malformed Credential"),
            Self::InvalidChallenge { .. } => ("invalid-challenge", "Invalid Challenge"),
            Self::Expired { .. } => ("payment-expired", "Payment Expired"),
            Self::InvalidPayload => ("invalid-payload", "Invalid Payload"),
            Self::Processed | Self::Stripe { .. } => ("verification-failed", "Verification Failed"),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Required { description } => format!("Payment is required ({description})."),
            Self::Malformed(reason) => format!("Credential is malformed: {reason}."),
            Self::InvalidChallenge { id, reason } => format!("Challenge \"{id}\" is invalid: {reason}."),
            Self::Expired { at } => format!("Payment expired at {at}."),
            Self::InvalidPayload => "Credential payload is invalid.".to_owned(),
            Self::Processed => "Payment verification failed: Payment has already been processed.".to_owned(),
            Self::Stripe { reason } => format!("Payment verification failed: {reason}."),
        }
    }

    /// The JSON body, with the id of the challenge that accompanies it.
    pub(crate) fn json(&self, challenge_id: &str) -> Vec<u8> {
        let (code, title) = self.names();
        let hinted = matches!(self, Self::Required { .. } | Self::Malformed(_));
        let document = Document {
            kind: format!("https://paymentauth.org/problems/{code}"),
            title,
            status: 402,
            detail: self.detail(),
            hint: hinted.then_some(HINT),
            challenge_id,
        };
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

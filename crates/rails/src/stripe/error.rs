//! Why a call failed: whose fault it is, and what is known about its effect. Only Stripe's machine codes are kept; its
//! messages are not, because they quote what was sent.

use bursar_ledger::Reason;
use std::fmt;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use thiserror::Error;

use super::issued::Difference;
use super::names::TokenId;

/// No point in waiting longer: by then the payment has expired.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

#[derive(Error)]
pub enum StripeError {
    #[error("the card was declined ({code})")]
    Declined { code: Code },
    #[error("Stripe refused the request ({code}{})", about.clause())]
    Refused { code: Code, about: About },
    #[error("Stripe rejected the key, or the key lacks the permission for this call")]
    Unauthorized,
    #[error("another request with this idempotency key was made or is in progress")]
    IdempotencyConflict,
    #[error("Stripe's rate limit was exceeded")]
    RateLimited { retry_after: Option<Duration> },
    #[error("Stripe had an internal error (HTTP status {status})")]
    Unavailable { status: u16 },
    /// The request was sent, and no complete answer arrived in time.
    #[error("Stripe did not answer: {0}")]
    Unclear(Silence),
    #[error("could not reach Stripe: {0}")]
    Unsent(Silence),
    #[error("Stripe's answer could not be read (HTTP status {status})")]
    Unreadable { status: u16 },
    /// There is a token, but it is not the one that was ordered or asked for. It can be revoked.
    #[error("Stripe's token does not match the request: {}", what.text())]
    Differs { what: Difference, token: TokenId },
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The seller's offer: an unknown profile, or an amount out of range.
    Offer,
    /// The operator's card or bank.
    Card,
    /// The operator's key or payment method, or bursar itself.
    Setup,
    Stripe,
    Network,
}

/// The effect of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    /// It may have succeeded. After an order a token may exist: repeat the order under its key.
    Unknown,
    /// It succeeded, but with a different result than asked for.
    Whole,
}

/// A machine code of Stripe's: lower-case letters and `_` only, so it cannot contain what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code(String);

/// Which part of an order was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    Seller,
    Limits,
    PaymentMethod,
    /// Another part, or not stated.
    Other,
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Silence {
    #[error("the request timed out")]
    Timeout,
    #[error("the connection failed")]
    Connection,
    #[error("the request could not be written")]
    Request,
}

impl StripeError {
    /// Bursar's own stable code, for ledger entries and answers.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Declined { .. } => Reason::StripeDeclined,
            Self::Refused { .. } => Reason::StripeRefused,
            Self::Unauthorized => Reason::StripeUnauthorized,
            Self::IdempotencyConflict => Reason::StripeIdempotencyConflict,
            Self::RateLimited { .. } => Reason::StripeRateLimited,
            Self::Unavailable { .. } => Reason::StripeUnavailable,
            Self::Unclear(_) => Reason::StripeUnclear,
            Self::Unsent(_) => Reason::StripeUnsent,
            Self::Unreadable { .. } => Reason::StripeUnreadable,
            Self::Differs { .. } => Reason::StripeDiffers,
        }
    }

    pub fn fault(&self) -> Fault {
        match self {
            Self::Declined { .. } => Fault::Card,
            Self::Refused { about, .. } => match about {
                About::Seller | About::Limits => Fault::Offer,
                About::PaymentMethod | About::Other => Fault::Setup,
            },
            Self::Unauthorized | Self::IdempotencyConflict => Fault::Setup,
            Self::RateLimited { .. } | Self::Unavailable { .. } | Self::Unreadable { .. } | Self::Differs { .. } => {
                Fault::Stripe
            }
            Self::Unclear(_) | Self::Unsent(_) => Fault::Network,
        }
    }

    pub fn effect(&self) -> Effect {
        match self {
            Self::Declined { .. }
            | Self::Refused { .. }
            | Self::Unauthorized
            | Self::RateLimited { .. }
            | Self::Unsent(_) => Effect::None,
            Self::IdempotencyConflict | Self::Unavailable { .. } | Self::Unclear(_) | Self::Unreadable { .. } => {
                Effect::Unknown
            }
            Self::Differs { .. } => Effect::Whole,
        }
    }

    /// The meaning of an answer other than 200. It is [`Self::Unreadable`] if only the body could say, and it does not.
    pub(crate) fn of_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let unreadable = Self::Unreadable {
            status: status.as_u16(),
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Self::Unauthorized,
            StatusCode::CONFLICT => return Self::IdempotencyConflict,
            StatusCode::TOO_MANY_REQUESTS => {
                return Self::RateLimited {
                    retry_after: retry_after(headers),
                };
            }
            _ if status.is_server_error() => {
                return Self::Unavailable {
                    status: status.as_u16(),
                };
            }
            StatusCode::BAD_REQUEST | StatusCode::PAYMENT_REQUIRED | StatusCode::NOT_FOUND => {}
            _ => return unreadable,
        }
        let Ok(Complaint { error }) = serde_json::from_slice(body) else {
            return unreadable;
        };
        let Some(code) = error.machine_code() else {
            return unreadable;
        };
        match error.kind.as_str() {
            "card_error" => Self::Declined { code },
            "invalid_request_error" => Self::Refused {
                code,
                about: About::parameter(error.param.as_deref()),
            },
            "idempotency_error" => Self::IdempotencyConflict,
            _ => unreadable,
        }
    }
}

/// Delegates to `Display`, so that no token is printed.
impl fmt::Debug for StripeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.reason().as_str())
    }
}

impl Code {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let well_formed =
            (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        well_formed.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl About {
    fn parameter(name: Option<&str>) -> Self {
        match name.and_then(|name| name.split('[').next()) {
            Some("seller_details") => Self::Seller,
            Some("usage_limits") => Self::Limits,
            Some("payment_method") => Self::PaymentMethod,
            _ => Self::Other,
        }
    }

    fn clause(self) -> &'static str {
        match self {
            Self::Seller => ", about the seller",
            Self::Limits => ", about the amount, currency or expiry",
            Self::PaymentMethod => ", about the payment method",
            Self::Other => "",
        }
    }
}

impl Difference {
    fn text(self) -> &'static str {
        match self {
            Self::Mode => "its mode (test or live) is not the key's",
            Self::Currency => "its currency differs",
            Self::MaxAmount => "its maximum amount differs",
            Self::ExpiresAt => "its expiry differs",
            Self::Seller => "it is for another seller",
            Self::Token => "it is another token",
        }
    }
}

#[derive(Deserialize)]
struct Complaint {
    error: ErrorObject,
}

#[derive(Deserialize)]
struct ErrorObject {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    decline_code: Option<String>,
    #[serde(default)]
    param: Option<String>,
}

impl ErrorObject {
    /// The most specific of its codes, or its type if Stripe has no code for the case.
    fn machine_code(&self) -> Option<Code> {
        [&self.decline_code, &self.code]
            .into_iter()
            .flatten()
            .find_map(|text| Code::parse(text))
            .or_else(|| Code::parse(&self.kind))
    }
}

/// `Retry-After` in seconds; a date is ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

//! Why a call failed: whose fault it is, and what is known of its effect. Holds Stripe's machine codes and nothing else of what
//! Stripe says: its sentences quote what was sent.

use std::fmt;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use thiserror::Error;

use super::issued::Difference;
use super::names::TokenId;

/// A longer wait is no wait: the payment has expired by then.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

#[derive(Error)]
pub enum StripeError {
    #[error("the card was declined ({code})")]
    Declined { code: Code },
    #[error("Stripe refused the request ({code}{})", about.clause())]
    Refused { code: Code, about: About },
    #[error("Stripe does not accept the key, or the key may not do this")]
    Unauthorized,
    #[error("another request with this idempotency key was made, or is being made")]
    IdempotencyConflict,
    #[error("Stripe wants fewer requests")]
    RateLimited { retry_after: Option<Duration> },
    #[error("Stripe has a fault of its own (HTTP status {status})")]
    Unavailable { status: u16 },
    /// It was sent, and no whole answer came in time.
    #[error("Stripe did not answer: {0}")]
    Unclear(Silence),
    #[error("Stripe was not reached: {0}")]
    Unsent(Silence),
    #[error("Stripe gave an answer that is not one (HTTP status {status})")]
    Unreadable { status: u16 },
    /// There is a token, and it is another than was ordered. It can be revoked.
    #[error("Stripe's token is not what was asked for: {}", what.text())]
    Differs { what: Difference, token: TokenId },
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What the seller asked for cannot be had: an unknown profile, an amount out of range.
    Offer,
    /// The operator's card or bank.
    Card,
    /// The operator's key or payment method, or bursar itself.
    Setup,
    Stripe,
    Network,
}

/// What the call has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    /// Perhaps all of it. After an order a token may exist: repeat it under its key.
    Unknown,
    /// All of it, though not as it was meant.
    Whole,
}

/// A machine code of Stripe's: letters of the lower case and `_`, so nothing that was sent can be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code(String);

/// Which part of an order was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    Seller,
    Limits,
    PaymentMethod,
    /// Another one, or not said.
    Other,
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Silence {
    #[error("the time was over")]
    Timeout,
    #[error("the connection failed")]
    Connection,
    #[error("the request could not be written")]
    Request,
}

impl StripeError {
    /// A code of ours that stays the same, for entries and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Declined { .. } => "stripe-declined",
            Self::Refused { .. } => "stripe-refused",
            Self::Unauthorized => "stripe-unauthorized",
            Self::IdempotencyConflict => "stripe-idempotency-conflict",
            Self::RateLimited { .. } => "stripe-rate-limited",
            Self::Unavailable { .. } => "stripe-unavailable",
            Self::Unclear(_) => "stripe-unclear",
            Self::Unsent(_) => "stripe-unsent",
            Self::Unreadable { .. } => "stripe-unreadable",
            Self::Differs { .. } => "stripe-differs",
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

    /// What an answer other than 200 means. Where only the body could tell, and it does not, it is [`Self::Unreadable`].
    pub(super) fn of_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
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

/// Delegates to `Display`: no `Debug` of a token.
impl fmt::Debug for StripeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.code())
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
            Self::Limits => ", about the amount, the currency or the time",
            Self::PaymentMethod => ", about the payment method",
            Self::Other => "",
        }
    }
}

impl Difference {
    fn text(self) -> &'static str {
        match self {
            Self::Mode => "it is not of the key's mode, test or live",
            Self::Currency => "it has another currency",
            Self::MaxAmount => "it has another maximum",
            Self::ExpiresAt => "it expires at another time",
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
    /// The most telling of its codes; its type when Stripe has none for the case.
    fn machine_code(&self) -> Option<Code> {
        [&self.decline_code, &self.code]
            .into_iter()
            .flatten()
            .find_map(|text| Code::parse(text))
            .or_else(|| Code::parse(&self.kind))
    }
}

/// In seconds; a date is not looked at.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

//! Interprets a sequence of poll responses (approvals §2.6, §4.5). Pure; the requests are sent in [`super`].
//!
//! Only the identity server decides. A timeout, a server error or a gateway's error page is not a decision, and a
//! response that contradicts itself is not an approval.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::failure::{self, Code};
use super::settings::Secret;
use crate::Failure;
use bursar_net::oauth::form;

/// The interval if the server gives none.
pub const USUAL_INTERVAL: Duration = Duration::from_secs(5);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// What each `slow_down` adds to the interval, permanently.
const SLOWER: Duration = Duration::from_secs(5);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Upper limit for `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);
/// Consecutive unreadable responses before they count as the server's own rather than a gateway's.
const UNREADABLE: u8 = 3;

/// The polling state of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polling {
    interval: Duration,
    /// Time until the next poll, as set by the last one.
    wait: Duration,
    failures: u32,
    unreadable: u8,
    /// Whether the last poll may have returned a token that we never received.
    perhaps_answered: bool,
}

/// The outcome of one poll request.
pub enum Look<'a> {
    /// The request was not sent: no connection.
    Unsent,
    /// The request may have arrived, but no complete response came back.
    Unanswered,
    Answered {
        status: StatusCode,
        headers: &'a HeaderMap,
        body: &'a [u8],
        /// The current time, for a date in `Retry-After`.
        now: Timestamp,
    },
}

/// What a poll's outcome means for the question.
pub enum Step {
    /// Poll again after this long, counted from when this poll was sent.
    Pending(Duration),
    /// The server returned tokens. Not an approval until a verifier accepts them.
    Granted(Box<Grant>),
    Denied,
    Expired,
    Failed(Failure),
}

pub(super) fn failed(code: Code) -> Step {
    Step::Failed(code.into())
}

/// A token response. A refresh token is dropped unread.
pub struct Grant {
    pub access_token: Secret,
    pub id_token: Option<Secret>,
    pub scope: Option<String>,
    pub authorization_details: Option<Value>,
}

/// `Option<Value>`, not `Option<String>`, so that a member of the wrong type can be handled separately. Duplicate
/// members are an error.
#[derive(Deserialize)]
struct PollAnswer {
    access_token: Option<Value>,
    id_token: Option<Value>,
    token_type: Option<Value>,
    scope: Option<Value>,
    authorization_details: Option<Value>,
    error: Option<Value>,
    status: Option<Value>,
}

impl Polling {
    /// Starts polling a new question, with the `interval` that the server gave.
    pub fn new(interval: Option<u64>) -> Self {
        let interval = interval.map_or(USUAL_INTERVAL, Duration::from_secs);
        Self::at(interval, 0, false)
    }

    /// Resumes after a restart or a canceled poll, whose response may have been the token.
    pub fn resumed(interval: Duration, failures: u32) -> Self {
        Self::at(interval, failures, true)
    }

    fn at(interval: Duration, failures: u32, perhaps_answered: bool) -> Self {
        let interval = interval.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
        let doubled = interval.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX));
        Self {
            interval,
            wait: doubled.min(LONGEST_BACKOFF).max(interval),
            failures,
            unreadable: 0,
            perhaps_answered,
        }
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Consecutive polls without a usable response.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn step(&mut self, look: &Look<'_>) -> Step {
        match *look {
            Look::Unsent => self.fault(None, self.perhaps_answered),
            Look::Unanswered => self.fault(None, true),
            Look::Answered {
                status,
                headers,
                body,
                now,
            } => self.answered(status, body, retry_after(headers, now)),
        }
    }

    fn answered(&mut self, status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> Step {
        let troubled =
            status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        // Never follow a redirect: the request has our secret in it.
        if status.is_redirection() {
            return failed(failure::REDIRECTED);
        }
        let Some(value) = json(body) else {
            return self.unreadable(troubled, retry_after);
        };
        let answer = form::object(value.as_bytes()).map(serde_json::from_str::<PollAnswer>);
        let Some(Ok(answer)) = answer else {
            return match troubled {
                true => self.fault(retry_after, true),
                false => failed(failure::BAD_RESPONSE),
            };
        };
        let error = answer.error.as_ref().and_then(Value::as_str);
        let said = answer.status.as_ref().and_then(Value::as_str);
        if status == StatusCode::OK && answer.access_token.as_ref().is_some_and(Value::is_string) {
            // A token next to another status, or next to an error, is a contradiction.
            let approved = answer.status.is_none() || said == Some("approved");
            return match approved && answer.error.is_none() {
                true => answer.grant(),
                false => failed(failure::BAD_RESPONSE),
            };
        }
        match (error, said) {
            (Some(error), _) => self.error(error, troubled, retry_after),
            (None, Some("pending")) => self.pending(),
            (None, Some("denied" | "rejected")) => Step::Denied,
            (None, Some("expired")) => Step::Expired,
            (None, _) if troubled => self.fault(retry_after, true),
            (None, _) => failed(failure::BAD_RESPONSE),
        }
    }

    fn error(&mut self, error: &str, troubled: bool, retry_after: Option<Duration>) -> Step {
        match error {
            "authorization_pending" => self.pending(),
            "slow_down" => {
                self.interval = self.interval.saturating_add(SLOWER);
                self.pending()
            }
            "expired_token" => Step::Expired,
            "access_denied" => Step::Denied,
            "invalid_grant" if self.perhaps_answered => failed(failure::TOKEN_LOST),
            _ => match failure::of_error(error) {
                Some(code) => failed(code),
                None if troubled => self.fault(retry_after, true),
                None => failed(failure::REFUSED),
            },
        }
    }

    fn pending(&mut self) -> Step {
        (self.failures, self.unreadable, self.perhaps_answered) = (0, 0, false);
        self.wait = self.interval;
        Step::Pending(self.wait)
    }

    fn unreadable(&mut self, troubled: bool, retry_after: Option<Duration>) -> Step {
        if !troubled {
            self.unreadable = self.unreadable.saturating_add(1);
        }
        match self.unreadable >= UNREADABLE {
            true => failed(failure::BAD_RESPONSE),
            false => self.fault(retry_after, true),
        }
    }

    fn fault(&mut self, retry_after: Option<Duration>, perhaps_answered: bool) -> Step {
        self.failures = self.failures.saturating_add(1);
        self.perhaps_answered = perhaps_answered;
        // Never sooner than the server allows, even if that exceeds the longest back-off.
        let doubled = self.wait.saturating_mul(2).min(LONGEST_BACKOFF).max(self.interval);
        self.wait = doubled.max(retry_after.unwrap_or_default());
        Step::Pending(self.wait)
    }
}

impl PollAnswer {
    fn grant(self) -> Step {
        let bearer = match &self.token_type {
            None => true,
            Some(Value::String(kind)) => kind.eq_ignore_ascii_case("bearer"),
            Some(_) => false,
        };
        let text = |value| match value {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(()),
        };
        let (Ok(Some(access_token)), Ok(id_token), Ok(scope), true) =
            (text(self.access_token), text(self.id_token), text(self.scope), bearer)
        else {
            return failed(failure::BAD_RESPONSE);
        };
        Step::Granted(Box::new(Grant {
            access_token: Secret::new(access_token),
            id_token: id_token.map(Secret::new),
            scope,
            authorization_details: self.authorization_details,
        }))
    }
}

/// The text, if it is valid JSON.
fn json(body: &[u8]) -> Option<&str> {
    let text = str::from_utf8(body).ok()?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    Some(text)
}

/// Reads `Retry-After`, in seconds or as a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(at.duration_since(now)).ok()?
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

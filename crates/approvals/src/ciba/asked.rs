//! Reads the response to a question: a handle, or why the question was not asked (approvals §2.5).

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::failure::{self, Code};
use crate::Failure;
use bursar_net::oauth::form;

/// Longer lifetimes are cut to this: a token about a payment lives an hour at most (approvals §5).
const LONGEST_LIFE_S: u64 = 3600;
const LONGEST_HANDLE: usize = 1024;

/// The server accepted the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub auth_req_id: String,
    pub expires_in_s: u64,
    pub interval_s: Option<u64>,
}

/// Why a question was not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotAsked {
    /// The server does not accept the message: worth a second attempt with a shorter one.
    BindingMessage,
    Failed(Failure),
}

impl NotAsked {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::BindingMessage => failure::BINDING_MESSAGE.into(),
            Self::Failed(failure) => failure,
        }
    }
}

impl From<Code> for NotAsked {
    fn from(code: Code) -> Self {
        Self::Failed(code.into())
    }
}

#[derive(Deserialize)]
struct RequestAnswer {
    auth_req_id: String,
    expires_in: u64,
    interval: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    error: Option<Value>,
}

pub(super) fn read(status: StatusCode, body: &[u8]) -> Result<Accepted, NotAsked> {
    let text = form::object(body);
    if status.is_success() {
        // The approver was asked, but without a handle the answer can never be fetched.
        let answer = text.and_then(|text| serde_json::from_str::<RequestAnswer>(text).ok());
        return answer.and_then(accepted).ok_or(NotAsked::from(failure::START_UNKNOWN));
    }
    if status.is_redirection() {
        return Err(NotAsked::from(failure::REDIRECTED));
    }
    let refusal = text.and_then(|text| serde_json::from_str::<Refusal>(text).ok());
    let error = refusal.as_ref().and_then(|refusal| refusal.error.as_ref()?.as_str());
    if status.is_server_error() {
        return Err(NotAsked::from(failure::START_UNKNOWN));
    }
    Err(match error {
        Some("invalid_binding_message") => NotAsked::BindingMessage,
        Some(error) => NotAsked::from(failure::of_error(error).unwrap_or(failure::REFUSED)),
        None if status == StatusCode::TOO_MANY_REQUESTS => NotAsked::from(failure::RATE_LIMITED),
        None => NotAsked::from(failure::REFUSED),
    })
}

fn accepted(answer: RequestAnswer) -> Option<Accepted> {
    let handle = &answer.auth_req_id;
    let plain = !handle.is_empty() && handle.len() <= LONGEST_HANDLE && handle.bytes().all(|b| b.is_ascii_graphic());
    (plain && answer.expires_in > 0).then(|| Accepted {
        expires_in_s: answer.expires_in.min(LONGEST_LIFE_S),
        interval_s: answer.interval,
        auth_req_id: answer.auth_req_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> Result<Accepted, NotAsked> {
        read(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    fn code(result: Result<Accepted, NotAsked>) -> String {
        match result {
            Ok(_) => "accepted".to_owned(),
            Err(NotAsked::BindingMessage) => "again".to_owned(),
            Err(NotAsked::Failed(failure)) => failure.code,
        }
    }

    #[test]
    fn a_handle_is_taken_with_or_without_an_interval() {
        let accepted = of(200, r#"{"auth_req_id":"a.B_9-","expires_in":300}"#).unwrap();
        assert_eq!((accepted.auth_req_id.as_str(), accepted.expires_in_s), ("a.B_9-", 300));
        assert_eq!(accepted.interval_s, None);
        let accepted = of(200, r#"{"auth_req_id":"a","expires_in":999999999999,"interval":2}"#).unwrap();
        assert_eq!((accepted.expires_in_s, accepted.interval_s), (3600, Some(2)));
    }

    #[test]
    fn without_a_good_handle_nobody_knows_who_was_asked() {
        let long = format!(r#"{{"auth_req_id":"{}","expires_in":300}}"#, "a".repeat(1025));
        for body in [
            r#"{"expires_in":300}"#,
            r#"{"auth_req_id":"","expires_in":300}"#,
            r#"{"auth_req_id":"a b","expires_in":300}"#,
            r#"{"auth_req_id":"a\n","expires_in":300}"#,
            r#"{"auth_req_id":"é","expires_in":300}"#,
            r#"{"auth_req_id":"a","expires_in":0}"#,
            r#"{"auth_req_id":"a","expires_in":-1}"#,
            r#"{"auth_req_id":"a","auth_req_id":"b","expires_in":300}"#,
            r#"["a",300,5]"#,
            "<html>",
            &long,
        ] {
            assert_eq!(code(of(200, body)), "start_unknown", "{body}");
        }
        assert_eq!(code(of(503, r#"{"error":"invalid_request"}"#)), "start_unknown");
    }

    #[test]
    fn errors_keep_their_codes_and_unknown_ones_are_dropped() {
        for name in [
            "invalid_request",
            "invalid_scope",
            "expired_login_hint_token",
            "unknown_user_id",
            "unauthorized_client",
            "missing_user_code",
            "invalid_user_code",
            "invalid_authorization_details",
            "invalid_client",
            "access_denied",
        ] {
            assert_eq!(code(of(400, &format!(r#"{{"error":"{name}"}}"#))), name);
        }
        assert_eq!(code(of(400, r#"{"error":"invalid_binding_message"}"#)), "again");
        assert_eq!(code(of(400, r#"{"error":"pay me\n"}"#)), "refused");
        assert_eq!(code(of(404, "<html>")), "refused");
        assert_eq!(code(of(429, "")), "rate_limited");
        assert_eq!(code(of(302, "")), "redirected");
    }
}

//! KEYRA's error responses, and what to do about them. Only its stable codes are read, because its messages quote what
//! was sent.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::Failure;

/// Upper limit for `Retry-After`: no question lives longer.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing of the request was sent.
    Unsent,
    /// All or part of the request may have arrived.
    Unanswered,
    /// 429: KEYRA did nothing.
    RateLimited { retry_after: Option<Duration> },
    /// 5xx: it is not known what KEYRA did.
    Unavailable { retry_after: Option<Duration> },
    /// A 2xx whose body is not a valid challenge.
    Unreadable,
    /// The challenge has expired.
    Expired,
    /// An error that a retry would get again.
    Refused(Code),
}

/// The code of an error that is not retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidApiKey,
    ChallengeAlreadyUsed,
    AttestationInvalid,
    DeviceNotFound,
    /// Any other error, by its HTTP status.
    Status(u16),
}

impl Fault {
    /// Interprets a response other than 2xx. Only 429 and 5xx are worth a retry.
    pub(super) fn of_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let retry_after = retry_after(headers);
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Self::RateLimited { retry_after };
        }
        if status.is_server_error() {
            return Self::Unavailable { retry_after };
        }
        let complaint: Option<Complaint> = serde_json::from_slice(body).ok();
        let code = complaint.as_ref().map_or("", |complaint| complaint.code.as_str());
        // Code and status must match: otherwise the error is not KEYRA's.
        Self::Refused(match (status.as_u16(), code) {
            (410, "challenge_expired") => return Self::Expired,
            (401, "invalid_api_key") => Code::InvalidApiKey,
            (409, "challenge_already_used") => Code::ChallengeAlreadyUsed,
            (422, "attestation_invalid") => Code::AttestationInvalid,
            (404, "device_not_found") => Code::DeviceNotFound,
            (status, _) => Code::Status(status),
        })
    }
}

impl Code {
    /// A new question gets a new challenge and a new attestation, so their errors are retryable. API key and device
    /// stay the same.
    pub(super) fn failure(self) -> Failure {
        let (code, retryable) = match self {
            Self::InvalidApiKey => ("invalid_api_key".to_owned(), false),
            Self::ChallengeAlreadyUsed => ("challenge_already_used".to_owned(), true),
            Self::AttestationInvalid => ("attestation_invalid".to_owned(), true),
            Self::DeviceNotFound => ("device_not_found".to_owned(), false),
            Self::Status(status) => (format!("http_{status}"), false),
        };
        Failure { code, retryable }
    }
}

#[derive(Deserialize)]
struct Complaint {
    code: String,
}

/// Reads `Retry-After` in seconds. Dates are ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::Value;

    use super::super::challenge::Status;
    use super::*;

    fn fixture() -> Value {
        serde_json::from_str(include_str!("../../../../fixtures/approvals/keyra_errors.json")).unwrap()
    }

    #[test]
    fn errors_are_those_of_the_vectors() {
        let fixture = fixture();
        let cases = fixture["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 10);
        for case in cases {
            let status = u16::try_from(case["status"].as_u64().unwrap()).unwrap();
            let body = serde_json::json!({ "code": case["code"], "message": "m" }).to_string();
            let fault = Fault::of_answer(
                StatusCode::from_u16(status).unwrap(),
                &HeaderMap::new(),
                body.as_bytes(),
            );
            let (state, retry) = match fault {
                Fault::RateLimited { .. } | Fault::Unavailable { .. } => ("pending", true),
                Fault::Expired => ("expired", false),
                Fault::Refused(code) => {
                    let code = code.failure().code;
                    let expected = case["code"].as_str().filter(|code| *code != "anything_else");
                    assert_eq!(code, expected.map_or_else(|| format!("http_{status}"), str::to_owned));
                    ("error", false)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(state, case["state"], "{case}");
            assert_eq!(retry, case["retry"], "{case}");
        }
    }

    #[test]
    fn states_are_those_of_the_vectors() {
        let fixture = fixture();
        let cases = fixture["challenge_status"].as_array().unwrap();
        assert_eq!(cases.len(), 6);
        for case in cases {
            let state = match Status::of(case["status"].as_str().unwrap()) {
                Status::Pending => "pending",
                Status::Approved => "approved",
                Status::Rejected => "denied",
                Status::Expired => "expired",
                Status::Used | Status::Unknown => "error",
            };
            assert_eq!(state, case["state"], "{case}");
        }
        for near in ["", "Approved", "APPROVED", " approved", "approved ", "approve"] {
            assert_eq!(Status::of(near), Status::Unknown, "{near:?}");
        }
    }

    #[test]
    fn a_code_is_believed_with_its_status_only() {
        let of = |status, body: &str| {
            Fault::of_answer(
                StatusCode::from_u16(status).unwrap(),
                &HeaderMap::new(),
                body.as_bytes(),
            )
        };
        assert_eq!(
            of(400, r#"{"code":"challenge_expired"}"#),
            Fault::Refused(Code::Status(400))
        );
        assert_eq!(of(410, "gone"), Fault::Refused(Code::Status(410)));
        assert_eq!(of(302, ""), Fault::Refused(Code::Status(302)));
        assert!(matches!(
            of(503, r#"{"code":"invalid_api_key"}"#),
            Fault::Unavailable { .. }
        ));
    }

    #[test]
    fn a_wait_is_in_seconds_and_bounded() {
        for (text, wait) in [("17", Some(17)), ("0", Some(0)), ("99999999", Some(600))] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            let retry_after = wait.map(Duration::from_secs);
            let fault = Fault::of_answer(StatusCode::TOO_MANY_REQUESTS, &headers, b"");
            assert_eq!(fault, Fault::RateLimited { retry_after });
        }
        for text in ["-1", "soon", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            let fault = Fault::of_answer(StatusCode::SERVICE_UNAVAILABLE, &headers, b"");
            assert_eq!(fault, Fault::Unavailable { retry_after: None });
        }
    }
}

//! Stripe's errors: a status, and an object with a type and, in most cases, a code and the parameter.

use ::http::header::WWW_AUTHENTICATE;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};

use super::Answer;

/// The error of a failed call.
pub(super) struct Fault {
    status: StatusCode,
    error: Map<String, Value>,
}

impl Fault {
    fn new(status: StatusCode, kind: &str, message: String) -> Self {
        let mut error = Map::new();
        error.insert("type".into(), kind.into());
        error.insert("message".into(), message.into());
        Self { status, error }
    }

    fn invalid_request(status: StatusCode, message: String) -> Self {
        Self::new(status, "invalid_request_error", message)
    }

    fn with(mut self, member: &str, value: &str) -> Self {
        self.error.insert(member.into(), value.into());
        self
    }

    pub(super) fn no_key() -> Self {
        let message = "You did not provide an API key. Send it as the user name of HTTP Basic, or as a Bearer token.";
        Self::invalid_request(StatusCode::UNAUTHORIZED, message.into())
    }

    /// Never shows the key; Stripe itself shows the end of it.
    pub(super) fn wrong_key() -> Self {
        Self::invalid_request(StatusCode::UNAUTHORIZED, "Invalid API Key provided".into())
    }

    pub(super) fn unrecognized(method: &Method, path: &str) -> Self {
        let message = format!("Unrecognized request URL ({method}: {path}).");
        Self::invalid_request(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn not_a_form() -> Self {
        let message = "Invalid request (a POST must have the content type application/x-www-form-urlencoded)";
        Self::invalid_request(StatusCode::BAD_REQUEST, message.into())
    }

    pub(super) fn malformed() -> Self {
        Self::invalid_request(
            StatusCode::BAD_REQUEST,
            "Invalid request (the form cannot be read)".into(),
        )
    }

    pub(super) fn bad_idempotency_key() -> Self {
        let message = "An idempotency key must have 1 to 255 characters";
        Self::invalid_request(StatusCode::BAD_REQUEST, message.into())
    }

    pub(super) fn twice(name: &str) -> Self {
        Self::invalid_request(StatusCode::BAD_REQUEST, format!("Received more than once: {name}")).with("param", name)
    }

    pub(super) fn not_expandable(name: &str) -> Self {
        let message = format!("This property cannot be expanded ({name}).");
        Self::invalid_request(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn unknown(name: &str) -> Self {
        Self::invalid_request(StatusCode::BAD_REQUEST, format!("Received unknown parameter: {name}"))
            .with("code", "parameter_unknown")
            .with("param", name)
    }

    pub(super) fn missing(name: &str) -> Self {
        Self::invalid_request(StatusCode::BAD_REQUEST, format!("Missing required param: {name}."))
            .with("code", "parameter_missing")
            .with("param", name)
    }

    /// A value that is not valid for its parameter.
    pub(super) fn invalid(name: &str, code: &str, message: &str) -> Self {
        Self::invalid_request(StatusCode::BAD_REQUEST, format!("{message} ({name})"))
            .with("code", code)
            .with("param", name)
    }

    /// A parameter that names something that does not exist.
    pub(super) fn no_such(name: &str, what: &str, id: &str) -> Self {
        Self::invalid(name, "resource_missing", &format!("No such {what}: '{id}'"))
    }

    /// A URL that names something that does not exist.
    pub(super) fn not_found(what: &str, id: &str) -> Self {
        Self::invalid_request(StatusCode::NOT_FOUND, format!("No such {what}: '{id}'"))
            .with("code", "resource_missing")
            .with("param", "id")
    }

    /// A call that the object's current state does not allow.
    pub(super) fn state(code: &str, message: &str) -> Self {
        Self::invalid_request(StatusCode::BAD_REQUEST, message.into()).with("code", code)
    }

    pub(super) fn declined() -> Self {
        Self::new(
            StatusCode::PAYMENT_REQUIRED,
            "card_error",
            "Your card was declined.".into(),
        )
        .with("code", "card_declined")
        .with("decline_code", "generic_decline")
    }

    /// Like [`Self::declined`], with the failed intent in the error, as Stripe does.
    pub(super) fn declined_with(intent: Value) -> Self {
        let mut fault = Self::declined();
        fault.error.insert("payment_intent".into(), intent);
        fault
    }

    pub(super) fn idempotency(key: &str) -> Self {
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were first used with ('{key}')."
        );
        Self::new(StatusCode::BAD_REQUEST, "idempotency_error", message)
    }

    pub(super) fn ours() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "api_error",
            "Internal error in the sandbox.".into(),
        )
    }

    /// Stripe stores a response under its idempotency key once the call has begun; a request that failed validation may
    /// be corrected and sent again.
    pub(super) fn is_remembered(&self) -> bool {
        self.status == StatusCode::PAYMENT_REQUIRED
    }

    pub(super) fn answer(self) -> Answer {
        let mut headers = HeaderMap::new();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Stripe\""));
        }
        Answer {
            status: self.status,
            headers,
            json: json!({ "error": self.error }),
        }
    }
}

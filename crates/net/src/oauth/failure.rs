//! Stable codes for why an identity server did not do what it was asked (approvals §2.5, §2.6). The server's own text
//! never becomes a code.

/// The person may have been asked, but we have no handle to fetch the decision with.
pub const START_UNKNOWN: Code = Code::again("start_unknown");
/// The token was lost with a response that did not arrive; the person has to be asked again.
pub const TOKEN_LOST: Code = Code::again("token_lost");
pub const UNREACHABLE: Code = Code::again("unreachable");
pub const DISCOVERY: Code = Code::again("discovery_failed");
pub const RATE_LIMITED: Code = Code::again("rate_limited");
/// No key to verify a token with, for as long as the key set is cached.
pub const KEYS: Code = Code::again("keys_unavailable");
pub const BAD_RESPONSE: Code = Code::last("bad_response");
pub const REDIRECTED: Code = Code::last("redirected");
pub const BINDING_MESSAGE: Code = Code::last("invalid_binding_message");
/// An error that no standard defines.
pub const REFUSED: Code = Code::last("refused");
/// The agent's own token was no longer accepted; the next request uses a new one.
pub const AGENT_TOKEN: Code = Code::again("agent_token_refused");
/// No memory for a request's secrets, or no randomness: nothing that a peer can cause.
pub const INTERNAL: Code = Code::last("internal");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    text: &'static str,
    retryable: bool,
}

impl Code {
    const fn again(text: &'static str) -> Self {
        Self { text, retryable: true }
    }

    const fn last(text: &'static str) -> Self {
        Self { text, retryable: false }
    }

    pub fn text(self) -> &'static str {
        self.text
    }

    pub fn retryable(self) -> bool {
        self.retryable
    }
}

/// An `error` of OAuth, CIBA or RFC 9396 that ends a request for approval.
pub fn of_error(error: &str) -> Option<Code> {
    Some(match error {
        // It may have been for another request: asking again may help.
        "invalid_grant" => Code::again("invalid_grant"),
        "expired_login_hint_token" => Code::last("expired_login_hint_token"),
        "unknown_user_id" => Code::last("unknown_user_id"),
        "missing_user_code" => Code::last("missing_user_code"),
        "invalid_user_code" => Code::last("invalid_user_code"),
        "invalid_binding_message" => BINDING_MESSAGE,
        "invalid_authorization_details" => Code::last("invalid_authorization_details"),
        "invalid_client" => Code::last("invalid_client"),
        "invalid_request" => Code::last("invalid_request"),
        "invalid_scope" => Code::last("invalid_scope"),
        "unauthorized_client" => Code::last("unauthorized_client"),
        "unsupported_grant_type" => Code::last("unsupported_grant_type"),
        "access_denied" => Code::last("access_denied"),
        _ => return None,
    })
}

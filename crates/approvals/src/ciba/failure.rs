//! Stable codes for why a question failed (approvals §2.5, §2.6).

use crate::Failure;
pub use bursar_net::oauth::failure::*;

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self {
            code: code.text().to_owned(),
            retryable: code.retryable(),
        }
    }
}

/// Not retryable: the `auth_req_id` is used up (approvals §7).
pub fn token_rejected(reason: &str) -> Failure {
    Failure {
        code: format!("token_rejected:{reason}"),
        retryable: false,
    }
}

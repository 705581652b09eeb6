//! Why there is no answer to a question, in stable words (approvals §2.5, §2.6).

use super::poll::Step;
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

pub fn failed(code: Code) -> Step {
    Step::Failed(code.into())
}

/// Never retried by itself: the `auth_req_id` is spent (approvals §7).
pub fn token_rejected(reason: &str) -> Failure {
    Failure {
        code: format!("token_rejected:{reason}"),
        retryable: false,
    }
}

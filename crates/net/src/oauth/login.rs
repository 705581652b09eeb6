//! The agent's own token, from the `client_credentials` grant (approvals §4.2). One caller at a time fetches it; the
//! others wait for it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::failure::{self, Code};
use super::{Secret, form};

/// A token is replaced this long before it expires.
const EARLY: Duration = Duration::from_secs(60);

/// The current token, until shortly before it expires.
#[derive(Default)]
pub struct AgentTokens(Mutex<Option<(Arc<Secret>, Instant)>>);

/// Where the agent's token comes from: a stored one may have been revoked since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenOrigin {
    Stored,
    New,
}

/// A token that was just fetched.
pub struct AgentToken {
    token: Secret,
    lives: Duration,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    error: Option<serde_json::Value>,
}

impl AgentTokens {
    pub async fn lend<F>(&self, log_in: impl FnOnce() -> F) -> Result<(Arc<Secret>, TokenOrigin), Code>
    where
        F: Future<Output = Result<AgentToken, Code>>,
    {
        let mut stored = self.0.lock().await;
        if let Some((token, until)) = &*stored
            && Instant::now() < *until
        {
            return Ok((token.clone(), TokenOrigin::Stored));
        }
        *stored = None;
        let AgentToken { token, lives } = log_in().await?;
        let token = Arc::new(token);
        // A token that expires sooner than that is used once and not stored.
        if let Some(until) = lives.checked_sub(EARLY).map(|lives| Instant::now() + lives) {
            *stored = Some((token.clone(), until));
        }
        Ok((token, TokenOrigin::New))
    }

    pub async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

/// Parses the response to a `client_credentials` request.
pub fn read(status: StatusCode, body: &[u8]) -> Result<AgentToken, Code> {
    let text = form::object(body);
    if status != StatusCode::OK {
        let refusal = text.and_then(|text| serde_json::from_str::<Refusal>(text).ok());
        let error = refusal.as_ref().and_then(|refusal| refusal.error.as_ref()?.as_str());
        return Err(match error.and_then(failure::of_error) {
            Some(code) => code,
            None if status == StatusCode::TOO_MANY_REQUESTS => failure::RATE_LIMITED,
            None if status.is_server_error() => failure::UNREACHABLE,
            None if status.is_redirection() => failure::REDIRECTED,
            None => failure::REFUSED,
        });
    }
    let answer = text.and_then(|text| serde_json::from_str::<TokenAnswer>(text).ok());
    let answer = answer.ok_or(failure::BAD_RESPONSE)?;
    let bearer = answer
        .token_type
        .as_ref()
        .is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    if answer.access_token.is_empty() || !bearer {
        return Err(failure::BAD_RESPONSE);
    }
    Ok(AgentToken {
        token: Secret::new(answer.access_token),
        lives: Duration::from_secs(answer.expires_in.unwrap_or(0).min(86_400)),
    })
}

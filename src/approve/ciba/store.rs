//! What is kept between requests: the server's metadata, its keys, and the agent's own token. Each is fetched by one caller at a
//! time; the others wait for it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::failure::{self, Code};
use super::form;
use super::settings::Secret;

const HOUR: Duration = Duration::from_secs(3600);
/// Keys that were good yesterday verify while the server is down.
const LAST_GOOD_KEYS: Duration = Duration::from_secs(24 * 3600);
/// After a fetch that failed, and between two for the sake of an unknown key (digest §5.3).
const PAUSE: Duration = Duration::from_secs(60);
/// So long before its end a token is replaced.
const EARLY: Duration = Duration::from_secs(60);

pub struct Kept<K> {
    metadata: Mutex<Shelf<super::discovery::Metadata>>,
    keys: Mutex<Shelf<K>>,
    agent_token: Mutex<Option<(Arc<Secret>, Instant)>>,
}

/// One thing, with when it was fetched.
struct Shelf<T> {
    value: Option<Held<T>>,
    failed_at: Option<Instant>,
    /// When somebody last needed a newer one.
    renewed_at: Option<Instant>,
}

struct Held<T> {
    value: Arc<T>,
    at: Instant,
    fresh: Duration,
}

/// What became of the wish for newer keys.
pub enum Renewal<K> {
    Keys(Arc<K>),
    /// They were asked for a moment ago.
    NotBefore(Duration),
    Unavailable,
}

/// Where the agent's token is from: one that was kept may have been taken back since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lent {
    Kept,
    New,
}

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

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            value: None,
            failed_at: None,
            renewed_at: None,
        }
    }
}

impl<K> Default for Kept<K> {
    fn default() -> Self {
        Self {
            metadata: Mutex::default(),
            keys: Mutex::default(),
            agent_token: Mutex::default(),
        }
    }
}

impl<K> Kept<K> {
    /// An hour old at most, or the last good one where there is no newer.
    pub async fn metadata<F>(&self, fetch: impl FnOnce() -> F) -> Option<Arc<super::discovery::Metadata>>
    where
        F: Future<Output = Option<super::discovery::Metadata>>,
    {
        let mut shelf = self.metadata.lock().await;
        shelf
            .current(async { fetch().await.map(|metadata| (metadata, None)) }, Duration::MAX)
            .await
    }

    pub async fn keys<F>(&self, fetch: impl FnOnce() -> F) -> Option<Arc<K>>
    where
        F: Future<Output = Option<(K, Option<Duration>)>>,
    {
        self.keys.lock().await.current(fetch(), LAST_GOOD_KEYS).await
    }

    /// Keys that were fetched after `than`, when a token came that none of the older ones had signed.
    pub async fn newer_keys<F>(&self, than: Instant, fetch: impl FnOnce() -> F) -> Renewal<K>
    where
        F: Future<Output = Option<(K, Option<Duration>)>>,
    {
        let mut shelf = self.keys.lock().await;
        if let Some(held) = shelf.value.as_ref().filter(|held| held.at > than) {
            return Renewal::Keys(held.value.clone());
        }
        let paused = shelf.renewed_at.map(|at| PAUSE.saturating_sub(at.elapsed()));
        if let Some(wait) = paused.filter(|wait| !wait.is_zero()) {
            return Renewal::NotBefore(wait);
        }
        shelf.renewed_at = Some(Instant::now());
        match shelf.refill(fetch()).await {
            Some(keys) => Renewal::Keys(keys),
            None => Renewal::Unavailable,
        }
    }

    pub async fn agent_token<F>(&self, log_in: impl FnOnce() -> F) -> Result<(Arc<Secret>, Lent), Code>
    where
        F: Future<Output = Result<AgentToken, Code>>,
    {
        let mut kept = self.agent_token.lock().await;
        if let Some((token, until)) = &*kept
            && Instant::now() < *until
        {
            return Ok((token.clone(), Lent::Kept));
        }
        *kept = None;
        let AgentToken { token, lives } = log_in().await?;
        let token = Arc::new(token);
        // One that lives shorter than that is used once.
        if let Some(until) = lives.checked_sub(EARLY).map(|lives| Instant::now() + lives) {
            *kept = Some((token.clone(), until));
        }
        Ok((token, Lent::New))
    }

    pub async fn forget_agent_token(&self) {
        *self.agent_token.lock().await = None;
    }
}

impl<T> Shelf<T> {
    async fn current(
        &mut self,
        fetch: impl Future<Output = Option<(T, Option<Duration>)>>,
        last_good: Duration,
    ) -> Option<Arc<T>> {
        let fresh = self.value.as_ref().filter(|held| held.at.elapsed() < held.fresh);
        if let Some(held) = fresh {
            return Some(held.value.clone());
        }
        let old = self.value.as_ref().filter(|held| held.at.elapsed() < last_good);
        let old = old.map(|held| held.value.clone());
        // Where there is an old one, a server in trouble is not asked at every look.
        if old.is_some() && self.failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return old;
        }
        self.refill(fetch).await.or(old)
    }

    async fn refill(&mut self, fetch: impl Future<Output = Option<(T, Option<Duration>)>>) -> Option<Arc<T>> {
        // Before the fetch: one that takes long brings what was true at its beginning.
        let at = Instant::now();
        let Some((value, max_age)) = fetch.await else {
            self.failed_at = Some(at);
            return None;
        };
        let value = Arc::new(value);
        self.failed_at = None;
        self.value = Some(Held {
            value: value.clone(),
            at,
            fresh: max_age.map_or(HOUR, |age| age.min(HOUR)),
        });
        Some(value)
    }
}

/// The answer to `client_credentials`.
pub fn agent_token(status: StatusCode, body: &[u8]) -> Result<AgentToken, Code> {
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

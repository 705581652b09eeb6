//! Caches the server's metadata, its keys, and the agent's own token. One caller at a time fetches each of them; the
//! others wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use bursar_net::oauth::login::AgentTokens;

const HOUR: Duration = Duration::from_secs(3600);
/// How long old keys are still used while the server is down.
const LAST_GOOD_KEYS: Duration = Duration::from_secs(24 * 3600);
/// Pause after a failed fetch, and between two fetches caused by an unknown key (approvals §5, check 3).
const PAUSE: Duration = Duration::from_secs(60);

pub(super) struct ServerCache<K> {
    metadata: Mutex<CacheSlot<super::discovery::Metadata>>,
    keys: Mutex<CacheSlot<K>>,
    pub agent_token: AgentTokens,
}

/// One cached value.
struct CacheSlot<T> {
    value: Option<Held<T>>,
    failed_at: Option<Instant>,
    /// When a newer value was last requested.
    renewed_at: Option<Instant>,
}

struct Held<T> {
    value: Arc<T>,
    at: Instant,
    fresh: Duration,
}

/// The result of requesting newer keys.
pub(super) enum Renewal<K> {
    Keys(Arc<K>),
    /// They were requested a moment ago: not again before this long.
    NotBefore(Duration),
    Unavailable,
}

impl<T> Default for CacheSlot<T> {
    fn default() -> Self {
        Self {
            value: None,
            failed_at: None,
            renewed_at: None,
        }
    }
}

impl<K> Default for ServerCache<K> {
    fn default() -> Self {
        Self {
            metadata: Mutex::default(),
            keys: Mutex::default(),
            agent_token: AgentTokens::default(),
        }
    }
}

impl<K> ServerCache<K> {
    /// Metadata at most an hour old, or the last good copy if it cannot be fetched.
    pub(super) async fn metadata<F>(&self, fetch: impl FnOnce() -> F) -> Option<Arc<super::discovery::Metadata>>
    where
        F: Future<Output = Option<super::discovery::Metadata>>,
    {
        let mut shelf = self.metadata.lock().await;
        shelf
            .current(async { fetch().await.map(|metadata| (metadata, None)) }, Duration::MAX)
            .await
    }

    pub(super) async fn keys<F>(&self, fetch: impl FnOnce() -> F) -> Option<Arc<K>>
    where
        F: Future<Output = Option<(K, Option<Duration>)>>,
    {
        self.keys.lock().await.current(fetch(), LAST_GOOD_KEYS).await
    }

    /// Keys fetched after `than`, for a token whose key is not among the older ones.
    pub(super) async fn newer_keys<F>(&self, than: Instant, fetch: impl FnOnce() -> F) -> Renewal<K>
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
}

impl<T> CacheSlot<T> {
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
        // With an old value at hand, do not ask a failing server on every poll.
        if old.is_some() && self.failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return old;
        }
        self.refill(fetch).await.or(old)
    }

    async fn refill(&mut self, fetch: impl Future<Output = Option<(T, Option<Duration>)>>) -> Option<Arc<T>> {
        // Taken before the fetch: a slow response may describe the state when it began.
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

//! What is kept between requests: the server's metadata, its keys, and the agent's own token. Each is fetched by one caller at a
//! time; the others wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use bursar_net::oauth::login::AgentTokens;

const HOUR: Duration = Duration::from_secs(3600);
/// Keys that were good yesterday verify while the server is down.
const LAST_GOOD_KEYS: Duration = Duration::from_secs(24 * 3600);
/// After a fetch that failed, and between two for the sake of an unknown key (approvals §5, check 3).
const PAUSE: Duration = Duration::from_secs(60);

pub struct ServerCache<K> {
    metadata: Mutex<CacheSlot<super::discovery::Metadata>>,
    keys: Mutex<CacheSlot<K>>,
    pub agent_token: AgentTokens,
}

/// One thing, with when it was fetched.
struct CacheSlot<T> {
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

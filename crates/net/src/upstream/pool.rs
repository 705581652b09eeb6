//! Idle connections, kept for the agent that had them opened. Each one holds a descriptor, so their number is bounded for
//! each origin, each agent and all agents together.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Key;
use bursar_core::agent_name::AgentName;

/// An idle connection is closed after this time; sites commonly close theirs after 60 s or more.
const KEEP: Duration = Duration::from_secs(50);
/// The most idle connections of one agent to one origin, of one agent to all origins, and of all agents.
const KEEP_EACH: usize = 64;
const KEEP_AGENT: usize = 128;
const KEEP_ALL: usize = 1024;

pub(super) struct Pool<T> {
    lanes: HashMap<Key, Vec<Idle<T>>>,
    /// In all lanes together.
    idle: usize,
}

struct Idle<T> {
    kept: T,
    since: Instant,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            idle: 0,
        }
    }
}

impl<T> Pool<T> {
    /// If there are too many, the one that has been idle for longest is closed: the agent's own if it has too many.
    pub(super) fn keep(&mut self, key: Key, connection: T) {
        if self.lanes.get(&key).is_some_and(|lane| lane.len() >= KEEP_EACH) {
            return;
        }
        // Counting is not worth the time while even all of them could be one agent's.
        if self.idle >= KEEP_AGENT && self.of(&key.agent) >= KEEP_AGENT {
            self.close_oldest(Some(&key.agent));
        } else if self.idle >= KEEP_ALL {
            self.close_oldest(None);
        }
        self.lanes.entry(key).or_default().push(Idle {
            kept: connection,
            since: Instant::now(),
        });
        self.idle += 1;
    }

    /// The newest that is usable, which the site is least likely to have closed. Those that are not are closed.
    pub(super) fn newest(&mut self, key: &Key, is_usable: impl Fn(&T) -> bool) -> Option<&mut T> {
        let lane = self.lanes.get_mut(key)?;
        let good = lane
            .iter()
            .rposition(|idle| idle.since.elapsed() <= KEEP && is_usable(&idle.kept))
            .map_or(0, |last| last + 1);
        self.idle -= lane.len() - good;
        lane.truncate(good);
        if lane.is_empty() {
            self.lanes.remove(key);
        }
        Some(&mut self.lanes.get_mut(key)?.last_mut()?.kept)
    }

    /// The newest one is in use, and others may use it too.
    pub(super) fn touch(&mut self, key: &Key) {
        if let Some(idle) = self.lanes.get_mut(key).and_then(|lane| lane.last_mut()) {
            idle.since = Instant::now();
        }
    }

    /// Takes the newest one out.
    pub(super) fn take(&mut self, key: &Key) -> Option<T> {
        let taken = self.lanes.get_mut(key)?.pop()?;
        self.idle -= 1;
        Some(taken.kept)
    }

    /// Closes what has been idle for too long or is closed.
    pub(super) fn sweep(&mut self, is_closed: impl Fn(&T) -> bool) {
        self.lanes.retain(|_, lane| {
            lane.retain(|idle| !is_closed(&idle.kept) && idle.since.elapsed() <= KEEP);
            !lane.is_empty()
        });
        self.idle = self.lanes.values().map(Vec::len).sum();
    }

    fn of(&self, agent: &AgentName) -> usize {
        let own = self.lanes.iter().filter(|(key, _)| key.agent == *agent);
        own.map(|(_, lane)| lane.len()).sum()
    }

    pub(super) fn close_oldest(&mut self, agent: Option<&AgentName>) {
        let lanes = self.lanes.iter();
        let of_agent = lanes.filter(|(key, _)| agent.is_none_or(|agent| key.agent == *agent));
        let oldest = of_agent
            .flat_map(|(key, lane)| lane.iter().enumerate().map(move |(at, idle)| (idle.since, key, at)))
            .min_by_key(|(since, ..)| *since)
            .map(|(_, key, at)| (key.clone(), at));
        let Some((key, at)) = oldest else { return };
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.remove(at);
            self.idle -= 1;
            if lane.is_empty() {
                self.lanes.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Origin, Scheme};
    use super::*;
    use crate::tls::AlpnOffer;
    use bursar_core::host::Authority;

    fn key(agent: &str, host: usize) -> Key {
        Key {
            agent: agent.parse().unwrap(),
            origin: Origin {
                scheme: Scheme::Https,
                authority: Authority::parse(&format!("h{host}.example.com:443")).unwrap(),
            },
            offer: AlpnOffer::Nothing,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_visits_a_million_sites_keeps_few_connections_and_takes_nobody_elses() {
        let mut pool = Pool::default();
        pool.keep(key("good", 0), 77_777);
        for host in 0..10_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            pool.keep(key("bad", host), host);
            assert!(pool.of(&"bad".parse().unwrap()) <= KEEP_AGENT && pool.lanes.len() <= KEEP_AGENT + 1);
        }
        assert_eq!(pool.idle, KEEP_AGENT + 1);
        assert_eq!(pool.newest(&key("bad", 9_999), |_| true), Some(&mut 9_999));
        assert_eq!(pool.newest(&key("bad", 0), |_| true), None, "the oldest are closed");
        assert_eq!(pool.newest(&key("good", 0), |_| true), Some(&mut 77_777));
    }

    #[tokio::test(start_paused = true)]
    async fn all_agents_together_are_bounded() {
        let mut pool = Pool::default();
        for number in 0..3_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            pool.keep(key(&format!("agent-{}", number % 100), number), number);
            assert!(pool.idle <= KEEP_ALL);
        }
        assert_eq!(pool.lanes.values().map(Vec::len).sum::<usize>(), pool.idle);
        tokio::time::advance(KEEP + Duration::from_millis(1)).await;
        pool.sweep(|_| false);
        assert_eq!((pool.idle, pool.lanes.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_closed_or_old_is_not_handed_out() {
        let mut pool = Pool::default();
        for number in 0..KEEP_EACH + 5 {
            pool.keep(key("a", 0), number);
        }
        assert_eq!(pool.idle, KEEP_EACH);
        assert_eq!(pool.newest(&key("a", 0), |number| *number < 10), Some(&mut 9));
        assert_eq!((pool.take(&key("a", 0)), pool.idle), (Some(9), 9));
        tokio::time::advance(KEEP).await;
        pool.touch(&key("a", 0));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(pool.newest(&key("a", 0), |_| true), Some(&mut 8));
        assert_eq!(pool.newest(&key("a", 0), |_| false), None);
        assert_eq!((pool.idle, pool.lanes.len()), (0, 0));
    }
}

//! Connections of tunnels that have ended, kept for the next tunnel of the same agent. Each one holds a descriptor, so
//! their number is bounded for each agent and all agents together.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Key;
use super::connection::{Connection, Use};
use super::h2::Line;
use bursar_core::agent_name::AgentName;

/// An idle connection is closed after this time; sites commonly close theirs after 60 s or more.
const KEEP: Duration = Duration::from_secs(50);
/// The most idle connections of one agent, and of all agents. A tunnel leaves one behind, seldom more, so one origin may
/// have all of an agent's: many tunnels to one site, again and again, are what the pool is for.
const KEEP_AGENT: usize = 128;
const KEEP_ALL: usize = 1024;

/// A connection that no tunnel has.
pub(super) enum Kept {
    H1(Connection),
    H2(Line),
}

impl Kept {
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::H1(connection) => connection.is_closed(),
            Self::H2(line) => line.is_closed(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::H1(connection) => connection.address,
            Self::H2(line) => line.address(),
        }
    }

    /// For the tunnel that takes it: whether the site still has it shows only when it answers.
    pub(super) fn of_others(mut self) -> Self {
        match &mut self {
            Self::H1(connection) => {
                connection.use_so_far = Use::ByOthers;
                connection.is_watched = false;
            }
            Self::H2(line) => line.doubt(),
        }
        self
    }
}

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

    /// Takes out the newest that is usable, which the site is least likely to have closed. Newer ones are closed.
    pub(super) fn take(&mut self, key: &Key, is_usable: impl Fn(&T) -> bool) -> Option<T> {
        let lane = self.lanes.get_mut(key)?;
        let mut taken = None;
        while let Some(idle) = lane.pop() {
            self.idle -= 1;
            if idle.since.elapsed() <= KEEP && is_usable(&idle.kept) {
                taken = Some(idle.kept);
                break;
            }
        }
        if lane.is_empty() {
            self.lanes.remove(key);
        }
        taken
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
        assert_eq!(pool.take(&key("bad", 9_999), |_| true), Some(9_999));
        assert_eq!(pool.take(&key("bad", 0), |_| true), None, "the oldest are closed");
        assert_eq!(pool.take(&key("good", 0), |_| true), Some(77_777));
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
        for number in 0..20 {
            pool.keep(key("a", 0), number);
        }
        assert_eq!(pool.take(&key("a", 0), |number| *number < 10), Some(9));
        assert_eq!(pool.idle, 9);
        tokio::time::advance(KEEP).await;
        pool.keep(key("a", 0), 20);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(pool.take(&key("a", 0), |_| true), Some(20));
        assert_eq!(pool.take(&key("a", 0), |_| true), None);
        assert_eq!((pool.idle, pool.lanes.len()), (0, 0));
    }
}

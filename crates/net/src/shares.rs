//! What there is only so much of, and all agents use: no agent gets more than its part of it, and no queue grows without
//! end.
//!
//! A caller keeps its place in the queue only as long as it waits. What is given back goes to the first in the queue
//! whose agent is below its part, so a queue full of one agent's requests delays nobody else.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use bursar_core::agent_name::AgentName;

/// What is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Connections from agents to the proxy.
    Connections,
    /// Requests under way.
    Requests,
    /// Name look-ups under way.
    Lookups,
    /// Connections from the proxy to sites.
    Sites,
    /// Memory for request bodies, in bytes.
    Memory,
}

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub all: usize,
    /// Of one agent.
    pub each: usize,
    /// How many of one agent may wait.
    pub queue_each: usize,
}

/// Cheap to clone; clones share the same bounds.
#[derive(Clone)]
pub struct Shares(Arc<Pool>);

struct Pool {
    what: What,
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: usize,
    /// Only agents that use something or wait.
    agents: HashMap<AgentName, Agent>,
    queue: VecDeque<Waiter>,
    next: u64,
}

#[derive(Default)]
struct Agent {
    used: usize,
    waiting: usize,
}

impl Agent {
    const fn is_idle(&self) -> bool {
        self.used == 0 && self.waiting == 0
    }
}

struct Waiter {
    number: u64,
    agent: AgentName,
    given: oneshot::Sender<Share>,
}

/// Given back when it is dropped.
pub struct Share {
    pool: Arc<Pool>,
    agent: AgentName,
    amount: usize,
}

/// There is nothing left, and the queue is full as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    pub what: What,
    pub by: By,
}

/// Who has used it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The agent that asked for more.
    Agent,
    /// All agents together.
    All,
}

impl Bounds {
    /// Who would have more than there is if an agent that uses `used` of `all` got `amount`.
    fn exceeded_by(self, all: usize, used: usize, amount: usize) -> Option<By> {
        let exceeds = |used: usize, most: usize| used.checked_add(amount).is_none_or(|sum| sum > most);
        if exceeds(used, self.each) {
            Some(By::Agent)
        } else if exceeds(all, self.all) {
            Some(By::All)
        } else {
            None
        }
    }
}

impl Shares {
    pub fn new(what: What, bounds: Bounds) -> Self {
        Self(Arc::new(Pool {
            what,
            bounds,
            state: Mutex::default(),
        }))
    }

    pub fn bounds(&self) -> Bounds {
        self.0.bounds
    }

    /// Takes `amount` now or not at all.
    pub fn take(&self, agent: &AgentName, amount: usize) -> Result<Share, Full> {
        self.0.lock().take(&self.0, agent, amount).map_err(|by| self.0.full(by))
    }

    /// Takes one, and waits for it if need be. An error means that too many of this agent wait already. Dropping the
    /// future leaves the queue.
    pub async fn wait(&self, agent: &AgentName) -> Result<Share, Full> {
        let mut waiting = {
            let mut state = self.0.lock();
            let by = match state.take(&self.0, agent, 1) {
                Ok(share) => return Ok(share),
                Err(by) => by,
            };
            let waiting = &mut state.agents.entry(agent.clone()).or_default().waiting;
            if *waiting >= self.0.bounds.queue_each {
                state.forget_if_idle(agent);
                return Err(self.0.full(by));
            }
            *waiting += 1;
            let (given, share) = oneshot::channel();
            let number = state.next;
            state.next += 1;
            state.queue.push_back(Waiter {
                number,
                agent: agent.clone(),
                given,
            });
            Waiting {
                pool: &self.0,
                number,
                share,
            }
        };
        // The sender is in the queue until it has sent.
        (&mut waiting.share).await.map_err(|_| self.0.full(By::All))
    }

    /// Who would have to give something back before `agent` gets one; `None` if it gets one at once.
    pub fn used_up(&self, agent: &AgentName) -> Option<By> {
        self.0.short_of(&self.0.lock(), agent, 1)
    }

    /// Whether anybody waits.
    pub fn is_awaited(&self) -> bool {
        !self.0.lock().queue.is_empty()
    }

    /// Why `agent` had to wait, for one that has waited long enough.
    pub fn why_full(&self, agent: &AgentName) -> Full {
        self.0.full(self.used_up(agent).unwrap_or(By::All))
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.0.lock().used
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().queue.len()
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn short_of(&self, state: &State, agent: &AgentName, amount: usize) -> Option<By> {
        let used = state.agents.get(agent).map_or(0, |agent| agent.used);
        self.bounds.exceeded_by(state.used, used, amount)
    }

    const fn full(&self, by: By) -> Full {
        Full { what: self.what, by }
    }
}

impl State {
    /// With one look at what the agent has, as every request takes one and gives it back.
    fn take(&mut self, pool: &Arc<Pool>, agent: &AgentName, amount: usize) -> Result<Share, By> {
        let Some(held) = self.agents.get_mut(agent) else {
            return match pool.bounds.exceeded_by(self.used, 0, amount) {
                None => Ok(self.give(pool, agent.clone(), amount)),
                Some(by) => Err(by),
            };
        };
        if let Some(by) = pool.bounds.exceeded_by(self.used, held.used, amount) {
            return Err(by);
        }
        held.used += amount;
        self.used += amount;
        Ok(Share {
            pool: pool.clone(),
            agent: agent.clone(),
            amount,
        })
    }

    fn give(&mut self, pool: &Arc<Pool>, agent: AgentName, amount: usize) -> Share {
        self.used += amount;
        self.agents.entry(agent.clone()).or_default().used += amount;
        Share {
            pool: pool.clone(),
            agent,
            amount,
        }
    }

    fn take_back(&mut self, agent: &AgentName, amount: usize) {
        self.used -= amount;
        let Some(held) = self.agents.get_mut(agent) else { return };
        held.used -= amount;
        if held.is_idle() {
            self.agents.remove(agent);
        }
    }

    fn forget_if_idle(&mut self, agent: &AgentName) {
        if self.agents.get(agent).is_some_and(Agent::is_idle) {
            self.agents.remove(agent);
        }
    }

    fn leave(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.queue.remove(at)?;
        if let Some(agent) = self.agents.get_mut(&waiter.agent) {
            agent.waiting -= 1;
        }
        self.forget_if_idle(&waiter.agent);
        Some(waiter)
    }

    /// Gives what is free to those who wait. A share that nobody took comes back to the caller, who must not drop it
    /// before the lock is released.
    fn hand_out(&mut self, pool: &Arc<Pool>) -> Vec<Share> {
        let (mut at, mut untaken) = (0, Vec::new());
        while self.used < pool.bounds.all && at < self.queue.len() {
            if pool.short_of(self, &self.queue[at].agent, 1).is_some() {
                at += 1;
                continue;
            }
            let Some(waiter) = self.leave(at) else { break };
            let share = self.give(pool, waiter.agent, 1);
            untaken.extend(waiter.given.send(share).err());
        }
        untaken
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Share({} of {:?} for {})",
            self.amount,
            self.pool.what,
            self.agent.as_str()
        )
    }
}

impl Share {
    pub fn agent(&self) -> &AgentName {
        &self.agent
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let untaken = {
            let mut state = self.pool.lock();
            state.take_back(&self.agent, self.amount);
            state.hand_out(&self.pool)
        };
        drop(untaken);
    }
}

/// A place in the queue.
struct Waiting<'a> {
    pool: &'a Arc<Pool>,
    number: u64,
    share: oneshot::Receiver<Share>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        let at = state.queue.binary_search_by_key(&self.number, |waiter| waiter.number);
        if let Ok(at) = at {
            state.leave(at);
        }
        // If it is not there, its share is in the channel, and comes back when the channel is dropped.
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.by, self.what) {
            (By::Agent, What::Connections) => "this agent has as many connections to the proxy as one agent may have",
            (By::Agent, What::Requests) => "this agent has as many requests under way as one agent may have",
            (By::Agent, What::Lookups) => "this agent has too many name look-ups under way",
            (By::Agent, What::Sites) => "this agent has as many connections to sites as one agent may have",
            (By::Agent, What::Memory) => "this agent's uploads use up their part of the memory",
            (By::All, What::Connections) => "all connections of the proxy are in use",
            (By::All, What::Requests) => "the proxy has as many requests under way as it can take",
            (By::All, What::Lookups) => "too many name look-ups are under way",
            (By::All, What::Sites) => "all connections to sites are in use",
            (By::All, What::Memory) => "uploads use up their memory",
        })
    }
}

impl std::error::Error for Full {}

#[cfg(test)]
mod tests;

//! How long questions and denials last, and how many questions may be asked.

use std::time::Duration;

/// The part of `[approval]` in bursar.toml that applies to every backend (approvals §7, §9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an agent's request is held for the answer, before the agent has to ask again (R39).
    pub hold: Duration,
    /// How long the approver has after the hold (R43).
    pub ttl: Duration,
    /// How long a denial is remembered.
    pub deny_cooldown: Duration,
    /// Open questions per agent.
    pub max_pending_per_agent: usize,
    /// Open questions per approver.
    pub max_pending_per_approver: usize,
    /// Questions per hour from one agent to one approver (R38).
    pub prompts_per_hour: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(50),
            ttl: Duration::from_secs(300),
            deny_cooldown: Duration::from_secs(300),
            max_pending_per_agent: 3,
            max_pending_per_approver: 5,
            prompts_per_hour: 10,
        }
    }
}

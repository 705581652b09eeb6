//! How long everybody waits, and how much may be asked.

use std::time::Duration;

/// The part of `[approval]` in bursar.toml that concerns every backend (approvals §7, §9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an agent's request waits for the answer, before it is told to come back (R39).
    pub hold: Duration,
    /// How long the approver has after that (R43).
    pub ttl: Duration,
    /// How long a denial is remembered.
    pub deny_cooldown: Duration,
    /// Questions of one agent that may be open at a time.
    pub max_pending_per_agent: usize,
    /// Questions to one approver that may be open at a time.
    pub max_pending_per_approver: usize,
    /// Questions that one agent may put to one approver in an hour (R38).
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

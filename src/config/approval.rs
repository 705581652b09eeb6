//! `[approval]` of bursar.toml: who is asked above a threshold of limits.toml, and how long everybody waits.

use std::time::Duration;

use http::StatusCode;

use super::section::{Entry, Section};

/// How a person is asked (approvals digest §7, §9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    pub backend: Backend,
    /// How long an agent's request waits for the answer, before it is told to come back (Ruling 39).
    pub hold: Duration,
    /// How long the approver has after that (Ruling 43).
    pub ttl: Duration,
    /// How long a denial is remembered.
    pub deny_cooldown: Duration,
    /// Questions of one agent that may be open at a time.
    pub max_pending_per_agent: usize,
    /// Questions to one approver that may be open at a time.
    pub max_pending_per_approver: usize,
    /// Questions that one agent may put to one approver in an hour (Ruling 38).
    pub prompts_per_hour: usize,
    /// What an agent gets while it is not decided: 503, 402 or 202 (Ruling 39).
    pub pending_status: StatusCode,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Nobody: what needs approval is refused.
    #[default]
    None,
    /// Whoever runs `bursar approve` on this machine.
    Operator,
}

impl Default for Approval {
    fn default() -> Self {
        Self {
            backend: Backend::None,
            hold: Duration::from_secs(50),
            ttl: Duration::from_secs(300),
            deny_cooldown: Duration::from_secs(300),
            max_pending_per_agent: 3,
            max_pending_per_approver: 5,
            prompts_per_hour: 10,
            pending_status: StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

pub(super) fn approval(mut section: Section<'_>) -> Approval {
    let default = Approval::default();
    let backend = section.take("backend").and_then(|entry| backend(&entry));
    let mut seconds = |key, range, default| {
        let entry = section.take(key);
        let seconds = entry.and_then(|entry: Entry<'_>| entry.integer(range));
        seconds.map_or(default, Duration::from_secs)
    };
    let hold = seconds("hold_s", 0..=300, default.hold);
    let ttl = seconds("ttl_s", 30..=600, default.ttl);
    let deny_cooldown = seconds("deny_cooldown_s", 0..=86_400, default.deny_cooldown);
    let mut count = |key, default| {
        let entry = section.take(key);
        let count = entry.and_then(|entry: Entry<'_>| entry.integer(1..=1000));
        count.map_or(default, |count| usize::try_from(count).unwrap_or(default))
    };
    let max_pending_per_agent = count("max_pending_per_agent", default.max_pending_per_agent);
    let max_pending_per_approver = count("max_pending_per_approver", default.max_pending_per_approver);
    let prompts_per_hour = count("prompts_per_hour", default.prompts_per_hour);
    let pending_status = section
        .take("pending_status")
        .and_then(|entry| pending_status(&entry))
        .unwrap_or(default.pending_status);
    section.close(&[("hold", "The key is `hold_s`."), ("ttl", "The key is `ttl_s`.")]);
    Approval {
        backend: backend.unwrap_or_default(),
        hold,
        ttl,
        deny_cooldown,
        max_pending_per_agent,
        max_pending_per_approver,
        prompts_per_hour,
        pending_status,
    }
}

fn backend(entry: &Entry<'_>) -> Option<Backend> {
    match entry.text()? {
        "none" => Some(Backend::None),
        "operator" => Some(Backend::Operator),
        other => entry.reject(
            format!("approval.backend: there is no \"{other}\" in this version"),
            "Write \"operator\", who is asked by `bursar pending`, or \"none\": then what needs approval is refused."
                .to_owned(),
        ),
    }
}

fn pending_status(entry: &Entry<'_>) -> Option<StatusCode> {
    match entry.integer(100..=599)? {
        503 => Some(StatusCode::SERVICE_UNAVAILABLE),
        402 => Some(StatusCode::PAYMENT_REQUIRED),
        202 => Some(StatusCode::ACCEPTED),
        other => entry.reject(
            format!("approval.pending_status: an undecided payment is not answered with {other}"),
            "Write 503, which clients try again by themselves, or 402 or 202.".to_owned(),
        ),
    }
}

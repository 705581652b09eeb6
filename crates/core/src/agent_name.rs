//! The name that identifies an agent in limits, in the ledger and in messages.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use thiserror::Error;

/// `[a-z0-9][a-z0-9_.-]{0,63}`: safe in file names, log lines, headers and CSV cells alike. Cheap to clone, as every
/// request does it several times.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct AgentName(Arc<str>);

/// The text is not a valid agent name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a valid agent name: use {rule}", rule = AgentName::RULE)]
pub struct NotAnAgentName(pub String);

impl AgentName {
    /// The rule in words, for messages.
    pub const RULE: &'static str =
        "1 to 64 lower-case letters a-z, digits, `-`, `_` and `.`, starting with a letter or digit";

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for AgentName {
    type Err = NotAnAgentName;

    fn from_str(text: &str) -> Result<Self, NotAnAgentName> {
        let ordinary = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let first = text.bytes().next().is_some_and(ordinary);
        let rest = text.bytes().all(|b| ordinary(b) || matches!(b, b'_' | b'.' | b'-'));
        if first && rest && text.len() <= 64 {
            Ok(Self(text.into()))
        } else {
            Err(NotAnAgentName(text.into()))
        }
    }
}

impl TryFrom<String> for AgentName {
    type Error = NotAnAgentName;

    fn try_from(text: String) -> Result<Self, NotAnAgentName> {
        text.parse()
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! What `bursar pause` stops: everything, an agent, a group, or a merchant.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::merchant::{HostError, HostPattern};

/// The payments that a pause stops. Its text (`all`, `agent:research`, `group:eng`, `merchant:*.example.com`) is the
/// `scope` of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PauseScope {
    All,
    Group(String),
    Agent(String),
    Merchant(HostPattern),
}

/// Why a text does not name what to pause.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PauseScopeError {
    #[error("the name is empty")]
    Empty,
    #[error("the name is longer than {MAX_NAME} characters")]
    TooLong,
    #[error("the name has control characters")]
    Unprintable,
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("\"{0}\" is neither `all` nor begins with `agent:`, `group:` or `merchant:`")]
    Unknown(String),
}

/// Longer than any name in limits.toml.
const MAX_NAME: usize = 253;

impl PauseScope {
    pub fn agent(name: &str) -> Result<Self, PauseScopeError> {
        Ok(Self::Agent(checked(name)?))
    }

    pub fn group(name: &str) -> Result<Self, PauseScopeError> {
        Ok(Self::Group(checked(name)?))
    }

    /// A host, or `*.example.com`, as in a `merchants` list.
    pub fn merchant(pattern: &str) -> Result<Self, PauseScopeError> {
        Ok(Self::Merchant(HostPattern::parse(pattern)?))
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Result<Self, PauseScopeError> {
        match text.split_once(':') {
            None if text == "all" => Ok(Self::All),
            Some(("agent", name)) => Self::agent(name),
            Some(("group", name)) => Self::group(name),
            Some(("merchant", pattern)) => Self::merchant(pattern),
            _ => Err(PauseScopeError::Unknown(text.chars().take(80).collect())),
        }
    }

    /// Whether a payment by this agent of this group to this host is stopped.
    pub fn covers(&self, agent: &str, group: Option<&str>, host: &str) -> bool {
        match self {
            Self::All => true,
            Self::Group(name) => group == Some(name.as_str()),
            Self::Agent(name) => agent == name,
            Self::Merchant(pattern) => pattern.matches(host),
        }
    }

    /// The widest first.
    pub const fn rank(&self) -> u8 {
        match self {
            Self::All => 0,
            Self::Group(_) => 1,
            Self::Agent(_) => 2,
            Self::Merchant(_) => 3,
        }
    }

    /// The `rule` of a refusal, in the form of a path in limits.toml.
    pub fn rule(&self) -> String {
        match self {
            Self::All => "pause.all".to_owned(),
            Self::Group(name) => format!("pause.groups.{name}"),
            Self::Agent(name) => format!("pause.agents.{name}"),
            Self::Merchant(pattern) => format!("pause.merchants.{pattern}"),
        }
    }

    /// For a sentence: "Payments of agent research are paused".
    pub fn words(&self) -> String {
        match self {
            Self::All => "All payments".to_owned(),
            Self::Group(name) => format!("Payments of group {name}"),
            Self::Agent(name) => format!("Payments of agent {name}"),
            Self::Merchant(pattern) => format!("Payments to {pattern}"),
        }
    }

    /// The options that name it on the command line.
    pub fn options(&self) -> String {
        match self {
            Self::All => "--all".to_owned(),
            Self::Group(name) => format!("--group {name}"),
            Self::Agent(name) => format!("--agent {name}"),
            Self::Merchant(HostPattern::Exact(host)) => format!("--merchant {host}"),
            Self::Merchant(below) => format!("--merchant '{below}'"),
        }
    }
}

fn checked(name: &str) -> Result<String, PauseScopeError> {
    match name {
        "" => Err(PauseScopeError::Empty),
        _ if name.chars().count() > MAX_NAME => Err(PauseScopeError::TooLong),
        _ if name.chars().any(char::is_control) => Err(PauseScopeError::Unprintable),
        _ => Ok(name.to_owned()),
    }
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Agent(name) => write!(f, "agent:{name}"),
            Self::Merchant(pattern) => write!(f, "merchant:{pattern}"),
        }
    }
}

impl Serialize for PauseScope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PauseScope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_as_it_is_written() {
        for text in [
            "all",
            "agent:research",
            "group:a:b",
            "merchant:api.example.com",
            "merchant:*.example.com",
            "merchant:::1",
        ] {
            let scope = PauseScope::parse(text).unwrap();
            assert_eq!(scope.to_string(), text);
            let json = serde_json::to_string(&scope).unwrap();
            assert_eq!(serde_json::from_str::<PauseScope>(&json).unwrap(), scope);
        }
        assert_eq!(
            PauseScope::merchant("API.Example.com").unwrap().to_string(),
            "merchant:api.example.com",
            "two spellings of a host are one scope"
        );
        for (text, why) in [
            ("", PauseScopeError::Unknown(String::new())),
            ("All", PauseScopeError::Unknown("All".to_owned())),
            ("agent:", PauseScopeError::Empty),
            ("group:a\nb", PauseScopeError::Unprintable),
            ("merchant:https://a.example", PauseScopeError::Host(HostError::Address)),
        ] {
            assert_eq!(PauseScope::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(PauseScope::agent(&"a".repeat(254)), Err(PauseScopeError::TooLong));
    }

    #[test]
    fn a_scope_covers_what_it_names_and_nothing_else() {
        let covers = |scope: &str, agent, group, host| PauseScope::parse(scope).unwrap().covers(agent, group, host);
        assert!(covers("all", "a", None, "h.example"));
        assert!(covers("agent:a", "a", Some("g"), "h.example"));
        assert!(!covers("agent:a", "ab", Some("a"), "h.example"));
        assert!(covers("group:g", "a", Some("g"), "h.example"));
        assert!(!covers("group:g", "g", None, "h.example"));
        assert!(covers("merchant:h.example", "a", None, "h.example"));
        assert!(!covers("merchant:h.example", "a", None, "x.h.example"));
        assert!(covers("merchant:*.example", "a", None, "x.h.example"));
        assert!(!covers("merchant:*.example", "a", None, "example"));
    }
}

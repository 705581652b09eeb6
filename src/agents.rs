//! Who may use the proxy: `agents.toml`, written only by the CLI and read by `serve` (R55).
//!
//! A token is 256 random bits, in clear text only where it is printed or passed to a child process. The file stores its
//! SHA-256; at that length no salt or key stretching is needed. An agent has one token of its own and any number of
//! temporary ones: `run` and `env` mint new tokens, because stored ones cannot be recovered from their hash.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;

use alloy_primitives::hex;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use bursar_core::agent_name::{AgentName, NotAnAgentName};
use bursar_core::clock;
use bursar_home::{self as home, Home, HomeError, Readers};

pub(crate) use roster::{ProxyCredential, Reload, Roster};

mod roster;

/// SHA-256 of a token's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenDigest([u8; 32]);

/// Names a token to people: the first 48 bits of its digest, which say nothing about the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenId([u8; 6]);

#[derive(Debug, thiserror::Error)]
#[error("the id of a token is 12 hexadecimal digits, not the token itself; list the ids with: bursar agents tokens")]
pub struct NotATokenId;

/// Why a token exists, which determines when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    /// Printed once by `agents add` or `agents rotate`.
    Own,
    /// Valid as long as the child process of `bursar run`.
    Run,
    /// Printed by `bursar env`.
    Env,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRecord {
    #[serde(rename = "token_sha256")]
    pub digest: TokenDigest,
    pub purpose: Purpose,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Agent {
    pub name: AgentName,
    /// Unchanged when tokens change, and never reused for another agent of the same name.
    pub id: Uuid,
    pub created: Timestamp,
    #[serde(default)]
    pub tokens: Vec<TokenRecord>,
}

/// A token on its way to the one place that will use it.
pub(crate) struct IssuedToken {
    pub agent: AgentName,
    pub token: SecretString,
    pub digest: TokenDigest,
}

#[derive(Debug, thiserror::Error)]
pub enum AgentsError {
    #[error(transparent)]
    Name(#[from] NotAnAgentName),
    #[error("an agent named {0} already exists; for a new token run: bursar agents rotate {0}")]
    Exists(AgentName),
    #[error("no agent is named {0}; add it with: bursar agents add {0}")]
    Unknown(AgentName),
    #[error("{0} is revoked; give it a new token with: bursar agents rotate {0}")]
    Revoked(AgentName),
    #[error("{0} has no own token, so no more tokens are issued for it; give it one with: bursar agents rotate {0}")]
    NoOwnToken(AgentName),
    #[error("{agent} has no valid token with the id {id}; list its tokens with: bursar agents tokens {agent}")]
    UnknownToken { agent: AgentName, id: TokenId },
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("the operating system gave no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// The writing side. Every change is made under a lock and replaces the file atomically, so that concurrent commands
/// lose nothing and a reader never sees half a file.
#[derive(Clone)]
pub(crate) struct Registry {
    home: Home,
}

impl Registry {
    pub(crate) fn new(home: &Home) -> Self {
        Self { home: home.clone() }
    }

    pub(crate) fn list(&self) -> Result<Vec<Agent>, AgentsError> {
        read(&self.home)
    }

    pub(crate) fn add(&self, name: &AgentName, now: Timestamp) -> Result<IssuedToken, AgentsError> {
        self.change(now, |agents| {
            if agents.iter().any(|agent| agent.name == *name) {
                return Err(AgentsError::Exists(name.clone()));
            }
            let (issued, token) = issue(name, Purpose::Own, now, None)?;
            let milliseconds = u64::try_from(now.as_millisecond()).unwrap_or(0);
            agents.push(Agent {
                name: name.clone(),
                id: uuid::Builder::from_unix_timestamp_millis(milliseconds, &clock::random()?).into_uuid(),
                created: now,
                tokens: vec![token],
            });
            Ok(issued)
        })
    }

    /// Issues a new token; all earlier ones stop working, including temporary ones, since it is not known which of them
    /// leaked.
    pub(crate) fn rotate(&self, name: &AgentName, now: Timestamp) -> Result<IssuedToken, AgentsError> {
        self.change(now, |agents| {
            let agent = find(agents, name)?;
            let (issued, token) = issue(name, Purpose::Own, now, None)?;
            agent.tokens = vec![token];
            Ok(issued)
        })
    }

    /// Ends all tokens. The agent stays listed because the ledger refers to it; `rotate` readmits it.
    pub(crate) fn revoke(&self, name: &AgentName, now: Timestamp) -> Result<(), AgentsError> {
        self.change(now, |agents| {
            find(agents, name)?.tokens.clear();
            Ok(())
        })
    }

    /// Ends one token of the agent, its own included.
    pub(crate) fn revoke_token(&self, name: &AgentName, id: TokenId, now: Timestamp) -> Result<(), AgentsError> {
        self.change(now, |agents| {
            let tokens = &mut find(agents, name)?.tokens;
            let before = tokens.len();
            tokens.retain(|token| token.digest.id() != id);
            if tokens.len() == before {
                let agent = name.clone();
                return Err(AgentsError::UnknownToken { agent, id });
            }
            Ok(())
        })
    }

    /// Issues one more token, beside the agent's own. `run` ends it with [`Registry::forget`]; `expires` ends it if
    /// `run` was killed.
    pub(crate) fn mint_temporary(
        &self,
        name: &AgentName,
        purpose: Purpose,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<IssuedToken, AgentsError> {
        self.change(now, |agents| {
            let agent = find(agents, name)?;
            // A revoked agent has no tokens; `run` must not readmit it.
            if agent.tokens.is_empty() {
                return Err(AgentsError::Revoked(name.clone()));
            }
            if !agent.tokens.iter().any(|token| token.purpose == Purpose::Own) {
                return Err(AgentsError::NoOwnToken(name.clone()));
            }
            let (issued, token) = issue(name, purpose, now, Some(expires))?;
            agent.tokens.push(token);
            Ok(issued)
        })
    }

    /// Ends one token. A token that is already gone is not an error.
    pub(crate) fn forget(&self, digest: &TokenDigest, now: Timestamp) -> Result<(), AgentsError> {
        self.change(now, |agents| {
            for agent in agents {
                agent.tokens.retain(|token| token.digest != *digest);
            }
            Ok(())
        })
    }

    /// Reads, changes and replaces the file under the lock, dropping expired tokens.
    fn change<T>(
        &self,
        now: Timestamp,
        edit: impl FnOnce(&mut Vec<Agent>) -> Result<T, AgentsError>,
    ) -> Result<T, AgentsError> {
        let _lock = self.lock()?;
        let mut agents = read(&self.home)?;
        for agent in &mut agents {
            agent.tokens.retain(|token| token.is_live(now));
        }
        let outcome = edit(&mut agents)?;
        home::write_atomic(&self.home.agents(), render(&agents).as_bytes(), Readers::Owner)?;
        Ok(outcome)
    }

    fn lock(&self) -> Result<File, HomeError> {
        self.home.create_run()?;
        let path = self.home.agents_lock();
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|source| home::failed("lock", &path, source))
    }
}

impl Purpose {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Run => "run",
            Self::Env => "env",
        }
    }
}

impl TokenRecord {
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

fn find<'a>(agents: &'a mut [Agent], name: &AgentName) -> Result<&'a mut Agent, AgentsError> {
    agents
        .iter_mut()
        .find(|agent| agent.name == *name)
        .ok_or_else(|| AgentsError::Unknown(name.clone()))
}

fn issue(
    name: &AgentName,
    purpose: Purpose,
    created: Timestamp,
    expires: Option<Timestamp>,
) -> Result<(IssuedToken, TokenRecord), AgentsError> {
    let text = format!("bur_{}", URL_SAFE_NO_PAD.encode(clock::random::<32>()?));
    let digest = TokenDigest::of(&text);
    let issued = IssuedToken {
        agent: name.clone(),
        token: text.into(),
        digest,
    };
    let token = TokenRecord {
        digest,
        purpose,
        created,
        expires,
    };
    Ok((issued, token))
}

/// No file means no agents: `init` need not write an empty one.
fn read(home: &Home) -> Result<Vec<Agent>, AgentsError> {
    let path = home.agents();
    match home::read_secret(&path) {
        Ok(text) => parse(&text).map_err(|why| AgentsError::Damaged { path, why }),
        Err(HomeError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn parse(text: &str) -> Result<Vec<Agent>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        #[serde(default)]
        agents: Vec<Agent>,
    }
    let Document { agents } = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut names: Vec<_> = agents.iter().map(|agent| &agent.name).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("two agents are named {}", pair[0])),
        None => Ok(agents),
    }
}

/// No value contains characters that TOML would need escaped.
fn render(agents: &[Agent]) -> String {
    let mut text = String::from("# Written by `bursar agents`, `run` and `env`. Tokens are stored as SHA-256 only.\n");
    for Agent {
        name,
        id,
        created,
        tokens,
    } in agents
    {
        text += &format!("\n[[agents]]\nname = \"{name}\"\nid = \"{id}\"\ncreated = \"{created}\"\n");
        for token in tokens {
            text += &format!(
                "\n[[agents.tokens]]\ntoken_sha256 = \"{}\"\npurpose = \"{}\"\ncreated = \"{}\"\n",
                token.digest, token.purpose, token.created
            );
            if let Some(expires) = token.expires {
                text += &format!("expires = \"{expires}\"\n");
            }
        }
    }
    text
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "own",
            Self::Run => "run",
            Self::Env => "env",
        })
    }
}

impl TokenDigest {
    pub(crate) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    pub(crate) fn id(&self) -> TokenId {
        let [a, b, c, d, e, f, ..] = self.0;
        TokenId([a, b, c, d, e, f])
    }
}

impl FromStr for TokenId {
    type Err = NotATokenId;

    fn from_str(text: &str) -> Result<Self, NotATokenId> {
        // `hex` would skip `0x`.
        if text.len() != 12 {
            return Err(NotATokenId);
        }
        let bytes = hex::decode(text).map_err(|_| NotATokenId)?;
        bytes.try_into().map(Self).map_err(|_| NotATokenId)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenDigest({self})")
    }
}

impl<'de> Deserialize<'de> for TokenDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom("token_sha256 must be 64 hexadecimal digits");
        let bytes = hex::decode(&text).map_err(|_| wrong())?;
        bytes.try_into().map(Self).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests;

//! `bursar agents`: the agents that may use the proxy.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::output::{note, print_json, say};
use super::{Exit, Failure};
use crate::agents::{AgentsError, IssuedToken, Registry, TokenId, TokenRecord};
use crate::config::Config;
use bursar_core::agent_name::AgentName;
use bursar_home::Home;

#[derive(Subcommand)]
pub(super) enum Agents {
    /// Add an agent; prints its token on stdout, this one time only
    Add(Name),
    /// List agents and when their temporary tokens expire; tokens are stored only as hashes
    List {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Issue a new token for an agent; all its earlier tokens stop working
    Rotate(Name),
    /// Revoke all tokens of an agent, or one of them
    Revoke {
        #[command(flatten)]
        agent: Name,
        /// End only the token with this id; `bursar agents tokens` lists the ids
        #[arg(long, value_name = "ID")]
        token: Option<String>,
    },
    /// List the valid tokens of one agent or of all: id, purpose, when made, when they expire; never the token
    Tokens {
        /// Agent name [default: all agents]
        name: Option<String>,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(super) struct Name {
    /// Agent name: lower-case letters, digits, `-`, `_` and `.`
    name: String,
}

impl Agents {
    pub(super) fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let registry = Registry::new(home);
        let now = Timestamp::now();
        match self {
            Self::Add(Name { name }) => {
                let name = name.parse::<AgentName>()?;
                print(&registry.add(&name, now)?)?;
                hint_at_budget(home, &name);
            }
            Self::Rotate(Name { name }) => print(&registry.rotate(&name.parse::<AgentName>()?, now)?)?,
            Self::Revoke { agent, token: None } => {
                registry.revoke(&agent.name.parse::<AgentName>()?, now)?;
                note!(
                    "Revoked {}; a running server stops accepting its tokens within a second.",
                    agent.name
                );
            }
            Self::Revoke { agent, token: Some(id) } => {
                registry.revoke_token(&agent.name.parse::<AgentName>()?, id.parse::<TokenId>()?, now)?;
                note!(
                    "Revoked the token {id} of {}; a running server stops accepting it within a second. Its other \
                     tokens stay valid.",
                    agent.name
                );
            }
            Self::List { json } => list(&registry, json, now)?,
            Self::Tokens { name, json } => {
                let name = name.map(|name| name.parse::<AgentName>()).transpose()?;
                list_tokens(&registry, name, json, now)?;
            }
        }
        Ok(Exit::Done)
    }
}

/// Only the token goes to stdout, so that a script can capture it.
fn print(issued: &IssuedToken) -> Result<(), Failure> {
    say!("{}", issued.token.expose_secret())?;
    note!(
        "Save this token now; it will not be shown again. Proxy URL for {name}: http://{name}:TOKEN@HOST:PORT \
         (`bursar env --agent {name}` prints all the variables that a client needs).",
        name = issued.agent
    );
    Ok(())
}

/// An agent without a budget may be added, but it cannot spend (R55).
fn hint_at_budget(home: &Home, name: &AgentName) {
    if let Ok(file) = Config::load(home.root()).map(|config| config.limits)
        && let Ok(limits) = file.load()
        && !limits.agents().any(|known| known == name.as_str())
    {
        note!(
            "{name} cannot spend yet: {} has no section [agents.{name}].",
            file.path().display()
        );
    }
}

fn list(registry: &Registry, as_json: bool, now: Timestamp) -> Result<(), Failure> {
    let agents = registry.list()?;
    if agents.is_empty() && !as_json {
        note!("No agents yet. Add one with: bursar agents add NAME");
    }
    for agent in agents {
        let live: Vec<_> = agent.tokens.iter().filter(|token| token.is_live(now)).collect();
        if as_json {
            let tokens: Vec<_> = live.iter().map(|token| described(token)).collect();
            print_json(
                &json!({ "name": agent.name.as_str(), "id": agent.id, "created": agent.created, "tokens": tokens }),
            )?;
        } else {
            let state = if live.is_empty() { "revoked" } else { "active" };
            let ends: Vec<_> = live.iter().filter_map(|token| token.expires).collect();
            let temporary = ends.iter().max().map_or_else(String::new, |last| {
                format!(", temporary tokens: {}, the last expires {}", ends.len(), day(*last))
            });
            say!(
                "{:<24} {state:<8} since {}{temporary}",
                agent.name.as_str(),
                day(agent.created)
            )?;
        }
    }
    Ok(())
}

fn list_tokens(registry: &Registry, name: Option<AgentName>, as_json: bool, now: Timestamp) -> Result<(), Failure> {
    let mut agents = registry.list()?;
    if let Some(name) = name {
        agents.retain(|agent| agent.name == name);
        if agents.is_empty() {
            return Err(AgentsError::Unknown(name).into());
        }
    }
    let mut listed = 0;
    for agent in agents {
        for token in agent.tokens.iter().filter(|token| token.is_live(now)) {
            listed += 1;
            if as_json {
                let mut line = described(token);
                line["agent"] = agent.name.as_str().into();
                print_json(&line)?;
                continue;
            }
            let ends = token.expires.map_or_else(
                || "until it is revoked".to_owned(),
                |expires| format!("expires {}", minute(expires)),
            );
            let (id, purpose) = (token.digest.id(), token.purpose.name());
            say!(
                "{:<24} {id} {purpose:<4} since {}, {ends}",
                agent.name.as_str(),
                minute(token.created)
            )?;
        }
    }
    if listed == 0 && !as_json {
        note!("No valid tokens. An agent gets a new one with: bursar agents rotate NAME");
    }
    Ok(())
}

fn described(token: &TokenRecord) -> Value {
    json!({
        "id": token.digest.id().to_string(),
        "purpose": token.purpose.name(),
        "created": token.created,
        "expires": token.expires,
    })
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

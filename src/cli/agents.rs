//! `bursar agents`: who may use the proxy.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::json;

use super::output::say;
use super::{Exit, Failure};
use crate::agents::{IssuedToken, Registry};
use crate::config::limits;
use bursar_core::agent_name::AgentName;
use bursar_home::Home;

#[derive(Subcommand)]
pub enum Agents {
    /// Let an agent in; prints its token, once, on stdout
    Add(Name),
    /// List agents and when their tokens end; tokens themselves are stored as hashes
    List {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Make a new token; every earlier one stops working
    Rotate(Name),
    /// End all tokens of an agent
    Revoke(Name),
}

#[derive(Args)]
pub struct Name {
    /// The agent: lower-case letters, digits, `-`, `_` and `.`
    name: String,
}

impl Agents {
    pub fn run(self, home: &Home) -> Result<Exit, Failure> {
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
            Self::Revoke(Name { name }) => {
                registry.revoke(&name.parse::<AgentName>()?, now)?;
                eprintln!("{name} is revoked; a running server knows within a second.");
            }
            Self::List { json } => list(&registry, json, now)?,
        }
        Ok(Exit::Done)
    }
}

/// The token alone on stdout, so that a script can take it.
fn print(issued: &IssuedToken) -> Result<(), Failure> {
    say!("{}", issued.token.expose_secret())?;
    eprintln!(
        "This token of {name} is not shown again. Proxy URL: http://{name}:TOKEN@HOST:PORT (`bursar env --agent {name}` prints all variables).",
        name = issued.agent
    );
    Ok(())
}

/// An agent without a budget may be added; it cannot spend (R55).
fn hint_at_budget(home: &Home, name: &AgentName) {
    if let Ok(limits) = limits::load(home.root())
        && !limits.agents().any(|known| known == name.as_str())
    {
        eprintln!(
            "It cannot spend yet: {} has no section [agents.{name}].",
            home.limits().display()
        );
    }
}

fn list(registry: &Registry, as_json: bool, now: Timestamp) -> Result<(), Failure> {
    let agents = registry.list()?;
    if agents.is_empty() && !as_json {
        eprintln!("No agents yet. Add one with: bursar agents add NAME");
    }
    for agent in agents {
        let live: Vec<_> = agent.tokens.iter().filter(|token| token.is_live(now)).collect();
        if as_json {
            let tokens: Vec<_> = live
                .iter()
                .map(|token| json!({ "purpose": token.purpose.name(), "created": token.created, "expires": token.expires }))
                .collect();
            say!(
                "{}",
                json!({ "name": agent.name.as_str(), "id": agent.id, "created": agent.created, "tokens": tokens })
            )?;
        } else {
            let state = if live.is_empty() { "revoked" } else { "active" };
            let ends: Vec<_> = live.iter().filter_map(|token| token.expires).collect();
            let temporary = ends.iter().max().map_or_else(String::new, |last| {
                format!(", temporary tokens: {}, the last ends {}", ends.len(), day(*last))
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

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

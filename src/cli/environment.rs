//! `bursar env`, and the environment variables that it shares with `run` (R231).

mod format;
mod no_proxy;
mod node;
mod variables;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use bursar_core::agent_name::AgentName;
use bursar_core::host::{Authority, Host};
use bursar_home::Home;
use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::output::{note, print_exact};
use super::{Exit, Failure};
use crate::agents::{Purpose, Registry};
use crate::config::Config;
use format::Format;
pub(super) use format::sh_word;
pub(super) use no_proxy::Loopback;
pub(super) use node::{old_node, write_node_proxy};
pub(super) use variables::{Files, Inherited, STRIPPED, variables};

/// The longest life of a token that `env` prints. What must last longer uses the agent's own token.
const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

#[derive(Args)]
pub(super) struct Env {
    /// Agent whose limits apply
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// Output format
    #[arg(long, value_enum, default_value = "sh")]
    format: Format,
    /// Where the agent reaches the proxy, if that is not where the server listens: for containers and other machines
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    address: Option<Authority>,
    /// Absolute path of the folder where the agent finds ca.pem and bundle.pem [default: the data directory]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    ca_dir: Option<PathBuf>,
    /// How long the token lasts: a number and m, h or d; at most 90d
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = life)]
    ttl: SignedDuration,
}

impl Env {
    pub(super) fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let config = Config::load(home.root())?;
        let listen = match self.address {
            Some(authority) => Listen::at(&config, authority),
            None => server_address(home, &config)?,
        };
        let files = self.format.files(home, self.ca_dir.as_deref());
        if files.node_proxy.is_some() {
            write_node_proxy(home)?;
        }
        let now = Timestamp::now();
        let expires = now + self.ttl;
        let agent = self.agent.parse::<AgentName>()?;
        let issued = Registry::new(home).mint_temporary(&agent, Purpose::Env, expires, now)?;

        let inherited = self.format.inherits();
        let loopback = Loopback::of(&config.upstream.allow_private);
        let variables = variables(&listen, &issued, &files, &inherited, loopback);
        let leads_past =
            |name: &&&str| std::env::var_os(name).is_some() && !variables.iter().any(|(set, _)| set == *name);
        let unset: Vec<&str> = STRIPPED.iter().filter(leads_past).copied().collect();
        print_exact(&self.format.render(&variables, &unset, &files, home))?;
        let id = issued.digest.id();
        note!(
            "The token in this output expires on {}. To end it earlier: bursar agents revoke {agent} --token {id}\n\
             `bursar run` needs none of this: it issues its own token.",
            expires.strftime("%Y-%m-%d %H:%M UTC")
        );
        for note in self.format.notes(home, &listen, self.ca_dir.as_deref()) {
            note!("{note}");
        }
        if inherited.passes_everything_by() {
            note!(
                "NO_PROXY contains \"*\", so requests bypass bursar and are not paid. Unset it, then run this again."
            );
        }
        Ok(Exit::Done)
    }
}

fn address(text: &str) -> Result<Authority, String> {
    Authority::parse(text).map_err(|error| format!("{error}; write it as HOST:PORT, such as bursar.internal:8402"))
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("write an absolute path, because agents change their folder".to_owned())
    }
}

fn life(text: &str) -> Result<SignedDuration, String> {
    let wrong = || "write a number and m, h or d, such as 7d or 12h".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    let life = SignedDuration::from_secs(i64::from(number) * seconds);
    if life.is_zero() {
        return Err("a token that lasts no time is of no use".to_owned());
    }
    if life > LONGEST_LIFE {
        return Err("at most 90d; the token that `bursar agents add` prints lasts until it is revoked".to_owned());
    }
    Ok(life)
}

/// Where agents reach the proxy.
pub(super) struct Listen {
    scheme: &'static str,
    authority: Authority,
}

impl Listen {
    fn at(config: &Config, authority: Authority) -> Self {
        let scheme = match config.proxy.tls {
            Some(_) => "https",
            None => "http",
        };
        Self { scheme, authority }
    }

    fn is_loopback(&self) -> bool {
        self.authority.host.ip().is_some_and(|ip| ip.is_loopback())
    }
}

/// Where the running server listens; if there is none, an error that says how to start it (R56).
pub(super) fn server_address(home: &Home, config: &Config) -> Result<Listen, Failure> {
    let no_server = || {
        Failure::unavailable(format!(
            "no server is running on {}; start one with: bursar serve --dir {}",
            home.root().display(),
            sh_word(&home.root().display().to_string())
        ))
    };
    let text = std::fs::read_to_string(home.listen()).map_err(|_| no_server())?;
    // A killed server leaves its address behind, and another process may use the port by now. The socket in our own
    // folder cannot belong to another process.
    UnixStream::connect(home.admin_socket()).map_err(|_| no_server())?;
    let mut reached: SocketAddr = text.trim().parse().map_err(|_| no_server())?;
    if reached.ip().is_unspecified() {
        let loopback = match reached {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        reached.set_ip(loopback);
    }
    let authority = Authority {
        host: Host::from(reached.ip()),
        port: reached.port(),
    };
    Ok(Listen::at(config, authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        assert_eq!(life("7d"), Ok(SignedDuration::from_hours(7 * 24)));
        assert_eq!(life("90d"), Ok(LONGEST_LIFE));
        assert_eq!(life("12h"), Ok(SignedDuration::from_hours(12)));
        assert_eq!(life("5m"), Ok(SignedDuration::from_mins(5)));
        for wrong in [
            "",
            "7",
            "d",
            "7 d",
            "-7d",
            "+7d",
            "7w",
            "0d",
            "91d",
            "4294967296m",
            "1.5h",
            "7ä",
        ] {
            assert!(life(wrong).is_err(), "{wrong}");
        }
    }
}

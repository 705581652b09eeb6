//! Authenticates agents: `Proxy-Authorization` against agents.toml, with a bound on the noise of failed attempts.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use http::HeaderValue;
use jiff::Timestamp;
use secrecy::ExposeSecret;

use crate::agents::{ProxyCredential, Reload, Roster, TokenDigest};
use bursar_core::agent_name::AgentName;

/// Failed attempts per source and minute that are checked against the file and logged (R38).
const FAILURES: NonZeroU32 = NonZeroU32::new(10).expect("ten is not zero");

/// Sources whose failed attempts are counted at once. While there are more, failures are not logged, and correct tokens
/// pass as always.
const SOURCES: usize = 10_000;

pub(crate) struct Logins {
    roster: Roster,
    /// A correct token always passes: a neighbour on the same address must not be able to lock an agent out.
    failures: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
}

/// The agent of a connection, and the token that proved it.
#[derive(Clone)]
pub(crate) struct Login {
    pub agent: AgentName,
    token: TokenDigest,
}

/// Why no agent was identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// No credential: most clients send one only when asked.
    Missing,
    Unreadable,
    Wrong,
    TooMany,
}

impl Logins {
    pub(crate) fn new(roster: Roster) -> Self {
        Self {
            roster,
            failures: RateLimiter::hashmap(Quota::per_minute(FAILURES)),
        }
    }

    pub(crate) fn identify(
        &self,
        credential: Option<&HeaderValue>,
        source: IpAddr,
        now: Timestamp,
    ) -> Result<Login, Unknown> {
        let credential = credential.ok_or(Unknown::Missing)?;
        let credential = ProxyCredential::parse(credential).ok_or_else(|| self.failed(source, Unknown::Unreadable))?;
        let token = TokenDigest::of(credential.token.expose_secret());
        if let Some(agent) = self.roster.authenticate(&credential.name, &credential.token, now) {
            return Ok(Login { agent, token });
        }
        // `run` creates a token and starts its child at once: reload the file before refusing.
        if matches!(self.roster.reload_if_changed(), Ok(Reload::Changed { .. }))
            && let Some(agent) = self.roster.authenticate(&credential.name, &credential.token, now)
        {
            return Ok(Login { agent, token });
        }
        Err(self.failed(source, Unknown::Wrong))
    }

    /// Whether the token of an open tunnel is still valid: not revoked, rotated or expired.
    pub(crate) fn is_still_valid(&self, login: &Login, now: Timestamp) -> bool {
        self.roster.is_live(&login.agent, &login.token, now)
    }

    fn failed(&self, source: IpAddr, why: Unknown) -> Unknown {
        if self.failures.len() >= SOURCES || self.failures.check_key(&network_of(source)).is_err() {
            return Unknown::TooMany;
        }
        tracing::warn!(%source, why = %why, "proxy login failed");
        why
    }

    /// Once a second: reloads changed agents and forgets old sources.
    pub(crate) fn tend(&self) {
        match self.roster.reload_if_changed() {
            Ok(Reload::Changed { agents }) => tracing::info!(agents, "agents.toml reloaded"),
            Ok(Reload::Unchanged) => {}
            Err(error) => tracing::error!(%error, "cannot read agents.toml; the agents known so far stay valid"),
        }
        self.failures.retain_recent();
    }
}

/// Who has one IPv6 address usually has its whole /64, and could come from another one each time.
fn network_of(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        address @ IpAddr::V4(_) => address,
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "Proxy-Authorization is missing; put the agent's name and token into the proxy URL (`bursar env --agent NAME` prints it).",
            Self::Unreadable => "Proxy-Authorization is not Basic with a name and a token.",
            Self::Wrong => "No agent has this name and token; `bursar agents list` shows the names, `bursar agents rotate NAME` makes a new token.",
            Self::TooMany => "No agent has this name and token, and there were too many failed log-ins in the last minute.",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use bursar_home::Home;

    fn logins(dir: &tempfile::TempDir) -> Logins {
        let home = Home::at(dir.path()).unwrap();
        home.create().unwrap();
        Logins::new(Roster::load(&home).unwrap())
    }

    #[test]
    fn the_sources_that_are_counted_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let logins = logins(&dir);
        for number in 0..2 * SOURCES as u32 {
            let source = IpAddr::V4(number.into());
            logins.failed(source, Unknown::Wrong);
            assert!(logins.failures.len() <= SOURCES);
        }
        assert_eq!(logins.failed(IpAddr::V4(7.into()), Unknown::Wrong), Unknown::TooMany);
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let dir = tempfile::tempdir().unwrap();
        let logins = logins(&dir);
        let failed = |network: u128, host: u128| {
            let source = Ipv6Addr::from_bits(0x2001_0db8 << 96 | network << 64 | host);
            logins.failed(source.into(), Unknown::Wrong)
        };
        for host in 0..10 {
            assert_eq!(failed(1, host), Unknown::Wrong);
        }
        assert_eq!(failed(1, 10), Unknown::TooMany);
        assert_eq!(failed(2, 10), Unknown::Wrong);
        assert_eq!(logins.failures.len(), 2);
    }
}

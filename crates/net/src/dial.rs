//! Outgoing connections for agents: one resolution, every address checked, only checked addresses dialled (threats 2.1,
//! 2.2).
//!
//! A replay connects to the [`Checked`] addresses of the first request and never resolves the name again. Services that
//! the operator has configured (nodes, Stripe, approval backends) are reached through [`crate::post`] instead.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use bursar_core::agent_name::AgentName;
use bursar_core::host::{Host, HostError};

use crate::shares::{Bounds, Full, Share, Shares, What};

pub use class::AddressClass;
pub(crate) use class::classify;

mod class;

/// "Connection Attempt Delay" of RFC 8305 §5.
const STAGGER: Duration = Duration::from_millis(250);
/// Attempts that run at the same time for one connection. A name may have any number of addresses that do not answer.
const ATTEMPTS: usize = 4;

/// Resolves host names. A trait, so that tests can give answers that change or lie.
pub trait Resolver: Send + Sync + 'static {
    fn lookup(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
}

/// The system's resolver, with the machine's hosts file, search order and caching.
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn lookup(&self, host: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((host, 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

/// Addresses that passed the guard, in the resolver's order; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    addresses: Vec<SocketAddr>,
}

impl Checked {
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// The messages reach the agent, so they name the host's address class but never the address.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("the host is {class}, which this proxy does not connect to")]
    Guard {
        class: AddressClass,
        address: Option<IpAddr>,
    },
    #[error("the request would loop back to this proxy")]
    Loop { address: SocketAddr },
    #[error("the host name could not be resolved")]
    Dns { source: Option<io::Error> },
    #[error("the host refused the connection")]
    Refused,
    #[error("the host is unreachable: {source}")]
    Unreachable { source: io::Error },
    #[error("{0} took too long")]
    Timeout(Stage),
    #[error(transparent)]
    Full(#[from] Full),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Resolve,
    Connect,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolving the host name",
            Self::Connect => "connecting to the host",
        })
    }
}

/// How much agents may use at once.
#[derive(Clone)]
pub struct Room {
    /// The system's resolver blocks a thread for each look-up, and cannot be stopped: slow names must not take all of
    /// them.
    pub lookups: Shares,
    /// Sockets to sites, kept ones and attempts included.
    pub sites: Shares,
}

impl Default for Room {
    fn default() -> Self {
        Self::new(64, 16, 4096, 512)
    }
}

impl Room {
    /// How many of one agent may wait for their turn. They leave when their patience ends or when the agent hangs up.
    const QUEUED_LOOKUPS: usize = 128;
    const QUEUED_SITES: usize = 512;

    pub fn new(lookups: usize, lookups_each: usize, sites: usize, sites_each: usize) -> Self {
        let bounds = |all, each, queue_each| Bounds { all, each, queue_each };
        Self {
            lookups: Shares::new(What::Lookups, bounds(lookups, lookups_each, Self::QUEUED_LOOKUPS)),
            sites: Shares::new(What::Sites, bounds(sites, sites_each, Self::QUEUED_SITES)),
        }
    }
}

/// A connection to a site, and the socket's place among those that are allowed.
#[derive(Debug)]
pub struct Dialled {
    pub stream: TcpStream,
    pub address: SocketAddr,
    pub share: Share,
}

/// Cheap to clone; clones share the room.
#[derive(Clone)]
pub struct Dialer {
    resolver: Arc<dyn Resolver>,
    room: Room,
    /// `upstream.allow_private`: exceptions to the guard, never to the loop check.
    exceptions: Arc<[IpNet]>,
    own: Arc<[SocketAddr]>,
    patience: Patience,
}

/// `[timeouts] dns_s` and `dial_s`.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub resolve: Duration,
    /// All attempts for one connection together.
    pub connect: Duration,
}

impl Dialer {
    /// `own`: the bound addresses of all our listeners, including the admin listener.
    pub fn new(
        resolver: Arc<dyn Resolver>,
        allow_private: Vec<IpNet>,
        own: Vec<SocketAddr>,
        patience: Patience,
        room: Room,
    ) -> Self {
        Self {
            resolver,
            room,
            exceptions: allow_private.into(),
            own: own.into(),
            patience,
        }
    }

    /// Resolves the name once and checks every address. One address that is not allowed rejects the name, since an
    /// answer that mixes public and private addresses is an attack or a mistake. If an address is in `allow_private`,
    /// only addresses in `allow_private` are kept.
    pub async fn resolve(&self, agent: &AgentName, host: &str, port: u16) -> Result<Checked, DialError> {
        let host = Host::parse(host)?;
        if port == 0 {
            return Err(HostError::Port.into());
        }
        if host.is_disguised_ipv4() {
            return Err(DialError::Guard {
                class: AddressClass::Disguised,
                address: None,
            });
        }
        let found = match host.ip() {
            Some(address) => vec![address],
            // RFC 6761 §6.3: it is this machine, and no resolver needs to be asked.
            None if host.as_str() == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            None => self.lookup(agent, &host).await?,
        };
        let mut addresses: Vec<SocketAddr> = Vec::with_capacity(found.len());
        let mut refused = None;
        for address in found {
            match self.check(address, port) {
                Ok(address) if !addresses.contains(&address) => addresses.push(address),
                Ok(_) => {}
                Err(DialError::Guard { class, address }) => refused = Some(DialError::Guard { class, address }),
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = refused {
            // The operator has allowed one of its addresses, so the name is known to be private: `localhost`, for
            // instance, is also ::1 on most machines. Only the allowed addresses are dialled.
            addresses.retain(|address| self.is_exception(address.ip()));
            if addresses.is_empty() {
                return Err(error);
            }
        }
        match addresses.is_empty() {
            true => Err(DialError::Dns { source: None }),
            false => Ok(Checked { addresses }),
        }
    }

    /// Connects to one of the checked addresses (RFC 8305): families alternate, each attempt gets 250 ms before the
    /// next one starts in parallel, and the first to connect wins.
    pub async fn connect(&self, agent: &AgentName, checked: &Checked) -> Result<Dialled, DialError> {
        let late = Instant::now() + self.patience.connect;
        let share = match timeout_at(late, self.room.sites.wait(agent)).await {
            Ok(share) => share?,
            Err(_) => return Err(self.room.sites.why_full(agent).into()),
        };
        let attempts = race(alternate(&checked.addresses), STAGGER, share, &self.room.sites);
        timeout_at(late, attempts)
            .await
            .unwrap_or(Err(DialError::Timeout(Stage::Connect)))
    }

    /// Sockets to sites.
    pub(crate) fn sites(&self) -> &Shares {
        &self.room.sites
    }

    async fn lookup(&self, agent: &AgentName, host: &Host) -> Result<Vec<IpAddr>, DialError> {
        let late = Instant::now() + self.patience.resolve;
        // A caller that stops waiting before its turn leaves the queue, and nothing is asked for it.
        let share = match timeout_at(late, self.room.lookups.wait(agent)).await {
            Ok(share) => share?,
            Err(_) => return Err(self.room.lookups.why_full(agent).into()),
        };
        let (resolver, host) = (self.resolver.clone(), host.to_string());
        // In its own task: when we stop waiting, the blocked thread lives on, and counts as long as it does.
        let answer = tokio::spawn(async move {
            let _share = share;
            resolver.lookup(host).await
        });
        match timeout_at(late, answer).await {
            Err(_) => Err(DialError::Timeout(Stage::Resolve)),
            Ok(Err(died)) => Err(DialError::Dns {
                source: Some(io::Error::other(died)),
            }),
            Ok(Ok(Err(source))) => Err(DialError::Dns { source: Some(source) }),
            Ok(Ok(Ok(addresses))) => Ok(addresses),
        }
    }

    fn is_exception(&self, address: IpAddr) -> bool {
        self.exceptions.iter().any(|net| net.contains(&address))
    }

    fn check(&self, address: IpAddr, port: u16) -> Result<SocketAddr, DialError> {
        // ::ffff:a.b.c.d is dialled as the IPv4 address it stands for.
        let address = address.to_canonical();
        let target = SocketAddr::new(address, port);
        if self.own.iter().any(|own| reaches(*own, target)) {
            return Err(DialError::Loop { address: target });
        }
        if self.is_exception(address) {
            return Ok(target);
        }
        match classify(address) {
            AddressClass::Global => Ok(target),
            class => Err(DialError::Guard {
                class,
                address: Some(address),
            }),
        }
    }
}

/// Whether a connection to `target` would be accepted by a listener bound to `own`.
fn reaches(own: SocketAddr, target: SocketAddr) -> bool {
    if own.port() != target.port() {
        return false;
    }
    let (own, target) = (own.ip().to_canonical(), target.ip());
    own == target
        // Connecting to the unspecified address means this host.
        || target.is_unspecified()
        || own.is_unspecified() && (target.is_loopback() || is_local(target))
}

/// An address can be bound exactly when an interface has it. Nothing is sent. Only called for a listener on all
/// interfaces and an equal port.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Alternates the families, starting with the one that the resolver put first (RFC 6724 order).
fn alternate(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut preferred, mut other): (VecDeque<SocketAddr>, VecDeque<SocketAddr>) = addresses
        .iter()
        .copied()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = VecDeque::with_capacity(addresses.len());
    while !(preferred.is_empty() && other.is_empty()) {
        order.extend(preferred.pop_front());
        order.extend(other.pop_front());
    }
    order
}

/// The first attempt uses `share`; a parallel one needs its own, and waits for the end of another if there is none.
async fn race(
    mut waiting: VecDeque<SocketAddr>,
    stagger: Duration,
    share: Share,
    sites: &Shares,
) -> Result<Dialled, DialError> {
    let agent = share.agent().clone();
    let mut spare = vec![share];
    // Dropping the set cancels the attempts that lost.
    let mut attempts = JoinSet::new();
    let mut last_error = DialError::Dns { source: None };
    loop {
        if attempts.len() < ATTEMPTS && !waiting.is_empty() {
            spare.extend(if spare.is_empty() {
                sites.take(&agent, 1).ok()
            } else {
                None
            });
            if let Some(share) = spare.pop()
                && let Some(address) = waiting.pop_front()
            {
                attempts.spawn(async move { (attempt(address).await, address, share) });
            }
        }
        if attempts.is_empty() {
            return Err(last_error);
        }
        let next = Instant::now() + stagger;
        loop {
            let outcome = tokio::select! {
                biased;
                Some(outcome) = attempts.join_next() => outcome,
                () = sleep_until(next), if !waiting.is_empty() => break,
                else => break,
            };
            match outcome {
                Ok((Ok(stream), address, share)) => return Ok(Dialled { stream, address, share }),
                Ok((Err(error), _, share)) => {
                    last_error = DialError::of_connect(error);
                    spare.push(share);
                }
                Err(died) => last_error = DialError::of_connect(io::Error::other(died)),
            }
            if !waiting.is_empty() {
                break;
            }
        }
    }
}

async fn attempt(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Without it small writes wait 40 ms for an acknowledgement.
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl DialError {
    fn of_connect(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout(Stage::Connect),
            _ => Self::Unreachable { source },
        }
    }
}

#[cfg(test)]
mod tests;

//! Outgoing connections for agents: one resolution, every address checked, only checked addresses dialled (threats 2.1,
//! 2.2).
//!
//! A replay connects to the [`Checked`] addresses of the first request and never resolves the name again. Services that
//! the operator has configured (nodes, Stripe, approval backends) are reached through [`crate::post`] instead.
//!
//! Behind a corporate proxy the proxy's address takes the place of the site's ([`crate::corporate`]): what this machine
//! can resolve is guarded as ever, everything else the proxy looks up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{Instant, timeout_at};

use bursar_core::agent_name::AgentName;
use bursar_core::host::{Host, HostError};

use crate::corporate::CorporateProxy;
use crate::names::{Known, Names, Places, Rest, Unresolved};
use crate::shares::{Bounds, Share, Shares, What};

pub use crate::names::{Family, Looking, NameFault, Resolver, SystemResolver};
pub use class::AddressClass;
use class::{classify, embedded};
pub use error::{DialError, Stage};
use race::{Pace, alternate, race};
pub use stream::Stream;

pub(crate) mod class;
mod error;
mod race;
pub(crate) mod stream;

/// How long a name that a corporate proxy resolves may take to be found on this machine as well. In a network that
/// resolves no names of outside, this is what each one costs. Long enough for an answer that is kept to be used when there
/// is no new one.
const LOCALLY: Duration = Duration::from_secs(2);

/// Addresses that passed the guard, in the order in which they are tried; never empty. Behind a corporate proxy: the
/// proxy's.
#[derive(Debug, Clone)]
pub struct Checked {
    known: Vec<SocketAddr>,
    /// What the second family of addresses adds, if it had not answered.
    late: Option<Arc<Late>>,
    through: Option<Target>,
    /// While a tunnel lives, its name's answer is kept.
    _hold: Option<Arc<Known>>,
}

/// What a corporate proxy connects to.
#[derive(Debug, Clone)]
struct Target {
    host: Host,
    port: u16,
}

/// The second answer of a name's look-up. It is checked when it arrives, before any of its addresses is dialled.
#[derive(Debug)]
struct Late {
    rest: Rest,
    port: u16,
    /// All that may be dialled now, or why nothing may.
    checked: OnceLock<Result<Vec<SocketAddr>, Refusal>>,
}

/// Why an address is not dialled.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    Guard(AddressClass, IpAddr),
    Loop(SocketAddr),
}

impl Checked {
    const fn of(known: Vec<SocketAddr>) -> Self {
        Self {
            known,
            late: None,
            through: None,
            _hold: None,
        }
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        let late = self.late.as_ref().and_then(|late| late.checked.get());
        match late {
            Some(Ok(all)) => all,
            _ => &self.known,
        }
    }
}

impl From<Unresolved> for DialError {
    fn from(why: Unresolved) -> Self {
        match why {
            Unresolved::Fault(why) => Self::Dns { why },
            Unresolved::Late(after) => Self::Timeout(Stage::Resolve(after)),
            Unresolved::Full(full) => Self::Full(full),
        }
    }
}

impl From<Refusal> for DialError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Guard(class, address) => Self::Guard {
                class,
                address: Some(address),
            },
            Refusal::Loop(address) => Self::Loop { address },
        }
    }
}

/// How much agents may use at once.
#[derive(Clone)]
pub struct Room {
    /// The system's resolver blocks a thread for each look-up, and cannot be stopped: slow names must not take all of
    /// them.
    pub lookups: Shares,
    second_lookups: Shares,
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
            second_lookups: Shares::new(What::Lookups, bounds(lookups, lookups_each, 0)),
            sites: Shares::new(What::Sites, bounds(sites, sites_each, Self::QUEUED_SITES)),
        }
    }

    fn places(&self) -> Places {
        Places {
            first: self.lookups.clone(),
            second: self.second_lookups.clone(),
        }
    }
}

/// A connection to a site, and the socket's place among those that are allowed.
#[derive(Debug)]
pub struct Dialled {
    pub stream: Stream,
    pub address: SocketAddr,
    pub share: Share,
}

/// Cheap to clone; clones share the room and what is known of names.
#[derive(Clone)]
pub struct Dialer {
    names: Names,
    room: Room,
    /// `upstream.allow_private`: exceptions to the guard, never to the loop check.
    exceptions: Arc<[IpNet]>,
    own: Arc<[SocketAddr]>,
    proxy: Option<Arc<CorporateProxy>>,
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
            names: Names::new(resolver, room.places(), patience.resolve),
            room,
            exceptions: allow_private.into(),
            own: own.into(),
            proxy: None,
            patience,
        }
    }

    /// All sites but those that the proxy's `no_proxy` spares are reached through it.
    pub fn behind(self, proxy: Option<Arc<CorporateProxy>>) -> Self {
        Self { proxy, ..self }
    }

    /// Whether this address is one of our own listeners.
    pub fn is_own(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|own| reaches(*own, address))
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
        match &self.proxy {
            Some(proxy) if !proxy.spares(&host) => self.resolve_behind(agent, proxy, host, port).await,
            _ => self.resolve_here(self.patience.resolve, agent, &host, port).await,
        }
    }

    async fn resolve_here(
        &self,
        patience: Duration,
        agent: &AgentName,
        host: &Host,
        port: u16,
    ) -> Result<Checked, DialError> {
        let found = match host.ip() {
            Some(address) => vec![address],
            // RFC 6761 §6.3: it is this machine, and no resolver needs to be asked.
            None if host.as_str() == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            None => {
                let answer = self.names.lookup_within(patience, agent, host).await?;
                return Ok(Checked {
                    known: self.admit(&answer.addresses, port)?,
                    late: answer.rest.map(|rest| {
                        Arc::new(Late {
                            rest,
                            port,
                            checked: OnceLock::new(),
                        })
                    }),
                    through: None,
                    _hold: Some(answer.hold),
                });
            }
        };
        Ok(Checked::of(self.admit(&found, port)?))
    }

    /// What this machine can resolve is guarded: behind the proxy the same names may lead to the same machines. The rest
    /// is for the proxy to look up and to guard.
    async fn resolve_behind(
        &self,
        agent: &AgentName,
        proxy: &CorporateProxy,
        host: Host,
        port: u16,
    ) -> Result<Checked, DialError> {
        let must_be_known = is_local_name(&host);
        let patience = match must_be_known {
            true => self.patience.resolve,
            false => LOCALLY.min(self.patience.resolve),
        };
        let is_unanswered = !must_be_known && self.names.waits_since(&host).is_some_and(|since| since >= patience);
        let here = match is_unanswered {
            true => Err(DialError::Timeout(Stage::Resolve(patience))),
            false => self.resolve_here(patience, agent, &host, port).await,
        };
        match here {
            // The proxy's own loopback is not what the agent means.
            Ok(checked) if checked.known.iter().all(|address| address.ip().is_loopback()) => return Ok(checked),
            Ok(_) => {}
            // A failure of this machine says nothing about the name.
            Err(DialError::Dns { why }) if matches!(why, NameFault::System(_)) => return Err(DialError::Dns { why }),
            Err(DialError::Dns { .. } | DialError::Timeout(_)) if !must_be_known => {}
            // Also if the agent's look-ups are used up: it must not be able to have a name go unguarded.
            Err(refused) => return Err(refused),
        }
        let (known, hold) = self.addresses_of(agent, proxy).await?;
        Ok(Checked {
            known,
            late: None,
            through: Some(Target { host, port }),
            _hold: hold,
        })
    }

    /// The operator has named it, so the guard does not apply, but the loop check does.
    async fn addresses_of(
        &self,
        agent: &AgentName,
        proxy: &CorporateProxy,
    ) -> Result<(Vec<SocketAddr>, Option<Arc<Known>>), DialError> {
        let (found, hold) = match proxy.host().ip() {
            Some(address) => (vec![address], None),
            None => match self.names.lookup(agent, proxy.host()).await {
                Ok(answer) => (answer.addresses, Some(answer.hold)),
                Err(Unresolved::Fault(why)) => return Err(proxy.unknown(why).into()),
                Err(other) => return Err(other.into()),
            },
        };
        let of = |address: IpAddr| SocketAddr::new(address.to_canonical(), proxy.port());
        let known: Vec<SocketAddr> = found.into_iter().map(of).collect();
        match known.iter().find(|address| self.is_own(**address)) {
            Some(address) => Err(DialError::Loop { address: *address }),
            None => Ok((known, hold)),
        }
    }

    /// Connects to one of the checked addresses (RFC 8305): families alternate, each attempt gets a moment before the
    /// next one starts in parallel, and the first to connect wins. What arrives late of the name's addresses is checked
    /// and then tried as well; if the name turns out to be one that is not allowed, there is no connection.
    pub async fn connect(&self, agent: &AgentName, checked: &Checked) -> Result<Dialled, DialError> {
        let patience = self.patience.connect;
        let end = Instant::now() + patience;
        let share = match timeout_at(end, self.room.sites.wait(agent)).await {
            Ok(share) => share?,
            Err(_) => return Err(self.room.sites.why_full(agent).into()),
        };
        let late = checked.late.as_deref();
        if let Some(all) = late.and_then(|late| late.rest.now()) {
            self.complete(checked, &all)?;
        }
        let known = checked.addresses();
        let later = async {
            match late {
                Some(late) if late.checked.get().is_none() => {
                    let all = late.rest.clone().all().await;
                    let all = self.complete(checked, &all)?;
                    Ok(all.iter().filter(|address| !known.contains(address)).copied().collect())
                }
                _ => Ok(Vec::new()),
            }
        };
        let pace = Pace::of(known.len(), patience);
        let attempts = race(alternate(known), later, pace, share, &self.room.sites);
        let won = timeout_at(end, attempts)
            .await
            .unwrap_or(Err(DialError::Timeout(Stage::Connect(patience))));
        let (Some(target), Some(proxy)) = (&checked.through, &self.proxy) else {
            let won = won?;
            return Ok(Dialled {
                stream: Stream::Tcp(won.stream),
                address: won.address,
                share: won.share,
            });
        };
        let won = won.map_err(|error| error.at_proxy(proxy))?;
        let tunnel = proxy.tunnel(won.stream, &target.host, target.port);
        let stream = timeout_at(end, tunnel)
            .await
            .unwrap_or_else(|_| Err(proxy.too_slow(patience)))?;
        Ok(Dialled {
            stream,
            address: won.address,
            share: won.share,
        })
    }

    /// Sockets to sites.
    pub(crate) fn sites(&self) -> &Shares {
        &self.room.sites
    }

    /// The second family has answered: `all` are the addresses of both.
    fn complete<'a>(&self, checked: &'a Checked, all: &[IpAddr]) -> Result<&'a [SocketAddr], DialError> {
        let Some(late) = &checked.late else {
            return Ok(&checked.known);
        };
        let outcome = late.checked.get_or_init(|| self.admit(all, late.port));
        match outcome {
            Ok(all) => Ok(all),
            Err(refusal) => Err((*refusal).into()),
        }
    }

    /// All of them, or those of `allow_private`, or none.
    fn admit(&self, found: &[IpAddr], port: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let mut addresses: Vec<SocketAddr> = Vec::with_capacity(found.len());
        let mut refused = None;
        for address in found {
            match self.check(*address, port) {
                Ok(address) if !addresses.contains(&address) => addresses.push(address),
                Ok(_) => {}
                Err(refusal @ Refusal::Guard(..)) => refused = Some(refusal),
                Err(refusal @ Refusal::Loop(_)) => return Err(refusal),
            }
        }
        if let Some(refusal) = refused {
            // The operator has allowed one of its addresses, so the name is known to be private: `localhost`, for
            // instance, is also ::1 on most machines. Only the allowed addresses are dialled.
            addresses.retain(|address| self.is_exception(address.ip()));
            if addresses.is_empty() {
                return Err(refusal);
            }
        }
        Ok(addresses)
    }

    fn is_exception(&self, address: IpAddr) -> bool {
        self.exceptions.iter().any(|net| net.contains(&address))
    }

    fn check(&self, address: IpAddr, port: u16) -> Result<SocketAddr, Refusal> {
        // ::ffff:a.b.c.d is dialled as the IPv4 address it stands for.
        let address = address.to_canonical();
        let target = SocketAddr::new(address, port);
        let comes_back = |address| self.is_own(SocketAddr::new(address, port));
        if comes_back(address) || embedded(address).into_iter().any(|inner| comes_back(inner.into())) {
            return Err(Refusal::Loop(target));
        }
        if self.is_exception(address) {
            return Ok(target);
        }
        match classify(address) {
            AddressClass::Global => Ok(target),
            class => Err(Refusal::Guard(class, address)),
        }
    }
}

/// Names that only this machine, or its own network, can mean.
fn is_local_name(host: &Host) -> bool {
    let name = host.as_str();
    host.ip().is_some() || !name.contains('.') || name.ends_with(".localhost") || name.ends_with(".local")
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

#[cfg(test)]
mod tests;

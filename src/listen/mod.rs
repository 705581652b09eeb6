//! Incoming connections: authentication, and what is inside a tunnel.

mod connection;
pub(crate) mod logins;
pub(crate) mod proxy;
pub(crate) mod quote;
pub(crate) mod seat;
mod splice;
mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::operator::Intercept;
use crate::payment::context::Context;
use bursar_core::clock::SharedClock;
use bursar_core::host::Authority;
use bursar_net::shares::Shares;
use bursar_net::timeouts::Timeouts;
use bursar_net::tls::leaf::ServerConfigs;
use bursar_net::upstream::Upstreams;
pub(crate) use connection::http1;
use logins::Logins;
use seat::Lobby;

/// The side that agents see, built once at start.
pub(crate) struct Proxy {
    pub context: Arc<Context>,
    pub clock: SharedClock,
    pub logins: Logins,
    pub server_tls: ServerConfigs,
    pub upstreams: Arc<Upstreams>,
    pub intercept: Intercept,
    pub timeouts: Timeouts,
    pub room: Room,
    /// Our own listeners: a request to one of them is a loop.
    pub listeners: Vec<SocketAddr>,
}

/// How much agents, and those who have yet to say who they are, may use at once.
pub(crate) struct Room {
    pub lobby: Arc<Lobby>,
    pub connections: Shares,
    pub requests: Shares,
}

impl Proxy {
    /// Whether an authority is one of our own listeners, by its text: names are checked when they are resolved.
    fn is_own(&self, authority: &Authority) -> bool {
        let host = &authority.host;
        self.listeners.iter().any(|own| {
            own.port() == authority.port
                && (host.as_str() == "localhost"
                    || host.ip().is_some_and(|ip| ip == own.ip() || own.ip().is_unspecified()))
        })
    }
}

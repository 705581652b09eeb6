//! Connections to sites: dialled to a checked address, verified, the tunnel's own as long as it lives, and then kept for
//! the same agent's next tunnel. One rule governs sending twice (R1, R92): a request with a credential goes out again
//! only if it was not sent, or if HTTP/2 proves that the site has processed nothing of it.
//!
//! Two connections are interchangeable if agent, origin, checked address and ALPN offer are equal (R36). TLS sessions
//! are resumed by the same agent only; there is one set of trusted roots per process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::body::BoxError;
use crate::dial::{Checked, DialError, Dialer};
use crate::h1;
use crate::shares::By;
use crate::timeouts::Timeouts;
use crate::tls::upstream::{HandshakeError, UpstreamTls};
use crate::tls::{Alpn, AlpnOffer};
use bursar_core::agent_name::AgentName;
use bursar_core::host::Authority;

use connection::Connection;
use h2::Line;
pub use h2::Received;
pub use lane::{Lane, SendError, ends_connection, stream};
use pool::{Kept, Pool};
pub use socket::Socket;

mod bound;
mod connection;
mod h2;
mod lane;
mod own;
mod pool;
mod socket;
#[cfg(test)]
mod tests;
mod timer;

/// Limits for response heads, the same as for the agent's request heads (R33).
pub const HEAD_BYTES: usize = 64 << 10;
pub const HEAD_FIELDS: usize = 256;
/// An agent's TLS sessions are forgotten when it has made no new connection for this long.
const SESSIONS_AGE: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Where a request goes: scheme, host, port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub scheme: Scheme,
    pub authority: Authority,
}

impl Origin {
    /// The value for `Host` and `:authority`, without the scheme's default port: some sites do not expect it there.
    pub fn host_field(&self) -> String {
        let own = match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        let text = self.authority.to_string();
        match text.rsplit_once(':') {
            Some((host, _)) if self.authority.port == own => host.to_owned(),
            _ => text,
        }
    }
}

/// The version of HTTP that is spoken on both sides of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    H1,
    H2,
}

#[derive(Debug, Error)]
pub enum UpstreamError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    #[error("the connection could not be set up: {0}")]
    Setup(BoxError),
    #[error("{}", in_words(.0, "the exchange failed"))]
    H1(h1::client::Fault),
    #[error("{}", in_words(.0.as_ref(), "the connection failed during the exchange"))]
    Broken(BoxError),
    #[error("the site no longer speaks the version of HTTP that this tunnel began with; open a new tunnel")]
    Version,
    #[error("the response has more than {HEAD_FIELDS} header fields")]
    Fields,
    #[error("the response timed out")]
    Timeout,
}

/// A site that wants no connection to go on may say so in TLS, after the handshake.
fn in_words(error: &(dyn std::error::Error + 'static), otherwise: &str) -> String {
    match HandshakeError::behind(error) {
        Some(tls) => tls.to_string(),
        None => format!("{otherwise}: {error}"),
    }
}

impl UpstreamError {
    /// What somebody can do about it, if it is known.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Tls(error) => error.remedy(),
            Self::H1(error) => HandshakeError::behind(error)?.remedy(),
            Self::Broken(error) => HandshakeError::behind(error.as_ref())?.remedy(),
            _ => None,
        }
    }
}

pub struct Upstreams {
    dialer: Dialer,
    /// The trusted roots. No connection of an agent uses its sessions.
    tls: Arc<UpstreamTls>,
    timeouts: Timeouts,
    pooled: Mutex<Pool<Kept>>,
    /// Each agent's own TLS sessions, and when they were last used.
    sessions: Mutex<HashMap<AgentName, (Arc<UpstreamTls>, Instant)>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    agent: AgentName,
    origin: Origin,
    offer: AlpnOffer,
}

impl Upstreams {
    pub fn new(dialer: Dialer, tls: Arc<UpstreamTls>, timeouts: Timeouts) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            tls,
            timeouts,
            pooled: Mutex::default(),
            sessions: Mutex::default(),
        })
    }

    /// Resolves and checks the origin's addresses, and makes sure that there is a connection, so that its ALPN result
    /// can be mirrored to the agent.
    pub async fn lane(
        self: &Arc<Self>,
        agent: AgentName,
        origin: Origin,
        offer: AlpnOffer,
    ) -> Result<(Lane, Version), UpstreamError> {
        let checked = self.resolve(&agent, &origin.authority).await?;
        let key = Key { agent, origin, offer };
        let connection = match self.pick(&key, &checked).await {
            Some(kept) => kept,
            None => self.dial(&key, &checked).await?,
        };
        Ok(Lane::new(self.clone(), key, checked, connection))
    }

    async fn resolve(&self, agent: &AgentName, authority: &Authority) -> Result<Checked, DialError> {
        let (host, port) = (authority.host.as_str(), authority.port);
        self.dialer.resolve(agent, host, port).await
    }

    fn keep(&self, key: &Key, connection: Kept) {
        if !connection.is_closed() {
            self.pool().keep(key.clone(), connection);
        }
    }

    /// One that is kept and seems usable.
    async fn pick(&self, key: &Key, checked: &Checked) -> Option<Kept> {
        loop {
            let kept = self.pool().take(key, |kept| {
                !kept.is_closed() && checked.addresses().contains(&kept.address())
            })?;
            let mut kept = kept.of_others();
            let is_ready = match &mut kept {
                Kept::H1(connection) => connection.ready().await,
                Kept::H2(_) => true,
            };
            if is_ready {
                return Some(kept);
            }
        }
    }

    fn tls_of(&self, agent: &AgentName) -> Arc<UpstreamTls> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let (tls, used) = sessions
            .entry(agent.clone())
            .or_insert_with(|| (Arc::new(self.tls.apart()), Instant::now()));
        *used = Instant::now();
        tls.clone()
    }

    /// Closes connections that have been idle too long, and forgets old TLS sessions. Called on a timer.
    pub fn sweep(&self) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, (_, used)| used.elapsed() <= SESSIONS_AGE);
        drop(sessions);
        self.pool().sweep(Kept::is_closed);
    }

    // After a panic of another holder at worst the count is off, which the next sweep corrects.
    fn pool(&self) -> MutexGuard<'_, Pool<Kept>> {
        self.pooled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the kept connection that has been idle longest, for a new one that has no room: of this agent if that
    /// uses its part, else of any agent.
    fn make_room(&self, agent: &AgentName) {
        let Some(by) = self.dialer.sites().used_up(agent) else {
            return;
        };
        self.pool().close_oldest((by == By::Agent).then_some(agent));
    }

    /// A bare connection for bytes that are passed on unread: looked up, checked, dialled and counted like all others, and
    /// never kept.
    pub async fn socket(&self, agent: &AgentName, authority: &Authority) -> Result<Socket, UpstreamError> {
        let checked = self.resolve(agent, authority).await?;
        let (socket, _) = self.dial_socket(agent, &checked).await?;
        Ok(socket)
    }

    async fn dial_socket(&self, agent: &AgentName, checked: &Checked) -> Result<(Socket, SocketAddr), UpstreamError> {
        /// How soon a kept connection is closed for one that waits.
        const AGAIN: Duration = Duration::from_millis(100);
        self.make_room(agent);
        let mut dialling = std::pin::pin!(self.dialer.connect(agent, checked));
        let dialled = loop {
            match timeout(AGAIN, &mut dialling).await {
                Ok(dialled) => break dialled?,
                Err(_) if self.dialer.sites().is_awaited() => self.make_room(agent),
                Err(_) => {}
            }
        };
        Ok((Socket::new(dialled.stream, dialled.share), dialled.address))
    }

    async fn dial(&self, key: &Key, checked: &Checked) -> Result<Kept, UpstreamError> {
        let (stream, address) = self.dial_socket(&key.agent, checked).await?;
        let reset = stream.reset();
        match (key.origin.scheme, key.offer) {
            // Without TLS nothing is negotiated: who offers HTTP/2 alone knows that the site speaks it (RFC 9113 §3.3).
            (Scheme::Http, AlpnOffer::Http2) => Ok(Kept::H2(line(stream, address).await?)),
            (Scheme::Http, _) => Ok(Kept::H1(Connection::new(stream, address, reset))),
            (Scheme::Https, offer) => {
                let host = &key.origin.authority.host;
                match self.tls_of(&key.agent).connect(stream, host, offer).await? {
                    (stream, Alpn::Http2) => Ok(Kept::H2(line(stream, address).await?)),
                    (stream, Alpn::Http1 | Alpn::Absent) => Ok(Kept::H1(Connection::new(stream, address, reset))),
                }
            }
        }
    }
}

async fn line<S>(stream: S, address: SocketAddr) -> Result<Line, UpstreamError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let setting_up = Line::set_up(stream, address).await;
    setting_up.map_err(|error| UpstreamError::Setup(error.into()))
}

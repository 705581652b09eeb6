//! Connections to sites: dialled to a checked address, verified, and reused by the same agent. One rule governs sending
//! twice (R1): a request with a credential goes out again only if hyper hands it back as unsent.
//!
//! Two connections are interchangeable if agent, origin, checked address and ALPN offer are equal (R36). TLS sessions
//! are resumed by the same agent only; there is one set of trusted roots per process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::body::{AnswerBody, Framing, Progress, Relay, RequestBody, SiteBody};
use crate::dial::{Checked, DialError, Dialer};
use crate::h1;
use crate::shares::By;
use crate::timeouts::Timeouts;
use crate::tls::upstream::{HandshakeError, UpstreamTls};
use crate::tls::{Alpn, AlpnOffer};
use bursar_core::agent_name::AgentName;
use bursar_core::host::Authority;

use connection::{Carrier, Sender};
pub use connection::{Connection, SendError};
use pool::Pool;
use socket::Socket;

mod connection;
mod pool;
mod socket;
#[cfg(test)]
mod tests;

/// Limits for response heads, the same as for the agent's request heads (R33).
pub const HEAD_BYTES: usize = 64 << 10;
pub const HEAD_FIELDS: usize = 256;
/// After this time a name is looked up again for a new connection (threat 2.2: never within one exchange).
const NAME_AGE: Duration = Duration::from_secs(30);
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
    Setup(hyper::Error),
    #[error("the exchange failed: {0}")]
    H1(h1::client::Fault),
    #[error("the connection failed during the exchange: {0}")]
    Broken(hyper::Error),
    #[error("the response has more than {HEAD_FIELDS} header fields")]
    Fields,
    #[error("the response timed out")]
    Timeout,
}

pub struct Upstreams {
    dialer: Dialer,
    /// The trusted roots. No connection of an agent uses its sessions.
    tls: Arc<UpstreamTls>,
    timeouts: Timeouts,
    pooled: Mutex<Pool<Connection>>,
    /// Each agent's own TLS sessions, and when they were last used.
    sessions: Mutex<HashMap<AgentName, (Arc<UpstreamTls>, Instant)>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    agent: AgentName,
    origin: Origin,
    offer: AlpnOffer,
}

/// One agent's access to one origin. A tunnel has one lane for its whole life.
pub struct Lane {
    upstreams: Arc<Upstreams>,
    key: Key,
    names: Mutex<(Checked, Instant)>,
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
        let lane = Lane {
            upstreams: self.clone(),
            key: Key { agent, origin, offer },
            names: Mutex::new((checked, Instant::now())),
        };
        let connection = lane.connection().await?;
        let version = connection.version();
        // A reused h2 connection never left the pool.
        let is_pooled = connection.reused && version == Version::H2;
        if !is_pooled {
            self.keep(lane.key.clone(), connection);
        }
        Ok((lane, version))
    }

    async fn resolve(&self, agent: &AgentName, authority: &Authority) -> Result<Checked, DialError> {
        let (host, port) = (authority.host.as_str(), authority.port);
        self.dialer.resolve(agent, host, port).await
    }

    fn keep(&self, key: Key, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        self.pool().keep(key, connection);
    }

    fn pick(&self, key: &Key, checked: &Checked) -> Option<Connection> {
        let mut pool = self.pool();
        let newest = pool.newest(key, |connection| {
            !connection.is_closed() && checked.addresses().contains(&connection.address)
        })?;
        if let Sender::H2(sender) = &newest.sender {
            let shared = Connection {
                sender: Sender::H2(sender.clone()),
                address: newest.address,
                reused: true,
            };
            pool.touch(key);
            return Some(shared);
        }
        pool.take(key).map(|connection| Connection {
            reused: true,
            ..connection
        })
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
        self.pool().sweep(Connection::is_closed);
    }

    // After a panic of another holder at worst the count is off, which the next sweep corrects.
    fn pool(&self) -> MutexGuard<'_, Pool<Connection>> {
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

    async fn dial(&self, key: &Key, checked: &Checked) -> Result<Connection, UpstreamError> {
        /// How soon a kept connection is closed for one that waits.
        const AGAIN: Duration = Duration::from_millis(100);
        self.make_room(&key.agent);
        let mut dialling = std::pin::pin!(self.dialer.connect(&key.agent, checked));
        let dialled = loop {
            match timeout(AGAIN, &mut dialling).await {
                Ok(dialled) => break dialled?,
                Err(_) if self.dialer.sites().is_awaited() => self.make_room(&key.agent),
                Err(_) => {}
            }
        };
        let (stream, address) = (Socket::new(dialled.stream, dialled.share), dialled.address);
        match key.origin.scheme {
            // Without TLS nothing is negotiated: the agent knows what the site speaks (RFC 9113 §3.3).
            Scheme::Http if key.offer == AlpnOffer::Http2 => self.set_up_h2(stream, address).await,
            Scheme::Http => Ok(Connection::h1(stream, address)),
            Scheme::Https => self.dial_tls(key, stream, address).await,
        }
    }

    async fn dial_tls(&self, key: &Key, stream: Socket, address: SocketAddr) -> Result<Connection, UpstreamError> {
        let host = &key.origin.authority.host;
        match self.tls_of(&key.agent).connect(stream, host, key.offer).await? {
            (stream, Alpn::Http2) => self.set_up_h2(stream, address).await,
            (stream, Alpn::Http1 | Alpn::Absent) => Ok(Connection::h1(stream, address)),
        }
    }

    async fn set_up_h2<S>(&self, stream: S, address: SocketAddr) -> Result<Connection, UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(UpstreamError::Setup)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Connection {
            sender: Sender::H2(sender),
            address,
            reused: false,
        })
    }
}

impl Lane {
    pub fn origin(&self) -> &Origin {
        &self.key.origin
    }

    pub fn agent(&self) -> &AgentName {
        &self.key.agent
    }

    /// A connection that is ready, reused or new.
    pub async fn connection(&self) -> Result<Connection, UpstreamError> {
        let checked = self.names().await?;
        self.to(&checked).await
    }

    async fn to(&self, checked: &Checked) -> Result<Connection, UpstreamError> {
        while let Some(mut pooled) = self.upstreams.pick(&self.key, checked) {
            if pooled.ready().await {
                return Ok(pooled);
            }
        }
        self.upstreams.dial(&self.key, checked).await
    }

    /// The last checked addresses, however old: within one exchange no name is looked up twice (threat 2.2).
    fn pinned(&self) -> Checked {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    async fn names(&self) -> Result<Checked, DialError> {
        let (checked, since) = {
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            (names.0.clone(), names.1)
        };
        if since.elapsed() < NAME_AGE {
            return Ok(checked);
        }
        let Key { agent, origin, .. } = &self.key;
        let checked = self.upstreams.resolve(agent, &origin.authority).await?;
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = (checked.clone(), Instant::now());
        Ok(checked)
    }

    /// A new connection to the addresses that were checked for this exchange, never a reused one.
    async fn fresh(&self) -> Result<Connection, UpstreamError> {
        self.upstreams.dial(&self.key, &self.pinned()).await
    }

    /// Sends a request that carries no credential. If hyper hands it back unsent, it goes out again on a new
    /// connection; so does a safe request without a body whose reused connection was lost (RFC 9110 §9.2.2).
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Relay>, UpstreamError> {
        let mut connection = self.connection().await?;
        let copy = (connection.reused && repeatable(&request)).then(|| head_of(&request));
        match self.send_on(&mut connection, request, progress).await {
            Ok(response) => Ok(self.relay(connection, response, progress)),
            Err(SendError::Unsent(request, _)) => {
                let mut connection = self.fresh().await?;
                let sent = self.send_on(&mut connection, *request, progress).await;
                sent.map(|response| self.relay(connection, response, progress))
                    .map_err(SendError::into_error)
            }
            Err(SendError::Sent(error)) => match copy {
                Some(copy) if connection.was_lost(&error) => {
                    let mut connection = self.fresh().await?;
                    let sent = self.send_on(&mut connection, copy, progress).await;
                    sent.map(|response| self.relay(connection, response, progress))
                        .map_err(SendError::into_error)
                }
                _ => Err(error),
            },
        }
    }

    /// Sends a request that carries a credential: once, and to the addresses that were checked for the 402. Only if
    /// hyper hands it back unsent is it tried once more, on a new connection (R1).
    pub async fn send_paid(
        &self,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Relay>, SendError> {
        let mut connection = match self.to(&self.pinned()).await {
            Ok(connection) => connection,
            Err(error) => return Err(SendError::Unsent(Box::new(request), error)),
        };
        match self.send_on(&mut connection, request, progress).await {
            Ok(response) => Ok(self.relay(connection, response, progress)),
            Err(SendError::Unsent(request, _)) => {
                let mut connection = match self.fresh().await {
                    Ok(connection) => connection,
                    Err(error) => return Err(SendError::Unsent(request, error)),
                };
                let response = self.send_on(&mut connection, *request, progress).await?;
                Ok(self.relay(connection, response, progress))
            }
            Err(sent) => Err(sent),
        }
    }

    async fn send_on(
        &self,
        connection: &mut Connection,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<SiteBody>, SendError> {
        let sending = connection.send(request);
        tokio::pin!(sending);
        let patience = self.upstreams.timeouts.response_head;
        let mut parts = progress.parts();
        loop {
            if let Ok(sent) = timeout(patience, &mut sending).await {
                let response = sent?;
                // On HTTP/1 they have been counted already (R33).
                return match response.headers().len() {
                    0..=HEAD_FIELDS => Ok(response),
                    _ => Err(SendError::Sent(UpstreamError::Fields)),
                };
            }
            // A long upload is not silence: the timeout restarts as long as parts of it are sent.
            let now = progress.parts();
            if now == parts {
                return Err(SendError::Sent(UpstreamError::Timeout));
            }
            parts = now;
        }
    }

    fn relay(&self, connection: Connection, response: Response<SiteBody>, progress: &Progress) -> Response<Relay> {
        let idle = self.upstreams.timeouts.idle;
        let at_end: Option<Box<dyn FnOnce() + Send>> = match &connection.sender {
            // A reused h2 connection never left the pool; a new one is added at once, for concurrent streams.
            Sender::H2(_) => {
                if !connection.reused {
                    self.upstreams.keep(self.key.clone(), connection);
                }
                None
            }
            Sender::H1(_) if response.status() == StatusCode::SWITCHING_PROTOCOLS => None,
            Sender::H1(_) => {
                let (upstreams, key) = (self.upstreams.clone(), self.key.clone());
                let carrier = Carrier {
                    connection: Some(connection),
                    progress: progress.clone(),
                    wanted: response.status().is_success(),
                };
                Some(Box::new(move || {
                    if let Some(connection) = carrier.free() {
                        upstreams.keep(key, connection);
                    }
                }))
            }
        };
        let framing = Framing::of(&response);
        response.map(|body| Relay::new(body, framing, idle, at_end))
    }
}

fn repeatable(request: &Request<RequestBody>) -> bool {
    use http_body::Body;
    request.method().is_safe() && request.body().is_end_stream()
}

fn head_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Turns a relayed response into the one for the agent.
pub fn stream(response: Response<Relay>) -> Response<AnswerBody> {
    response.map(AnswerBody::from)
}

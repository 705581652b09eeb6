//! After CONNECT: inside is TLS, plain HTTP, or something that is not served (R29).
//!
//! For TLS the site is dialled between the agent's hello and our reply, so that both sides speak the same version of
//! HTTP, and so that a failed dial becomes a readable answer inside the tunnel (R227).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::Proxy;
use super::connection::until_stopped;
use super::logins::Login;
use super::splice;
use crate::answer::{Code, Problem};
use crate::payment::exchange::{self, Site};
use bursar_core::agent_name::AgentName;
use bursar_core::h1::{Malformed, Scan};
use bursar_core::host::{Authority, Host};
use bursar_net::body::{AgentBody, AnswerBody};
use bursar_net::h1::server::{self, Answer, Refused, Service, Then};
use bursar_net::idle::{Busy, Rewind, Serving, Watched};
use bursar_net::reset::Reset;
use bursar_net::shares::Full;
use bursar_net::tls::{Alpn, AlpnOffer};
use bursar_net::upstream::{HEAD_BYTES, Origin, Scheme, Version};

/// First byte of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// How a connection begins on which both sides know that HTTP/2 is spoken (RFC 9113 §3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
/// Streams that one h2 connection of an agent may have open (threat 2.10).
const STREAMS: u32 = 100;
/// What one stream, and one h2 connection of an agent, may have sent before it is read. An agent may have hundreds of
/// connections to sites that do not read.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// `admitted` says whether the agent may have this tunnel; if not, each request in it is answered with the reason.
pub(super) async fn run<S>(
    proxy: Arc<Proxy>,
    login: Login,
    authority: Authority,
    admitted: Result<(), Full>,
    mut stream: Rewind<S>,
    reset: Reset,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let first = tokio::select! {
        // Connection pools open tunnels before they need them.
        first = timeout(proxy.timeouts.idle, stream.first_bytes()) => first,
        () = proxy.context.stop.cancelled() => return,
    };
    let Ok(Ok(first)) = first else { return };
    match first.first() {
        None => {}
        Some(&TLS_HANDSHAKE) if !proxy.intercept.reads(&authority.host) => {
            Box::pin(splice::run(proxy, login, authority, admitted, stream, reset)).await;
        }
        // What leads to serving needs more room than serving, and a tunnel serves for nearly all of its life: each phase
        // has its memory to itself, and gives it back.
        Some(&TLS_HANDSHAKE) => {
            let opened = Box::pin(tls(&proxy, &login, authority, admitted, stream)).await;
            if let Some((site, version, stream)) = opened {
                serve(proxy, login, site, stream, version, reset).await;
            }
        }
        Some(_) if may_be_http(first) => {
            let opened = Box::pin(plain(&proxy, &login, authority, admitted, stream)).await;
            if let Some((site, version, stream)) = opened {
                serve(proxy, login, site, stream, version, reset).await;
            }
        }
        Some(_) => tracing::debug!(agent = %login.agent, %authority, "closed a tunnel that is neither TLS nor HTTP"),
    }
}

/// Whether a request line may begin like this: all methods in use are capitals and hyphens, and short. An SSH client
/// says `SSH-2.0-...` and is not one.
fn may_be_http(first: &[u8]) -> bool {
    const LONGEST: usize = 24;
    let method = first.split(|byte| *byte == b' ').next().unwrap_or_default();
    method.len() <= LONGEST
        && !method.is_empty()
        && method.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-')
}

/// `http://` inside a tunnel, as Node's clients send it (R232).
async fn plain<S>(
    proxy: &Arc<Proxy>,
    login: &Login,
    authority: Authority,
    admitted: Result<(), Full>,
    mut stream: Rewind<S>,
) -> Option<(Site, Version, Rewind<S>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let origin = Origin {
        scheme: Scheme::Http,
        authority,
    };
    // HTTP/2 that both sides know of (RFC 9113 §3.3).
    let offer = match stream.read_ahead().starts_with(H2_PREFACE) {
        true => AlpnOffer::Http2,
        false => AlpnOffer::Nothing,
    };
    let (site, version) = tokio::select! {
        opened = open(proxy, &login.agent, origin, admitted, offer) => opened,
        () = left(&mut stream) => return None,
    };
    Some((site, version, stream))
}

/// Resolves when the agent has left. One that has ended its side behind a whole request may wait for the answer, but a
/// queue must not be held up by those who do not.
async fn left<S>(stream: &mut Rewind<S>)
where
    S: AsyncRead + Unpin,
{
    const PATIENCE: Duration = Duration::from_secs(2);
    let ended = stream.hung_up().await;
    if ended.is_ok() && Scan::default().end(stream.read_ahead()).is_some() {
        tokio::time::sleep(PATIENCE).await;
    }
}

/// The handshakes with both sides.
async fn tls<S>(
    proxy: &Arc<Proxy>,
    login: &Login,
    authority: Authority,
    admitted: Result<(), Full>,
    stream: Rewind<S>,
) -> Option<(Site, Version, Box<TlsStream<Rewind<S>>>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Reads until the hello is complete: a post-quantum one spans segments.
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let hello = tokio::select! {
        hello = timeout(proxy.timeouts.hello, hello) => hello,
        () = proxy.context.stop.cancelled() => return None,
    };
    let Ok(Ok(mut hello)) = hello else {
        tracing::debug!(agent = %login.agent, %authority, "no TLS hello in the tunnel");
        return None;
    };
    let (sni, offer) = {
        let client = hello.client_hello();
        let offer = AlpnOffer::of_client(client.alpn().into_iter().flatten());
        (client.server_name().map(str::to_owned), offer)
    };
    let origin = Origin {
        scheme: Scheme::Https,
        authority,
    };
    let (site, version) = match sni.as_deref().map(Host::parse) {
        Some(sni) if sni.as_ref() != Ok(&origin.authority.host) => (Site::Misdirected(origin), preferred(offer)),
        _ => tokio::select! {
            opened = open(proxy, &login.agent, origin, admitted, offer) => opened,
            // Nothing is looked up or dialled for an agent that has left.
            _ = hello.io.hung_up() => return None,
        },
    };
    let alpn = match version {
        Version::H2 => Alpn::Http2,
        Version::H1 if offer == AlpnOffer::Nothing => Alpn::Absent,
        Version::H1 => Alpn::Http1,
    };
    let config = match &sni {
        Some(_) => Ok(proxy.server_tls.by_sni(alpn)),
        None => proxy.server_tls.for_host(&site.origin().authority.host, alpn),
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, authority = %site.origin().authority, "no certificate could be made");
            return None;
        }
    };
    match timeout(proxy.timeouts.tls, hello.into_stream(config)).await {
        Ok(Ok(stream)) => return Some((site, version, Box::new(stream))),
        Ok(Err(error)) => tracing::info!(
            agent = %login.agent, authority = %site.origin().authority, %error,
            "the agent did not accept the tunnel's certificate; it must trust ca.pem (`bursar env` prints how)"
        ),
        Err(_) => {}
    }
    None
}

async fn open(
    proxy: &Arc<Proxy>,
    agent: &AgentName,
    origin: Origin,
    admitted: Result<(), Full>,
    offer: AlpnOffer,
) -> (Site, Version) {
    if let Err(full) = admitted {
        tracing::debug!(%agent, authority = %origin.authority, %full, "tunnel refused");
        return (Site::Full(origin, full), preferred(offer));
    }
    match proxy.upstreams.lane(agent.clone(), origin.clone(), offer).await {
        Ok((lane, version)) => (Site::Open(Arc::new(lane)), version),
        Err(error) => {
            tracing::debug!(%agent, authority = %origin.authority, %error, "site not reached");
            (Site::Closed(origin, Arc::new(error)), preferred(offer))
        }
    }
}

/// The HTTP version for an agent that does not offer the site's.
fn preferred(offer: AlpnOffer) -> Version {
    match offer {
        AlpnOffer::Http2 | AlpnOffer::Http2ThenHttp1 => Version::H2,
        AlpnOffer::Nothing | AlpnOffer::Http1 | AlpnOffer::Http1ThenHttp2 => Version::H1,
    }
}

async fn serve<S>(proxy: Arc<Proxy>, login: Login, site: Site, stream: S, version: Version, reset: Reset)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match version {
        Version::H1 => serve_h1(proxy, login, site, stream, reset).await,
        Version::H2 => Box::pin(serve_h2(proxy, login, site, stream)).await,
    }
}

async fn serve_h1<S>(proxy: Arc<Proxy>, login: Login, site: Site, stream: S, reset: Reset)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let busy = Busy::default();
    let timeouts = &proxy.timeouts;
    let stream = Watched::new(stream, busy.clone(), timeouts.head, timeouts.idle);
    let tunnel = Tunnel {
        proxy: &proxy,
        login: &login,
        site: &site,
        reset: &reset,
    };
    server::serve(stream, &busy, &tunnel).await;
}

/// A tunnel in which HTTP/1.1 is spoken.
struct Tunnel<'a> {
    proxy: &'a Arc<Proxy>,
    login: &'a Login,
    site: &'a Site,
    /// The handle of the agent's socket.
    reset: &'a Reset,
}

impl Service for Tunnel<'_> {
    async fn answer(&self, request: Request<AgentBody>, serving: Serving) -> Answer {
        let (response, then) = answer(self.proxy, self.login, self.site, request, serving).await;
        Answer { response, then }
    }

    fn refuse(&self, why: Refused) -> Response<AnswerBody> {
        refused(why)
    }

    fn reset(&self) -> Reset {
        self.reset.clone()
    }

    fn is_plain(&self) -> bool {
        self.site.origin().scheme == Scheme::Http
    }

    fn is_stopping(&self) -> bool {
        self.proxy.context.stop.is_cancelled()
    }

    async fn stopped(&self) {
        self.proxy.context.stop.cancelled().await;
    }

    /// A client must not be left to send what cannot be repeated to a site that has gone.
    async fn site_closed(&self) {
        self.site.closed().await;
    }
}

/// The answer to a head that could not be read.
pub(super) fn refused(why: Refused) -> Response<AnswerBody> {
    let detail = match why {
        Refused::Malformed(why) => format!("The request was not read: {why}. Nothing was forwarded."),
        Refused::TooLong => format!(
            "The request was not read: its head is longer than {} KiB. Nothing was forwarded.",
            HEAD_BYTES >> 10
        ),
    };
    let mut answer = Problem::new(Code::BadRequest, detail).into_response();
    if matches!(why, Refused::TooLong | Refused::Malformed(Malformed::TooManyFields)) {
        *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    }
    answer
}

async fn serve_h2<S>(proxy: Arc<Proxy>, login: Login, site: Site, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let busy = Busy::default();
    // Streams run in parallel: only idleness ends an HTTP/2 connection.
    let serving = busy.begin();
    let last = CancellationToken::new();
    let timeouts = &proxy.timeouts;
    let stream = Watched::new(stream, busy, timeouts.head, timeouts.idle);
    let (context, site) = (proxy.clone(), Arc::new(site));
    let on_answer = last.clone();
    let service = service_fn(move |request| {
        let (proxy, login, site, serving) = (context.clone(), login.clone(), site.clone(), serving.clone());
        let last = on_answer.clone();
        let request = AgentBody::of_h2(request, serving.clone());
        async move {
            let (answer, then) = answer(&proxy, &login, &site, request, serving).await;
            if then != Then::GoOn {
                last.cancel();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .auto_date_header(false)
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(stream), service);
    let stopping = async {
        tokio::select! {
            () = proxy.context.stop.cancelled() => {}
            () = last.cancelled() => {}
        }
    };
    if let Err(error) = until_stopped(connection, |c| c.graceful_shutdown(), stopping).await {
        tracing::debug!(%error, "tunnel ended");
    }
}

/// After an answer that closes it another tunnel may work better, or this one may no longer be used.
async fn answer(
    proxy: &Arc<Proxy>,
    login: &Login,
    site: &Site,
    mut request: Request<AgentBody>,
    mut serving: Serving,
) -> (Response<AnswerBody>, Then) {
    let then = if site.is_open() { Then::GoOn } else { Then::Close };
    let (answer, then) = if !proxy.logins.is_still_valid(login, proxy.clock.now()) {
        let detail = "The token that opened this tunnel is no longer valid; open a new tunnel with a valid token.";
        let problem = Problem::new(Code::ProxyAuthentication, detail);
        (problem.into_response(), Then::Close)
    } else {
        match proxy.room.requests.take(&login.agent, 1) {
            Err(full) => (Problem::full(full).into_response(), then),
            Ok(share) => {
                let share = Arc::new(share);
                request.body_mut().count(share.clone());
                serving.count(share);
                (exchange::run(&proxy.context, &login.agent, site, request).await, then)
            }
        }
    };
    (answer.map(|body| body.while_serving(serving)), then)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How large the future is that a tunnel makes, which is not polled here.
    fn size<F: Future>(
        _: impl FnOnce(Arc<Proxy>, Login, Authority, Result<(), Full>, Rewind<tokio::net::TcpStream>, Reset) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_tunnel_carries_room_for_serving_alone() {
        let size = size(run);
        assert!(size < 6 << 10, "{size} bytes");
    }

    #[test]
    fn what_begins_like_a_request() {
        for yes in [
            "G",
            "GET / HTTP/1.1\r\n",
            "VERSION-CONTROL /",
            "M-SEARCH * HTTP/1.1",
            "PRI * HTTP/2.0",
        ] {
            assert!(may_be_http(yes.as_bytes()), "{yes}");
        }
        for no in [
            "",
            " GET",
            "SSH-2.0-OpenSSH_9.6\r\n",
            "get /",
            "EHLO\r\n",
            "\0\0",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(!may_be_http(no.as_bytes()), "{no}");
        }
    }
}

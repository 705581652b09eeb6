//! One connection on the listener: who is asking (407), and for what: a tunnel, an absolute-form request, or something
//! that a proxy cannot do.
//!
//! CONNECT is answered only with 200, 400, 407 or 508; every other refusal is sent inside the tunnel, because clients
//! hide the body of a refused CONNECT (R28).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{CONTENT_TYPE, HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Proxy;
use super::logins::Login;
use super::seat::Seat;
use super::tunnel;
use crate::answer::{Code, Problem};
use crate::payment::exchange::{self, Site};
use bursar_core::agent_name::AgentName;
use bursar_core::h1::{Persistence, RawTarget};
use bursar_core::host::Authority;
use bursar_net::body::{AgentBody, AnswerBody};
use bursar_net::h1::server::{self, Answer, Refused, Served, Service, Then};
use bursar_net::idle::{Busy, Rewind, Serving, Watched};
use bursar_net::reset::Reset;
use bursar_net::shares::Full;
use bursar_net::tls::AlpnOffer;
use bursar_net::upstream::{Lane, Origin, Scheme, UpstreamError};

/// Serves one connection from an agent until it ends.
pub(crate) async fn serve<S>(proxy: Arc<Proxy>, stream: S, seat: Seat, peer: SocketAddr, reset: Reset)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let busy = Busy::default();
    let timeouts = &proxy.timeouts;
    let stream = Watched::new(stream, busy.clone(), timeouts.head, timeouts.idle);
    let listener = Listener {
        proxy: &proxy,
        seat: &seat,
        peer,
        reset: &reset,
        tunnel: Mutex::default(),
        lanes: Lanes::default(),
    };
    let Served::Tunnel(stream) = server::serve(stream, &busy, &listener).await else {
        return;
    };
    let Some(Opened {
        login,
        authority,
        admitted,
    }) = listener.tunnel.into_inner().unwrap_or_else(PoisonError::into_inner)
    else {
        return tracing::error!("a tunnel was opened, and nobody knows where to");
    };
    let (read, stream) = stream.into_parts();
    match stream.into_any().downcast::<Watched<S>>() {
        Ok(stream) => {
            let stream = Rewind::new(read, stream.into_inner());
            tunnel::run(proxy, login, authority, admitted, stream, reset).await;
        }
        Err(_) => tracing::error!("the tunnel's stream is not the listener's"),
    }
}

/// A connection on the listener, until it becomes a tunnel.
struct Listener<'a> {
    proxy: &'a Arc<Proxy>,
    seat: &'a Seat,
    peer: SocketAddr,
    /// The handle of the agent's socket.
    reset: &'a Reset,
    /// Set by the CONNECT that is answered with 200.
    tunnel: Mutex<Option<Opened>>,
    lanes: Lanes,
}

struct Opened {
    login: Login,
    authority: Authority,
    /// Whether the agent may have this tunnel.
    admitted: Result<(), Full>,
}

impl Service for Listener<'_> {
    async fn answer(&self, request: Request<AgentBody>, mut serving: Serving) -> Answer {
        let (response, then) = self.answered(request, &mut serving).await;
        let response = response.map(|body| body.while_serving(serving));
        Answer { response, then }
    }

    fn refuse(&self, why: Refused) -> Response<AnswerBody> {
        tunnel::refused(why)
    }

    fn reset(&self) -> Reset {
        self.reset.clone()
    }

    fn is_plain(&self) -> bool {
        true
    }

    fn is_stopping(&self) -> bool {
        self.proxy.context.stop.is_cancelled()
    }

    async fn stopped(&self) {
        self.proxy.context.stop.cancelled().await;
    }
}

impl Listener<'_> {
    async fn answered(&self, mut request: Request<AgentBody>, serving: &mut Serving) -> (Response<AnswerBody>, Then) {
        let proxy = self.proxy;
        let connects = request.method() == Method::CONNECT;
        if !connects && request.uri().authority().is_none() {
            return (not_a_proxy_request(&request), Then::GoOn);
        }
        let login = match identify(proxy, &request, self.peer) {
            Ok(login) => login,
            Err(problem) => return (problem.into_response(), Then::GoOn),
        };
        let admitted = self.seat.admit(&proxy.room.connections, &login.agent).await;
        if connects {
            return self.connect(&request, login, admitted);
        }
        if let Err(full) = admitted {
            // The connection has no place of its own.
            return (Problem::full(full).into_response(), Then::Close);
        }
        let answer = match proxy.room.requests.take(&login.agent, 1) {
            Err(full) => Problem::full(full).into_response(),
            Ok(share) => {
                let share = Arc::new(share);
                request.body_mut().count(share.clone());
                serving.count(share);
                absolute(proxy, request, login.agent, &self.lanes).await
            }
        };
        (answer, Then::GoOn)
    }

    /// An agent that may have no more connections gets that answer inside the tunnel.
    fn connect(
        &self,
        request: &Request<AgentBody>,
        login: Login,
        admitted: Result<(), Full>,
    ) -> (Response<AnswerBody>, Then) {
        let authority = match connect_target(request.uri()) {
            Ok(authority) => authority,
            Err(problem) => return (problem.into_response(), Then::GoOn),
        };
        if self.proxy.is_own(&authority) {
            let detail = format!(
                "The destination {authority} is this proxy itself. Take it out of the proxied hosts (NO_PROXY)."
            );
            return (Problem::new(Code::Loop, detail).into_response(), Then::GoOn);
        }
        let opened = Opened {
            login,
            authority,
            admitted,
        };
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        (Response::new(AnswerBody::empty()), Then::Tunnel)
    }
}

fn connect_target(target: &Uri) -> Result<Authority, Problem> {
    let refuse = |detail: String| Problem::new(Code::BadRequest, detail);
    let authority = target.authority();
    let authority = authority.ok_or_else(|| refuse("CONNECT names no host and port.".to_owned()))?;
    Authority::parse(authority.as_str()).map_err(|error| refuse(format!("CONNECT names no host and port: {error}.")))
}

/// The token identifies the agent; the user name must be that agent's (R30).
fn identify(proxy: &Proxy, request: &Request<AgentBody>, peer: SocketAddr) -> Result<Login, Problem> {
    let credential = request.headers().get(PROXY_AUTHORIZATION);
    proxy
        .logins
        .identify(credential, peer.ip(), proxy.clock.now())
        .map_err(|refused| Problem::new(Code::ProxyAuthentication, refused.to_string()))
}

/// `GET http://host/path` on the listener, and the same with `https://` from a few older clients (R232).
async fn absolute(
    proxy: &Arc<Proxy>,
    mut request: Request<AgentBody>,
    agent: AgentName,
    lanes: &Lanes,
) -> Response<AnswerBody> {
    let origin = match absolute_origin(request.uri()) {
        Ok(origin) => origin,
        Err(problem) => return problem.into_response(),
    };
    if proxy.is_own(&origin.authority) {
        return Problem::new(
            Code::Loop,
            format!("The destination {} is this proxy itself.", origin.authority),
        )
        .into_response();
    }
    if origin.scheme == Scheme::Https && !proxy.intercept.reads(&origin.authority.host) {
        let detail = format!(
            "This proxy does not read the traffic with {}, so the URL cannot be sent to it openly. Open a tunnel with CONNECT.",
            origin.authority.host
        );
        return Problem::new(Code::BadRequest, detail).into_response();
    }
    // The authority of the URL wins over the Host field (RFC 9112 §3.2.2).
    let Some(path) = origin_form(&mut request) else {
        return Problem::new(Code::BadRequest, "The request's path is invalid.").into_response();
    };
    let host = request.uri().authority().map(|authority| authority.as_str().to_owned());
    if let Some(Ok(host)) = host.map(HeaderValue::try_from) {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = path;

    let site = match lanes.lane(proxy, &agent, &origin).await {
        Ok(lane) => Site::Open(lane),
        Err(error) => Site::Closed(origin, Arc::new(error)),
    };
    let mut answer = exchange::run(&proxy.context, &agent, &site, request).await;
    // The agent's connection is not this site's alone.
    answer.extensions_mut().remove::<Persistence>();
    answer
}

/// The target as the site gets it.
fn origin_form(request: &mut Request<AgentBody>) -> Option<Uri> {
    // `http` reads no path as `/`; OPTIONS without one asks about the site as a whole (RFC 9112 §3.2.4).
    let whole_site =
        *request.method() == Method::OPTIONS && request.extensions().get().is_some_and(RawTarget::has_no_path);
    if whole_site {
        request.extensions_mut().remove::<RawTarget>();
        return Some(Uri::from_static("*"));
    }
    let uri = request.uri();
    let target = match (uri.path(), uri.query()) {
        (path, None) => path.to_owned(),
        (path, Some(query)) => format!("{path}?{query}"),
    };
    target.parse().ok()
}

/// The lanes of the requests that came in absolute form on one connection, the last used at the end: an agent that asks a
/// site again on the same connection gets the same connection to the site, as it would without a proxy.
#[derive(Clone, Default)]
struct Lanes(Arc<Mutex<Vec<Arc<Lane>>>>);

impl Lanes {
    /// Each one may hold a connection to a site.
    const MOST: usize = 4;

    async fn lane(&self, proxy: &Proxy, agent: &AgentName, origin: &Origin) -> Result<Arc<Lane>, UpstreamError> {
        if let Some(lane) = self.take(agent, origin) {
            self.put(lane.clone());
            return Ok(lane);
        }
        let offer = match origin.scheme {
            Scheme::Http => AlpnOffer::Nothing,
            Scheme::Https => AlpnOffer::Http1,
        };
        let (lane, _) = proxy.upstreams.lane(agent.clone(), origin.clone(), offer).await?;
        let lane = Arc::new(lane);
        self.put(lane.clone());
        Ok(lane)
    }

    fn take(&self, agent: &AgentName, origin: &Origin) -> Option<Arc<Lane>> {
        let mut lanes = self.lanes();
        let at = lanes
            .iter()
            .position(|lane| lane.origin() == origin && lane.agent() == agent)?;
        Some(lanes.remove(at))
    }

    fn put(&self, lane: Arc<Lane>) {
        let mut lanes = self.lanes();
        let oldest = (lanes.len() >= Self::MOST).then(|| lanes.remove(0));
        lanes.push(lane);
        drop(lanes);
        drop(oldest);
    }

    // Nothing panics while the lock is held.
    fn lanes(&self) -> MutexGuard<'_, Vec<Arc<Lane>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn absolute_origin(uri: &Uri) -> Result<Origin, Problem> {
    let refuse = |detail: &str| Problem::new(Code::BadRequest, detail);
    let (scheme, port) = match uri.scheme_str() {
        // aiohttp opens a WebSocket in this form.
        Some("http" | "ws") => (Scheme::Http, 80),
        Some("https" | "wss") => (Scheme::Https, 443),
        _ => return Err(refuse("Only http and https URLs can be forwarded.")),
    };
    let authority = uri.authority().ok_or_else(|| refuse("The URL names no host."))?;
    let authority = Authority::parse_or_default(authority.as_str(), port)
        .map_err(|error| refuse(&format!("The URL's host cannot be used: {error}.")))?;
    Ok(Origin { scheme, authority })
}

/// A browser opened the proxy's own address: say what it is.
fn not_a_proxy_request(request: &Request<AgentBody>) -> Response<AnswerBody> {
    if request.method() == Method::GET && request.uri().path() == "/" {
        let text = "This is bursar, a proxy. Set it as HTTPS_PROXY: `bursar env --agent NAME` prints the variables.\n";
        let mut response = Response::new(AnswerBody::full(text.into()));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(
            crate::answer::PROXY_STATUS,
            HeaderValue::from_static("bursar; error=http_request_error; details=\"bad-request\""),
        );
        return response;
    }
    let detail =
        "A proxy needs CONNECT or a full URL. `bursar env --agent NAME` prints the variables that clients need.";
    Problem::new(Code::BadRequest, detail).into_response()
}

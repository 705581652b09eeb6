//! One connection on the listener: who is asking (407), and for what: a tunnel, an absolute-form request, or something
//! that a proxy cannot do.
//!
//! CONNECT is answered only with 200, 400, 407 or 508; every other refusal is sent inside the tunnel, because clients
//! hide the body of a refused CONNECT (R28).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Proxy;
use super::connection::{http1, until_stopped};
use super::logins::Login;
use super::seat::Seat;
use super::tunnel;
use crate::answer::{Code, Problem};
use crate::payment::exchange::{self, Site};
use bursar_core::agent_name::AgentName;
use bursar_core::host::Authority;
use bursar_net::body::{AgentBody, AnswerBody};
use bursar_net::idle::{Busy, Rewind, Serving, Watched};
use bursar_net::shares::Full;
use bursar_net::tls::AlpnOffer;
use bursar_net::upstream::{Lane, Origin, Scheme, UpstreamError};

/// Serves one connection from an agent until it ends.
pub(crate) async fn serve<S>(proxy: Arc<Proxy>, stream: S, seat: Seat, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let busy = Busy::default();
    let timeouts = &proxy.timeouts;
    let stream = Watched::new(stream, busy.clone(), timeouts.head, timeouts.idle);
    let (context, lanes) = (proxy.clone(), Lanes::default());
    let service = service_fn(move |request| {
        let (proxy, seat, serving, lanes) = (context.clone(), seat.clone(), busy.begin(), lanes.clone());
        async move { Ok::<_, Infallible>(answer::<S>(proxy, request, serving, seat, peer, lanes).await) }
    });
    let connection = http1().serve_connection(TokioIo::new(stream), service).with_upgrades();
    if let Err(error) = until_stopped(connection, |c| c.graceful_shutdown(), proxy.context.stop.cancelled()).await {
        tracing::debug!(%error, %peer, "connection from an agent ended");
    }
}

async fn answer<S>(
    proxy: Arc<Proxy>,
    request: Request<Incoming>,
    mut serving: Serving,
    seat: Seat,
    peer: SocketAddr,
    lanes: Lanes,
) -> Response<AnswerBody>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request = AgentBody::of(request, serving.clone());
    let answer = if request.method() != Method::CONNECT && request.uri().authority().is_none() {
        not_a_proxy_request(&request)
    } else {
        match identify(&proxy, &request, peer) {
            Err(problem) => problem.into_response(),
            Ok(login) => {
                let admitted = seat.admit(&proxy.room.connections, &login.agent).await;
                match (request.method() == Method::CONNECT, admitted) {
                    (true, admitted) => connect::<S>(proxy, request, login, admitted),
                    (false, Err(full)) => last(Problem::full(full).into_response()),
                    (false, Ok(())) => match proxy.room.requests.take(&login.agent, 1) {
                        Err(full) => Problem::full(full).into_response(),
                        Ok(share) => {
                            let share = Arc::new(share);
                            request.body_mut().count(share.clone());
                            serving.count(share);
                            absolute(&proxy, request, login.agent, &lanes).await
                        }
                    },
                }
            }
        }
    };
    answer.map(|body| body.while_serving(serving))
}

/// The connection ends after this answer: it has no place of its own.
fn last(mut answer: Response<AnswerBody>) -> Response<AnswerBody> {
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(CONNECTION, close);
    answer
}

/// The token identifies the agent; the user name must be that agent's (R30).
fn identify(proxy: &Proxy, request: &Request<AgentBody>, peer: SocketAddr) -> Result<Login, Problem> {
    let credential = request.headers().get(PROXY_AUTHORIZATION);
    proxy
        .logins
        .identify(credential, peer.ip(), proxy.clock.now())
        .map_err(|refused| Problem::new(Code::ProxyAuthentication, refused.to_string()))
}

/// An agent that may have no more connections gets that answer inside the tunnel.
fn connect<S>(
    proxy: Arc<Proxy>,
    mut request: Request<AgentBody>,
    login: Login,
    admitted: Result<(), Full>,
) -> Response<AnswerBody>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let target = request
        .uri()
        .authority()
        .map(|authority| Authority::parse(authority.as_str()));
    let authority = match target {
        Some(Ok(authority)) => authority,
        Some(Err(error)) => {
            return Problem::new(Code::BadRequest, format!("CONNECT names no host and port: {error}.")).into_response();
        }
        None => return Problem::new(Code::BadRequest, "CONNECT names no host and port.").into_response(),
    };
    if proxy.is_own(&authority) {
        let detail =
            format!("The destination {authority} is this proxy itself. Take it out of the proxied hosts (NO_PROXY).");
        return Problem::new(Code::Loop, detail).into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = proxy.context.tasks.clone();
    tasks.spawn(async move {
        match upgrade.await {
            Ok(upgraded) => match upgraded.downcast::<TokioIo<Watched<S>>>() {
                Ok(parts) => {
                    let stream = Rewind::new(parts.read_buf, parts.io.into_inner().into_inner());
                    tunnel::run(proxy, login, authority, admitted, stream).await;
                }
                Err(_) => tracing::error!("the tunnel's stream is not the listener's"),
            },
            Err(error) => tracing::debug!(%error, "the agent left before its tunnel was open"),
        }
    });
    Response::new(AnswerBody::empty())
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
    // The authority of the URL wins over the Host field (RFC 9112 §3.2.2).
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let Ok(path) = path.parse::<Uri>() else {
        return Problem::new(Code::BadRequest, "The request's path is invalid.").into_response();
    };
    let host = request.uri().authority().map(|authority| authority.as_str().to_owned());
    if let Some(Ok(host)) = host.map(HeaderValue::try_from) {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = path;
    *request.version_mut() = http::Version::HTTP_11;

    let site = match lanes.lane(proxy, &agent, &origin).await {
        Ok(lane) => Site::Open(lane),
        Err(error) => Site::Closed(origin, Arc::new(error)),
    };
    exchange::run(&proxy.context, &agent, &site, request).await
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
        Some("http") => (Scheme::Http, 80),
        Some("https") => (Scheme::Https, 443),
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

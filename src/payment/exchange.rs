//! One request, from the agent to the site and back: the only place that knows the whole story. It parses nothing and
//! counts nothing; it calls those who do, in order.
//!
//! ```text
//! guard ─► repeat? ─► forward ─► 402? ─► consider ─► keep the body ─► purchase ─► answer
//!             │ no                │ not payable: the original 402     (purchase.rs)
//!             └► stream           └ refused: 403
//! ```

use std::sync::Arc;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;

use crate::answer::{self, Code, Problem};
use crate::listen::proxy::Proxy;
use crate::payment::consider::{self, Disposition};
use crate::payment::idempotency::{Key, Unusable};
use crate::payment::purchase;
use crate::payment::repeat::{self, keyed};
use bursar_core::agent_name::AgentName;
use bursar_core::hop::{self, Upgrading};
use bursar_core::host::{Authority, Host};
use bursar_net::body::{AgentBody, AnswerBody, BufferedBody, NotReplayable, Relay, RequestBody};
use bursar_net::dial::DialError;
use bursar_net::idle::Serving;
use bursar_net::tls::upstream::HandshakeError;
use bursar_net::upstream::{HEAD_FIELDS, Lane, Origin, UpstreamError, stream};
use bursar_rails::outstanding::Asked;

/// How long an upload waits for the site's `100 Continue` before it starts anyway (RFC 9110 §10.1.1).
const CONTINUE_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// The site at the other end of a tunnel.
pub enum Site {
    Open(Arc<Lane>),
    /// It could not be reached; every request in the tunnel is told why.
    Closed(Origin, Arc<UpstreamError>),
    /// The TLS hello asked for another host than CONNECT did.
    Misdirected(Origin, Option<Host>),
}

pub async fn run(
    proxy: &Arc<Proxy>,
    agent: &AgentName,
    site: &Site,
    request: Request<AgentBody>,
) -> Response<AnswerBody> {
    let answer = match site.lane() {
        Ok(lane) => exchange(proxy, agent, lane, request).await,
        Err(problem) => Err(problem),
    };
    answer.unwrap_or_else(|problem| {
        tracing::debug!(%agent, code = problem.code(), "answered by bursar");
        problem.into_response()
    })
}

async fn exchange(
    proxy: &Arc<Proxy>,
    agent: &AgentName,
    lane: &Arc<Lane>,
    mut request: Request<AgentBody>,
) -> Result<Response<AnswerBody>, Problem> {
    guard(proxy, lane.origin(), &request)?;
    let upgrading = Upgrading::asked(request.version(), request.headers());
    let agents_end = (upgrading == Upgrading::Yes).then(|| AgentsEnd {
        upgrade: hyper::upgrade::on(&mut request),
        serving: request.body().serving(),
    });
    let (head, body) = outgoing(proxy, lane.origin(), request, upgrading)?;
    let expects = hop::expects_continue(&head.headers);
    let kept = BufferedBody::new(body, expects, proxy.replay_budget.clone());

    let key = key(agent, &head);
    let asked = match key {
        Ok(Some(key)) if proxy.keys.holder(key).is_some() => Asked::Again,
        _ => Asked::Nothing,
    };
    let repeated = match key {
        Ok(Some(key)) => keyed::before(proxy, lane, &head, &kept, key).await,
        _ => repeat::answer(proxy, lane, &head, &kept).await,
    };
    if let Some(answer) = repeated {
        return answer;
    }
    let first = first_sending(&head, &kept, expects);
    let mut response = lane.send(first, &kept.progress()).await.map_err(unreachable)?;
    let uploading = kept.answered(response.status());
    response.body_mut().hold(uploading);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return match agents_end {
            Some(agents_end) => Ok(switch(proxy, agents_end, response)),
            None => Err(Problem::new(
                Code::UpstreamBroken,
                "The site switched protocols without being asked. Nothing was paid.",
            )),
        };
    }
    hop::strip_response(response.headers_mut(), Upgrading::No);
    if response.status() != StatusCode::PAYMENT_REQUIRED {
        return Ok(stream(response));
    }

    if let Ok(Some(key)) = key
        && let Some(answer) = keyed::after_402(proxy, lane, &head, &kept, key, asked).await
    {
        return answer;
    }
    let intent = match consider::course(proxy, agent, lane.origin(), &head, &mut response, None).await {
        Disposition::PassThrough(why) => return Ok(unpaid(agent, &kept, response, why)),
        Disposition::Refuse(problem) => return Err(problem),
        Disposition::Purchase(intent) => intent,
    };
    let key = key.map_err(unusable)?;
    let replay = match kept.take().await {
        Ok(replay) => replay,
        Err(NotReplayable::TooLarge | NotReplayable::NoRoom) => {
            return Ok(unpaid(agent, &kept, response, "body-too-large-to-replay"));
        }
        Err(NotReplayable::Broken) => return Ok(unpaid(agent, &kept, response, "body-broken-off")),
    };
    // The upload may have taken long, and what was decided before it was decided for that moment.
    let again = consider::decide_again(proxy, agent, lane.origin(), &head.method, &replay.sha256, *intent);
    let intent = match again {
        Disposition::PassThrough(why) => return Ok(unpaid(agent, &kept, response, why)),
        Disposition::Refuse(problem) => return Err(problem),
        Disposition::Purchase(intent) => intent,
    };
    let claim = match key {
        None => None,
        Some(key) => match keyed::claim(proxy, lane, &head, &replay, key).await {
            Ok(claim) => Some(claim),
            Err(answer) => return answer,
        },
    };
    if let Some(problem) = repeat::forbids(proxy, lane, &head, &replay).await {
        return Err(problem);
    }
    purchase::run(proxy, lane, head, replay, *intent, claim, response).await
}

/// What an agent pays by itself (R31) is its own affair, key and all.
fn key(agent: &AgentName, head: &Parts) -> Result<Option<Key>, Unusable> {
    match hop::agent_payment(&head.headers) {
        Some(_) => Ok(None),
        None => Key::of(agent, &head.headers),
    }
}

fn unusable(why: Unusable) -> Problem {
    let detail = format!(
        "The site wants money, and the request's Idempotency-Key {}, so that a repeat could not be told from another \
         purchase. Nothing was paid. Send one key, or none.",
        why.why()
    );
    Problem::new(Code::IdempotencyKeyUnusable, detail).retryable(false)
}

/// What no request may do, whatever it costs.
fn guard(proxy: &Proxy, origin: &Origin, request: &Request<AgentBody>) -> Result<(), Problem> {
    if request.headers().len() > HEAD_FIELDS {
        // On h1 hyper has counted already (R33).
        let detail = format!("The request has more than {HEAD_FIELDS} header fields.");
        return Err(Problem::new(Code::BadRequest, detail));
    }
    if let Some(field) = hop::agent_payment(request.headers())
        && !proxy.passes_agent_payments()
    {
        let detail = format!("The request carries {field}. Send it without; bursar pays what the limits allow.");
        return Err(Problem::new(Code::AgentPayment, detail).retryable(false));
    }
    if let Some(via) = &proxy.via
        && via.has_been_here(request.headers())
    {
        let detail = "The request has passed this proxy before: another proxy on its way sends it back here.";
        return Err(Problem::new(Code::Loop, detail));
    }
    if request.method() == Method::CONNECT || !is_for(origin, request) {
        return Err(misdirected(origin));
    }
    Ok(())
}

/// Whether everything that names a host names the tunnel's (threat 2.3). HTTP/1.0 may leave the host out.
fn is_for(origin: &Origin, request: &Request<AgentBody>) -> bool {
    let same = |named: &str| {
        Authority::parse_or_default(named, origin.authority.port).is_ok_and(|named| named == origin.authority)
    };
    let uri = request.uri();
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    hosts.next().is_none()
        && uri.scheme_str().is_none_or(|scheme| scheme == origin.scheme.as_str())
        && uri.authority().is_none_or(|named| same(named.as_str()))
        && host.is_none_or(|named| named.to_str().is_ok_and(same))
}

fn misdirected(origin: &Origin) -> Problem {
    let detail = format!(
        "This tunnel leads to {}. Open another one for another host.",
        origin.authority
    );
    Problem::new(Code::HostMismatch, detail)
}

/// The head as the site gets it: end-to-end fields untouched, hop-by-hop ones gone (RFC 9110 §7.6.1).
fn outgoing(
    proxy: &Proxy,
    origin: &Origin,
    request: Request<AgentBody>,
    upgrading: Upgrading,
) -> Result<(Parts, AgentBody), Problem> {
    let (mut head, body) = request.into_parts();
    hop::strip_request(&mut head.headers, head.version, upgrading);
    if let Some(via) = &proxy.via {
        via.add(&mut head.headers, head.version);
    }
    head.uri = target(origin, &head)?;
    if head.version < Version::HTTP_2 {
        // The version is one hop's matter (RFC 9110 §2.5), and HTTP/1.1 asks for a host.
        head.version = Version::HTTP_11;
        if !head.headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::try_from(origin.host_field())
        {
            head.headers.insert(HOST, host);
        }
    }
    head.extensions.clear();
    Ok((head, body))
}

/// A site gets the origin form on h1 (RFC 9112 §3.2.1), and on h2 a full set of pseudo-fields.
fn target(origin: &Origin, head: &Parts) -> Result<Uri, Problem> {
    let mut parts = head.uri.clone().into_parts();
    if head.version < Version::HTTP_2 {
        parts.scheme = None;
        parts.authority = None;
    } else if parts.authority.is_none() {
        parts.scheme = origin.scheme.as_str().parse().ok();
        parts.authority = origin.host_field().parse().ok();
    }
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    Uri::from_parts(parts)
        .map_err(|_| Problem::new(Code::BadRequest, "The request's target is neither a path nor a URL."))
}

/// With `Expect: 100-continue` the body waits for the site, so that a 402 saves the upload.
fn first_sending(head: &Parts, kept: &BufferedBody, expects: bool) -> Request<RequestBody> {
    let mut request = Request::from_parts(head.clone(), kept.first());
    if !expects {
        return request;
    }
    let (on_continue, in_time) = (kept.clone(), kept.clone());
    hyper::ext::on_informational(&mut request, move |interim| {
        if interim.status() == StatusCode::CONTINUE {
            on_continue.invite();
        }
    });
    tokio::spawn(async move {
        tokio::time::sleep(CONTINUE_WAIT).await;
        in_time.invite();
    });
    request
}

/// A 402 that is passed on as it came, with the reason beside it.
fn unpaid(
    agent: &AgentName,
    kept: &BufferedBody,
    mut response: Response<Relay>,
    why: &'static str,
) -> Response<AnswerBody> {
    tracing::info!(%agent, why, "402 passed on unpaid");
    kept.refused();
    answer::mark_unpaid(response.headers_mut(), why);
    stream(response)
}

/// The agent's connection, should it leave HTTP.
struct AgentsEnd {
    upgrade: hyper::upgrade::OnUpgrade,
    serving: Serving,
}

/// WebSocket and the like: both ends are joined byte by byte, nothing inside is read or paid.
fn switch(proxy: &Proxy, agents_end: AgentsEnd, mut response: Response<Relay>) -> Response<AnswerBody> {
    hop::strip_response(response.headers_mut(), Upgrading::Yes);
    let sites_end = hyper::upgrade::on(&mut response);
    let stop = proxy.stop.clone();
    let drain = proxy.config.timeouts.drain;
    proxy.tasks.spawn(async move {
        let (Ok(agent), Ok(site)) = (agents_end.upgrade.await, sites_end.await) else {
            return;
        };
        // No more heads on this connection: only idleness ends it.
        let _serving = agents_end.serving;
        let (mut agent, mut site) = (TokioIo::new(agent), TokioIo::new(site));
        let joined = tokio::io::copy_bidirectional(&mut agent, &mut site);
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            _ = joined => {}
            () = stopped => {}
        }
    });
    response.map(|_| AnswerBody::empty())
}

/// Why the site gave no answer, for an exchange that was not paid.
pub fn unreachable(error: UpstreamError) -> Problem {
    describe(&error)
}

fn describe(error: &UpstreamError) -> Problem {
    let code = match error {
        UpstreamError::Dial(DialError::Guard { .. }) => Code::DestinationNotAllowed,
        UpstreamError::Dial(DialError::Loop { .. }) => Code::Loop,
        UpstreamError::Dial(DialError::Host(_) | DialError::Dns { .. }) => Code::UpstreamName,
        UpstreamError::Dial(DialError::Timeout(_))
        | UpstreamError::Tls(HandshakeError::Timeout)
        | UpstreamError::Timeout => Code::UpstreamTimeout,
        UpstreamError::Dial(DialError::Refused | DialError::Unreachable { .. }) => Code::UpstreamUnreachable,
        UpstreamError::Tls(HandshakeError::Certificate(_)) => Code::UpstreamCertificate,
        UpstreamError::Tls(_) | UpstreamError::Setup(_) | UpstreamError::Broken(_) | UpstreamError::Fields => {
            Code::UpstreamBroken
        }
    };
    Problem::new(code, format!("{error}. Nothing was paid."))
}

impl Site {
    pub fn origin(&self) -> &Origin {
        match self {
            Self::Open(lane) => lane.origin(),
            Self::Closed(origin, _) | Self::Misdirected(origin, _) => origin,
        }
    }

    /// Whether requests can go anywhere; if not, another tunnel may fare better.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    fn lane(&self) -> Result<&Arc<Lane>, Problem> {
        match self {
            Self::Open(lane) => Ok(lane),
            Self::Closed(_, error) => Err(describe(error)),
            Self::Misdirected(origin, _) => Err(misdirected(origin)),
        }
    }
}

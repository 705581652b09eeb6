//! One request, from the agent to the site and back: the only place that knows the whole story. It parses nothing and
//! counts nothing; it calls those who do, in order.
//!
//! ```text
//! guard ─► forward ─► 402? ─► consider ─► keep the body ─► purchase ─► answer
//!             │ no                │ not payable: the original 402     (purchase.rs)
//!             └► stream           └ refused: 403
//! ```

use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::agents::AgentName;
use crate::answer::{self, Code, Problem};
use crate::body::{AnswerBody, Gate, Kept, NotReplayable, Relay, RequestBody};
use crate::consider::{self, Course};
use crate::dial::DialError;
use crate::hop::{self, Upgrading};
use crate::host::{Authority, Host};
use crate::proxy::Proxy;
use crate::purchase;
use crate::tls::upstream::HandshakeError;
use crate::upstream::{Lane, Origin, UpstreamError, stream};

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
    request: Request<Incoming>,
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
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Problem> {
    guard(proxy, lane.origin(), &request)?;
    let upgrading = Upgrading::asked(request.headers());
    let agents_end = (upgrading == Upgrading::Yes).then(|| hyper::upgrade::on(&mut request));
    let (head, body) = outgoing(request, upgrading);
    let kept = Kept::new(body, proxy.replay_budget.clone());

    let first = first_sending(&head, &kept);
    let mut response = lane.send(first, &kept.progress()).await.map_err(unreachable)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(agents_end) = agents_end
    {
        return Ok(switch(proxy, agents_end, response));
    }
    hop::strip_response(response.headers_mut(), Upgrading::No);
    if response.status() != StatusCode::PAYMENT_REQUIRED {
        return Ok(stream(response));
    }

    let intent = match consider::course(proxy, agent, lane.origin(), &head, &mut response).await {
        Course::PassOn(why) => return Ok(unpaid(agent, response, why)),
        Course::Refuse(problem) => return Err(problem),
        Course::Buy(intent) => intent,
    };
    let replay = match kept.take().await {
        Ok(replay) => replay,
        Err(NotReplayable::TooLarge) => return Ok(unpaid(agent, response, "body-too-large-to-replay")),
        Err(NotReplayable::Broken) => return Ok(unpaid(agent, response, "body-broken-off")),
    };
    // The upload may have taken long, and what was decided before it was decided for that moment.
    let intent = match consider::decide_again(proxy, agent, lane.origin(), &head.method, *intent) {
        Course::PassOn(why) => return Ok(unpaid(agent, response, why)),
        Course::Refuse(problem) => return Err(problem),
        Course::Buy(intent) => intent,
    };
    purchase::run(proxy, lane, &head, replay, *intent, response).await
}

/// What no request may do, whatever it costs.
fn guard(proxy: &Proxy, origin: &Origin, request: &Request<Incoming>) -> Result<(), Problem> {
    if let Some(field) = hop::agent_payment(request.headers())
        && !proxy.passes_agent_payments()
    {
        let detail = format!("The request carries {field}. Send it without; bursar pays what the limits allow.");
        return Err(Problem::new(Code::AgentPayment, detail).retryable(false));
    }
    let named = request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| request.headers().get(HOST)?.to_str().ok());
    let same = match named {
        // HTTP/1.0 may leave the host out; the tunnel names it.
        None => request.headers().get_all(HOST).iter().next().is_none(),
        Some(named) => Authority::parse_or_default(named, origin.authority.port)
            .is_ok_and(|named| named.host == origin.authority.host && named.port == origin.authority.port),
    };
    if !same || request.headers().get_all(HOST).iter().count() > 1 || request.method() == Method::CONNECT {
        return Err(misdirected(origin));
    }
    Ok(())
}

fn misdirected(origin: &Origin) -> Problem {
    let detail = format!(
        "This tunnel leads to {}. Open another one for another host.",
        origin.authority
    );
    Problem::new(Code::HostMismatch, detail)
}

/// The head as the site gets it: end-to-end fields untouched, hop-by-hop ones gone (RFC 9110 §7.6.1).
fn outgoing(request: Request<Incoming>, upgrading: Upgrading) -> (Parts, Incoming) {
    let (mut head, body) = request.into_parts();
    hop::strip_request(&mut head.headers, head.version, upgrading);
    head.extensions.clear();
    (head, body)
}

/// With `Expect: 100-continue` the body waits for the site, so that a 402 saves the upload.
fn first_sending(head: &Parts, kept: &Kept) -> Request<RequestBody> {
    let expects = head.headers.get(http::header::EXPECT).is_some();
    if !expects {
        return Request::from_parts(head.clone(), kept.first(None));
    }
    let gate = Gate::closed();
    let mut request = Request::from_parts(head.clone(), kept.first(Some(gate.clone())));
    let on_continue = gate.clone();
    hyper::ext::on_informational(&mut request, move |interim| {
        if interim.status() == StatusCode::CONTINUE {
            on_continue.open();
        }
    });
    tokio::spawn(async move {
        tokio::time::sleep(CONTINUE_WAIT).await;
        gate.open();
    });
    request
}

/// A 402 that is passed on as it came, with the reason beside it.
fn unpaid(agent: &AgentName, mut response: Response<Relay>, why: &'static str) -> Response<AnswerBody> {
    tracing::info!(%agent, why, "402 passed on unpaid");
    answer::mark_unpaid(response.headers_mut(), why);
    stream(response)
}

/// WebSocket and the like: both ends are joined byte by byte, nothing inside is read or paid.
fn switch(proxy: &Proxy, agents_end: hyper::upgrade::OnUpgrade, mut response: Response<Relay>) -> Response<AnswerBody> {
    hop::strip_response(response.headers_mut(), Upgrading::Yes);
    let sites_end = hyper::upgrade::on(&mut response);
    let stop = proxy.stop.clone();
    let drain = proxy.config.timeouts.drain;
    proxy.tasks.spawn(async move {
        let (Ok(agent), Ok(site)) = (agents_end.await, sites_end.await) else {
            return;
        };
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
        UpstreamError::Tls(_) | UpstreamError::Setup(_) | UpstreamError::Broken(_) => Code::UpstreamBroken,
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

    fn lane(&self) -> Result<&Arc<Lane>, Problem> {
        match self {
            Self::Open(lane) => Ok(lane),
            Self::Closed(_, error) => Err(describe(error)),
            Self::Misdirected(origin, _) => Err(misdirected(origin)),
        }
    }
}

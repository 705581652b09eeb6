//! One request, from the agent to the site and back: the only place that knows the whole story. It parses nothing and
//! counts nothing; it calls the stages that do, in order.
//!
//! ```text
//! guard ─► repeat? ─► forward ─► 402? ─► consider ─► keep the body ─► repeat? ─► purchase ─► answer
//!             │ no                │ not payable: the original 402                (purchase.rs)
//!             └► stream           └ refused: 403
//! ```

use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::consider::{Disposition, Subject};
use super::context::Context;
use super::forward::{first_sending, outgoing, pass_through};
use super::presentation::AgentAnswer;
use super::purchase;
use super::repeat::{RepeatGuard, Turn};
use crate::answer::{Code, Problem, Unpaid};
use crate::config::operator::AgentPayments;
use bursar_core::agent_name::AgentName;
use bursar_core::hop::{self, Upgrading};
use bursar_core::host::Authority;
use bursar_net::body::{AgentBody, AnswerBody, BufferedBody, NotReplayable, Relay, ReplayBudget};
use bursar_net::idle::Serving;
use bursar_net::upstream::{HEAD_FIELDS, Lane, Origin, UpstreamError, stream};
use bursar_net::via::Via;

/// What guarding and forwarding need.
pub(crate) struct Traffic {
    pub agent_payments: AgentPayments,
    /// Only if it is switched on.
    pub via: Option<Via>,
    pub replay_budget: ReplayBudget,
    /// How long an upgraded connection may go on after the stop.
    pub drain: Duration,
}

/// The site at the other end of a tunnel.
pub(crate) enum Site {
    Open(Arc<Lane>),
    /// It could not be reached; every request in the tunnel is answered with the reason.
    Closed(Origin, Arc<UpstreamError>),
    /// The TLS hello asked for another host than CONNECT did.
    Misdirected(Origin),
}

pub(crate) async fn run(
    context: &Arc<Context>,
    agent: &AgentName,
    site: &Site,
    request: Request<AgentBody>,
) -> Response<AnswerBody> {
    let answer = match site.lane() {
        Ok(lane) => exchange(context, agent, lane, request).await,
        Err(problem) => Err(problem),
    };
    answer.unwrap_or_else(|problem| {
        tracing::debug!(%agent, code = problem.code(), "answered by bursar");
        problem.into_response()
    })
}

async fn exchange(
    context: &Arc<Context>,
    agent: &AgentName,
    lane: &Arc<Lane>,
    mut request: Request<AgentBody>,
) -> AgentAnswer {
    let (traffic, origin) = (&context.traffic, lane.origin());
    traffic.guard(origin, &request)?;
    let upgrading = Upgrading::asked(request.version(), request.headers());
    let agents_end = (upgrading == Upgrading::Yes).then(|| AgentsEnd {
        upgrade: hyper::upgrade::on(&mut request),
        serving: request.body().serving(),
    });
    let (head, body) = outgoing(origin, traffic.via.as_ref(), request, upgrading)?;
    let expects = hop::expects_continue(&head.headers);
    let body = BufferedBody::new(body, expects, traffic.replay_budget.clone());
    let subject = Subject {
        agent,
        origin,
        method: &head.method,
    };

    let repeats = RepeatGuard::new(&context.repeats, lane, &head);
    if let Some(answer) = repeats.before_forwarding(&body).await {
        return answer;
    }
    let sent = lane.send(first_sending(&head, &body, expects), &body.progress()).await;
    let mut response = sent.map_err(|error| Problem::unreachable(&error))?;
    let uploading = body.answered(response.status());
    response.body_mut().hold(uploading);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(context, agents_end, response);
    }
    hop::strip_response(response.headers_mut(), Upgrading::No);
    if response.status() != StatusCode::PAYMENT_REQUIRED {
        return Ok(stream(response));
    }

    if let Some(answer) = repeats.after_402(&body).await {
        return answer;
    }
    let unpaid = |response, why| {
        // Nobody needs the rest of the upload any more.
        body.refused();
        Ok(pass_through(agent, response, why))
    };
    let decider = &context.decider;
    let plan = match decider.disposition(subject, &head.headers, &mut response, None).await {
        Disposition::PassThrough(why) => return unpaid(response, why),
        Disposition::Refuse(problem) => return Err(problem),
        Disposition::Purchase(plan) => plan,
    };
    repeats.require_usable_key()?;
    let replay = match body.take().await {
        Ok(replay) => replay,
        Err(NotReplayable::TooLarge | NotReplayable::NoRoom) => return unpaid(response, Unpaid::BodyTooLarge),
        Err(NotReplayable::Broken) => return unpaid(response, Unpaid::BodyBrokenOff),
    };
    // The upload may have taken long, and the first decision was for the moment of its beginning.
    let plan = match decider.decide_again(subject, &replay.sha256, *plan) {
        Disposition::PassThrough(why) => return unpaid(response, why),
        Disposition::Refuse(problem) => return Err(problem),
        Disposition::Purchase(plan) => plan,
    };
    match repeats.before_purchase(&replay).await {
        Turn::Buy(claim) => purchase::run(context, lane, head, replay, *plan, claim, response).await,
        Turn::Answered(answer) => answer,
    }
}

impl Traffic {
    /// What no request may do, whatever it costs.
    fn guard<B>(&self, origin: &Origin, request: &Request<B>) -> Result<(), Problem> {
        if request.headers().len() > HEAD_FIELDS {
            // On h1 hyper has counted already (R33).
            let detail = format!("The request has more than {HEAD_FIELDS} header fields.");
            return Err(Problem::new(Code::BadRequest, detail));
        }
        if let Some(field) = hop::agent_payment(request.headers())
            && self.agent_payments == AgentPayments::Refuse
        {
            let detail = format!("The request carries {field}. Send it without; bursar pays what the limits allow.");
            return Err(Problem::new(Code::AgentPayment, detail).retryable(false));
        }
        if let Some(via) = &self.via
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
}

/// Whether everything that names a host names the tunnel's (threat 2.3). HTTP/1.0 may leave the host out.
fn is_for<B>(origin: &Origin, request: &Request<B>) -> bool {
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

/// The agent's connection, should it leave HTTP.
struct AgentsEnd {
    upgrade: hyper::upgrade::OnUpgrade,
    serving: Serving,
}

/// WebSocket and the like: both ends are joined byte by byte, nothing inside is read or paid (R35).
fn switch(context: &Context, agents_end: Option<AgentsEnd>, mut response: Response<Relay>) -> AgentAnswer {
    let Some(agents_end) = agents_end else {
        let detail = "The site switched protocols without being asked. Nothing was paid.";
        return Err(Problem::new(Code::UpstreamBroken, detail));
    };
    hop::strip_response(response.headers_mut(), Upgrading::Yes);
    let sites_end = hyper::upgrade::on(&mut response);
    let (stop, drain) = (context.stop.clone(), context.traffic.drain);
    context.tasks.spawn(async move {
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
    Ok(response.map(|_| AnswerBody::empty()))
}

impl Site {
    pub(crate) fn origin(&self) -> &Origin {
        match self {
            Self::Open(lane) => lane.origin(),
            Self::Closed(origin, _) | Self::Misdirected(origin) => origin,
        }
    }

    /// Whether requests can go anywhere; if not, another tunnel may fare better.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    fn lane(&self) -> Result<&Arc<Lane>, Problem> {
        match self {
            Self::Open(lane) => Ok(lane),
            Self::Closed(_, error) => Err(Problem::unreachable(error)),
            Self::Misdirected(origin) => Err(misdirected(origin)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bursar_net::upstream::Scheme;

    fn traffic(agent_payments: AgentPayments) -> Traffic {
        Traffic {
            agent_payments,
            via: None,
            replay_budget: ReplayBudget::default(),
            drain: Duration::ZERO,
        }
    }

    fn origin() -> Origin {
        Origin {
            scheme: Scheme::Https,
            authority: Authority::parse("api.example.com:443").unwrap(),
        }
    }

    fn guarded(agent_payments: AgentPayments, request: http::request::Builder) -> Option<&'static str> {
        let request = request.body(()).unwrap();
        traffic(agent_payments)
            .guard(&origin(), &request)
            .err()
            .map(|problem| problem.code())
    }

    #[test]
    fn whatever_names_a_host_must_name_the_tunnels() {
        let guarded = |request| guarded(AgentPayments::Refuse, request);
        assert_eq!(guarded(Request::get("/")), None, "HTTP/1.0 without a host");
        assert_eq!(guarded(Request::get("/").header("host", "API.example.com")), None);
        assert_eq!(guarded(Request::get("https://api.example.com/")), None);
        let other = Some("host-mismatch");
        assert_eq!(guarded(Request::get("/").header("host", "evil.example")), other);
        assert_eq!(guarded(Request::get("/").header("host", "api.example.com:444")), other);
        assert_eq!(
            guarded(Request::get("http://api.example.com/")),
            other,
            "another scheme"
        );
        let twice = Request::get("/").header("host", "api.example.com");
        assert_eq!(guarded(twice.header("host", "api.example.com")), other, "two hosts");
        assert_eq!(
            guarded(Request::connect("api.example.com:443")),
            other,
            "a tunnel in the tunnel"
        );
    }

    #[test]
    fn an_agents_own_payment_passes_only_where_the_operator_says_so() {
        let paying = || Request::get("/").header("payment-signature", "e30=");
        assert_eq!(guarded(AgentPayments::Refuse, paying()), Some("agent-payment"));
        assert_eq!(guarded(AgentPayments::Pass, paying()), None);
    }

    #[test]
    fn more_fields_than_a_head_may_have_are_refused() {
        let fields = |count| (0..count).fold(Request::get("/"), |request, n| request.header(format!("x-{n}"), "1"));
        assert_eq!(guarded(AgentPayments::Refuse, fields(HEAD_FIELDS)), None);
        assert_eq!(
            guarded(AgentPayments::Refuse, fields(HEAD_FIELDS + 1)),
            Some("bad-request")
        );
    }
}

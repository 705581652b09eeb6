//! One request, from the agent to the site and back, and the order of its stages. It parses nothing and counts nothing;
//! the stages do.
//!
//! ```text
//! guard ─► repeat? ─► forward ─► 402? ─► consider ─► keep the body ─► repeat? ─► purchase ─► answer
//!             │ no                │ not payable: the original 402                (purchase.rs)
//!             └► stream           └ refused: 403
//! ```

use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response, StatusCode, Version};

use super::consider::{Disposition, Subject};
use super::context::Context;
use super::forward::{first_sending, interims, outgoing, pass_through, strip};
use super::guard::misdirected;
use super::presentation::AgentAnswer;
use super::purchase;
use super::repeat::{RepeatGuard, Turn};
use crate::answer::{Code, Problem, Unpaid};
use bursar_core::agent_name::AgentName;
use bursar_core::hop::{self, Upgrading};
use bursar_net::body::{AgentBody, AnswerBody, BufferedBody, NotReplayable, Relay};
use bursar_net::h1::server::Exchange;
use bursar_net::h1::upgrade::OnUpgrade;
use bursar_net::idle::Serving;
use bursar_net::reset::{Reset, Telling};
use bursar_net::shares::Full;
use bursar_net::upstream::{Lane, Origin, UpstreamError, ends_connection, stream};

/// The site at the other end of a tunnel.
pub(crate) enum Site {
    Open(Arc<Lane>),
    /// The site could not be reached; every request in the tunnel is answered with the reason.
    Closed(Origin, Arc<UpstreamError>),
    /// The TLS hello asked for another host than CONNECT did.
    Misdirected(Origin),
    /// The agent may have no more connections.
    Full(Origin, Full),
}

/// Written so that the future is small: a stream of HTTP/2 is a task that is moved with it, and a tunnel has one for its
/// life. What is done at once is not kept in it, and what is rare is boxed.
pub(crate) fn run<'a>(
    context: &'a Arc<Context>,
    agent: &'a AgentName,
    site: &'a Site,
    request: Request<AgentBody>,
) -> impl Future<Output = Response<AnswerBody>> + Send + use<'a> {
    let mut begun = begin(context, agent, site, request);
    async move {
        let answer = match begun {
            Ok(ref mut begun) => exchange(context, agent, begun).await,
            Err(problem) => Err(problem),
        };
        answer.unwrap_or_else(|problem| {
            tracing::debug!(%agent, code = problem.code(), "answered by bursar");
            problem.into_response()
        })
    }
}

/// A request as it is forwarded.
struct Begun<'a> {
    lane: &'a Arc<Lane>,
    head: Parts,
    body: BufferedBody,
    expects: bool,
    at_agent: Exchange,
    agents_end: Option<AgentsEnd>,
}

fn begin<'a>(
    context: &Context,
    agent: &AgentName,
    site: &'a Site,
    request: Request<AgentBody>,
) -> Result<Begun<'a>, Problem> {
    let lane = site.lane()?;
    let (traffic, origin) = (&context.traffic, lane.origin());
    traffic.guard(origin, &request)?;
    let upgrading = Upgrading::asked(request.version(), request.headers());
    let at_agent = request.body().exchange();
    let agents_end = match upgrading {
        Upgrading::Yes => at_agent.on_upgrade().map(|upgrade| AgentsEnd {
            upgrade,
            serving: request.body().serving(),
            reset: at_agent.reset(),
        }),
        Upgrading::No => None,
    };
    let (mut head, body) = outgoing(origin, traffic.via.as_ref(), request, upgrading)?;
    let expects = hop::expects_continue(&head.headers);
    let body = BufferedBody::new(body, expects, || traffic.replay_budget.of(agent));
    head.extensions
        .insert(interims(at_agent.clone(), expects.then(|| body.clone())));
    Ok(Begun {
        lane,
        head,
        body,
        expects,
        at_agent,
        agents_end,
    })
}

async fn exchange(context: &Arc<Context>, agent: &AgentName, begun: &mut Begun<'_>) -> AgentAnswer {
    let Begun {
        lane,
        head,
        body,
        expects,
        at_agent,
        agents_end,
    } = begun;
    let (lane, head) = (*lane, &*head);
    let repeats = RepeatGuard::new(&context.repeats, lane, head);
    if let Some(answer) = repeats.before_forwarding(body).await {
        return answer;
    }
    let progress = body.progress();
    let sent = lane.send(head, first_sending(body, *expects), &progress).await;
    let response = match sorted(context, sent, body, agents_end)? {
        Sorted::Free(answer) => return answer,
        Sorted::Priced(response) => response,
    };
    let priced = Priced {
        context,
        subject: Subject {
            agent,
            origin: lane.origin(),
            method: &head.method,
        },
        lane,
        head,
        at_agent,
        body,
        repeats: &repeats,
    };
    // What a payment needs is large, and most requests cost nothing: they must not carry room for it.
    Box::pin(priced.answer(response)).await
}

enum Sorted {
    Free(AgentAnswer),
    Priced(Box<Response<Relay>>),
}

fn sorted(
    context: &Context,
    sent: Result<Response<Relay>, UpstreamError>,
    body: &BufferedBody,
    agents_end: &mut Option<AgentsEnd>,
) -> Result<Sorted, Problem> {
    let mut response = sent.map_err(|error| Problem::unreachable(&error))?;
    let uploading = body.answered(response.status(), ends_connection(&response));
    response.body_mut().hold(uploading);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Sorted::Free(switch(context, agents_end.take(), response)));
    }
    strip(&mut response);
    Ok(match response.status() {
        StatusCode::PAYMENT_REQUIRED => Sorted::Priced(Box::new(response)),
        _ => Sorted::Free(Ok(stream(response))),
    })
}

/// A request for which the site asks for payment.
struct Priced<'a> {
    context: &'a Arc<Context>,
    subject: Subject<'a>,
    lane: &'a Arc<Lane>,
    head: &'a Parts,
    at_agent: &'a Exchange,
    body: &'a BufferedBody,
    repeats: &'a RepeatGuard<'a>,
}

impl Priced<'_> {
    async fn answer(self, response: Box<Response<Relay>>) -> AgentAnswer {
        let mut response = *response;
        let Self {
            context,
            subject,
            lane,
            head,
            at_agent,
            body,
            repeats,
        } = self;
        if let Some(answer) = repeats.after_402(body).await {
            return answer;
        }
        let unpaid = |response, why| {
            // The rest of the upload is no longer needed.
            body.refused();
            Ok(pass_through(subject.agent, response, why))
        };
        let decider = &context.decider;
        let plan = match decider
            .disposition(subject, &head.headers, &mut response, Vec::new())
            .await
        {
            Disposition::PassThrough(why) => return unpaid(response, why),
            Disposition::Refuse(problem) => return Err(problem),
            Disposition::Purchase(plan) => plan,
        };
        repeats.require_usable_key()?;
        if at_agent.has_ended() {
            return Err(Problem::new(Code::BadRequest, ENDED));
        }
        let replay = match body.take().await {
            Ok(replay) => replay,
            Err(NotReplayable::TooLarge | NotReplayable::NoRoom) => return unpaid(response, Unpaid::BodyTooLarge),
            Err(NotReplayable::Broken) => return unpaid(response, Unpaid::BodyBrokenOff),
        };
        // The upload may have taken long, and the first decision was made when it began.
        let plan = match decider.decide_again(subject, &replay.sha256, *plan) {
            Disposition::PassThrough(why) => return unpaid(response, why),
            Disposition::Refuse(problem) => return Err(problem),
            Disposition::Purchase(plan) => plan,
        };
        match repeats.before_purchase(&replay).await {
            Turn::Buy(claim) => {
                // What is bought must reach somebody: from here on, an agent that ends its side has hung up.
                let _presence = at_agent.require_presence();
                purchase::run(context, lane, head.clone(), replay, *plan, claim, response).await
            }
            Turn::Answered(answer) => answer,
        }
    }
}

const ENDED: &str = "The site asks for payment, and the agent has ended its side of the connection: bursar pays only for an \
                     agent that is still there. Nothing was paid. Keep the connection open for sending until the answer \
                     is complete, and send the request again.";

/// The agent's connection, if it switches to another protocol.
struct AgentsEnd {
    upgrade: OnUpgrade,
    serving: Serving,
    reset: Reset,
}

/// WebSocket and the like: both ends are joined byte by byte; nothing inside is read or paid for (R35).
fn switch(context: &Context, agents_end: Option<AgentsEnd>, mut response: Response<Relay>) -> AgentAnswer {
    let (Some(agents_end), Some((site, reset))) = (agents_end, response.body().switched()) else {
        let detail = "The site switched protocols without being asked. Nothing was paid.";
        return Err(Problem::new(Code::UpstreamBroken, detail));
    };
    hop::strip_response(response.headers_mut(), Version::HTTP_11, Upgrading::Yes);
    let (stop, drain) = (context.stop.clone(), context.traffic.drain);
    context.tasks.spawn(async move {
        let Some(agent) = agents_end.upgrade.await else {
            return;
        };
        let mut agent = Telling::new(agent, reset);
        let mut site = Telling::new(site, agents_end.reset);
        // No more requests on this connection: only idleness ends it.
        let _serving = agents_end.serving;
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
            Self::Closed(origin, _) | Self::Misdirected(origin) | Self::Full(origin, _) => origin,
        }
    }

    /// Resolves when the site has ended the tunnel's connection between two requests.
    pub(crate) async fn closed(&self) {
        match self {
            Self::Open(lane) => lane.closed().await,
            Self::Closed(..) | Self::Misdirected(_) | Self::Full(..) => std::future::pending().await,
        }
    }

    /// Whether requests can reach the site; if not, another tunnel may.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    fn lane(&self) -> Result<&Arc<Lane>, Problem> {
        match self {
            Self::Open(lane) => Ok(lane),
            Self::Closed(_, error) => Err(Problem::unreachable(error)),
            Self::Misdirected(origin) => Err(misdirected(origin)),
            Self::Full(_, full) => Err(Problem::full(*full)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How large the future is that a request makes, which is not polled here.
    fn size<'a, F: Future>(
        _: impl FnOnce(&'a Arc<Context>, &'a AgentName, &'a Site, Request<AgentBody>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_that_costs_nothing_carries_no_room_for_a_payment() {
        // Every stream of HTTP/2 is moved with it, and every tunnel has one.
        let size = size(run);
        assert!(size < 2048, "{size} bytes");
    }
}

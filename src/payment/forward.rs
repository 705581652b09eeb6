//! Towards the site: requests as the site gets them, and answers that are passed on.

use std::sync::Arc;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Extensions, Request, Response, StatusCode, Uri, Version};

use crate::answer::{self, Code, Problem, Unpaid};
use bursar_core::agent_name::AgentName;
use bursar_core::h1::{Persistence, RawTarget};
use bursar_core::hop::{self, Upgrading};
use bursar_net::body::{AnswerBody, BufferedBody, Progress, Relay, Replay, RequestBody};
use bursar_net::h1::Interims;
use bursar_net::h1::server::Exchange;
use bursar_net::upstream::{Lane, Origin, stream};
use bursar_net::via::Via;

/// How long an upload waits for the site's `100 Continue` before it starts anyway (RFC 9110 §10.1.1).
const CONTINUE_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// The head as the site gets it: end-to-end fields untouched, hop-by-hop ones gone (RFC 9110 §7.6.1).
pub(super) fn outgoing<B>(
    origin: &Origin,
    via: Option<&Via>,
    request: Request<B>,
    upgrading: Upgrading,
) -> Result<(Parts, B), Problem> {
    let (mut head, body) = request.into_parts();
    let persistence = Persistence::said(head.version, &head.headers);
    hop::strip_request(&mut head.headers, head.version, upgrading);
    if let Some(via) = via {
        via.add(&mut head.headers, head.version);
    }
    if !is_as_the_site_gets_it(&head) {
        head.uri = target(origin, &head)?;
    }
    if head.version == Version::HTTP_11 {
        // It requires a host.
        if !head.headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::try_from(origin.host_field())
        {
            head.headers.insert(HOST, host);
        }
    }
    head.extensions = as_written(head.extensions, head.version);
    if head.version == Version::HTTP_10
        && let Some(persistence) = persistence
    {
        // The site must know whether the agent of an old version wants the connection to stay.
        head.extensions.insert(persistence);
    }
    Ok((head, body))
}

/// What says how the agent wrote its request, which is all that comes with one of HTTP/1.1. Nothing that came with one of
/// HTTP/2 concerns the site.
fn as_written(mut arrived: Extensions, version: Version) -> Extensions {
    if version >= Version::HTTP_2 {
        return Extensions::new();
    }
    if let Some(target) = arrived.remove::<RawTarget>() {
        arrived.insert(target.into_origin_form());
    }
    arrived
}

/// Informational answers go to the agent as they come. `100 Continue` also lets our own upload begin, with what the agent
/// then sends.
pub(super) fn interims(agent: Exchange, invited: Option<BufferedBody>) -> Interims {
    Interims::new(move |mut interim| {
        let is_invitation = interim.status() == StatusCode::CONTINUE;
        hop::strip_response(interim.headers_mut(), Version::HTTP_11, Upgrading::No);
        agent.inform(interim);
        if is_invitation && let Some(body) = &invited {
            body.open();
        }
    })
}

/// As nearly every target is.
fn is_as_the_site_gets_it(head: &Parts) -> bool {
    let has_authority = head.uri.authority().is_some();
    head.uri.path_and_query().is_some() && has_authority == (head.version >= Version::HTTP_2)
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

/// With `Expect: 100-continue` the body waits for the site, so that a 402 saves the upload. `interims` let it begin.
pub(super) fn first_sending(body: &BufferedBody, expects: bool) -> RequestBody {
    if expects {
        let in_time = body.clone();
        tokio::spawn(async move {
            tokio::time::sleep(CONTINUE_WAIT).await;
            in_time.open();
        });
    }
    body.first()
}

/// Sends a request again, without a credential, and strips hop-by-hop fields from the answer.
pub(super) async fn send_again(lane: &Arc<Lane>, head: &Parts, replay: &Replay) -> Result<Response<Relay>, Problem> {
    let sent = lane.send(head, replay.clone().into(), &Progress::none()).await;
    let mut response = sent.map_err(|error| Problem::unreachable(&error))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let detail = "The site asked for payment before and now switched to another protocol. Nothing was paid.";
        return Err(Problem::new(Code::UpstreamBroken, detail));
    }
    strip(&mut response);
    Ok(response)
}

/// An answer as the agent gets it. Whether the site ends the connection after it is kept: so does the tunnel.
pub(super) fn strip(response: &mut Response<Relay>) {
    if response.version() < Version::HTTP_2
        && let Some(persistence) = Persistence::said(response.version(), response.headers())
    {
        response.extensions_mut().insert(persistence);
    }
    let version = response.version();
    // A site may say which protocols it would switch to, as in a 426 (RFC 9110 §7.8).
    let upgrading = match version {
        Version::HTTP_11 => Upgrading::Yes,
        _ => Upgrading::No,
    };
    hop::strip_response(response.headers_mut(), version, upgrading);
}

/// Passes a 402 on unchanged, with the reason added.
pub(super) fn pass_through(agent: &AgentName, mut response: Response<Relay>, why: Unpaid) -> Response<AnswerBody> {
    tracing::info!(%agent, why = why.code(), "402 passed on unpaid");
    answer::mark_unpaid(response.headers_mut(), why);
    stream(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bursar_core::host::Authority;
    use bursar_net::upstream::Scheme;

    fn origin(authority: &str) -> Origin {
        Origin {
            scheme: Scheme::Https,
            authority: Authority::parse(authority).unwrap(),
        }
    }

    fn sent(request: Request<()>) -> Parts {
        match outgoing(&origin("api.example.com:443"), None, request, Upgrading::No) {
            Ok((head, ())) => head,
            Err(problem) => panic!("{}", problem.code()),
        }
    }

    #[test]
    fn what_concerns_one_hop_is_taken_out_and_nothing_else() {
        let request = Request::get("/a?b=c")
            .header("proxy-authorization", "Basic eDp5")
            .header("connection", "x-private")
            .header("x-private", "1")
            .header("x-end-to-end", "2")
            .header("host", "api.example.com");
        let head = sent(request.body(()).unwrap());
        assert_eq!(head.uri, "/a?b=c");
        let mut names: Vec<_> = head.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-end-to-end"]);
    }

    #[test]
    fn the_target_takes_the_form_that_the_version_wants() {
        let h1 = sent(Request::get("https://api.example.com/a").body(()).unwrap());
        assert_eq!(
            (h1.uri.to_string(), h1.headers["host"].to_str().unwrap()),
            ("/a".to_owned(), "api.example.com")
        );
        let h2 = Request::get("/a").version(Version::HTTP_2).body(()).unwrap();
        assert_eq!(sent(h2).uri, "https://api.example.com/a");
        let old = sent(Request::get("/").version(Version::HTTP_10).body(()).unwrap());
        assert_eq!((old.version, old.headers.get(HOST)), (Version::HTTP_10, None));
    }
}

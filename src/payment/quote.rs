//! Asks a site what a request costs, as an agent would ask it, and pays nothing (R237).

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode, Version};

use super::consider::Subject;
pub(crate) use super::consider::quote::{Quote, Quoted};
use super::context::Context;
use super::forward::{outgoing, send_again};
use crate::answer::{Code, Problem};
use crate::trial::Report;
use bursar_core::agent_name::AgentName;
use bursar_core::hop::Upgrading;
use bursar_net::body::Replay;
use bursar_net::upstream::{Lane, Origin};

/// The request whose price is asked for.
pub(crate) struct Asked {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: String,
}

impl Quote {
    /// The site gave no answer to judge.
    pub(crate) fn failed(origin: &Origin, path: &str, problem: &Problem) -> Self {
        Self {
            url: shown(origin, path),
            status: None,
            report: Report::without_rules("no-price", problem.code(), problem.detail().to_owned()),
            offers: Vec::new(),
        }
    }
}

/// Sends the request once, without a payment, and judges the answer.
pub(crate) async fn run(
    context: &Arc<Context>,
    agent: &AgentName,
    lane: &Arc<Lane>,
    asked: Asked,
) -> Result<Quote, Problem> {
    let origin = lane.origin();
    let request = request(origin, asked)?;
    let path = request.uri().path().to_owned();
    let traffic = &context.traffic;
    traffic.guard(origin, &request)?;
    let (head, body) = outgoing(origin, traffic.via.as_ref(), request, Upgrading::No)?;
    let mut response = send_again(lane, &head, &Replay::of(body.into(), None)).await?;
    let status = response.status();
    let (report, offers) = match status {
        StatusCode::PAYMENT_REQUIRED => {
            let subject = Subject {
                agent,
                origin,
                method: &head.method,
            };
            let quoted = context.decider.quote(subject, &head.headers, &mut response).await;
            quoted.map_err(|why| Problem::new(Code::StoreUnavailable, why))?
        }
        other if other.is_client_error() || other.is_server_error() => {
            let detail = format!("The site answers {other} to this request, so it is not known what it would cost.");
            (Report::without_rules("no-price", "site-refused", detail), Vec::new())
        }
        _ => (Report::free(), Vec::new()),
    };
    Ok(Quote {
        url: shown(origin, &path),
        status: Some(status.as_u16()),
        report,
        offers,
    })
}

fn request(origin: &Origin, asked: Asked) -> Result<Request<String>, Problem> {
    let mut request = Request::builder()
        .method(asked.method)
        .uri(asked.target)
        .version(Version::HTTP_11)
        .header(HOST, origin.host_field())
        .body(asked.body)
        .map_err(|error| Problem::new(Code::BadRequest, format!("the request cannot be sent: {error}")))?;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("bursar/", env!("CARGO_PKG_VERSION"))),
    );
    let own: Vec<HeaderName> = asked.headers.iter().map(|(name, _)| name.clone()).collect();
    for name in own {
        headers.remove(name);
    }
    for (name, value) in asked.headers {
        headers.append(name, value);
    }
    let length = request.body().len();
    if length > 0 {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(request)
}

/// No query: it can hold a key.
fn shown(origin: &Origin, path: &str) -> String {
    format!("{}://{}{path}", origin.scheme.as_str(), origin.host_field())
}

//! One request to an identity server, with one deadline and a size limit for the response; redirects are not followed.

use std::time::Duration;

use http::header::{CACHE_CONTROL, DATE};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use crate::post::{self, SendError};
use crate::tls::upstream::UpstreamTls;

/// In bytes; a token response is a few KiB.
const LONGEST_ANSWER: usize = 64 << 10;
const DOCUMENT_PATIENCE: Duration = Duration::from_secs(10);

pub struct ServerAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// None of the request was sent.
    Unsent,
    /// All or part of the request may have arrived, or the response was incomplete.
    Unanswered,
}

impl ServerAnswer {
    pub fn date(&self) -> Option<Timestamp> {
        let text = self.headers.get(DATE)?.to_str().ok()?;
        Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp())
    }

    /// How long the response may be cached, from its `Cache-Control: max-age`.
    pub fn max_age(&self) -> Option<Duration> {
        let text = self.headers.get(CACHE_CONTROL)?.to_str().ok()?;
        let mut parts = text.split(',').map(str::trim);
        let age = parts.find_map(|part| part.strip_prefix("max-age="))?;
        age.parse().ok().map(Duration::from_secs)
    }
}

pub async fn send(
    url: &Uri,
    tls: &UpstreamTls,
    request: Request<Bytes>,
    patience: Duration,
) -> Result<ServerAnswer, Silence> {
    bounded(url, tls, request, patience, LONGEST_ANSWER).await
}

/// Fetches a public document, or says why it is not available.
pub async fn get(url: &Uri, tls: &UpstreamTls, longest: usize) -> Result<ServerAnswer, &'static str> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header("accept", "application/json")
        .body(Bytes::new())
        .map_err(|_| "its URL is not valid for a request")?;
    let answer = bounded(url, tls, request, DOCUMENT_PATIENCE, longest).await;
    match answer {
        Ok(answer) if answer.status == StatusCode::OK => Ok(answer),
        Ok(_) => Err("its status is not 200"),
        Err(Silence::Unsent) => Err("the connection failed"),
        Err(Silence::Unanswered) => Err("no complete response came in time"),
    }
}

async fn bounded(
    url: &Uri,
    tls: &UpstreamTls,
    request: Request<Bytes>,
    patience: Duration,
    longest: usize,
) -> Result<ServerAnswer, Silence> {
    let deadline = Instant::now() + patience;
    let line = timeout_at(deadline, post::connect(url, tls))
        .await
        .map_err(|_| Silence::Unsent)?
        .map_err(|_| Silence::Unsent)?;
    let answer = timeout_at(deadline, line.send(request))
        .await
        .map_err(|_| Silence::Unanswered)?
        .map_err(|error| match error {
            SendError::Unsent(_) => Silence::Unsent,
            SendError::Unanswered(_) => Silence::Unanswered,
        })?;
    let (head, body) = answer.into_parts();
    let body = timeout_at(deadline, Limited::new(body, longest).collect())
        .await
        .map_err(|_| Silence::Unanswered)?
        .map_err(|_| Silence::Unanswered)?;
    Ok(ServerAnswer {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}

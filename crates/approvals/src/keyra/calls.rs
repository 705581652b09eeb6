//! The three API calls. Each is one request with one time limit; redirects are not followed, and nothing is retried
//! here.

use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::challenge::{Attestation, ChallengeAnswer, ChallengeId, Order};
use super::errors::Fault;
use super::settings::{ApiKey, BaseUrl};
use bursar_net::post::{self, SendError};
use bursar_net::tls::upstream::UpstreamTls;

/// A challenge takes about 1 KiB; an attestation includes certificates.
const ANSWER_CAP: usize = 64 << 10;

pub(super) struct Service {
    pub base: BaseUrl,
    pub key: ApiKey,
    pub tls: Arc<UpstreamTls>,
    pub patience: std::time::Duration,
}

/// A challenge, and the response it was read from.
pub(super) struct Answered {
    /// Such as `GET /v1/challenges/chl_1`.
    pub call: String,
    /// The body, byte for byte.
    pub text: String,
    pub answer: ChallengeAnswer,
}

impl Service {
    pub(super) async fn create(&self, order: &Order) -> Result<Answered, Fault> {
        self.call(Method::POST, "/v1/challenges", order.body()).await
    }

    pub(super) async fn look(&self, id: &ChallengeId) -> Result<Answered, Fault> {
        self.call(Method::GET, &format!("/v1/challenges/{id}"), Vec::new())
            .await
    }

    pub(super) async fn verify(&self, id: &ChallengeId, attestation: &Attestation) -> Result<Answered, Fault> {
        let Attestation { attestation, device_id } = attestation;
        let body = json!({ "attestation": attestation, "deviceId": device_id });
        let path = format!("/v1/challenges/{id}/verify");
        self.call(Method::POST, &path, body.to_string().into_bytes()).await
    }

    async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Answered, Fault> {
        let call = format!("{method} {path}");
        let body = self.exchange(method, path, body).await?;
        let answer = ChallengeAnswer::parse(&body).ok_or(Fault::Unreadable)?;
        let text = String::from_utf8(body.into()).map_err(|_| Fault::Unreadable)?;
        Ok(Answered { call, text, answer })
    }

    /// The body of a 200 or 201.
    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, Fault> {
        let deadline = Instant::now() + self.patience;
        let request = self.request(method, path, body).ok_or(Fault::Unsent)?;
        let line = timeout_at(deadline, post::connect(self.base.uri(), &self.tls))
            .await
            .map_err(|_| Fault::Unsent)?
            .map_err(|_| Fault::Unsent)?;
        let answer = timeout_at(deadline, line.send(request))
            .await
            .map_err(|_| Fault::Unanswered)?
            .map_err(|error| match error {
                SendError::Unsent(_) => Fault::Unsent,
                SendError::Unanswered(_) => Fault::Unanswered,
            })?;
        let (head, body) = answer.into_parts();
        let body = read(body, deadline).await;
        match head.status {
            StatusCode::OK | StatusCode::CREATED => body,
            status if status.is_success() => Err(Fault::Unreadable),
            // Most errors can be recognized by their status, so the body is optional.
            status => Err(Fault::of_answer(status, &head.headers, &body.unwrap_or_default())),
        }
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Option<Request<Bytes>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base.path()))
            .header(AUTHORIZATION, self.key.authorization()?)
            .header(ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Bytes::from(body)).ok()
    }
}

async fn read(body: Incoming, deadline: Instant) -> Result<Bytes, Fault> {
    match timeout_at(deadline, Limited::new(body, ANSWER_CAP).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Fault::Unreadable),
        Ok(Err(_)) | Err(_) => Err(Fault::Unanswered),
    }
}

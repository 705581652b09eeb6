//! A Stripe client for the paying side: issues shared payment tokens, reads their state, and revokes them (MPP §6.1).
//!
//! There are three calls. Each is one request under one time limit and is never repeated here: a caller that got no
//! answer repeats the order under the same idempotency key, and Stripe answers with the same token.
//!
//! * `key`: the account's secret. `names`: identifiers in a request. `service`: which API is called.
//! * `order`: the form that is sent. `issued`: the answer. `error`: everything else that may come back.

mod error;
mod issued;
mod key;
mod names;
mod order;
mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use tokio::time::{Instant, timeout_at};

pub use error::{About, Code, Effect, Fault, Silence, StripeError};
pub use issued::{Captured, DeactivationReason, Difference, Issued, Limits, Status};
pub use key::{KeyError, Mode, SecretKey};
pub use names::{Currency, NameError, PaymentMethod, Profile, TokenId};
use order::Call;
pub use order::Order;
pub use service::{ApiBase, ApiVersion, Endpoint, ServiceError};

use bursar_core::account::AccountMark;
use bursar_ledger::PaymentId;
use bursar_net::post::{self, SendError};
use bursar_net::tls::upstream::UpstreamTls;

/// The description of a token takes about 1 KiB.
const ANSWER_CAP: usize = 64 << 10;

/// One Stripe account.
pub struct Stripe {
    key: SecretKey,
    settings: Settings,
    tls: Arc<UpstreamTls>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub base: ApiBase,
    pub version: ApiVersion,
    pub endpoint: Endpoint,
    /// Time limit of one call, from the DNS lookup to the last byte of the answer.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            base: ApiBase::default(),
            version: ApiVersion::default(),
            endpoint: Endpoint::default(),
            patience: Duration::from_secs(10),
        }
    }
}

impl Stripe {
    /// Fails for a live key with the test helper, which would always refuse it.
    pub fn new(key: SecretKey, settings: Settings, tls: Arc<UpstreamTls>) -> Result<Self, KeyError> {
        if settings.endpoint == Endpoint::TestHelper && key.mode() == Mode::Live {
            return Err(KeyError::LiveInTestHelper);
        }
        Ok(Self { key, settings, tls })
    }

    pub fn mode(&self) -> Mode {
        self.key.mode()
    }

    /// Identifies this account in the ledger.
    pub fn mark(&self) -> AccountMark {
        self.key.mark(&self.settings.base)
    }

    /// Orders a token, or returns the one that was made for this order before. Only [`Issued::presentable`] may be used
    /// for a payment.
    pub async fn issue(&self, order: &Order<'_>) -> Result<Issued, StripeError> {
        let call = order.call(self.settings.endpoint);
        let issued = self.call(call, Some(order.idempotency_key)).await?;
        match issued.difference(order) {
            None => Ok(issued),
            Some(what) => Err(StripeError::Differs { what, token: issued.id }),
        }
    }

    /// Reads the state of a token.
    pub async fn token(&self, id: &TokenId) -> Result<Issued, StripeError> {
        let call = Call::token(self.settings.endpoint, id);
        same_token(self.call(call, None).await?, id)
    }

    /// Revokes a token, once `settle_wait` is over (R14). Stripe refuses if it was charged; read its state with
    /// [`Self::token`].
    pub async fn revoke(&self, id: &TokenId) -> Result<Issued, StripeError> {
        let call = Call::revoke(self.settings.endpoint, id);
        same_token(self.call(call, None).await?, id)
    }

    async fn call(&self, call: Call, idempotency_key: Option<PaymentId>) -> Result<Issued, StripeError> {
        let (status, body) = self.exchange(call, idempotency_key).await?;
        let Some(issued) = Issued::parse(&body, self.settings.endpoint) else {
            return Err(StripeError::Unreadable {
                status: status.as_u16(),
            });
        };
        match issued.mode == self.mode() {
            true => Ok(issued),
            false => Err(StripeError::Differs {
                what: Difference::Mode,
                token: issued.id,
            }),
        }
    }

    /// Returns the body of a 200, or the error that any other answer, or none, stands for.
    async fn exchange(
        &self,
        call: Call,
        idempotency_key: Option<PaymentId>,
    ) -> Result<(StatusCode, Bytes), StripeError> {
        let deadline = Instant::now() + self.settings.patience;
        let request = self
            .request(call, idempotency_key)
            .ok_or(StripeError::Unsent(Silence::Request))?;
        let line = timeout_at(deadline, post::connect(self.settings.base.uri(), &self.tls))
            .await
            .map_err(|_| StripeError::Unsent(Silence::Timeout))?
            .map_err(|_| StripeError::Unsent(Silence::Connection))?;
        let answer = timeout_at(deadline, line.send(request))
            .await
            .map_err(|_| StripeError::Unclear(Silence::Timeout))?
            .map_err(|error| match error {
                SendError::Unsent(_) => StripeError::Unsent(Silence::Connection),
                SendError::Unanswered(_) => StripeError::Unclear(Silence::Connection),
            })?;
        let (head, body) = answer.into_parts();
        let body = read(body, head.status, deadline).await;
        match head.status {
            StatusCode::OK => Ok((head.status, body?)),
            // For many of them the status alone is enough.
            status => Err(StripeError::of_answer(status, &head.headers, &body.unwrap_or_default())),
        }
    }

    fn request(&self, call: Call, idempotency_key: Option<PaymentId>) -> Option<Request<Bytes>> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(AUTHORIZATION, self.key.authorization()?)
            .header("stripe-version", self.settings.version.as_str());
        if call.form.is_some() {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            request = request.header(CONTENT_TYPE, form);
        }
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key.to_string());
        }
        request.body(Bytes::from(call.form.unwrap_or_default())).ok()
    }
}

fn same_token(issued: Issued, id: &TokenId) -> Result<Issued, StripeError> {
    match issued.id == *id {
        true => Ok(issued),
        false => Err(StripeError::Differs {
            what: Difference::Token,
            token: issued.id,
        }),
    }
}

async fn read(body: Incoming, status: StatusCode, deadline: Instant) -> Result<Bytes, StripeError> {
    match timeout_at(deadline, Limited::new(body, ANSWER_CAP).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(StripeError::Unreadable {
            status: status.as_u16(),
        }),
        Ok(Err(_)) => Err(StripeError::Unclear(Silence::Connection)),
        Err(_) => Err(StripeError::Unclear(Silence::Timeout)),
    }
}

//! The operator's webhook: gets a message as JSON in one POST request, over verified TLS.

use std::sync::Arc;

use http::Uri;
use http::header::HeaderValue;
use http_body_util::{BodyExt, Limited};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use bursar_net::post::{self, Failure};
use bursar_net::tls::upstream::UpstreamTls;

/// The response is not used; a longer one is cut off.
const ANSWER_CAP: usize = 64 << 10;

pub struct Webhook {
    url: Uri,
    token: Option<SecretString>,
    tls: Arc<UpstreamTls>,
}

impl Webhook {
    /// `url` is https, or http to this machine; the reader of bursar.toml ensures that.
    pub fn new(url: Uri, token: Option<SecretString>, tls: Arc<UpstreamTls>) -> Self {
        Self { url, token, tls }
    }

    /// Leaves out path and query: many services put a key there.
    pub fn shown(&self) -> String {
        let scheme = self.url.scheme_str().unwrap_or_default();
        format!("{scheme}://{}", post::host_and_port(&self.url))
    }

    /// Succeeds when the service has answered 2xx.
    pub async fn post(&self, message: &impl Serialize) -> Result<(), String> {
        let body = serde_json::to_vec(message).map_err(|error| error.to_string())?;
        let status = self.exchange(body).await.map_err(|error| error.to_string())?;
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("it answered {}", status.as_u16()))
        }
    }

    async fn exchange(&self, body: Vec<u8>) -> Result<http::StatusCode, Failure> {
        let response = post::post(&self.url, &self.tls, self.credential()?, body).await?;
        let status = response.status();
        // Read the body, so that the service does not see its response refused; its content does not matter.
        let _ = Limited::new(response.into_body(), ANSWER_CAP).collect().await;
        Ok(status)
    }

    fn credential(&self) -> Result<Option<HeaderValue>, Failure> {
        let Some(token) = &self.token else {
            return Ok(None);
        };
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

//! The operator's webhook: the alert as JSON in one POST, over verified TLS.
//!
//! It is named in bursar.toml, so the guard against private addresses does not apply to it.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Message;
use crate::tls::AlpnOffer;
use crate::tls::upstream::UpstreamTls;

/// Nobody reads the answer; a longer one is cut off.
const ANSWER_CAP: usize = 64 << 10;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

pub struct Webhook {
    url: Uri,
    token: Option<SecretString>,
    tls: Arc<UpstreamTls>,
}

impl Webhook {
    /// `url` is https, or http to this machine, which bursar.toml's reader has made sure of.
    pub fn new(url: Uri, token: Option<SecretString>, tls: Arc<UpstreamTls>) -> Self {
        Self { url, token, tls }
    }

    /// Without path and query: many services put the key there.
    pub fn shown(&self) -> String {
        format!("{}://{}", self.url.scheme_str().unwrap_or_default(), self.authority())
    }

    /// Done when the service has answered 2xx.
    pub async fn post(&self, message: &Message) -> Result<(), String> {
        let body = serde_json::to_vec(message).map_err(|error| error.to_string())?;
        let status = self.exchange(body).await.map_err(|error| error.to_string())?;
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("it answered {}", status.as_u16()))
        }
    }

    async fn exchange(&self, body: Vec<u8>) -> Result<http::StatusCode, AnyError> {
        let secure = self.url.scheme_str() == Some("https");
        let host = self.url.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((bare, port)).await?;
        stream.set_nodelay(true)?;
        if !secure {
            return self.send(stream, body).await;
        }
        let name = ServerName::try_from(bare.to_owned())?;
        let connector = tokio_rustls::TlsConnector::from(self.tls.config(AlpnOffer::Http1));
        let stream = connector.connect(name, stream).await?;
        self.send(stream, body).await
    }

    async fn send<S>(&self, stream: S, body: Vec<u8>) -> Result<http::StatusCode, AnyError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::post(path)
            .header(HOST, self.authority())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let response = sender.send_request(request).await?;
        let status = response.status();
        // So that the service does not see its answer refused; what is in it says nothing more.
        let _ = Limited::new(response.into_body(), ANSWER_CAP).collect().await;
        connection.abort();
        Ok(status)
    }

    fn authority(&self) -> String {
        let host = self.url.host().unwrap_or_default();
        self.url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

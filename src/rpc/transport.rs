//! The bytes of one question: connection, request, answer of bounded length.

use std::error::Error;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Node;
use crate::tls::AlpnOffer;
use crate::tls::upstream::UpstreamTls;

type Failure = Box<dyn Error + Send + Sync>;

impl Node {
    /// Posts `body` and reads an answer of at most `cap` bytes.
    pub(super) async fn post(
        &self,
        tls: &UpstreamTls,
        body: String,
        cap: usize,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let secure = self.0.scheme_str() == Some("https");
        let host = self.0.host().unwrap_or_default();
        let port = self.0.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await?;
        stream.set_nodelay(true)?;
        if !secure {
            return self.exchange(stream, body, cap).await;
        }
        let name = ServerName::try_from(bare.to_owned())?;
        let stream = tokio_rustls::TlsConnector::from(tls.config(AlpnOffer::Http1))
            .connect(name, stream)
            .await?;
        self.exchange(stream, body, cap).await
    }

    async fn exchange<S>(&self, stream: S, body: String, cap: usize) -> Result<(StatusCode, Vec<u8>), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let path = self.0.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::<hyper::body::Bytes>::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse()?;
        request
            .headers_mut()
            .insert(HOST, HeaderValue::try_from(self.host_and_port())?);
        if let Some(credential) = self.credential() {
            request.headers_mut().insert(AUTHORIZATION, credential);
        }
        request
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), cap).collect().await?;
        Ok((status, answer.to_bytes().to_vec()))
    }

    pub(super) fn host_and_port(&self) -> String {
        let host = self.0.host().unwrap_or_default();
        self.0
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// `user:password@` of the URL as `Basic` (RFC 7617).
    fn credential(&self) -> Option<HeaderValue> {
        let (user_information, _) = self.0.authority()?.as_str().rsplit_once('@')?;
        let encoded = STANDARD.encode(percent_decoded(user_information));
        let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// RFC 3986 §2.1; what is no escape stays as it is.
fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = text
            .get(at + 1..at + 3)
            .filter(|digits| bytes[at] == b'%' && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_shown_without_its_key() {
        let node = Node::new("https://mainnet.example.org/v3/secret?key=1".parse().unwrap());
        assert_eq!(node.shown(), "https://mainnet.example.org");
        let node = Node::new("http://user:s%40cret@[::1]:8545/".parse().unwrap());
        assert_eq!(node.shown(), "http://[::1]:8545");
        // `user:s@cret`
        assert_eq!(node.credential().unwrap(), "Basic dXNlcjpzQGNyZXQ=");
        assert!(Node::new("http://[::1]:8545/".parse().unwrap()).credential().is_none());
    }
}

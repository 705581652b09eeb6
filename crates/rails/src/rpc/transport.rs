//! Sends one question, and reads an answer of limited length.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::HeaderValue;
use http_body_util::{BodyExt, Limited};

use super::Node;
use bursar_net::post::{self, Failure};
use bursar_net::tls::upstream::UpstreamTls;

impl Node {
    /// Posts `body` and reads an answer of at most `cap` bytes.
    pub(super) async fn post(
        &self,
        tls: &UpstreamTls,
        body: String,
        cap: usize,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let response = post::post(&self.0, tls, self.credential(), body.into_bytes()).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), cap).collect().await?;
        Ok((status, answer.to_bytes().to_vec()))
    }

    /// The URL's `user:password@` as a `Basic` credential (RFC 7617).
    fn credential(&self) -> Option<HeaderValue> {
        let (user_information, _) = self.0.authority()?.as_str().rsplit_once('@')?;
        let encoded = STANDARD.encode(percent_decoded(user_information));
        let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Percent-decoding (RFC 3986 §2.1); anything that is not an escape stays as it is.
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

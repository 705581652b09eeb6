//! JSON-RPC to the operator's own nodes: one POST per question, bounded, over our own hyper client.
//!
//! Nodes are named in `bursar.toml`, so the guard against private addresses does not apply to them.

use std::time::Duration;

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolCall, sol};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::assets::{Asset, Network};
use crate::tls::AlpnOffer;
use crate::tls::upstream::UpstreamTls;

/// One answer is a word or a block head; a node that sends more is not answering us.
const ANSWER_CAP: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

sol! {
    function balanceOf(address owner) external view returns (uint256 balance);
}

/// A node, by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node(Uri);

#[derive(Debug, Error)]
pub enum RpcError {
    #[error("{node} did not answer within 10 s")]
    Timeout { node: String },
    #[error("{node}: {source}")]
    Transport {
        node: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{node} answered {code}: {message}")]
    Refused { node: String, code: i64, message: String },
    #[error("{node} serves {actual}, not {expected}")]
    WrongNetwork {
        node: String,
        expected: Network,
        actual: String,
    },
    #[error("{node} gave an answer that is not what was asked for")]
    Answer { node: String },
}

#[derive(Deserialize)]
struct Reply {
    result: Option<String>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i64,
    message: String,
}

impl Node {
    /// `url` is http or https with a host, which bursar.toml's reader has made sure of.
    pub fn new(url: Uri) -> Self {
        Self(url)
    }

    /// Without path and query: providers put their keys there.
    pub fn shown(&self) -> String {
        format!("{}://{}", self.0.scheme_str().unwrap_or_default(), self.host_and_port())
    }

    /// Proves that the node serves the network it is named for.
    pub async fn check_network(&self, tls: &UpstreamTls, expected: Network) -> Result<(), RpcError> {
        let actual = self.ask(tls, "eth_chainId", json!([])).await?;
        let id = u64::from_str_radix(actual.trim_start_matches("0x"), 16).map_err(|_| self.odd())?;
        if id == expected.chain_id() {
            return Ok(());
        }
        Err(RpcError::WrongNetwork {
            node: self.shown(),
            expected,
            actual: format!("eip155:{id}"),
        })
    }

    /// Atoms of `asset` that `owner` holds at the newest block.
    pub async fn balance(&self, tls: &UpstreamTls, asset: &Asset, owner: Address) -> Result<U256, RpcError> {
        let call = Bytes::from(balanceOfCall { owner }.abi_encode());
        let question = json!([{ "to": asset.address, "data": call }, "latest"]);
        let word = self.ask(tls, "eth_call", question).await?;
        let word: Bytes = word.parse().map_err(|_| self.odd())?;
        balanceOfCall::abi_decode_returns_validate(&word).map_err(|_| self.odd())
    }

    async fn ask(&self, tls: &UpstreamTls, method: &str, params: serde_json::Value) -> Result<String, RpcError> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let answer = timeout(PATIENCE, self.post(tls, body))
            .await
            .map_err(|_| RpcError::Timeout { node: self.shown() })?
            .map_err(|source| RpcError::Transport {
                node: self.shown(),
                source,
            })?;
        let reply: Reply = serde_json::from_slice(&answer).map_err(|_| self.odd())?;
        if let Some(Refusal { code, message }) = reply.error {
            let message = message.chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(RpcError::Refused {
                node: self.shown(),
                code,
                message,
            });
        }
        reply.result.ok_or_else(|| self.odd())
    }

    async fn post(&self, tls: &UpstreamTls, body: String) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        let secure = self.0.scheme_str() == Some("https");
        let host = self.0.host().unwrap_or_default();
        let port = self.0.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await?;
        stream.set_nodelay(true)?;
        if !secure {
            return self.exchange(stream, body).await;
        }
        let name = ServerName::try_from(bare.to_owned())?;
        let stream = tokio_rustls::TlsConnector::from(tls.config(AlpnOffer::Http1))
            .connect(name, stream)
            .await?;
        self.exchange(stream, body).await
    }

    async fn exchange<S>(&self, stream: S, body: String) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>
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
        let answer = Limited::new(response.into_body(), ANSWER_CAP).collect().await?;
        Ok(answer.to_bytes().to_vec())
    }

    fn host_and_port(&self) -> String {
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

    fn odd(&self) -> RpcError {
        RpcError::Answer { node: self.shown() }
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

//! JSON-RPC to the operator's own nodes: one POST per question, with bounds on time and size, over bursar's own HTTP
//! client.
//!
//! Nodes are named in `bursar.toml`, so the guard against private addresses does not apply to them. Their answers are
//! not trusted, though: nodes are slow, pruned and rate limited, and may lie (threat 1.18). Every answer is read
//! strictly into a type and checked against the question. `block` asks about heads and times, `contract` calls
//! contracts, `logs` asks what moved, `whole` checks that all logs of a block were shown, `sent` asks for a
//! transaction.

use std::time::Duration;

use http::{StatusCode, Uri};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use serde_json::json;
use thiserror::Error;
use tokio::time::timeout;

use bursar_core::assets::Network;
use bursar_core::plain::plain;
use bursar_net::tls::upstream::UpstreamTls;

mod block;
mod contract;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)] // only tests call it
pub mod fake;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod logs;
mod sent;
mod transport;
mod whole;
mod wire;

pub use block::Block;
pub use contract::At;
pub use logs::{Event, Log, Mined, TEMPO_FEES};
pub use sent::Sent;

/// A normal answer is one word, or a block header with the hashes of its transactions.
const ANSWER_CAP: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// A node, known by its URL.
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
    #[error("{node} answered with HTTP status {status}")]
    Status { node: String, status: StatusCode },
    #[error("{node} answered {code}: {message}")]
    Refused { node: String, code: i64, message: String },
    #[error("{node} serves {actual}, not {expected}")]
    WrongNetwork {
        node: String,
        expected: Network,
        actual: String,
    },
    #[error("{node} sent an answer that does not fit the question")]
    Answer { node: String },
    #[error("{node} sent an answer longer than {cap} bytes")]
    TooLong { node: String, cap: usize },
    #[error("{node} does not say which block is final; use a node that supports the block tag \"finalized\"")]
    NoFinalized { node: String },
    #[error("{node} does not know block {block}")]
    NoBlock { node: String, block: u64 },
    #[error("{node} does not keep the state of block {block}")]
    NoState { node: String, block: u64 },
    #[error("searching blocks {first} to {last} at {node} would take too many requests or return too many logs")]
    TooMuch { node: String, first: u64, last: u64 },
}

impl Node {
    /// `url` must be http or https and have a host; the reader of bursar.toml checks that.
    pub fn new(url: Uri) -> Self {
        Self(url)
    }

    /// The URL without path and query, where providers put their keys.
    pub fn shown(&self) -> String {
        format!(
            "{}://{}",
            self.0.scheme_str().unwrap_or_default(),
            bursar_net::post::host_and_port(&self.0)
        )
    }

    /// Checks that the node serves the network it is configured for.
    pub async fn check_network(&self, tls: &UpstreamTls, expected: Network) -> Result<(), RpcError> {
        let wire::Quantity(id) = self.ask(tls, "eth_chainId", json!([]), ANSWER_CAP).await?;
        if Some(id) == expected.chain_id() {
            return Ok(());
        }
        Err(RpcError::WrongNetwork {
            node: self.shown(),
            expected,
            actual: format!("eip155:{id}"),
        })
    }

    /// Asks one question. `T` decides what counts as an answer; where the node may return `null`, it is an `Option`.
    async fn ask<T: DeserializeOwned>(
        &self,
        tls: &UpstreamTls,
        method: &str,
        params: serde_json::Value,
        cap: usize,
    ) -> Result<T, RpcError> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let (status, answer) = timeout(PATIENCE, self.post(tls, body, cap))
            .await
            .map_err(|_| RpcError::Timeout { node: self.shown() })?
            .map_err(|source| self.failed(source, cap))?;
        self.read(status, &answer)
    }

    /// What an answer says.
    fn read<T: DeserializeOwned>(&self, status: StatusCode, answer: &[u8]) -> Result<T, RpcError> {
        // Providers refuse with 400, 429 or 500 and still give the reason in JSON-RPC.
        let Ok(reply) = serde_json::from_slice::<wire::Reply>(answer) else {
            return Err(match status.is_success() {
                true => self.odd(),
                false => RpcError::Status {
                    node: self.shown(),
                    status,
                },
            });
        };
        if let Some(wire::Refusal { code, message }) = reply.error {
            let message = plain(&message).chars().take(200).collect();
            return Err(RpcError::Refused {
                node: self.shown(),
                code,
                message,
            });
        }
        let result = reply.result.ok_or_else(|| self.odd())?;
        serde_json::from_str(result.get()).map_err(|_| self.odd())
    }

    fn failed(&self, source: Box<dyn std::error::Error + Send + Sync>, cap: usize) -> RpcError {
        let node = self.shown();
        match source.is::<LengthLimitError>() {
            true => RpcError::TooLong { node, cap },
            false => RpcError::Transport { node, source },
        }
    }

    /// The error for a caller that found two answers of this node to contradict each other.
    pub fn contradicts_itself(&self) -> RpcError {
        self.odd()
    }

    fn odd(&self) -> RpcError {
        RpcError::Answer { node: self.shown() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::fake::{Fake, tls};
    use super::*;

    const NETWORK: Network = Network::Eip155(84_532);

    #[tokio::test]
    async fn a_chain_id_is_a_number_that_fits() {
        let cases = [
            (json!({ "result": "0x14a34" }), "ok"),
            (
                json!({ "result": "0x1" }),
                "http://127.0.0.1 serves eip155:1, not eip155:84532",
            ),
            (json!({ "result": "84532" }), "does not fit the question"),
            (json!({ "result": "0x" }), "does not fit the question"),
            (
                json!({ "result": format!("0x{}", "f".repeat(64)) }),
                "does not fit the question",
            ),
            (
                json!({ "result": format!("0x{}", "0".repeat(65)) }),
                "does not fit the question",
            ),
            (json!({ "result": 84532 }), "does not fit the question"),
            (json!({ "result": null }), "does not fit the question"),
            (json!({ "result": ["0x14a34"] }), "does not fit the question"),
            (json!({}), "does not fit the question"),
            (json!([]), "does not fit the question"),
            (
                json!({ "error": { "code": -32005, "message": "slow\u{7} down" } }),
                r"answered -32005: slow\u{7} down",
            ),
            (
                json!({ "result": "0x14a34", "error": { "code": 1, "message": "both" } }),
                "answered 1: both",
            ),
        ];
        for (reply, expected) in cases {
            let shown = reply.to_string();
            let fake = Fake::replying(move |_, _| reply.clone()).await;
            let said = match fake.node().check_network(&tls(), NETWORK).await {
                Ok(()) => "ok".to_owned(),
                Err(error) => error.to_string().replace(&format!(":{}", fake.port()), ""),
            };
            assert!(said.contains(expected), "{shown}: {said}");
        }
    }

    #[tokio::test]
    async fn a_status_is_reported_when_there_is_no_reply_and_a_long_answer_is_cut() {
        let fake = Fake::with_status(StatusCode::TOO_MANY_REQUESTS, |_, _| json!("slow down")).await;
        let error = fake.node().check_network(&tls(), NETWORK).await.unwrap_err();
        assert!(
            matches!(error, RpcError::Status { status, .. } if status == 429),
            "{error}"
        );

        let fake = Fake::with_status(
            StatusCode::BAD_REQUEST,
            |_, _| json!({ "error": { "code": -32600, "message": "no" } }),
        )
        .await;
        let error = fake.node().check_network(&tls(), NETWORK).await.unwrap_err();
        assert!(matches!(error, RpcError::Refused { code: -32600, .. }), "{error}");

        let fake = Fake::replying(|_, _| json!({ "result": "0".repeat(ANSWER_CAP) })).await;
        let error = fake.node().check_network(&tls(), NETWORK).await.unwrap_err();
        assert!(matches!(error, RpcError::TooLong { .. }), "{error}");
    }
}

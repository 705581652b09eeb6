//! The readers of nodes' answers, for `fuzz/`.

use alloy_primitives::B256;
use http::{StatusCode, Uri};

use super::logs::{RawLog, RawReceipt};
use super::sent::RawTransaction;
use super::{Block, Mined, Node, RpcError, Sent, wire};

/// The transaction that is asked for.
pub const TX: B256 = B256::repeat_byte(0xab);

fn node() -> Node {
    Node::new(Uri::from_static("http://127.0.0.1:1"))
}

pub fn rpc_quantity(status: StatusCode, answer: &[u8]) -> Result<u64, RpcError> {
    node().read(status, answer).map(|wire::Quantity(number)| number)
}

pub fn rpc_block(status: StatusCode, answer: &[u8]) -> Result<Option<Block>, RpcError> {
    node().read(status, answer)
}

pub fn rpc_mined(status: StatusCode, answer: &[u8], tx: B256) -> Result<Option<Mined>, RpcError> {
    let receipt: Option<RawReceipt> = node().read(status, answer)?;
    Ok(receipt.and_then(|receipt| receipt.mined(tx)))
}

/// How many of the logs are events that this crate can read.
pub fn rpc_logs(status: StatusCode, answer: &[u8]) -> Result<usize, RpcError> {
    let logs: Vec<RawLog> = node().read(status, answer)?;
    Ok(logs.iter().filter_map(RawLog::read).count())
}

pub fn rpc_sent(status: StatusCode, answer: &[u8], tx: B256) -> Result<Option<Sent>, RpcError> {
    let raw: Option<RawTransaction> = node().read(status, answer)?;
    Ok(raw.and_then(|raw| raw.sent(tx)?))
}

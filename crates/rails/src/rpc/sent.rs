//! A transaction as its sender signed it.

use alloy_primitives::{Address, B256, Bytes, hex};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Node, RpcError, wire};
use bursar_net::tls::upstream::UpstreamTls;

/// Nodes hand on transactions of at most 128 KiB, twice that in hexadecimal; room for a chain that allows more.
const SENT_CAP: usize = 512 << 10;

/// A transaction as it was sent, and the block that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub block: u64,
    /// Nothing where it made a contract.
    pub to: Option<Address>,
    pub input: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTransaction {
    #[serde(deserialize_with = "wire::word")]
    hash: B256,
    /// `null` while it waits for a block.
    block_number: Option<wire::Quantity>,
    to: Option<wire::Account>,
    input: wire::Data,
}

/// One of any kind, by what all kinds have.
#[derive(Deserialize)]
struct OfAnyKind {
    #[serde(deserialize_with = "wire::word")]
    hash: B256,
}

impl Node {
    /// The transaction as it was sent, if the node has it in a block. Not for Tempo's own kind, which has several calls.
    pub async fn sent(&self, tls: &UpstreamTls, tx: B256) -> Result<Option<Sent>, RpcError> {
        let raw: Option<RawTransaction> = self.ask(tls, "eth_getTransactionByHash", json!([tx]), SENT_CAP).await?;
        let Some(raw) = raw else { return Ok(None) };
        if raw.hash != tx {
            return Err(self.odd());
        }
        let wire::Data(input) = raw.input;
        Ok(raw.block_number.map(|wire::Quantity(block)| Sent {
            block,
            to: raw.to.map(|wire::Account(to)| to),
            input,
        }))
    }

    /// Whether a transaction of any kind has those 32 bytes in it, be it in the input of a call or wherever else: what was
    /// signed with them shows them in whatever form its kind is written.
    pub async fn has_in_it(&self, tls: &UpstreamTls, tx: B256, word: &B256) -> Result<bool, RpcError> {
        let raw: Box<RawValue> = self.ask(tls, "eth_getTransactionByHash", json!([tx]), SENT_CAP).await?;
        let read: OfAnyKind = serde_json::from_str(raw.get()).map_err(|_| self.odd())?;
        if read.hash != tx {
            return Err(self.odd());
        }
        Ok(raw.get().to_ascii_lowercase().contains(&hex::encode(word)))
    }
}

//! A transaction as its sender signed it.

use alloy_primitives::{Address, B256, Bytes, hex};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Node, RpcError, wire};
use bursar_net::tls::upstream::UpstreamTls;

/// Nodes relay transactions of at most 128 KiB, which is twice that in hexadecimal; the rest is room for a chain that
/// allows more.
const SENT_CAP: usize = 512 << 10;

/// A transaction as it was sent, and the block that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub block: u64,
    /// `None` if it created a contract.
    pub to: Option<Address>,
    pub input: Bytes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawTransaction {
    #[serde(deserialize_with = "wire::word")]
    hash: B256,
    /// `null` while it is pending.
    block_number: Option<wire::Quantity>,
    to: Option<wire::Account>,
    input: wire::Data,
}

impl RawTransaction {
    /// `None` if it is another transaction than `tx`; nothing in it while it is pending.
    #[expect(clippy::option_option, reason = "another transaction is not one that is pending")]
    pub(super) fn sent(self, tx: B256) -> Option<Option<Sent>> {
        let wire::Data(input) = self.input;
        (self.hash == tx).then(|| {
            self.block_number.map(|wire::Quantity(block)| Sent {
                block,
                to: self.to.map(|wire::Account(to)| to),
                input,
            })
        })
    }
}

/// A transaction of any kind, read by the member that all kinds have.
#[derive(Deserialize)]
struct OfAnyKind {
    #[serde(deserialize_with = "wire::word")]
    hash: B256,
}

impl Node {
    /// The transaction as it was sent, if it is in a block. Not for Tempo's own kind, which contains several calls.
    pub async fn sent(&self, tls: &UpstreamTls, tx: B256) -> Result<Option<Sent>, RpcError> {
        let raw: Option<RawTransaction> = self.ask(tls, "eth_getTransactionByHash", json!([tx]), SENT_CAP).await?;
        let Some(raw) = raw else { return Ok(None) };
        raw.sent(tx).ok_or_else(|| self.odd())
    }

    /// Whether the JSON of a transaction, of any kind, contains these 32 bytes anywhere: in the input of a call or in
    /// another member. Bytes that were signed appear in it however that kind is written.
    pub async fn has_in_it(&self, tls: &UpstreamTls, tx: B256, word: &B256) -> Result<bool, RpcError> {
        let raw: Box<RawValue> = self.ask(tls, "eth_getTransactionByHash", json!([tx]), SENT_CAP).await?;
        let read: OfAnyKind = serde_json::from_str(raw.get()).map_err(|_| self.odd())?;
        if read.hash != tx {
            return Err(self.odd());
        }
        Ok(raw.get().to_ascii_lowercase().contains(&hex::encode(word)))
    }
}

//! All logs of a block, checked against the block's header.
//!
//! An empty search result looks the same whether nothing was logged, the receipts have been pruned, or the machine that
//! answered has not seen the block yet. The bloom filter in the header tells these apart: what it does not contain was
//! not logged, and logs that are not exactly those of the block do not add up to it.

use alloy_primitives::{Address, B256, Bloom, BloomInput};
use serde::Deserialize;
use serde_json::json;

use super::logs::{LOGS_CAP, RawLog};
use super::{ANSWER_CAP, Log, Node, RpcError, wire};
use bursar_net::tls::upstream::UpstreamTls;

/// The parts of a block header that describe its logs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logged {
    #[serde(deserialize_with = "wire::quantity")]
    number: u64,
    #[serde(deserialize_with = "wire::word")]
    hash: B256,
    #[serde(deserialize_with = "wire::bloom")]
    logs_bloom: Bloom,
}

impl Logged {
    /// False only if no log of `contract` has the account in a topic.
    pub fn may_concern(&self, contract: Address, account: Address) -> bool {
        self.logs_bloom.contains_input(BloomInput::Raw(contract.as_slice()))
            && self
                .logs_bloom
                .contains_input(BloomInput::Raw(account.into_word().as_slice()))
    }
}

impl Node {
    /// What the header of a block says about its logs.
    pub async fn logged(&self, tls: &UpstreamTls, number: u64) -> Result<Logged, RpcError> {
        let params = json!([format!("{number:#x}"), false]);
        let header: Option<Logged> = self.ask(tls, "eth_getBlockByNumber", params, ANSWER_CAP).await?;
        let header = header.ok_or_else(|| RpcError::NoBlock {
            node: self.shown(),
            block: number,
        })?;
        match header.number == number {
            true => Ok(header),
            false => Err(self.odd()),
        }
    }

    /// The logs of a block that this crate can read. `None` if the logs that the node returns do not match the header.
    pub async fn all_logs(&self, tls: &UpstreamTls, of: &Logged) -> Result<Option<Vec<Log>>, RpcError> {
        let params = json!([{ "blockHash": of.hash }]);
        let raw: Vec<RawLog> = self.ask(tls, "eth_getLogs", params, LOGS_CAP).await?;
        let mut bloom = Bloom::ZERO;
        for log in &raw {
            if log.block_number != of.number || log.removed {
                return Err(self.odd());
            }
            bloom.accrue_raw_log(log.address, &log.topics);
        }
        Ok((bloom == of.logs_bloom).then(|| raw.iter().filter_map(RawLog::read).collect()))
    }
}

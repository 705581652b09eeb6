//! The token's events, as a node reports them: `AuthorizationUsed` and `Transfer` for each transfer, in its block.

use alloy_primitives::{Address, B256, TxHash, U256};
use alloy_sol_types::{SolEvent, sol};
use serde_json::{Value, json};

use super::token::Token;
use super::usdc;

/// The most topics an event can have (LOG4).
const MAX_TOPICS: usize = 4;

sol! {
    event Transfer(address indexed from, address indexed to, uint256 value);
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
}

/// The filter of an `eth_getLogs` call.
pub(crate) struct Filter {
    pub first: u64,
    pub last: u64,
    contracts: Option<Vec<Address>>,
    topics: Vec<Option<Vec<B256>>>,
}

struct Log {
    block: u64,
    index: usize,
    transaction: TxHash,
    topics: Vec<B256>,
    data: Vec<u8>,
}

impl Filter {
    /// Reads `address` and `topics` of the filter object; the caller reads the blocks. `None` if the object is
    /// malformed.
    pub(crate) fn read(filter: &Value, first: u64, last: u64) -> Option<Self> {
        let topics = match &filter["topics"] {
            Value::Null => Vec::new(),
            Value::Array(places) if places.len() <= MAX_TOPICS => places.iter().map(any_of).collect::<Option<_>>()?,
            _ => return None,
        };
        Some(Self {
            first,
            last,
            contracts: any_of(&filter["address"])?,
            topics,
        })
    }

    fn fits(&self, log: &Log) -> bool {
        let of_place = |(at, wanted): (usize, &Option<Vec<B256>>)| match wanted {
            None => at < log.topics.len(),
            Some(any) => log.topics.get(at).is_some_and(|topic| any.contains(topic)),
        };
        (self.first..=self.last).contains(&log.block)
            && self.contracts.as_ref().is_none_or(|any| any.contains(&usdc::CONTRACT))
            && self.topics.iter().enumerate().all(of_place)
    }
}

/// `null` matches anything, a string one value, an array any of its values.
fn any_of<T: std::str::FromStr>(wanted: &Value) -> Option<Option<Vec<T>>> {
    let one = |value: &Value| value.as_str()?.parse().ok();
    Some(match wanted {
        Value::Null => None,
        Value::Array(any) => Some(any.iter().map(one).collect::<Option<_>>()?),
        value => Some(vec![one(value)?]),
    })
}

pub(crate) fn matching(token: &Token, filter: &Filter) -> Value {
    all(token)
        .iter()
        .filter(|log| filter.fits(log))
        .map(Log::json)
        .collect()
}

/// `null` for an unknown transaction.
pub(crate) fn receipt(token: &Token, transaction: TxHash, block_hash: fn(u64) -> B256) -> Value {
    let logs = all(token);
    let logs: Vec<&Log> = logs.iter().filter(|log| log.transaction == transaction).collect();
    let Some(first) = logs.first() else { return Value::Null };
    json!({
        "transactionHash": transaction,
        "blockNumber": format!("{:#x}", first.block),
        "blockHash": block_hash(first.block),
        "status": "0x1",
        "logs": logs.iter().map(|log| log.json()).collect::<Vec<_>>(),
    })
}

fn all(token: &Token) -> Vec<Log> {
    let mut logs: Vec<Log> = Vec::new();
    for transfer in token.transfers() {
        let block = u64::try_from(transfer.at.as_second()).unwrap_or(0);
        let used = AuthorizationUsed {
            authorizer: transfer.from,
            nonce: transfer.nonce,
        };
        let moved = Transfer {
            from: transfer.from,
            to: transfer.to,
            value: U256::from(transfer.value.get()),
        };
        for event in [used.encode_log_data(), moved.encode_log_data()] {
            // Its position among all logs of its block.
            let index = logs.iter().rev().take_while(|log| log.block == block).count();
            logs.push(Log {
                block,
                index,
                transaction: transfer.transaction,
                topics: event.topics().to_vec(),
                data: event.data.to_vec(),
            });
        }
    }
    logs
}

impl Log {
    fn json(&self) -> Value {
        json!({
            "address": usdc::CONTRACT,
            "topics": self.topics,
            "data": alloy_primitives::hex::encode_prefixed(&self.data),
            "blockNumber": format!("{:#x}", self.block),
            "transactionHash": self.transaction,
            "logIndex": format!("{:#x}", self.index),
            "removed": false,
        })
    }
}

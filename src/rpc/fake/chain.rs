//! A chain with one block every two seconds and the events of a test; honest, unless the test bends its answers.

use alloy_primitives::{Address, B256, U256, hex};
use serde_json::{Value, json};

use super::super::{Event, Log};
use super::{block, number};

const TRANSFER: &str = "Transfer(address,address,uint256)";
const USED: &str = "AuthorizationUsed(address,bytes32)";
const CANCELED: &str = "AuthorizationCanceled(address,bytes32)";

#[derive(Clone)]
pub struct Chain {
    pub id: u64,
    pub newest: u64,
    pub finalized: u64,
    /// Timestamp of block 0.
    pub genesis: u64,
    /// States of older blocks are gone.
    pub state_since: u64,
    /// Longest range of blocks that `eth_getLogs` takes.
    pub range: u64,
    pub logs: Vec<Log>,
}

impl Chain {
    pub fn new(genesis: u64, finalized: u64, newest: u64) -> Self {
        Self {
            id: 84_532,
            newest,
            finalized,
            genesis,
            state_since: 0,
            range: u64::MAX,
            logs: Vec::new(),
        }
    }

    pub fn time(&self, number: u64) -> u64 {
        self.genesis + 2 * number
    }

    /// Adds events of `token` as one transaction of `block`.
    pub fn mine(&mut self, block: u64, tx: B256, token: Address, events: &[Event]) {
        for event in events {
            let index = self.logs.len() as u64;
            self.logs.push(Log {
                token,
                event: *event,
                block,
                tx,
                index,
            });
        }
    }

    pub fn answer(&self, method: &str, params: &Value) -> Value {
        match method {
            "eth_chainId" => json!({ "result": format!("{:#x}", self.id) }),
            "eth_getBlockByNumber" => match self.number(&params[0]) {
                number if number <= self.newest => json!({ "result": block(number, self.time(number)) }),
                _ => json!({ "result": null }),
            },
            "eth_call" => self.authorization_state(&params[0]["data"], self.number(&params[1])),
            "eth_getLogs" => self.matching(&params[0]),
            "eth_getTransactionReceipt" => self.receipt(&params[0]),
            _ => json!({ "error": { "code": -32601, "message": "no such method" } }),
        }
    }

    fn number(&self, parameter: &Value) -> u64 {
        match parameter.as_str().unwrap() {
            "latest" => self.newest,
            "finalized" => self.finalized,
            _ => number(parameter),
        }
    }

    fn authorization_state(&self, data: &Value, at: u64) -> Value {
        if at < self.state_since || at > self.newest {
            return json!({ "error": { "code": -32000, "message": "missing trie node 00" } });
        }
        let data = hex::decode(data.as_str().unwrap()).unwrap();
        let (wallet, of) = (Address::from_slice(&data[16..36]), B256::from_slice(&data[36..]));
        let spent = self
            .logs
            .iter()
            .filter(|log| log.block <= at)
            .any(|log| match log.event {
                Event::AuthorizationUsed { authorizer, nonce } => (authorizer, nonce) == (wallet, of),
                Event::AuthorizationCanceled { authorizer, nonce } => (authorizer, nonce) == (wallet, of),
                Event::Transfer { .. } => false,
            });
        json!({ "result": format!("0x{:064x}", u8::from(spent)) })
    }

    fn matching(&self, filter: &Value) -> Value {
        let (first, last) = (number(&filter["fromBlock"]), number(&filter["toBlock"]));
        if last - first >= self.range {
            return json!({ "error": { "code": -32005, "message": "block range is too wide" } });
        }
        let one_of = |wanted: &Value, value: &Value| match wanted {
            Value::Null => true,
            Value::Array(any) => any.contains(value),
            one => one == value,
        };
        let fits = |log: &Value| {
            let topics = filter["topics"].as_array().unwrap().iter().enumerate();
            one_of(&filter["address"], &log["address"])
                && topics
                    .into_iter()
                    .all(|(at, wanted)| one_of(wanted, &log["topics"][at]))
        };
        let in_range = self.logs.iter().filter(|log| (first..=last).contains(&log.block));
        let found: Vec<Value> = in_range.map(log_json).filter(fits).collect();
        json!({ "result": found })
    }

    fn receipt(&self, tx: &Value) -> Value {
        let logs: Vec<Value> = self.logs.iter().map(log_json).collect();
        let logs: Vec<&Value> = logs.iter().filter(|log| log["transactionHash"] == *tx).collect();
        match logs.first() {
            None => json!({ "result": null }),
            Some(first) => json!({ "result": {
                "transactionHash": tx,
                "blockNumber": first["blockNumber"],
                "status": "0x1",
                "logs": logs,
            } }),
        }
    }
}

/// A log as nodes write it.
pub fn log_json(log: &Log) -> Value {
    let signature = |text: &str| alloy_primitives::keccak256(text);
    let (topics, data) = match log.event {
        Event::Transfer { from, to, value } => (
            vec![signature(TRANSFER), from.into_word(), to.into_word()],
            B256::from(value).to_string(),
        ),
        Event::AuthorizationUsed { authorizer, nonce } => {
            (vec![signature(USED), authorizer.into_word(), nonce], "0x".to_owned())
        }
        Event::AuthorizationCanceled { authorizer, nonce } => (
            vec![signature(CANCELED), authorizer.into_word(), nonce],
            "0x".to_owned(),
        ),
    };
    json!({
        "address": log.token,
        "topics": topics,
        "data": data,
        "blockNumber": format!("{:#x}", log.block),
        "transactionHash": log.tx,
        "logIndex": format!("{:#x}", log.index),
        "removed": false,
    })
}

/// `AuthorizationUsed` and the `Transfer` after it.
pub fn cashing(from: Address, nonce: B256, to: Address, value: u64) -> [Event; 2] {
    let value = U256::from(value);
    [
        Event::AuthorizationUsed {
            authorizer: from,
            nonce,
        },
        Event::Transfer { from, to, value },
    ]
}

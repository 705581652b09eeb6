//! A chain with one block every two seconds and the events that a test puts in; honest, unless the test alters its
//! answers.

use alloy_primitives::{Address, B256, Bloom, U256, hex};
use serde_json::{Value, json};

use super::super::logs::RawLog;
use super::super::{Event, Log, Sent};
use super::{block, hash, number};

const TRANSFER: &str = "Transfer(address,address,uint256)";
const USED: &str = "AuthorizationUsed(address,bytes32)";
const CANCELED: &str = "AuthorizationCanceled(address,bytes32)";
const MEMO: &str = "TransferWithMemo(address,address,uint256,bytes32)";
const INVALIDATED: &str = "UnorderedNonceInvalidation(address,uint256,uint256)";
/// `nonceBitmap(address,uint256)`
const NONCE_BITMAP: [u8; 4] = [0x4f, 0xe0, 0x2b, 0x44];

/// A transfer that a token made.
#[derive(Clone, Copy)]
pub struct Transferred {
    pub from: Address,
    pub to: Address,
    pub value: u64,
}

#[derive(Clone)]
pub struct Chain {
    pub id: u64,
    pub newest: u64,
    pub finalized: u64,
    /// Timestamp of block 0.
    pub genesis: u64,
    /// States of older blocks are pruned.
    pub state_since: u64,
    /// The longest range of blocks that `eth_getLogs` accepts.
    pub range: u64,
    pub logs: Vec<Log>,
    /// Blocks in which Permit2 used a nonce of an owner.
    pub permits: Vec<(u64, Address, B256)>,
    /// Transactions as they were sent.
    pub sent: Vec<(B256, Sent)>,
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
            permits: Vec::new(),
            sent: Vec::new(),
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

    /// Takes through Permit2, under each nonce the amount given for it, all in one transaction.
    pub fn take(&mut self, tx: B256, token: Address, taken: &[(B256, Transferred)], sent: Sent) {
        let block = sent.block;
        for (nonce, Transferred { from, to, value }) in taken {
            self.permits.push((block, *from, *nonce));
            let (from, to, value) = (*from, *to, U256::from(*value));
            self.mine(block, tx, token, &[Event::Transfer { from, to, value }]);
        }
        self.sent.push((tx, sent));
    }

    pub fn answer(&self, method: &str, params: &Value) -> Value {
        match method {
            "eth_chainId" => json!({ "result": format!("{:#x}", self.id) }),
            "eth_getBlockByNumber" => match self.number(&params[0]) {
                number if number <= self.newest => json!({ "result": self.head(number) }),
                _ => json!({ "result": null }),
            },
            "eth_call" => self.call(&params[0]["data"], self.number(&params[1])),
            "eth_getTransactionByHash" => self.transaction(&params[0]),
            "eth_getLogs" => self.matching(&params[0]),
            "eth_getTransactionReceipt" => self.receipt(&params[0]),
            _ => json!({ "error": { "code": -32601, "message": "no such method" } }),
        }
    }

    fn head(&self, number: u64) -> Value {
        let mut head = block(number, self.time(number));
        let mut bloom = Bloom::ZERO;
        for log in self.logs.iter().filter(|log| log.block == number) {
            let shown: RawLog = serde_json::from_value(log_json(log)).unwrap();
            bloom.accrue_raw_log(shown.address, &shown.topics);
        }
        head["logsBloom"] = json!(bloom);
        head
    }

    fn number(&self, parameter: &Value) -> u64 {
        match parameter.as_str().unwrap() {
            "latest" => self.newest,
            "finalized" => self.finalized,
            _ => number(parameter),
        }
    }

    fn call(&self, data: &Value, at: u64) -> Value {
        if at < self.state_since || at > self.newest {
            return json!({ "error": { "code": -32000, "message": "missing trie node 00" } });
        }
        let data = hex::decode(data.as_str().unwrap()).unwrap();
        match data.starts_with(&NONCE_BITMAP) {
            true => self.nonce_bitmap(&data, at),
            false => self.authorization_state(&data, at),
        }
    }

    fn nonce_bitmap(&self, data: &[u8], at: u64) -> Value {
        let (owner, word) = (Address::from_slice(&data[16..36]), U256::from_be_slice(&data[36..]));
        let mut bits = U256::ZERO;
        for (block, of, nonce) in &self.permits {
            let nonce = U256::from_be_bytes(nonce.0);
            if *block <= at && *of == owner && nonce >> 8 == word {
                bits.set_bit(usize::from(nonce.byte(0)), true);
            }
        }
        for log in self.logs.iter().filter(|log| log.block <= at) {
            match log.event {
                Event::NoncesInvalidated {
                    owner: of,
                    word: at,
                    mask,
                } if (of, at) == (owner, word) => bits |= mask,
                _ => {}
            }
        }
        json!({ "result": B256::from(bits) })
    }

    fn transaction(&self, tx: &Value) -> Value {
        match self.sent.iter().find(|(hash, _)| json!(hash) == *tx) {
            None => json!({ "result": null }),
            Some((hash, Sent { block, to, input })) => json!({ "result": {
                "hash": hash, "blockNumber": format!("{block:#x}"), "to": to, "input": input, "value": "0x0",
            } }),
        }
    }

    fn authorization_state(&self, data: &[u8], at: u64) -> Value {
        let (wallet, of) = (Address::from_slice(&data[16..36]), B256::from_slice(&data[36..]));
        let spent = self
            .logs
            .iter()
            .filter(|log| log.block <= at)
            .any(|log| match log.event {
                Event::AuthorizationUsed { authorizer, nonce } => (authorizer, nonce) == (wallet, of),
                Event::AuthorizationCanceled { authorizer, nonce } => (authorizer, nonce) == (wallet, of),
                _ => false,
            });
        json!({ "result": format!("0x{:064x}", u8::from(spent)) })
    }

    fn matching(&self, filter: &Value) -> Value {
        if let Some(wanted) = filter["blockHash"].as_str() {
            let block = (0..=self.newest).find(|number| hash(*number).to_string() == wanted);
            let of_block = self.logs.iter().filter(|log| Some(log.block) == block);
            let all: Vec<Value> = of_block.map(log_json).collect();
            return json!({ "result": all });
        }
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

/// A log, as nodes return it.
pub(crate) fn log_json(log: &Log) -> Value {
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
        Event::TransferWithMemo { from, to, value, memo } => (
            vec![signature(MEMO), from.into_word(), to.into_word(), memo],
            B256::from(value).to_string(),
        ),
        Event::NoncesInvalidated { owner, word, mask } => (
            vec![signature(INVALIDATED), owner.into_word()],
            hex::encode_prefixed([B256::from(word).0, B256::from(mask).0].concat()),
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

/// A `Transfer`, and Tempo's event with its memo.
pub fn memoed(from: Address, memo: B256, to: Address, value: u64) -> [Event; 2] {
    let value = U256::from(value);
    [
        Event::Transfer { from, to, value },
        Event::TransferWithMemo { from, to, value, memo },
    ]
}

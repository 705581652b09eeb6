//! The token's chain, as far as payers query it: JSON-RPC 2.0 on `POST /rpc`.
//!
//! Methods: `eth_chainId`, `eth_blockNumber`, `eth_getBlockByNumber`, `eth_getLogs`, `eth_getTransactionReceipt`, and
//! `eth_call` of the token's `balanceOf`, `authorizationState` and `decimals`. There is one block per second; a block's
//! number is its Unix time. The chain never reorganizes, so every block is final once its second is over. Balances are
//! always the newest, regardless of the requested block.

use alloy_primitives::{Address, B256, Bytes, U256, hex, keccak256};
use alloy_sol_types::{SolCall, sol};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::logs::{self, Filter};
use super::token::Token;
use super::usdc;

/// The most calls in one batch.
const MAX_BATCH: usize = 100;

sol! {
    function balanceOf(address holder) external view returns (uint256);
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
    function decimals() external view returns (uint8);
}

/// Answers one request body: a call or a batch of calls.
pub(crate) fn answer(token: &Token, now: Timestamp, body: &[u8]) -> Value {
    match serde_json::from_slice(body) {
        Err(_) => failure(&Value::Null, &RpcError::PARSE),
        Ok(Value::Array(calls)) if calls.is_empty() || calls.len() > MAX_BATCH => {
            failure(&Value::Null, &RpcError::BATCH)
        }
        Ok(Value::Array(calls)) => calls.iter().map(|call| one(token, now, call)).collect(),
        Ok(call) => one(token, now, &call),
    }
}

struct RpcError {
    code: i64,
    message: &'static str,
}

impl RpcError {
    const PARSE: Self = Self {
        code: -32700,
        message: "the body is not JSON",
    };
    const BATCH: Self = Self {
        code: -32600,
        message: "a batch must hold 1 to 100 calls",
    };
    const METHOD: Self = Self {
        code: -32601,
        message: "the sandbox chain has no such method",
    };
    const PARAMS: Self = Self {
        code: -32602,
        message: "invalid parameters for this method",
    };
    const REVERTED: Self = Self {
        code: 3,
        message: "execution reverted",
    };
    const NO_STATE: Self = Self {
        code: -32000,
        message: "block not found",
    };
}

fn one(token: &Token, now: Timestamp, call: &Value) -> Value {
    let params = &call["params"];
    let head = u64::try_from(now.as_second()).unwrap_or(0);
    let result = match call["method"].as_str() {
        Some("eth_chainId") => Ok(quantity(usdc::CHAIN_ID)),
        Some("eth_blockNumber") => Ok(quantity(head)),
        Some("eth_getBlockByNumber") => block_number(&params[0], head).map(|number| number.map_or(Value::Null, block)),
        Some("eth_call") => block_number(&params[1], head).and_then(|number| match number {
            Some(number) => contract_call(token, &params[0], number),
            None => Err(RpcError::NO_STATE),
        }),
        Some("eth_getLogs") => filter(&params[0], head).map(|filter| logs::matching(token, &filter)),
        Some("eth_getTransactionReceipt") => params[0]
            .as_str()
            .and_then(|hash| hash.parse().ok())
            .map(|transaction| logs::receipt(token, transaction, block_hash))
            .ok_or(RpcError::PARAMS),
        _ => Err(RpcError::METHOD),
    };
    match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": call["id"], "result": result }),
        Err(error) => failure(&call["id"], &error),
    }
}

fn failure(id: &Value, error: &RpcError) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": error.code, "message": error.message } })
}

/// The block number that a parameter names; `None` if it is in the future.
fn block_number(parameter: &Value, head: u64) -> Result<Option<u64>, RpcError> {
    let number = match parameter.as_str() {
        // Nodes treat a missing block as the newest.
        None if parameter.is_null() => head,
        Some("latest" | "pending") => head,
        Some("finalized" | "safe") => head.saturating_sub(1),
        Some("earliest") => 0,
        Some(text) => text
            .strip_prefix("0x")
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .ok_or(RpcError::PARAMS)?,
        None => return Err(RpcError::PARAMS),
    };
    Ok((number <= head).then_some(number))
}

/// Future blocks have no logs. Filters by block hash are not supported.
fn filter(filter: &Value, head: u64) -> Result<Filter, RpcError> {
    if !filter.is_object() || !filter["blockHash"].is_null() {
        return Err(RpcError::PARAMS);
    }
    let number = |name: &str| block_number(&filter[name], head).map(|number| number.unwrap_or(head.saturating_add(1)));
    Filter::read(filter, number("fromBlock")?, number("toBlock")?.min(head)).ok_or(RpcError::PARAMS)
}

fn block(number: u64) -> Value {
    json!({
        "number": quantity(number),
        "timestamp": quantity(number),
        "hash": block_hash(number),
        "parentHash": block_hash(number.saturating_sub(1)),
        "transactions": [],
    })
}

fn block_hash(number: u64) -> B256 {
    keccak256([b"sandbox block ".as_slice(), &number.to_be_bytes()].concat())
}

fn contract_call(token: &Token, call: &Value, block: u64) -> Result<Value, RpcError> {
    let to: Address = member(call, "to").ok_or(RpcError::PARAMS)?;
    // Newer clients send `input`, older ones `data`.
    let input: Bytes = member(call, "input")
        .or_else(|| member(call, "data"))
        .ok_or(RpcError::PARAMS)?;
    if to != usdc::CONTRACT {
        // A node's result for an address without code.
        return Ok("0x".into());
    }
    let returned = if let Ok(call) = balanceOfCall::abi_decode_validate(&input) {
        let balance = U256::from(token.balance_of(call.holder).get());
        balanceOfCall::abi_encode_returns(&balance)
    } else if let Ok(call) = authorizationStateCall::abi_decode_validate(&input) {
        let used = token.authorization_used_by(call.authorizer, call.nonce, block);
        authorizationStateCall::abi_encode_returns(&used)
    } else if decimalsCall::abi_decode_validate(&input).is_ok() {
        decimalsCall::abi_encode_returns(&usdc::DECIMALS)
    } else {
        return Err(RpcError::REVERTED);
    };
    Ok(hex::encode_prefixed(returned).into())
}

fn member<T: std::str::FromStr>(call: &Value, name: &str) -> Option<T> {
    call[name].as_str()?.parse().ok()
}

fn quantity(number: u64) -> Value {
    format!("{number:#x}").into()
}

#[cfg(test)]
mod tests {
    use alloy_primitives::address;

    use super::*;
    use bursar_core::money::Atoms;

    const HOLDER: Address = address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
    const NOW: Timestamp = Timestamp::constant(1_760_000_000, 0);

    fn ask(method: &str, params: Value) -> Value {
        let mut token = Token::new(Atoms::new(0));
        token.fund(HOLDER, Atoms::new(1_000_000)).unwrap();
        let call = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        let answer = answer(&token, NOW, call.to_string().as_bytes());
        assert_eq!(answer["id"], 7);
        answer
    }

    fn call(input: Vec<u8>) -> Value {
        json!([{ "to": usdc::CONTRACT, "data": hex::encode_prefixed(input) }, "latest"])
    }

    #[test]
    fn balances_and_nonces_are_read_by_eth_call() {
        let balance = ask("eth_call", call(balanceOfCall { holder: HOLDER }.abi_encode()));
        assert_eq!(balance["result"], format!("0x{:064x}", 1_000_000));
        let state = authorizationStateCall {
            authorizer: HOLDER,
            nonce: B256::ZERO,
        };
        let state = ask("eth_call", call(state.abi_encode()));
        assert_eq!(state["result"], format!("0x{:064x}", 0));
        assert_eq!(ask("eth_call", call(vec![1, 2, 3, 4]))["error"]["code"], 3);
        let elsewhere = json!([{ "to": HOLDER, "input": "0x70a08231" }, "latest"]);
        assert_eq!(ask("eth_call", elsewhere)["result"], "0x");
    }

    #[test]
    fn a_block_is_a_second() {
        assert_eq!(ask("eth_chainId", json!([]))["result"], "0x14a34");
        assert_eq!(ask("eth_blockNumber", json!([]))["result"], "0x68e77800");
        for (tag, number) in [
            ("latest", "0x68e77800"),
            ("0x68e77800", "0x68e77800"),
            // Its second is over.
            ("finalized", "0x68e777ff"),
        ] {
            let block = ask("eth_getBlockByNumber", json!([tag, false]));
            assert_eq!(block["result"]["timestamp"], number, "{tag}");
            assert_eq!(block["result"]["number"], number, "{tag}");
        }
        let future = ask("eth_getBlockByNumber", json!(["0x68e77801", false]));
        assert_eq!(future["result"], Value::Null);
    }

    #[test]
    fn logs_are_asked_for_by_a_whole_filter() {
        let filter = |filter: Value| ask("eth_getLogs", json!([filter]));
        for good in [
            json!({ "fromBlock": "0x0", "toBlock": "latest", "address": usdc::CONTRACT, "topics": [null, HOLDER.into_word()] }),
            json!({ "address": [usdc::CONTRACT], "topics": [[B256::ZERO, B256::repeat_byte(1)]] }),
            json!({ "fromBlock": "0x68e77801", "toBlock": "0x68e77801" }),
        ] {
            assert_eq!(filter(good.clone())["result"], json!([]), "{good}");
        }
        for bad in [
            json!(null),
            json!({ "blockHash": B256::ZERO }),
            json!({ "fromBlock": 1 }),
            json!({ "address": "0x12" }),
            json!({ "topics": ["0x12"] }),
            json!({ "topics": [[1]] }),
            json!({ "topics": {} }),
            json!({ "topics": [null, null, null, null, null] }),
        ] {
            assert_eq!(filter(bad.clone())["error"]["code"], -32602, "{bad}");
        }
        let receipt = |hash: Value| ask("eth_getTransactionReceipt", json!([hash]));
        assert_eq!(receipt(json!(B256::ZERO))["result"], Value::Null);
        assert_eq!(receipt(json!("0x12"))["error"]["code"], -32602);
    }

    #[test]
    fn batches_are_answered_in_order_and_nonsense_with_an_error() {
        let token = Token::new(Atoms::new(0));
        let batch = json!([
            { "jsonrpc": "2.0", "id": 1, "method": "eth_chainId" },
            { "jsonrpc": "2.0", "id": 2, "method": "eth_sendRawTransaction", "params": ["0x"] },
        ]);
        let answers = answer(&token, NOW, batch.to_string().as_bytes());
        assert_eq!(answers[0]["id"], 1);
        assert_eq!(answers[1]["error"]["code"], -32601);
        assert_eq!(answer(&token, NOW, b"{")["error"]["code"], -32700);
        assert_eq!(answer(&token, NOW, b"[]")["error"]["code"], -32600);
    }
}

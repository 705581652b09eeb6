//! What moved: the tokens' own events, by range of blocks or by transaction.
//!
//! Providers limit the range and the size of an answer, each in its own way and with its own error, so a range is
//! requested in chunks that shrink when the node refuses.

use std::ops::RangeInclusive;

use alloy_primitives::{Address, B256, Bytes, U256, address};
use alloy_sol_types::{SolEvent, sol};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Node, RpcError, wire};
use bursar_core::challenge::permit2::PERMIT2;
use bursar_net::tls::upstream::UpstreamTls;

/// Blocks per request; most providers allow that many.
const CHUNK: u64 = 2_000;
/// After this many successful answers in a row, a chunk that had to shrink is doubled again.
const GOOD_RUN: u32 = 8;
/// Limits for one range, against nodes that never stop returning logs.
const MOST_QUESTIONS: u32 = 2_000;
const MOST_LOGS: usize = 100_000;
pub(super) const LOGS_CAP: usize = 16 << 20;

/// JSON-RPC "method not found": a smaller range does not help.
const NO_SUCH_METHOD: i64 = -32601;

sol! {
    event Transfer(address indexed from, address indexed to, uint256 value);
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);
    event TransferWithMemo(address indexed from, address indexed to, uint256 amount, bytes32 indexed memo);
    event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask);
}

/// The address that Tempo's fees are paid to, by the last `Transfer` of every transaction whose fee is not sponsored.
pub const TEMPO_FEES: Address = address!("0xfeec000000000000000000000000000000000000");

/// One event of a token contract or of Permit2, and its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The contract that emitted it.
    pub token: Address,
    pub event: Event,
    pub block: u64,
    pub tx: B256,
    /// Its index among all logs of the block.
    pub index: u64,
}

/// The events of ERC-20, EIP-3009, TIP-20 and Permit2 that concern a payer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Transfer {
        from: Address,
        to: Address,
        value: U256,
    },
    AuthorizationUsed {
        authorizer: Address,
        nonce: B256,
    },
    AuthorizationCanceled {
        authorizer: Address,
        nonce: B256,
    },
    /// Comes right after the `Transfer` that it describes.
    TransferWithMemo {
        from: Address,
        to: Address,
        value: U256,
        memo: B256,
    },
    /// The owner invalidated nonces at Permit2: those in the mask, of one word of 256 bits.
    NoncesInvalidated {
        owner: Address,
        word: U256,
        mask: U256,
    },
}

/// A transaction that was mined, with those of its logs that this crate can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mined {
    pub block: u64,
    /// In chain order. Empty for a transaction that was reverted, except for the fee that Tempo charges all the same.
    pub logs: Vec<Log>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawLog {
    #[serde(deserialize_with = "wire::address")]
    pub(super) address: Address,
    #[serde(deserialize_with = "wire::topics")]
    pub(super) topics: Vec<B256>,
    #[serde(deserialize_with = "wire::data")]
    data: Bytes,
    #[serde(deserialize_with = "wire::quantity")]
    pub(super) block_number: u64,
    #[serde(deserialize_with = "wire::word")]
    transaction_hash: B256,
    #[serde(deserialize_with = "wire::quantity")]
    log_index: u64,
    /// The log is of a block that was reverted.
    #[serde(default)]
    pub(super) removed: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawReceipt {
    #[serde(deserialize_with = "wire::word")]
    transaction_hash: B256,
    #[serde(deserialize_with = "wire::quantity")]
    block_number: u64,
    #[serde(deserialize_with = "wire::quantity")]
    status: u64,
    logs: Vec<RawLog>,
}

/// What to search a range for.
enum Sought<'a> {
    Nonce {
        token: Address,
        authorizer: Address,
        nonce: B256,
    },
    Departures {
        tokens: &'a [Address],
        wallet: Address,
    },
    /// All of the wallet's, or those with one memo.
    Memos {
        tokens: &'a [Address],
        wallet: Address,
        memo: Option<B256>,
    },
    Invalidations {
        owner: Address,
    },
}

impl Node {
    /// `AuthorizationUsed` and `AuthorizationCanceled` of one nonce, oldest first.
    pub async fn nonce_events(
        &self,
        tls: &UpstreamTls,
        token: Address,
        authorizer: Address,
        nonce: B256,
        blocks: RangeInclusive<u64>,
    ) -> Result<Vec<Log>, RpcError> {
        let sought = Sought::Nonce {
            token,
            authorizer,
            nonce,
        };
        self.logs(tls, &sought, blocks).await
    }

    /// Every `Transfer` from `wallet` and every `AuthorizationUsed` of it, in any of `tokens`, oldest first.
    pub async fn departures(
        &self,
        tls: &UpstreamTls,
        tokens: &[Address],
        wallet: Address,
        blocks: RangeInclusive<u64>,
    ) -> Result<Vec<Log>, RpcError> {
        self.logs(tls, &Sought::Departures { tokens, wallet }, blocks).await
    }

    /// Every `TransferWithMemo` from `wallet` in any of `tokens`, oldest first; only those with `memo`, if it is given.
    pub async fn memos(
        &self,
        tls: &UpstreamTls,
        tokens: &[Address],
        wallet: Address,
        memo: Option<B256>,
        blocks: RangeInclusive<u64>,
    ) -> Result<Vec<Log>, RpcError> {
        self.logs(tls, &Sought::Memos { tokens, wallet, memo }, blocks).await
    }

    /// Permit2's logs of nonces that `owner` invalidated, oldest first.
    pub async fn invalidations(
        &self,
        tls: &UpstreamTls,
        owner: Address,
        blocks: RangeInclusive<u64>,
    ) -> Result<Vec<Log>, RpcError> {
        self.logs(tls, &Sought::Invalidations { owner }, blocks).await
    }

    /// The transaction, if it is in a block.
    pub async fn mined(&self, tls: &UpstreamTls, tx: B256) -> Result<Option<Mined>, RpcError> {
        let receipt: Option<RawReceipt> = self
            .ask(tls, "eth_getTransactionReceipt", json!([tx]), LOGS_CAP)
            .await?;
        let Some(receipt) = receipt else { return Ok(None) };
        receipt.mined(tx).map(Some).ok_or_else(|| self.odd())
    }

    async fn logs(
        &self,
        tls: &UpstreamTls,
        sought: &Sought<'_>,
        blocks: RangeInclusive<u64>,
    ) -> Result<Vec<Log>, RpcError> {
        let (start, last) = blocks.into_inner();
        let too_much = || RpcError::TooMuch {
            node: self.shown(),
            first: start,
            last,
        };
        let mut found = Vec::new();
        let (mut first, mut chunk, mut good_run) = (start, CHUNK, 0);
        for _ in 0..MOST_QUESTIONS {
            if first > last {
                return Ok(found);
            }
            let end = last.min(first.saturating_add(chunk - 1));
            match self.chunk(tls, sought, first..=end).await {
                Ok(mut logs) => {
                    found.append(&mut logs);
                    if found.len() > MOST_LOGS {
                        return Err(too_much());
                    }
                    let Some(next) = end.checked_add(1) else {
                        return Ok(found);
                    };
                    first = next;
                    good_run += 1;
                    if good_run == GOOD_RUN {
                        (chunk, good_run) = (CHUNK.min(chunk * 2), 0);
                    }
                }
                Err(error) if end > first && error.asks_for_less() => {
                    (chunk, good_run) = ((end - first).div_ceil(2), 0);
                }
                Err(error) => return Err(error),
            }
        }
        match first > last {
            true => Ok(found),
            false => Err(too_much()),
        }
    }

    async fn chunk(
        &self,
        tls: &UpstreamTls,
        sought: &Sought<'_>,
        blocks: RangeInclusive<u64>,
    ) -> Result<Vec<Log>, RpcError> {
        let question = json!([sought.filter(&blocks)]);
        let raw: Vec<RawLog> = self.ask(tls, "eth_getLogs", question, LOGS_CAP).await?;
        let fits = |raw: &RawLog| {
            let log = raw.read()?;
            (!raw.removed && blocks.contains(&log.block) && sought.fits(&log)).then_some(log)
        };
        let mut logs: Vec<Log> = raw.iter().map(fits).collect::<Option<_>>().ok_or_else(|| self.odd())?;
        logs.sort_by_key(|log| (log.block, log.index));
        Ok(logs)
    }
}

impl RawReceipt {
    /// `None` if it is not the receipt of `tx`, or contradicts itself.
    pub(super) fn mined(&self, tx: B256) -> Option<Mined> {
        let of_this =
            |log: &RawLog| log.transaction_hash == tx && log.block_number == self.block_number && !log.removed;
        let whole = match self.status {
            0 => self.logs.iter().all(|log| of_this(log) && log.is_fee()),
            1 => self.logs.iter().all(of_this),
            _ => false,
        };
        if !whole || self.transaction_hash != tx {
            return None;
        }
        // There may be any number of other contracts' logs and other events.
        let mut logs: Vec<Log> = self.logs.iter().filter_map(RawLog::read).collect();
        logs.sort_by_key(|log| log.index);
        Some(Mined {
            block: self.block_number,
            logs,
        })
    }
}

impl RpcError {
    /// Providers have no common code for "too many blocks" or "too many logs", so any refusal may mean that.
    fn asks_for_less(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code != NO_SUCH_METHOD,
            Self::Status { status, .. } => *status == StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooLong { .. } => true,
            _ => false,
        }
    }
}

impl RawLog {
    pub(super) fn read(&self) -> Option<Log> {
        let event = match *self.topics.first()? {
            Transfer::SIGNATURE_HASH => {
                let Transfer { from, to, value } = self.decoded()?;
                Event::Transfer { from, to, value }
            }
            AuthorizationUsed::SIGNATURE_HASH => {
                let AuthorizationUsed { authorizer, nonce } = self.decoded()?;
                Event::AuthorizationUsed { authorizer, nonce }
            }
            AuthorizationCanceled::SIGNATURE_HASH => {
                let AuthorizationCanceled { authorizer, nonce } = self.decoded()?;
                Event::AuthorizationCanceled { authorizer, nonce }
            }
            TransferWithMemo::SIGNATURE_HASH => {
                let TransferWithMemo { from, to, amount, memo } = self.decoded()?;
                let value = amount;
                Event::TransferWithMemo { from, to, value, memo }
            }
            UnorderedNonceInvalidation::SIGNATURE_HASH => {
                let UnorderedNonceInvalidation { owner, word, mask } = self.decoded()?;
                Event::NoncesInvalidated { owner, word, mask }
            }
            _ => return None,
        };
        Some(Log {
            token: self.address,
            event,
            block: self.block_number,
            tx: self.transaction_hash,
            index: self.log_index,
        })
    }

    /// The fee of a Tempo transaction, which is charged whether or not the transaction succeeded.
    fn is_fee(&self) -> bool {
        let event = self.read().map(|log| log.event);
        matches!(event, Some(Event::Transfer { to: TEMPO_FEES, .. }))
    }

    /// Decodes the event. The decoder ignores bytes after the last argument and before an address, which an honest log
    /// does not have.
    fn decoded<E: SolEvent>(&self) -> Option<E> {
        let event = E::decode_raw_log_validate(self.topics.iter().copied(), &self.data).ok()?;
        let again = event.encode_log_data();
        (again.topics() == self.topics && again.data == self.data).then_some(event)
    }
}

impl Sought<'_> {
    fn filter(&self, blocks: &RangeInclusive<u64>) -> Value {
        let (addresses, topics) = match self {
            Self::Nonce {
                token,
                authorizer,
                nonce,
            } => {
                let events = [AuthorizationUsed::SIGNATURE_HASH, AuthorizationCanceled::SIGNATURE_HASH];
                (json!(token), json!([events, authorizer.into_word(), nonce]))
            }
            Self::Departures { tokens, wallet } => {
                // In both events the wallet is the first indexed argument.
                let events = [Transfer::SIGNATURE_HASH, AuthorizationUsed::SIGNATURE_HASH];
                (json!(tokens), json!([events, wallet.into_word()]))
            }
            Self::Memos { tokens, wallet, memo } => {
                let (event, from) = (TransferWithMemo::SIGNATURE_HASH, wallet.into_word());
                let topics = match memo {
                    None => json!([event, from]),
                    Some(memo) => json!([event, from, null, memo]),
                };
                (json!(tokens), topics)
            }
            Self::Invalidations { owner } => {
                let event = UnorderedNonceInvalidation::SIGNATURE_HASH;
                (json!(PERMIT2), json!([event, owner.into_word()]))
            }
        };
        json!({
            "address": addresses,
            "topics": topics,
            "fromBlock": format!("{:#x}", blocks.start()),
            "toBlock": format!("{:#x}", blocks.end()),
        })
    }

    fn fits(&self, log: &Log) -> bool {
        match (self, log.event) {
            (
                Self::Nonce {
                    token,
                    authorizer,
                    nonce,
                },
                Event::AuthorizationUsed {
                    authorizer: by,
                    nonce: of,
                }
                | Event::AuthorizationCanceled {
                    authorizer: by,
                    nonce: of,
                },
            ) => (*token, *authorizer, *nonce) == (log.token, by, of),
            (
                Self::Departures { tokens, wallet },
                Event::Transfer { from: by, .. } | Event::AuthorizationUsed { authorizer: by, .. },
            ) => *wallet == by && tokens.contains(&log.token),
            (Self::Memos { tokens, wallet, memo }, Event::TransferWithMemo { from, memo: of, .. }) => {
                *wallet == from && tokens.contains(&log.token) && memo.is_none_or(|memo| memo == of)
            }
            (Self::Invalidations { owner }, Event::NoncesInvalidated { owner: by, .. }) => {
                *owner == by && log.token == PERMIT2
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;

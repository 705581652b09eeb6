//! Block headers, and the search for the block of a given time.

use alloy_primitives::B256;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ANSWER_CAP, Node, RpcError, wire};
use bursar_net::tls::upstream::UpstreamTls;

/// How many blocks the search for a time steps back at first; doubled at each step.
const FIRST_STEP: u64 = 64;

/// JSON-RPC "invalid params": what a node answers to a tag that it does not know.
const INVALID_PARAMS: i64 = -32602;
/// "Unknown block" of the engine API, which geth returns until a block has become final.
const UNKNOWN_BLOCK: i64 = -39001;

/// The parts of a block header that concern a payer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Block {
    #[serde(deserialize_with = "wire::quantity")]
    pub number: u64,
    #[serde(deserialize_with = "wire::word")]
    pub hash: B256,
    /// Unix seconds, as written by the block's producer.
    #[serde(deserialize_with = "wire::quantity")]
    pub timestamp: u64,
}

impl Node {
    /// The newest block that cannot be reverted any more.
    pub async fn finalized(&self, tls: &UpstreamTls) -> Result<Block, RpcError> {
        let nothing = || RpcError::NoFinalized { node: self.shown() };
        match self.block_by(tls, json!("finalized")).await {
            Ok(block) => block.ok_or_else(nothing),
            Err(RpcError::Refused { code, message, .. }) if is_about_the_tag(code, &message) => Err(nothing()),
            Err(error) => Err(error),
        }
    }

    /// The newest block, which may still be reverted.
    pub async fn newest(&self, tls: &UpstreamTls) -> Result<Block, RpcError> {
        self.block_by(tls, json!("latest")).await?.ok_or_else(|| self.odd())
    }

    pub async fn block(&self, tls: &UpstreamTls, number: u64) -> Result<Block, RpcError> {
        let unknown = || RpcError::NoBlock {
            node: self.shown(),
            block: number,
        };
        let block = self.block_by(tls, json!(format!("{number:#x}"))).await?;
        let block = block.ok_or_else(unknown)?;
        match block.number == number {
            true => Ok(block),
            false => Err(self.odd()),
        }
    }

    /// The first block with a timestamp of `time` (Unix seconds) or later, up to `last`; `None` if `last` is older than
    /// that.
    ///
    /// Steps back from `last`, twice as far each time, then bisects what is left: the time is mostly recent, and a
    /// pruned node may not know the beginning of its chain. The search ends whatever times the node reports.
    pub async fn first_block_at(&self, tls: &UpstreamTls, time: u64, last: &Block) -> Result<Option<Block>, RpcError> {
        if last.timestamp < time {
            return Ok(None);
        }
        let mut found = *last;
        let mut step = FIRST_STEP;
        let mut older = loop {
            if found.number == 0 {
                return Ok(Some(found));
            }
            let earlier = self.block(tls, found.number.saturating_sub(step)).await?;
            if earlier.timestamp < time {
                break earlier.number;
            }
            found = earlier;
            step = step.saturating_mul(2);
        };
        while found.number - older > 1 {
            let middle = self.block(tls, older + (found.number - older) / 2).await?;
            match middle.timestamp < time {
                true => older = middle.number,
                false => found = middle,
            }
        }
        Ok(Some(found))
    }

    async fn block_by(&self, tls: &UpstreamTls, name: Value) -> Result<Option<Block>, RpcError> {
        self.ask(tls, "eth_getBlockByNumber", json!([name, false]), ANSWER_CAP)
            .await
    }
}

fn is_about_the_tag(code: i64, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    matches!(code, INVALID_PARAMS | UNKNOWN_BLOCK)
        || ["finalized", "unknown block", "block not found", "invalid block"]
            .iter()
            .any(|phrase| message.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::super::fake::{self, Fake, tls};
    use super::*;

    fn refused(code: i64, message: &str) -> Value {
        json!({ "error": { "code": code, "message": message } })
    }

    #[tokio::test]
    async fn a_node_without_finality_is_named_as_such() {
        for reply in [
            json!({ "result": null }),
            refused(-32602, "invalid argument 0: hex string without 0x prefix"),
            refused(-39001, "unknown block"),
            refused(-32000, "finalized block not found"),
        ] {
            let fake = Fake::replying(move |_, _| reply.clone()).await;
            let error = fake.node().finalized(&tls()).await.unwrap_err();
            assert!(matches!(error, RpcError::NoFinalized { .. }), "{error}");
            assert!(error.to_string().contains(&fake.node().shown()), "{error}");
        }
        // A node that is only busy does know the tag.
        let fake = Fake::replying(|_, _| refused(-32005, "daily request count exceeded")).await;
        let error = fake.node().finalized(&tls()).await.unwrap_err();
        assert!(matches!(error, RpcError::Refused { code: -32005, .. }), "{error}");
    }

    #[tokio::test]
    async fn heads_are_read_whole_or_not_at_all() {
        let good =
            json!({ "number": "0x10", "hash": B256::with_last_byte(1), "timestamp": "0x20", "transactions": [] });
        let fake = Fake::replying({
            let good = good.clone();
            move |_, _| json!({ "result": good })
        })
        .await;
        let block = fake.node().finalized(&tls()).await.unwrap();
        assert_eq!((block.number, block.timestamp), (16, 32));
        assert_eq!(block.hash, B256::with_last_byte(1));
        // Asked for block 17, it returns block 16.
        assert!(matches!(
            fake.node().block(&tls(), 17).await.unwrap_err(),
            RpcError::Answer { .. }
        ));
        for (member, bad) in [
            ("number", json!("0x10000000000000000")),
            ("number", json!(16)),
            ("number", json!(null)),
            ("timestamp", json!("16")),
            ("timestamp", json!({ "seconds": 1 })),
            ("hash", json!("0x01")),
        ] {
            let mut head = good.clone();
            head[member] = bad.clone();
            let fake = Fake::replying(move |_, _| json!({ "result": head })).await;
            let error = fake.node().newest(&tls()).await.unwrap_err();
            assert!(matches!(error, RpcError::Answer { .. }), "{member} {bad}: {error}");
        }
    }

    /// A chain with blocks at seconds 0, 2, 4, ... except for a gap of 100 s after block 500.
    fn time_of(number: u64) -> u64 {
        number * 2 + if number > 500 { 100 } else { 0 }
    }

    #[tokio::test]
    async fn the_first_block_at_a_time_is_found() {
        let fake = Fake::replying(|_, params| {
            let number = fake::number(&params[0]);
            match number <= 1000 {
                true => json!({ "result": fake::block(number, time_of(number)) }),
                false => json!({ "result": null }),
            }
        })
        .await;
        let node = fake.node();
        let last = node.block(&tls(), 1000).await.unwrap();
        for (time, expected) in [
            (0, Some(0)),
            (1, Some(1)),
            (2, Some(1)),
            (1000, Some(500)),
            (1001, Some(501)),
            (1102, Some(501)),
            (2099, Some(1000)),
            (2100, Some(1000)),
            (2101, None),
        ] {
            let found = node.first_block_at(&tls(), time, &last).await.unwrap();
            assert_eq!(found.map(|block| block.number), expected, "{time}");
        }
        assert!(matches!(
            node.block(&tls(), 1001).await.unwrap_err(),
            RpcError::NoBlock { block: 1001, .. }
        ));
    }

    #[tokio::test]
    async fn times_that_make_no_sense_do_not_trap_the_search() {
        let fake = Fake::replying(|_, params| {
            let number = fake::number(&params[0]);
            json!({ "result": fake::block(number, number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) })
        })
        .await;
        let last = Block {
            number: u64::MAX,
            hash: B256::ZERO,
            timestamp: u64::MAX,
        };
        let found = fake.node().first_block_at(&tls(), 1 << 63, &last).await.unwrap();
        assert!(found.is_some());
        assert!(fake.asked() < 200, "{}", fake.asked());
    }
}

//! A Tempo charge is proven by its memo: no contract keeps a state for it, but the token logs the memo with the
//! transfer.
//!
//! An expiring transaction is not mined after its deadline, so it is dead if no block up to then has its memo. That a
//! node found no such log does not prove this: a machine that lags behind its neighbours, or has pruned its receipts,
//! finds nothing either. So each block that could have included the payment is checked against its header
//! (`rpc/whole.rs`), and only once the deadline is well past.
//!
//! A transaction that failed was still mined and cost its fee, which is part of what is counted (R11). Such a payment
//! is not released.

use std::collections::BTreeSet;

use alloy_primitives::B256;

use super::first_block;
use crate::testimony::{Facts, Moved, Nonce};
use bursar_net::tls::upstream::UpstreamTls;
use bursar_rails::rpc::{Block, Event, Log, Mined, Node, RpcError, TEMPO_FEES};

/// A block includes an expiring transaction only within 30 s before its deadline (TIP-1009). This is twice that, in
/// case a later fork allows more; we sign for 25 s, so nothing was signed much earlier.
const LANE_S: u64 = 60;

pub(super) async fn testify(tls: &UpstreamTls, node: &Node, facts: &Facts, head: &Block) -> Result<Nonce, RpcError> {
    // The receipt's transaction is checked even though the logs would show it: logs may be kept for a shorter time.
    let claimed = match facts.claimed_hash() {
        Some(tx) => node.mined(tls, tx).await?.and_then(|mined| cashed(facts, tx, &mined)),
        None => None,
    };
    match claimed {
        Some((block, _)) if block > head.number => Ok(Nonce::NotFinal),
        Some((_, nonce)) => Ok(nonce),
        None => search(tls, node, facts, head).await,
    }
}

async fn search(tls: &UpstreamTls, node: &Node, facts: &Facts, head: &Block) -> Result<Nonce, RpcError> {
    let Some(first) = first_block(tls, node, facts, head).await? else {
        return Ok(Nonce::Unused);
    };
    let deadline = node
        .first_block_at(tls, facts.valid_before, head)
        .await?
        .unwrap_or(*head);
    let blocks = first.number..=deadline.number;
    let logs = node
        .memos(tls, &[facts.token], facts.from, Some(facts.nonce), blocks)
        .await?;
    // Somebody with the key may have moved something else with the same memo; the payment is the transfer that matches
    // the record.
    let whole = logs.iter().find(|log| moved(facts, log) == Some(facts.whole()));
    let Some(log) = whole.or(logs.first()) else {
        return absent(tls, node, facts, &deadline, head).await;
    };
    let shown = node
        .mined(tls, log.tx)
        .await?
        .and_then(|mined| cashed(facts, log.tx, &mined));
    Ok(match shown {
        Some((block, nonce)) if block == log.block => nonce,
        // There is a log without its transaction.
        _ => Nonce::Unexplained,
    })
}

/// Whether a node that found nothing would have found the payment, up to the block `deadline`.
async fn absent(
    tls: &UpstreamTls,
    node: &Node,
    facts: &Facts,
    deadline: &Block,
    head: &Block,
) -> Result<Nonce, RpcError> {
    // Until then, an absence proves nothing.
    if head.timestamp <= facts.final_after() {
        return Ok(Nonce::Unused);
    }
    let since = facts.valid_before.saturating_sub(LANE_S);
    let first = node.first_block_at(tls, since, head).await?.unwrap_or(*deadline);
    let mut looked_at = BTreeSet::new();
    for number in first.number..=deadline.number {
        let block = node.logged(tls, number).await?;
        if !block.may_concern(facts.token, facts.from) {
            continue;
        }
        let logs = node.all_logs(tls, &block).await?;
        let Some(logs) = logs.filter(|logs| logs.iter().all(|log| moved(facts, log).is_none())) else {
            tracing::warn!(
                node = node.shown(),
                block = number,
                "the node does not show every log of the block"
            );
            return Ok(Nonce::Unexplained);
        };
        // A transaction that transferred with another memo was another payment, and did not fail.
        let paid = |tx| {
            logs.iter()
                .any(|log| log.tx == tx && matches!(log.event, Event::TransferWithMemo { .. }))
        };
        for log in logs.iter().filter(|log| is_fee(facts, log) && !paid(log.tx)) {
            if looked_at.insert(log.tx) && node.has_in_it(tls, log.tx, &facts.nonce).await? {
                let (tx, block) = (log.tx, number);
                return Ok(Nonce::Failed { tx, block });
            }
        }
    }
    Ok(Nonce::Unused)
}

/// A fee that the wallet paid, in the token in which our transactions pay it.
fn is_fee(facts: &Facts, log: &Log) -> bool {
    match log.event {
        Event::Transfer { from, to, .. } => (log.token, from, to) == (facts.token, facts.from, TEMPO_FEES),
        _ => false,
    }
}

/// The block in which a transaction moved money with our memo, and what it moved.
fn cashed(facts: &Facts, tx: B256, mined: &Mined) -> Option<(u64, Nonce)> {
    let moved: Vec<Moved> = mined.logs.iter().filter_map(|log| moved(facts, log)).collect();
    let block = mined.block;
    (!moved.is_empty()).then_some((block, Nonce::Cashed { tx, block, moved }))
}

fn moved(facts: &Facts, log: &Log) -> Option<Moved> {
    match log.event {
        Event::TransferWithMemo { from, to, value, memo }
            if (log.token, from, memo) == (facts.token, facts.from, facts.nonce) =>
        {
            Some(Moved { to, amount: value })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

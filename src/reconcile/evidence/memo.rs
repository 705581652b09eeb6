//! A charge of Tempo is proven by its memo: no contract keeps a state of it, but the token logs the memo with the transfer.
//!
//! That nothing was logged until a final block past the deadline proves that nothing ever will be, since an expiring
//! transaction is not mined later. A transaction that fails is mined and costs its fee, which is no part of the amount: it
//! logs no memo, so that the payment is dead once its time is over, and the fee is the price of having tried.

use alloy_primitives::B256;

use super::first_block;
use crate::reconcile::testimony::{Facts, Moved, Nonce};
use crate::rpc::{Block, Event, Log, Mined, Node, RpcError};
use crate::tls::upstream::UpstreamTls;

pub(super) async fn testify(tls: &UpstreamTls, node: &Node, facts: &Facts, head: &Block) -> Result<Nonce, RpcError> {
    // The receipt's transaction is looked at although the logs tell: they may be kept for a shorter time than it.
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
    // Whoever has the key may have moved something with the same memo; the payment is the one that moved what is on record.
    let whole = logs.iter().find(|log| moved(facts, log) == Some(facts.whole()));
    let Some(log) = whole.or(logs.first()) else {
        return Ok(Nonce::Unused);
    };
    let shown = node
        .mined(tls, log.tx)
        .await?
        .and_then(|mined| cashed(facts, log.tx, &mined));
    Ok(match shown {
        Some((block, nonce)) if block == log.block => nonce,
        // A log without its transaction.
        _ => Nonce::Unexplained,
    })
}

/// Where a transaction moved money with our memo, and what.
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

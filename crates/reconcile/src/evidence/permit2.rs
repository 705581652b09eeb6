//! Finds what was taken through Permit2, which logs nothing when it transfers.
//!
//! The bit of the nonce is set in one block and never cleared, so bisection finds the block; what moved there is in the
//! token's own events. A transaction that calls the proxy's `settle` with our nonce leaves no doubt. Other transactions
//! may make the same call from within a contract. Their input proves less, because the sender can write anything into
//! it and hide the nonce of another payment. Such a transaction is believed only if nothing else moved the wallet's
//! money in that block; otherwise the whole amount stays counted.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use alloy_primitives::{B256, U256};
use alloy_sol_types::SolCall;

use super::{Spent, is_spent, moved};
use crate::testimony::{Facts, Moved, Nonce, Taking};
use bursar_net::tls::upstream::UpstreamTls;
use bursar_rails::rpc::{At, Block, Event, Log, Node, RpcError, Sent};

/// The most transactions that are examined for one payment, where the block is not known.
const MOST_SENT: usize = 200;

/// `settle` and `settleWithPermit` of the proxies, as the reference facilitator calls them (x402 §4.2, §5).
mod calls {
    alloy_sol_types::sol! {
        struct TokenPermissions {
            address token;
            uint256 amount;
        }
        struct PermitTransferFrom {
            TokenPermissions permitted;
            uint256 nonce;
            uint256 deadline;
        }
        struct EIP2612Permit {
            uint256 value;
            uint256 deadline;
            bytes32 r;
            bytes32 s;
            uint8 v;
        }
        struct ExactWitness {
            address to;
            uint256 validAfter;
        }
        struct UptoWitness {
            address to;
            address facilitator;
            uint256 validAfter;
        }
        interface Exact {
            function settle(PermitTransferFrom permit, address owner, ExactWitness witness, bytes signature);
            function settleWithPermit(
                EIP2612Permit brought,
                PermitTransferFrom permit,
                address owner,
                ExactWitness witness,
                bytes signature
            );
        }
        interface Upto {
            function settle(
                PermitTransferFrom permit,
                uint256 amount,
                address owner,
                UptoWitness witness,
                bytes signature
            );
            function settleWithPermit(
                EIP2612Permit brought,
                PermitTransferFrom permit,
                uint256 amount,
                address owner,
                UptoWitness witness,
                bytes signature
            );
        }
    }
}

/// One transaction that moved the wallet's money, and what it moved. The input is not kept: there may be many
/// transactions, each with a long one.
struct Carrier {
    tx: B256,
    block: u64,
    /// It is a direct call of the proxy for this payment.
    settles: bool,
    /// Its input contains the nonce.
    bears: bool,
    moved: Vec<Moved>,
}

/// What the receipt's transaction did with the nonce. `None` if that cannot be decided from the transaction alone.
pub(super) async fn settled_by(
    tls: &UpstreamTls,
    node: &Node,
    facts: &Facts,
    taking: Taking,
    tx: B256,
) -> Result<Option<Spent>, RpcError> {
    let Some(sent) = node.sent(tls, tx).await?.filter(|sent| settles(facts, taking, sent)) else {
        return Ok(None);
    };
    let Some(mined) = node.mined(tls, tx).await?.filter(|mined| mined.block == sent.block) else {
        return Ok(None);
    };
    let moved: Vec<Moved> = mined.logs.iter().filter_map(|log| moved(facts, log)).collect();
    let block = mined.block;
    // A reverted transaction moved nothing.
    Ok((!moved.is_empty()).then_some(Spent {
        block,
        how: Nonce::Cashed { tx, block, moved },
    }))
}

/// Finds what used or invalidated the nonce; `first` is the first block that can have done so.
pub(super) async fn search(
    tls: &UpstreamTls,
    node: &Node,
    facts: &Facts,
    taking: Taking,
    first: Block,
    head: &Block,
) -> Result<Option<Nonce>, RpcError> {
    match taken_at(tls, node, facts, first.number, head.number).await {
        Ok(Some(block)) => in_block(tls, node, facts, taking, block).await,
        // Used up before it was signed, which is impossible.
        Ok(None) => Ok(None),
        // The states of that time are pruned. A direct call of the proxy still leaves no doubt, wherever it is found.
        Err(RpcError::NoState { .. }) => {
            // Blocks of the deadline's second may still include it, and there may be several.
            let late = facts.valid_before.saturating_add(1);
            let late = node.first_block_at(tls, late, head).await?.unwrap_or(*head);
            let carriers = carriers(tls, node, facts, taking, first.number..=late.number).await?;
            Ok(carriers.into_iter().find(|it| it.settles).map(Carrier::cashed))
        }
        Err(error) => Err(error),
    }
}

/// The block in which the bit was set, found by bisection; at `head` it is set. `None` if it was already set before
/// `first`.
async fn taken_at(
    tls: &UpstreamTls,
    node: &Node,
    facts: &Facts,
    first: u64,
    head: u64,
) -> Result<Option<u64>, RpcError> {
    let spent = |block| is_spent(tls, node, facts, At::Block(block));
    // The first block of a chain has no transactions.
    let mut unspent = first.saturating_sub(1);
    if spent(unspent).await? {
        return Ok(None);
    }
    let mut block = head;
    while block - unspent > 1 {
        let middle = unspent + (block - unspent) / 2;
        match spent(middle).await? {
            true => block = middle,
            false => unspent = middle,
        }
    }
    Ok(Some(block))
}

/// Decides what happened to the nonce in the block that set its bit.
async fn in_block(
    tls: &UpstreamTls,
    node: &Node,
    facts: &Facts,
    taking: Taking,
    block: u64,
) -> Result<Option<Nonce>, RpcError> {
    let all = carriers(tls, node, facts, taking, block..=block).await?;
    if let Some(at) = all.iter().position(|it| it.settles) {
        return Ok(all.into_iter().nth(at).map(Carrier::cashed));
    }
    let events = node.invalidations(tls, facts.from, block..=block).await?;
    let thrown_away = events.iter().find(|log| throws_away(facts, log));
    let transfers: usize = all.iter().map(|it| it.moved.len()).sum();
    let to_payee = all
        .iter()
        .any(|it| it.moved.iter().any(|moved| moved.to == facts.payee));
    let bearing = all.into_iter().find(|it| it.bears);
    Ok(match (bearing, thrown_away) {
        // Permit2 used it in this block, and nothing else left the wallet here.
        (Some(carrier), None) if transfers == 1 => Some(carrier.cashed()),
        (Some(Carrier { tx, .. }), _) => Some(Nonce::Shared { tx, block }),
        // Not if money for the payee moved as well: the nonce may have been used first and invalidated afterwards.
        (None, Some(log)) if !to_payee => Some(Nonce::Cancelled { tx: log.tx, block }),
        (None, _) => None,
    })
}

/// The transactions that moved the token out of the wallet, in chain order.
async fn carriers(
    tls: &UpstreamTls,
    node: &Node,
    facts: &Facts,
    taking: Taking,
    blocks: RangeInclusive<u64>,
) -> Result<Vec<Carrier>, RpcError> {
    let (first, last) = (*blocks.start(), *blocks.end());
    let logs = node.departures(tls, &[facts.token], facts.from, blocks).await?;
    let mut by_place: BTreeMap<(u64, u64), (B256, Vec<Moved>)> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for log in &logs {
        let Some(moved) = moved(facts, log) else { continue };
        let place = *places.entry(log.tx).or_insert((log.block, log.index));
        by_place.entry(place).or_insert((log.tx, Vec::new())).1.push(moved);
    }
    if by_place.len() > MOST_SENT {
        let node = node.shown();
        return Err(RpcError::TooMuch { node, first, last });
    }
    let mut carriers = Vec::with_capacity(by_place.len());
    for ((block, _), (tx, moved)) in by_place {
        let sent = node.sent(tls, tx).await?.filter(|sent| sent.block == block);
        // A missing transaction would make another one look like the only one.
        let sent = sent.ok_or_else(|| node.contradicts_itself())?;
        carriers.push(Carrier {
            tx,
            block,
            settles: settles(facts, taking, &sent),
            bears: bears(&sent, &facts.nonce),
            moved,
        });
    }
    Ok(carriers)
}

impl Carrier {
    fn cashed(self) -> Nonce {
        let Self { tx, block, moved, .. } = self;
        Nonce::Cashed { tx, block, moved }
    }
}

fn bears(sent: &Sent, nonce: &B256) -> bool {
    sent.input.windows(nonce.len()).any(|word| word == nonce.as_slice())
}

/// Whether the transaction is a direct call of the proxy's `settle` for this payment. If it was not reverted, it used
/// the nonce.
fn settles(facts: &Facts, taking: Taking, sent: &Sent) -> bool {
    if sent.to != Some(taking.proxy()) {
        return false;
    }
    let settled = match taking {
        Taking::Whole => exact(&sent.input),
        Taking::UpTo => upto(&sent.input),
    };
    settled.is_some_and(|(permit, owner)| {
        let nonce = U256::from_be_bytes(facts.nonce.0);
        (permit.permitted.token, permit.nonce, owner) == (facts.token, nonce, facts.from)
    })
}

type Settled = (calls::PermitTransferFrom, alloy_primitives::Address);

fn exact(input: &[u8]) -> Option<Settled> {
    use calls::Exact::{settleCall, settleWithPermitCall};
    let plain = settleCall::abi_decode_validate(input).map(|call| (call.permit, call.owner));
    let with_permit = || settleWithPermitCall::abi_decode_validate(input).map(|call| (call.permit, call.owner));
    plain.or_else(|_| with_permit()).ok()
}

fn upto(input: &[u8]) -> Option<Settled> {
    use calls::Upto::{settleCall, settleWithPermitCall};
    let plain = settleCall::abi_decode_validate(input).map(|call| (call.permit, call.owner));
    let with_permit = || settleWithPermitCall::abi_decode_validate(input).map(|call| (call.permit, call.owner));
    plain.or_else(|_| with_permit()).ok()
}

fn throws_away(facts: &Facts, log: &Log) -> bool {
    let nonce = U256::from_be_bytes(facts.nonce.0);
    match log.event {
        Event::NoncesInvalidated { owner, word, mask } => {
            owner == facts.from && word == nonce >> 8 && mask.bit(usize::from(nonce.byte(0)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;

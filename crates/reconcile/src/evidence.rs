//! Asks every node of a network, each separately, as of one finalized block.
//!
//! A node that fails is silent: it neither proves nor disproves anything. Nodes are asked one after the other, because
//! nobody waits for the result.
//!
//! The questions depend on the rail. This module has what the rails share, and the events of EIP-3009. `permit2` finds
//! what was taken where no log shows the nonce, `memo` finds transfers on Tempo.

mod memo;
mod permit2;

use std::time::Duration;

use alloy_primitives::B256;
use tokio::time::timeout;

use super::testimony::{Evidence, Facts, Head, Moved, Nonce, Proof, Silent, Testimony};
use bursar_core::assets::Network;
use bursar_net::tls::upstream::UpstreamTls;
use bursar_rails::rpc::{At, Block, Event, Log, Mined, Node, RpcError};

/// Our clock may be ahead of the chain's, so the search for events begins this much before the signature.
const CLOCK_SLACK_S: u64 = 600;
/// Time limit for one node and one payment, however many questions it takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// The final block as of which the nodes of one network are asked, during one pass over its payments.
pub struct Finality<'a> {
    head: Head,
    /// The nodes that serve the network and have the head.
    witnesses: Vec<&'a Node>,
    silent: Vec<Silent>,
    configured: usize,
    now: u64,
}

/// The state of the nonce in its contract, as far as a node knew it at the head.
enum AtHead {
    Unused,
    Used,
    /// The node does not keep the head's state; at the newest block the nonce is used.
    UsedByNow,
}

/// How a transaction used the nonce up.
struct Spent {
    block: u64,
    how: Nonce,
}

impl<'a> Finality<'a> {
    /// `now` is our clock, in Unix seconds. A node that is named twice counts as one node with one answer.
    pub async fn of(tls: &UpstreamTls, network: Network, nodes: &'a [Node], now: u64) -> Self {
        let repeated = |at: &usize| nodes[..*at].contains(&nodes[*at]);
        let nodes: Vec<&Node> = (0..nodes.len())
            .filter(|at| !repeated(at))
            .map(|at| &nodes[at])
            .collect();
        let mut finality = Self {
            head: Head::Unknown,
            witnesses: Vec::new(),
            silent: Vec::new(),
            configured: nodes.len(),
            now,
        };
        let mut heads = Vec::new();
        for node in nodes {
            match finalized(tls, network, node).await {
                Ok(head) => {
                    // The lowest head delays all payments, so the log must show whose it is.
                    tracing::debug!(
                        %network, node = node.shown(), block = head.number, time = head.timestamp,
                        "final block"
                    );
                    heads.push((node, head));
                }
                Err(error) => finality.is_silent(node, &error),
            }
        }
        let Some(lowest) = heads.iter().map(|(_, head)| *head).min_by_key(|head| head.number) else {
            return finality;
        };
        finality.head = Head::Agreed(lowest);
        for (node, head) in heads {
            let same = match head.number == lowest.number {
                true => Ok(head),
                false => node.block(tls, lowest.number).await,
            };
            match same {
                Ok(block) => {
                    if block != lowest {
                        finality.head = Head::Forked(lowest.number);
                    }
                    finality.witnesses.push(node);
                }
                Err(error) => finality.is_silent(node, &error),
            }
        }
        finality
    }

    pub fn head(&self) -> Head {
        self.head
    }

    /// Nodes that returned no head, and why.
    pub fn silent(&self) -> &[Silent] {
        &self.silent
    }

    /// The nodes that have the head, for further questions.
    pub(crate) fn witnesses(&self) -> impl Iterator<Item = &'a Node> {
        self.witnesses.iter().copied()
    }

    /// Asks all witnesses about one payment.
    pub async fn evidence(&self, tls: &UpstreamTls, facts: &Facts) -> Evidence {
        let mut evidence = Evidence {
            now: self.now,
            configured: self.configured,
            head: self.head,
            testimonies: Vec::new(),
            silent: self.silent.clone(),
        };
        let Head::Agreed(head) = self.head else {
            return evidence;
        };
        for node in &self.witnesses {
            let silent = |why: String| Silent {
                node: node.shown(),
                why,
            };
            match timeout(PATIENCE, testify(tls, node, facts, &head)).await {
                Ok(Ok(nonce)) => evidence.testimonies.push(Testimony {
                    node: node.shown(),
                    nonce,
                }),
                Ok(Err(error)) => evidence.silent.push(silent(error.to_string())),
                Err(_) => evidence.silent.push(silent(format!(
                    "{} took more than {} s",
                    node.shown(),
                    PATIENCE.as_secs()
                ))),
            }
        }
        evidence
    }

    fn is_silent(&mut self, node: &Node, error: &RpcError) {
        self.silent.push(Silent {
            node: node.shown(),
            why: error.to_string(),
        });
    }
}

async fn finalized(tls: &UpstreamTls, network: Network, node: &Node) -> Result<Block, RpcError> {
    node.check_network(tls, network).await?;
    node.finalized(tls).await
}

async fn testify(tls: &UpstreamTls, node: &Node, facts: &Facts, head: &Block) -> Result<Nonce, RpcError> {
    if facts.proof == Proof::Memo {
        return memo::testify(tls, node, facts, head).await;
    }
    let state = at_head(tls, node, facts, head).await?;
    // The receipt's transaction is usually the right one and saves the search. It is checked for an unused nonce too: a
    // node that shows the payment and says that the nonce is unused must not free money.
    let claimed = match (facts.claimed_hash(), facts.proof) {
        (None, _) => None,
        (Some(tx), Proof::Permit2(taking)) => permit2::settled_by(tls, node, facts, taking, tx).await?,
        (Some(tx), _) => node.mined(tls, tx).await?.and_then(|mined| spent(facts, tx, &mined)),
    };
    Ok(match (state, claimed) {
        (AtHead::Unused, None) => Nonce::Unused,
        (AtHead::Used | AtHead::UsedByNow, Some(spent)) if spent.block <= head.number => spent.how,
        (AtHead::Unused | AtHead::UsedByNow, Some(spent)) if spent.block > head.number => Nonce::NotFinal,
        // Spent below the head but unused at it, or used at the head but spent above it: that is a contradiction.
        (AtHead::Unused | AtHead::UsedByNow | AtHead::Used, Some(_)) => Nonce::Unexplained,
        (AtHead::Used, None) => search(tls, node, facts, head).await?.unwrap_or(Nonce::Unexplained),
        (AtHead::UsedByNow, None) => search(tls, node, facts, head).await?.unwrap_or(Nonce::NotFinal),
    })
}

/// A nonce never becomes unused again. So if the head's state is pruned and the newest state says "unused", the nonce
/// was unused at the head too; and once the head is past the deadline, no later block is before it.
async fn at_head(tls: &UpstreamTls, node: &Node, facts: &Facts, head: &Block) -> Result<AtHead, RpcError> {
    let state = |at| is_spent(tls, node, facts, at);
    match state(At::Block(head.number)).await {
        Ok(true) => Ok(AtHead::Used),
        Ok(false) => Ok(AtHead::Unused),
        Err(gone @ RpcError::NoState { .. }) => {
            let newest = node.newest(tls).await?;
            if newest.number <= head.number {
                return Err(gone);
            }
            match state(At::Block(newest.number)).await? {
                true => Ok(AtHead::UsedByNow),
                false => Ok(AtHead::Unused),
            }
        }
        Err(error) => Err(error),
    }
}

async fn is_spent(tls: &UpstreamTls, node: &Node, facts: &Facts, at: At) -> Result<bool, RpcError> {
    match facts.proof {
        Proof::Permit2(_) => node.permit2_spent(tls, facts.from, facts.nonce, at).await,
        // No contract keeps a memo, and this is never called for one.
        Proof::Authorization | Proof::Memo => {
            node.authorization_state(tls, facts.token, facts.from, facts.nonce, at)
                .await
        }
    }
}

/// The first block that can contain the payment. `None` if it comes after the head.
async fn first_block(tls: &UpstreamTls, node: &Node, facts: &Facts, head: &Block) -> Result<Option<Block>, RpcError> {
    let since = facts.armed_at.saturating_sub(CLOCK_SLACK_S);
    node.first_block_at(tls, since, head).await
}

/// Finds what used the nonce up, at or below the head.
async fn search(tls: &UpstreamTls, node: &Node, facts: &Facts, head: &Block) -> Result<Option<Nonce>, RpcError> {
    let Some(first) = first_block(tls, node, facts, head).await? else {
        return Ok(None);
    };
    match facts.proof {
        Proof::Permit2(taking) => permit2::search(tls, node, facts, taking, first, head).await,
        Proof::Authorization | Proof::Memo => search_events(tls, node, facts, first, head).await,
    }
}

/// Finds the event that used the nonce up: first among the blocks in which it was valid, then, for a cancellation, up
/// to the head.
async fn search_events(
    tls: &UpstreamTls,
    node: &Node,
    facts: &Facts,
    first: Block,
    head: &Block,
) -> Result<Option<Nonce>, RpcError> {
    let deadline = node
        .first_block_at(tls, facts.valid_before, head)
        .await?
        .unwrap_or(*head);
    for blocks in [
        first.number..=deadline.number,
        deadline.number.saturating_add(1)..=head.number,
    ] {
        let events = node
            .nonce_events(tls, facts.token, facts.from, facts.nonce, blocks)
            .await?;
        let Some(event) = events.first() else { continue };
        let Some(mined) = node.mined(tls, event.tx).await? else {
            continue;
        };
        let found = spent(facts, event.tx, &mined).filter(|spent| spent.block == event.block);
        return Ok(found.map(|spent| spent.how));
    }
    Ok(None)
}

/// What a transaction did with the nonce, if anything.
fn spent(facts: &Facts, tx: B256, mined: &Mined) -> Option<Spent> {
    let of_token = || mined.logs.iter().filter(|log| log.token == facts.token);
    let ours = |log: &Log| match log.event {
        Event::AuthorizationUsed { authorizer, nonce } => (authorizer, nonce) == (facts.from, facts.nonce),
        Event::AuthorizationCanceled { authorizer, nonce } => (authorizer, nonce) == (facts.from, facts.nonce),
        _ => false,
    };
    let event = of_token().find(|log| ours(log))?.event;
    let block = mined.block;
    if let Event::AuthorizationCanceled { .. } = event {
        let how = Nonce::Cancelled { tx, block };
        return Some(Spent { block, how });
    }
    let moved = of_token().filter_map(|log| moved(facts, log)).collect();
    Some(Spent {
        block,
        how: Nonce::Cashed { tx, block, moved },
    })
}

/// What left the wallet according to one log of the token.
fn moved(facts: &Facts, log: &Log) -> Option<Moved> {
    match log.event {
        Event::Transfer { from, to, value } if log.token == facts.token && from == facts.from => {
            Some(Moved { to, amount: value })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! Money that left the wallet without a payment of ours: through another program that has the key, a thief, or an old
//! token approval.
//!
//! The wallet's `Transfer` and `AuthorizationUsed` events are read together. A transfer is ours if the authorization
//! that moved it has a nonce from the ledger. Being in the same transaction is not enough: somebody with the key may
//! put a payment of ours that he has seen into one transaction with a transfer of his own. The nonce alone is not
//! enough either: he may sign again with the nonce of a payment that was never cashed.
//!
//! Permit2 logs no nonce, so transfers that are still unexplained are looked up in the transaction itself: each payment
//! of ours whose nonce the input contains explains one transfer that the payment allows. On Tempo the memo takes the
//! place of the nonce. The fee of a transaction, which is not part of any payment, is not an outflow as long as it is
//! as small as a fee.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use alloy_primitives::{Address, B256, Bytes, U256};

use super::testimony::Silent;
use bursar_core::assets::{self, Network, Standard, Token};
use bursar_core::challenge::mpp::tempo::Gas;
use bursar_net::tls::upstream::UpstreamTls;
use bursar_rails::rpc::{Event, Log, Node, RpcError, TEMPO_FEES};

/// One transfer that no payment explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outflow {
    pub asset: &'static Token,
    pub tx: B256,
    /// Index of its `Transfer` among all logs of the block.
    pub log_index: u64,
    pub to: Address,
    /// Atoms.
    pub amount: U256,
    pub block: u64,
}

/// The result of searching a range of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outflows {
    /// What any node showed, oldest first: a single node must not be able to hide a theft.
    pub found: Vec<Outflow>,
    /// How many nodes searched the whole range. If it is zero, the range has not been searched.
    pub searched_by: usize,
    pub silent: Vec<Silent>,
}

/// Finds, in a transaction's input, the nonces of Permit2 payments that allow a transfer; the closest match first.
pub type Borne<'a> = &'a (dyn Fn(&[u8], &Outflow) -> Vec<B256> + Sync);

/// Searches the final `blocks` for transfers of all our tokens of `network` out of `wallet`. `known` says whether the
/// ledger has a payment with that nonce, for that asset, payee and amount. `borne` is given if the ledger has any
/// Permit2 payments on that network.
pub async fn outflows<'a>(
    tls: &UpstreamTls,
    network: Network,
    nodes: impl IntoIterator<Item = &'a Node>,
    wallet: Address,
    blocks: RangeInclusive<u64>,
    known: impl Fn(&B256, &Outflow) -> bool,
    borne: Option<Borne<'_>>,
) -> Outflows {
    let tokens: Vec<Address> = assets::tokens_of(network).map(|asset| asset.address).collect();
    let mut found = BTreeMap::new();
    let (mut searched_by, mut silent) = (0, Vec::new());
    for node in nodes {
        let looking = async {
            let mut logs = node.departures(tls, &tokens, wallet, blocks.clone()).await?;
            if tempo(network) {
                logs.extend(node.memos(tls, &tokens, wallet, None, blocks.clone()).await?);
            }
            let left = unexplained(network, &logs, &known);
            match borne {
                None => Ok(left),
                Some(borne) => unpermitted(tls, node, left, borne).await,
            }
        };
        match looking.await {
            Ok(left) => {
                searched_by += 1;
                for outflow in left {
                    found.insert((outflow.block, outflow.log_index, outflow.tx), outflow);
                }
            }
            Err::<_, RpcError>(error) => silent.push(Silent {
                node: node.shown(),
                why: error.to_string(),
            }),
        }
    }
    Outflows {
        found: found.into_values().collect(),
        searched_by,
        silent,
    }
}

/// The transfers among `logs` that no known nonce explains. Transfers of zero are ignored: anybody can make a token
/// emit one in our name, and people do, to get their address into our history.
pub fn unexplained(network: Network, logs: &[Log], known: impl Fn(&B256, &Outflow) -> bool) -> Vec<Outflow> {
    let in_order: BTreeMap<(u64, u64, B256), &Log> =
        logs.iter().map(|log| ((log.block, log.index, log.tx), log)).collect();
    // By transaction and token: the authorization whose transfer has not been seen yet.
    let mut pending: BTreeMap<(B256, Address), B256> = BTreeMap::new();
    let mut found = Vec::new();
    for log in in_order.into_values() {
        let Some(asset) = assets::token(network, &log.token) else {
            continue;
        };
        match log.event {
            // An authorization makes one transfer, after its event. Circle's and Tether's contracts both do it that
            // way.
            Event::AuthorizationUsed { nonce, .. } => {
                pending.insert((log.tx, log.token), nonce);
            }
            Event::Transfer { to, value, .. } => {
                let outflow = Outflow {
                    asset,
                    tx: log.tx,
                    log_index: log.index,
                    to,
                    amount: value,
                    block: log.block,
                };
                let nonce = pending.remove(&(log.tx, log.token));
                let ours = nonce.is_some_and(|nonce| known(&nonce, &outflow));
                if !ours && !value.is_zero() && !is_fee(asset, &outflow) {
                    found.push(outflow);
                }
            }
            Event::TransferWithMemo { to, value, memo, .. } => {
                let is_same =
                    |left: &Outflow| (left.tx, left.asset, left.to, left.amount) == (log.tx, asset, to, value);
                if let Some(at) = found.iter().rposition(is_same)
                    && known(&memo, &found[at])
                {
                    found.remove(at);
                }
            }
            Event::AuthorizationCanceled { .. } | Event::NoncesInvalidated { .. } => {}
        }
    }
    found
}

/// The transfers that no Permit2 payment explains. A payment explains one transfer.
async fn unpermitted(
    tls: &UpstreamTls,
    node: &Node,
    left: Vec<Outflow>,
    borne: Borne<'_>,
) -> Result<Vec<Outflow>, RpcError> {
    // Only one input is kept at a time: the transfers come in chain order, and an input can be long.
    let mut newest: Option<(B256, Bytes)> = None;
    let mut explained = BTreeSet::new();
    let mut found = Vec::new();
    for outflow in left {
        let input = match newest.take() {
            Some((tx, input)) if tx == outflow.tx => input,
            _ => input(tls, node, outflow.tx).await?,
        };
        let nonces = borne(&input, &outflow);
        newest = Some((outflow.tx, input));
        match nonces.into_iter().find(|nonce| !explained.contains(nonce)) {
            Some(nonce) => drop(explained.insert(nonce)),
            None => found.push(outflow),
        }
    }
    Ok(found)
}

/// The input of a transaction. Empty if its kind has no input, or if it is too long to be a payment: a thief chooses
/// the form of the transaction and must not be able to stop the search with it. A transfer that is not explained is
/// reported.
async fn input(tls: &UpstreamTls, node: &Node, tx: B256) -> Result<Bytes, RpcError> {
    match node.sent(tls, tx).await {
        Ok(sent) => Ok(sent.map(|sent| sent.input).unwrap_or_default()),
        Err(error @ (RpcError::Answer { .. } | RpcError::TooLong { .. })) => {
            tracing::warn!(%tx, %error, "could not read the transaction that moved money out of the wallet");
            Ok(Bytes::new())
        }
        // A node that does not answer now may answer later.
        Err(error) => Err(error),
    }
}

fn tempo(network: Network) -> bool {
    assets::tokens_of(network).any(|token| token.standard == Standard::Tip20)
}

/// Somebody with the key can burn a cent this way, and gains nothing.
fn is_fee(token: &Token, outflow: &Outflow) -> bool {
    let most = U256::from(Gas::CHARGE.fee_cap().get());
    token.standard == Standard::Tip20 && outflow.to == TEMPO_FEES && outflow.amount <= most
}

#[cfg(test)]
mod tests;

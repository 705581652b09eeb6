//! Whether Permit2 may move a token of the wallet (x402 §4.2): either the allowance exists, or the seller brings the
//! wallet's signed permit, for this one amount, to the chain. Never more than that (threat 1.11).
//!
//! This is the only step of a payment that asks a node: without the allowance, a credential would only be refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, U256};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use crate::rpc::Node;
use bursar_core::assets::{Network, Token};
use bursar_core::challenge::permit2::PERMIT2;
use bursar_core::challenge::{Offer, Rail, Why};
use bursar_net::tls::upstream::UpstreamTls;

/// A node that takes longer is skipped.
const PATIENCE: Duration = Duration::from_secs(3);

pub enum Permission {
    /// The allowance exists, as far as is known. Rails other than Permit2's need none.
    Granted,
    /// A permit must be signed with this nonce of the token, and brought to the chain by the seller.
    Brought {
        nonce: U256,
        /// All permits for one token that are in progress at once would have the same nonce, and only one of them would
        /// be valid. So they take turns.
        turn: OwnedMutexGuard<()>,
    },
}

/// Asks the nodes that bursar.toml names.
#[derive(Default)]
pub struct Permissions {
    /// Each token counts its own nonces. Only tokens of our table become keys.
    turns: StdMutex<BTreeMap<(Network, Address), Turn>>,
}

type Turn = Arc<Mutex<()>>;

impl Permissions {
    /// `patience` limits the wait for another payment's turn: a seller that does not answer must not hold up all
    /// others.
    pub async fn of(
        &self,
        offer: &Offer,
        owner: Address,
        nodes: &BTreeMap<Network, Vec<Node>>,
        tls: &UpstreamTls,
        patience: Duration,
    ) -> Result<Permission, Why> {
        let (Rail::X402Permit2 | Rail::X402UpTo, Some(token)) = (offer.rail, offer.asset.token()) else {
            return Ok(Permission::Granted);
        };
        let nodes = nodes.get(&token.network()).map(Vec::as_slice).unwrap_or_default();
        // Without a node, the operator vouches for the allowance by listing the rail.
        if nodes.is_empty() {
            return Ok(Permission::Granted);
        }
        let needed = U256::from(offer.amount.get());
        if allowance(nodes, tls, token, owner).await? >= needed {
            return Ok(Permission::Granted);
        }
        if !offer.echo.brings_permission() {
            return Err(Why::AllowanceMissing);
        }
        let turn = timeout(patience, self.turn(token).lock_owned()).await;
        let turn = turn.map_err(|_| Why::PermissionBusy)?;
        let nonce = permit_nonce(nodes, tls, token, owner).await?;
        Ok(Permission::Brought { nonce, turn })
    }

    fn turn(&self, token: &Token) -> Turn {
        // A map that is only added to stays valid if another holder panics.
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry((token.network(), token.address)).or_default().clone()
    }
}

async fn allowance(nodes: &[Node], tls: &UpstreamTls, token: &Token, owner: Address) -> Result<U256, Why> {
    for node in nodes {
        match timeout(PATIENCE, node.allowance(tls, token, owner, PERMIT2)).await {
            Ok(Ok(allowed)) => return Ok(allowed),
            Ok(Err(error)) => tracing::warn!(%error, "the allowance for Permit2 could not be read"),
            Err(_) => tracing::warn!(
                node = node.shown(),
                "the node did not return the allowance for Permit2 in time"
            ),
        }
    }
    Err(Why::AllowanceUnknown)
}

async fn permit_nonce(nodes: &[Node], tls: &UpstreamTls, token: &Token, owner: Address) -> Result<U256, Why> {
    for node in nodes {
        match timeout(PATIENCE, node.permit_nonce(tls, token, owner)).await {
            Ok(Ok(nonce)) => return Ok(nonce),
            // For example, a token without EIP-2612.
            Ok(Err(error)) => tracing::warn!(%error, "the token's permit nonce could not be read"),
            Err(_) => tracing::warn!(
                node = node.shown(),
                "the node did not return the token's permit nonce in time"
            ),
        }
    }
    Err(Why::AllowanceUnknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bursar_core::assets;

    #[tokio::test]
    async fn a_turn_is_for_one_token_on_one_network() {
        let permissions = Permissions::default();
        let mut tokens = [8_453, 42_220]
            .into_iter()
            .flat_map(|id| assets::tokens_of(Network::Eip155(id)));
        let first = tokens.next().unwrap();
        let held = permissions.turn(first).lock_owned().await;
        assert!(permissions.turn(first).try_lock_owned().is_err());
        let others: Vec<_> = tokens.map(|token| permissions.turn(token).try_lock_owned()).collect();
        assert!(others.len() > 1 && others.iter().all(Result::is_ok));
        drop(held);
        assert!(permissions.turn(first).try_lock_owned().is_ok());
    }
}

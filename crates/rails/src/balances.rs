//! The wallet's balances as the nodes last reported them. They are read in the background, never on the path of a
//! payment, and can only refuse a payment that could not settle anyway (R25).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, U256};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::rpc::Node;
use bursar_core::assets::{self, Asset, Network};
use bursar_core::money::{Atoms, MicroUsd};
use bursar_net::tls::upstream::UpstreamTls;

const EVERY: Duration = Duration::from_secs(30);
/// After a refusal the balances are read again at once, but not more often than this.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
pub struct Balances(Arc<Known>);

/// What the wallet is known to hold on one network, all assets together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub usd: MicroUsd,
    /// Symbols of the assets that are not included, because no node returned a balance.
    pub unread: Vec<&'static str>,
}

#[derive(Default)]
struct Known {
    held: Mutex<BTreeMap<(Network, Address), U256>>,
    again: Notify,
}

impl Balances {
    /// True unless a node reported that the wallet holds less.
    pub fn may_cover(&self, asset: Asset, amount: Atoms) -> bool {
        let Asset::Token(token) = asset else {
            return true;
        };
        let held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&(token.network(), token.address))
            .is_none_or(|held| *held >= U256::from(amount.get()))
    }

    /// As if a node had reported this balance.
    #[cfg(any(test, feature = "testing"))]
    pub fn note(&self, token: &assets::Token, atoms: Atoms) {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert((token.network(), token.address), U256::from(atoms.get()));
    }

    /// `None` while no balance is known: unreachable nodes are no reason to call the wallet empty.
    fn held_on(&self, network: Network) -> Option<Held> {
        let known = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut sum, mut unread, mut any) = (0_u128, Vec::new(), false);
        // A token for another currency has no price here: the limits hold the rates.
        for asset in assets::tokens_of(network).filter(|token| token.currency.is_dollar()) {
            let Some(atoms) = known.get(&(network, asset.address)) else {
                unread.push(asset.symbol);
                continue;
            };
            any = true;
            // A balance too large for the type is enough for any payment.
            let atoms = Atoms::new(u128::try_from(*atoms).unwrap_or(u128::MAX));
            let usd = MicroUsd::of(atoms, asset.decimals).map_or(u128::MAX, MicroUsd::get);
            sum = sum.saturating_add(usd);
        }
        let usd = MicroUsd::new(sum);
        any.then_some(Held { usd, unread })
    }

    /// Call this after a payment was refused for lack of funds: the wallet may have been funded since.
    pub fn look_again(&self) {
        self.0.again.notify_one();
    }

    /// Reads the balances until `stop`, and reports to `notify` what the wallet holds on each network, all assets
    /// together.
    pub async fn watch(
        self,
        nodes: BTreeMap<Network, Vec<Node>>,
        tls: Arc<UpstreamTls>,
        owner: Address,
        notify: impl Fn(Network, Held),
        stop: CancellationToken,
    ) {
        tokio::select! {
            // A node that does not answer must not delay the shutdown.
            () = stop.cancelled() => {}
            () = self.poll(nodes, &tls, owner, notify) => {}
        }
    }

    async fn poll(
        &self,
        nodes: BTreeMap<Network, Vec<Node>>,
        tls: &UpstreamTls,
        owner: Address,
        notify: impl Fn(Network, Held),
    ) {
        let nodes = checked(nodes, tls).await;
        loop {
            for (network, nodes) in &nodes {
                self.look(*network, nodes, tls, owner).await;
                if let Some(held) = self.held_on(*network) {
                    notify(*network, held);
                }
            }
            tokio::select! {
                () = sleep(EVERY) => {}
                () = async { self.0.again.notified().await; sleep(AT_MOST_EVERY).await } => {}
            }
        }
    }

    async fn look(&self, network: Network, nodes: &[Node], tls: &UpstreamTls, owner: Address) {
        for asset in assets::tokens_of(network) {
            for node in nodes {
                match node.balance(tls, asset, owner).await {
                    Ok(held) => {
                        tracing::debug!(%network, symbol = asset.symbol, atoms = %held, "wallet balance");
                        let mut known = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
                        known.insert((network, asset.address), held);
                        break;
                    }
                    Err(error) => {
                        // An old balance must not refuse payments for as long as no node can renew it.
                        self.0
                            .held
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .remove(&(network, asset.address));
                        tracing::warn!(%network, symbol = asset.symbol, %error, "could not read the wallet's balance");
                    }
                }
            }
        }
    }
}

/// A node of another chain would report another wallet's balance, so it is left out, with an error in the log.
async fn checked(nodes: BTreeMap<Network, Vec<Node>>, tls: &UpstreamTls) -> BTreeMap<Network, Vec<Node>> {
    let mut good = BTreeMap::new();
    for (network, nodes) in nodes {
        for node in nodes {
            match node.check_network(tls, network).await {
                Err(error @ crate::rpc::RpcError::WrongNetwork { .. }) => {
                    tracing::error!(%error, "this node is not used; correct [networks] in bursar.toml");
                }
                _ => good.entry(network).or_insert_with(Vec::new).push(node),
            }
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_shortage_refuses() {
        let balances = Balances::default();
        let token = assets::tokens_of(Network::Eip155(84532)).next().unwrap();
        let asset = Asset::Token(token);
        assert!(balances.may_cover(asset, Atoms::new(u128::MAX)));
        balances
            .0
            .held
            .lock()
            .unwrap()
            .insert((token.network(), token.address), U256::from(10));
        assert!(balances.may_cover(asset, Atoms::new(10)));
        assert!(!balances.may_cover(asset, Atoms::new(11)));
        let held = balances.held_on(token.network()).unwrap();
        assert_eq!((held.usd, held.unread), (MicroUsd::new(10), Vec::new()));
        assert_eq!(balances.held_on(Network::Eip155(8453)), None, "not read yet");
    }

    #[test]
    fn a_token_that_cannot_be_read_does_not_hide_what_the_others_tell() {
        let balances = Balances::default();
        let network = Network::Eip155(42_220);
        let tokens: Vec<_> = assets::tokens_of(network).collect();
        let insert = |at: usize| {
            let mut known = balances.0.held.lock().unwrap();
            known.insert((network, tokens[at].address), U256::from(1_000_000));
        };
        insert(0);
        let held = balances.held_on(network).unwrap();
        let unread: Vec<_> = tokens[1..].iter().map(|token| token.symbol).collect();
        assert!(!unread.is_empty());
        assert_eq!(held.unread, unread);
        (1..tokens.len()).for_each(insert);
        assert_eq!(balances.held_on(network).unwrap().unread, Vec::<&str>::new());
    }
}

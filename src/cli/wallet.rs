//! `bursar wallet show`: the wallet's address and balances.

use std::sync::Arc;

use alloy_primitives::U256;
use clap::Subcommand;
use serde_json::json;

use super::output::{note, print_json, say};
use super::{Exit, Failure};
use crate::config::Config;
use crate::config::operator::RpcUrl;
use crate::serve;
use bursar_core::assets;
use bursar_core::money::Atoms;
use bursar_core::plain::plain;
use bursar_home::Home;
use bursar_net::tls::upstream::UpstreamTls;
use bursar_rails::pay::EvmPayer;
use bursar_rails::rpc::Node;

#[derive(Subcommand)]
pub(super) enum WalletCommand {
    /// Show the wallet's address, and its balances on the configured networks
    Show {
        /// One JSON object per asset
        #[arg(long)]
        json: bool,
    },
}

impl WalletCommand {
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let Self::Show { json: as_json } = self;
        let config = Config::load(home.root())?;
        let tls = serve::upstream_tls(&config, home.root()).map_err(|error| Failure::usage(error.to_string()))?;
        let tls = Arc::new(tls);
        let opened = serve::open_wallet(&config, home, &tls).await;
        let Some(wallet) = opened
            .map_err(|error| Failure::usage(format!("{} in {}: {error}", error.section(), home.config().display())))?
        else {
            return Err(Failure::usage(format!(
                "{} has no wallet: add [wallet.evm] with key = \"file:PATH\", \"env:NAME\" or \"keystore:PATH\", or \
                 evm = \"bkey\" under [wallet]",
                home.config().display()
            )));
        };
        if !as_json {
            say!("{}", wallet.address())?;
        }
        if config.networks.is_empty() {
            note!(
                "{} lists no networks, so nothing can be paid; add one under [networks].",
                home.config().display()
            );
        }
        for (network, urls) in &config.networks {
            for asset in assets::tokens_of(*network) {
                let balance = first_answer(urls, &tls, asset, &wallet).await;
                report(as_json, &wallet, asset, &balance)?;
            }
        }
        Ok(Exit::Done)
    }
}

async fn first_answer(
    urls: &[RpcUrl],
    tls: &UpstreamTls,
    asset: &assets::Token,
    wallet: &EvmPayer,
) -> Result<U256, String> {
    let mut last = "no rpc node is configured".to_owned();
    for url in urls {
        let node = Node::new(url.uri().clone());
        let asked = match node.check_network(tls, asset.network()).await {
            Ok(()) => node.balance(tls, asset, wallet.address()).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(balance) => return Ok(balance),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

fn report(
    as_json: bool,
    wallet: &EvmPayer,
    asset: &assets::Token,
    balance: &Result<U256, String>,
) -> Result<(), Failure> {
    // No real token has balances above 2^128 atoms; such a balance is shown in atoms.
    let decimal = |atoms: &U256| {
        u128::try_from(*atoms).map_or_else(
            |_| format!("{atoms} atoms"),
            |atoms| Atoms::new(atoms).decimal(asset.decimals),
        )
    };
    if as_json {
        return print_json(&json!({
            "address": wallet.address(), "network": asset.network().to_string(), "asset": asset.caip19(), "symbol": asset.symbol,
            "atoms": balance.as_ref().ok().map(ToString::to_string), "balance": balance.as_ref().ok().map(decimal),
            "error": balance.as_ref().err(),
        }));
    }
    match balance {
        Ok(atoms) => say!(
            "  {:<16} {:>16} {}",
            asset.network().to_string(),
            decimal(atoms),
            asset.symbol
        ),
        Err(why) => say!(
            "  {:<16} {:>16} {}: {why}",
            asset.network().to_string(),
            "unknown",
            asset.symbol,
            why = plain(why)
        ),
    }
}

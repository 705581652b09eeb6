//! BKey's wallet address, asked for at start and stored: free traffic must work while BKey is unreachable, and a known
//! wallet does not change.

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use bursar_core::account::AccountMark;
use bursar_home::{self as home, Home, Readers};
use bursar_rails::bkey::{Bkey, NoWalletAnswer, Unanswered, WalletAnswer};

#[derive(Debug, Error)]
pub enum WalletUnknown {
    #[error("BKey at {url}: {error}{way_out}", way_out = way_out(*error))]
    Unknown { url: String, error: NoWalletAnswer },
}

/// The stored file.
#[derive(Serialize, Deserialize)]
struct RememberedWallet {
    address: Address,
    chain_id: u64,
    /// The client whose wallet it is.
    client: AccountMark,
    contract: Address,
}

/// The wallet that BKey reports, or the stored one if BKey does not answer.
pub(super) async fn wallet(bkey: &Bkey, home: &Home) -> Result<WalletAnswer, WalletUnknown> {
    let error = match bkey.wallet().await {
        Ok(history) => {
            keep(bkey, home, &history);
            return Ok(history);
        }
        Err(error) => error,
    };
    let url = bkey.url().to_owned();
    match (error, stored(bkey, home)) {
        (NoWalletAnswer::Unanswered(Unanswered::Unsent | Unanswered::Unanswered), Some(stored)) => {
            tracing::warn!(url, %error, wallet = %stored.address, "BKey does not answer; using its last known wallet");
            Ok(stored)
        }
        (error, _) => Err(WalletUnknown::Unknown { url, error }),
    }
}

fn keep(bkey: &Bkey, home: &Home, history: &WalletAnswer) {
    let stored = RememberedWallet {
        address: history.address,
        chain_id: history.chain_id,
        client: bkey.mark(),
        contract: history.contract,
    };
    let written = serde_json::to_vec(&stored).map(|json| home::write_atomic(&home.bkey(), &json, Readers::Owner));
    if let Ok(Err(error)) = written {
        tracing::warn!(%error, "cannot store BKey's wallet; starting while BKey is unreachable will fail");
    }
}

fn stored(bkey: &Bkey, home: &Home) -> Option<WalletAnswer> {
    let text = home::read_secret(&home.bkey()).ok()?;
    let stored: RememberedWallet = serde_json::from_str(&text).ok()?;
    (stored.client == bkey.mark()).then_some(WalletAnswer {
        address: stored.address,
        chain_id: stored.chain_id,
        contract: stored.contract,
    })
}

const fn way_out(error: NoWalletAnswer) -> &'static str {
    match error {
        NoWalletAnswer::Unanswered(Unanswered::NotLoggedIn(_)) => "; correct its client under [bkey] in bursar.toml",
        NoWalletAnswer::Unanswered(_) => "; start again when it is reachable",
        NoWalletAnswer::Refused(_) | NoWalletAnswer::Unreadable(_) => "",
    }
}

//! What BKey says of its wallet, asked at the start, and kept: while BKey is away, free traffic has to go on, and a wallet that is
//! known does not change.

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

/// The file.
#[derive(Serialize, Deserialize)]
struct RememberedWallet {
    address: Address,
    chain_id: u64,
    /// Whose wallet it is.
    client: AccountMark,
    contract: Address,
}

/// What BKey says now, or said last, if it does not answer.
pub(super) async fn wallet(bkey: &Bkey, home: &Home) -> Result<WalletAnswer, WalletUnknown> {
    let error = match bkey.wallet().await {
        Ok(history) => {
            keep(bkey, home, &history);
            return Ok(history);
        }
        Err(error) => error,
    };
    let url = bkey.url().to_owned();
    match (error, kept(bkey, home)) {
        (NoWalletAnswer::Unanswered(Unanswered::Unsent | Unanswered::Unanswered), Some(kept)) => {
            tracing::warn!(url, %error, wallet = %kept.address, "BKey's wallet is taken to be the one that it told before");
            Ok(kept)
        }
        (error, _) => Err(WalletUnknown::Unknown { url, error }),
    }
}

fn keep(bkey: &Bkey, home: &Home, history: &WalletAnswer) {
    let kept = RememberedWallet {
        address: history.address,
        chain_id: history.chain_id,
        client: bkey.mark(),
        contract: history.contract,
    };
    let written = serde_json::to_vec(&kept).map(|json| home::write_atomic(&home.bkey(), &json, Readers::Owner));
    if let Ok(Err(error)) = written {
        tracing::warn!(%error, "BKey's wallet could not be kept; a start while BKey is away will not know it");
    }
}

fn kept(bkey: &Bkey, home: &Home) -> Option<WalletAnswer> {
    let text = home::read_secret(&home.bkey()).ok()?;
    let kept: RememberedWallet = serde_json::from_str(&text).ok()?;
    (kept.client == bkey.mark()).then_some(WalletAnswer {
        address: kept.address,
        chain_id: kept.chain_id,
        contract: kept.contract,
    })
}

const fn way_out(error: NoWalletAnswer) -> &'static str {
    match error {
        NoWalletAnswer::Unanswered(Unanswered::NotLoggedIn(_)) => "; put its client right under [bkey] in bursar.toml",
        NoWalletAnswer::Unanswered(_) => "; start again when it can be reached",
        NoWalletAnswer::Refused(_) | NoWalletAnswer::Unreadable(_) => "",
    }
}

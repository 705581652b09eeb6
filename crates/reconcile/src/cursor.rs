//! Up to which final block each wallet's transfers have been searched. Kept in `private/reconciled.json`, only to save
//! time: if the file is lost, the search starts again where the ledger begins.

use std::path::PathBuf;

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};

use bursar_core::assets::Network;
use bursar_home::{self as home, HomeError, Readers};

/// The last block that was searched, and its time in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Searched {
    pub block: u64,
    pub time: u64,
}

pub(crate) struct Cursors {
    path: PathBuf,
    all: Vec<Cursor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    network: String,
    wallet: Address,
    block: u64,
    time: u64,
}

impl Cursors {
    /// A file that is missing or cannot be parsed counts as empty.
    pub(crate) fn load(path: PathBuf) -> Self {
        let text = home::read_secret(&path).ok();
        let all = text
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        Self { path, all }
    }

    pub(crate) fn of(&self, network: Network, wallet: Address) -> Option<Searched> {
        self.named(&network.to_string(), wallet)
    }

    /// Like [`Cursors::of`], by the network's CAIP-2 name.
    pub(crate) fn named(&self, network: &str, wallet: Address) -> Option<Searched> {
        let cursor = self
            .all
            .iter()
            .find(|cursor| cursor.network == network && cursor.wallet == wallet)?;
        Some(Searched {
            block: cursor.block,
            time: cursor.time,
        })
    }

    /// Moves a cursor forward, never back.
    pub(crate) fn advance(&mut self, network: Network, wallet: Address, to: Searched) -> Result<(), HomeError> {
        if self
            .of(network, wallet)
            .is_some_and(|searched| searched.block >= to.block)
        {
            return Ok(());
        }
        let network = network.to_string();
        self.all
            .retain(|cursor| cursor.network != network || cursor.wallet != wallet);
        self.all.push(Cursor {
            network,
            wallet,
            block: to.block,
            time: to.time,
        });
        let text = serde_json::to_vec(&self.all).unwrap_or_default();
        home::write_atomic(&self.path, &text, Readers::Owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_kept_moves_forward_only_and_can_be_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reconciled.json");
        let (network, wallet) = (Network::Eip155(84_532), Address::repeat_byte(1));
        let at = |block| Searched { block, time: 2 * block };
        let mut cursors = Cursors::load(path.clone());
        assert_eq!(cursors.of(network, wallet), None);
        cursors.advance(network, wallet, at(7)).unwrap();
        cursors.advance(network, Address::repeat_byte(2), at(3)).unwrap();
        cursors.advance(network, wallet, at(5)).unwrap();
        let stored = Cursors::load(path.clone());
        assert_eq!(stored.of(network, wallet), Some(at(7)));
        assert_eq!(stored.of(network, Address::repeat_byte(2)), Some(at(3)));
        assert_eq!(stored.of(Network::Eip155(8453), wallet), None);

        home::write_atomic(&path, b"[{\"network\":", Readers::Owner).unwrap();
        assert_eq!(Cursors::load(path).of(network, wallet), None);
    }
}

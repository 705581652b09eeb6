//! Temporary stand-in, to be replaced by the real asset table.

use alloy_primitives::{Address, address};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    Eip155(u64),
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Eip155(id) = self;
        write!(f, "eip155:{id}")
    }
}

#[derive(Debug)]
pub struct Asset {
    pub network: Network,
    pub address: Address,
    pub symbol: &'static str,
    pub decimals: u8,
    pub eip712_name: &'static str,
    pub eip712_version: &'static str,
    pub eip3009: bool,
}

impl Asset {
    pub fn caip19(&self) -> String {
        format!("{}/erc20:{:#x}", self.network, self.address)
    }
}

static TABLE: [Asset; 2] = [
    Asset {
        network: Network::Eip155(84532),
        address: address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
        symbol: "USDC",
        decimals: 6,
        eip712_name: "USDC",
        eip712_version: "2",
        eip3009: true,
    },
    Asset {
        network: Network::Eip155(8453),
        address: address!("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
        symbol: "USDC",
        decimals: 6,
        eip712_name: "USD Coin",
        eip712_version: "2",
        eip3009: true,
    },
];

pub fn assets_of(network: Network) -> impl Iterator<Item = &'static Asset> {
    TABLE.iter().filter(move |asset| asset.network == network)
}

pub fn asset(network: Network, address: &Address) -> Option<&'static Asset> {
    assets_of(network).find(|asset| asset.address == *address)
}

//! The USDC contract of Base Sepolia, which the sandbox token imitates.

use alloy_primitives::{Address, address};

/// The chain id of Base Sepolia.
pub(crate) const CHAIN_ID: u64 = 84532;
/// The contract address of Base Sepolia's USDC.
pub(crate) const CONTRACT: Address = address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e");
/// The EIP-712 name of that contract. On Base mainnet it is "USD Coin" (x402 §3).
pub(crate) const NAME: &str = "USDC";
/// The EIP-712 version of that contract.
pub(crate) const VERSION: &str = "2";
/// One token is 10^6 atoms.
pub(crate) const DECIMALS: u8 = 6;

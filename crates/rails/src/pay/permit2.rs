//! The messages that the wallet signs for a payment through Permit2 (x402 §4.2, §5).
//!
//! There are two kinds: the transfer itself, with the payee (and for `upto` the facilitator) in its witness; and
//! EIP-2612's `Permit`, where the token has not approved Permit2 and a facilitator would bring the permit to the chain.

use std::borrow::Cow;

use alloy_primitives::{Address, U256};
use alloy_sol_types::Eip712Domain;

use super::evm::{self, Wallet};
use bursar_core::assets::Token;
use bursar_core::challenge::permit2::{PERMIT2, Permit2Transfer, Spender, TokenPermit};

/// Structs of `exact`. Each scheme has its own module because a struct's name is part of what is hashed.
mod exact {
    alloy_sol_types::sol! {
        struct TokenPermissions {
            address token;
            uint256 amount;
        }
        struct Witness {
            address to;
            uint256 validAfter;
        }
        struct PermitWitnessTransferFrom {
            TokenPermissions permitted;
            address spender;
            uint256 nonce;
            uint256 deadline;
            Witness witness;
        }
    }
}

mod upto {
    alloy_sol_types::sol! {
        struct TokenPermissions {
            address token;
            uint256 amount;
        }
        struct Witness {
            address to;
            address facilitator;
            uint256 validAfter;
        }
        struct PermitWitnessTransferFrom {
            TokenPermissions permitted;
            address spender;
            uint256 nonce;
            uint256 deadline;
            Witness witness;
        }
    }
}

alloy_sol_types::sol! {
    struct Permit {
        address owner;
        address spender;
        uint256 value;
        uint256 nonce;
        uint256 deadline;
    }
}

impl Wallet {
    /// Allows the scheme's proxy to take the amount, or up to that amount.
    pub(crate) fn sign_permit2(&self, transfer: &Permit2Transfer) -> [u8; 65] {
        let domain = domain(transfer);
        match transfer.spender {
            Spender::Exact => self.sign(&exact_message(transfer), &domain),
            Spender::Upto { facilitator } => self.sign(&upto_message(transfer, facilitator), &domain),
        }
    }

    /// Allows Permit2 to move the payment's amount. The domain's name and version are those of `token` (R22); chain and
    /// contract are the payment's, so the permit can never be for anything else.
    pub(crate) fn sign_permit(&self, token: &Token, permit: &TokenPermit<'_>) -> [u8; 65] {
        self.sign(&permit_message(permit), &permit_domain(token, permit))
    }
}

/// Permit2 has a name and no version.
fn domain(transfer: &Permit2Transfer) -> Eip712Domain {
    Eip712Domain::new(
        Some(Cow::Borrowed("Permit2")),
        None,
        Some(U256::from(transfer.chain_id)),
        Some(PERMIT2),
        None,
    )
}

fn permit_domain(token: &Token, permit: &TokenPermit<'_>) -> Eip712Domain {
    Eip712Domain {
        chain_id: Some(U256::from(permit.chain_id())),
        verifying_contract: Some(permit.token()),
        ..evm::domain(token)
    }
}

fn exact_message(transfer: &Permit2Transfer) -> exact::PermitWitnessTransferFrom {
    exact::PermitWitnessTransferFrom {
        permitted: exact::TokenPermissions {
            token: transfer.token,
            amount: U256::from(transfer.amount.get()),
        },
        spender: transfer.spender.address(),
        nonce: U256::from_be_bytes(transfer.nonce.0),
        deadline: U256::from(transfer.deadline),
        witness: exact::Witness {
            to: transfer.to,
            validAfter: U256::from(transfer.valid_after),
        },
    }
}

fn upto_message(transfer: &Permit2Transfer, facilitator: Address) -> upto::PermitWitnessTransferFrom {
    upto::PermitWitnessTransferFrom {
        permitted: upto::TokenPermissions {
            token: transfer.token,
            amount: U256::from(transfer.amount.get()),
        },
        spender: transfer.spender.address(),
        nonce: U256::from_be_bytes(transfer.nonce.0),
        deadline: U256::from(transfer.deadline),
        witness: upto::Witness {
            to: transfer.to,
            facilitator,
            validAfter: U256::from(transfer.valid_after),
        },
    }
}

fn permit_message(permit: &TokenPermit<'_>) -> Permit {
    Permit {
        owner: permit.owner(),
        spender: PERMIT2,
        value: U256::from(permit.value().get()),
        nonce: permit.nonce(),
        deadline: U256::from(permit.deadline()),
    }
}

#[cfg(test)]
mod tests;

//! An MPP `tempo`/`charge` payment that the seller broadcasts ("pull"): a Tempo transaction with a single call of
//! `transferWithMemo`, signed without asking any node (MPP §8.1).
//!
//! Signing needs no account state because the transaction uses expiring nonces (TIP-1009): nonce key 2^256 - 1, nonce
//! 0, and a `validBefore` at most 30 s ahead of the block that includes it (R16 uses 25). From that second on it can
//! never be included; before it, the chain includes it once, whoever pays the fee. The memo makes the payments of two
//! challenges different transactions. The same challenge signed for another second is a different payment as well.

use alloy_primitives::{Address, B256, U256, hex, keccak256};
use alloy_rlp::{Encodable, Header};
use alloy_sol_types::{SolCall, sol};
use zeroize::Zeroizing;

use super::Wallet;
use bursar_core::challenge::mpp::tempo::Gas;
use bursar_core::money::Atoms;

/// First byte of a Tempo transaction, and of the bytes that its sender signs.
const TRANSACTION: u8 = 0x76;
/// First byte of a transaction that still needs the fee payer's signature. No node accepts it.
const FOR_FEE_PAYER: u8 = 0x78;
/// What the sender signs in place of the fee payer's signature, which is added later.
const FEE_PAYER_TO_COME: &[u8] = &[0];
/// The nonce key of expiring nonces, 2^256 - 1.
const EXPIRING: &[u8] = &[0xff; 32];
/// Larger than any envelope made here: a vector that reallocates leaves copies of a signature that are not wiped.
const ROOM: usize = 512;

sol! {
    function transferWithMemo(address to, uint256 amount, bytes32 memo) external;
}

/// Everything that is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TempoTransfer {
    pub chain_id: u64,
    pub token: Address,
    pub to: Address,
    pub amount: Atoms,
    pub memo: B256,
    /// Unix second from which no block includes it. Zero reads as absent, and expiring nonces require it.
    pub valid_before: u64,
    pub gas: Gas,
    pub fee: FeeTerms,
}

/// Who pays the fee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeeTerms {
    /// We do, in this token. The chain first charges what all the gas would cost and then refunds the rest, so the
    /// wallet must hold the cap in addition to the amount. A transfer that fails on the chain is charged for its gas
    /// all the same.
    Ours { token: Address },
    /// The seller does (`feePayer`), in a token of its choice, with a signature that it adds to ours.
    Sponsored,
}

/// A signed transfer. Anyone who holds it can broadcast it, so it has no `Debug` and is wiped when dropped.
pub(crate) struct SignedTransfer(Zeroizing<Vec<u8>>);

impl Wallet {
    /// Deterministic: the same transfer gives the same bytes.
    pub(crate) fn sign_tempo(&self, transfer: &TempoTransfer) -> SignedTransfer {
        let signature = self.sign_digest(&transfer.digest());
        let address = self.address();
        let (kind, fee_payer) = match transfer.fee {
            FeeTerms::Ours { .. } => (TRANSACTION, &[][..]),
            FeeTerms::Sponsored => (FOR_FEE_PAYER, address.as_slice()),
        };
        SignedTransfer(transfer.envelope(kind, fee_payer, Some(&signature)))
    }
}

impl TempoTransfer {
    /// The most that can leave the wallet in addition to the amount, in atoms of the fee token.
    pub(crate) fn fee_cap(&self) -> Atoms {
        match self.fee {
            FeeTerms::Ours { .. } => self.gas.fee_cap(),
            FeeTerms::Sponsored => Atoms::new(0),
        }
    }

    /// The digest that the sender signs. It never names the fee payer: for a sponsored fee it only says that there is
    /// one.
    fn digest(&self) -> B256 {
        let fee_payer = match self.fee {
            FeeTerms::Ours { .. } => &[],
            FeeTerms::Sponsored => FEE_PAYER_TO_COME,
        };
        keccak256(self.envelope(TRANSACTION, fee_payer, None).as_slice())
    }

    fn envelope(&self, kind: u8, fee_payer: &[u8], signature: Option<&[u8; 65]>) -> Zeroizing<Vec<u8>> {
        let absent: &[u8] = &[];
        let fee_token = match &self.fee {
            FeeTerms::Ours { token } => token.as_slice(),
            FeeTerms::Sponsored => absent,
        };
        let mut fields = Zeroizing::new(Vec::with_capacity(ROOM));
        self.chain_id.encode(&mut *fields);
        self.gas.max_priority_fee_per_gas().encode(&mut *fields);
        self.gas.max_fee_per_gas().encode(&mut *fields);
        self.gas.limit().encode(&mut *fields);
        list(&list_of(&self.call()), &mut fields);
        list(&[], &mut fields); // access list
        EXPIRING.encode(&mut *fields);
        0_u8.encode(&mut *fields); // nonce
        self.valid_before.encode(&mut *fields);
        absent.encode(&mut *fields); // valid after
        fee_token.encode(&mut *fields);
        fee_payer.encode(&mut *fields);
        list(&[], &mut fields); // authorization list
        if let Some(signature) = signature {
            signature.as_slice().encode(&mut *fields);
        }
        let mut envelope = Zeroizing::new(Vec::with_capacity(ROOM));
        envelope.push(kind);
        list(&fields, &mut envelope);
        envelope
    }

    /// To, value, data.
    fn call(&self) -> Vec<u8> {
        let mut call = Vec::new();
        self.token.as_slice().encode(&mut call);
        0_u8.encode(&mut call);
        self.calldata().as_slice().encode(&mut call);
        call
    }

    fn calldata(&self) -> Vec<u8> {
        let call = transferWithMemoCall {
            to: self.to,
            amount: U256::from(self.amount.get()),
            memo: self.memo,
        };
        call.abi_encode()
    }
}

impl SignedTransfer {
    /// The bytes in hex after `0x`, for the credential's payload.
    pub(crate) fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode_prefixed(self.0.as_slice()))
    }
}

fn list_of(items: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    list(items, &mut out);
    out
}

/// Appends an RLP list of items that are already encoded.
fn list(items: &[u8], out: &mut Vec<u8>) {
    let header = Header {
        list: true,
        payload_length: items.len(),
    };
    header.encode(out);
    out.extend_from_slice(items);
}

#[cfg(test)]
mod tests;

//! "Sandbox USDC": an EIP-3009 token in memory, in place of Base Sepolia's USDC.
//!
//! It holds no value, but it judges authorizations as the contract does: the EIP-712 digest under the token's own
//! domain, the recovered signer, strict times, one use per nonce, balance (x402 digest §4.1). Nothing here is shared
//! with the payer's signing code, so that a payment which settles here has been checked by somebody else.
//!
//! Pure: the time is an argument, nothing is read from outside.

use std::collections::{HashMap, HashSet};

use alloy_primitives::{Address, B256, TxHash, U256, address, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain, sol};
use jiff::Timestamp;
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use thiserror::Error;

use crate::money::Atoms;

/// Base Sepolia, whose USDC this stands in for.
pub const CHAIN_ID: u64 = 84532;
/// The contract address of Base Sepolia's USDC.
pub const CONTRACT: Address = address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e");
/// The EIP-712 name of that contract. Base main net says "USD Coin" (x402 digest §3).
pub const NAME: &str = "USDC";
/// The EIP-712 version of that contract.
pub const VERSION: &str = "2";
/// One token is 10^6 atoms.
pub const DECIMALS: u8 = 6;

sol! {
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}

/// What a payer signs: one transfer, once, within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorization {
    pub from: Address,
    pub to: Address,
    pub value: Atoms,
    /// Unix seconds; the transfer is good only later than this.
    pub valid_after: u64,
    /// Unix seconds; the transfer is good only earlier than this.
    pub valid_before: u64,
    pub nonce: B256,
}

/// 65 bytes: r, s, and 27 or 28.
pub type SignatureBytes = [u8; 65];

/// A transfer that took place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub transaction: TxHash,
    pub from: Address,
    pub to: Address,
    pub value: Atoms,
    pub nonce: B256,
    pub at: Timestamp,
}

/// Why the token moved nothing. Each is the payer's fault, except `BalanceOverflow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("the authorization is not valid yet")]
    NotYetValid,
    #[error("the authorization has expired")]
    Expired,
    #[error("the authorization was not signed by the address it takes from")]
    WrongSigner,
    #[error("the authorization was used before")]
    NonceUsed,
    #[error("the payer's balance is too small")]
    InsufficientBalance,
    #[error("the balance would not fit 128 bits")]
    BalanceOverflow,
}

/// Balances and used nonces.
pub struct Token {
    opening_balance: Atoms,
    balances: HashMap<Address, u128>,
    used: HashSet<(Address, B256)>,
    transfers: Vec<Transfer>,
}

impl Token {
    /// Every address holds `opening_balance` from the start, the first time anybody asks.
    pub fn new(opening_balance: Atoms) -> Self {
        Self {
            opening_balance,
            balances: HashMap::new(),
            used: HashSet::new(),
            transfers: Vec::new(),
        }
    }

    /// Sets what `holder` owns, whatever the opening balance is.
    pub fn set_balance(&mut self, holder: Address, balance: Atoms) {
        self.balances.insert(holder, balance.get());
    }

    pub fn balance_of(&self, holder: Address) -> Atoms {
        self.balances
            .get(&holder)
            .map_or(self.opening_balance, |atoms| Atoms::new(*atoms))
    }

    /// Adds `value` to what `holder` owns.
    pub fn fund(&mut self, holder: Address, value: Atoms) -> Result<(), TokenError> {
        let balance = self
            .balance_of(holder)
            .get()
            .checked_add(value.get())
            .ok_or(TokenError::BalanceOverflow)?;
        self.balances.insert(holder, balance);
        Ok(())
    }

    /// EIP-3009 `authorizationState`: whether this nonce of this payer has been used.
    pub fn authorization_used(&self, authorizer: Address, nonce: B256) -> bool {
        self.used.contains(&(authorizer, nonce))
    }

    /// All transfers, oldest first.
    pub fn transfers(&self) -> &[Transfer] {
        &self.transfers
    }

    /// EIP-3009 `transferWithAuthorization`: judges and moves, once per nonce.
    pub fn transfer_with_authorization(
        &mut self,
        authorization: &Authorization,
        signature: &SignatureBytes,
        now: Timestamp,
    ) -> Result<TxHash, TokenError> {
        self.judge(authorization, signature, now)?;
        let Authorization { from, to, value, nonce, .. } = *authorization;
        let left = self
            .balance_of(from)
            .get()
            .checked_sub(value.get())
            .ok_or(TokenError::InsufficientBalance)?;
        // Read after the payer's side is known: a payer who pays itself must end with what it had.
        let held = if to == from { left } else { self.balance_of(to).get() };
        let gained = held
            .checked_add(value.get())
            .ok_or(TokenError::BalanceOverflow)?;
        self.balances.insert(from, left);
        self.balances.insert(to, gained);
        self.used.insert((from, nonce));
        let transaction = transaction_hash(authorization, signature);
        self.transfers.push(Transfer { transaction, from, to, value, nonce, at: now });
        Ok(transaction)
    }

    /// What a facilitator simulates before it broadcasts: every check, no movement.
    pub fn judge(
        &self,
        authorization: &Authorization,
        signature: &SignatureBytes,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let now = u64::try_from(now.as_second()).unwrap_or(0);
        // Both strict, as in the contract.
        if now <= authorization.valid_after {
            return Err(TokenError::NotYetValid);
        }
        if now >= authorization.valid_before {
            return Err(TokenError::Expired);
        }
        if recover_signer(authorization, signature) != Some(authorization.from) {
            return Err(TokenError::WrongSigner);
        }
        if self.authorization_used(authorization.from, authorization.nonce) {
            return Err(TokenError::NonceUsed);
        }
        if self.balance_of(authorization.from) < authorization.value {
            return Err(TokenError::InsufficientBalance);
        }
        Ok(())
    }
}

/// What the payer has to have signed: `keccak256(0x1901 || domain separator || struct hash)`.
pub fn digest(authorization: &Authorization) -> B256 {
    typed(authorization).eip712_signing_hash(&domain())
}

fn domain() -> Eip712Domain {
    eip712_domain! {
        name: NAME,
        version: VERSION,
        chain_id: CHAIN_ID,
        verifying_contract: CONTRACT,
    }
}

fn typed(authorization: &Authorization) -> TransferWithAuthorization {
    TransferWithAuthorization {
        from: authorization.from,
        to: authorization.to,
        value: U256::from(authorization.value.get()),
        validAfter: U256::from(authorization.valid_after),
        validBefore: U256::from(authorization.valid_before),
        nonce: authorization.nonce,
    }
}

/// The address whose key made the signature, or nothing when it is no signature that USDC's contract takes: `v` other
/// than 27 or 28, or `s` in the upper half (a second, equally valid form of the same signature).
fn recover_signer(authorization: &Authorization, signature: &SignatureBytes) -> Option<Address> {
    let odd = match signature[64] {
        27 => false,
        28 => true,
        _ => return None,
    };
    let rs = Signature::from_slice(&signature[..64]).ok()?;
    if rs.normalize_s() != rs {
        return None;
    }
    let recovery = RecoveryId::new(odd, false);
    let key =
        VerifyingKey::recover_from_prehash(&digest(authorization)[..], &rs, recovery).ok()?;
    Some(Address::from_raw_public_key(&key.to_sec1_point(false).as_bytes()[1..]))
}

/// Stands in for the hash of a transaction: the same authorization always gives the same one.
fn transaction_hash(authorization: &Authorization, signature: &SignatureBytes) -> TxHash {
    let mut contents = typed(authorization).abi_encode();
    contents.extend_from_slice(signature);
    keccak256([domain().hash_struct().as_slice(), &contents].concat())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::b256;
    use k256::ecdsa::SigningKey;

    use super::*;

    const NOW: i64 = 1_760_000_000;
    const PAYEE: Address = address!("0x209693Bc6afc0C5328bA36FaF03C514EF312287C");

    fn key() -> SigningKey {
        SigningKey::from_slice(&keccak256("a payer of the token tests")[..]).unwrap()
    }

    fn payer() -> Address {
        Address::from_raw_public_key(&key().verifying_key().to_sec1_point(false).as_bytes()[1..])
    }

    fn authorization() -> Authorization {
        Authorization {
            from: payer(),
            to: PAYEE,
            value: Atoms::new(10_000),
            valid_after: 0,
            valid_before: NOW as u64 + 60,
            nonce: B256::repeat_byte(7),
        }
    }

    fn sign(authorization: &Authorization) -> SignatureBytes {
        let (rs, recovery) = key().sign_prehash_recoverable(&digest(authorization)[..]);
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&rs.to_bytes());
        bytes[64] = 27 + u8::from(recovery.is_y_odd());
        bytes
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn funded(atoms: u128) -> Token {
        let mut token = Token::new(Atoms::new(0));
        token.fund(payer(), Atoms::new(atoms)).unwrap();
        token
    }

    #[test]
    fn the_digest_is_the_one_the_reference_client_signs() {
        // Vector v2-exact-eip3009-base-sepolia: digest, signature and payer as published there.
        let authorization = Authorization {
            from: address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
            to: PAYEE,
            value: Atoms::new(10_000),
            valid_after: 0,
            valid_before: 1_760_000_060,
            nonce: b256!("0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480"),
        };
        assert_eq!(
            digest(&authorization),
            b256!("0x1973708fbbff49ea57ca3dafffe6d32f7e0d94cb3e8051fc4000ab46bf9f4d70")
        );
        let signature: SignatureBytes = alloy_primitives::hex!(
            "6a57865bee3f7d7e56be0c830a9dedf7bf9551c4124202b4a7bc825aebe23fff"
            "2dd14cfb55cb75298250ce139f3ecc01dc05795e48ec79faa6b863641f5b866b1b"
        );
        let mut token = Token::new(Atoms::new(10_000));
        token.set_balance(PAYEE, Atoms::new(0));
        token
            .transfer_with_authorization(&authorization, &signature, at(NOW))
            .unwrap();
        assert_eq!(token.balance_of(PAYEE), Atoms::new(10_000));
    }

    #[test]
    fn a_nonce_moves_money_once() {
        let mut token = funded(25_000);
        let signature = sign(&authorization());
        let first = token.transfer_with_authorization(&authorization(), &signature, at(NOW));
        let second = token.transfer_with_authorization(&authorization(), &signature, at(NOW + 1));
        assert_eq!(second, Err(TokenError::NonceUsed));
        assert_eq!(token.balance_of(payer()), Atoms::new(15_000));
        assert_eq!(token.balance_of(PAYEE), Atoms::new(10_000));
        assert!(token.authorization_used(payer(), authorization().nonce));
        assert_eq!(token.transfers().len(), 1);
        assert_eq!(Ok(token.transfers()[0].transaction), first);
    }

    #[test]
    fn times_are_strict_at_both_ends() {
        let authorization = Authorization { valid_after: NOW as u64, ..authorization() };
        let signature = sign(&authorization);
        let judge = |second| funded(10_000).judge(&authorization, &signature, at(second));
        assert_eq!(judge(NOW), Err(TokenError::NotYetValid));
        assert_eq!(judge(NOW + 1), Ok(()));
        assert_eq!(judge(NOW + 59), Ok(()));
        assert_eq!(judge(NOW + 60), Err(TokenError::Expired));
    }

    #[test]
    fn every_signed_field_counts() {
        let signed = authorization();
        let signature = sign(&signed);
        let token = Token::new(Atoms::new(1 << 40));
        assert_eq!(token.judge(&signed, &signature, at(NOW)), Ok(()));
        for altered in [
            Authorization { from: PAYEE, ..signed },
            Authorization { to: payer(), ..signed },
            Authorization { value: Atoms::new(9_999), ..signed },
            Authorization { valid_after: 1, ..signed },
            Authorization { valid_before: signed.valid_before + 1, ..signed },
            Authorization { nonce: B256::repeat_byte(8), ..signed },
        ] {
            assert_eq!(
                token.judge(&altered, &signature, at(NOW)),
                Err(TokenError::WrongSigner),
                "{altered:?}"
            );
        }
    }

    #[test]
    fn only_the_canonical_form_of_a_signature_is_taken() {
        let signature = sign(&authorization());
        let rs = Signature::from_slice(&signature[..64]).unwrap();
        let high = Signature::from_scalars(rs.r().to_bytes(), (-*rs.s()).to_bytes()).unwrap();
        let mut twin = [0; 65];
        twin[..64].copy_from_slice(&high.to_bytes());
        twin[64] = 55 - signature[64];
        let mut raw_parity = signature;
        raw_parity[64] -= 27;
        for refused in [twin, raw_parity, [0; 65], [0xff; 65]] {
            assert_eq!(
                funded(10_000).judge(&authorization(), &refused, at(NOW)),
                Err(TokenError::WrongSigner)
            );
        }
    }

    #[test]
    fn nobody_spends_more_than_they_hold() {
        let mut token = funded(9_999);
        let signature = sign(&authorization());
        assert_eq!(
            token.transfer_with_authorization(&authorization(), &signature, at(NOW)),
            Err(TokenError::InsufficientBalance)
        );
        assert_eq!(token.balance_of(payer()), Atoms::new(9_999));
        assert!(!token.authorization_used(payer(), authorization().nonce));
    }

    #[test]
    fn paying_oneself_makes_no_money() {
        let mut token = funded(10_000);
        let to_self = Authorization { to: payer(), ..authorization() };
        token
            .transfer_with_authorization(&to_self, &sign(&to_self), at(NOW))
            .unwrap();
        assert_eq!(token.balance_of(payer()), Atoms::new(10_000));
    }
}

//! "Sandbox USDC": an EIP-3009 token in memory, in place of Base Sepolia's USDC.
//!
//! It has no value, but it checks authorizations as the contract does: the EIP-712 hash under the token's own domain,
//! the recovered signer, strict times, one use per nonce, balance (x402 §4.1). It shares no code with the payer's
//! signing code, so a payment that settles here was checked independently.
//!
//! Pure: the time is an argument, and nothing is read from outside.

use std::collections::{HashMap, HashSet};

use alloy_primitives::{Address, B256, TxHash};
use jiff::Timestamp;
use thiserror::Error;

use super::authorization::{Authorization, SignatureBytes};
use bursar_core::money::Atoms;

/// A completed transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub transaction: TxHash,
    pub from: Address,
    pub to: Address,
    pub value: Atoms,
    pub nonce: B256,
    pub at: Timestamp,
}

/// Why the token moved nothing. All but `BalanceOverflow` are the payer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("the authorization is not valid yet")]
    NotYetValid,
    #[error("the authorization has expired")]
    Expired,
    #[error("the authorization was not signed by the payer's address")]
    WrongSigner,
    #[error("the authorization was already used")]
    NonceUsed,
    #[error("the payer's balance is too small")]
    InsufficientBalance,
    #[error("the balance would exceed 128 bits")]
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
    /// Every address holds `opening_balance` from the start.
    pub fn new(opening_balance: Atoms) -> Self {
        Self {
            opening_balance,
            balances: HashMap::new(),
            used: HashSet::new(),
            transfers: Vec::new(),
        }
    }

    /// Sets the balance of `holder`, regardless of the opening balance.
    pub(crate) fn set_balance(&mut self, holder: Address, balance: Atoms) {
        self.balances.insert(holder, balance.get());
    }

    pub fn balance_of(&self, holder: Address) -> Atoms {
        self.balances
            .get(&holder)
            .map_or(self.opening_balance, |atoms| Atoms::new(*atoms))
    }

    /// Adds `value` to the balance of `holder`.
    pub fn fund(&mut self, holder: Address, value: Atoms) -> Result<(), TokenError> {
        let balance = self
            .balance_of(holder)
            .get()
            .checked_add(value.get())
            .ok_or(TokenError::BalanceOverflow)?;
        self.balances.insert(holder, balance);
        Ok(())
    }

    /// EIP-3009 `authorizationState`: whether the payer has used this nonce.
    pub(crate) fn authorization_used(&self, authorizer: Address, nonce: B256) -> bool {
        self.used.contains(&(authorizer, nonce))
    }

    /// Like [`Token::authorization_used`], as of the end of the Unix second `second`.
    pub(crate) fn authorization_used_by(&self, authorizer: Address, nonce: B256, second: u64) -> bool {
        let by_then = |transfer: &&Transfer| u64::try_from(transfer.at.as_second()).is_ok_and(|at| at <= second);
        let mut transfers = self.transfers.iter().filter(by_then);
        transfers.any(|transfer| (transfer.from, transfer.nonce) == (authorizer, nonce))
    }

    /// All transfers, oldest first.
    pub fn transfers(&self) -> &[Transfer] {
        &self.transfers
    }

    /// EIP-3009 `transferWithAuthorization`: checks the authorization and moves the money, once per nonce.
    pub(crate) fn transfer_with_authorization(
        &mut self,
        authorization: &Authorization,
        signature: &SignatureBytes,
        now: Timestamp,
    ) -> Result<TxHash, TokenError> {
        self.judge(authorization, signature, now)?;
        let Authorization {
            from, to, value, nonce, ..
        } = *authorization;
        let left = self
            .balance_of(from)
            .get()
            .checked_sub(value.get())
            .ok_or(TokenError::InsufficientBalance)?;
        // Read after the payer's side is computed: a payer who pays itself must end up with the same balance.
        let held = if to == from { left } else { self.balance_of(to).get() };
        let gained = held.checked_add(value.get()).ok_or(TokenError::BalanceOverflow)?;
        self.balances.insert(from, left);
        self.balances.insert(to, gained);
        self.used.insert((from, nonce));
        let transaction = authorization.transaction(signature);
        self.transfers.push(Transfer {
            transaction,
            from,
            to,
            value,
            nonce,
            at: now,
        });
        Ok(transaction)
    }

    /// What a facilitator simulates before it broadcasts: runs every check and moves nothing.
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
        if authorization.signer(signature) != Some(authorization.from) {
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

#[cfg(test)]
mod tests {
    use alloy_primitives::address;

    use super::*;
    use crate::tests::payer::Payer;

    const NOW: i64 = 1_760_000_000;
    const PAYEE: Address = address!("0x209693Bc6afc0C5328bA36FaF03C514EF312287C");

    fn payer() -> Payer {
        Payer::named("a payer of the token tests")
    }

    fn authorization() -> Authorization {
        Authorization {
            from: payer().address(),
            to: PAYEE,
            value: Atoms::new(10_000),
            valid_after: 0,
            valid_before: NOW as u64 + 60,
            nonce: B256::repeat_byte(7),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn funded(atoms: u128) -> Token {
        let mut token = Token::new(Atoms::new(0));
        token.fund(payer().address(), Atoms::new(atoms)).unwrap();
        token
    }

    #[test]
    fn a_nonce_moves_money_once() {
        let mut token = funded(25_000);
        let signature = payer().sign(&authorization());
        let first = token.transfer_with_authorization(&authorization(), &signature, at(NOW));
        let second = token.transfer_with_authorization(&authorization(), &signature, at(NOW + 1));
        assert_eq!(second, Err(TokenError::NonceUsed));
        assert_eq!(token.balance_of(payer().address()), Atoms::new(15_000));
        assert_eq!(token.balance_of(PAYEE), Atoms::new(10_000));
        assert!(token.authorization_used(payer().address(), authorization().nonce));
        assert_eq!(token.transfers().len(), 1);
        assert_eq!(Ok(token.transfers()[0].transaction), first);
    }

    #[test]
    fn times_are_strict_at_both_ends() {
        let authorization = Authorization {
            valid_after: NOW as u64,
            ..authorization()
        };
        let signature = payer().sign(&authorization);
        let judge = |second| funded(10_000).judge(&authorization, &signature, at(second));
        assert_eq!(judge(NOW), Err(TokenError::NotYetValid));
        assert_eq!(judge(NOW + 1), Ok(()));
        assert_eq!(judge(NOW + 59), Ok(()));
        assert_eq!(judge(NOW + 60), Err(TokenError::Expired));
    }

    #[test]
    fn nobody_takes_from_another() {
        let authorization = authorization();
        let forged = Payer::named("somebody else").sign(&authorization);
        let mut token = funded(10_000);
        assert_eq!(
            token.transfer_with_authorization(&authorization, &forged, at(NOW)),
            Err(TokenError::WrongSigner)
        );
        assert_eq!(token.balance_of(payer().address()), Atoms::new(10_000));
        assert!(token.transfers().is_empty());
    }

    #[test]
    fn nobody_spends_more_than_they_hold() {
        let mut token = funded(9_999);
        let signature = payer().sign(&authorization());
        assert_eq!(
            token.transfer_with_authorization(&authorization(), &signature, at(NOW)),
            Err(TokenError::InsufficientBalance)
        );
        assert_eq!(token.balance_of(payer().address()), Atoms::new(9_999));
        assert!(!token.authorization_used(payer().address(), authorization().nonce));
    }

    #[test]
    fn paying_oneself_makes_no_money() {
        let mut token = funded(10_000);
        let to_self = Authorization {
            to: payer().address(),
            ..authorization()
        };
        token
            .transfer_with_authorization(&to_self, &payer().sign(&to_self), at(NOW))
            .unwrap();
        assert_eq!(token.balance_of(payer().address()), Atoms::new(10_000));
    }
}

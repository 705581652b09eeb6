//! Turns a stored record into a signature or a token, and that into the header that pays.
//!
//! Keys are reached through this module alone, with numbers that come from the ledger's record and never from the wire
//! (threats 1.11). Each rail knows one kind of message.

use std::sync::Arc;

use alloy_primitives::Address;
use http::HeaderName;
use thiserror::Error;

use crate::account::{Account, AccountMark};
use crate::assets::{Asset, Mode, Token};
use crate::challenge::credential::{Authorization, Credential, Echo, Payload, credential};
use crate::challenge::mpp::tempo::Gas;
use crate::challenge::permit2::{Permit2Transfer, Spender};
use crate::challenge::{Clause, Rail, Why};
use crate::ledger::Reservation;
use tempo::{FeeTerms, TempoTransfer};

pub mod evm;
mod issuer;
mod keystore;
mod permission;
mod permit2;
mod tempo;
#[cfg(test)]
mod vectors;

pub use evm::{Wallet, WalletError};
pub use issuer::{Issuer, Left, NotIssued, Standing, Tokens, Untold};
pub use keystore::KeystoreError;
pub use permission::{Permission, Permissions};

/// Everything that can pay.
#[derive(Default)]
pub struct Payers {
    /// On EVM networks.
    pub wallet: Option<Wallet>,
    /// Through Stripe.
    pub issuer: Option<Arc<Issuer>>,
}

/// Why no credential was made although the money was set aside for one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PayError {
    #[error("there is no wallet key")]
    NoWallet,
    #[error("there is no [stripe] in bursar.toml")]
    NoStripe,
    /// The record was made for another wallet, for instance before the key was changed.
    #[error("the payment was recorded for another wallet than the one now configured")]
    OtherWallet,
    /// The echo is of another offer than the one on record.
    #[error("the payment was recorded for another rail than the offer's")]
    OtherRail,
    #[error("the record lacks what its rail needs")]
    Incomplete,
    #[error("the payment header could not be made: {0}")]
    Credential(#[from] Why),
    #[error(transparent)]
    NotIssued(#[from] NotIssued),
}

impl PayError {
    /// Whether anything that could be cashed may exist now.
    pub fn left(&self) -> Left {
        match self {
            Self::NotIssued(not_issued) => not_issued.left,
            _ => Left::Nothing,
        }
    }
}

impl Payers {
    pub fn is_empty(&self) -> bool {
        self.wallet.is_none() && self.issuer.is_none()
    }

    /// The wallet's address.
    pub fn address(&self) -> Option<Address> {
        self.wallet.as_ref().map(Wallet::address)
    }

    /// Whether Stripe's key moves money.
    pub fn stripe_mode(&self) -> Option<Mode> {
        self.issuer.as_ref().map(|issuer| issuer.mode())
    }

    /// What a payment with `asset` comes from.
    pub fn account(&self, asset: Asset) -> Option<Account> {
        match asset {
            Asset::Token(_) => self.address().map(Account::Address),
            Asset::Fiat(..) => self.issuer.as_ref().and_then(|issuer| issuer.account()),
        }
    }

    /// The account at Stripe that a payment with `asset` is made through.
    pub fn issuer_mark(&self, asset: Asset) -> Option<AccountMark> {
        match asset {
            Asset::Token(_) => None,
            Asset::Fiat(..) => self.issuer.as_ref().map(|issuer| issuer.mark()),
        }
    }

    /// Makes the credential that a reservation allows: the only public way to a signature. All that is signed comes from the
    /// ledger's record; `echo` is only repeated to the seller.
    pub async fn pay(
        &self,
        reservation: &Reservation,
        echo: &Echo,
        permission: &Permission,
    ) -> Result<(HeaderName, Credential), PayError> {
        let rail = reservation.terms().rail;
        if rail != echo.rail() {
            return Err(PayError::OtherRail);
        }
        match rail {
            Rail::X402 | Rail::MppEvm => self.authorize(reservation, echo),
            Rail::X402Permit2 | Rail::X402UpTo => self.permit(reservation, echo, permission),
            Rail::MppTempo => self.transfer(reservation, echo),
            Rail::MppStripe => self.issue(reservation, echo).await,
        }
    }

    fn authorize(&self, reservation: &Reservation, echo: &Echo) -> Result<(HeaderName, Credential), PayError> {
        let (signer, terms, arm) = (self.signer(reservation)?, reservation.terms(), reservation.arm());
        let authorization = Authorization {
            network: signer.token.network(),
            from: signer.from,
            to: signer.to,
            value: terms.amount,
            valid_after: arm.valid_after,
            valid_before: arm.valid_before,
            nonce: arm.nonce.known().ok_or(PayError::Incomplete)?,
        };
        let payment_id = reservation.rid().pay_id();
        sign_and_encode(signer.wallet, signer.token, &authorization, echo, Some(&payment_id))
    }

    fn permit(
        &self,
        reservation: &Reservation,
        echo: &Echo,
        permission: &Permission,
    ) -> Result<(HeaderName, Credential), PayError> {
        let (signer, terms, arm) = (self.signer(reservation)?, reservation.terms(), reservation.arm());
        let transfer = Permit2Transfer {
            chain_id: signer.token.chain,
            token: signer.token.address,
            amount: terms.amount,
            spender: match (terms.rail, terms.clause) {
                (Rail::X402Permit2, Clause::None) => Spender::Exact,
                (Rail::X402UpTo, Clause::Facilitator(facilitator)) => Spender::Upto { facilitator },
                _ => return Err(PayError::Incomplete),
            },
            from: signer.from,
            nonce: arm.nonce.known().ok_or(PayError::Incomplete)?,
            deadline: arm.valid_before,
            to: signer.to,
            valid_after: arm.valid_after,
        };
        let signature = &signer.wallet.sign_permit2(&transfer);
        let permit = match permission {
            Permission::Granted => None,
            Permission::Brought { nonce, .. } => Some(transfer.token_permit(*nonce)),
        };
        let permit = permit.as_ref().map(|permit| {
            let signature = signer.wallet.sign_permit(signer.token, permit);
            (permit, signature)
        });
        let payload = Payload::Permit2 {
            transfer: &transfer,
            signature,
            permission: permit.as_ref().map(|(permit, signature)| (*permit, signature)),
        };
        let payment_id = reservation.rid().pay_id();
        Ok(credential(echo, &payload, Some(&payment_id))?)
    }

    fn transfer(&self, reservation: &Reservation, echo: &Echo) -> Result<(HeaderName, Credential), PayError> {
        let (signer, terms, arm) = (self.signer(reservation)?, reservation.terms(), reservation.arm());
        let Clause::FeeCap(cap) = terms.clause else {
            return Err(PayError::Incomplete);
        };
        let transfer = TempoTransfer {
            chain_id: signer.token.chain,
            token: signer.token.address,
            to: signer.to,
            amount: terms.amount,
            memo: arm.nonce.known().ok_or(PayError::Incomplete)?,
            valid_before: arm.valid_before,
            gas: Gas::CHARGE,
            // A wallet may hold no other token than the one it pays with.
            fee: match cap.is_zero() {
                true => FeeTerms::Sponsored,
                false => FeeTerms::Ours {
                    token: signer.token.address,
                },
            },
        };
        // What is signed must be what is counted.
        if transfer.fee_cap() > cap {
            return Err(PayError::Incomplete);
        }
        let signed = signer.wallet.sign_tempo(&transfer).to_hex();
        let payload = Payload::Transaction {
            from: signer.from,
            network: signer.token.network(),
            signed: &signed,
        };
        Ok(credential(echo, &payload, None)?)
    }

    async fn issue(&self, reservation: &Reservation, echo: &Echo) -> Result<(HeaderName, Credential), PayError> {
        let issuer = self.issuer.as_ref().ok_or(PayError::NoStripe)?;
        let token = issuer.issue(reservation).await?;
        let payload = Payload::SharedPaymentToken(token.expose());
        Ok(credential(echo, &payload, None)?)
    }

    /// The wallet of a record, and what it moves where.
    fn signer(&self, reservation: &Reservation) -> Result<Signer<'_>, PayError> {
        let (terms, arm) = (reservation.terms(), reservation.arm());
        let wallet = self.wallet.as_ref().ok_or(PayError::NoWallet)?;
        let from = arm.from.address().ok_or(PayError::Incomplete)?;
        if from != wallet.address() {
            return Err(PayError::OtherWallet);
        }
        Ok(Signer {
            wallet,
            token: terms.asset.token().ok_or(PayError::Incomplete)?,
            from,
            to: terms.payee.address().ok_or(PayError::Incomplete)?,
        })
    }
}

struct Signer<'w> {
    wallet: &'w Wallet,
    token: &'static Token,
    from: Address,
    to: Address,
}

fn sign_and_encode(
    wallet: &Wallet,
    token: &Token,
    authorization: &Authorization,
    echo: &Echo,
    payment_id: Option<&str>,
) -> Result<(HeaderName, Credential), PayError> {
    if authorization.from != wallet.address() {
        return Err(PayError::OtherWallet);
    }
    let signature = &wallet.sign_authorization(token, authorization);
    let payload = Payload::Authorization {
        authorization,
        signature,
    };
    Ok(credential(echo, &payload, payment_id)?)
}

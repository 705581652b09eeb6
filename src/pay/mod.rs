//! Turns a stored record into a signature or a token, and that into the header that pays.
//!
//! Keys are reached through this module alone, with numbers that come from the ledger's record and never from the wire
//! (threats 1.11). Each rail knows one kind of message.

use http::HeaderName;
use thiserror::Error;

use crate::account::Account;
use crate::assets::{Asset, Mode, Token};
use crate::challenge::credential::{Authorization, Credential, Echo, Payload, credential};
use crate::challenge::{Rail, Why};
use crate::ledger::Reservation;

pub mod evm;
mod keystore;
#[cfg_attr(not(test), expect(dead_code, reason = "signs once offers of Permit2 are payable"))]
mod permit2;
#[cfg(test)]
mod vectors;

pub use evm::{Wallet, WalletError};
pub use keystore::KeystoreError;

/// Everything that can pay.
#[derive(Default)]
pub struct Payers {
    /// On EVM networks.
    pub wallet: Option<Wallet>,
}

/// Why no credential was made although the money was set aside for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PayError {
    #[error("there is no wallet key")]
    NoWallet,
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
}

impl Payers {
    pub fn is_empty(&self) -> bool {
        self.wallet.is_none()
    }

    /// The wallet's address.
    pub fn address(&self) -> Option<alloy_primitives::Address> {
        self.wallet.as_ref().map(Wallet::address)
    }

    /// Whether Stripe's key moves money.
    pub fn stripe_mode(&self) -> Option<Mode> {
        None
    }

    /// What a payment with `asset` comes from.
    pub fn account(&self, asset: Asset) -> Option<Account> {
        match asset {
            Asset::Token(_) => self.address().map(Account::Address),
            Asset::Fiat(..) => None,
        }
    }

    /// Makes the credential that a reservation allows: the only public way to a signature. All that is signed comes from the
    /// ledger's record; `echo` is only repeated to the seller.
    pub async fn pay(&self, reservation: &Reservation, echo: &Echo) -> Result<(HeaderName, Credential), PayError> {
        let terms = reservation.terms();
        if terms.rail != echo.rail() {
            return Err(PayError::OtherRail);
        }
        match terms.rail {
            Rail::X402 | Rail::MppEvm => self.authorize(reservation, echo),
            Rail::X402Permit2 | Rail::X402UpTo | Rail::MppTempo | Rail::MppStripe => Err(PayError::Incomplete),
        }
    }

    fn authorize(&self, reservation: &Reservation, echo: &Echo) -> Result<(HeaderName, Credential), PayError> {
        let (terms, arm) = (reservation.terms(), reservation.arm());
        let wallet = self.wallet.as_ref().ok_or(PayError::NoWallet)?;
        let token = terms.asset.token().ok_or(PayError::Incomplete)?;
        let authorization = Authorization {
            network: token.network(),
            from: arm.from.address().ok_or(PayError::Incomplete)?,
            to: terms.payee.address().ok_or(PayError::Incomplete)?,
            value: terms.amount,
            valid_after: arm.valid_after,
            valid_before: arm.valid_before,
            nonce: arm.nonce,
        };
        let payment_id = reservation.rid().pay_id();
        sign_and_encode(wallet, token, &authorization, echo, Some(&payment_id))
    }
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

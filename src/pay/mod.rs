//! Turns a stored record into a signature, and a signature into the header that pays.
//!
//! The signer is reached through this module alone, with an authorization whose numbers come from the ledger's record
//! and never from the wire (threats 1.11). It knows two kinds of message: `TransferWithAuthorization` and, on Tempo, a
//! transaction with one `transferWithMemo`.

use thiserror::Error;

use crate::assets::Asset;
use crate::challenge::Why;
use crate::challenge::credential::{Authorization, Credential, Echo, credential};
use crate::ledger::Reservation;

pub mod evm;
mod keystore;
#[cfg_attr(not(test), expect(dead_code, reason = "no offer of `tempo` is payable yet"))]
mod tempo;
#[cfg(test)]
mod vectors;

pub use evm::{Wallet, WalletError};
pub use keystore::KeystoreError;

/// Why no credential was made although the money was set aside for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PayError {
    /// The record was made for another wallet, for instance before the key was changed.
    #[error("the payment was recorded for another wallet than the one now configured")]
    OtherWallet,
    /// The echo is of another offer than the one on record.
    #[error("the payment was recorded for another rail than the offer's")]
    OtherRail,
    #[error("the payment header could not be made: {0}")]
    Credential(#[from] Why),
}

/// Makes the credential that a reservation allows: the only public way to a signature. All that is signed comes from the
/// ledger's record; `echo` is only repeated to the seller.
pub fn pay(
    wallet: &Wallet,
    reservation: &Reservation,
    echo: &Echo,
) -> Result<(http::HeaderName, Credential), PayError> {
    let (terms, arm) = (reservation.terms(), reservation.arm());
    if terms.rail != echo.rail() {
        return Err(PayError::OtherRail);
    }
    let authorization = Authorization {
        from: arm.from,
        to: terms.payee,
        value: terms.amount,
        valid_after: arm.valid_after,
        valid_before: arm.valid_before,
        nonce: arm.nonce,
    };
    let payment_id = reservation.rid().pay_id();
    sign_and_encode(wallet, terms.asset, &authorization, echo, Some(&payment_id))
}

fn sign_and_encode(
    wallet: &Wallet,
    asset: &Asset,
    authorization: &Authorization,
    echo: &Echo,
    payment_id: Option<&str>,
) -> Result<(http::HeaderName, Credential), PayError> {
    if authorization.from != wallet.address() {
        return Err(PayError::OtherWallet);
    }
    let signature = wallet.sign_authorization(asset, authorization);
    Ok(credential(echo, authorization, &signature, payment_id)?)
}

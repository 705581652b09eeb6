//! Turns a stored record into a signature or a token, and that into the header that pays.
//!
//! Keys are reached through this module alone, with numbers that come from the ledger's record and never from the wire
//! (threat 1.11). Each rail knows one kind of message.

use std::sync::Arc;

use alloy_primitives::Address;
use http::HeaderName;
use jiff::Timestamp;
use thiserror::Error;
use tokio::time::Instant;

use crate::bkey::Purpose;
use bursar_core::account::{Account, AccountMark};
use bursar_core::assets::{Asset, Mode, Token};
use bursar_core::challenge::credential::{Authorization, Credential, Echo, Payload, credential};
use bursar_core::challenge::mpp::tempo::Gas;
use bursar_core::challenge::permit2::{Permit2Transfer, Spender};
use bursar_core::challenge::{Clause, Rail, Remote, Why};
use bursar_ledger::{PaymentId, Reservation, Signer};
use tempo::{FeeTerms, TempoTransfer};

mod bkey;
pub mod evm;
mod issuer;
mod keystore;
mod permission;
mod permit2;
mod tempo;
#[cfg(test)]
mod vectors;

pub use bkey::{BkeyIssuer, BkeySigner, NoSigner, Ordered, RemoteCredential, SignError, Signed, SignerFault, Waiting};
pub use evm::{Wallet, WalletError};
pub use issuer::{Exposure, Issuer, NoStatus, NotIssued, TokenStatus, Tokens};
pub use keystore::KeystoreError;
pub use permission::{Permission, Permissions};

/// Everything that can pay.
#[derive(Default)]
pub struct Payers {
    /// On EVM networks.
    pub wallet: Option<EvmPayer>,
    /// Sellers that take cards, by shared payment tokens.
    pub issuer: Option<CardPayer>,
}

/// Whose key signs.
pub enum EvmPayer {
    Ours(Wallet),
    /// On a phone.
    Bkey(BkeySigner),
}

/// Whose account makes tokens.
pub enum CardPayer {
    /// Ours, at Stripe.
    Stripe(Arc<Issuer>),
    Bkey(BkeyIssuer),
}

impl CardPayer {
    pub fn tokens(&self) -> &Tokens {
        match self {
            Self::Stripe(issuer) => issuer.tokens(),
            Self::Bkey(issuer) => issuer.tokens(),
        }
    }

    /// An account that can be asked about its tokens. BKey's cannot.
    pub fn account(&self) -> Option<Arc<Issuer>> {
        match self {
            Self::Stripe(issuer) => Some(issuer.clone()),
            Self::Bkey(_) => None,
        }
    }
}

impl EvmPayer {
    pub fn address(&self) -> Address {
        match self {
            Self::Ours(wallet) => wallet.address(),
            Self::Bkey(signer) => signer.address(),
        }
    }
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

/// A credential to be sent, once, for a reservation that is used up.
pub struct SignedPayment {
    pub id: PaymentId,
    pub valid_before: u64,
    pub field: HeaderName,
    pub credential: Credential,
}

/// Why there is no credential, and what is left of the permission to make one.
#[derive(Debug)]
pub enum NotPaid {
    /// Nothing was ordered and nothing signed, so nothing can have left.
    Untouched { reservation: Reservation, error: PayError },
    /// Something was ordered or signed. The payment has to be finished by its id.
    UsedUp {
        id: PaymentId,
        valid_before: u64,
        /// Whether somebody else has signed, whose signature can be cashed whether it is sent or not.
        signed_elsewhere: bool,
        error: PayError,
    },
}

impl NotPaid {
    pub fn error(&self) -> &PayError {
        match self {
            Self::Untouched { error, .. } | Self::UsedUp { error, .. } => error,
        }
    }
}

impl PayError {
    /// Whether this is found before anything is ordered or signed.
    fn is_before_signing(&self) -> bool {
        match self {
            Self::NoWallet | Self::NoStripe | Self::OtherWallet | Self::OtherRail | Self::Incomplete => true,
            Self::Credential(_) | Self::NotIssued(_) => false,
        }
    }
}

impl Payers {
    pub fn is_empty(&self) -> bool {
        self.wallet.is_none() && self.issuer.is_none()
    }

    /// The wallet's address.
    pub fn address(&self) -> Option<Address> {
        self.wallet.as_ref().map(EvmPayer::address)
    }

    /// Whether tokens move money.
    pub fn stripe_mode(&self) -> Option<Mode> {
        self.issuer.as_ref().map(|issuer| match issuer {
            CardPayer::Stripe(issuer) => issuer.mode(),
            CardPayer::Bkey(issuer) => issuer.mode(),
        })
    }

    /// What BKey alone can do of it, where it pays.
    pub fn remote(&self) -> Remote {
        Remote {
            signs: match &self.wallet {
                Some(EvmPayer::Bkey(signer)) => Some(signer.token()),
                Some(EvmPayer::Ours(_)) | None => None,
            },
            issues: matches!(self.issuer, Some(CardPayer::Bkey(_))),
        }
    }

    /// Who makes the credential of a payment with `asset`, if not we.
    pub fn remote_signer(&self, asset: Asset) -> Option<Signer> {
        let is_bkey = match asset {
            Asset::Token(_) => matches!(self.wallet, Some(EvmPayer::Bkey(_))),
            Asset::Fiat(..) => matches!(self.issuer, Some(CardPayer::Bkey(_))),
        };
        is_bkey.then_some(Signer::Bkey)
    }

    /// What a payment with `asset` comes from.
    pub fn account(&self, asset: Asset) -> Option<Account> {
        match asset {
            Asset::Token(_) => self.address().map(Account::Address),
            Asset::Fiat(..) => match self.issuer.as_ref()? {
                CardPayer::Stripe(issuer) => issuer.account(),
                CardPayer::Bkey(issuer) => issuer.account(),
            },
        }
    }

    /// The account, at Stripe or at BKey, that a payment with `asset` is made through.
    pub fn issuer_mark(&self, asset: Asset) -> Option<AccountMark> {
        match asset {
            Asset::Token(_) => match self.wallet.as_ref()? {
                EvmPayer::Ours(_) => None,
                EvmPayer::Bkey(signer) => Some(signer.mark()),
            },
            Asset::Fiat(..) => self.issuer.as_ref().map(|issuer| match issuer {
                CardPayer::Stripe(issuer) => issuer.mark(),
                CardPayer::Bkey(issuer) => issuer.mark(),
            }),
        }
    }

    /// Orders the credential of a record from whoever makes it, if not we (`None`). The record must be on disk, as for a
    /// signature: from here on money may be signed away.
    pub async fn order(
        &self,
        reservation: &Reservation,
        purpose: &Purpose,
        now: impl Fn() -> Timestamp,
    ) -> Option<Result<Ordered, SignError>> {
        match (reservation.terms().asset, &self.wallet, &self.issuer) {
            (Asset::Token(_), Some(EvmPayer::Bkey(signer)), _) => Some(signer.order(reservation, purpose, now).await),
            (Asset::Fiat(..), _, Some(CardPayer::Bkey(issuer))) => Some(issuer.order(reservation, purpose, now).await),
            _ => None,
        }
    }

    /// Looks after an order until it is decided or `until` has come (`None`).
    pub async fn wait(
        &self,
        reservation: &Reservation,
        waiting: &mut Waiting,
        purpose: &Purpose,
        until: Instant,
        now: impl Fn() -> Timestamp,
    ) -> Option<Result<RemoteCredential, SignError>> {
        match (reservation.terms().asset, &self.wallet, &self.issuer) {
            (Asset::Token(_), Some(EvmPayer::Bkey(signer)), _) => signer.wait(reservation, waiting, until, now).await,
            (Asset::Fiat(..), _, Some(CardPayer::Bkey(issuer))) => {
                issuer.wait(reservation, waiting, purpose, until, now).await
            }
            _ => None,
        }
    }

    /// Makes the credential that a reservation allows: the only public way to a signature. All that is signed comes from the
    /// ledger's record; `echo` is only repeated to the seller.
    ///
    /// The reservation is consumed, so that one permission yields one credential at most. If the future is dropped, the payment
    /// stays counted.
    pub async fn pay(
        &self,
        reservation: Reservation,
        echo: &Echo,
        permission: &Permission,
        remote: Option<&RemoteCredential>,
    ) -> Result<SignedPayment, Box<NotPaid>> {
        let (id, valid_before) = (reservation.rid(), reservation.arm().valid_before);
        let signed_elsewhere = remote.is_some() || reservation.arm().signer.is_some();
        match self.credential(&reservation, echo, permission, remote).await {
            Ok((field, credential)) => Ok(SignedPayment {
                id,
                valid_before,
                field,
                credential,
            }),
            Err(error) if !signed_elsewhere && error.is_before_signing() => {
                Err(Box::new(NotPaid::Untouched { reservation, error }))
            }
            Err(error) => Err(Box::new(NotPaid::UsedUp {
                id,
                valid_before,
                signed_elsewhere,
                error,
            })),
        }
    }

    async fn credential(
        &self,
        reservation: &Reservation,
        echo: &Echo,
        permission: &Permission,
        remote: Option<&RemoteCredential>,
    ) -> Result<(HeaderName, Credential), PayError> {
        let rail = reservation.terms().rail;
        if rail != echo.rail() {
            return Err(PayError::OtherRail);
        }
        match (rail, remote) {
            (Rail::X402, Some(RemoteCredential::Authorization(signed))) => return present(reservation, signed, echo),
            (Rail::MppStripe, Some(RemoteCredential::Token(token))) => {
                let payload = Payload::SharedPaymentToken(token.expose());
                return Ok(credential(echo, &payload, None)?);
            }
            (_, Some(_)) => return Err(PayError::OtherRail),
            (_, None) => {}
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
        let Some(CardPayer::Stripe(issuer)) = &self.issuer else {
            return Err(PayError::NoStripe);
        };
        let token = issuer.issue(reservation).await?;
        let payload = Payload::SharedPaymentToken(token.expose());
        Ok(credential(echo, &payload, None)?)
    }

    /// The wallet of a record, and what it moves where.
    fn signer(&self, reservation: &Reservation) -> Result<OwnKey<'_>, PayError> {
        let (terms, arm) = (reservation.terms(), reservation.arm());
        let Some(EvmPayer::Ours(wallet)) = &self.wallet else {
            return Err(PayError::NoWallet);
        };
        let from = arm.from.address().ok_or(PayError::Incomplete)?;
        if from != wallet.address() {
            return Err(PayError::OtherWallet);
        }
        Ok(OwnKey {
            wallet,
            token: terms.asset.token().ok_or(PayError::Incomplete)?,
            from,
            to: terms.payee.address().ok_or(PayError::Incomplete)?,
        })
    }
}

struct OwnKey<'w> {
    wallet: &'w Wallet,
    token: &'static Token,
    from: Address,
    to: Address,
}

/// A signature of somebody else's, for just what is on record by now.
fn present(reservation: &Reservation, signed: &Signed, echo: &Echo) -> Result<(HeaderName, Credential), PayError> {
    let (terms, arm) = (reservation.terms(), reservation.arm());
    let token = terms.asset.token().ok_or(PayError::Incomplete)?;
    let authorization = Authorization {
        network: token.network(),
        from: arm.from.address().ok_or(PayError::Incomplete)?,
        to: terms.payee.address().ok_or(PayError::Incomplete)?,
        value: terms.amount,
        valid_after: arm.valid_after,
        valid_before: arm.valid_before,
        nonce: arm.nonce.known().ok_or(PayError::Incomplete)?,
    };
    // It was compared before it was recorded. What is sent is what the record says, or nothing is.
    if evm::signer_of(token, &authorization, &signed.signature) != Some(authorization.from) {
        return Err(PayError::OtherWallet);
    }
    let payload = Payload::Authorization {
        authorization: &authorization,
        signature: &signed.signature,
    };
    let payment_id = reservation.rid().pay_id();
    Ok(credential(echo, &payload, Some(&payment_id))?)
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

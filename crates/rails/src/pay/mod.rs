//! Turns a stored record into a signature or a token, and that into the payment header.
//!
//! Keys are used only through this module, with numbers from the ledger's record and never from the wire (threat 1.11).
//! Each rail knows one kind of message.

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
#[cfg(test)]
mod domains;
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

/// All means of payment.
#[derive(Default)]
pub struct Payers {
    /// On EVM networks.
    pub wallet: Option<EvmPayer>,
    /// For sellers that take cards, by shared payment tokens.
    pub issuer: Option<CardPayer>,
}

/// The holder of the signing key.
pub enum EvmPayer {
    Ours(Wallet),
    /// A key on a phone.
    Bkey(BkeySigner),
}

/// The account that issues tokens.
pub enum CardPayer {
    /// Our own, at Stripe.
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

    /// The account whose tokens can be queried. BKey's cannot.
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

/// Why no credential was made although money was set aside for one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PayError {
    #[error("no wallet key is configured")]
    NoWallet,
    #[error("bursar.toml has no [stripe] section")]
    NoStripe,
    /// The record is for another wallet, for instance because the key was changed.
    #[error("the payment was recorded for another wallet than the one now configured")]
    OtherWallet,
    /// The echo is of another offer than the recorded one.
    #[error("the payment was recorded for another rail than the offer's")]
    OtherRail,
    #[error("the record lacks what its rail needs")]
    Incomplete,
    #[error("the payment header could not be made: {0}")]
    Credential(#[from] Why),
    #[error(transparent)]
    NotIssued(#[from] NotIssued),
}

/// A credential to be sent once; its reservation is used up.
pub struct SignedPayment {
    pub id: PaymentId,
    pub valid_before: u64,
    pub field: HeaderName,
    pub credential: Credential,
}

/// Why there is no credential, and what remains of the permission to make one.
#[derive(Debug)]
pub enum NotPaid {
    /// Nothing was ordered or signed, so no credential can exist.
    Untouched {
        reservation: Box<Reservation>,
        error: PayError,
    },
    /// Something was ordered or signed. The payment has to be finished by its id.
    UsedUp {
        id: PaymentId,
        valid_before: u64,
        made: Made,
        error: PayError,
    },
}

/// What was made and cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// A signature of ours, which never left this process.
    OwnSignature,
    /// Perhaps a token that no seller was given, as [`NotIssued`] says; without it, one that exists.
    Token,
    /// A signature or token of a remote signer, which can be cashed whether it is sent or not.
    Elsewhere,
}

impl NotPaid {
    pub fn error(&self) -> &PayError {
        match self {
            Self::Untouched { error, .. } | Self::UsedUp { error, .. } => error,
        }
    }
}

impl PayError {
    /// Whether this is detected before anything is ordered or signed.
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

    /// What BKey supports, if it pays.
    pub fn remote(&self) -> Remote {
        Remote {
            signs: match &self.wallet {
                Some(EvmPayer::Bkey(signer)) => Some(signer.token()),
                Some(EvmPayer::Ours(_)) | None => None,
            },
            issues: matches!(self.issuer, Some(CardPayer::Bkey(_))),
        }
    }

    /// The external signer of a payment with `asset`, if there is one.
    pub fn remote_signer(&self, asset: Asset) -> Option<Signer> {
        let is_bkey = match asset {
            Asset::Token(_) => matches!(self.wallet, Some(EvmPayer::Bkey(_))),
            Asset::Fiat(..) => matches!(self.issuer, Some(CardPayer::Bkey(_))),
        };
        is_bkey.then_some(Signer::Bkey)
    }

    /// The source of a payment with `asset`.
    pub fn account(&self, asset: Asset) -> Option<Account> {
        match asset {
            Asset::Token(_) => self.address().map(Account::Address),
            Asset::Fiat(..) => match self.issuer.as_ref()? {
                CardPayer::Stripe(issuer) => issuer.account(),
                CardPayer::Bkey(issuer) => issuer.account(),
            },
        }
    }

    /// The account at Stripe or BKey through which a payment with `asset` is made.
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

    /// Orders the credential of a record from the external signer (`None`: we sign ourselves). The record must be on
    /// disk, as for a signature: from now on money may be signed away.
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

    /// Waits until an order is decided, or until `until` (`None`).
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

    /// Makes the credential that a reservation allows; the only public way to a signature. Everything that is signed
    /// comes from the ledger's record; `echo` is only repeated to the seller.
    ///
    /// The reservation is consumed, so that one permission yields at most one credential. If the future is dropped, the
    /// payment stays counted.
    pub async fn pay(
        &self,
        reservation: Reservation,
        echo: &Echo,
        permission: &Permission,
        remote: Option<&RemoteCredential>,
    ) -> Result<SignedPayment, Box<NotPaid>> {
        let (id, valid_before) = (reservation.rid(), reservation.arm().valid_before);
        let made = match (reservation.arm().signer, remote, reservation.terms().rail) {
            (None, None, Rail::MppStripe) => Made::Token,
            (None, None, _) => Made::OwnSignature,
            _ => Made::Elsewhere,
        };
        match self.credential(&reservation, echo, permission, remote).await {
            Ok((field, credential)) => Ok(SignedPayment {
                id,
                valid_before,
                field,
                credential,
            }),
            Err(error) if made != Made::Elsewhere && error.is_before_signing() => Err(Box::new(NotPaid::Untouched {
                reservation: Box::new(reservation),
                error,
            })),
            Err(error) => Err(Box::new(NotPaid::UsedUp {
                id,
                valid_before,
                made,
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
        // What is signed must equal what is counted.
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

    /// The wallet of a record, and which asset it moves on which network.
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

/// An external signature over exactly what is on record.
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
    // It was compared before it was recorded. Only what the record says is sent.
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

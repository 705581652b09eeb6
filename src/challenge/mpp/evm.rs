//! `evm`/`charge`: what the `request` asks for, as an offer that a `transferWithAuthorization` pays (mpp digest §3, §7).

use std::sync::Arc;

use alloy_primitives::{B256, keccak256};
use sha2::{Digest, Sha256};

use super::super::credential::Echo;
use super::super::json::Object;
use super::super::requirement::{address, amount_of, payee_of};
use super::super::{Nonce, Offer, PaymentFlow, Term, Why, Wire};
use super::payment::{Payment, integer};
use crate::assets::{self, Asset, Network};

pub(super) fn offer(position: usize, payment: &Payment) -> Result<Offer, Why> {
    let request = Object::read(&payment.request).ok_or(Why::NotObject)?;
    let details = request.object("methodDetails").ok_or(Why::ChainMissing)?;
    check_credential_type(&details)?;
    // The signature names one recipient, so it cannot pay several; and whoever reads the offer must not think so.
    if details.member("splits").is_some() || request.member("splits").is_some() {
        return Err(Why::SplitsUnsupported);
    }
    let asset = asset(&request, &details)?;
    let text = request.text("amount").ok_or(Why::AmountNotText)?;
    let (amount, usd) = amount_of(&text, asset)?;
    let payee = payee_of(&request.text("recipient").ok_or(Why::PayeeMalformed)?, asset)?;
    let echo = Echo::mpp(payment.echo.clone(), payment.field, asset.network);
    if !echo.fits() {
        return Err(Why::CredentialTooLarge);
    }
    Ok(Offer {
        wire: Wire::MppEvm,
        position,
        asset,
        amount,
        usd,
        payee,
        term: payment.expires.map_or(Term::Open, Term::Until),
        nonce: Nonce::Fixed(nonce(&payment.id, &payment.realm)),
        flow: PaymentFlow::Authorization,
        resource: payment.host(),
        body: payment.body,
        sha256: Sha256::digest(payment.echo.as_bytes()).into(),
        echo: Arc::new(echo),
    })
}

/// Ruling 18: binds the signature to the challenge; one challenge has one nonce, so that it is cashed at most once.
fn nonce(id: &str, realm: &str) -> B256 {
    keccak256([id, realm].concat())
}

/// Without the member a server need not take an authorization (mpp digest §7).
fn check_credential_type(details: &Object<'_>) -> Result<(), Why> {
    let types: Option<Vec<String>> = details
        .member("credentialTypes")
        .and_then(|raw| serde_json::from_str(raw.get()).ok());
    match types {
        Some(types) if types.iter().any(|kind| kind == "authorization") => Ok(()),
        _ => Err(Why::CredentialTypeUnsupported),
    }
}

/// Our table alone says what the token is; what the server says about it must agree.
fn asset(request: &Object<'_>, details: &Object<'_>) -> Result<&'static Asset, Why> {
    let chain = details.member("chainId").ok_or(Why::ChainMissing)?;
    let network = Network::Eip155(integer(chain).ok_or(Why::NetworkMalformed)?);
    if assets::assets_of(network).next().is_none() {
        return Err(Why::NetworkUnsupported);
    }
    let text = request.text("currency").ok_or(Why::AssetMalformed)?;
    let token = address(&text).ok_or(Why::AssetMalformed)?;
    let asset = assets::asset(network, &token).ok_or(Why::AssetUnknown)?;
    if !asset.eip3009 {
        return Err(Why::AssetNeedsPermit2);
    }
    match details.member("decimals") {
        Some(raw) if integer(raw) != Some(asset.decimals.into()) => Err(Why::DecimalsMismatch),
        _ => Ok(asset),
    }
}

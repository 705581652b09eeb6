//! `evm`/`charge`: turns the `request` into an offer that a `transferWithAuthorization` pays (MPP §3, §7).

use super::super::credential::Echo;
use super::super::json::Object;
use super::super::requirement::{in_dollars, payee_of};
use super::super::{Clause, Offer, Rail, Why};
use super::payment::{Charge, Payment, integer};
use super::token_on_chain;
use crate::assets::{Asset, Standard, Token};
use crate::money::Atoms;

pub(super) fn offer(position: usize, payment: &Payment) -> Result<Offer, Why> {
    let request = Object::read(&payment.request).ok_or(Why::NotObject)?;
    let details = request.object("methodDetails").ok_or(Why::ChainMissing)?;
    check_credential_type(&details)?;
    // The signature names one recipient, so it cannot pay several, and the offer must not suggest that it does.
    if details.member("splits").is_some() || request.member("splits").is_some() {
        return Err(Why::SplitsUnsupported);
    }
    let token = token(&request, &details)?;
    let text = request.text("amount").ok_or(Why::AmountNotText)?;
    let amount = Atoms::parse(&text)?;
    let usd = in_dollars(amount, token)?;
    let payee = payee_of(&request.text("recipient").ok_or(Why::PayeeMalformed)?, token)?;
    let echo = Echo::mpp(payment.echo.clone(), payment.field, Rail::MppEvm);
    let charge = Charge {
        asset: Asset::Token(token),
        amount,
        usd,
        payee: payee.into(),
        clause: Clause::None,
        nonce: payment.nonce(),
    };
    payment.offer(position, echo, charge)
}

/// Without this member a server need not accept an authorization (MPP §7).
fn check_credential_type(details: &Object<'_>) -> Result<(), Why> {
    let types: Option<Vec<String>> = details
        .member("credentialTypes")
        .and_then(|raw| serde_json::from_str(raw.get()).ok());
    match types {
        Some(types) if types.iter().any(|kind| kind == "authorization") => Ok(()),
        _ => Err(Why::CredentialTypeUnsupported),
    }
}

fn token(request: &Object<'_>, details: &Object<'_>) -> Result<&'static Token, Why> {
    let token = token_on_chain(request, details)?;
    match token.standard {
        Standard::Eip3009 => {}
        Standard::Erc20 => return Err(Why::AssetNeedsPermit2),
        Standard::Tip20 => return Err(Why::AssetUnknown),
    }
    match details.member("decimals") {
        Some(raw) if integer(raw) != Some(token.decimals.into()) => Err(Why::DecimalsMismatch),
        _ => Ok(token),
    }
}

//! `stripe`/`charge`: turns the `request` into an offer that a Shared Payment Token pays (MPP §6).

use super::super::credential::Echo;
use super::super::json::Object;
use super::super::{Clause, Offer, Why};
use super::payment::{Charge, Payment};
use crate::account::{Account, StripeId};
use crate::assets::{Asset, currency};
use crate::money::{Atoms, MicroUsd};

/// R16: how long a token is valid at most, in seconds, however long finance lets signatures be valid. Until it expires
/// it can be charged.
pub const LONGEST_S: u64 = 300;
/// Stripe's amounts have at most twelve digits.
const MAX_AMOUNT: u128 = 999_999_999_999;
/// In bytes. A merchant's reference is short, and is returned only to the seller.
const MAX_EXTERNAL_ID: usize = 512;

pub(super) fn offer(position: usize, payment: &Payment) -> Result<Offer, Why> {
    let request = Object::read(&payment.request).ok_or(Why::NotObject)?;
    let details = request.object("methodDetails").ok_or(Why::ProfileMalformed)?;
    if details.member("splits").is_some() || request.member("splits").is_some() {
        return Err(Why::SplitsUnsupported);
    }
    let code = request.text("currency").ok_or(Why::CurrencyUnknown)?;
    let currency = currency(&code).ok_or(Why::CurrencyUnknown)?;
    let profile = details.text("networkId").ok_or(Why::ProfileMalformed)?;
    let profile = StripeId::profile(&profile).ok_or(Why::ProfileMalformed)?;
    let asset = Asset::Fiat(profile.mode(), currency);
    let amount = Atoms::parse(&request.text("amount").ok_or(Why::AmountNotText)?)?;
    if amount.get() > MAX_AMOUNT {
        return Err(Why::AmountTooLarge);
    }
    let usd = match asset.is_dollar() {
        true => Some(MicroUsd::of(amount, currency.decimals)?),
        false => None,
    };
    let echo = Echo::stripe(payment.echo.clone(), payment.field, external_id(&request)?);
    let charge = Charge {
        asset,
        amount,
        usd,
        payee: Account::Stripe(profile),
        clause: Clause::None,
        nonce: payment.nonce(),
    };
    payment.offer(position, echo, charge)
}

/// The server expects it back unchanged (MPP §6).
fn external_id(request: &Object<'_>) -> Result<Option<String>, Why> {
    match (request.member("externalId"), request.text("externalId")) {
        (None, _) => Ok(None),
        (Some(_), Some(text)) if text.len() <= MAX_EXTERNAL_ID => Ok(Some(text)),
        (Some(_), _) => Err(Why::ExternalIdMalformed),
    }
}

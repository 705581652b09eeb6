//! `tempo`/`charge`: what the `request` asks for, as an offer that a signed Tempo transaction pays (mpp digest §8.1).

use std::sync::Arc;

use alloy_primitives::{B256, keccak256};
use sha2::{Digest, Sha256};

use super::super::credential::Echo;
use super::super::json::Object;
use super::super::requirement::{amount_of, payee_of};
use super::super::{Clause, Nonce, Offer, PaymentFlow, Rail, Term, Why};
use super::payment::{Payment, integer};
use super::token_on_chain;
use crate::assets::{Asset, Standard};
use crate::money::{Atoms, MicroUsd};

/// Gas of a transfer with memo, generous: what is not used costs nothing.
pub const GAS: u64 = 500_000;
/// The most that a unit of gas may cost, in 10^-18 US dollars.
pub const MAX_FEE_PER_GAS: u64 = 40_000_000_000;
/// A signed transaction takes its place in a block for at most so long (Ruling 16).
pub const LONGEST_S: u64 = 25;

pub(super) fn offer(position: usize, payment: &Payment) -> Result<Offer, Why> {
    let request = Object::read(&payment.request).ok_or(Why::NotObject)?;
    let details = request.object("methodDetails").ok_or(Why::ChainMissing)?;
    if details.member("splits").is_some() || request.member("splits").is_some() {
        return Err(Why::SplitsUnsupported);
    }
    check_mode(&details)?;
    let token = token_on_chain(&request, &details)?;
    if token.standard != Standard::Tip20 {
        return Err(Why::AssetUnknown);
    }
    if details
        .member("decimals")
        .is_some_and(|raw| integer(raw) != Some(token.decimals.into()))
    {
        return Err(Why::DecimalsMismatch);
    }
    let text = request.text("amount").ok_or(Why::AmountNotText)?;
    let (amount, _) = amount_of(&text, token)?;
    let payee = payee_of(&request.text("recipient").ok_or(Why::PayeeMalformed)?, token)?;
    let fee = fee_cap(sponsored(&details)?);
    let whole = amount.get().checked_add(fee.get()).ok_or(Why::AmountTooLarge)?;
    let echo = Echo::mpp(payment.echo.clone(), payment.field, Rail::MppTempo);
    if !echo.fits() {
        return Err(Why::CredentialTooLarge);
    }
    Ok(Offer {
        rail: Rail::MppTempo,
        position,
        asset: Asset::Token(token),
        amount,
        usd: Some(MicroUsd::of(Atoms::new(whole), token.decimals)?),
        payee: payee.into(),
        clause: Clause::FeeCap(fee),
        term: payment.expires.map_or(Term::Open, Term::Until),
        nonce: Nonce::Fixed(memo(&payment.realm, &payment.id)),
        flow: PaymentFlow::Authorization,
        resource: payment.host(),
        body: payment.body,
        sha256: Sha256::digest(payment.echo.as_bytes()).into(),
        echo: Arc::new(echo),
    })
}

/// Who pays the network's fee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fee {
    Ours,
    /// The seller signs for it; its part of the transaction stays open.
    Sponsored,
}

/// We sign and the server broadcasts, which is what it takes unless it says otherwise. Broadcasting by ourselves (`push`) would
/// need a node on the path of a payment.
fn check_mode(details: &Object<'_>) -> Result<(), Why> {
    let Some(raw) = details.member("supportedModes") else {
        return Ok(());
    };
    let modes: Option<Vec<String>> = serde_json::from_str(raw.get()).ok();
    match modes {
        Some(modes) if modes.iter().any(|mode| mode == "pull") => Ok(()),
        _ => Err(Why::ModeUnsupported),
    }
}

fn sponsored(details: &Object<'_>) -> Result<Fee, Why> {
    match details.member("feePayer").map(serde_json::value::RawValue::get) {
        None | Some("false") => Ok(Fee::Ours),
        Some("true") => Ok(Fee::Sponsored),
        Some(_) => Err(Why::ModeUnsupported),
    }
}

/// In atoms of a token with six decimals: a fee is counted in 10^-18 dollars per unit of gas and rounded up.
const fn fee_cap(fee: Fee) -> Atoms {
    match fee {
        Fee::Ours => Atoms::new((GAS as u128 * MAX_FEE_PER_GAS as u128).div_ceil(1_000_000_000_000)),
        Fee::Sponsored => Atoms::new(0),
    }
}

/// What the transfer carries, and by what the server knows it: `keccak("mpp")[..4] | 1 | keccak(realm)[..10] | ten zero bytes |
/// keccak(id)[..7]`. As the nonce of the payment it is unique in the books, so that a challenge is answered once.
fn memo(realm: &str, id: &str) -> B256 {
    let mut memo = B256::ZERO;
    memo[..4].copy_from_slice(&keccak256("mpp")[..4]);
    memo[4] = 1;
    memo[5..15].copy_from_slice(&keccak256(realm)[..10]);
    memo[25..].copy_from_slice(&keccak256(id)[..7]);
    memo
}

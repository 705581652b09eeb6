//! `tempo`/`charge`: turns the `request` into an offer that a signed Tempo transaction pays (MPP §8.1).

use alloy_primitives::{B256, keccak256};

use super::super::credential::Echo;
use super::super::json::Object;
use super::super::requirement::{in_dollars, payee_of};
use super::super::{Clause, Offer, Rail, Why};
use super::payment::{Charge, Payment, integer};
use super::token_on_chain;
use crate::assets::{Asset, Standard};
use crate::money::Atoms;

/// Gas prices are in attodollars (10^-18 USD); atoms of a fee token are microdollars.
const ATTODOLLARS_PER_ATOM: u128 = 1_000_000_000_000;
/// How long a signed transaction may be included in a block, at most, in seconds (R16).
pub const LONGEST_S: u64 = 25;

pub(super) fn offer(position: usize, payment: &Payment) -> Result<Offer, Why> {
    let request = Object::read(&payment.request).ok_or(Why::NotObject)?;
    let details = request.object("methodDetails").ok_or(Why::ChainMissing)?;
    if details.member("splits").is_some() || request.member("splits").is_some() {
        return Err(Why::SplitsUnsupported);
    }
    if details.member("memo").is_some() || request.member("memo").is_some() {
        return Err(Why::MemoUnsupported);
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
    let amount = Atoms::parse(&text)?;
    let payee = payee_of(&request.text("recipient").ok_or(Why::PayeeMalformed)?, token)?;
    let fee = match fee(&details)? {
        Fee::Ours => Gas::CHARGE.fee_cap(),
        Fee::Sponsored => Atoms::new(0),
    };
    let whole = amount.get().checked_add(fee.get()).ok_or(Why::AmountTooLarge)?;
    let echo = Echo::mpp(payment.echo.clone(), payment.field, Rail::MppTempo);
    let charge = Charge {
        asset: Asset::Token(token),
        amount,
        usd: in_dollars(Atoms::new(whole), token)?,
        payee: payee.into(),
        clause: Clause::FeeCap(fee),
        nonce: memo(&payment.realm, &payment.id),
    };
    payment.offer(position, echo, charge)
}

/// Who pays the network fee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fee {
    Ours,
    /// The seller signs for it, and its part of the transaction is left open.
    Sponsored,
}

/// bursar signs and the server broadcasts (`pull`), which servers accept unless they say otherwise. Broadcasting
/// ourselves (`push`) would need a node for every payment.
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

fn fee(details: &Object<'_>) -> Result<Fee, Why> {
    match details.member("feePayer").map(serde_json::value::RawValue::get) {
        None | Some("false") => Ok(Fee::Ours),
        Some("true") => Ok(Fee::Sponsored),
        Some(_) => Err(Why::ModeUnsupported),
    }
}

/// A gas limit and what gas may cost, in attodollars. The tip is part of the price and never exceeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gas {
    limit: u64,
    max_fee_per_gas: u64,
    max_priority_fee_per_gas: u64,
}

impl Gas {
    /// For one `transferWithMemo`. It takes 52,000 gas, 299,000 if the payee never held the token, and 316,000 if the
    /// fee is also paid in a different token (measured on anvil, forks T1 to T4). The price is the highest base fee
    /// that a Tempo network has had, 20 billion (TIP-1010; 12 billion since T7), plus a tip of one billion. At most
    /// $0.0105.
    pub const CHARGE: Self = Self {
        limit: 500_000,
        max_fee_per_gas: 21_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
    };

    /// `None` if the tip exceeds the price: nodes reject that.
    #[cfg(any(test, feature = "testing"))]
    pub const fn new(limit: u64, max_fee_per_gas: u64, max_priority_fee_per_gas: u64) -> Option<Self> {
        if max_priority_fee_per_gas > max_fee_per_gas {
            return None;
        }
        Some(Self {
            limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
        })
    }

    pub const fn limit(self) -> u64 {
        self.limit
    }

    pub const fn max_fee_per_gas(self) -> u64 {
        self.max_fee_per_gas
    }

    pub const fn max_priority_fee_per_gas(self) -> u64 {
        self.max_priority_fee_per_gas
    }

    /// The most that the gas can cost, in atoms of a fee token with 6 decimals. Rounded up, as on the chain.
    pub fn fee_cap(self) -> Atoms {
        let attodollars = u128::from(self.limit) * u128::from(self.max_fee_per_gas);
        Atoms::new(attodollars.div_ceil(ATTODOLLARS_PER_ATOM))
    }
}

/// The memo that ties a transfer to its challenge; sellers look for it (MPP §8.1). The ten zero bytes are the client's
/// name, which bursar does not give. It is the nonce of the payment, so it is unique in the ledger, and a challenge is
/// answered once.
pub fn memo(realm: &str, challenge_id: &str) -> B256 {
    let mut memo = B256::ZERO;
    memo[..4].copy_from_slice(&keccak256("mpp")[..4]);
    memo[4] = 1;
    memo[5..15].copy_from_slice(&keccak256(realm)[..10]);
    memo[25..].copy_from_slice(&keccak256(challenge_id)[..7]);
    memo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fee_cap_is_rounded_up_to_atoms() {
        let cap = |limit, price| Gas::new(limit, price, 0).unwrap().fee_cap().get();
        assert_eq!(cap(500_000, 20_000_000_000), 10_000);
        assert_eq!(cap(50_000, 20_000_000_000), 1_000);
        assert_eq!(cap(1, 1), 1);
        assert_eq!(cap(1, 1_000_000_000_001), 2);
        assert_eq!(cap(0, u64::MAX), 0);
        let square = u128::from(u64::MAX) * u128::from(u64::MAX);
        assert_eq!(cap(u64::MAX, u64::MAX), square / ATTODOLLARS_PER_ATOM + 1);
    }

    #[test]
    fn a_charge_costs_at_most_about_a_cent() {
        let Gas {
            limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
        } = Gas::CHARGE;
        assert_eq!(
            Gas::new(limit, max_fee_per_gas, max_priority_fee_per_gas),
            Some(Gas::CHARGE)
        );
        assert_eq!(Gas::CHARGE.fee_cap(), Atoms::new(10_500));
    }

    #[test]
    fn a_tip_is_part_of_the_price() {
        assert_eq!(Gas::new(1, 2, 3), None);
        assert!(Gas::new(1, 3, 3).is_some());
    }
}

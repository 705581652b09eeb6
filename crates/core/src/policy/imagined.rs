//! Offers that nobody has made, to ask what the limits would say to them.

use alloy_primitives::Address;
use jiff::Timestamp;
use thiserror::Error;

use super::Bid;
use super::limits::{AssetName, Limits};
use super::rates::NoPrice;
use crate::account::{Account, StripeId};
use crate::assets::{self, Asset, Mode, Network, Standard, currencies};
use crate::challenge::{PaymentFlow, Rail};
use crate::money::{Atoms, MicroUsd};

/// An offer as far as somebody has described it.
#[derive(Clone, Debug, Default)]
pub struct Imagined {
    pub rail: Option<Rail>,
    pub network: Option<Network>,
    /// By default an asset that counts as a dollar.
    pub asset: Option<AssetName>,
    pub payee: Option<Account>,
    pub upfront: bool,
    /// In whole units of the asset, as a decimal number.
    pub amount: String,
}

/// Why no offer can be made of a description.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotImaginable {
    #[error(
        "{amount:?} is not an amount of {symbol}: write digits, at most {decimals} of them after the point, such as 0.50"
    )]
    Amount {
        amount: String,
        symbol: &'static str,
        decimals: u8,
    },
    #[error("no rail moves such an asset there: leave out rail, network or asset, or name others")]
    Nothing,
}

impl Imagined {
    /// All offers that fit the description, over every rail that bursar knows; what the description leaves out is filled in
    /// with what the limits allow first.
    pub fn bids(&self, limits: &Limits, agent: &str, now: Timestamp) -> Result<Vec<Bid>, NotImaginable> {
        let rails: Vec<Rail> = match self.rail {
            Some(rail) => vec![rail],
            None => {
                let unlisted = Rail::ALL.into_iter().filter(|rail| !limits.rails.contains(rail));
                limits.rails.iter().copied().chain(unlisted).collect()
            }
        };
        let assets: Vec<Asset> = self.assets().collect();
        let (mut bids, mut not_imaginable) = (Vec::new(), NotImaginable::Nothing);
        for asset in assets {
            // Another asset may have more decimals.
            let atoms = match atoms(&self.amount, asset) {
                Ok(atoms) => atoms,
                Err(error) => {
                    not_imaginable = error;
                    continue;
                }
            };
            let price = limits.rates.price_of(asset, atoms, now);
            for rail in rails.iter().copied().filter(|rail| rail_moves(*rail, asset)) {
                for payee in self.payees(limits, agent, asset) {
                    bids.push(Bid {
                        rail,
                        asset,
                        payee,
                        price,
                        flow: match self.upfront {
                            true => PaymentFlow::Upfront,
                            false => PaymentFlow::Authorization,
                        },
                    });
                }
            }
        }
        if bids.is_empty() {
            return Err(not_imaginable);
        }
        Ok(bids)
    }

    fn assets(&self) -> impl Iterator<Item = Asset> {
        all_assets().filter(|asset| {
            let is_named = match &self.asset {
                Some(AssetName::Symbol(symbol)) => symbol == asset.symbol(),
                Some(AssetName::One(one)) => one == asset,
                None => asset.is_dollar(),
            };
            is_named && self.network.is_none_or(|network| asset.network() == network)
        })
    }

    fn payees(&self, limits: &Limits, agent: &str, asset: Asset) -> Vec<Account> {
        if let Some(payee) = &self.payee {
            return vec![payee.clone()];
        }
        let levels = limits.agents.get(agent).map(|levels| limits.levels(levels));
        let listed = levels
            .into_iter()
            .flatten()
            .flat_map(|level| level.payees.allow.iter().flatten());
        let mut payees: Vec<Account> = listed.filter(|payee| payee_suits(payee, asset)).cloned().collect();
        payees.extend(somebody(asset));
        payees
    }
}

/// Every asset that bursar can pay with.
pub fn all_assets() -> impl Iterator<Item = Asset> {
    let tokens = assets::tokens().map(Asset::Token);
    let fiat = [Mode::Live, Mode::Test]
        .into_iter()
        .flat_map(|mode| currencies().map(move |currency| Asset::Fiat(mode, currency)));
    tokens.chain(fiat)
}

/// Whether offers over this rail can be in this asset.
pub fn rail_moves(rail: Rail, asset: Asset) -> bool {
    match (rail, asset) {
        (Rail::MppStripe, Asset::Fiat(..)) => true,
        (Rail::MppStripe, _) | (_, Asset::Fiat(..)) => false,
        (Rail::MppTempo, Asset::Token(token)) => token.standard == Standard::Tip20,
        (_, Asset::Token(token)) => token.standard != Standard::Tip20,
    }
}

/// Addresses are paid in tokens, profiles in currencies.
pub fn payee_suits(payee: &Account, asset: Asset) -> bool {
    matches!(
        (payee, asset),
        (Account::Address(_), Asset::Token(_)) | (Account::Stripe(_), Asset::Fiat(..))
    )
}

/// A payee that no list is likely to name.
pub fn somebody(asset: Asset) -> Option<Account> {
    match asset {
        Asset::Token(_) => Some(Account::Address(Address::repeat_byte(0x5b))),
        Asset::Fiat(Mode::Live, _) => StripeId::profile("profile_somebody").map(Account::Stripe),
        Asset::Fiat(Mode::Test, _) => StripeId::profile("profile_test_somebody").map(Account::Stripe),
    }
}

fn atoms(amount: &str, asset: Asset) -> Result<Atoms, NotImaginable> {
    let decimals = asset.decimals();
    let wrong = || NotImaginable::Amount {
        amount: amount.to_owned(),
        symbol: asset.symbol(),
        decimals,
    };
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let is_number = !whole.is_empty() && is_digits(whole) && is_digits(fraction) && !amount.ends_with('.');
    if !is_number || fraction.len() > usize::from(decimals) {
        return Err(wrong());
    }
    let digits = format!("{whole}{fraction:0<width$}", width = usize::from(decimals));
    digits.parse().map(Atoms::new).map_err(|_| wrong())
}

impl super::Rates {
    /// What this much of an asset counts as.
    pub fn price_of(&self, asset: Asset, amount: Atoms, now: Timestamp) -> Result<MicroUsd, NoPrice> {
        match asset.is_dollar() {
            true => MicroUsd::of(amount, asset.decimals()).map_err(|_| NoPrice::TooLarge),
            false => self.convert(amount, asset.currency(), asset.decimals(), now),
        }
    }
}

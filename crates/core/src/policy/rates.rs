//! The US dollars that finance counts a currency as. A challenge never sets a rate: without one in limits.toml, or
//! after its last day, an amount that is not in dollars is not paid (MPP §10.1).

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::assets::Currency;
use crate::challenge::Offer;
use crate::money::{Atoms, MicroUsd};

/// Rates by currency code.
#[derive(Debug, Default)]
pub struct Rates(pub BTreeMap<&'static str, Rate>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What one whole unit counts as, in millionths of a dollar; not zero.
    pub usd: MicroUsd,
    /// The rate is valid before this time.
    pub until: Timestamp,
}

/// Why an amount has no price in dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPrice {
    NoRate(&'static Currency),
    Outdated(&'static Currency),
    TooLarge,
}

impl Rates {
    /// What `offer` counts against a budget at `now`, rounded up.
    pub fn price(&self, offer: &Offer, now: Timestamp) -> Result<MicroUsd, NoPrice> {
        match (offer.usd, offer.asset) {
            (Some(usd), _) => Ok(usd),
            // A dollar has a price unless its amount is too large to count.
            (None, asset) if asset.is_dollar() => Err(NoPrice::TooLarge),
            (None, asset) => self.convert(offer.outlay(), asset.currency(), asset.decimals(), now),
        }
    }

    /// `decimals` are the asset's: a token that stands for euros counts in finer units than Stripe does.
    pub(super) fn convert(
        &self,
        amount: Atoms,
        currency: &'static Currency,
        decimals: u8,
        now: Timestamp,
    ) -> Result<MicroUsd, NoPrice> {
        let rate = self.0.get(currency.code).ok_or(NoPrice::NoRate(currency))?;
        if now >= rate.until {
            return Err(NoPrice::Outdated(currency));
        }
        let product = amount.get().checked_mul(rate.usd.get()).ok_or(NoPrice::TooLarge)?;
        let unit = 10u128.pow(u32::from(decimals));
        Ok(MicroUsd::new(product.div_ceil(unit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::{self, currency};

    fn rates(code: &'static str, usd: &str) -> Rates {
        let rate = Rate {
            usd: MicroUsd::parse(usd).unwrap(),
            until: "2026-12-01T00:00:00Z".parse().unwrap(),
        };
        Rates([(code, rate)].into())
    }

    #[test]
    fn a_rate_counts_whole_units_and_rounds_up() {
        let now = "2026-11-30T23:59:59Z".parse().unwrap();
        for (code, rate, amount, usd) in [
            ("eur", "1.10", 100, "1.10"),
            ("jpy", "0.0065", 500, "3.25"),
            ("kwd", "3.26", 1_000, "3.26"),
            ("kwd", "3.26", 1, "0.00326"),
            ("jpy", "0.006501", 1, "0.006501"),
            ("eur", "1.000001", 1, "0.010001"),
        ] {
            let currency = currency(code).unwrap();
            let price = rates(code, rate).convert(Atoms::new(amount), currency, currency.decimals, now);
            assert_eq!(price, Ok(MicroUsd::parse(usd).unwrap()), "{amount} {code}");
        }
    }

    #[test]
    fn without_a_rate_that_holds_there_is_no_price() {
        let (eur, jpy) = (currency("eur").unwrap(), currency("jpy").unwrap());
        let rates = rates("eur", "1.10");
        let end: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        assert_eq!(rates.convert(Atoms::new(1), eur, 2, end), Err(NoPrice::Outdated(eur)));
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(rates.convert(Atoms::new(1), jpy, 0, now), Err(NoPrice::NoRate(jpy)));
        assert_eq!(
            rates.convert(Atoms::new(u128::MAX), eur, 2, now),
            Err(NoPrice::TooLarge)
        );
    }

    #[test]
    fn a_token_for_euros_counts_at_the_rate_of_the_euro() {
        let payee = alloy_primitives::Address::repeat_byte(1);
        let eurc = assets::tokens().find(|token| token.symbol == "EURC").unwrap();
        let price = |atoms: u128, at: &str| {
            let offer = Offer::of(eurc, Atoms::new(atoms), payee);
            assert_eq!(offer.usd, None);
            rates("eur", "1.10").price(&offer, at.parse().unwrap())
        };
        let (valid, over) = ("2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z");
        for (atoms, micros) in [(1_000_000, 1_100_000), (10_000, 11_000), (1, 2), (0, 0)] {
            assert_eq!(price(atoms, valid), Ok(MicroUsd::new(micros)), "{atoms}");
        }
        assert_eq!(price(1, over), Err(NoPrice::Outdated(eurc.currency)));
        assert_eq!(price(u128::MAX, valid), Err(NoPrice::TooLarge));
        let none = Rates::default().price(&Offer::of(eurc, Atoms::new(1), payee), Timestamp::UNIX_EPOCH);
        assert_eq!(none, Err(NoPrice::NoRate(eurc.currency)));
    }
}

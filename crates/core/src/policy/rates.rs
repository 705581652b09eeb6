//! The US dollars that finance counts a currency as. A challenge never sets a rate: without one in limits.toml, or
//! after its last day, an amount that is not in dollars is not paid (MPP §10.1).

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::assets::{Asset, Currency};
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
            // A token has a price unless its amount is too large to count.
            (None, Asset::Token(_)) => Err(NoPrice::TooLarge),
            (None, Asset::Fiat(_, currency)) => self.convert(offer.amount, currency, now),
        }
    }

    fn convert(&self, amount: Atoms, currency: &'static Currency, now: Timestamp) -> Result<MicroUsd, NoPrice> {
        let rate = self.0.get(currency.code).ok_or(NoPrice::NoRate(currency))?;
        if now >= rate.until {
            return Err(NoPrice::Outdated(currency));
        }
        let product = amount.get().checked_mul(rate.usd.get()).ok_or(NoPrice::TooLarge)?;
        let unit = 10u128.pow(u32::from(currency.decimals));
        Ok(MicroUsd::new(product.div_ceil(unit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::currency;

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
            let price = rates(code, rate).convert(Atoms::new(amount), currency(code).unwrap(), now);
            assert_eq!(price, Ok(MicroUsd::parse(usd).unwrap()), "{amount} {code}");
        }
    }

    #[test]
    fn without_a_rate_that_holds_there_is_no_price() {
        let (eur, jpy) = (currency("eur").unwrap(), currency("jpy").unwrap());
        let rates = rates("eur", "1.10");
        let end: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        assert_eq!(rates.convert(Atoms::new(1), eur, end), Err(NoPrice::Outdated(eur)));
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(rates.convert(Atoms::new(1), jpy, now), Err(NoPrice::NoRate(jpy)));
        assert_eq!(rates.convert(Atoms::new(u128::MAX), eur, now), Err(NoPrice::TooLarge));
    }
}

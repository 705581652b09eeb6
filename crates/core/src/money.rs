//! Amounts: atoms of an asset, and budgets in micro-USD. Checked integers only, never floats.
//!
//! An amount on the wire is a decimal string without sign, exponent or leading zero (x402 §9.2). A budget is a string
//! in USD with at most six decimals (R50). What counts against a budget is rounded **up**, so that rounding never lets
//! an agent spend more than the budget (R220).

use std::fmt;

use thiserror::Error;

/// The smallest units of an asset (for USDC: millionths of a dollar).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Atoms(u128);

/// Millionths of a US dollar: the unit of every budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroUsd(u128);

/// Why a string is not an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AmountError {
    #[error("the amount is empty")]
    Empty,
    #[error("the amount is not a plain decimal number")]
    NotDecimal,
    #[error("the amount has leading zeros")]
    LeadingZero,
    #[error("the amount does not fit in 128 bits")]
    TooLarge,
    #[error("the amount has more than six decimals")]
    TooPrecise,
}

impl Atoms {
    pub const fn new(atoms: u128) -> Self {
        Self(atoms)
    }

    pub const fn get(self) -> u128 {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Reads an amount from a challenge: ASCII digits, no leading zero, below 2^128.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        whole_number(text).map(Self)
    }

    /// The amount in whole units, without trailing zeros: 10000 atoms of an asset with 6 decimals are `0.01`.
    pub fn decimal(self, decimals: u8) -> String {
        decimal_text(self.0, decimals)
    }

    /// The amount in whole units with all decimals, as money is written: 50 cents are `0.50`.
    pub fn fixed(self, decimals: u8) -> String {
        fixed_text(self.0, decimals)
    }
}

impl MicroUsd {
    pub const ZERO: Self = Self(0);

    pub const fn new(micros: u128) -> Self {
        Self(micros)
    }

    pub const fn get(self) -> u128 {
        self.0
    }

    /// What `atoms` of a dollar-pegged asset count against a budget, rounded up. One token is one USD by definition.
    pub fn of(atoms: Atoms, decimals: u8) -> Result<Self, AmountError> {
        if decimals <= 6 {
            let scale = 10u128.pow(u32::from(6 - decimals));
            return atoms.0.checked_mul(scale).map(Self).ok_or(AmountError::TooLarge);
        }
        let scale = 10u128
            .checked_pow(u32::from(decimals - 6))
            .ok_or(AmountError::TooLarge)?;
        Ok(Self(atoms.0.div_ceil(scale)))
    }

    /// Reads a budget from a file: `"5"`, `"0.50"`, at most six decimals.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if text.ends_with('.') {
            return Err(AmountError::NotDecimal);
        }
        if fraction.len() > 6 {
            return Err(AmountError::TooPrecise);
        }
        if !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AmountError::NotDecimal);
        }
        let whole = whole_number(whole)?;
        let fraction = format!("{fraction:0<6}")
            .parse::<u128>()
            .map_err(|_| AmountError::NotDecimal)?;
        whole
            .checked_mul(1_000_000)
            .and_then(|micros| micros.checked_add(fraction))
            .map(Self)
            .ok_or(AmountError::TooLarge)
    }
}

/// Dollars with at least two decimals: `0.50`, `12.345`.
impl fmt::Display for MicroUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = decimal_text(self.0, 6);
        match text.split_once('.') {
            None => write!(f, "{text}.00"),
            Some((_, fraction)) if fraction.len() == 1 => write!(f, "{text}0"),
            Some(_) => f.write_str(&text),
        }
    }
}

fn whole_number(text: &str) -> Result<u128, AmountError> {
    if text.is_empty() {
        return Err(AmountError::Empty);
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AmountError::NotDecimal);
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(AmountError::LeadingZero);
    }
    text.parse().map_err(|_| AmountError::TooLarge)
}

fn decimal_text(value: u128, decimals: u8) -> String {
    let text = fixed_text(value, decimals);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn fixed_text(value: u128, decimals: u8) -> String {
    let digits = format!("{value:0>width$}", width = usize::from(decimals) + 1);
    match digits.split_at(digits.len() - usize::from(decimals)) {
        (whole, "") => whole.to_owned(),
        (whole, fraction) => format!("{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wire_amounts_are_strict() {
        assert_eq!(Atoms::parse("10000"), Ok(Atoms(10_000)));
        assert_eq!(Atoms::parse("0"), Ok(Atoms(0)));
        assert_eq!(Atoms::parse(""), Err(AmountError::Empty));
        assert_eq!(Atoms::parse("00010000"), Err(AmountError::LeadingZero));
        for bad in ["-1", "+1", " 1", "1 ", "0x10", "1e4", "0.01", "1_000", "\u{0661}", "１"] {
            assert_eq!(Atoms::parse(bad), Err(AmountError::NotDecimal), "{bad:?}");
        }
        assert_eq!(Atoms::parse(&u128::MAX.to_string()), Ok(Atoms(u128::MAX)));
        assert_eq!(
            Atoms::parse("340282366920938463463374607431768211456"),
            Err(AmountError::TooLarge)
        );
    }

    #[test]
    fn budgets_are_dollars_with_at_most_six_decimals() {
        assert_eq!(MicroUsd::parse("0.50"), Ok(MicroUsd(500_000)));
        assert_eq!(MicroUsd::parse("5"), Ok(MicroUsd(5_000_000)));
        assert_eq!(MicroUsd::parse("0.000001"), Ok(MicroUsd(1)));
        assert_eq!(MicroUsd::parse("0.0000001"), Err(AmountError::TooPrecise));
        for bad in ["5.", ".5", "1,50", "$5", "-1", "1e2", "1.+5"] {
            assert!(MicroUsd::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(MicroUsd(500_000).to_string(), "0.50");
        assert_eq!(MicroUsd(5_000_000).to_string(), "5.00");
        assert_eq!(MicroUsd(12_345_000).to_string(), "12.345");
    }

    #[test]
    fn money_is_written_with_all_its_decimals() {
        for (atoms, decimals, text) in [
            (50, 2, "0.50"),
            (100, 2, "1.00"),
            (500, 0, "500"),
            (1_000, 3, "1.000"),
            (7, 2, "0.07"),
        ] {
            assert_eq!(Atoms(atoms).fixed(decimals), text);
        }
    }

    #[test]
    fn counting_rounds_up() {
        assert_eq!(MicroUsd::of(Atoms(1), 18), Ok(MicroUsd(1)));
        assert_eq!(MicroUsd::of(Atoms(1_000_000_000_001), 18), Ok(MicroUsd(2)));
        assert_eq!(MicroUsd::of(Atoms(7), 6), Ok(MicroUsd(7)));
        assert_eq!(MicroUsd::of(Atoms(7), 2), Ok(MicroUsd(70_000)));
        assert_eq!(MicroUsd::of(Atoms(u128::MAX), 2), Err(AmountError::TooLarge));
    }

    proptest! {
        #[test]
        fn what_is_counted_is_never_less_than_what_is_spent(atoms in any::<u64>(), decimals in 7u8..=24) {
            let counted = MicroUsd::of(Atoms(u128::from(atoms)), decimals).unwrap().get();
            let scale = 10u128.pow(u32::from(decimals) - 6);
            prop_assert!(counted * scale >= u128::from(atoms));
            prop_assert!(counted.saturating_sub(1) * scale <= u128::from(atoms));
        }

        #[test]
        fn budgets_read_back_as_written(micros in any::<u64>()) {
            let usd = MicroUsd(u128::from(micros));
            prop_assert_eq!(MicroUsd::parse(&usd.to_string()), Ok(usd));
        }

        #[test]
        fn only_canonical_numbers_are_amounts(text in "\\PC{0,12}") {
            if let Ok(atoms) = Atoms::parse(&text) {
                prop_assert_eq!(atoms.get().to_string(), text);
            }
        }
    }
}

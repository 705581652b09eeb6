//! JSON numbers as exact decimals. `1250.0` equals 1250, and nothing is rounded as in a float.

/// A JSON number: sign, digits, and the power of ten of the last digit. Each number has exactly one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    is_negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// `None` if it is not a number, or if its exponent is absurd.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, i64::from(exponent.parse::<i16>().ok()?)),
            None => (text, 0),
        };
        let (is_negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(mantissa) => (true, mantissa),
            None => (false, mantissa),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if whole.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let significant = digits.trim_end_matches('0');
        let dropped = i64::try_from(digits.len() - significant.len()).ok()?;
        let significant = significant.trim_start_matches('0');
        let exponent = exponent - i64::try_from(fraction.len()).ok()? + dropped;
        let is_zero = significant.is_empty();
        Some(Self {
            is_negative: is_negative && !is_zero,
            digits: significant.to_owned(),
            exponent: if is_zero { 0 } else { exponent },
        })
    }

    /// The greatest integer that is not above it; `None` if that does not fit an `i64`.
    pub(super) fn floor(&self) -> Option<i64> {
        let sign = if self.is_negative { "-" } else { "" };
        let Ok(zeros) = usize::try_from(self.exponent) else {
            // There is a fraction other than zero.
            let places = usize::try_from(self.exponent.unsigned_abs()).ok()?;
            let whole = self.digits.len().saturating_sub(places);
            let whole = match self.digits.get(..whole)? {
                "" => 0,
                digits => format!("{sign}{digits}").parse::<i64>().ok()?,
            };
            return whole.checked_sub(i64::from(self.is_negative));
        };
        // An i64 has at most 19 digits.
        if zeros > 19 {
            return None;
        }
        format!(
            "{sign}{}{}",
            self.digits,
            "0".repeat(zeros.max(usize::from(self.digits.is_empty())))
        )
        .parse()
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_have_one_form() {
        for same in ["1250", "1250.0", "1.25e3", "125E+1", "12500000e-4", "1250.000"] {
            assert_eq!(Decimal::parse(same), Decimal::parse("1250"), "{same}");
        }
        for other in ["1249.999999999999999999999999", "125", "12500", "-1250", "12.5"] {
            assert_ne!(Decimal::parse(other), Decimal::parse("1250"), "{other}");
        }
        assert_eq!(Decimal::parse("-0.0e7"), Decimal::parse("0"));
        // Equal as floats.
        assert_ne!(Decimal::parse("9007199254740993"), Decimal::parse("9007199254740992"));
        for bad in [
            "", "-", ".5", "e5", "1e", "1e99999", "0x1", "+1", "1.2.3", "\"1\"", "null", "--1",
        ] {
            assert_eq!(Decimal::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_are_rounded_down() {
        for (text, floor) in [
            ("0", Some(0)),
            ("1800000000.999", Some(1_800_000_000)),
            ("1.8e9", Some(1_800_000_000)),
            ("1e18", Some(1_000_000_000_000_000_000)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775807.5", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("-9223372036854775808.5", None),
            ("1e400", None),
            ("1e-400", Some(0)),
            ("-1e-400", Some(-1)),
            ("-1", Some(-1)),
            ("-1.5", Some(-2)),
            ("0.5", Some(0)),
        ] {
            assert_eq!(Decimal::parse(text).unwrap().floor(), floor, "{text}");
        }
    }

    proptest! {
        #[test]
        fn integers_are_read_back(number in any::<i64>(), fraction in "[0-9]{0,20}") {
            prop_assert_eq!(Decimal::parse(&number.to_string()).unwrap().floor(), Some(number));
            let is_whole = fraction.bytes().all(|digit| digit == b'0');
            if number > 0 && !fraction.is_empty() {
                let positive = Decimal::parse(&format!("{number}.{fraction}")).unwrap();
                prop_assert_eq!(positive.floor(), Some(number));
                let negative = Decimal::parse(&format!("-{number}.{fraction}")).unwrap();
                prop_assert_eq!(negative.floor(), Some(-number - i64::from(!is_whole)));
            }
        }

        #[test]
        fn no_text_panics(text in "-?[0-9]{0,30}[.]?[0-9]{0,5}[eE]?[-+]?[0-9]{0,6}|.{0,20}") {
            let _ = Decimal::parse(&text).map(|number| number.floor());
        }
    }
}

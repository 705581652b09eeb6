//! Times in challenges and receipts: RFC 3339 in full (R75).
//!
//! The seller's server chooses how it writes a time. So `t` and `z` may be in lower case, a fraction may have any number
//! of digits, and the year may be 9999, which people write for "never". What is not RFC 3339 is no time: a guess about
//! a zone would be a guess about when a credential expires.

use jiff::civil::{DateTime, date};

const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);

/// The Unix second, rounded down. A leap second is read as the second before it.
pub(super) fn unix_second(text: &str) -> Option<i64> {
    let (date_and_time, tail) = text.split_at_checked("2026-11-30T00:00:00".len())?;
    let shape = |(index, byte): (usize, u8)| match index {
        4 | 7 => byte == b'-',
        10 => matches!(byte, b'T' | b't'),
        13 | 16 => byte == b':',
        _ => byte.is_ascii_digit(),
    };
    if !date_and_time.bytes().enumerate().all(shape) {
        return None;
    }
    let offset_s = offset_s(after_fraction(tail)?)?;
    let local: DateTime = date_and_time.to_ascii_uppercase().parse().ok()?;
    Some(local.duration_since(EPOCH).as_secs() - offset_s)
}

fn after_fraction(tail: &str) -> Option<&str> {
    let Some(fraction) = tail.strip_prefix('.') else {
        return Some(tail);
    };
    let zone = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
    (zone.len() < fraction.len()).then_some(zone)
}

/// `Z`, or hours and minutes east of it.
fn offset_s(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let sign = match zone.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    Some(sign * (two_digits(hours, 23)? * 3600 + two_digits(minutes, 59)? * 60))
}

fn two_digits(text: &str, most: i64) -> Option<i64> {
    let plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|value| plain && *value <= most)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_of_the_standard_is_read() {
        for (text, second) in [
            ("2099-01-01T00:00:00Z", 4_070_908_800),
            ("2099-01-01t00:00:00z", 4_070_908_800),
            ("2099-01-01T00:00:00.999Z", 4_070_908_800),
            ("2099-01-01T00:00:00.123456789012z", 4_070_908_800),
            ("2099-01-01T02:00:00.5+02:00", 4_070_908_800),
            ("2098-12-31t18:30:00-05:30", 4_070_908_800),
            ("2099-01-01T00:00:00-00:00", 4_070_908_800),
            ("2016-12-31T23:59:60Z", 1_483_228_799),
            ("1969-12-31T23:59:59Z", -1),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139),
            ("0000-01-01T00:00:00+23:59", -62_167_305_540),
        ] {
            assert_eq!(unix_second(text), Some(second), "{text}");
        }
    }

    #[test]
    fn what_is_not_of_the_standard_is_no_time() {
        for bad in [
            "",
            "tomorrow",
            "4070908800",
            "2099-01-01",
            "2099-01-01T00:00Z",
            "2099-01-01T00:00:00",
            "2099-01-01 00:00:00Z",
            "2099-13-01T00:00:00Z",
            "2099-02-29T00:00:00Z",
            "2099-01-01T24:00:00Z",
            "2099-01-01T00:00:61Z",
            "2099-01-01T00:00:00.Z",
            "2099-01-01T00:00:00,5Z",
            "2099-01-01T00:00:00+0200",
            "2099-01-01T00:00:00+2:00",
            "2099-01-01T00:00:00+24:00",
            "2099-01-01T00:00:00+00:60",
            "2099-01-01T00:00:00+00:00:00",
            "2099-01-01T00:00:00Z[UTC]",
            "2099-01-01T00:00:00ZZ",
            "+2099-01-01T00:00:00Z",
            "2099-01-01T00:00:0\u{b2}Z",
            "2099-01-01T00:00:00\u{b2}00:00",
        ] {
            assert_eq!(unix_second(bad), None, "{bad}");
        }
    }

    proptest! {
        /// The other reader is jiff's, for what it can write.
        #[test]
        fn a_written_time_reads_back(second in -62_135_596_800..253_402_207_200i64, nanos in 0..1_000_000_000i32) {
            let at = Timestamp::new(second, 0).unwrap();
            let text = at.to_string();
            prop_assert_eq!(unix_second(&text), Some(second));
            prop_assert_eq!(unix_second(&text.to_ascii_lowercase()), Some(second));
            let fraction = text.replace('Z', &format!(".{nanos:09}000z"));
            prop_assert_eq!(unix_second(&fraction), Some(second));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}|[0-9T:+.Zz-]{0,40}") {
            if let Some(second) = unix_second(&text) {
                prop_assert!((-62_167_305_540..=253_402_387_139).contains(&second));
            }
        }
    }
}

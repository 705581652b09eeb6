//! What `--since` and `--until` mean (R265): a day in the time zone of limits.toml, an instant, or a span before now.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

const FORMS: &str = "write a day, such as 2026-11-01, a time with its zone, such as 2026-11-01T08:00:00Z, or how long ago, such \
                     as 7d or 12h";

/// The first instant that is meant: a day begins at its midnight in `zone`.
pub(crate) fn since(text: &str, zone: &TimeZone, now: Timestamp) -> Result<Timestamp, String> {
    match text.parse::<Date>() {
        Ok(day) if is_day(text) => midnight(day, zone),
        _ => instant(text, now),
    }
}

/// The first instant after what is meant: a day is meant to its end.
pub(crate) fn until(text: &str, zone: &TimeZone, now: Timestamp) -> Result<Timestamp, String> {
    match text.parse::<Date>() {
        Ok(day) if is_day(text) => midnight(day.tomorrow().map_err(|_| FORMS.to_owned())?, zone),
        _ => instant(text, now),
    }
}

/// Whether it has one of the three forms, before any zone is known.
pub(crate) fn has_form(text: &str) -> Result<String, String> {
    since(text, &TimeZone::UTC, Timestamp::UNIX_EPOCH).map(|_| text.to_owned())
}

/// jiff also reads the day of a date with a time.
pub(crate) fn is_day(text: &str) -> bool {
    text.len() == "2026-11-01".len()
}

fn midnight(day: Date, zone: &TimeZone) -> Result<Timestamp, String> {
    let midnight = day.to_zoned(zone.clone()).map_err(|_| FORMS.to_owned())?;
    Ok(midnight.timestamp())
}

fn instant(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    let wrong = || FORMS.to_owned();
    let (number, hours) = match text.strip_suffix('d') {
        Some(days) => (days, 24),
        None => (text.strip_suffix('h').ok_or_else(wrong)?, 1),
    };
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let span = number.checked_mul(hours).filter(|hours| (0..=876_000).contains(hours));
    let span = SignedDuration::from_hours(span.ok_or_else(wrong)?);
    now.checked_sub(span).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_one_of_the_files_zone_and_is_meant_to_its_end() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let read = |text: &str| {
            let (from, to) = (since(text, &berlin, now).unwrap(), until(text, &berlin, now).unwrap());
            (from.to_string(), to.to_string())
        };
        assert_eq!(
            read("2026-11-01"),
            ("2026-10-31T23:00:00Z".into(), "2026-11-01T23:00:00Z".into())
        );
        // The clocks go back in it, so it has 25 hours.
        assert_eq!(
            read("2026-10-25"),
            ("2026-10-24T22:00:00Z".into(), "2026-10-25T23:00:00Z".into())
        );
        let instant = "2026-11-01T08:00:00Z";
        assert_eq!(read("2026-11-01T09:00:00+01:00"), (instant.into(), instant.into()));
        assert_eq!(read("7d").0, "2026-11-13T12:00:00Z");
        assert_eq!(read("12h").0, "2026-11-20T00:00:00Z");
        for wrong in [
            "",
            "today",
            "7",
            "d",
            "-7d",
            "99999999d",
            "2026-13-01",
            "2026-11-01T08:00:00",
        ] {
            assert!(since(wrong, &berlin, now).is_err(), "{wrong}");
            assert!(has_form(wrong).is_err(), "{wrong}");
        }
    }
}

//! What several commands take as an argument: a payment's id, a moment.

use std::time::Duration;

use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use super::Failure;
use bursar_core::payment_id::PaymentId;

pub(super) fn not_found(rid: PaymentId) -> Failure {
    Failure::negative(format!("no payment has the id {rid}; `bursar payments list` shows all"))
}

pub(super) fn parse_id(text: &str) -> Result<PaymentId, Failure> {
    PaymentId::parse(text).ok_or_else(|| {
        Failure::usage(format!(
            "{text} is not a payment id; `bursar payments list` shows the ids"
        ))
    })
}

/// A date without a time means 00:00 UTC.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    let as_date = |date: civil::Date| date.to_zoned(TimeZone::UTC).map(|zoned: Zoned| zoned.timestamp());
    text.parse::<Timestamp>()
        .or_else(|_| text.parse::<civil::Date>().and_then(as_date))
        .map_err(|_| "write a date or a time, such as 2026-11-20 or 2026-11-20T08:00:00Z".to_owned())
}

/// `30s`, `2m`; at most a day.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(86_400);
    let span = text.parse::<SignedDuration>().ok();
    span.and_then(|span| Duration::try_from(span).ok())
        .filter(|span| *span <= LONGEST)
        .ok_or_else(|| "write a number and a unit, such as 30s or 2m; at most 24h".to_owned())
}

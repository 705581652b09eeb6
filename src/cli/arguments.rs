//! What several commands take as an argument: a payment's id, a merchant, a duration.

use std::time::Duration;

use jiff::SignedDuration;

use super::Failure;
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::HostPattern;

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

/// As in `merchants` of limits.toml.
pub(super) fn merchant(text: &str) -> Result<HostPattern, String> {
    HostPattern::parse(text).map_err(|wrong| wrong.to_string())
}

/// `30s`, `2m`; at most a day.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(86_400);
    let span = text.parse::<SignedDuration>().ok();
    span.and_then(|span| Duration::try_from(span).ok())
        .filter(|span| *span <= LONGEST)
        .ok_or_else(|| "write a number and a unit, such as 30s or 2m; at most 24h".to_owned())
}

//! One payment as `bursar payments show` prints it, with what became of it in plain words.

use std::fmt::Write as _;

use bursar_core::plain::plain;
use bursar_ledger::{PaymentRecord, Reason, Source, State};

use crate::cli::evidence::Denial;
use crate::cli::zone::ShownZone;

/// serde_json sorts the members; this order reads better.
const ORDER: [&str; 25] = [
    "id",
    "state",
    "by",
    "reason",
    "disputed",
    "agent",
    "group",
    "merchant",
    "resource",
    "amount_decimal",
    "symbol",
    "usd",
    "taken",
    "amount",
    "asset",
    "network",
    "rail",
    "scheme",
    "payee",
    "nonce",
    "valid_before",
    "tx",
    "approval",
    "created_at",
    "updated_at",
];

pub(super) fn sheet(payment: &PaymentRecord, denial: Option<&Denial>, zone: &ShownZone) -> String {
    let mut out = String::new();
    let fields = serde_json::to_value(payment).unwrap_or_default();
    for name in ORDER {
        let text = match name {
            "state" => Some(outcome(payment, denial, zone)),
            "valid_before" => payment.valid_before.map(|at| zone.instant(at)),
            "created_at" => Some(zone.instant(payment.created_at)),
            "updated_at" => Some(zone.instant(payment.updated_at)),
            name => fields.get(name).and_then(|value| value.as_str()).map(str::to_owned),
        };
        if let Some(text) = text {
            let _ = writeln!(out, "{name:<15} {}", plain(&text));
        }
    }
    let _ = writeln!(out, "{:<15} {zone}", "times in");
    out
}

/// The state, and in a sentence why it is that one.
fn outcome(payment: &PaymentRecord, denial: Option<&Denial>, zone: &ShownZone) -> String {
    let reason = payment.reason.as_deref();
    let known = reason.and_then(|code| Reason::all().find(|reason| reason.as_str() == code));
    let why = match (payment.by, known, denial) {
        (_, Some(Reason::ApprovalDenied), Some(denial)) => Some(denied(denial, zone)),
        (Some(Source::Operator), _, _) => Some(match reason {
            Some(words) => format!("resolved by the operator: {words}"),
            None => "resolved by the operator".to_owned(),
        }),
        (_, Some(reason), _) => Some(reason.meaning().to_owned()),
        (by, None, _) => by.filter(|_| payment.state == State::Settled).map(settled_by),
    };
    match why {
        Some(why) => format!("{}: {why}", payment.state),
        None => payment.state.to_string(),
    }
}

fn denied(denial: &Denial, zone: &ShownZone) -> String {
    let by = denial.by.as_deref().unwrap_or("the person who was asked");
    let at = zone.instant(denial.at);
    match &denial.why {
        Some(why) => format!("denied by {by} at {at}: {why}"),
        None => format!("denied by {by} at {at}, without a reason"),
    }
}

fn settled_by(source: Source) -> String {
    match source {
        Source::Merchant => "The seller's receipt says so.",
        Source::Operator => "The operator says so.",
        Source::Chain => "A final block shows it.",
        Source::Stripe => "Stripe says so.",
        Source::Us => "The ledger says so.",
    }
    .to_owned()
}

//! `Payment-Receipt`: what the seller says about an MPP payment (MPP §5).

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;

use super::super::json::{self, Object};
use super::super::receipt::{Receipt, ReceiptReason, agreed, transaction_hash};
use super::super::{Rail, rfc3339};
use crate::account::StripeId;

/// `Payment-Receipt`, on any status.
pub(crate) const PAYMENT_RECEIPT: HeaderName = HeaderName::from_static("payment-receipt");

/// Reads the receipt of a payment over `rail`. A receipt for another method does not count.
pub(in crate::challenge) fn receipt(rail: Rail, headers: &HeaderMap) -> Receipt {
    agreed(headers.get_all(PAYMENT_RECEIPT).iter(), |value| read(rail, value))
}

fn read(rail: Rail, value: &[u8]) -> Option<Receipt> {
    let decoded = json::from_base64(value).ok()?;
    let object = Object::read(json::checked(&decoded).ok()?)?;
    let method = match rail {
        Rail::MppTempo => "tempo",
        Rail::MppStripe => "stripe",
        _ => "evm",
    };
    if object.text("method")? != method {
        return None;
    }
    let at = object.text("timestamp")?;
    // Nothing depends on it, so forms that jiff reads beyond the standard, such as a blank for the `T`, are taken too.
    if rfc3339::unix_second(&at).is_none() && at.parse::<Timestamp>().is_err() {
        return None;
    }
    let tx = object.text("reference").and_then(|text| match rail {
        Rail::MppStripe => StripeId::parse(&text).map(|id| id.to_string()),
        _ => transaction_hash(&text),
    });
    Some(match object.text("status")?.as_str() {
        "success" => Receipt::Settled { tx: Some(tx?) },
        _ => Receipt::Failed {
            tx,
            reason: ReceiptReason::Other,
        },
    })
}

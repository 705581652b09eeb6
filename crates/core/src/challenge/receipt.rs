//! The seller's receipt: x402's `PAYMENT-RESPONSE` (v2) or `X-PAYMENT-RESPONSE` (v1), x402 §2.5, or MPP's
//! `Payment-Receipt`, which `mpp/` reads.
//!
//! A receipt is the seller's statement, not a proof. By R10 a good one settles the payment. After anything else the
//! outcome stays unknown and the payment stays counted. So only a receipt that is clearly good is read as good.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;

use super::json::{self, Object};
use super::{Rail, mpp};

/// `PAYMENT-RESPONSE`: the x402 v2 receipt.
pub(crate) const PAYMENT_RESPONSE: HeaderName = HeaderName::from_static("payment-response");
/// `X-PAYMENT-RESPONSE`: the x402 v1 receipt.
pub(crate) const X_PAYMENT_RESPONSE: HeaderName = HeaderName::from_static("x-payment-response");

/// What the seller says about the payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    Absent,
    /// `tx` is `0x` and 64 lower-case hex digits, or the id of a Stripe PaymentIntent. An `upto` that took nothing has
    /// none.
    Settled {
        tx: Option<String>,
    },
    /// If there is a transaction, the money may be on its way (`settlement_pending`).
    Failed {
        tx: Option<String>,
        reason: ReceiptReason,
    },
    /// Several that contradict each other, or one that is too large, not decodable, or has an invalid transaction hash.
    Unreadable,
}

/// The class of `errorReason`, by who has to act. The seller's own text is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReceiptReason {
    /// The wallet has too little of the token.
    InsufficientFunds,
    /// Outside validAfter and validBefore: our clock is wrong, the seller's is, or settlement was slow.
    Clock,
    /// The nonce was already used: the money has moved.
    NonceUsed,
    /// Broadcast, not yet confirmed.
    Pending,
    /// The challenge was wrong: token name or version, asset, scheme, network or payee.
    SellerConfiguration,
    /// The signature was rejected.
    Signature,
    /// The transaction failed or would fail.
    Transaction,
    /// No reason, or an unknown one.
    Other,
}

impl ReceiptReason {
    /// Kebab-case text for entries and logs, never renamed.
    pub const fn code(self) -> &'static str {
        match self {
            Self::InsufficientFunds => "insufficient-funds",
            Self::Clock => "clock",
            Self::NonceUsed => "nonce-used",
            Self::Pending => "pending",
            Self::SellerConfiguration => "seller-configuration",
            Self::Signature => "signature",
            Self::Transaction => "transaction",
            Self::Other => "other",
        }
    }

    /// Classifies the codes of x402 §10. Their spelling varies between versions, so this looks for parts of them.
    fn of(text: &str) -> Self {
        const CLASSES: [(&str, ReceiptReason); 15] = [
            ("settlement_pending", ReceiptReason::Pending),
            ("insufficient", ReceiptReason::InsufficientFunds),
            ("nonce", ReceiptReason::NonceUsed),
            ("duplicate_settlement", ReceiptReason::NonceUsed),
            ("valid_after", ReceiptReason::Clock),
            ("valid_before", ReceiptReason::Clock),
            ("expired", ReceiptReason::Clock),
            ("signature", ReceiptReason::Signature),
            ("token_", ReceiptReason::SellerConfiguration),
            ("asset", ReceiptReason::SellerConfiguration),
            ("scheme", ReceiptReason::SellerConfiguration),
            ("network", ReceiptReason::SellerConfiguration),
            ("recipient", ReceiptReason::SellerConfiguration),
            ("eip3009_not_supported", ReceiptReason::SellerConfiguration),
            ("transaction", ReceiptReason::Transaction),
        ];
        CLASSES
            .iter()
            .find(|(part, _)| text.contains(part))
            .map_or(Self::Other, |(_, class)| *class)
    }
}

/// Reads the receipt in the head of the response to a request that was paid over `rail`, whatever the status. Sellers
/// that speak both protocols send both receipts for one payment (MPP §12); the one of the rail's protocol counts.
pub fn receipt(rail: Rail, headers: &HeaderMap) -> Receipt {
    match rail {
        Rail::X402 | Rail::X402Permit2 | Rail::X402UpTo => x402(rail, headers),
        Rail::MppEvm | Rail::MppTempo | Rail::MppStripe => mpp::receipt::receipt(rail, headers),
    }
}

fn x402(rail: Rail, headers: &HeaderMap) -> Receipt {
    // A server that speaks both versions may send the same receipt under both names.
    let values = headers
        .get_all(PAYMENT_RESPONSE)
        .iter()
        .chain(headers.get_all(X_PAYMENT_RESPONSE));
    agreed(values, |value| read(rail, value))
}

/// The receipt that all `values` state.
pub(super) fn agreed<'a>(
    mut values: impl Iterator<Item = &'a HeaderValue>,
    read: impl Fn(&[u8]) -> Option<Receipt>,
) -> Receipt {
    let Some(first) = values.next() else {
        return Receipt::Absent;
    };
    match read(first.as_bytes()) {
        Some(receipt) if values.all(|other| read(other.as_bytes()).as_ref() == Some(&receipt)) => receipt,
        _ => Receipt::Unreadable,
    }
}

fn read(rail: Rail, value: &[u8]) -> Option<Receipt> {
    let decoded = json::from_base64(value).ok()?;
    let object = Object::read(json::checked(&decoded).ok()?)?;
    let tx = match object.member("transaction") {
        None => None,
        Some(_) => match object.text("transaction")? {
            empty if empty.is_empty() => None,
            hash => Some(transaction_hash(&hash)?),
        },
    };
    match object.member("success").map(RawValue::get) {
        Some("true") => match (rail, tx) {
            (_, Some(tx)) => Some(Receipt::Settled { tx: Some(tx) }),
            // Nothing was taken, so there is no transaction (x402 §2.5).
            (Rail::X402UpTo, None) if object.text("amount").as_deref() == Some("0") => {
                Some(Receipt::Settled { tx: None })
            }
            // `exact` always has a transaction, so a success without one is not credible.
            (_, None) => None,
        },
        Some("false") => Some(Receipt::Failed {
            tx,
            reason: object
                .text("errorReason")
                .map_or(ReceiptReason::Other, |text| ReceiptReason::of(&text)),
        }),
        _ => None,
    }
}

pub(super) fn transaction_hash(text: &str) -> Option<String> {
    let digits = text.strip_prefix("0x")?;
    let valid = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const TX: &str = "0x89c91c789e57059b17285e7ba1716a1f5ff4c5dace0ea5a5135f26158d0421b9";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, json) in fields {
            let value = HeaderValue::from_str(&STANDARD.encode(json)).unwrap();
            headers.append(*name, value);
        }
        headers
    }

    fn one(json: &str) -> Receipt {
        x402(
            Rail::X402,
            &headers(&[("Payment-Response", json)].map(|(_, j)| ("payment-response", j))),
        )
    }

    #[test]
    fn a_good_receipt_settles_in_both_versions() {
        let json =
            format!(r#"{{"success":true,"transaction":"{TX}","network":"base","payer":"0x1","new":{{"a":[1]}}}}"#);
        let settled = Receipt::Settled { tx: Some(TX.into()) };
        assert_eq!(one(&json), settled);
        assert_eq!(x402(Rail::X402, &headers(&[("x-payment-response", &json)])), settled);
        let url_safe = HeaderValue::from_str(&URL_SAFE_NO_PAD.encode(&json)).unwrap();
        let both = HeaderMap::from_iter([
            (X_PAYMENT_RESPONSE, url_safe),
            (
                PAYMENT_RESPONSE,
                HeaderValue::from_str(&STANDARD.encode(&json)).unwrap(),
            ),
        ]);
        assert_eq!(x402(Rail::X402, &both), settled);
        assert_eq!(one(&json.replace("0x89c9", "0x89C9")), settled);
    }

    #[test]
    fn a_failure_may_have_a_transaction() {
        assert_eq!(
            one(r#"{"success":false,"transaction":"","errorReason":"insufficient_funds"}"#),
            Receipt::Failed {
                tx: None,
                reason: ReceiptReason::InsufficientFunds
            }
        );
        assert_eq!(
            one(&format!(
                r#"{{"success":false,"transaction":"{TX}","errorReason":"settlement_pending"}}"#
            )),
            Receipt::Failed {
                tx: Some(TX.into()),
                reason: ReceiptReason::Pending
            }
        );
        assert_eq!(
            one(r#"{"success":false,"transaction":null}"#),
            Receipt::Failed {
                tx: None,
                reason: ReceiptReason::Other
            }
        );
    }

    #[test]
    fn reasons_are_classified_by_who_has_to_act() {
        for (text, class) in [
            ("invalid_exact_evm_nonce_already_used", ReceiptReason::NonceUsed),
            (
                "invalid_exact_evm_insufficient_balance",
                ReceiptReason::InsufficientFunds,
            ),
            (
                "invalid_exact_evm_payload_authorization_valid_before",
                ReceiptReason::Clock,
            ),
            (
                "invalid_exact_evm_token_name_mismatch",
                ReceiptReason::SellerConfiguration,
            ),
            ("invalid_exact_evm_signature", ReceiptReason::Signature),
            ("invalid_exact_evm_transaction_failed", ReceiptReason::Transaction),
            ("the dog ate it", ReceiptReason::Other),
        ] {
            assert_eq!(ReceiptReason::of(text), class, "{text}");
        }
    }

    #[test]
    fn what_is_not_clearly_a_receipt_is_unreadable() {
        for json in [
            "",
            "{}",
            "[true]",
            r#"{"success":"true","transaction":"0x00"}"#,
            r#"{"success":true}"#,
            r#"{"success":true,"transaction":""}"#,
            r#"{"success":true,"transaction":"0x1234"}"#,
            r#"{"success":false,"transaction":"yes"}"#,
            r#"{"success":false,"transaction":7}"#,
            r#"{"success":false,"success":true}"#,
        ] {
            assert_eq!(one(json), Receipt::Unreadable, "{json}");
        }
        assert_eq!(x402(Rail::X402, &HeaderMap::new()), Receipt::Absent);
        let tx = format!(r#"{{"success":true,"transaction":"{TX}"}}"#);
        let contradiction = headers(&[
            ("payment-response", &tx),
            ("x-payment-response", r#"{"success":false}"#),
        ]);
        assert_eq!(x402(Rail::X402, &contradiction), Receipt::Unreadable);
        assert_eq!(one(&format!("{}{tx}", " ".repeat(70_000))), Receipt::Unreadable);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_settle(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut fields = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                fields.insert(PAYMENT_RESPONSE, value);
            }
            fields.append(
                X_PAYMENT_RESPONSE,
                HeaderValue::from_str(&STANDARD.encode(&bytes)).unwrap(),
            );
            let settled = matches!(x402(Rail::X402, &fields), Receipt::Settled { .. });
            prop_assert!(!settled);
        }
    }
}

//! Whatever a site answers after a payment, only the receipt decides what the ledger records (R10).

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::origin::{Answer, Origin, answer};
use crate::support::seller::{self, TX, challenge, encoded, receipt, requirement, v2};

/// The answer to the paid request, the resulting state, and the reason or source in the ledger.
type Case = (&'static str, fn() -> Answer, &'static str, &'static str);

fn with(status: u16, name: &str, receipt: &Value) -> Answer {
    answer(status, &[(name, &encoded(receipt))], "goods")
}

fn with_receipt(receipt: Value) -> Answer {
    with(200, "payment-response", &receipt)
}

const CASES: [Case; 22] = [
    ("402-again", || seller::asks("10000"), "unknown", "no-receipt"),
    ("402-dearer", || seller::asks("900000"), "unknown", "no-receipt"),
    (
        "402-other-payee",
        || {
            let mut other = requirement("10000");
            other["payTo"] = json!("0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc");
            v2(&challenge("/", &[other]))
        },
        "unknown",
        "no-receipt",
    ),
    (
        "402-without-challenge",
        || answer(402, &[], "pay"),
        "unknown",
        "no-receipt",
    ),
    (
        "402-but-settled",
        || with(402, "payment-response", &json!({ "success": true, "transaction": TX })),
        "settled",
        "merchant",
    ),
    (
        "402-settlement-failed",
        || {
            with(
                402,
                "payment-response",
                &json!({ "success": false, "transaction": "", "errorReason": "insufficient_funds" }),
            )
        },
        "unknown",
        "receipt-says-failed",
    ),
    (
        "500-but-settled",
        || with(500, "payment-response", &json!({ "success": true, "transaction": TX })),
        "settled",
        "merchant",
    ),
    ("500", || answer(500, &[], "oops"), "unknown", "no-receipt"),
    ("403", || answer(403, &[], "no"), "unknown", "no-receipt"),
    (
        "200-without-receipt",
        || answer(200, &[], "goods"),
        "unknown",
        "no-receipt",
    ),
    (
        "204",
        || answer(204, &[("payment-response", &receipt(true, TX))], ""),
        "settled",
        "merchant",
    ),
    (
        "v1-receipt",
        || {
            with(
                200,
                "x-payment-response",
                &json!({ "success": true, "transaction": TX }),
            )
        },
        "settled",
        "merchant",
    ),
    (
        "same-receipt-under-both-names",
        || {
            answer(
                200,
                &[
                    ("payment-response", &receipt(true, TX)),
                    ("x-payment-response", &receipt(true, TX)),
                ],
                "goods",
            )
        },
        "settled",
        "merchant",
    ),
    (
        "receipt-not-base64",
        || answer(200, &[("payment-response", "???")], "goods"),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "receipt-array",
        || with_receipt(json!([true])),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "success-without-tx",
        || with_receipt(json!({ "success": true })),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "success-empty-tx",
        || with_receipt(json!({ "success": true, "transaction": "" })),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "tx-garbage",
        || with_receipt(json!({ "success": true, "transaction": "0x<script>" })),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "success-as-text",
        || with_receipt(json!({ "success": "true", "transaction": TX })),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "failed",
        || with_receipt(json!({ "success": false, "transaction": "" })),
        "unknown",
        "receipt-says-failed",
    ),
    (
        "failed-with-tx",
        || with_receipt(json!({ "success": false, "transaction": TX })),
        "unknown",
        "receipt-says-failed",
    ),
    (
        "receipts-that-contradict",
        || {
            answer(
                200,
                &[
                    ("payment-response", &receipt(true, TX)),
                    ("x-payment-response", &receipt(false, "")),
                ],
                "goods",
            )
        },
        "unknown",
        "receipt-unreadable",
    ),
];

#[tokio::test]
async fn whatever_comes_after_a_payment_reaches_the_agent_and_the_receipt_alone_decides() {
    let origin = Origin::https(|request| async move {
        match CASES.iter().find(|(name, ..)| request.target[1..] == **name) {
            Some((_, answer, ..)) if request.is_paid() => answer(),
            _ => seller::asks("10000"),
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for (name, ..) in &CASES {
        agent.get(origin.address, &format!("/{name}")).await;
    }
    let payments = bursar.payments();
    assert_eq!(payments.len(), CASES.len());
    for ((name, _, state, why), payment) in CASES.iter().zip(&payments) {
        assert_eq!(payment["state"], *state, "{name}");
        let said = if *state == "settled" {
            &payment["by"]
        } else {
            &payment["reason"]
        };
        assert_eq!(said, why, "{name}");
        // The transaction of a failed receipt is kept, because a proof can start from it (R10).
        let names_tx = *state == "settled" || *name == "failed-with-tx";
        assert_eq!(payment["tx"].is_string(), names_tx, "{name}");
        let sent = origin
            .seen()
            .iter()
            .filter(|r| r.is_paid() && r.target[1..] == **name)
            .count();
        assert_eq!(sent, 1, "{name}");
    }
}

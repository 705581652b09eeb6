//! What an x402 seller sends: challenges and receipts, honest or not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::origin::{Answer, Origin, answer};

pub(crate) const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
pub(crate) const PAYEE: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
pub(crate) const TX: &str = "0xabababababababababababababababababababababababababababababababab";

pub(crate) fn requirement(amount: &str) -> Value {
    json!({
        "scheme": "exact", "network": "eip155:84532", "amount": amount, "asset": USDC, "payTo": PAYEE,
        "maxTimeoutSeconds": 60, "extra": { "name": "USDC", "version": "2" }
    })
}

/// A v2 challenge with these requirements, for `url`.
pub(crate) fn challenge(url: &str, accepts: &[Value]) -> Value {
    json!({ "x402Version": 2, "error": "Payment required", "resource": { "url": url, "description": "d", "mimeType": "text/plain" }, "accepts": accepts })
}

pub(crate) fn encoded(value: &Value) -> String {
    STANDARD.encode(value.to_string())
}

pub(crate) fn decoded(header: &str) -> Value {
    serde_json::from_slice(&STANDARD.decode(header).unwrap()).unwrap()
}

/// 402 with a v2 challenge in the header.
pub(crate) fn v2(challenge: &Value) -> Answer {
    answer(
        402,
        &[
            ("payment-required", &encoded(challenge)),
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
        ],
        "{}",
    )
}

/// 402 for one requirement of `amount` atoms.
pub(crate) fn asks(amount: &str) -> Answer {
    v2(&challenge("/", &[requirement(amount)]))
}

/// 402 with a v1 challenge in the body.
pub(crate) fn v1_body(amount: &str, resource: &str) -> Value {
    json!({ "x402Version": 1, "error": "X-PAYMENT header is required", "accepts": [{
        "scheme": "exact", "network": "base-sepolia", "maxAmountRequired": amount, "asset": USDC, "payTo": PAYEE,
        "resource": resource, "description": "d", "mimeType": "text/plain", "maxTimeoutSeconds": 60,
        "extra": { "name": "USDC", "version": "2" }
    }] })
}

pub(crate) fn receipt(success: bool, tx: &str) -> String {
    encoded(
        &json!({ "success": success, "transaction": tx, "network": "eip155:84532", "payer": super::bursar::WALLET }),
    )
}

/// 200 with a good receipt.
pub(crate) fn sold(body: &'static str) -> Answer {
    answer(
        200,
        &[("payment-response", &receipt(true, TX)), ("content-type", "text/plain")],
        body,
    )
}

/// What was signed: nonce, amount, payee.
pub(crate) fn signed(credential: &str) -> (String, String, String) {
    let authorization = &decoded(credential)["payload"]["authorization"];
    let text = |member: &str| authorization[member].as_str().unwrap().to_owned();
    (text("nonce"), text("value"), text("to"))
}

/// Sells everything for one cent, or for the number of atoms in the path.
pub(crate) async fn shop() -> Origin {
    Origin::https(|request| async move {
        if request.is_paid() {
            return sold("goods");
        }
        let price = request.target.trim_start_matches('/');
        let price = if price.is_empty() { "10000" } else { price };
        v2(&challenge("/", &[requirement(price)]))
    })
    .await
}

//! What an MPP seller sends: `Payment` challenges and receipts, honest or not, in the format of the reference server.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::origin::{Answer, answer};
use super::seller::{PAYEE, TX, USDC};

pub(crate) const PROBLEM: (&str, &str) = ("content-type", "application/problem+json");

/// One challenge, as its parameters on the wire.
#[derive(Clone)]
pub(crate) struct Challenge(Vec<(&'static str, String)>);

/// pathUSD, on every Tempo network.
pub(crate) const PATH_USD: &str = "0x20c0000000000000000000000000000000000000";
/// Tempo's test net.
pub(crate) const MODERATO: u64 = 42_431;

/// `evm`/`charge` of `amount` atoms for `localhost`, with a unique id.
pub(crate) fn evm(amount: &str) -> Challenge {
    charge("evm", &request(amount))
}

/// As [`evm`], for `tempo`.
pub(crate) fn tempo(amount: &str) -> Challenge {
    charge("tempo", &tempo_request(amount))
}

fn charge(method: &str, request: &Value) -> Challenge {
    static IDS: AtomicUsize = AtomicUsize::new(0);
    let id = format!("id-{}", IDS.fetch_add(1, Ordering::Relaxed));
    Challenge(vec![
        ("id", id),
        ("realm", "localhost".into()),
        ("method", method.into()),
        ("intent", "charge".into()),
        ("request", encoded(request)),
        ("expires", "2099-01-01T00:00:00Z".into()),
    ])
}

pub(crate) fn request(amount: &str) -> Value {
    json!({
        "amount": amount, "currency": USDC, "recipient": PAYEE,
        "methodDetails": { "chainId": 84_532, "credentialTypes": ["authorization"], "decimals": 6 }
    })
}

pub(crate) fn tempo_request(amount: &str) -> Value {
    json!({
        "amount": amount, "currency": PATH_USD, "recipient": PAYEE,
        "methodDetails": { "chainId": MODERATO, "supportedModes": ["pull"] }
    })
}

pub(crate) fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// The JSON of a credential or a receipt.
pub(crate) fn decoded(field: &str) -> Value {
    let token = field.strip_prefix("Payment ").unwrap_or(field);
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap()
}

impl Challenge {
    /// Replaces a parameter, or adds it.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(known, _)| *known != name);
        self
    }

    /// Replaces a member of the request, by JSON pointer.
    pub(crate) fn asking(self, pointer: &str, value: Value) -> Self {
        let mut request = decoded(self.get("request"));
        *request.pointer_mut(pointer).unwrap() = value;
        self.with("request", &encoded(&request))
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str()).unwrap()
    }

    pub(crate) fn field(&self) -> String {
        let parameters: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        format!("Payment {}", parameters.join(", "))
    }
}

/// 402 with these challenges in one field, as the reference server sends them.
pub(crate) fn asks(challenges: &[Challenge]) -> Answer {
    let fields: Vec<String> = challenges.iter().map(Challenge::field).collect();
    answer(
        402,
        &[
            ("www-authenticate", &fields.join(", ")),
            PROBLEM,
            ("cache-control", "no-store"),
        ],
        problem("payment-required"),
    )
}

pub(crate) fn problem(code: &str) -> String {
    json!({ "type": format!("https://paymentauth.org/problems/{code}"), "title": "t", "status": 402, "detail": "d" })
        .to_string()
}

pub(crate) fn receipt() -> String {
    receipt_of("evm")
}

pub(crate) fn receipt_of(method: &str) -> String {
    encoded(&json!({ "method": method, "reference": TX, "status": "success", "timestamp": "2026-04-01T12:04:58.123Z" }))
}

/// 200 with a good receipt.
pub(crate) fn sold(body: &'static str) -> Answer {
    answer(
        200,
        &[("payment-receipt", &receipt()), ("cache-control", "private")],
        body,
    )
}

//! A credential that comes back: a seller that repeats it in an answer would hand the agent what only bursar and the
//! seller may hold (R35).

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use zeroize::Zeroizing;

/// Members of a credential that are as good as the credential itself.
const SECRETS: [&str; 2] = ["signature", "spt"];
/// Shorter text could stand in an answer by chance.
const SHORTEST: usize = 16;

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The parts of a credential that bursar makes.
const OURS: [&str; 2] = ["/payload", "/extensions/eip2612GasSponsoring/info"];

/// What was presented to a seller, for finding it in the answer. No `Debug`, because it can be cashed.
pub struct Presented(Vec<Zeroizing<Vec<u8>>>);

impl Presented {
    /// `field` is the request's field that carries the credential.
    pub fn of(field: &HeaderValue) -> Self {
        let text = field.as_bytes();
        let credential = text.rsplit(u8::is_ascii_whitespace).next().unwrap_or(text);
        let mut secrets = vec![comparable(credential)];
        if let Ok(document) = serde_json::from_slice::<Value>(&decoded(credential)) {
            // The rest of a credential is what the seller said itself.
            let ours = OURS.iter().filter_map(|part| document.pointer(part));
            ours.for_each(|part| collect(part, &mut secrets));
        }
        secrets.retain(|secret| secret.len() >= SHORTEST);
        Self(secrets)
    }

    /// Removes the field lines that repeat it, whatever their names are, and returns how many there were.
    pub fn remove_echoes(&self, headers: &mut HeaderMap) -> usize {
        let echoes = |name: &HeaderName| headers.get_all(name).iter().any(|value| self.is_in(value.as_bytes()));
        let names: Vec<HeaderName> = headers.keys().filter(|name| echoes(name)).cloned().collect();
        let before = headers.len();
        for name in names {
            let lines = headers.get_all(&name).iter();
            let kept: Vec<HeaderValue> = lines.filter(|line| !self.is_in(line.as_bytes())).cloned().collect();
            headers.remove(&name);
            for line in kept {
                headers.append(&name, line);
            }
        }
        before - headers.len()
    }

    /// As it was sent, percent-encoded, or inside base64, such as a receipt that quotes the whole request.
    fn is_in(&self, value: &[u8]) -> bool {
        let text = comparable(value);
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
        self.occurs_in(&text)
            || value
                .split(|byte| !is_base64(byte))
                .filter(|word| word.len() > SHORTEST)
                .any(|word| self.occurs_in(&comparable(&decoded(word))))
    }

    fn occurs_in(&self, text: &[u8]) -> bool {
        let found = |secret: &[u8]| text.windows(secret.len()).any(|window| window == secret);
        self.0.iter().any(|secret| found(secret))
    }
}

/// The values of the members that are secrets, at any depth.
fn collect(document: &Value, secrets: &mut Vec<Zeroizing<Vec<u8>>>) {
    match document {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(text) if SECRETS.contains(&name.as_str()) => {
                        let text = text.strip_prefix("0x").unwrap_or(text);
                        secrets.push(comparable(text.as_bytes()));
                    }
                    value => collect(value, secrets),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, secrets)),
        _ => {}
    }
}

/// One spelling for all: percent signs decoded, one base64 alphabet without padding, lower case.
fn comparable(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        let escape = match (byte, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        let byte = match escape {
            Some((high, low)) => {
                rest = &after[2..];
                high << 4 | low
            }
            None => {
                rest = after;
                *byte
            }
        };
        match byte {
            b'-' => out.push(b'+'),
            b'_' => out.push(b'/'),
            b'=' => {}
            byte => out.push(byte.to_ascii_lowercase()),
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// The bytes behind base64 of either alphabet; empty if it is something else.
fn decoded(word: &[u8]) -> Zeroizing<Vec<u8>> {
    let standard = word.iter().map(|byte| match byte {
        b'-' => b'+',
        b'_' => b'/',
        byte => *byte,
    });
    let standard = Zeroizing::new(standard.collect::<Vec<u8>>());
    Zeroizing::new(LENIENT.decode(standard.as_slice()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    /// A signature as x402 sends it.
    fn signature() -> String {
        format!("0x{}1b", "A7".repeat(64))
    }

    fn x402() -> HeaderValue {
        let document = json!({
            "x402Version": 2,
            "payload": {
                "authorization": { "from": format!("0x{}", "1".repeat(40)), "nonce": format!("0x{}", "2".repeat(64)) },
                "signature": signature(),
            },
        });
        HeaderValue::try_from(STANDARD.encode(document.to_string())).unwrap()
    }

    fn mpp(payload: &Value) -> HeaderValue {
        let document = json!({ "challenge": { "id": "x" }, "payload": payload });
        HeaderValue::try_from(format!("Payment {}", URL_SAFE_NO_PAD.encode(document.to_string()))).unwrap()
    }

    fn removed(presented: &HeaderValue, name: &'static str, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        headers.append(name, HeaderValue::from_static("harmless"));
        headers.append(name, HeaderValue::from_str(value).unwrap());
        let count = Presented::of(presented).remove_echoes(&mut headers);
        assert!(headers.contains_key("content-type"));
        let left: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
        assert_eq!(left[0], "harmless");
        assert_eq!(count + left.len(), 2, "{value}");
        count == 1
    }

    #[test]
    fn an_echo_is_found_in_whatever_form() {
        let presented = x402();
        let text = presented.to_str().unwrap();
        let quoted = json!({ "request": { "headers": { "payment-signature": text } } }).to_string();
        let opened = json!({ "payload": { "signature": signature() } }).to_string();
        for echo in [
            text.to_owned(),
            format!("you sent \"{text}\""),
            text.trim_end_matches('=').to_owned(),
            text.replace('+', "-").replace('/', "_"),
            text.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D"),
            STANDARD.encode(quoted.as_bytes()),
            URL_SAFE_NO_PAD.encode(opened.as_bytes()),
            signature(),
            format!("sig={};", signature().trim_start_matches("0x").to_lowercase()),
        ] {
            assert!(removed(&presented, "x-debug", &echo), "{echo}");
        }
        let token = mpp(&json!({ "spt": "spt_1TqWbGDz0xq0aBcD" }));
        assert!(removed(&token, "payment-receipt", "token spt_1TqWbGDz0xq0aBcD used"));
        assert!(removed(&token, "x-authorization", token.to_str().unwrap()));
    }

    /// A credential repeats the seller's own offer and extensions, and the seller may repeat them as well.
    #[test]
    fn what_the_seller_said_itself_is_no_echo() {
        let own = "sellers-own-signature-of-its-offer";
        let document = json!({
            "x402Version": 2,
            "accepted": { "extra": { "signature": "application/json" } },
            "extensions": { "signed-offers": { "info": { "signature": own } } },
            "payload": { "signature": signature() },
        });
        let presented = HeaderValue::try_from(STANDARD.encode(document.to_string())).unwrap();
        assert!(!removed(&presented, "accept", "application/json"));
        assert!(!removed(&presented, "payment-response", own));
        assert!(removed(&presented, "payment-response", &signature()));
    }

    #[test]
    fn what_a_receipt_says_is_no_echo() {
        let receipt = json!({
            "success": true,
            "transaction": format!("0x{}", "3".repeat(64)),
            "payer": format!("0x{}", "1".repeat(40)),
            "nonce": format!("0x{}", "2".repeat(64)),
        });
        let receipt = STANDARD.encode(receipt.to_string());
        assert!(!removed(&x402(), "payment-response", &receipt));
        assert!(!removed(&mpp(&json!({ "spt": "short" })), "x-a", "short"));
        for value in ["", "%", "%2", "%zz", "====", "\u{e9}"] {
            assert!(!removed(&x402(), "x-a", value), "{value}");
        }
    }
}

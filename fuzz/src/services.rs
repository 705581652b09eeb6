//! What services and nodes answer with: Stripe, BKey, JSON-RPC.

use bursar_rails::fuzzing::{self, Ordered, Polled};
use bursar_rails::stripe::{Effect, Endpoint, Issued, Mode, Status};
use http::StatusCode;
use serde_json::Value;

use crate::opinion::text;

/// A token as Stripe describes it. It may be sent only if it is said to be active and nothing says otherwise.
pub fn stripe_token(data: &[u8]) {
    for endpoint in [Endpoint::Issued, Endpoint::TestHelper] {
        let Some(issued) = Issued::parse(data, endpoint) else {
            continue;
        };
        // Members that nobody reads may be anything, so not everything that is read is a value to others.
        let Ok(value @ Value::Object(_)) = serde_json::from_slice::<Value>(data) else {
            continue;
        };
        assert_eq!(issued.mode == Mode::Live, value["livemode"] == true);
        if value["usage_limits"].is_object() {
            assert_eq!(value["usage_limits"]["max_amount"], issued.limits.max_amount);
            assert_eq!(value["usage_limits"]["expires_at"].as_u64(), issued.limits.expires_at);
        }
        if let Some(token) = issued.presentable() {
            assert_eq!(text(&value, "/id"), token.expose());
            assert!(value["deactivated_at"].is_null() && value["deactivated_reason"].is_null());
            assert!(endpoint == Endpoint::TestHelper || value["status"] == "active");
        }
        if let Status::RequiresAction { at: Some(host) } = &issued.status {
            let url = text(&value, "/next_action/redirect_to_url/url");
            if let Ok(url) = url::Url::parse(url)
                && !host.is_disguised_ipv4()
            {
                assert_eq!(url.scheme(), "https");
                let browsed = url.host_str().expect("a host");
                assert_eq!(bursar_core::host::Host::parse(browsed).as_ref(), Ok(host));
            }
        }
    }
}

/// Any other answer of Stripe's: two bytes of status, then the body. Money is given back only if nothing can have
/// happened.
pub fn stripe_error(data: &[u8]) {
    let Some((status, body)) = status_and_body(data) else {
        return;
    };
    let error = fuzzing::stripe_error(status, body);
    match error.effect() {
        Effect::None => assert!(matches!(status.as_u16(), 400 | 401 | 402 | 403 | 404 | 429), "{status}"),
        Effect::Unknown => {}
        Effect::Whole => panic!("an error is no token"),
    }
    let said = error.to_string();
    assert!(said.len() < 256 && !said.chars().any(char::is_control), "{said:?}");
    assert!(!error.reason().as_str().is_empty());
}

/// BKey's answers: two bytes of status, then the body.
pub fn bkey_answer(data: &[u8]) {
    let Some((status, body)) = status_and_body(data) else {
        return;
    };
    let is_object = body.trim_ascii_start().starts_with(b"{");
    if let Ok(wallet) = fuzzing::bkey_wallet(body) {
        assert!(is_object);
        let value: Value = serde_json::from_slice(body).expect("JSON");
        assert!(format!("{:#x}", wallet.address).eq_ignore_ascii_case(&hexed(text(&value, "/address"))));
    }
    match fuzzing::bkey_created_authorization(status, body) {
        Ordered::Made(read) => {
            assert!(is_object && status.is_success());
            if let Ok(read) = read {
                assert!(read.id.is_none_or(|id| plain(&id)));
            }
        }
        Ordered::Pending { id, interval, life } => {
            assert!(status.is_success() && plain(&id));
            assert!((1..=30).contains(&interval.as_secs()) && life.as_secs() <= 600);
        }
        Ordered::Refused => assert!(matches!(status.as_u16(), 400 | 401 | 403 | 404 | 429) && is_object),
        Ordered::Unclear => {}
    }
    match fuzzing::bkey_looked_at_token(status, body) {
        Polled::Made(read) => {
            assert!(is_object && status == StatusCode::OK);
            if let Ok(read) = read {
                assert!(read.token.expose().starts_with("spt_"));
            }
        }
        Polled::Over(code) => assert!(is_object && !code.is_empty()),
        Polled::Wait => {}
    }
}

fn hexed(text: &str) -> String {
    if text.starts_with("0x") {
        text.to_owned()
    } else {
        format!("0x{text}")
    }
}

fn plain(id: &str) -> bool {
    id.len() <= 128
        && id.bytes().any(|byte| byte.is_ascii_alphanumeric())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Answers of nodes: the first byte chooses the question, the rest is the body. Numbers and words are read as a second
/// reader reads them, or not at all.
pub fn rpc_answer(data: &[u8]) {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let status = if first & 0x80 == 0 {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    let value: Option<Value> = serde_json::from_slice(body).ok().filter(Value::is_object);
    let member = |name: &str| {
        let value = value.as_ref()?;
        value["result"]
            .is_object()
            .then(|| text(value, &format!("/result/{name}")).to_owned())
    };
    match first % 5 {
        0 => {
            if let (Ok(number), Some(value)) = (fuzzing::rpc_quantity(status, body), &value) {
                assert_eq!(
                    u64::from_str_radix(text(value, "/result").trim_start_matches("0x"), 16).unwrap_or(0),
                    number
                );
            }
        }
        1 => {
            if let (Ok(Some(block)), Some(number)) = (fuzzing::rpc_block(status, body), member("number")) {
                assert_eq!(
                    u64::from_str_radix(number.trim_start_matches("0x"), 16).unwrap_or(0),
                    block.number
                );
                let hash = member("hash").expect("a member");
                assert!(hash.eq_ignore_ascii_case(&format!("{:#x}", block.hash)));
            }
        }
        2 => {
            if let Ok(Some(mined)) = fuzzing::rpc_mined(status, body, fuzzing::TX) {
                assert!(
                    mined
                        .logs
                        .iter()
                        .all(|log| log.tx == fuzzing::TX && log.block == mined.block)
                );
                assert!(mined.logs.is_sorted_by_key(|log| log.index));
                if let Some(hash) = member("transactionHash") {
                    assert!(hash.eq_ignore_ascii_case(&format!("{:#x}", fuzzing::TX)));
                }
            }
        }
        3 => {
            if let Ok(logs) = fuzzing::rpc_logs(status, body) {
                assert!(logs <= body.len() / 32);
            }
        }
        _ => {
            if let (Ok(Some(sent)), Some(hash)) = (fuzzing::rpc_sent(status, body, fuzzing::TX), member("hash")) {
                assert!(hash.eq_ignore_ascii_case(&format!("{:#x}", fuzzing::TX)));
                assert!(sent.input.len() <= body.len() / 2);
            }
        }
    }
}

fn status_and_body(data: &[u8]) -> Option<(StatusCode, &[u8])> {
    let ([high, low], body) = data.split_first_chunk()?;
    let status = 100 + u16::from_be_bytes([*high, *low]) % 500;
    Some((StatusCode::from_u16(status).ok()?, body))
}

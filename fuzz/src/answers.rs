//! What sellers answer with: encoded bodies, receipts, and problem details.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bursar_core::challenge::mpp::Statement;
use bursar_core::challenge::receipt::receipt;
use bursar_core::challenge::{Rail, Receipt};
use bursar_core::decode::{Coding, DecodeError, decode};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};

use crate::opinion::{self, text};

/// The most that is decoded of a body (R34).
const MOST: usize = 64 << 10;

/// A body in a content coding, which the first byte chooses. No output is longer than the limit, and what a compressor
/// made of the rest decodes to it.
pub fn content_coding(data: &[u8]) {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let names = ["identity", "gzip", "deflate", "br", "zstd", "x-gzip"];
    let name = names[usize::from(*first) % names.len()];
    let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(name))]);
    let Ok(coding) = Coding::of(&headers) else {
        return;
    };
    if let Ok(decoded) = decode(coding, body) {
        assert!(decoded.len() <= MOST);
        assert_eq!(decode(coding, body), Ok(decoded));
    }
    let level = Compression::new(u32::from(first / 16) % 10);
    let encoded = match name {
        "identity" => body.to_vec(),
        "gzip" | "x-gzip" => compressed(GzEncoder::new(Vec::new(), level), body, GzEncoder::finish),
        "deflate" if first & 8 == 0 => compressed(ZlibEncoder::new(Vec::new(), level), body, ZlibEncoder::finish),
        "deflate" => compressed(DeflateEncoder::new(Vec::new(), level), body, DeflateEncoder::finish),
        _ => return,
    };
    let expected = match body.len() > MOST {
        true => Err(DecodeError::TooLong),
        false => Ok(body.to_vec()),
    };
    // A raw stream that happens to be a whole zlib stream as well has two readings; neither is wrong.
    if name != "deflate" || first & 8 == 0 {
        assert_eq!(decode(coding, &encoded), expected);
    }
    if name == "gzip" && expected.is_ok() {
        assert_eq!(decode(coding, &encoded[..encoded.len() - 1]), Err(DecodeError::Damaged));
    }
}

fn compressed<E: Write>(mut encoder: E, body: &[u8], finish: fn(E) -> std::io::Result<Vec<u8>>) -> Vec<u8> {
    encoder.write_all(body).expect("memory");
    finish(encoder).expect("memory")
}

/// A receipt, given as its JSON; the first byte chooses the rail. Only one that is clearly good settles.
pub fn receipts(data: &[u8]) {
    let Some((first, json)) = data.split_first() else {
        return;
    };
    let rail = Rail::ALL[usize::from(*first) % Rail::ALL.len()];
    let is_mpp = matches!(rail, Rail::MppEvm | Rail::MppTempo | Rail::MppStripe);
    let encoded = if first & 0x80 == 0 {
        STANDARD.encode(json)
    } else {
        URL_SAFE_NO_PAD.encode(json)
    };
    let value = HeaderValue::try_from(encoded).expect("base64");
    let names: &[&str] = if is_mpp {
        &["payment-receipt"]
    } else {
        &["payment-response", "x-payment-response"]
    };
    for name in names {
        let mut headers = HeaderMap::new();
        headers.append(*name, value.clone());
        let read = receipt(rail, &headers);
        assert_ne!(read, Receipt::Absent);
        good(rail, &read, json);
        headers.append(*name, value.clone());
        assert_eq!(receipt(rail, &headers), read, "the same statement twice is one");
        headers.append(*name, HeaderValue::from_static("e30="));
        assert!(!matches!(receipt(rail, &headers), Receipt::Settled { .. }));
        // A receipt of the other protocol is none of this payment.
        let other = if is_mpp { "payment-response" } else { "payment-receipt" };
        let elsewhere = HeaderMap::from_iter([(other.parse().expect("a name"), value.clone())]);
        assert_eq!(receipt(rail, &elsewhere), Receipt::Absent);
    }
}

fn good(rail: Rail, read: &Receipt, json: &[u8]) {
    let Receipt::Settled { tx } = read else {
        return;
    };
    let value = opinion::value(json).expect("strict JSON");
    let named = match rail {
        Rail::MppEvm | Rail::MppTempo | Rail::MppStripe => {
            assert_eq!(value["status"], "success");
            text(&value, "/reference")
        }
        _ => {
            assert_eq!(value["success"], true);
            text(&value, "/transaction")
        }
    };
    match tx {
        Some(tx) => {
            assert!(tx.eq_ignore_ascii_case(named));
            if rail != Rail::MppStripe {
                assert!(tx.len() == 66 && tx.starts_with("0x"));
                assert!(tx[2..].bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
            }
        }
        None => assert!(rail == Rail::X402UpTo && value["amount"] == "0" && named.is_empty()),
    }
    if rail == Rail::MppEvm
        && let Ok(second) = mpp::protocol::core::parse_receipt(&URL_SAFE_NO_PAD.encode(json))
    {
        assert!(second.reference.eq_ignore_ascii_case(named));
    }
}

/// Problem details of a seller.
pub fn statement(data: &[u8]) {
    if let Some(statement) = Statement::read(data) {
        let value = opinion::value(data).expect("strict JSON");
        let said = text(&value, "/type").strip_prefix("https://paymentauth.org/problems/");
        assert_eq!(said, statement.code().strip_prefix("seller-says-"));
    }
}

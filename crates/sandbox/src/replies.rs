//! The seller's responses: challenges, rejections, failure receipts (x402 §1, §2.5, §10).

use std::convert::Infallible;

use alloy_primitives::Address;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tracing::info;

use super::catalog::Version;
use super::goods::OrderError;
use super::order::Order;
use super::token::TokenError;
use super::verify::{Advertised, Refusal};

/// The response header that carries a challenge of version 2.
pub(crate) const PAYMENT_REQUIRED: &str = "payment-required";

/// The body of every response.
pub(crate) type Content = BoxBody<Bytes, Infallible>;

/// Why a request with a payment ended without a sale. No money moved.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NoSale {
    /// Rejected at verification.
    Refused(Refusal),
    /// Accepted, but the order cannot be filled.
    Order(OrderError),
    /// Accepted, but not settled by the token: another request used the nonce or the balance first.
    Unsettled { error: TokenError, payer: Address },
    /// The payer's identifier belongs to another payment.
    IdentifierTaken,
}

pub(crate) fn challenge(order: &Order<'_>, advertised: &Advertised, error: &str) -> Response<Content> {
    let Advertised {
        version,
        amount,
        pay_to,
        ..
    } = *advertised;
    let challenge = order.article.challenge(version, amount, pay_to, &order.url, error);
    match version {
        Version::V1 => unpaid(&challenge),
        Version::V2 => {
            let mut response = unpaid(&json!({ "error": error }));
            let challenge = header_value(&challenge);
            response.headers_mut().insert(PAYMENT_REQUIRED, challenge);
            response
        }
    }
}

pub(crate) fn decline(order: &Order<'_>, advertised: &Advertised, no_sale: NoSale) -> Response<Content> {
    let version = advertised.version;
    match no_sale {
        NoSale::Order(error) => complaint(StatusCode::BAD_REQUEST, &error.to_string()),
        NoSale::IdentifierTaken => complaint(
            StatusCode::CONFLICT,
            "this payment identifier was already used for another payment",
        ),
        NoSale::Refused(refusal) => {
            let code = refusal.code(version);
            info!(article = order.article.path, reason = code, "payment refused");
            match refusal.status() {
                StatusCode::PAYMENT_REQUIRED => challenge(order, advertised, code),
                status => complaint(status, code),
            }
        }
        NoSale::Unsettled { error, payer } => {
            let code = Refusal::Token(error).code(version);
            info!(article = order.article.path, reason = code, "payment not settled");
            // v2 servers send no new challenge with a failure receipt (x402 §1, step 5); v1 servers always send one in
            // the body.
            let mut response = match version {
                Version::V1 => challenge(order, advertised, code),
                Version::V2 => unpaid(&json!({})),
            };
            let receipt = header_value(&json!({
                "success": false,
                "errorReason": code,
                "transaction": "",
                "network": version.network(),
                "payer": payer.to_checksum(None),
            }));
            response.headers_mut().insert(version.receipt_header(), receipt);
            response
        }
    }
}

/// The JSON in base64, which is always a valid header value.
pub(crate) fn header_value(value: &Value) -> HeaderValue {
    HeaderValue::from_str(&STANDARD.encode(value.to_string())).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn unpaid(body: &Value) -> Response<Content> {
    let body = body.to_string().into();
    let mut response = content(StatusCode::PAYMENT_REQUIRED, "application/json", body);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn complaint(status: StatusCode, error: &str) -> Response<Content> {
    content(status, "application/json", json!({ "error": error }).to_string().into())
}

pub(crate) fn content(status: StatusCode, mime_type: &'static str, body: Bytes) -> Response<Content> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(mime_type));
    response
}

pub(crate) fn whole(bytes: Bytes) -> Content {
    Full::new(bytes).boxed()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::catalog::{ARTICLES, Price};
    use crate::tests::payer::decode;
    use bursar_core::money::Atoms;

    /// The response to a payer whose payment was verified but whose nonce was used before it could settle.
    fn unsettled(path: &str) -> Response<Content> {
        let article = ARTICLES.iter().find(|article| article.path == path).unwrap();
        let Price::Paid { version, atoms } = article.price else {
            panic!("{path} is free")
        };
        let (head, ()) = Request::new(()).into_parts();
        let url = "https://a.example/".to_owned();
        let order = Order {
            article,
            head: &head,
            url,
            body: Bytes::new(),
        };
        let advertised = Advertised {
            version,
            amount: atoms,
            pay_to: Address::ZERO,
            requirement: article.requirement(version, Atoms::new(1), Address::ZERO),
            resource: article.resource(&order.url),
            extensions: None,
        };
        let payer = Address::repeat_byte(1);
        let no_sale = NoSale::Unsettled {
            error: TokenError::NonceUsed,
            payer,
        };
        decline(&order, &advertised, no_sale)
    }

    #[test]
    fn a_failed_settlement_is_a_402_with_a_failing_receipt() {
        for (path, receipt, network) in [
            ("/v2/quote", "payment-response", "eip155:84532"),
            ("/v1/joke", "x-payment-response", "base-sepolia"),
        ] {
            let answer = unsettled(path);
            assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
            assert_eq!(answer.headers()["cache-control"], "no-store");
            assert!(answer.headers().get("payment-required").is_none());
            assert_eq!(
                decode(answer.headers()[receipt].as_bytes()),
                json!({
                    "success": false,
                    "errorReason": "invalid_exact_evm_nonce_already_used",
                    "transaction": "",
                    "network": network,
                    "payer": "0x0101010101010101010101010101010101010101",
                })
            );
        }
    }
}

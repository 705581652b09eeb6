//! The challenge of a sale: its `request`, and the id that binds all its parameters (MPP §2, §2.1, §6).

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, Uri};
use serde::Serialize;

use super::super::catalog::Article;
use super::super::stripe::SHOP_PROFILE;

pub(super) const METHOD: &str = "stripe";
pub(super) const INTENT: &str = "charge";
pub(super) const CURRENCY: &str = "usd";

/// One article at one price, requested under one host name.
pub(crate) struct Sale {
    pub article: &'static Article,
    /// In the minor unit of [`CURRENCY`].
    pub cents: u64,
    /// The requested host without its port, as mppx names itself.
    pub realm: String,
}

/// The payment request. Members are sorted by name, and no value needs escaping in JSON, so this is the canonical form
/// of RFC 8785.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    amount: String,
    currency: &'static str,
    external_id: String,
    method_details: MethodDetails,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MethodDetails {
    network_id: &'static str,
    payment_method_types: [&'static str; 1],
}

impl Sale {
    pub(crate) fn new(article: &'static Article, cents: u64, url: &str) -> Self {
        let host = url.parse::<Uri>().ok().and_then(|url| url.host().map(str::to_owned));
        Self {
            article,
            cents,
            realm: host.unwrap_or_else(|| "localhost".to_owned()),
        }
    }

    /// The seller's id for the article, which the payer has to repeat.
    pub(crate) fn external_id(&self) -> String {
        format!("sandbox{}", self.article.path)
    }

    /// The value of the parameter `request`.
    pub(crate) fn request(&self) -> String {
        let request = Request {
            amount: self.cents.to_string(),
            currency: CURRENCY,
            external_id: self.external_id(),
            method_details: MethodDetails {
                network_id: SHOP_PROFILE,
                payment_method_types: ["card"],
            },
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&request).unwrap_or_default())
    }
}

pub(super) struct Challenge {
    pub id: String,
    realm: String,
    request: String,
    description: &'static str,
    expires: String,
}

impl Challenge {
    pub(super) fn new(key: &hmac::Key, sale: &Sale, expires: &str) -> Self {
        let request = sale.request();
        let bound = bound([&sale.realm, METHOD, INTENT, &request, expires, ""], None, "");
        Self {
            id: URL_SAFE_NO_PAD.encode(hmac::sign(key, bound.as_bytes())),
            realm: sale.realm.clone(),
            request,
            description: sale.article.description,
            expires: expires.to_owned(),
        }
    }

    /// `Payment id="…", …`, in mppx's order.
    pub(super) fn field(&self) -> HeaderValue {
        let mut text = String::from("Payment ");
        for (at, (name, value)) in [
            ("id", self.id.as_str()),
            ("realm", &self.realm),
            ("method", METHOD),
            ("intent", INTENT),
            ("request", &self.request),
            ("description", self.description),
            ("expires", &self.expires),
        ]
        .into_iter()
        .enumerate()
        {
            let comma = if at == 0 { "" } else { ", " };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            // Writing to a String cannot fail.
            let _ = write!(text, "{comma}{name}=\"{value}\"");
        }
        // Host names and the sandbox's own texts are printable.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// The input of the id: realm, method, intent, request, expires, digest, then `header` if there is one, then opaque.
/// Absent parameters are empty.
pub(super) fn bound(slots: [&str; 6], header: Option<&str>, opaque: &str) -> String {
    let mut all = slots.to_vec();
    all.extend(header);
    all.push(opaque);
    all.join("|")
}

/// JSON in base64url, as MPP's header fields carry it. Always a valid header value.
pub(super) fn base64url(value: &impl Serialize) -> HeaderValue {
    let text = URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap_or_default());
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

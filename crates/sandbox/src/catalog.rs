//! The articles that the sandbox sells, and the x402 challenge for each.
//!
//! An article's terms never change while the sandbox runs, so an echo can be compared with what would be advertised
//! again (x402 §2.3).

use std::fmt::Write as _;

use alloy_primitives::Address;
use http::Method;
use serde_json::{Value, json};

use super::usdc;
use bursar_core::money::{Atoms, MicroUsd};

/// How long an authorization may be valid, in seconds: the value that most sellers use.
const MAX_TIMEOUT_SECONDS: u64 = 60;
/// The only extension that is offered (x402 §8).
pub(crate) const PAYMENT_IDENTIFIER: &str = "payment-identifier";

/// The x402 version over which an article is sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Challenge in the body, `X-PAYMENT`, networks by name.
    V1,
    /// Challenge in `PAYMENT-REQUIRED`, `PAYMENT-SIGNATURE`, networks by CAIP-2.
    V2,
}

impl Version {
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// How this version names Base Sepolia.
    pub(crate) const fn network(self) -> &'static str {
        match self {
            Self::V1 => "base-sepolia",
            Self::V2 => "eip155:84532",
        }
    }

    /// The request header that carries the payment, in lower case.
    pub(crate) const fn payment_header(self) -> &'static str {
        match self {
            Self::V1 => "x-payment",
            Self::V2 => "payment-signature",
        }
    }

    /// The response header that carries the receipt, in lower case.
    pub(crate) const fn receipt_header(self) -> &'static str {
        match self {
            Self::V1 => "x-payment-response",
            Self::V2 => "payment-response",
        }
    }

    /// The error text of a challenge to a request without a payment, as the reference servers write it.
    pub(crate) const fn nothing_paid(self) -> &'static str {
        match self {
            Self::V1 => "X-PAYMENT header is required",
            Self::V2 => "Payment required",
        }
    }
}

/// What an article costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Price {
    Free,
    /// Over x402.
    Paid {
        version: Version,
        atoms: Atoms,
    },
    /// Over MPP by Stripe, which accepts no payment below 50 cents.
    Mpp {
        cents: u64,
    },
    /// Over x402 version 2 or over MPP by Stripe; the payer chooses.
    Either {
        atoms: Atoms,
        cents: u64,
    },
}

/// What is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Good {
    Notice,
    Quote,
    Report,
    Dataset,
    Translation,
    Commentary,
    Weather,
    Joke,
}

/// One line of the price list.
pub(crate) struct Article {
    pub method: Method,
    pub path: &'static str,
    pub price: Price,
    pub good: Good,
    pub description: &'static str,
    pub mime_type: &'static str,
    /// Whether `payment-identifier` is offered, as an optional extension.
    pub takes_identifier: bool,
}

const fn paid(version: Version, atoms: u128) -> Price {
    Price::Paid {
        version,
        atoms: Atoms::new(atoms),
    }
}

/// The price list.
pub(crate) static ARTICLES: [Article; 10] = [
    Article {
        method: Method::GET,
        path: "/free",
        price: Price::Free,
        good: Good::Notice,
        description: "Opening hours of the desk",
        mime_type: "application/json",
        takes_identifier: false,
    },
    Article {
        method: Method::GET,
        path: "/v2/quote",
        price: paid(Version::V2, 10_000),
        good: Good::Quote,
        description: "One bid and ask of a made-up security",
        mime_type: "application/json",
        takes_identifier: false,
    },
    Article {
        method: Method::GET,
        path: "/v2/report",
        price: paid(Version::V2, 250_000),
        good: Good::Report,
        description: "A quarter of a made-up company, by region",
        mime_type: "application/json",
        takes_identifier: true,
    },
    Article {
        method: Method::GET,
        path: "/v2/dataset",
        price: paid(Version::V2, 25_000_000),
        good: Good::Dataset,
        description: "Hourly readings of ten made-up stations",
        mime_type: "text/csv",
        takes_identifier: false,
    },
    Article {
        method: Method::POST,
        path: "/v2/translate",
        price: paid(Version::V2, 20_000),
        good: Good::Translation,
        description: "English to German, word by word: {\"text\": \"...\"}",
        mime_type: "application/json",
        takes_identifier: false,
    },
    Article {
        method: Method::GET,
        path: "/v2/stream",
        price: paid(Version::V2, 50_000),
        good: Good::Commentary,
        description: "A market commentary, as server-sent events",
        mime_type: "text/event-stream",
        takes_identifier: false,
    },
    Article {
        method: Method::GET,
        path: "/v1/weather",
        price: paid(Version::V1, 5_000),
        good: Good::Weather,
        description: "The weather of a made-up town",
        mime_type: "application/json",
        takes_identifier: false,
    },
    Article {
        method: Method::GET,
        path: "/v1/joke",
        price: paid(Version::V1, 1_000),
        good: Good::Joke,
        description: "A joke about accounting",
        mime_type: "text/plain; charset=utf-8",
        takes_identifier: false,
    },
    Article {
        method: Method::GET,
        path: "/mpp/report",
        price: Price::Mpp { cents: 50 },
        good: Good::Report,
        description: "A quarter of a made-up company, by region",
        mime_type: "application/json",
        takes_identifier: false,
    },
    Article {
        method: Method::GET,
        path: "/both/report",
        price: Price::Either {
            atoms: Atoms::new(250_000),
            cents: 50,
        },
        good: Good::Report,
        description: "A quarter of a made-up company, by region",
        mime_type: "application/json",
        takes_identifier: false,
    },
];

impl Article {
    /// The advertised payment requirement, which a v2 payer has to echo.
    pub(crate) fn requirement(&self, version: Version, atoms: Atoms, pay_to: Address) -> Value {
        let mut requirement = json!({
            "scheme": "exact",
            "network": version.network(),
            "asset": usdc::CONTRACT.to_checksum(None),
            "payTo": pay_to.to_checksum(None),
            "maxTimeoutSeconds": MAX_TIMEOUT_SECONDS,
            "extra": { "name": usdc::NAME, "version": usdc::VERSION },
        });
        let amount = match version {
            Version::V1 => "maxAmountRequired",
            Version::V2 => "amount",
        };
        requirement[amount] = atoms.get().to_string().into();
        requirement
    }

    /// The v2 `resource` object for this article at `url`.
    pub(crate) fn resource(&self, url: &str) -> Value {
        json!({ "url": url, "description": self.description, "mimeType": self.mime_type })
    }

    /// The v2 `extensions` object, if an extension is offered.
    pub(crate) fn extensions(&self) -> Option<Value> {
        self.takes_identifier.then(|| {
            json!({ PAYMENT_IDENTIFIER: {
                "info": { "required": false },
                "schema": {
                    "$schema": "https://json-schema.org/draft/2020-12/schema",
                    "type": "object",
                    "properties": {
                        "required": { "type": "boolean" },
                        "id": {
                            "type": "string", "minLength": 16, "maxLength": 128,
                            "pattern": "^[a-zA-Z0-9_-]+$",
                        },
                    },
                    "required": ["required"],
                },
            }})
        })
    }

    /// The complete challenge: v1 sends it in the body, v2 in a header.
    pub(crate) fn challenge(&self, version: Version, atoms: Atoms, pay_to: Address, url: &str, error: &str) -> Value {
        let mut requirement = self.requirement(version, atoms, pay_to);
        match version {
            Version::V1 => {
                requirement["resource"] = url.into();
                requirement["description"] = self.description.into();
                requirement["mimeType"] = self.mime_type.into();
                json!({ "x402Version": 1, "error": error, "accepts": [requirement] })
            }
            Version::V2 => {
                let mut challenge = json!({
                    "x402Version": 2,
                    "error": error,
                    "resource": self.resource(url),
                    "accepts": [requirement],
                });
                if let Some(extensions) = self.extensions() {
                    challenge["extensions"] = extensions;
                }
                challenge
            }
        }
    }
}

/// The price list as plain text, for `GET /`.
pub(crate) fn index() -> String {
    let mut text = String::from(
        "bursar sandbox: a seller for trying out payments.\n\
         x402 prices are in sandbox USDC, a token in this process's memory. MPP prices are in US dollars, charged at\n\
         a sandbox Stripe in the same process. No real money is involved.\n\n",
    );
    for article in &ARTICLES {
        let x402 = |version: Version, atoms| {
            let protocol = format!("x402 v{}", version.number());
            (dollars(atoms, usdc::DECIMALS), protocol)
        };
        let mpp = |cents: u64| (dollars(Atoms::new(cents.into()), 2), "MPP".to_owned());
        let ways = match article.price {
            Price::Free => vec![("free".to_owned(), "-".to_owned())],
            Price::Paid { version, atoms } => vec![x402(version, atoms)],
            Price::Mpp { cents } => vec![mpp(cents)],
            Price::Either { atoms, cents } => vec![x402(Version::V2, atoms), mpp(cents)],
        };
        for (price, protocol) in ways {
            let method = article.method.as_str();
            line(&mut text, method, article.path, &price, &protocol, article.description);
        }
    }
    let chain = "JSON-RPC of the token's chain: eth_chainId, eth_call, blocks";
    line(&mut text, "POST", "/rpc", "free", "-", chain);
    let stripe = "The sandbox Stripe: shared payment tokens, payment intents";
    line(&mut text, "*", "/v1/...", "free", "-", stripe);
    text
}

fn dollars(atoms: Atoms, decimals: u8) -> String {
    MicroUsd::of(atoms, decimals).map_or_else(|error| error.to_string(), |usd| usd.to_string())
}

fn line(text: &mut String, method: &str, path: &str, price: &str, protocol: &str, what: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{method:4} {path:13} {price:>6}  {protocol:7}  {what}");
}

#[cfg(test)]
mod tests {
    use alloy_primitives::address;

    use super::*;

    const PAYEE: Address = address!("0x209693Bc6afc0C5328bA36FaF03C514EF312287C");

    fn article(path: &str) -> &'static Article {
        ARTICLES.iter().find(|article| article.path == path).unwrap()
    }

    #[test]
    fn v2_terms_have_the_shape_that_reference_servers_send() {
        let article = article("/v2/quote");
        let Price::Paid { version, atoms } = article.price else {
            panic!("free")
        };
        let challenge = article.challenge(version, atoms, PAYEE, "https://a.example/v2/quote", "e");
        assert_eq!(
            challenge,
            json!({
                "x402Version": 2,
                "error": "e",
                "resource": {
                    "url": "https://a.example/v2/quote",
                    "description": "One bid and ask of a made-up security",
                    "mimeType": "application/json",
                },
                "accepts": [{
                    "scheme": "exact",
                    "network": "eip155:84532",
                    "amount": "10000",
                    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
                    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
                    "maxTimeoutSeconds": 60,
                    "extra": { "name": "USDC", "version": "2" },
                }],
            })
        );
    }

    #[test]
    fn v1_terms_name_the_resource_in_the_requirement() {
        let article = article("/v1/weather");
        let Price::Paid { version, atoms } = article.price else {
            panic!("free")
        };
        let challenge = article.challenge(version, atoms, PAYEE, "https://a.example/v1/weather", "e");
        let requirement = &challenge["accepts"][0];
        assert_eq!(challenge["x402Version"], 1);
        assert_eq!(requirement["network"], "base-sepolia");
        assert_eq!(requirement["maxAmountRequired"], "5000");
        assert_eq!(requirement["resource"], "https://a.example/v1/weather");
        assert_eq!(requirement.get("amount"), None);
        assert_eq!(challenge.get("resource"), None);
    }

    #[test]
    fn the_index_lists_every_article_with_its_price() {
        let index = index();
        for article in &ARTICLES {
            assert!(index.contains(article.path), "{}", article.path);
        }
        assert!(index.contains("POST /v2/translate   0.02  x402 v2  English"), "{index}");
        assert!(
            index.contains("GET  /both/report    0.25  x402 v2  A quarter"),
            "{index}"
        );
        assert!(
            index.contains("GET  /both/report    0.50  MPP      A quarter"),
            "{index}"
        );
        for price in [
            "0.01 ", "0.25 ", "25.00 ", "0.02 ", "0.05 ", "0.005 ", "0.001 ", "free ",
        ] {
            assert!(index.contains(price), "{price}");
        }
    }
}

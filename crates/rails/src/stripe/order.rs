//! The calls, as the forms that Stripe reads.

use http::Method;

use super::names::{Currency, PaymentMethod, Profile, TokenId};
use super::service::Endpoint;
use bursar_ledger::PaymentId;
use bursar_net::oauth::form::urlencoded;

/// An order for one token: for one seller, one currency and one amount, valid until one moment. Everything in it was
/// checked and reserved before.
pub struct Order<'a> {
    /// The payment id (R8). The same order under the same key returns the same token. Repeat it only within 20 h of the
    /// first try (R14).
    pub idempotency_key: PaymentId,
    pub payment_method: &'a PaymentMethod,
    pub currency: Currency,
    /// In minor units: exactly the amount that was checked (MPP §6.2).
    pub max_amount: u64,
    /// Unix seconds (R16).
    pub expires_at: u64,
    pub seller: &'a Profile,
}

/// Method, path and form of one call.
pub(super) struct Call {
    pub method: Method,
    pub path: String,
    pub form: Option<String>,
}

impl Order<'_> {
    /// Writes the members in the order of the test vectors.
    pub(super) fn call(&self, endpoint: Endpoint) -> Call {
        let (path, seller) = match endpoint {
            Endpoint::Issued => (
                "/v1/shared_payment/issued_tokens",
                "seller_details[network_business_profile]",
            ),
            Endpoint::TestHelper => (
                "/v1/test_helpers/shared_payment/granted_tokens",
                // In Stripe's guide, but not in its types.
                "seller_details[network_id]",
            ),
        };
        let form = urlencoded(&[
            ("payment_method", self.payment_method.as_str()),
            ("usage_limits[currency]", self.currency.as_str()),
            ("usage_limits[max_amount]", &self.max_amount.to_string()),
            ("usage_limits[expires_at]", &self.expires_at.to_string()),
            (seller, self.seller.as_str()),
        ]);
        Call {
            method: Method::POST,
            path: path.to_owned(),
            form: Some(form.to_string()),
        }
    }
}

impl Call {
    /// Asks only for the token, without `expand`.
    pub(super) fn token(endpoint: Endpoint, id: &TokenId) -> Self {
        let collection = match endpoint {
            Endpoint::Issued => "issued_tokens",
            Endpoint::TestHelper => "granted_tokens",
        };
        Self {
            method: Method::GET,
            path: format!("/v1/shared_payment/{collection}/{}", id.expose()),
            form: None,
        }
    }

    pub(super) fn revoke(endpoint: Endpoint, id: &TokenId) -> Self {
        let collection = match endpoint {
            Endpoint::Issued => "shared_payment/issued_tokens",
            Endpoint::TestHelper => "test_helpers/shared_payment/granted_tokens",
        };
        Self {
            method: Method::POST,
            path: format!("/v1/{collection}/{}/revoke", id.expose()),
            form: Some(String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;

    #[test]
    fn bodies_are_the_vectors_byte_for_byte() {
        let vectors: Value = serde_json::from_str(include_str!("../../../../fixtures/mpp/stripe_charge.json")).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 4);
        for vector in vectors {
            let wanted = &vector["tokenArgs"];
            let text = |name: &str| wanted[name].as_str().unwrap();
            let payment_method = PaymentMethod::parse(text("paymentMethod")).unwrap();
            let seller = Profile::parse(text("networkId")).unwrap();
            let order = Order {
                idempotency_key: PaymentId::new(Timestamp::UNIX_EPOCH, [0; 10]),
                payment_method: &payment_method,
                currency: Currency::parse(text("currency")).unwrap(),
                max_amount: text("amount").parse().unwrap(),
                expires_at: wanted["expiresAt"].as_u64().unwrap(),
                seller: &seller,
            };
            for (endpoint, name) in [(Endpoint::Issued, "issued"), (Endpoint::TestHelper, "testHelper")] {
                let call = order.call(endpoint);
                let request = &vector["stripeRequest"][name];
                assert_eq!(call.method.as_str(), request["method"]);
                assert_eq!(call.path, request["path"].as_str().unwrap());
                assert_eq!(call.form.as_deref(), request["body"].as_str());
            }
        }
    }

    #[test]
    fn a_token_is_asked_for_without_a_query() {
        let id = TokenId::parse("spt_a").ok().unwrap();
        for (call, method, path) in [
            (
                Call::token(Endpoint::Issued, &id),
                Method::GET,
                "/v1/shared_payment/issued_tokens/spt_a",
            ),
            (
                Call::token(Endpoint::TestHelper, &id),
                Method::GET,
                "/v1/shared_payment/granted_tokens/spt_a",
            ),
            (
                Call::revoke(Endpoint::Issued, &id),
                Method::POST,
                "/v1/shared_payment/issued_tokens/spt_a/revoke",
            ),
            (
                Call::revoke(Endpoint::TestHelper, &id),
                Method::POST,
                "/v1/test_helpers/shared_payment/granted_tokens/spt_a/revoke",
            ),
        ] {
            assert_eq!((call.method, call.path.as_str()), (method, path));
            assert!(call.form.is_none_or(|form| form.is_empty()));
        }
    }
}

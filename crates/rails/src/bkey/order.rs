//! Orders to BKey (approvals §4.1). Amounts come from the ledger record; the texts are bursar's own and contain no text
//! of the merchant's (threat 1.15).

use alloy_primitives::Address;
use serde::Serialize;

use crate::stripe::PaymentMethod;

/// What a person reads beside the amount, taken from the request that costs money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// One sentence that bursar wrote.
    pub description: String,
    /// The host that the agent sent the request to.
    pub host: String,
    /// What was requested, without its query.
    pub resource: String,
}

/// An order for an EIP-3009 authorization.
pub struct AuthorizationOrder<'a> {
    pub cents: u64,
    pub recipient: Address,
    pub chain_id: u64,
    pub purpose: &'a Purpose,
}

/// An order for a Shared Payment Token.
pub struct TokenOrder<'a> {
    pub cents: u64,
    pub payment_method: &'a PaymentMethod,
    pub purpose: &'a Purpose,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireAuthorization<'a> {
    amount_cents: u64,
    recipient_address: String,
    chain_id: u64,
    limit_currency: &'static str,
    description: &'a str,
    resource: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireToken<'a> {
    amount_cents: u64,
    currency: &'static str,
    payment_method_id: &'a str,
    merchant_name: &'a str,
    description: &'a str,
    resource: &'a str,
}

impl AuthorizationOrder<'_> {
    pub(super) fn json(&self) -> Option<Vec<u8>> {
        let wire = WireAuthorization {
            amount_cents: self.cents,
            recipient_address: self.recipient.to_checksum(None),
            chain_id: self.chain_id,
            limit_currency: "USD",
            description: &self.purpose.description,
            resource: &self.purpose.resource,
        };
        serde_json::to_vec(&wire).ok()
    }
}

impl TokenOrder<'_> {
    pub(super) fn json(&self) -> Option<Vec<u8>> {
        let wire = WireToken {
            amount_cents: self.cents,
            currency: "USD",
            payment_method_id: self.payment_method.as_str(),
            merchant_name: &self.purpose.host,
            description: &self.purpose.description,
            resource: &self.purpose.resource,
        };
        serde_json::to_vec(&wire).ok()
    }
}

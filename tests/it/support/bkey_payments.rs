//! BKey as payer (approvals §4.6): a key on a phone, limits there, and a person who confirms or does not; and every way
//! of answering something other than what was ordered. No SDK can confirm that this resembles BKey: `bkey-sdk` 0.2.0
//! has none of these calls; they are known only from the source of BKey's command line.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256, hex, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};

use super::{Answer, Dialect, error, ok};

/// The second development key published by anvil and hardhat.
const KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
/// USDC on Base Sepolia, as in our table.
const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

sol! {
    #[derive(Debug)]
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Authorization,
    Token,
}

/// What happens to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OrderState {
    /// It is within BKey's limits.
    Made,
    /// A person has to confirm it.
    Waits,
    /// It ends with this status.
    Over(&'static str),
}

struct Order {
    kind: Kind,
    body: Value,
    order_state: OrderState,
}

pub(crate) struct Payments {
    key: SigningKey,
    pub chain: u64,
    pub contract: Address,
    /// What happens to the next orders.
    pub order_state: OrderState,
    /// How long its credentials are valid.
    pub valid_s: u64,
    /// Seconds until an order expires.
    pub life: u64,
    /// The same for every credential.
    pub nonce: Option<B256>,
    /// Changes what is signed.
    pub mistake: Option<fn(&mut TransferWithAuthorization)>,
    /// Signs with another key.
    pub other_key: bool,
    /// Changes the answer after signing.
    pub lie: Option<fn(&mut Value)>,
    /// `signedPayload` in place of `authorization`, as the polling endpoint is documented.
    pub packed: bool,
    orders: BTreeMap<String, Order>,
    signatures: usize,
}

impl Default for Payments {
    fn default() -> Self {
        Self {
            key: SigningKey::from_slice(&hex::decode(KEY).unwrap()).unwrap(),
            chain: 84_532,
            contract: USDC.parse().unwrap(),
            order_state: OrderState::Made,
            valid_s: 50,
            life: 300,
            nonce: None,
            mistake: None,
            other_key: false,
            lie: None,
            packed: false,
            orders: BTreeMap::new(),
            signatures: 0,
        }
    }
}

impl Payments {
    /// A key of this test's own, so that nobody else moves its money.
    pub(crate) fn key_of(&mut self, story: &str) {
        self.key = SigningKey::from_slice(keccak256(story).as_slice()).unwrap();
    }

    pub(crate) fn address(&self) -> Address {
        address(&self.key)
    }

    /// The orders, oldest first.
    pub(crate) fn ordered(&self) -> Vec<Value> {
        self.orders.values().map(|order| order.body.clone()).collect()
    }

    /// The number of signatures made.
    pub(crate) fn signatures(&self) -> usize {
        self.signatures
    }

    /// The person decides all waiting orders.
    pub(crate) fn decide(&mut self, order_state: &OrderState) {
        for order in self
            .orders
            .values_mut()
            .filter(|order| order.order_state == OrderState::Waits)
        {
            order.order_state = order_state.clone();
        }
    }

    pub(super) fn wallet(&self) -> Answer {
        ok(&json!({
            "address": self.address().to_checksum(None), "chainId": self.chain, "network": "base-sepolia", "asset": "USDC",
            "usdcContract": self.contract.to_checksum(None),
        }))
    }

    pub(super) fn order_authorization(&mut self, body: &str) -> Answer {
        let Ok(order) = serde_json::from_str::<Value>(body) else {
            return refusal(400, "invalid_request");
        };
        let to = order["recipientAddress"]
            .as_str()
            .and_then(|to| to.parse::<Address>().ok());
        let good = order["amountCents"].as_u64().is_some_and(|cents| cents > 0)
            && to.is_some()
            && order["chainId"] == self.chain
            && order["limitCurrency"] == "USD";
        match good {
            true => self.ordered_as(Kind::Authorization, order),
            false => refusal(400, "invalid_request"),
        }
    }

    pub(super) fn order_token(&mut self, body: &str) -> Answer {
        let Ok(order) = serde_json::from_str::<Value>(body) else {
            return refusal(400, "invalid_request");
        };
        let method = order["paymentMethodId"].as_str().unwrap_or_default();
        let good = order["amountCents"].as_u64().is_some_and(|cents| cents > 0) && order["currency"] == "USD";
        match good && method.starts_with("pm_") {
            true => self.ordered_as(Kind::Token, order),
            false => refusal(400, "invalid_request"),
        }
    }

    fn ordered_as(&mut self, kind: Kind, body: Value) -> Answer {
        let id = format!("auth_{:04}", self.orders.len() + 1);
        let order_state = self.order_state.clone();
        let order = Order {
            kind,
            body,
            order_state: order_state.clone(),
        };
        self.orders.insert(id.clone(), order);
        if order_state != OrderState::Made {
            return ok(&json!({
                "status": "pending_approval", "authorizationId": id, "authReqId": "req", "expiresIn": self.life, "interval": 1,
                "message": "Confirm on your phone",
            }));
        }
        let mut answer = self.made(&id);
        answer["status"] = json!("authorized");
        ok(&answer)
    }

    pub(super) fn look(&mut self, id: &str, dialect: Dialect, kind: Kind) -> Answer {
        let Some(order) = self.orders.get(id).filter(|order| order.kind == kind) else {
            return refusal(404, "not_found");
        };
        match order.order_state.clone() {
            OrderState::Waits if dialect == Dialect::Oauth => error(400, "authorization_pending"),
            OrderState::Waits => ok(&json!({ "id": id, "status": "pending", "requiresBiometricApproval": true })),
            OrderState::Over("expired") if dialect == Dialect::Oauth => error(400, "expired_token"),
            OrderState::Over(status) => ok(&json!({ "id": id, "status": status })),
            OrderState::Made => {
                let mut answer = self.made(id);
                answer["id"] = json!(id);
                answer["status"] = json!(if kind == Kind::Token { "authorized" } else { "signed" });
                ok(&answer)
            }
        }
    }

    fn made(&mut self, id: &str) -> Value {
        let order = &self.orders[id];
        let (kind, body) = (order.kind, order.body.clone());
        match kind {
            Kind::Authorization => self.signed(id, &body),
            Kind::Token => self.token(id),
        }
    }

    fn token(&mut self, id: &str) -> Value {
        let expires_at = Timestamp::from_second(now() + self.valid_s.cast_signed()).unwrap();
        let token = format!("spt_{id}");
        let mut answer = json!({ "authorizationId": id, "sptId": token, "expiresAt": expires_at.to_string() });
        if let Some(lie) = self.lie {
            lie(&mut answer);
        }
        if self.packed {
            let credential = STANDARD.encode(json!({ "sptId": answer["sptId"] }).to_string());
            answer = json!({ "authorizationId": id, "sptCredential": credential });
        }
        answer
    }

    fn signed(&mut self, id: &str, order: &Value) -> Value {
        self.signatures += 1;
        let cents = order["amountCents"].as_u64().unwrap();
        let nonce = self
            .nonce
            .unwrap_or_else(|| keccak256(format!("{} {id} {}", self.address(), self.signatures)));
        let mut signed = TransferWithAuthorization {
            from: self.address(),
            to: order["recipientAddress"].as_str().unwrap().parse().unwrap(),
            value: U256::from(cents * 10_000),
            validAfter: U256::from(now() - 60),
            validBefore: U256::from(now().cast_unsigned() + self.valid_s),
            nonce,
        };
        if let Some(mistake) = self.mistake {
            mistake(&mut signed);
        }
        let domain = Eip712Domain::new(
            Some("USDC".into()),
            Some("2".into()),
            Some(U256::from(self.chain)),
            Some(self.contract),
            None,
        );
        let stranger = SigningKey::from_slice(&[7; 32]).unwrap();
        let key = if self.other_key { &stranger } else { &self.key };
        let digest = signed.eip712_signing_hash(&domain);
        let (rs, recovery) = key.sign_prehash_recoverable(digest.as_slice());
        let mut signature = rs.to_bytes().to_vec();
        signature.push(27 + u8::from(recovery.is_y_odd()));
        let mut authorization = json!({
            "signature": hex::encode_prefixed(signature), "from": signed.from.to_checksum(None),
            "to": signed.to.to_checksum(None), "value": signed.value.to_string(),
            "validAfter": signed.validAfter.to_string(), "validBefore": signed.validBefore.to_string(),
            "nonce": signed.nonce.to_string(), "contractAddress": self.contract.to_checksum(None), "chainId": self.chain,
            "authorizationId": id, "authorizationType": "TransferWithAuthorization",
        });
        if let Some(lie) = self.lie {
            lie(&mut authorization);
        }
        match self.packed {
            true => {
                json!({ "signedPayload": STANDARD.encode(authorization.to_string()), "fromAddress": self.address() })
            }
            false => json!({ "authorization": authorization }),
        }
    }
}

/// The shape of `/v1`.
pub(crate) fn refusal(status: u16, code: &str) -> Answer {
    let error = json!({ "success": false, "error": { "code": code, "message": "no" } });
    (status, Vec::new(), error.to_string())
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

fn address(key: &SigningKey) -> Address {
    Address::from_raw_public_key(&key.verifying_key().to_sec1_point(false).as_bytes()[1..])
}

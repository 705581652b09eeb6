//! A payer for tests: signs with k256 only, over a hash computed by hand, and builds both payment headers.
//!
//! It shares no code with the sandbox that checks its payments, nor with the proxy.

use alloy_primitives::{Address, B256, hex, keccak256};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};

use crate::authorization::{Authorization, SignatureBytes};
use bursar_core::money::Atoms;

/// A payer with a key.
pub(crate) struct Payer(SigningKey);

impl Payer {
    /// The same name always has the same key.
    pub(crate) fn named(name: &str) -> Self {
        Self(SigningKey::from_slice(&keccak256(name)[..]).unwrap())
    }

    pub(crate) fn address(&self) -> Address {
        let point = self.0.verifying_key().to_sec1_point(false);
        Address::from_slice(&keccak256(&point.as_bytes()[1..])[12..])
    }

    /// An authorization for a v1 or v2 requirement, valid for a minute from `now`.
    pub(crate) fn authorize(&self, requirement: &Value, now: u64, nonce: &str) -> Authorization {
        let amount = requirement
            .get("amount")
            .or_else(|| requirement.get("maxAmountRequired"))
            .unwrap();
        Authorization {
            from: self.address(),
            to: requirement["payTo"].as_str().unwrap().parse().unwrap(),
            value: Atoms::parse(amount.as_str().unwrap()).unwrap(),
            valid_after: 0,
            valid_before: now + 60,
            nonce: keccak256(nonce),
        }
    }

    pub(crate) fn sign(&self, authorization: &Authorization) -> SignatureBytes {
        let (rs, recovery) = self.0.sign_prehash_recoverable(&digest(authorization)[..]);
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&rs.to_bytes());
        bytes[64] = 27 + u8::from(recovery.is_y_odd());
        bytes
    }

    /// The scheme's part of a payload.
    pub(crate) fn exact(&self, authorization: &Authorization) -> Value {
        json!({
            "authorization": {
                "from": authorization.from.to_checksum(None),
                "to": authorization.to.to_checksum(None),
                "value": authorization.value.get().to_string(),
                "validAfter": authorization.valid_after.to_string(),
                "validBefore": authorization.valid_before.to_string(),
                "nonce": authorization.nonce,
            },
            "signature": hex::encode_prefixed(self.sign(authorization)),
        })
    }

    /// A v2 payload that echoes `challenge` and pays its first requirement.
    pub(crate) fn v2(&self, challenge: &Value, authorization: &Authorization) -> Value {
        let mut payload = json!({
            "x402Version": 2,
            "payload": self.exact(authorization),
            "resource": challenge["resource"],
            "accepted": challenge["accepts"][0],
        });
        if let Some(extensions) = challenge.get("extensions") {
            payload["extensions"] = extensions.clone();
        }
        payload
    }

    /// A v1 payload that pays the first requirement of `challenge`.
    pub(crate) fn v1(&self, challenge: &Value, authorization: &Authorization) -> Value {
        json!({
            "x402Version": 1,
            "scheme": challenge["accepts"][0]["scheme"],
            "network": challenge["accepts"][0]["network"],
            "payload": self.exact(authorization),
        })
    }
}

/// JSON in base64, as a header carries it.
pub(crate) fn encode(payload: &Value) -> String {
    STANDARD.encode(payload.to_string())
}

pub(crate) fn decode(header: &[u8]) -> Value {
    serde_json::from_slice(&STANDARD.decode(header).unwrap()).unwrap()
}

/// EIP-712 by hand: every member is one word of 32 bytes.
fn digest(authorization: &Authorization) -> B256 {
    let address = |address: Address| address.into_word();
    let number = |number: u128| B256::left_padding_from(&number.to_be_bytes());
    let domain = hash_words(&[
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
        keccak256("USDC"),
        keccak256("2"),
        number(84532),
        address("0x036CbD53842c5426634e7929541eC2318f3dCF7e".parse().unwrap()),
    ]);
    let message = hash_words(&[
        keccak256(
            "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,\
             uint256 validBefore,bytes32 nonce)",
        ),
        address(authorization.from),
        address(authorization.to),
        number(authorization.value.get()),
        number(authorization.valid_after.into()),
        number(authorization.valid_before.into()),
        authorization.nonce,
    ]);
    keccak256([&[0x19, 0x01], &domain[..], &message[..]].concat())
}

fn hash_words(words: &[B256]) -> B256 {
    keccak256(words.iter().flat_map(|word| word.0).collect::<Vec<u8>>())
}

//! Payments through Permit2 on the wire: scheme `exact` with `assetTransferMethod: "permit2"`, and scheme `upto`
//! (x402 §4.2, §5). The signing is in the crate `bursar-rails`, which uses the same types.

use alloy_primitives::{Address, B256, U256, address, hex};
use zeroize::Zeroizing;

use super::json::Object;
use crate::money::Atoms;

/// Uniswap's Permit2, at one address on every chain (x402 §3).
pub const PERMIT2: Address = address!("0x000000000022d473030f116ddee9f6b43ac78ba3");
/// The contract that settles `exact`, and the only one that may present such a signature (x402 §3).
pub const EXACT_PROXY: Address = address!("0x402085c248eea27d92e8b30b2c58ed07f9e20001");
/// The contract that settles `upto` (x402 §3).
pub const UPTO_PROXY: Address = address!("0x4020a4f3b7b90cca423b9fabcc0ce57c6c240002");

/// The supported version of `eip2612GasSponsoring`.
const SPONSORING_VERSION: &str = "1";

/// What is signed: one `PermitWitnessTransferFrom`. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit2Transfer {
    pub chain_id: u64,
    pub token: Address,
    /// What is taken, or with [`Spender::Upto`] the most that can be taken.
    pub amount: Atoms,
    pub spender: Spender,
    pub from: Address,
    /// A number on the wire. Permit2 keeps one bit per nonce, so that it is good for a single transfer.
    pub nonce: B256,
    pub deadline: u64,
    pub to: Address,
    pub valid_after: u64,
}

/// Who may present the signature to Permit2. The two contracts differ in who decides the amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spender {
    /// Takes the whole amount, no matter who sends the transaction.
    Exact,
    /// Takes any amount up to the signed one, if this account asks for it.
    Upto { facilitator: Address },
}

/// What is signed to save the payer an `approve`: one EIP-2612 `Permit`. It can only be made from a payment, so it
/// always allows exactly that amount, and only to Permit2 (threat 1.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPermit<'t> {
    transfer: &'t Permit2Transfer,
    nonce: U256,
}

impl Permit2Transfer {
    /// The token's permit for this payment. `nonce` is the current value of the token's `nonces(owner)`.
    pub fn token_permit(&self, nonce: U256) -> TokenPermit<'_> {
        TokenPermit { transfer: self, nonce }
    }
}

impl Spender {
    pub const fn address(self) -> Address {
        match self {
            Self::Exact => EXACT_PROXY,
            Self::Upto { .. } => UPTO_PROXY,
        }
    }
}

impl TokenPermit<'_> {
    pub fn chain_id(&self) -> u64 {
        self.transfer.chain_id
    }

    pub fn token(&self) -> Address {
        self.transfer.token
    }

    pub fn owner(&self) -> Address {
        self.transfer.from
    }

    pub fn value(&self) -> Atoms {
        self.transfer.amount
    }

    pub fn nonce(&self) -> U256 {
        self.nonce
    }

    pub fn deadline(&self) -> u64 {
        self.transfer.deadline
    }
}

/// The JSON object `payload` of a credential. `signature` is the one of `transfer`: r, s, v.
pub fn payload(transfer: &Permit2Transfer, signature: &[u8; 65]) -> Zeroizing<String> {
    let signature = Zeroizing::new(hex::encode_prefixed(signature));
    Zeroizing::new(format!(
        r#"{{"signature":"{}","permit2Authorization":{}}}"#,
        signature.as_str(),
        authorization(transfer)
    ))
}

/// The JSON object `permit2Authorization`, members in the reference client's order.
pub fn authorization(transfer: &Permit2Transfer) -> String {
    let Permit2Transfer {
        chain_id: _,
        token,
        amount,
        spender,
        from,
        nonce,
        deadline,
        to,
        valid_after,
    } = transfer;
    let facilitator = match spender {
        Spender::Exact => String::new(),
        Spender::Upto { facilitator } => format!(r#""facilitator":"{}","#, facilitator.to_checksum(None)),
    };
    format!(
        concat!(
            r#"{{"from":"{}","permitted":{{"token":"{}","amount":"{}"}},"spender":"{}","nonce":"{}","deadline":"{}","#,
            r#""witness":{{"to":"{}",{}"validAfter":"{}"}}}}"#
        ),
        from.to_checksum(None),
        token.to_checksum(None),
        amount.get(),
        spender.address().to_checksum(None),
        U256::from_be_bytes(nonce.0),
        deadline,
        to.to_checksum(None),
        facilitator,
        valid_after
    )
}

/// Whether the token's permit can be added to `offered`, the text of `extensions.eip2612GasSponsoring.info`. On
/// conflict the server's value stays (x402 §2.3). So with a server that filled in a member itself, our signature would
/// come with other numbers. The meaning of other versions is not known.
pub(super) fn takes_permission(offered: &str) -> bool {
    open_info(offered).is_some()
}

fn open_info(offered: &str) -> Option<Object<'_>> {
    let members = Object::read(offered)?;
    let ours = ["from", "asset", "spender", "amount", "nonce", "deadline", "signature"];
    let known = !members.has("version") || members.text("version").as_deref() == Some(SPONSORING_VERSION);
    (known && !ours.iter().any(|name| members.has(name))).then_some(members)
}

/// The JSON object `extensions.eip2612GasSponsoring.info`: `offered`, its text in the challenge, followed by what we
/// sign. `signature` is the one of `permit`: r, s, v.
///
/// `None` if it cannot be added (see `takes_permission`).
pub fn sponsored_info(offered: &str, permit: &TokenPermit<'_>, signature: &[u8; 65]) -> Option<Zeroizing<String>> {
    let members = open_info(offered)?;
    let version = match members.has("version") {
        true => String::new(),
        false => format!(r#","version":"{SPONSORING_VERSION}""#),
    };
    let before = offered.trim().strip_suffix('}')?;
    let comma = if members.is_empty() { "" } else { "," };
    let signature = Zeroizing::new(hex::encode_prefixed(signature));
    Some(Zeroizing::new(format!(
        concat!(
            r#"{}{}"from":"{}","asset":"{}","spender":"{}","amount":"{}","nonce":"{}","deadline":"{}","#,
            r#""signature":"{}"{}}}"#
        ),
        before,
        comma,
        permit.owner().to_checksum(None),
        permit.token().to_checksum(None),
        PERMIT2.to_checksum(None),
        permit.value().get(),
        permit.nonce(),
        permit.deadline(),
        signature.as_str(),
        version
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn transfer(spender: Spender) -> Permit2Transfer {
        Permit2Transfer {
            chain_id: u64::MAX,
            token: Address::repeat_byte(1),
            amount: Atoms::new(u128::MAX),
            spender,
            from: Address::repeat_byte(2),
            nonce: B256::repeat_byte(255),
            deadline: u64::MAX,
            to: Address::repeat_byte(3),
            valid_after: u64::MAX,
        }
    }

    fn sponsored(offered: &str) -> Option<Value> {
        let transfer = transfer(Spender::Exact);
        let info = sponsored_info(offered, &transfer.token_permit(U256::from(3)), &[7; 65])?;
        Some(serde_json::from_str(&info).unwrap())
    }

    #[test]
    fn the_nonce_is_a_decimal_number() {
        let mut small = transfer(Spender::Exact);
        small.nonce = B256::with_last_byte(10);
        for (transfer, nonce) in [
            (small, "10"),
            (
                transfer(Spender::Exact),
                "115792089237316195423570985008687907853269984665640564039457584007913129639935",
            ),
        ] {
            let object: Value = serde_json::from_str(&authorization(&transfer)).unwrap();
            assert_eq!(object["nonce"], nonce);
        }
    }

    #[test]
    fn what_the_server_said_about_sponsoring_stays() {
        let ours = json!({
            "from": transfer(Spender::Exact).from.to_checksum(None),
            "asset": transfer(Spender::Exact).token.to_checksum(None),
            "spender": "0x000000000022D473030F116dDEE9F6B43aC78BA3",
            "amount": u128::MAX.to_string(),
            "nonce": "3",
            "deadline": u64::MAX.to_string(),
            "signature": format!("0x{}", "07".repeat(65)),
            "version": "1",
        });
        for (offered, said) in [
            ("{}", json!({})),
            (" { } ", json!({})),
            (r#"{"version":"1"}"#, json!({})),
            (
                "{\"description\":\"a}\\\"\u{e9}\" , \"x\":{}\n}",
                json!({"description": "a}\"\u{e9}", "x": {}}),
            ),
        ] {
            let mut expected = ours.clone();
            let members = said.as_object().unwrap().clone();
            expected.as_object_mut().unwrap().extend(members);
            assert_eq!(sponsored(offered), Some(expected), "{offered}");
        }
    }

    #[test]
    fn a_server_that_fills_in_our_part_is_not_answered() {
        for offered in [
            "",
            "[]",
            "null",
            r#""{}""#,
            r#"{"amount":"1"}"#,
            // A `null` member counts as absent but would still occur twice.
            r#"{"signature":null}"#,
            r#"{"version":null}"#,
            r#"{"version":1}"#,
            r#"{"version":"2"}"#,
        ] {
            assert_eq!(sponsored(offered), None, "{offered}");
        }
    }

    /// `credential` relies on these sizes when it allocates.
    #[test]
    fn the_longest_parts_fit_1_kib_each() {
        let spender = Spender::Upto {
            facilitator: Address::ZERO,
        };
        let transfer = transfer(spender);
        assert!(payload(&transfer, &[255; 65]).len() <= 1024);
        let info = sponsored_info("{}", &transfer.token_permit(U256::MAX), &[255; 65]).unwrap();
        assert!(info.len() <= 1024);
    }
}

//! Known-answer tests: the Permit2 vectors in `fixtures/x402`, from the numbers to the payment header. Times and nonces
//! are given (R19).

use alloy_primitives::{Address, B256, U256, hex};
use alloy_sol_types::{Eip712Domain, SolStruct};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use bursar_core::assets::{self, Network, Token};
use bursar_core::challenge::permit2::{payload, sponsored_info};
use bursar_core::money::Atoms;

const PLAIN: &str = "v2-exact-permit2-base-sepolia";
const SPONSORED: &str = "v2-exact-permit2-eip2612-sponsoring";
const APPROVAL: &str = "v2-exact-permit2-erc20-approval-sponsoring";
const UPTO: &str = "v2-upto-permit2-base-sepolia";

fn vector(name: &str) -> Value {
    let path = format!("{}/../../fixtures/x402/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap()
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(value: &Value, pointer: &str) -> T {
    text(value, pointer).parse().unwrap()
}

/// The payment of a vector. The payer and what it may spend are taken from the challenge, not from what was signed.
fn transfer(vector: &Value) -> Permit2Transfer {
    let requirement = &vector["challenge"]["accepts"][0];
    let network = Network::parse(text(requirement, "/network")).unwrap();
    let nonce: U256 = number(vector, "/signatures/0/message/nonce");
    let now = vector["fixedNow"].as_u64().unwrap();
    Permit2Transfer {
        chain_id: network.chain_id().unwrap(),
        token: number(requirement, "/asset"),
        amount: Atoms::parse(text(requirement, "/amount")).unwrap(),
        spender: match text(requirement, "/scheme") {
            "upto" => Spender::Upto {
                facilitator: number(requirement, "/extra/facilitatorAddress"),
            },
            _ => Spender::Exact,
        },
        from: number(vector, "/payer"),
        nonce: nonce.into(),
        deadline: now + requirement["maxTimeoutSeconds"].as_u64().unwrap(),
        to: number(requirement, "/payTo"),
        valid_after: 0,
    }
}

fn wallet(vector: &Value) -> Wallet {
    Wallet::from_hex(text(vector, "/privateKey")).ok().unwrap()
}

fn asset(transfer: &Permit2Transfer) -> &'static Token {
    assets::token(Network::Eip155(transfer.chain_id), &transfer.token).unwrap()
}

/// Checks every hash on the way to a signature, and who signed it.
fn check(expected: &Value, domain: &Eip712Domain, message: &impl SolStruct, signature: [u8; 65]) {
    let hash = |name: &str| -> B256 { number(expected, name) };
    assert_eq!(domain.separator(), hash("/domainSeparator"));
    assert_eq!(message.eip712_hash_struct(), hash("/structHash"));
    let digest = message.eip712_signing_hash(domain);
    assert_eq!(digest, hash("/digest"));
    assert_eq!(hex::encode_prefixed(signature), text(expected, "/signature"));
    let recovered = VerifyingKey::recover_from_prehash(
        digest.as_slice(),
        &Signature::from_slice(&signature[..64]).unwrap(),
        RecoveryId::new(signature[64] == 28, false),
    )
    .unwrap();
    let signer = Address::from_raw_public_key(&recovered.to_sec1_point(false).as_bytes()[1..]);
    assert_eq!(signer, number::<Address>(expected, "/recovered"));
}

#[test]
fn every_hash_and_signature_is_the_reference_clients() {
    for name in [PLAIN, SPONSORED, APPROVAL, UPTO] {
        let vector = vector(name);
        let (wallet, transfer) = (wallet(&vector), transfer(&vector));
        let (expected, signature) = (&vector["signatures"][0], wallet.sign_permit2(&transfer));
        match transfer.spender {
            Spender::Exact => check(expected, &domain(&transfer), &exact_message(&transfer), signature),
            Spender::Upto { facilitator } => {
                check(
                    expected,
                    &domain(&transfer),
                    &upto_message(&transfer, facilitator),
                    signature,
                );
            }
        }
    }
}

#[test]
fn the_tokens_permission_is_the_reference_clients() {
    let vector = vector(SPONSORED);
    let transfer = transfer(&vector);
    let permit = transfer.token_permit(number(&vector, "/signatures/1/message/nonce"));
    let signature = wallet(&vector).sign_permit(asset(&transfer), &permit);
    check(
        &vector["signatures"][1],
        &permit_domain(asset(&transfer), &permit),
        &permit_message(&permit),
        signature,
    );
}

/// A permit is for the payment's token, whatever asset is named beside it.
#[test]
fn no_other_token_can_be_opened() {
    let vector = vector(SPONSORED);
    let transfer = transfer(&vector);
    let permit = transfer.token_permit(U256::ZERO);
    let other = assets::tokens_of(Network::Eip155(4326)).next().unwrap();
    let domain = permit_domain(other, &permit);
    assert_eq!(domain.verifying_contract, Some(transfer.token));
    assert_eq!(domain.chain_id, Some(U256::from(84_532)));
}

/// Our member order is the reference client's, so the header matches to the last byte. The parts that are not made here
/// are taken from the challenge, as text.
#[test]
fn headers_equal_those_of_the_reference_client() {
    for name in [PLAIN, SPONSORED, UPTO] {
        let vector = vector(name);
        let (wallet, transfer) = (wallet(&vector), transfer(&vector));
        let header = STANDARD
            .decode(text(&vector, "/response/headers/PAYMENT-REQUIRED"))
            .unwrap();
        let challenge: Challenge = serde_json::from_slice(&header).unwrap();
        let mut extensions = String::new();
        if let Some(offered) = challenge.extensions {
            let Sponsoring { info, schema } = offered.sponsoring;
            let permit = transfer.token_permit(U256::from(3));
            let signature = wallet.sign_permit(asset(&transfer), &permit);
            let info = sponsored_info(info.get(), &permit, &signature).unwrap();
            extensions = format!(
                r#","extensions":{{"eip2612GasSponsoring":{{"info":{},"schema":{}}}}}"#,
                info.as_str(),
                schema.get()
            );
        }
        let ours = format!(
            r#"{{"x402Version":2,"payload":{}{extensions},"resource":{},"accepted":{}}}"#,
            payload(&transfer, &wallet.sign_permit2(&transfer)).as_str(),
            challenge.resource.get(),
            challenge.accepts[0].get()
        );
        let decoded: Value = serde_json::from_str(&ours).unwrap();
        assert_eq!(decoded, vector["expected"]["payload"], "{name}");
        assert_eq!(STANDARD.encode(&ours), text(&vector, "/expected/headerValue"), "{name}");
    }
}

/// The other kind of sponsoring is a signed transaction with a standing, unlimited approval. We never make one, and the
/// payment itself is the same without it.
#[test]
fn a_payload_does_not_depend_on_the_sponsoring_offered() {
    let vector = vector(APPROVAL);
    let transfer = transfer(&vector);
    let ours = payload(&transfer, &wallet(&vector).sign_permit2(&transfer));
    let ours: Value = serde_json::from_str(&ours).unwrap();
    assert_eq!(ours, vector["expected"]["payload"]["payload"]);
}

#[derive(Deserialize)]
struct Challenge<'a> {
    #[serde(borrow)]
    resource: &'a RawValue,
    #[serde(borrow)]
    accepts: Vec<&'a RawValue>,
    #[serde(borrow)]
    extensions: Option<Extensions<'a>>,
}

#[derive(Deserialize)]
struct Extensions<'a> {
    #[serde(borrow, rename = "eip2612GasSponsoring")]
    sponsoring: Sponsoring<'a>,
}

#[derive(Deserialize)]
struct Sponsoring<'a> {
    #[serde(borrow)]
    info: &'a RawValue,
    #[serde(borrow)]
    schema: &'a RawValue,
}

//! Known-answer tests: every `exact` EIP-3009 vector in `fixtures/x402` and every `evm`/`charge` vector in
//! `fixtures/mpp`, from the challenge to the payment header. Times, x402 nonces and the choice of the offer are given
//! (R19).

use alloy_primitives::{Address, B256, hex};
use alloy_sol_types::SolStruct;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue};
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use serde_json::Value;

use super::{PayError, Wallet, evm, sign_and_encode};
use bursar_core::assets::{Network, Token};
use bursar_core::challenge::{self, Authorization, Nonce, Offer, Term, Why};
use bursar_core::money::Atoms;

const MINIMAL: &str = "v2-exact-eip3009-base-sepolia";

fn vector(name: &str) -> Value {
    let path = format!("{}/../../fixtures/x402/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap()
}

fn wallet(vector: &Value) -> Wallet {
    Wallet::from_hex(text(vector, "/privateKey")).ok().unwrap()
}

fn authorization(vector: &Value) -> Authorization {
    let message = vector.pointer("/signatures/0/message").unwrap();
    Authorization {
        // The token's network is what is signed; this one is for an MPP credential's `source`.
        network: Network::Eip155(1),
        from: text(message, "/from").parse().unwrap(),
        to: text(message, "/to").parse().unwrap(),
        value: Atoms::parse(text(message, "/value")).unwrap(),
        valid_after: text(message, "/validAfter").parse().unwrap(),
        valid_before: text(message, "/validBefore").parse().unwrap(),
        nonce: text(message, "/nonce").parse().unwrap(),
    }
}

/// The offer that the reference client paid.
fn offer(vector: &Value) -> Offer {
    let response = &vector["response"];
    let challenge = match response.pointer("/headers/PAYMENT-REQUIRED") {
        Some(header) => challenge::v2(header.as_str().unwrap().as_bytes()),
        None => challenge::v1(text(response, "/body").as_bytes()),
    };
    let authorization = authorization(vector);
    let paid = challenge.unwrap().offers.into_iter().find(|offer| {
        offer.amount == authorization.value
            && vector["expected"]["payload"]["accepted"]
                .as_object()
                .is_none_or(|accepted| accepted["network"] == offer.asset.network().to_string())
    });
    let paid = paid.unwrap();
    assert_eq!(paid.payee.address(), Some(authorization.to));
    paid
}

fn decoded(header_value: &str) -> Value {
    serde_json::from_slice(&STANDARD.decode(header_value).unwrap()).unwrap()
}

/// Checks every intermediate value and returns the header value that we make.
fn pay(vector: &Value, payment_id: Option<&str>) -> String {
    let (wallet, offer, authorization) = (wallet(vector), offer(vector), authorization(vector));
    assert_eq!(wallet.address(), text(vector, "/payer").parse::<Address>().unwrap());

    let signature = signed(&vector["signatures"][0], &wallet, &offer, &authorization);
    assert_eq!(hex::encode_prefixed(signature), text(vector, "/signatures/0/signature"));

    let (name, credential) = sign_and_encode(&wallet, token(&offer), &authorization, &offer.echo, payment_id).unwrap();
    let header = text(vector, "/expected/requestHeader").to_ascii_lowercase();
    assert_eq!(name.as_str(), header);
    credential.header_value().to_str().unwrap().to_owned()
}

/// Returns the signature after checking every hash on the way to it.
fn signed(expected: &Value, wallet: &Wallet, offer: &Offer, authorization: &Authorization) -> [u8; 65] {
    let hash = |name: &str| expected[name].as_str().unwrap().parse::<B256>().unwrap();
    let (domain, message) = (evm::domain(token(offer)), evm::message(authorization));
    assert_eq!(domain.separator(), hash("domainSeparator"));
    assert_eq!(message.eip712_hash_struct(), hash("structHash"));
    let digest = message.eip712_signing_hash(&domain);
    assert_eq!(digest, hash("digest"));
    let signature = wallet.sign_authorization(token(offer), authorization);
    let recovered = VerifyingKey::recover_from_prehash(
        digest.as_slice(),
        &Signature::from_slice(&signature[..64]).unwrap(),
        RecoveryId::new(signature[64] == 28, false),
    )
    .unwrap();
    assert_eq!(
        Address::from_raw_public_key(&recovered.to_sec1_point(false).as_bytes()[1..]),
        wallet.address()
    );
    signature
}

/// Our member order is the reference client's, so the header matches to the last byte.
#[test]
fn headers_equal_those_of_the_reference_client() {
    for name in [
        "v1-exact-base-sepolia",
        MINIMAL,
        "v2-exact-eip3009-base-mainnet-lowercase-unicode",
        "v2-exact-multi-accepts-selection",
    ] {
        let vector = vector(name);
        let header = pay(&vector, Some("pay_00000000000000000000000000000000"));
        assert_eq!(decoded(&header), vector["expected"]["payload"], "{name}");
        assert_eq!(header, text(&vector, "/expected/headerValue"), "{name}");
    }
}

/// The original v1 library orders members differently and copies `payTo` as written. We write `to` with its checksum,
/// like the newer client. Both verify (x402 §4.1).
#[test]
fn payloads_equal_those_of_the_legacy_client_but_for_the_case_of_to() {
    for name in ["v1-exact-base-sepolia-legacy-lib", "v1-exact-base-mainnet-legacy-lib"] {
        let vector = vector(name);
        let ours = decoded(&pay(&vector, None));
        let mut expected = vector["expected"]["payload"].clone();
        let to = expected.pointer_mut("/payload/authorization/to").unwrap();
        let address: Address = to.as_str().unwrap().parse().unwrap();
        *to = address.to_checksum(None).into();
        assert_eq!(ours, expected, "{name}");
    }
}

/// We add the payment id, but no builder code of our own: the list is attribution, and echoing it as received is
/// allowed. So the list must be the server's, and everything else the reference client's.
#[test]
fn the_payment_id_is_added_and_the_builder_code_echoed() {
    let vector = vector("v2-exact-payment-identifier-builder-code");
    let mut expected = vector["expected"]["payload"].clone();
    let id = text(&expected, "/extensions/payment-identifier/info/id").to_owned();
    let ours = decoded(&pay(&vector, Some(&id)));
    let list = "/extensions/builder-code/info/s";
    *expected.pointer_mut(list).unwrap() = vector["challenge"].pointer(list).unwrap().clone();
    assert_eq!(ours, expected);

    let without = decoded(&pay(&vector, None));
    assert_eq!(without["extensions"], vector["challenge"]["extensions"]);
}

#[test]
fn another_wallet_does_not_sign() {
    let vector = vector(MINIMAL);
    let (other, _) = Wallet::generate().ok().unwrap();
    let (offer, authorization) = (offer(&vector), authorization(&vector));
    let result = sign_and_encode(&other, token(&offer), &authorization, &offer.echo, None);
    assert_eq!(result.err(), Some(PayError::OtherWallet));
}

/// Members may be in any order, so the decoded headers are compared (MPP §4).
#[test]
fn mpp_credentials_equal_those_of_the_reference_client() {
    let fixture: Value = serde_json::from_str(include_str!("../../../../fixtures/mpp/evm_charge.json")).unwrap();
    let wallet = Wallet::from_hex(text(&fixture, "/payerPrivateKey")).ok().unwrap();
    let vectors = fixture["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 5);
    for vector in vectors {
        let name = &vector["name"];
        let mut headers = HeaderMap::new();
        let field = HeaderValue::from_str(text(vector, "/wwwAuthenticate")).unwrap();
        headers.insert("www-authenticate", field);
        let offer = challenge::with_mpp(&headers, Err(Why::NoChallenge))
            .unwrap()
            .offers
            .remove(0);
        let Nonce::Fixed(nonce) = offer.nonce else {
            panic!("{name}: {offer:?}")
        };
        assert_eq!(nonce, text(vector, "/nonce").parse::<B256>().unwrap(), "{name}");
        assert_eq!(offer.term, Term::Until(4_070_908_800), "{name}");
        let authorization = Authorization {
            network: offer.asset.network(),
            from: wallet.address(),
            to: offer.payee.address().unwrap(),
            value: offer.amount,
            valid_after: 0,
            valid_before: offer.term.valid_before(0, u64::MAX).unwrap(),
            nonce,
        };
        let signature = signed(&vector["eip712"], &wallet, &offer, &authorization);
        assert_eq!(hex::encode_prefixed(signature), text(vector, "/signature"), "{name}");

        let (field, credential) = sign_and_encode(&wallet, token(&offer), &authorization, &offer.echo, None).unwrap();
        assert!(
            field
                .as_str()
                .eq_ignore_ascii_case(text(vector, "/expectedCredentialField")),
            "{name}"
        );
        let json = |value: &str| {
            let token = value.strip_prefix("Payment ").unwrap();
            serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap()
        };
        assert_eq!(
            json(credential.expose()),
            json(text(vector, "/authorizationHeader")),
            "{name}"
        );
        let theirs = mpp::protocol::core::parse_authorization(credential.expose()).unwrap();
        assert_eq!(theirs.source.as_deref(), Some(text(vector, "/source")), "{name}");
    }
}

fn token(offer: &Offer) -> &'static Token {
    offer.asset.token().unwrap()
}

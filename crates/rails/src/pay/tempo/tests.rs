//! The vectors of `fixtures/mpp/tempo_charge.json`, and properties of every transfer.

use alloy_primitives::Signature;
use alloy_rlp::{Decodable, PayloadView};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use bursar_core::challenge::mpp::tempo::memo;

/// The public first development key of anvil.
const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

fn wallet() -> Wallet {
    Wallet::from_hex(KEY).ok().unwrap()
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../../../fixtures/mpp/tempo_charge.json")).unwrap()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap()
}

/// The transfer that a vector signs. Payee and amount are in the challenge, and in the transaction only as calldata.
fn transfer(vector: &Value) -> TempoTransfer {
    let fields = &vector["fields"];
    let number = |name: &str| text(fields, name).parse().unwrap();
    let data = hex::decode(text(fields, "/calls/0/data")).unwrap();
    let call = transferWithMemoCall::abi_decode_validate(&data).unwrap();
    assert_eq!(text(fields, "/nonceKey"), hex::encode_prefixed(EXPIRING));
    assert_eq!(fields["nonce"], 0);
    TempoTransfer {
        chain_id: fields["chainId"].as_u64().unwrap(),
        token: text(fields, "/calls/0/to").parse().unwrap(),
        to: call.to,
        amount: Atoms::new(call.amount.to()),
        memo: call.memo,
        valid_before: fields["validBefore"].as_u64().unwrap(),
        gas: Gas::new(number("/gas"), number("/maxFeePerGas"), number("/maxPriorityFeePerGas")).unwrap(),
        fee: match fields.get("feePayer") {
            Some(sponsored) => {
                assert_eq!(sponsored, true);
                FeeTerms::Sponsored
            }
            None => FeeTerms::Ours {
                token: text(fields, "/feeToken").parse().unwrap(),
            },
        },
    }
}

#[test]
fn transactions_equal_those_of_the_reference_client() {
    let fixture = fixture();
    let vectors = fixture["signedTransactions"].as_object().unwrap();
    assert_eq!(vectors.len(), 2);
    for (name, vector) in vectors {
        let signed = wallet().sign_tempo(&transfer(vector));
        assert_eq!(signed.to_hex().as_str(), text(vector, "/signed"), "{name}");
    }
}

#[test]
fn the_call_is_the_one_of_the_reference_client() {
    let fixture = fixture();
    let transfer = transfer(&fixture["signedTransactions"]["clientPaysFee"]);
    let calldata = hex::encode_prefixed(transfer.calldata());
    assert_eq!(calldata, text(&fixture, "/transfer/calldata"));
    assert!(calldata.starts_with(text(&fixture, "/transfer/selector")));
    assert_eq!(transferWithMemoCall::SIGNATURE, text(&fixture, "/transfer/function"));
    assert_eq!(
        transfer.to,
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8".parse::<Address>().unwrap()
    );
    assert_eq!(transfer.amount, Atoms::new(50_000));
}

#[test]
fn the_memo_is_bound_to_realm_and_challenge() {
    let vector = &fixture()["attributionMemo"];
    let (realm, id) = (text(vector, "/realm"), text(vector, "/challengeId"));
    let expected: B256 = text(vector, "/memo").parse().unwrap();
    assert_eq!(memo(realm, id), expected);
    assert_ne!(memo("api.example.org", id), expected);
    assert_ne!(memo(realm, "eGS8AZ0zDHvqIaf_QcmDEIKF7h2p_sBn74fAQYwnMC5"), expected);
}

#[test]
fn a_sponsored_fee_costs_nothing() {
    let fixture = fixture();
    let vectors = &fixture["signedTransactions"];
    assert_eq!(transfer(&vectors["clientPaysFee"]).fee_cap(), Atoms::new(1_452));
    assert_eq!(transfer(&vectors["feePayer"]).fee_cap(), Atoms::new(0));
}

fn transfers() -> impl Strategy<Value = TempoTransfer> {
    let address = || any::<[u8; 20]>().prop_map(Address::from);
    // Powers of two are where the length of an encoded integer changes.
    let number = || (any::<u64>(), 0_u32..64).prop_map(|(bits, shift)| bits >> shift);
    let fee = prop_oneof![
        address().prop_map(|token| FeeTerms::Ours { token }),
        Just(FeeTerms::Sponsored)
    ];
    let gas = (number(), number(), number())
        .prop_map(|(limit, one, other)| Gas::new(limit, one.max(other), one.min(other)).unwrap());
    let call = (address(), address(), any::<u128>(), any::<[u8; 32]>());
    (number(), call, number(), gas, fee).prop_map(|(chain_id, call, valid_before, gas, fee)| TempoTransfer {
        chain_id,
        token: call.0,
        to: call.1,
        amount: Atoms::new(call.2),
        memo: call.3.into(),
        valid_before,
        gas,
        fee,
    })
}

/// The items of a list, each with its own header; nothing may follow the list.
fn items(mut encoded: &[u8]) -> Vec<&[u8]> {
    let PayloadView::List(items) = Header::decode_raw(&mut encoded).unwrap() else {
        panic!("no list")
    };
    assert!(encoded.is_empty());
    items
}

fn bytes(mut item: &[u8]) -> &[u8] {
    let bytes = Header::decode_bytes(&mut item, false).unwrap();
    assert!(item.is_empty());
    bytes
}

/// Strict: leading zeros are refused.
fn number(mut item: &[u8]) -> u64 {
    let number = u64::decode(&mut item).unwrap();
    assert!(item.is_empty());
    number
}

proptest! {
    #[test]
    fn what_is_signed_reads_back(transfer in transfers()) {
        let wallet = wallet();
        let signed = wallet.sign_tempo(&transfer);
        let fields = items(&signed.0[1..]);
        prop_assert_eq!(fields.len(), 14);
        prop_assert_eq!(number(fields[0]), transfer.chain_id);
        prop_assert_eq!(number(fields[1]), transfer.gas.max_priority_fee_per_gas());
        prop_assert_eq!(number(fields[2]), transfer.gas.max_fee_per_gas());
        prop_assert_eq!(number(fields[3]), transfer.gas.limit());
        let calls = items(fields[4]);
        prop_assert_eq!(calls.len(), 1);
        let call = items(calls[0]);
        prop_assert_eq!(call.len(), 3);
        prop_assert_eq!(bytes(call[0]), transfer.token.as_slice());
        prop_assert_eq!(number(call[1]), 0);
        let data = transferWithMemoCall::abi_decode_validate(bytes(call[2])).unwrap();
        prop_assert_eq!(data.to, transfer.to);
        prop_assert_eq!(data.amount, U256::from(transfer.amount.get()));
        prop_assert_eq!(data.memo, transfer.memo);
        prop_assert_eq!(fields[5], [0xc0]);
        prop_assert_eq!(bytes(fields[6]), [0xff; 32]);
        prop_assert_eq!(number(fields[7]), 0);
        prop_assert_eq!(number(fields[8]), transfer.valid_before);
        prop_assert_eq!(fields[9], [0x80]);
        prop_assert_eq!(fields[12], [0xc0]);

        let (kind, fee_token, fee_payer, to_come) = match transfer.fee {
            FeeTerms::Ours { token } => (0x76, token.to_vec(), vec![], vec![0x80]),
            FeeTerms::Sponsored => (0x78, vec![], wallet.address().to_vec(), vec![0x00]),
        };
        prop_assert_eq!(signed.0[0], kind);
        prop_assert_eq!(bytes(fields[10]), fee_token);
        prop_assert_eq!(bytes(fields[11]), fee_payer);

        // The digest, computed again from what was decoded: the transaction without its signature and without the fee
        // payer.
        let mut unsigned = fields[..11].concat();
        unsigned.extend(to_come);
        unsigned.extend(fields[12]);
        let mut message = vec![0x76];
        list(&unsigned, &mut message);
        let signature = Signature::from_raw(bytes(fields[13])).unwrap();
        prop_assert!(signature.normalize_s().is_none(), "s is high");
        prop_assert_eq!(signer(&keccak256(&message), bytes(fields[13])), wallet.address());
    }
}

fn signer(digest: &B256, signature: &[u8]) -> Address {
    use k256::ecdsa::{RecoveryId, VerifyingKey};
    let (v, rs) = signature.split_last().unwrap();
    let recovered = VerifyingKey::recover_from_prehash(
        digest.as_slice(),
        &k256::ecdsa::Signature::from_slice(rs).unwrap(),
        RecoveryId::new(*v == 28, false),
    );
    Address::from_raw_public_key(&recovered.unwrap().to_sec1_point(false).as_bytes()[1..])
}

#[test]
fn signatures_of_the_vectors_are_their_payers() {
    let fixture = fixture();
    for (name, vector) in fixture["signedTransactions"].as_object().unwrap() {
        let raw = hex::decode(text(vector, "/signed")).unwrap();
        let signature = bytes(items(&raw[1..])[13]).to_vec();
        let signer = signer(&transfer(vector).digest(), &signature);
        assert_eq!(signer, wallet().address(), "{name}");
    }
}

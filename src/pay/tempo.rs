//! One MPP `tempo`/`charge` payment as the seller broadcasts it ("pull"): a Tempo transaction with a single call of
//! `transferWithMemo`, signed without asking any node (mpp digest §8.1).
//!
//! That needs no account state because the transaction takes the lane of expiring nonces (TIP-1009): nonce key 2^256 - 1,
//! nonce 0, and a `validBefore` at most 30 s ahead of the block that includes it. Past that second it is dead for good,
//! and within it the chain takes it once, whoever pays the fee. The memo makes the payments of two challenges different
//! transactions; the same challenge signed for another second is another payment as well.

use alloy_primitives::{Address, B256, U256, hex, keccak256};
use alloy_rlp::{Encodable, Header};
use alloy_sol_types::{SolCall, sol};
use zeroize::Zeroizing;

use super::Wallet;
use crate::money::Atoms;

/// First byte of a Tempo transaction, and of what its sender signs.
const TRANSACTION: u8 = 0x76;
/// First byte of a transaction on its way to whoever pays the fee. No node takes it.
const FOR_FEE_PAYER: u8 = 0x78;
/// What a sender signs in place of the fee payer's signature that is still to come.
const FEE_PAYER_TO_COME: &[u8] = &[0];
/// The nonce key of expiring nonces, 2^256 - 1.
const EXPIRING: &[u8] = &[0xff; 32];
/// Prices are attodollars (10^-18 USD) per gas, atoms of a fee token are microdollars.
const ATTODOLLARS_PER_ATOM: u128 = 1_000_000_000_000;
/// More than any envelope of ours is long: a vector that grows leaves copies of a signature that nobody wipes.
const ROOM: usize = 512;

sol! {
    function transferWithMemo(address to, uint256 amount, bytes32 memo) external;
}

/// All that is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TempoTransfer {
    pub chain_id: u64,
    pub token: Address,
    pub to: Address,
    pub amount: Atoms,
    pub memo: B256,
    /// Unix second from which no block takes it. Zero would read as absent, and then no block takes it at all.
    pub valid_before: u64,
    pub gas: Gas,
    pub fee: FeeTerms,
}

/// Who pays for the gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeeTerms {
    /// We do, in this token. The chain takes the cap first and gives back what was not used, so the wallet must hold the
    /// cap beside the amount; a transfer that fails is charged all the same.
    Ours { token: Address },
    /// The seller does (`feePayer`), in a token of its choice, by a signature it adds to ours.
    Sponsored,
}

/// Gas and what it may cost, in attodollars per gas. The tip is never above the price it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gas {
    limit: u64,
    max_fee_per_gas: u64,
    max_priority_fee_per_gas: u64,
}

/// A signed transfer: moves money for whoever holds it, so no `Debug`, and wiped when dropped.
pub(crate) struct SignedTransfer(Zeroizing<Vec<u8>>);

impl Wallet {
    /// Deterministic: the same transfer gives the same bytes.
    pub(crate) fn sign_tempo(&self, transfer: &TempoTransfer) -> SignedTransfer {
        let signature = self.sign(&transfer.digest());
        let address = self.address();
        let (kind, fee_payer) = match transfer.fee {
            FeeTerms::Ours { .. } => (TRANSACTION, &[][..]),
            FeeTerms::Sponsored => (FOR_FEE_PAYER, address.as_slice()),
        };
        SignedTransfer(transfer.envelope(kind, fee_payer, Some(&signature)))
    }
}

impl TempoTransfer {
    /// The most that leaves the wallet beside the amount, in atoms of the fee token.
    pub(crate) fn fee_cap(&self) -> Atoms {
        match self.fee {
            FeeTerms::Ours { .. } => self.gas.fee_cap(),
            FeeTerms::Sponsored => Atoms::new(0),
        }
    }

    /// What the sender signs, which never names the fee payer: of a sponsored fee it only says that there is a sponsor.
    fn digest(&self) -> B256 {
        let fee_payer = match self.fee {
            FeeTerms::Ours { .. } => &[],
            FeeTerms::Sponsored => FEE_PAYER_TO_COME,
        };
        keccak256(self.envelope(TRANSACTION, fee_payer, None).as_slice())
    }

    fn envelope(&self, kind: u8, fee_payer: &[u8], signature: Option<&[u8; 65]>) -> Zeroizing<Vec<u8>> {
        let absent: &[u8] = &[];
        let fee_token = match &self.fee {
            FeeTerms::Ours { token } => token.as_slice(),
            FeeTerms::Sponsored => absent,
        };
        let mut fields = Zeroizing::new(Vec::with_capacity(ROOM));
        self.chain_id.encode(&mut *fields);
        self.gas.max_priority_fee_per_gas.encode(&mut *fields);
        self.gas.max_fee_per_gas.encode(&mut *fields);
        self.gas.limit.encode(&mut *fields);
        list(&list_of(&self.call()), &mut fields);
        list(&[], &mut fields); // access list
        EXPIRING.encode(&mut *fields);
        0_u8.encode(&mut *fields); // nonce
        self.valid_before.encode(&mut *fields);
        absent.encode(&mut *fields); // valid after
        fee_token.encode(&mut *fields);
        fee_payer.encode(&mut *fields);
        list(&[], &mut fields); // authorization list
        if let Some(signature) = signature {
            signature.as_slice().encode(&mut *fields);
        }
        let mut envelope = Zeroizing::new(Vec::with_capacity(ROOM));
        envelope.push(kind);
        list(&fields, &mut envelope);
        envelope
    }

    /// To, value, data.
    fn call(&self) -> Vec<u8> {
        let mut call = Vec::new();
        self.token.as_slice().encode(&mut call);
        0_u8.encode(&mut call);
        self.calldata().as_slice().encode(&mut call);
        call
    }

    fn calldata(&self) -> Vec<u8> {
        let call = transferWithMemoCall {
            to: self.to,
            amount: U256::from(self.amount.get()),
            memo: self.memo,
        };
        call.abi_encode()
    }
}

impl Gas {
    /// `None` if the tip is above the whole price: nodes refuse that.
    pub(crate) const fn new(limit: u64, max_fee_per_gas: u64, max_priority_fee_per_gas: u64) -> Option<Self> {
        if max_priority_fee_per_gas > max_fee_per_gas {
            return None;
        }
        Some(Self {
            limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
        })
    }

    /// The most that it can cost, in atoms of a fee token with 6 decimals; the chain rounds up as well.
    pub(crate) fn fee_cap(self) -> Atoms {
        let attodollars = u128::from(self.limit) * u128::from(self.max_fee_per_gas);
        Atoms::new(attodollars.div_ceil(ATTODOLLARS_PER_ATOM))
    }
}

impl SignedTransfer {
    /// `0x` and the bytes in hex, for the credential's payload.
    pub(crate) fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode_prefixed(self.0.as_slice()))
    }

    /// The hash by which the chain will know it; not known yet while the fee payer's signature is to come.
    pub(crate) fn hash(&self) -> Option<B256> {
        (self.0.first() == Some(&TRANSACTION)).then(|| keccak256(self.0.as_slice()))
    }
}

/// The memo that ties a transfer to its challenge; sellers look for it (mpp digest §8.1). The ten zero bytes are the name
/// of a client that gives none.
pub(crate) fn memo(realm: &str, challenge_id: &str) -> B256 {
    let mut memo = B256::ZERO;
    memo[..4].copy_from_slice(&keccak256("mpp")[..4]);
    memo[4] = 1;
    memo[5..15].copy_from_slice(&keccak256(realm)[..10]);
    memo[25..].copy_from_slice(&keccak256(challenge_id)[..7]);
    memo
}

fn list_of(items: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    list(items, &mut out);
    out
}

/// An RLP list of items that are encoded already.
fn list(items: &[u8], out: &mut Vec<u8>) {
    let header = Header {
        list: true,
        payload_length: items.len(),
    };
    header.encode(out);
    out.extend_from_slice(items);
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Signature;
    use alloy_rlp::{Decodable, PayloadView};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The public first development key of anvil.
    const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    fn wallet() -> Wallet {
        Wallet::from_hex(KEY).ok().unwrap()
    }

    fn fixture() -> Value {
        serde_json::from_str(include_str!("../../fixtures/mpp/tempo_charge.json")).unwrap()
    }

    fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
        value.pointer(pointer).and_then(Value::as_str).unwrap()
    }

    /// The transfer that a vector signs. Payee and amount stand in the challenge and here in calldata alone.
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
    fn the_fee_cap_is_rounded_up_to_atoms() {
        let cap = |limit, price| Gas::new(limit, price, 0).unwrap().fee_cap().get();
        assert_eq!(cap(500_000, 20_000_000_000), 10_000);
        assert_eq!(cap(50_000, 20_000_000_000), 1_000);
        assert_eq!(cap(1, 1), 1);
        assert_eq!(cap(1, 1_000_000_000_001), 2);
        assert_eq!(cap(0, u64::MAX), 0);
        let square = u128::from(u64::MAX) * u128::from(u64::MAX);
        assert_eq!(cap(u64::MAX, u64::MAX), square / ATTODOLLARS_PER_ATOM + 1);
    }

    #[test]
    fn a_sponsored_fee_costs_nothing() {
        let fixture = fixture();
        let vectors = &fixture["signedTransactions"];
        assert_eq!(transfer(&vectors["clientPaysFee"]).fee_cap(), Atoms::new(1_452));
        assert_eq!(transfer(&vectors["feePayer"]).fee_cap(), Atoms::new(0));
    }

    #[test]
    fn a_tip_is_part_of_the_price() {
        assert_eq!(Gas::new(1, 2, 3), None);
        assert!(Gas::new(1, 3, 3).is_some());
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

    /// Strict: the decoder refuses leading zeros.
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
            prop_assert_eq!(number(fields[1]), transfer.gas.max_priority_fee_per_gas);
            prop_assert_eq!(number(fields[2]), transfer.gas.max_fee_per_gas);
            prop_assert_eq!(number(fields[3]), transfer.gas.limit);
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

            // The digest, made anew of what was read: the transaction without its signature and without the fee payer.
            let mut unsigned = fields[..11].concat();
            unsigned.extend(to_come);
            unsigned.extend(fields[12]);
            let mut message = vec![0x76];
            list(&unsigned, &mut message);
            let signature = Signature::from_raw(bytes(fields[13])).unwrap();
            prop_assert!(signature.normalize_s().is_none(), "s is high");
            prop_assert_eq!(signer(&keccak256(&message), bytes(fields[13])), wallet.address());
            prop_assert_eq!(signed.hash(), (kind == 0x76).then(|| keccak256(&signed.0)));
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
}

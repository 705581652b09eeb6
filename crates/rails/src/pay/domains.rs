//! Each token's EIP-712 domain against `DOMAIN_SEPARATOR` as its contract returned it: a wrong name or version gives a
//! signature that recovers to nobody, and a payment that never settles.

use alloy_primitives::{Address, B256, keccak256};
use alloy_sol_types::SolStruct;
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use serde_json::Value;

use super::{Wallet, evm};
use bursar_core::assets::{self, Asset, Standard, Token};
use bursar_core::challenge::Authorization;
use bursar_core::money::Atoms;

/// Tokens that are paid by EIP-3009 and for which no recorded value was found. A token that is added comes with its
/// record; a record that is found leaves this list.
const WITHOUT_RECORD: [&str; 15] = [
    // EURC. Public notes say that the contract on Base equals what name "EURC" and version "2" give.
    "eip155:8453/erc20:0x60a3e35cc302bfa44cb288bc5a4f316fdb1adb42",
    "eip155:84532/erc20:0x808456652fdb597867f38412077a9182bf77359f",
    // From the table of the reference client.
    "eip155:1328/erc20:0x4fcf1784b31630811181f670aea7a7bef803eaed",
    "eip155:11142220/erc20:0x01c5c0122039549ad1493b8220cabedd739bc44e",
    "eip155:42220/erc20:0x48065fbbe25f71c9282ddf5e1cd6d6a887483d5e",
    "eip155:42220/erc20:0xd2ab3c9a02dbbab236bfec45d1d755df4267f771",
    "eip155:50/erc20:0xfa2958cb79b0491cc627c1557f441ef849ca8eb1",
    "eip155:51/erc20:0xb5ab69f7bbada22b28e79c8ffaece55ef1c771d4",
    "eip155:4689/erc20:0xcdf79194c6c285077a58da47641d4dbe51f63542",
    "eip155:36900/erc20:0x9cb8142aebbcdc60af7c97af897a67a8f3ca71c2",
    "eip155:190415/erc20:0x401ecb1d350407f13ba348573e5630b83638e30d",
    "eip155:181228/erc20:0x401ecb1d350407f13ba348573e5630b83638e30d",
    "eip155:988/erc20:0x779ded0c9e1022225f8e0630b35a9b54be713736",
    "eip155:2201/erc20:0x78cf24370174180738c5b8e352b6d14c83a6c9a9",
    "eip155:14/erc20:0xe7cd86e13ac4309349f30b3435a9d337750fc82d",
];

fn records() -> Vec<(&'static Token, B256)> {
    let text = include_str!("../../../../fixtures/tokens/domain_separators.json");
    let fixture: Value = serde_json::from_str(text).unwrap();
    let records = fixture["tokens"].as_array().unwrap().iter().map(|record| {
        let member = |name: &str| record[name].as_str().unwrap();
        let caip19 = format!("{}/erc20:{}", member("network"), member("asset"));
        let Some(Asset::Token(token)) = Asset::parse(&caip19) else {
            panic!("{caip19} is not in the table");
        };
        let domain = (token.eip712_name, token.eip712_version);
        assert_eq!(domain, (member("name"), member("version")), "{caip19}");
        assert!(fixture["readBy"][member("readBy")].is_string(), "{caip19}");
        (token, member("domainSeparator").parse().unwrap())
    });
    records.collect()
}

#[test]
fn every_token_is_signed_for_under_the_domain_of_its_contract() {
    let wallet = Wallet::from_hex(&"7".repeat(64)).ok().unwrap();
    let records = records();
    assert!(records.len() >= 20);
    for (token, separator) in records {
        let name = token.caip19();
        assert_eq!(evm::domain(token).separator(), separator, "{name}");
        let authorization = Authorization {
            network: token.network(),
            from: wallet.address(),
            to: Address::repeat_byte(0xB0),
            value: Atoms::new(10_000),
            valid_after: 0,
            valid_before: 1_760_000_060,
            nonce: B256::repeat_byte(9),
        };
        let signature = wallet.sign_authorization(token, &authorization);
        // As the contract computes it, from its own separator.
        let message = evm::message(&authorization).eip712_hash_struct();
        let digest = keccak256([&[0x19, 0x01], separator.as_slice(), message.as_slice()].concat());
        let signer = VerifyingKey::recover_from_prehash(
            digest.as_slice(),
            &Signature::from_slice(&signature[..64]).unwrap(),
            RecoveryId::new(signature[64] == 28, false),
        );
        let signer = Address::from_raw_public_key(&signer.unwrap().to_sec1_point(false).as_bytes()[1..]);
        assert_eq!(signer, wallet.address(), "{name}");
    }
}

#[test]
fn a_token_without_a_record_is_known_as_such() {
    let recorded: Vec<String> = records().iter().map(|(token, _)| token.caip19()).collect();
    let mut without: Vec<String> = assets::tokens()
        .filter(|token| token.standard == Standard::Eip3009)
        .map(Token::caip19)
        .filter(|name| !recorded.contains(name))
        .collect();
    let mut known = WITHOUT_RECORD.map(str::to_owned);
    without.sort();
    known.sort();
    assert_eq!(without, known);
}

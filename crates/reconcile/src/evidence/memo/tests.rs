use alloy_primitives::{Address, U256};
use serde_json::{Value, json};

use super::*;
use crate::evidence::Finality;
use crate::testimony::{ClaimState, Evidence, Proof};
use crate::verdict::{Dispute, Verdict, verdict};
use bursar_core::assets::Network;
use bursar_core::money::Atoms;
use bursar_rails::rpc::fake::chain::{Chain, memoed};
use bursar_rails::rpc::fake::{Fake, tls};
use bursar_rails::rpc::{RpcError, TEMPO_FEES};

const NETWORK: Network = Network::Eip155(42_431);
const TOKEN: Address = Address::repeat_byte(0x20);
const WALLET: Address = Address::repeat_byte(0x0a);
const PAYEE: Address = Address::repeat_byte(0x0b);
const MEMO: B256 = B256::repeat_byte(0x11);
const TX: B256 = B256::repeat_byte(0xee);
const OTHER_TX: B256 = B256::repeat_byte(0xef);
const GENESIS: u64 = 1_800_000_000;

/// Signed at block 900, valid until block 912, decidable from block 1213 on; final up to block 1300, which is 20 s old.
fn chain() -> Chain {
    let mut chain = Chain::new(GENESIS, 1_300, 1_305);
    chain.id = 42_431;
    chain
}

fn facts() -> Facts {
    Facts {
        network: NETWORK,
        token: TOKEN,
        from: WALLET,
        payee: PAYEE,
        amount: Atoms::new(50_000),
        nonce: MEMO,
        proof: Proof::Memo,
        armed_at: GENESIS + 1_800,
        valid_before: GENESIS + 1_825,
        claim_state: ClaimState::Open,
        claimed_tx: None,
    }
}

/// The transfer, and the fee behind it.
fn paid(block: u64, tx: B256, memo: B256, value: u64) -> Chain {
    let mut chain = chain();
    chain.mine(block, tx, TOKEN, &memoed(WALLET, memo, PAYEE, value));
    let (from, to, value) = (WALLET, TEMPO_FEES, U256::from(744));
    chain.mine(block, tx, TOKEN, &[Event::Transfer { from, to, value }]);
    chain
}

fn cashed(tx: B256, block: u64, amounts: &[u64]) -> Nonce {
    let to = |amount: &u64| Moved {
        to: PAYEE,
        amount: U256::from(*amount),
    };
    let moved = amounts.iter().map(to).collect();
    Nonce::Cashed { tx, block, moved }
}

async fn gathered(facts: &Facts, fake: &Fake) -> Evidence {
    let (tls, nodes) = (tls(), [fake.node()]);
    let finality = Finality::of(&tls, NETWORK, &nodes, GENESIS + 2_620).await;
    finality.evidence(&tls, facts).await
}

async fn said(facts: &Facts, chain: Chain) -> Nonce {
    let evidence = gathered(facts, &Fake::of(chain).await).await;
    assert_eq!(evidence.silent, []);
    evidence.testimonies[0].nonce.clone()
}

#[tokio::test]
async fn the_memo_shows_the_payment_and_its_absence_the_end() {
    assert_eq!(
        said(&facts(), paid(905, TX, MEMO, 50_000)).await,
        cashed(TX, 905, &[50_000])
    );
    for nothing in [chain(), paid(905, TX, B256::repeat_byte(0x12), 50_000)] {
        let fake = Fake::of(nothing).await;
        let evidence = gathered(&facts(), &fake).await;
        assert_eq!(evidence.testimonies[0].nonce, Nonce::Unused);
        let verdict = verdict(&facts(), &evidence);
        assert!(
            matches!(verdict, Verdict::Expired { head } if head.number == 1_300),
            "{verdict:?}"
        );
    }
    // Before the deadline, and for a while after it, nothing is known.
    for (block, wait) in [(912, true), (1_212, true), (1_213, false)] {
        let mut early = chain();
        (early.finalized, early.newest) = (block, block + 3);
        let evidence = gathered(&facts(), &Fake::of(early).await).await;
        let verdict = verdict(&facts(), &evidence);
        assert_eq!(matches!(verdict, Verdict::Wait { .. }), wait, "{verdict:?}");
    }
}

#[tokio::test]
async fn of_two_transfers_with_the_memo_the_one_on_record_is_the_payment() {
    let mut chain = paid(904, OTHER_TX, MEMO, 7);
    chain.mine(905, TX, TOKEN, &memoed(WALLET, MEMO, PAYEE, 50_000));
    assert_eq!(said(&facts(), chain).await, cashed(TX, 905, &[50_000]));
    let mut chain = paid(904, OTHER_TX, MEMO, 7);
    chain.mine(904, OTHER_TX, TOKEN, &memoed(WALLET, MEMO, PAYEE, 8));
    assert_eq!(said(&facts(), chain).await, cashed(OTHER_TX, 904, &[7, 8]));
    // The same memo in another token, or from another wallet, does not concern us.
    let mut chain = self::chain();
    chain.mine(905, TX, PAYEE, &memoed(WALLET, MEMO, PAYEE, 50_000));
    chain.mine(905, OTHER_TX, TOKEN, &memoed(PAYEE, MEMO, PAYEE, 50_000));
    assert_eq!(said(&facts(), chain).await, Nonce::Unused);
}

#[tokio::test]
async fn the_receipts_transaction_shows_what_logs_may_have_lost() {
    let mut facts = facts();
    facts.claimed_tx = Some(TX.to_string());
    assert_eq!(said(&facts, paid(1_303, TX, MEMO, 50_000)).await, Nonce::NotFinal);
    let chain = paid(905, TX, MEMO, 50_000);
    let forgetful = Fake::replying(move |method, params| match method {
        "eth_getLogs" => json!({ "result": [] }),
        _ => chain.answer(method, params),
    })
    .await;
    let evidence = gathered(&facts, &forgetful).await;
    assert_eq!(evidence.testimonies[0].nonce, cashed(TX, 905, &[50_000]));
    facts.claimed_tx = Some(OTHER_TX.to_string());
    assert_eq!(
        said(&facts, paid(905, TX, MEMO, 50_000)).await,
        cashed(TX, 905, &[50_000])
    );
}

#[tokio::test]
async fn a_log_without_its_transaction_explains_nothing() {
    let chain = paid(905, TX, MEMO, 50_000);
    let torn = Fake::replying(move |method, params| match method {
        "eth_getTransactionReceipt" => json!({ "result": null }),
        _ => chain.answer(method, params),
    })
    .await;
    let evidence = gathered(&facts(), &torn).await;
    assert_eq!(evidence.testimonies[0].nonce, Nonce::Unexplained);
}

/// The transfer is reverted, the fee is not.
fn failed(block: u64, tx: B256) -> Chain {
    let mut chain = chain();
    let (from, to, value) = (WALLET, TEMPO_FEES, U256::from(358));
    chain.mine(block, tx, TOKEN, &[Event::Transfer { from, to, value }]);
    chain
}

/// A Tempo transaction as nodes return it, with these bytes after the selector.
fn calling(tx: B256, input: &[B256]) -> Value {
    let words: String = input.iter().map(|word| format!("{word:x}")).collect();
    json!({ "result": {
        "type": "0x76", "hash": tx, "blockNumber": "0x389", "nonce": "0x0", "nonceKey": "0x0",
        "calls": [{ "to": TOKEN, "value": "0x0", "input": format!("0x95777d59{words}") }],
    } })
}

#[tokio::test]
async fn a_transaction_that_failed_took_its_fee_so_that_the_payment_stays_counted() {
    for (memo, expected) in [
        (MEMO, Nonce::Failed { tx: TX, block: 905 }),
        // The fee of another payment of the wallet.
        (B256::repeat_byte(0x12), Nonce::Unused),
    ] {
        let fake = Fake::replying(move |method, params| match method {
            "eth_getTransactionByHash" => calling(TX, &[PAYEE.into_word(), B256::with_last_byte(7), memo]),
            _ => failed(905, TX).answer(method, params),
        })
        .await;
        let evidence = gathered(&facts(), &fake).await;
        assert_eq!(evidence.testimonies[0].nonce, expected);
        let result = verdict(&facts(), &evidence);
        match memo == MEMO {
            true => {
                let why = Dispute::Failed { tx: TX };
                assert_eq!(result, Verdict::Disputed { why });
            }
            false => assert!(matches!(result, Verdict::Expired { .. }), "{result:?}"),
        }
    }
    // A fee whose transaction the node does not show may be this payment's.
    let evidence = gathered(&facts(), &Fake::of(failed(905, TX)).await).await;
    assert_eq!((evidence.testimonies.len(), evidence.silent.len()), (0, 1));
}

/// As anvil returns it.
#[tokio::test]
async fn a_receipt_that_failed_moved_nothing_but_its_fee() {
    let receipt = |logs: Value| json!({ "transactionHash": TX, "blockNumber": "0x389", "status": "0x0", "logs": logs });
    let whole = paid(905, TX, MEMO, 50_000).answer("eth_getTransactionReceipt", &json!([TX]));
    let fee = whole["result"]["logs"][2].clone();
    let failed = receipt(json!([fee]));
    let fake = Fake::replying(move |_, _| json!({ "result": failed })).await;
    let mined = fake.node().mined(&tls(), TX).await.unwrap().unwrap();
    assert_eq!((mined.block, mined.logs.len()), (905, 1));
    // If it claims to have moved anything else, it is not believed.
    let moving = receipt(whole["result"]["logs"].clone());
    let fake = Fake::replying(move |_, _| json!({ "result": moving })).await;
    let error = fake.node().mined(&tls(), TX).await.unwrap_err();
    assert!(matches!(error, RpcError::Answer { .. }), "{error}");
}

/// Several machines answer behind one URL: the heads come from one that is up to date, the logs from one that is five
/// blocks behind and answers with an empty list for blocks it has not seen (geth and reth do that, go-ethereum#24078).
#[tokio::test]
async fn logs_of_a_machine_that_lags_behind_prove_no_absence() {
    // At once, and when it still lags after the extra time.
    for (finalized, now) in [(914, 1_832), (1_300, 2_620)] {
        let mut chain = paid(911, TX, MEMO, 50_000);
        (chain.finalized, chain.newest) = (finalized, finalized + 1);
        let behind = {
            let mut behind = chain.clone();
            behind.logs.retain(|log| log.block <= 910);
            behind
        };
        let balanced = Fake::replying(move |method, params| match method {
            "eth_getLogs" => behind.answer(method, params),
            _ => chain.answer(method, params),
        })
        .await;
        let (tls, nodes) = (tls(), [balanced.node()]);
        let finality = Finality::of(&tls, NETWORK, &nodes, GENESIS + now).await;
        let evidence = finality.evidence(&tls, &facts()).await;
        let verdict = verdict(&facts(), &evidence);
        assert!(
            !matches!(verdict, Verdict::Expired { .. }),
            "paid in block 911: {verdict:?}"
        );
    }
}

/// A pruned node keeps headers but no longer has last week's receipts; reth answered `[]` for those until its pull
/// request 27002. The proxy was off for a week.
#[tokio::test]
async fn a_node_that_has_pruned_its_receipts_proves_no_absence() {
    let mut chain = paid(905, TX, MEMO, 50_000);
    (chain.finalized, chain.newest) = (300_000, 300_005);
    let now = GENESIS + 600_010;
    let pruned = Fake::replying(move |method, params| match method {
        "eth_getLogs" => json!({ "result": [] }),
        "eth_getTransactionReceipt" => json!({ "result": null }),
        _ => chain.answer(method, params),
    })
    .await;
    let (tls, nodes) = (tls(), [pruned.node()]);
    let finality = Finality::of(&tls, NETWORK, &nodes, now).await;
    let evidence = finality.evidence(&tls, &facts()).await;
    assert_eq!(evidence.testimonies[0].nonce, Nonce::Unexplained);
    let verdict = verdict(&facts(), &evidence);
    assert!(
        !matches!(verdict, Verdict::Expired { .. }),
        "paid in block 905: {verdict:?}"
    );
}

#[tokio::test]
async fn a_node_that_does_not_show_the_logs_of_a_header_proves_no_absence() {
    let bent = |bend: fn(&mut Value)| async move {
        let chain = paid(905, TX, MEMO, 50_000);
        let fake = Fake::replying(move |method, params| {
            if method == "eth_getLogs" && params[0]["blockHash"].is_null() {
                return json!({ "result": [] });
            }
            let mut answer = chain.answer(method, params);
            if method == "eth_getLogs" {
                bend(&mut answer["result"]);
            } else if method == "eth_getBlockByNumber" && params[0] == "0x389" {
                bend(&mut answer["result"]["logsBloom"]);
            }
            answer
        })
        .await;
        gathered(&facts(), &fake).await
    };
    // The block has the memo after all, or only part of the logs is shown, or the header describes logs that cannot be
    // read.
    let evidence = bent(|_| {}).await;
    assert_eq!(evidence.testimonies[0].nonce, Nonce::Unexplained);
    let evidence = bent(|logs| {
        if let Some(logs) = logs.as_array_mut() {
            logs.retain(|log| log["logIndex"] != "0x1");
        }
    })
    .await;
    assert_eq!(evidence.testimonies[0].nonce, Nonce::Unexplained);
    let evidence = bent(|bloom| *bloom = Value::Null).await;
    assert_eq!((evidence.testimonies.len(), evidence.silent.len()), (0, 1));
}

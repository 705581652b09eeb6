use alloy_primitives::{Address, U256};
use serde_json::{Value, json};

use super::*;
use crate::assets::Network;
use crate::money::Atoms;
use crate::reconcile::evidence::Finality;
use crate::reconcile::testimony::{Evidence, Proof, Standing};
use crate::reconcile::verdict::{Verdict, verdict};
use crate::rpc::fake::chain::{Chain, memoed};
use crate::rpc::fake::{Fake, tls};
use crate::rpc::{RpcError, TEMPO_FEES};

const NETWORK: Network = Network::Eip155(42_431);
const TOKEN: Address = Address::repeat_byte(0x20);
const WALLET: Address = Address::repeat_byte(0x0a);
const PAYEE: Address = Address::repeat_byte(0x0b);
const MEMO: B256 = B256::repeat_byte(0x11);
const TX: B256 = B256::repeat_byte(0xee);
const OTHER_TX: B256 = B256::repeat_byte(0xef);
const GENESIS: u64 = 1_800_000_000;

/// Signed at block 900, valid until block 912; final up to 1100, which is 20 s old.
fn chain() -> Chain {
    let mut chain = Chain::new(GENESIS, 1_100, 1_105);
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
        standing: Standing::Open,
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

async fn heard(facts: &Facts, fake: &Fake) -> Evidence {
    let (tls, nodes) = (tls(), [fake.node()]);
    let finality = Finality::of(&tls, NETWORK, &nodes, GENESIS + 2_220).await;
    finality.evidence(&tls, facts).await
}

async fn said(facts: &Facts, chain: Chain) -> Nonce {
    let evidence = heard(facts, &Fake::of(chain).await).await;
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
        let evidence = heard(&facts(), &fake).await;
        assert_eq!(evidence.testimonies[0].nonce, Nonce::Unused);
        let verdict = verdict(&facts(), &evidence);
        assert!(
            matches!(verdict, Verdict::Expired { head } if head.number == 1_100),
            "{verdict:?}"
        );
    }
    // Before its time is over, nothing is known.
    let mut early = chain();
    (early.finalized, early.newest) = (912, 915);
    let evidence = heard(&facts(), &Fake::of(early).await).await;
    let verdict = verdict(&facts(), &evidence);
    assert!(matches!(verdict, Verdict::Wait { .. }), "{verdict:?}");
}

#[tokio::test]
async fn of_two_transfers_with_the_memo_the_one_on_record_is_the_payment() {
    let mut chain = paid(904, OTHER_TX, MEMO, 7);
    chain.mine(905, TX, TOKEN, &memoed(WALLET, MEMO, PAYEE, 50_000));
    assert_eq!(said(&facts(), chain).await, cashed(TX, 905, &[50_000]));
    let mut chain = paid(904, OTHER_TX, MEMO, 7);
    chain.mine(904, OTHER_TX, TOKEN, &memoed(WALLET, MEMO, PAYEE, 8));
    assert_eq!(said(&facts(), chain).await, cashed(OTHER_TX, 904, &[7, 8]));
    // Another token's memo, or another wallet's, is none of ours.
    let mut chain = self::chain();
    chain.mine(905, TX, PAYEE, &memoed(WALLET, MEMO, PAYEE, 50_000));
    chain.mine(905, OTHER_TX, TOKEN, &memoed(PAYEE, MEMO, PAYEE, 50_000));
    assert_eq!(said(&facts(), chain).await, Nonce::Unused);
}

#[tokio::test]
async fn the_receipts_transaction_tells_what_logs_may_have_lost() {
    let mut facts = facts();
    facts.claimed_tx = Some(TX.to_string());
    assert_eq!(said(&facts, paid(1_103, TX, MEMO, 50_000)).await, Nonce::NotFinal);
    let chain = paid(905, TX, MEMO, 50_000);
    let forgetful = Fake::replying(move |method, params| match method {
        "eth_getLogs" => json!({ "result": [] }),
        _ => chain.answer(method, params),
    })
    .await;
    let evidence = heard(&facts, &forgetful).await;
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
    let evidence = heard(&facts(), &torn).await;
    assert_eq!(evidence.testimonies[0].nonce, Nonce::Unexplained);
}

/// As anvil writes it: the transfer is undone, the fee is not.
#[tokio::test]
async fn a_transaction_that_failed_cost_its_fee_and_paid_nothing() {
    let receipt = |logs: Value| json!({ "transactionHash": TX, "blockNumber": "0x389", "status": "0x0", "logs": logs });
    let whole = paid(905, TX, MEMO, 50_000).answer("eth_getTransactionReceipt", &json!([TX]));
    let fee = whole["result"]["logs"][2].clone();
    let mut facts = facts();
    facts.claimed_tx = Some(TX.to_string());
    let failed = receipt(json!([fee]));
    let fake = Fake::replying(move |method, params| match method {
        "eth_getTransactionReceipt" => json!({ "result": failed }),
        _ => chain().answer(method, params),
    })
    .await;
    let evidence = heard(&facts, &fake).await;
    assert_eq!(evidence.testimonies[0].nonce, Nonce::Unused, "{evidence:?}");
    // That it moved anything else all the same is not believed.
    let moving = receipt(whole["result"]["logs"].clone());
    let fake = Fake::replying(move |_, _| json!({ "result": moving })).await;
    let error = fake.node().mined(&tls(), TX).await.unwrap_err();
    assert!(matches!(error, RpcError::Answer { .. }), "{error}");
}

/// Review: behind one URL stand several machines. Heads come from one that is up to date, logs from one that is five blocks
/// behind and answers for blocks it has not seen with an empty list (geth and reth do, go-ethereum#24078).
#[tokio::test]
async fn review_logs_of_a_machine_that_lags_behind_prove_no_absence() {
    let mut chain = paid(911, TX, MEMO, 50_000);
    (chain.finalized, chain.newest) = (914, 915);
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
    let finality = Finality::of(&tls, NETWORK, &nodes, GENESIS + 1_832).await;
    let evidence = finality.evidence(&tls, &facts()).await;
    let verdict = verdict(&facts(), &evidence);
    assert!(
        !matches!(verdict, Verdict::Expired { .. }),
        "paid in block 911: {verdict:?}"
    );
}

/// Review: a pruned node keeps heads and has no receipts of last week any more; reth answered `[]` for those until its
/// pull request 27002. bursar was off for a week.
#[tokio::test]
async fn review_a_node_that_has_pruned_its_receipts_proves_no_absence() {
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
    let verdict = verdict(&facts(), &evidence);
    assert!(
        !matches!(verdict, Verdict::Expired { .. }),
        "paid in block 905: {verdict:?}"
    );
}

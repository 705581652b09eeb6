use alloy_primitives::{Address, U256};
use serde_json::{Value, json};

use super::*;
use crate::testimony::ClaimState;
use crate::verdict::{Unproven, Verdict, verdict};
use bursar_core::money::Atoms;
use bursar_rails::rpc::fake::chain::{Chain, cashing};
use bursar_rails::rpc::fake::{Fake, hash, tls};

const NETWORK: Network = Network::Eip155(84_532);
const TOKEN: Address = Address::repeat_byte(0x70);
const WALLET: Address = Address::repeat_byte(0x0a);
const PAYEE: Address = Address::repeat_byte(0x0b);
const NONCE: B256 = B256::repeat_byte(0x11);
const TX: B256 = B256::repeat_byte(0xee);
const GENESIS: u64 = 1_800_000_000;

/// Signed at block 900, valid until block 1050; final up to block 1100, which is 20 s old.
fn chain() -> Chain {
    Chain::new(GENESIS, 1_100, 1_105)
}

fn paid() -> Chain {
    let mut chain = chain();
    chain.mine(5, B256::repeat_byte(1), TOKEN, &cashing(WALLET, B256::ZERO, PAYEE, 1));
    chain.mine(910, TX, TOKEN, &cashing(WALLET, NONCE, PAYEE, 10_000));
    chain
}

fn cancelled_at(block: u64) -> Chain {
    let mut chain = chain();
    let cancelled = Event::AuthorizationCanceled {
        authorizer: WALLET,
        nonce: NONCE,
    };
    chain.mine(block, TX, TOKEN, &[cancelled]);
    chain
}

fn facts() -> Facts {
    Facts {
        network: NETWORK,
        token: TOKEN,
        from: WALLET,
        payee: PAYEE,
        amount: Atoms::new(10_000),
        nonce: NONCE,
        proof: Proof::Authorization,
        armed_at: GENESIS + 1_800,
        valid_before: GENESIS + 2_100,
        claim_state: ClaimState::Open,
        claimed_tx: None,
    }
}

fn moved() -> Nonce {
    Nonce::Cashed {
        tx: TX,
        block: 910,
        moved: vec![Moved {
            to: PAYEE,
            amount: U256::from(10_000),
        }],
    }
}

async fn gathered(facts: &Facts, fakes: &[&Fake]) -> Evidence {
    let nodes: Vec<Node> = fakes.iter().map(|fake| fake.node()).collect();
    let tls = tls();
    let finality = Finality::of(&tls, NETWORK, &nodes, GENESIS + 2_220).await;
    finality.evidence(&tls, facts).await
}

/// What one node testifies.
async fn alone(facts: &Facts, chain: Chain) -> Nonce {
    let evidence = gathered(facts, &[&Fake::of(chain).await]).await;
    assert_eq!(evidence.silent, []);
    evidence.testimonies[0].nonce.clone()
}

#[tokio::test]
async fn a_nonce_is_unused_cashed_or_cancelled() {
    assert_eq!(alone(&facts(), chain()).await, Nonce::Unused);
    assert_eq!(alone(&facts(), paid()).await, moved());
    for block in [950, 1_051, 1_090] {
        let said = alone(&facts(), cancelled_at(block)).await;
        assert_eq!(said, Nonce::Cancelled { tx: TX, block });
    }
}

#[tokio::test]
async fn the_receipts_transaction_saves_the_search() {
    let fake = Fake::of(paid()).await;
    gathered(&facts(), &[&fake]).await;
    let searching = fake.asked();
    let mut facts = facts();
    facts.claimed_tx = Some(TX.to_string());
    let fake = Fake::of(paid()).await;
    assert_eq!(gathered(&facts, &[&fake]).await.testimonies[0].nonce, moved());
    assert!(fake.asked() < searching, "{} of {searching}", fake.asked());
    // If it is not a transaction, or is another payment's, the search is still needed.
    for other in [
        B256::repeat_byte(1).to_string(),
        B256::repeat_byte(9).to_string(),
        "0x".into(),
    ] {
        facts.claimed_tx = Some(other);
        assert_eq!(alone(&facts, paid()).await, moved());
    }
}

#[tokio::test]
async fn what_is_above_the_head_is_not_final() {
    let mut chain = chain();
    chain.mine(1_103, TX, TOKEN, &cashing(WALLET, NONCE, PAYEE, 10_000));
    assert_eq!(alone(&facts(), chain.clone()).await, Nonce::Unused);
    let mut facts = facts();
    facts.claimed_tx = Some(TX.to_string());
    assert_eq!(alone(&facts, chain).await, Nonce::NotFinal);
}

#[tokio::test]
async fn a_pruned_node_testifies_with_its_newest_state() {
    let pruned = |mut chain: Chain| {
        chain.state_since = 1_102;
        chain
    };
    assert_eq!(alone(&facts(), pruned(chain())).await, Nonce::Unused);
    assert_eq!(alone(&facts(), pruned(paid())).await, moved());
    assert_eq!(alone(&facts(), pruned(cancelled_at(1_101))).await, Nonce::NotFinal);
    // Without any state there is no testimony.
    let mut chain = chain();
    chain.state_since = u64::MAX;
    let evidence = gathered(&facts(), &[&Fake::of(chain).await]).await;
    assert_eq!(evidence.testimonies, []);
    assert!(
        evidence.silent[0].why.contains("does not keep the state of block"),
        "{evidence:?}"
    );
}

#[tokio::test]
async fn a_newest_state_from_before_the_head_proves_nothing() {
    let mut chain = paid();
    chain.state_since = 1_101;
    // A state from before the payment, presented as the newest one.
    let fake = Fake::replying(move |method, params| match (method, params[0].as_str()) {
        ("eth_getBlockByNumber", Some("latest")) => chain.answer(method, &json!(["0x320", false])),
        ("eth_call", _) if params[1] == "0x320" => state(0),
        _ => chain.answer(method, params),
    })
    .await;
    let evidence = gathered(&facts(), &[&fake]).await;
    assert_eq!(evidence.testimonies, []);
    assert!(evidence.silent[0].why.contains("state of block 1100"), "{evidence:?}");
}

/// A node that answers like `chain`, except for one method.
async fn lying(chain: Chain, about: &'static str, lie: Value) -> Fake {
    Fake::replying(move |method, params| match method == about {
        true => lie.clone(),
        false => chain.answer(method, params),
    })
    .await
}

fn state(spent: u8) -> Value {
    json!({ "result": format!("0x{spent:064x}") })
}

#[tokio::test]
async fn a_lying_node_does_not_free_money() {
    let honest = Fake::of(paid()).await;
    let liar = lying(paid(), "eth_call", state(0)).await;
    let evidence = gathered(&facts(), &[&liar, &honest]).await;
    let why = Unproven::Contradiction;
    assert_eq!(verdict(&facts(), &evidence), Verdict::Unclear { why });
    // It shows the very payment whose nonce it says is unused.
    let mut facts = facts();
    facts.claimed_tx = Some(TX.to_string());
    let evidence = gathered(&facts, &[&liar]).await;
    assert_eq!(evidence.testimonies[0].nonce, Nonce::Unexplained);
}

#[tokio::test]
async fn a_used_nonce_without_an_event_explains_nothing() {
    let liar = lying(chain(), "eth_call", state(1)).await;
    let evidence = gathered(&facts(), &[&liar]).await;
    assert_eq!(evidence.testimonies[0].nonce, Nonce::Unexplained);
    // The event is in one block, its transaction in another, which is not final.
    let mut later = chain();
    later.mine(1_103, TX, TOKEN, &cashing(WALLET, NONCE, PAYEE, 10_000));
    let receipt = later.answer("eth_getTransactionReceipt", &json!([TX]));
    let torn = lying(paid(), "eth_getTransactionReceipt", receipt).await;
    let evidence = gathered(&facts(), &[&torn]).await;
    assert_eq!(evidence.testimonies[0].nonce, Nonce::Unexplained);
    // The node does not keep the logs.
    let forgetful = lying(paid(), "eth_getLogs", json!({ "result": [] })).await;
    let evidence = gathered(&facts(), &[&forgetful]).await;
    assert_eq!(evidence.testimonies[0].nonce, Nonce::Unexplained);
}

#[tokio::test]
async fn a_node_that_fails_is_silent_and_then_there_is_no_release() {
    let honest = Fake::of(chain()).await;
    let nonsense = lying(chain(), "eth_call", json!({ "result": "0x" })).await;
    let mut elsewhere = chain();
    elsewhere.id = 1;
    let elsewhere = Fake::of(elsewhere).await;
    let old = lying(
        chain(),
        "eth_getBlockByNumber",
        json!({ "error": { "code": -32602, "message": "invalid argument 0" } }),
    )
    .await;
    for (silent, why) in [
        (&nonsense, "does not fit the question"),
        (&elsewhere, "serves eip155:1, not eip155:84532"),
        (&old, "use a node that supports the block tag"),
    ] {
        let evidence = gathered(&facts(), &[&honest, silent]).await;
        assert_eq!(evidence.testimonies.len(), 1);
        assert_eq!(evidence.silent[0].node, silent.node().shown());
        assert!(evidence.silent[0].why.contains(why), "{evidence:?}");
        let why = Unproven::TooFewAnswers {
            answers: 1,
            configured: 2,
        };
        assert_eq!(verdict(&facts(), &evidence), Verdict::Unclear { why });
    }
    let second = Fake::of(chain()).await;
    // Two honest nodes are not enough either while a third one is silent.
    let evidence = gathered(&facts(), &[&honest, &nonsense, &second]).await;
    let why = Unproven::TooFewAnswers {
        answers: 2,
        configured: 3,
    };
    assert_eq!(verdict(&facts(), &evidence), Verdict::Unclear { why });
    let third = Fake::of(chain()).await;
    let evidence = gathered(&facts(), &[&honest, &third, &second]).await;
    assert!(
        matches!(verdict(&facts(), &evidence), Verdict::Expired { .. }),
        "{evidence:?}"
    );
    // A node that is named twice is still one node.
    let evidence = gathered(&facts(), &[&honest, &nonsense, &honest]).await;
    assert_eq!((evidence.configured, evidence.testimonies.len()), (2, 1));
}

#[tokio::test]
async fn the_lowest_head_counts_and_every_node_must_have_it() {
    let mut behind = chain();
    behind.finalized = 1_040;
    behind.newest = 1_045;
    let (ahead, behind) = (Fake::of(chain()).await, Fake::of(behind).await);
    let evidence = gathered(&facts(), &[&ahead, &behind]).await;
    let Head::Agreed(head) = evidence.head else {
        panic!("{evidence:?}")
    };
    assert_eq!((head.number, head.hash), (1_040, hash(1_040)));
    assert!(
        matches!(verdict(&facts(), &evidence), Verdict::Wait { .. }),
        "{evidence:?}"
    );

    // A different time for the same block means a different chain.
    let mut other = chain();
    other.genesis += 1;
    other.finalized = 1_090;
    let other = Fake::of(other).await;
    let evidence = gathered(&facts(), &[&ahead, &other]).await;
    assert_eq!((evidence.head, evidence.testimonies.len()), (Head::Forked(1_090), 0));
    let why = Unproven::Forked { block: 1_090 };
    assert_eq!(verdict(&facts(), &evidence), Verdict::Unclear { why });
}

#[tokio::test]
async fn without_nodes_there_is_nothing() {
    let evidence = gathered(&facts(), &[]).await;
    assert_eq!((evidence.head, evidence.configured), (Head::Unknown, 0));
    let why = Unproven::NoAnswer;
    assert_eq!(verdict(&facts(), &evidence), Verdict::Unclear { why });
}

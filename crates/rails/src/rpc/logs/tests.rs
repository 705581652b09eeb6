use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::super::fake::chain::{Chain, cashing, log_json};
use super::super::fake::{Fake, number, tls};
use super::*;

const TOKEN: Address = Address::repeat_byte(0x70);
const OTHER_TOKEN: Address = Address::repeat_byte(0x71);
const WALLET: Address = Address::repeat_byte(0x0a);
const PAYEE: Address = Address::repeat_byte(0x0b);
const NONCE: B256 = B256::repeat_byte(0x11);
const OTHER_NONCE: B256 = B256::repeat_byte(0x12);
const TX: B256 = B256::repeat_byte(0xee);

fn chain() -> Chain {
    let mut chain = Chain::new(1_000, 5_000, 5_000);
    chain.mine(10, B256::repeat_byte(1), TOKEN, &cashing(WALLET, OTHER_NONCE, PAYEE, 3));
    chain.mine(4_321, TX, TOKEN, &cashing(WALLET, NONCE, PAYEE, 7));
    let cancelled = Event::AuthorizationCanceled {
        authorizer: WALLET,
        nonce: NONCE,
    };
    chain.mine(4_400, B256::repeat_byte(2), OTHER_TOKEN, &[cancelled]);
    chain
}

async fn of_nonce(fake: &Fake, blocks: RangeInclusive<u64>) -> Result<Vec<Log>, RpcError> {
    fake.node().nonce_events(&tls(), TOKEN, WALLET, NONCE, blocks).await
}

#[tokio::test]
async fn a_nonce_is_found_wherever_it_was_used() {
    let fake = Fake::of(chain()).await;
    let found = of_nonce(&fake, 0..=5_000).await.unwrap();
    let used = Event::AuthorizationUsed {
        authorizer: WALLET,
        nonce: NONCE,
    };
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].event, found[0].block, found[0].tx), (used, 4_321, TX));
    assert_eq!(fake.asked(), 3, "2 000 blocks each");
    assert_eq!(of_nonce(&fake, 0..=4_320).await.unwrap(), []);
    assert_eq!(of_nonce(&fake, 4_321..=4_321).await.unwrap(), found);
    let asked = fake.asked();
    #[allow(clippy::reversed_empty_ranges, reason = "no blocks, no question")]
    let none = of_nonce(&fake, 1..=0).await.unwrap();
    assert_eq!((none, fake.asked()), (vec![], asked));
}

#[tokio::test]
async fn a_range_shrinks_until_the_node_takes_it() {
    for range in [1, 3, 100, 500, 1_999] {
        let mut chain = chain();
        chain.range = range;
        let fake = Fake::of(chain).await;
        let tokens = [TOKEN];
        let found = fake
            .node()
            .departures(&tls(), &tokens, WALLET, 4_000..=4_999)
            .await
            .unwrap();
        assert_eq!(found.iter().map(|log| log.index).collect::<Vec<_>>(), [2, 3], "{range}");
    }
}

#[tokio::test]
async fn every_block_is_asked_for_once_and_only_once() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let fake = Fake::replying({
        let asked = asked.clone();
        move |_, params| {
            let (first, last) = (number(&params[0]["fromBlock"]), number(&params[0]["toBlock"]));
            if last - first >= 300 {
                return json!({ "error": { "code": -32602, "message": "query returned more than 10000 results" } });
            }
            asked.lock().unwrap().push((first, last));
            json!({ "result": [] })
        }
    })
    .await;
    assert_eq!(of_nonce(&fake, 5..=9_999).await.unwrap(), []);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.first().unwrap().0, 5);
    assert_eq!(asked.last().unwrap().1, 9_999);
    assert!(asked.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{asked:?}");
}

#[tokio::test]
async fn a_node_that_always_refuses_or_never_ends_is_given_up() {
    let fake = Fake::replying(|_, _| json!({ "error": { "code": -32005, "message": "too many" } })).await;
    let error = of_nonce(&fake, 0..=9_999).await.unwrap_err();
    assert!(matches!(error, RpcError::Refused { code: -32005, .. }), "{error}");
    assert!(fake.asked() < 20, "{}", fake.asked());

    let fake = Fake::replying(|_, _| json!({ "error": { "code": -32601, "message": "no such method" } })).await;
    of_nonce(&fake, 0..=9_999).await.unwrap_err();
    assert_eq!(fake.asked(), 1);

    // A range that would take forever, from a node that claims an impossible head.
    let fake = Fake::replying(|_, _| json!({ "result": [] })).await;
    let error = of_nonce(&fake, 0..=u64::MAX).await.unwrap_err();
    assert!(matches!(error, RpcError::TooMuch { .. }), "{error}");
    assert_eq!(of_nonce(&fake, u64::MAX - 1..=u64::MAX).await.unwrap(), []);
}

#[tokio::test]
async fn logs_that_were_not_asked_for_are_no_answer() {
    let good = log_json(&chain().logs[2]);
    let answered = |log: Value| async move {
        let fake = Fake::replying(move |_, _| json!({ "result": [log] })).await;
        of_nonce(&fake, 4_000..=4_999).await
    };
    assert_eq!(answered(good.clone()).await.unwrap(), [chain().logs[2].clone()]);
    let topics = good["topics"].clone();
    let with_topic = |at: usize, word: Value| {
        let mut topics = topics.clone();
        topics[at] = word;
        topics
    };
    for (member, bad) in [
        ("address", json!(OTHER_TOKEN)),
        ("address", json!("0x70")),
        ("topics", json!([])),
        ("topics", json!(null)),
        ("topics", json!([topics[0], topics[1], topics[2], topics[2], topics[2]])),
        ("topics", json!([topics[0], topics[1]])),
        ("topics", json!([topics[0], topics[1], topics[2], topics[2]])),
        ("topics", with_topic(0, json!(B256::ZERO))),
        ("topics", with_topic(1, json!(PAYEE.into_word()))),
        ("topics", with_topic(1, json!(B256::repeat_byte(0x0a)))),
        ("topics", with_topic(2, json!(OTHER_NONCE))),
        ("data", json!("0x00")),
        ("data", json!(7)),
        ("blockNumber", json!("0x1")),
        ("blockNumber", json!(null)),
        ("blockNumber", json!(format!("0x{}", "f".repeat(64)))),
        ("transactionHash", json!("0x")),
        ("logIndex", json!("0x1ffffffffffffffff")),
        ("removed", json!(true)),
        ("removed", json!("no")),
    ] {
        let mut log = good.clone();
        log[member] = bad.clone();
        let error = answered(log).await.unwrap_err();
        assert!(matches!(error, RpcError::Answer { .. }), "{member} {bad}: {error}");
    }
}

#[tokio::test]
async fn a_transaction_is_read_with_the_logs_that_concern_us() {
    let node_says = |receipt: Value| async move {
        let fake = Fake::replying(move |_, _| json!({ "result": receipt })).await;
        fake.node().mined(&tls(), TX).await
    };
    let good = chain().answer("eth_getTransactionReceipt", &json!([TX]))["result"].clone();
    let mined = node_says(good.clone()).await.unwrap().unwrap();
    assert_eq!((mined.block, &mined.logs[..]), (4_321, &chain().logs[2..4]));
    assert_eq!(node_says(json!(null)).await.unwrap(), None);

    // An NFT's transfer has the same name and four topics; it does not concern us.
    let mut with_foreign = good.clone();
    let mut foreign = good["logs"][1].clone();
    let topics = foreign["topics"].as_array_mut().unwrap();
    topics.push(json!(NONCE));
    with_foreign["logs"].as_array_mut().unwrap().insert(0, foreign);
    assert_eq!(node_says(with_foreign).await.unwrap().unwrap(), mined);

    let reverted = json!({ "transactionHash": TX, "blockNumber": "0x1", "status": "0x0", "logs": [] });
    assert_eq!(node_says(reverted).await.unwrap().unwrap().logs, []);

    for (member, bad) in [
        ("transactionHash", json!(B256::ZERO)),
        ("blockNumber", json!("0x1")),
        ("blockNumber", json!(null)),
        ("status", json!("0x0")),
        ("status", json!("0x2")),
        ("status", json!(null)),
        ("logs", json!({})),
    ] {
        let mut receipt = good.clone();
        receipt[member] = bad.clone();
        let error = node_says(receipt).await.unwrap_err();
        assert!(matches!(error, RpcError::Answer { .. }), "{member} {bad}: {error}");
    }
}

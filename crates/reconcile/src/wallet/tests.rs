use alloy_primitives::{B256, U256};
use serde_json::json;

use super::*;
use crate::Notice;
use crate::world::{BEGAN, NETWORK, PAYEE, WALLET, World, asset, world_on_disk};
use bursar_ledger::Resolution;
use bursar_rails::rpc::Event as OnChain;
use bursar_rails::rpc::fake::{Fake, number};

const THIEF: Address = Address::repeat_byte(0xbb);

async fn search(world: &World) -> Report {
    let heads = world.reconciler.heads([NETWORK]).await;
    let mut findings = world.reconciler.findings().await.unwrap();
    world.reconciler.outflows(&mut findings, &heads, &|_| {}).await
}

fn cursor(world: &World) -> Option<u64> {
    let cursors = Cursors::load(world.reconciler.home.reconciled());
    Some(cursors.of(NETWORK, WALLET)?.block)
}

/// Somebody who has the key takes money.
fn steal(world: &World, n: u8, block: u64) {
    let theft = OnChain::Transfer {
        from: WALLET,
        to: THIEF,
        value: U256::from(77),
    };
    let mut chain = world.chain.lock().unwrap();
    chain.mine(block, B256::repeat_byte(n), asset().address, &[theft]);
}

async fn recorded(world: &World) -> Vec<B256> {
    let findings = world.reconciler.findings().await.unwrap();
    findings.outflows.iter().map(|(_, outflow)| outflow.tx).collect()
}

#[tokio::test]
async fn what_no_payment_explains_is_recorded_once_and_ours_is_not() {
    let world = world_on_disk().await;
    world.settled(1).await;
    world.unknown(2).await;
    world.cash(1, 4);
    world.cash(2, 6);
    steal(&world, 0xa1, 5_004);
    // From before the ledger began, so it does not concern us.
    steal(&world, 0xa0, 4_000);
    world.at(30);
    let report = search(&world).await;
    assert_eq!(report.unsearched, []);
    let tx = B256::repeat_byte(0xa1);
    assert_eq!(report.outflows.len(), 1, "{report:?}");
    let line = &report.outflows[0];
    assert_eq!(
        (&line.tx, &line.amount, line.block),
        (&tx.to_string(), &"77".to_owned(), 5_004)
    );
    assert_eq!(
        (line.amount_decimal.as_deref(), &line.payee),
        (Some("0.000077"), &format!("{THIEF:#x}"))
    );
    assert_eq!(cursor(&world), Some(5_010));
    assert!(matches!(&world.received.lock().unwrap()[..], [Notice::Outflow(outflow)] if outflow.tx == tx));

    // Only new blocks are searched, and a lost cursor causes no second entry.
    let asked = world.fake.asked();
    assert_eq!(search(&world).await, Report::default());
    assert_eq!(world.fake.asked() - asked, 2, "the head, and no blocks");
    std::fs::remove_file(world.reconciler.home.reconciled()).unwrap();
    assert_eq!(search(&world).await, Report::default());
    assert_eq!(recorded(&world).await, [tx]);

    // A payment whose deadline is before the cursor explains nothing that comes after it.
    world.settled(3).await;
    world.cash(3, 40);
    steal(&world, 0xa2, 5_022);
    world.at(1_000);
    assert_eq!(search(&world).await.outflows.len(), 1);
    assert_eq!(recorded(&world).await, [tx, B256::repeat_byte(0xa2)]);
}

#[tokio::test]
async fn what_an_operator_declared_dead_is_not_counted_and_so_explains_nothing() {
    let world = world_on_disk().await;
    let rid = world.unknown(1).await;
    let (who, why) = ("uid:0".to_owned(), "sure".to_owned());
    let dead = world.ledger().resolve(rid, Resolution::Expired, who, why).await;
    dead.unwrap();
    world.cash(1, 4);
    world.at(30);
    let report = search(&world).await;
    assert_eq!(report.outflows.len(), 1, "{report:?}");
    assert_eq!(report.outflows[0].payee, format!("{PAYEE:#x}"));
}

#[tokio::test]
async fn the_cursor_is_where_a_search_ended() {
    let mut world = world_on_disk().await;
    world.settled(1).await;
    // Two months later; the node has no logs of the second step.
    let later = 2 * 250_000;
    world.at(later);
    steal(&world, 0xa1, 50_000);
    steal(&world, 0xa2, 240_000);
    let chain = world.chain.clone();
    let failing = Fake::replying(move |method, params| {
        let is_pruned = method == "eth_getLogs" && number(&params[0]["toBlock"]) > 150_000;
        match is_pruned {
            true => json!({ "error": { "code": -32000, "message": "pruned" } }),
            false => chain.lock().unwrap().answer(method, params),
        }
    })
    .await;
    let reconciler = std::sync::Arc::get_mut(&mut world.reconciler).unwrap();
    let whole = reconciler.nodes.insert(NETWORK, vec![failing.node()]).unwrap();
    let report = search(&world).await;
    assert_eq!(report.unsearched.len(), 1, "{report:?}");
    assert!(report.unsearched[0].why.contains("pruned"), "{report:?}");
    assert_eq!(recorded(&world).await, [B256::repeat_byte(0xa1)]);
    let began = (BEGAN - (BEGAN - 10_000) - CLOCK_SLACK_S) / 2;
    assert_eq!(cursor(&world), Some(began + STEP - 1));

    let reconciler = std::sync::Arc::get_mut(&mut world.reconciler).unwrap();
    reconciler.nodes.insert(NETWORK, whole);
    let report = search(&world).await;
    assert_eq!((report.outflows.len(), report.unsearched.len()), (1, 0), "{report:?}");
    assert_eq!(cursor(&world), Some((9_990 + later) / 2));
}

use alloy_primitives::B256;

use super::*;
use crate::Conclusion;
use crate::world::{BEGAN, CENT, NETWORK, PAYEE, VALID_S, WALLET, World, asset, time, world, world_on_disk};
use bursar_ledger::{Resolution, Source};
use bursar_rails::rpc::fake::chain::cashing;

async fn run(world: &World, question: Question) -> Report {
    world.reconciler.run(&question, &|_| {}).await.unwrap()
}

fn findings(report: &Report) -> Vec<(PaymentId, Finding)> {
    report.payments.iter().map(|line| (line.id, line.finding)).collect()
}

const WEEK_S: u64 = 7 * 24 * 3_600;

#[tokio::test]
async fn a_dispute_is_reported_for_a_week_and_later_on_request() {
    let world = world_on_disk().await;
    let liar = world.settled(1).await;
    world.at(VALID_S + 20);
    for _ in 0..2 {
        let report = run(&world, Question::default()).await;
        assert_eq!(findings(&report), [(liar, Finding::Disputed)]);
        assert_eq!(report.conclusion(), Conclusion::Mismatch);
    }
    world.at(VALID_S + 30 + WEEK_S);
    assert_eq!(run(&world, Question::default()).await.conclusion(), Conclusion::Matched);
    let since = Some(time(BEGAN));
    let report = run(&world, Question { ids: vec![], since }).await;
    assert_eq!(findings(&report), [(liar, Finding::Disputed)]);
    assert_eq!(
        report.payments[0].why,
        world.ledger().get(liar).await.unwrap().unwrap().disputed
    );
}

#[tokio::test]
async fn what_the_ledger_no_longer_waits_for_is_compared_on_request() {
    let world = world_on_disk().await;
    let (honest, liar) = (world.settled(1).await, world.settled(2).await);
    world.cash(1, 4);
    world.at(WEEK_S + 60);
    // Any entry makes the ledger check its list.
    world.unknown(3).await;
    assert_eq!(world.ledger().unconfirmed().await.unwrap(), []);
    let report = run(&world, Question::default()).await;
    assert_eq!(report.payments.len(), 1, "{report:?}");
    let since = Some(time(BEGAN));
    let report = run(&world, Question { ids: vec![], since }).await;
    assert_eq!(
        findings(&report)[..2],
        [(honest, Finding::Confirmed), (liar, Finding::Disputed)]
    );
}

#[tokio::test]
async fn by_name_any_payment_can_be_asked_about() {
    let world = world().await;
    let (dead, armed, lost) = (world.unknown(1).await, world.armed(2).await, world.unknown(3).await);
    let (who, why) = ("uid:0".to_owned(), "the merchant said so".to_owned());
    let resolved = world.ledger().resolve(dead, Resolution::Expired, who, why).await;
    resolved.unwrap();
    for n in 1..=3 {
        world.cash(n, 4);
    }
    world.at(20);
    let ids = vec![dead, armed, lost];
    let report = run(&world, Question { ids, since: None }).await;
    let expected = [
        (dead, Finding::Disputed),
        (armed, Finding::Pending),
        (lost, Finding::Settled),
    ];
    assert_eq!(findings(&report), expected);
    let why = report.payments[0].why.as_deref().unwrap();
    assert!(
        why.starts_with("an operator says it was not paid, but transaction 0x01"),
        "{why}"
    );
    assert_eq!(world.state_of(lost).await, (State::Settled, Some(Source::Chain)));
    assert_eq!(world.state_of(armed).await, (State::Armed, None));

    let nobodys = PaymentId::new(world.reconciler.clock.now(), [9; 10]);
    let question = Question {
        ids: vec![nobodys],
        since: None,
    };
    let unable = world.reconciler.run(&question, &|_| {}).await;
    assert_eq!(unable, Err(Unable::NoPayment(nobodys)));
}

#[tokio::test]
async fn a_receipt_that_names_another_transaction_is_noted_and_matches() {
    let world = world().await;
    let rid = world.settled(1).await;
    let events = cashing(WALLET, B256::repeat_byte(1), PAYEE, CENT);
    let real = B256::repeat_byte(0x77);
    let token = asset().address;
    world.chain.lock().unwrap().mine(5_002, real, token, &events);
    world.at(20);
    let question = Question {
        ids: vec![rid],
        since: None,
    };
    let report = run(&world, question).await;
    assert_eq!(report.conclusion(), Conclusion::Matched);
    let line = &report.payments[0];
    assert_eq!(line.tx, Some(real.to_string()));
    assert!(
        line.why.as_deref().unwrap().starts_with("the receipt named another"),
        "{line:?}"
    );
    let payment = world.ledger().get(rid).await.unwrap().unwrap();
    assert_eq!((payment.by, payment.tx), (Some(Source::Chain), Some(real.to_string())));
}

#[tokio::test]
async fn without_nodes_there_is_no_report() {
    let mut world = world().await;
    let reconciler = std::sync::Arc::get_mut(&mut world.reconciler).unwrap();
    reconciler.nodes = [(NETWORK, Vec::new())].into();
    let unable = world.reconciler.run(&Question::default(), &|_| {}).await;
    assert_eq!(unable, Err(Unable::NoNodes));
}

use alloy_primitives::B256;
use http::HeaderName;

use super::*;
use crate::reconciler::Notice;
use crate::testimony::{ClaimState, Proof};
use crate::world::{BEGAN, CENT, NETWORK, PAYEE, VALID_S, WALLET, World, asset, time, world};
use bursar_core::challenge::{Credential, Rail};
use bursar_core::money::Atoms;
use bursar_ledger::{Event, Source};
use bursar_rails::outstanding::{Claim, Target};

#[tokio::test]
async fn what_is_final_is_recorded_and_what_is_under_way_is_left_alone() {
    let world = world().await;
    let mut keeper = Keeper::new(world.reconciler.clone());
    let (claimed, lost, dead) = (world.settled(1).await, world.unknown(2).await, world.unknown(3).await);
    let under_way = world.armed(4).await;
    for n in [1, 2, 4] {
        world.cash(n, 2);
    }
    keeper.pass().await;
    assert_eq!(world.state_of(claimed).await, (State::Settled, Some(Source::Merchant)));
    assert_eq!(world.state_of(lost).await, (State::Unknown, None));

    world.at(20);
    keeper.pass().await;
    assert_eq!(world.state_of(claimed).await, (State::Settled, Some(Source::Chain)));
    assert_eq!(world.state_of(lost).await, (State::Settled, Some(Source::Chain)));
    assert_eq!(world.state_of(dead).await, (State::Unknown, None));
    assert_eq!(world.state_of(under_way).await, (State::Armed, None));
    let tx = world.ledger().get(lost).await.unwrap().unwrap().tx;
    assert_eq!(tx, Some(B256::repeat_byte(2).to_string()));

    // The deadline itself is too early, both by our clock and by the chain's.
    world.at(VALID_S + 9);
    keeper.pass().await;
    assert_eq!(
        (world.state_of(dead).await, world.counted().await),
        ((State::Unknown, None), 40_000)
    );
    world.at(VALID_S + 20);
    keeper.pass().await;
    assert_eq!(world.state_of(dead).await, (State::Expired, Some(Source::Chain)));
    assert_eq!(world.counted().await, 30_000);
    assert_eq!(*world.received.lock().unwrap(), []);
    // Nothing is waiting any more, so no node is asked.
    let asked = world.fake.asked();
    world.at(10_000);
    keeper.pass().await;
    assert_eq!(world.fake.asked(), asked);
}

/// An `evm` charge is cashed with the same token call as x402's `exact` (MPP §7.1), so the same questions prove it.
#[tokio::test]
async fn an_mpp_payment_is_proven_by_its_authorization() {
    let mut world = world().await;
    world.rail = Rail::MppEvm;
    let mut keeper = Keeper::new(world.reconciler.clone());
    let (claimed, lost, dead) = (world.settled(1).await, world.unknown(2).await, world.unknown(3).await);
    let uncashed = world.settled(4).await;
    let payment = world.ledger().get(claimed).await.unwrap().unwrap();
    let terms = (payment.reserved.rail.as_str(), payment.reserved.scheme.as_str());
    assert_eq!(terms, ("mpp.evm", "charge"));
    let facts = Facts {
        network: NETWORK,
        token: asset().address,
        from: WALLET,
        payee: PAYEE,
        amount: Atoms::new(CENT.into()),
        nonce: B256::repeat_byte(1),
        proof: Proof::Authorization,
        armed_at: BEGAN,
        valid_before: BEGAN + VALID_S,
        claim_state: ClaimState::Claimed,
        claimed_tx: Some(B256::repeat_byte(1).to_string()),
    };
    assert_eq!(Facts::of(&payment), Some(facts));

    world.cash(1, 2);
    world.cash(2, 2);
    world.at(VALID_S + 20);
    keeper.pass().await;
    assert_eq!(world.state_of(claimed).await, (State::Settled, Some(Source::Chain)));
    assert_eq!(world.state_of(lost).await, (State::Settled, Some(Source::Chain)));
    assert_eq!(world.state_of(dead).await, (State::Expired, Some(Source::Chain)));
    // There is a `Payment-Receipt`, but no payment.
    assert_eq!(world.state_of(uncashed).await, (State::Settled, Some(Source::Merchant)));
    assert!(matches!(world.received.lock().unwrap()[..], [Notice::Disputed { rid, .. }] if rid == uncashed));
    assert_eq!(world.counted().await, 30_000);
}

#[tokio::test]
async fn a_receipt_without_a_payment_is_disputed_once_and_stays_counted() {
    let world = world().await;
    let mut keeper = Keeper::new(world.reconciler.clone());
    let claimed = world.settled(1).await;
    for seconds in [0, 100, VALID_S + 20, VALID_S + 2_000] {
        world.at(seconds);
        keeper.pass().await;
    }
    let payment = world.ledger().get(claimed).await.unwrap().unwrap();
    assert_eq!((payment.state, payment.by), (State::Settled, Some(Source::Merchant)));
    assert!(payment.disputed.unwrap().starts_with("the receipt says paid"));
    assert_eq!(world.counted().await, 10_000);
    let received = world.received.lock().unwrap();
    assert!(
        matches!(&received[..], [Notice::Disputed { rid, .. }] if *rid == claimed),
        "{received:?}"
    );
}

#[tokio::test]
async fn a_silent_node_is_asked_with_growing_patience() {
    let world = world().await;
    let mut keeper = Keeper::new(world.reconciler.clone());
    let rid = world.unknown(1).await;
    world.chain.lock().unwrap().id = 1;
    let mut asks = Vec::new();
    for second in 0..700 {
        world.clock.set(time(BEGAN + second));
        let before = world.fake.asked();
        keeper.pass().await;
        if world.fake.asked() > before {
            asks.push(second);
        }
    }
    assert_eq!(asks, [0, 5, 15, 35, 75, 155, 315, 635]);
    assert_eq!(world.state_of(rid).await, (State::Unknown, None));
}

#[tokio::test]
async fn more_than_a_batch_is_asked_about_batch_by_batch() {
    let world = world().await;
    let mut keeper = Keeper::new(world.reconciler.clone());
    for n in 0..130 {
        world.settled(n).await;
        world.cash(n, 2);
    }
    world.at(20);
    keeper.pass().await;
    assert_eq!(world.ledger().unconfirmed().await.unwrap(), []);
    // One head per batch: chain id and final block.
    let heads = world.fake.asked() - 2 * 130;
    assert_eq!(heads, 2 * 2);
}

fn outstanding_payment(
    world: &World,
    rid: PaymentId,
    n: u8,
) -> (bursar_rails::outstanding::Ticket, impl Fn() -> Claim + use<>) {
    let target = Target::of("research", "GET", "https", "api.example.com", "/");
    let fingerprint = target.with_body(&[n; 32]);
    let field = HeaderName::from_static("payment-signature");
    let credential = Credential::from_stored("c2lnbmVk".into()).unwrap();
    let ticket = world.outstanding.sent(
        rid,
        target,
        fingerprint,
        (world.rail, &field, &credential),
        BEGAN + VALID_S,
        false,
    );
    let outstanding = world.outstanding.clone();
    (ticket, move || outstanding.claim(target, fingerprint))
}

#[tokio::test]
async fn what_a_repeat_presents_at_this_moment_is_not_declared_dead() {
    let world = world().await;
    let mut keeper = Keeper::new(world.reconciler.clone());
    let rid = world.unknown(1).await;
    let (ticket, claim) = outstanding_payment(&world, rid, 1);
    world.at(VALID_S + 20);
    keeper.pass().await;
    assert_eq!(world.state_of(rid).await, (State::Unknown, None));
    drop(ticket);
    assert!(matches!(claim(), Claim::OutcomeUnknown(_)));
    world.at(VALID_S + 30);
    keeper.pass().await;
    assert_eq!(world.state_of(rid).await, (State::Expired, Some(Source::Chain)));
    assert!(matches!(claim(), Claim::Free), "the same request buys anew");
    assert!(!world.outstanding.any());
}

#[tokio::test]
async fn a_repeat_of_a_payment_that_the_chain_shows_as_paid_gets_that_answer() {
    let world = world().await;
    let mut keeper = Keeper::new(world.reconciler.clone());
    let rid = world.unknown(1).await;
    let (ticket, claim) = outstanding_payment(&world, rid, 1);
    drop(ticket);
    world.cash(1, 2);
    world.at(VALID_S + 20);
    keeper.pass().await;
    assert_eq!(world.state_of(rid).await, (State::Settled, Some(Source::Chain)));
    assert!(matches!(claim(), Claim::PaidNotDelivered(paid) if paid == rid));
}

#[tokio::test]
async fn a_network_without_nodes_holds_up_nothing() {
    let mut world = world().await;
    let rid = world.unknown(1).await;
    Arc::get_mut(&mut world.reconciler).unwrap().nodes = [(NETWORK, Vec::new())].into();
    let mut keeper = Keeper::new(world.reconciler.clone());
    world.at(VALID_S + 20);
    keeper.pass().await;
    assert_eq!(world.state_of(rid).await, (State::Unknown, None));
    assert_eq!(world.fake.asked(), 0);
    let event = Event::AdminAction {
        action: "alive".into(),
        who: "test".into(),
        why: "the ledger still works".into(),
    };
    world.ledger().append(event).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_never_answers_holds_up_a_start_for_ten_seconds_and_no_end() {
    let mut world = world().await;
    world.unknown(1).await;
    // Accepts connections and never answers.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", mute.local_addr().unwrap());
    let nodes = vec![bursar_rails::rpc::Node::new(url.parse().unwrap()); 1];
    Arc::get_mut(&mut world.reconciler).unwrap().nodes = [(NETWORK, nodes)].into();
    let stop = world.reconciler.stop.clone();
    let began = Instant::now();
    let mut keeping = None;
    let keeper = Keeper::new(world.reconciler.clone());
    keeper.start(|task| keeping = Some(tokio::spawn(task))).await;
    assert!(
        began.elapsed() <= START + Duration::from_millis(10),
        "{:?}",
        began.elapsed()
    );
    stop.cancel();
    let began = Instant::now();
    keeping.unwrap().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

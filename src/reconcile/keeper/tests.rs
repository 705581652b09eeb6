use std::sync::Mutex;

use alloy_primitives::{Address, B256};
use http::HeaderName;
use jiff::Timestamp;

use super::*;
use crate::assets::{self, Asset, Network};
use crate::challenge::{Credential, Rail};
use crate::clock::{Clock, ManualClock};
use crate::doubts::{Claim, Doubts, Target};
use crate::home::Home;
use crate::ledger::memory::Memory;
use crate::ledger::{Arm, By, Event, Hold, Ledger, Outcome, Reserve, Terms};
use crate::money::{Atoms, MicroUsd};
use crate::policy::budget::{Charge, Unit, Window};
use crate::reconcile::pass::Notice;
use crate::rpc::fake::chain::{Chain, cashing};
use crate::rpc::fake::{Fake, tls};

const NETWORK: Network = Network::Eip155(84_532);
const BEGAN: u64 = 1_795_161_600;
const VALID_S: u64 = 300;
const WALLET: Address = Address::repeat_byte(0x11);
const PAYEE: Address = Address::repeat_byte(0x22);
const CENT: u64 = 10_000;

/// Books in memory, a node whose final block lags ten seconds behind, and a clock that stands still.
struct World {
    keeper: Keeper,
    clock: Arc<ManualClock>,
    chain: Arc<Mutex<Chain>>,
    fake: Fake,
    doubts: Doubts,
    heard: Arc<Mutex<Vec<Notice>>>,
    _dir: tempfile::TempDir,
}

fn asset() -> &'static Asset {
    assets::assets_of(NETWORK).next().unwrap()
}

fn time(second: u64) -> Timestamp {
    Timestamp::from_second(second as i64).unwrap()
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path()).unwrap();
    home.create().unwrap();
    let clock = Arc::new(ManualClock::at(time(BEGAN)));
    let chain = Arc::new(Mutex::new(Chain::new(BEGAN - 10_000, 0, 0)));
    let (asked, heard) = (chain.clone(), Arc::new(Mutex::new(Vec::new())));
    let fake = Fake::replying(move |method, params| asked.lock().unwrap().answer(method, params)).await;
    let doubts = Doubts::open(home.credentials(), clock.clone(), |_| None).unwrap();
    let telling = heard.clone();
    let reconciler = Reconciler {
        ledger: Arc::new(Memory::new(clock.clone(), Arc::new(|_| {}))),
        home,
        nodes: [(NETWORK, vec![fake.node()])].into(),
        tls: Arc::new(tls()),
        clock: clock.clone(),
        doubts: Some(doubts.clone()),
        wallet: Some(WALLET),
        notices: Arc::new(move |notice| telling.lock().unwrap().push(notice)),
        stop: Default::default(),
        turn: Default::default(),
    };
    let world = World {
        keeper: Keeper::new(Arc::new(reconciler)),
        clock,
        chain,
        fake,
        doubts,
        heard,
        _dir: dir,
    };
    world.at(0);
    world
}

impl World {
    /// Lets it be so many seconds after the beginning, here and on the chain.
    fn at(&self, seconds: u64) {
        self.clock.set(time(BEGAN + seconds));
        let mut chain = self.chain.lock().unwrap();
        (chain.newest, chain.finalized) = ((10_000 + seconds) / 2, (9_990 + seconds) / 2);
    }

    fn ledger(&self) -> &dyn Ledger {
        &*self.keeper.reconciler.ledger
    }

    async fn armed(&self, n: u8) -> Rid {
        let now = self.clock.now();
        let hold = Hold {
            rid: Rid::new(now, [n; 10]),
            agent: "research".into(),
            group: None,
            host: "api.example.com".into(),
            path: "/".into(),
            query: None,
            terms: Terms {
                rail: Rail::X402,
                scheme: "exact",
                asset: asset(),
                amount: Atoms::new(CENT.into()),
                usd: MicroUsd::new(CENT.into()),
                payee: PAYEE,
            },
            charges: vec![Charge {
                scope: "agent:research".into(),
                window: Window::Day,
                unit: Unit::MicroUsd,
                start: "2026-11-20T00:00:00+00:00[UTC]".into(),
                ends: None,
                amount: CENT.into(),
                cap: 10_000_000,
                rule: "agents.research.day".into(),
            }],
            policy_gen: 1,
            fingerprint: [n; 32],
            idempotency: None,
            offer_sha256: [0; 32],
        };
        let arm = Arm {
            from: WALLET,
            nonce: B256::repeat_byte(n),
            valid_after: 0,
            valid_before: now.as_second() as u64 + VALID_S,
        };
        self.ledger().reserve(Reserve { hold, arm }).await.unwrap().rid()
    }

    async fn unknown(&self, n: u8) -> Rid {
        let rid = self.armed(n).await;
        let outcome = Outcome::Unknown {
            why: "answer-lost",
            tx: None,
        };
        self.ledger().finish(rid, outcome).await.unwrap();
        rid
    }

    async fn settled(&self, n: u8) -> Rid {
        let rid = self.armed(n).await;
        let (by, tx) = (By::Merchant, Some(B256::repeat_byte(n).to_string()));
        self.ledger().finish(rid, Outcome::Settled { by, tx }).await.unwrap();
        rid
    }

    /// The seller cashes payment `n`.
    fn cash(&self, n: u8, at: u64) {
        let mut chain = self.chain.lock().unwrap();
        let events = cashing(WALLET, B256::repeat_byte(n), PAYEE, CENT);
        chain.mine((10_000 + at) / 2, B256::repeat_byte(n), asset().address, &events);
    }

    async fn stands(&self, rid: Rid) -> (State, Option<By>) {
        let payment = self.ledger().get(rid).await.unwrap().unwrap();
        (payment.state, payment.by)
    }

    async fn counted(&self) -> u128 {
        let usage = self.ledger().usage(&["agent:research"]).await.unwrap();
        usage.iter().map(|row| row.settled + row.open).sum()
    }
}

#[tokio::test]
async fn what_is_final_is_recorded_and_what_is_under_way_is_left_alone() {
    let mut world = world().await;
    let (claimed, lost, dead) = (world.settled(1).await, world.unknown(2).await, world.unknown(3).await);
    let under_way = world.armed(4).await;
    for n in [1, 2, 4] {
        world.cash(n, 2);
    }
    world.keeper.pass().await;
    assert_eq!(world.stands(claimed).await, (State::Settled, Some(By::Merchant)));
    assert_eq!(world.stands(lost).await, (State::Unknown, None));

    world.at(20);
    world.keeper.pass().await;
    assert_eq!(world.stands(claimed).await, (State::Settled, Some(By::Chain)));
    assert_eq!(world.stands(lost).await, (State::Settled, Some(By::Chain)));
    assert_eq!(world.stands(dead).await, (State::Unknown, None));
    assert_eq!(world.stands(under_way).await, (State::Armed, None));
    let tx = world.ledger().get(lost).await.unwrap().unwrap().tx;
    assert_eq!(tx, Some(B256::repeat_byte(2).to_string()));

    // The deadline itself is too early, by our clock and by the chain's.
    world.at(VALID_S + 9);
    world.keeper.pass().await;
    assert_eq!(
        (world.stands(dead).await, world.counted().await),
        ((State::Unknown, None), 40_000)
    );
    world.at(VALID_S + 20);
    world.keeper.pass().await;
    assert_eq!(world.stands(dead).await, (State::Expired, Some(By::Chain)));
    assert_eq!(world.counted().await, 30_000);
    assert_eq!(*world.heard.lock().unwrap(), []);
    // Nothing waits any more, so nobody is asked.
    let asked = world.fake.asked();
    world.at(10_000);
    world.keeper.pass().await;
    assert_eq!(world.fake.asked(), asked);
}

#[tokio::test]
async fn a_receipt_without_a_payment_is_disputed_once_and_stays_counted() {
    let mut world = world().await;
    let claimed = world.settled(1).await;
    for seconds in [0, 100, VALID_S + 20, VALID_S + 2_000] {
        world.at(seconds);
        world.keeper.pass().await;
    }
    let payment = world.ledger().get(claimed).await.unwrap().unwrap();
    assert_eq!((payment.state, payment.by), (State::Settled, Some(By::Merchant)));
    assert!(payment.disputed.unwrap().starts_with("the receipt says paid"));
    assert_eq!(world.counted().await, 10_000);
    let heard = world.heard.lock().unwrap();
    assert!(
        matches!(&heard[..], [Notice::Disputed { rid, .. }] if *rid == claimed),
        "{heard:?}"
    );
}

#[tokio::test]
async fn a_silent_node_is_asked_with_growing_patience() {
    let mut world = world().await;
    let rid = world.unknown(1).await;
    world.chain.lock().unwrap().id = 1;
    let mut asks = Vec::new();
    for second in 0..700 {
        world.clock.set(time(BEGAN + second));
        let before = world.fake.asked();
        world.keeper.pass().await;
        if world.fake.asked() > before {
            asks.push(second);
        }
    }
    assert_eq!(asks, [0, 5, 15, 35, 75, 155, 315, 635]);
    assert_eq!(world.stands(rid).await, (State::Unknown, None));
}

#[tokio::test]
async fn hundreds_are_asked_about_in_batches_until_nothing_is_due() {
    let mut world = world().await;
    for n in 0..230 {
        world.settled(n).await;
        world.cash(n, 2);
    }
    world.at(20);
    world.keeper.pass().await;
    assert_eq!(world.ledger().unconfirmed().await.unwrap(), []);
    // One head for each batch: chain id and final block.
    let heads = world.fake.asked() - 2 * 230;
    assert_eq!(heads, 3 * 2);
}

fn in_doubt(world: &World, rid: Rid, n: u8) -> (crate::doubts::Ticket, impl Fn() -> Claim + use<>) {
    let target = Target::of("research", "GET", "https", "api.example.com", "/");
    let fingerprint = target.with_body(&[n; 32]);
    let field = HeaderName::from_static("payment-signature");
    let credential = Credential::from_stored("c2lnbmVk".into()).unwrap();
    let ticket = world
        .doubts
        .sent(rid, target, fingerprint, (&field, &credential), BEGAN + VALID_S);
    let doubts = world.doubts.clone();
    (ticket, move || doubts.claim(target, fingerprint))
}

#[tokio::test]
async fn what_a_repeat_presents_at_this_moment_is_not_declared_dead() {
    let mut world = world().await;
    let rid = world.unknown(1).await;
    let (ticket, claim) = in_doubt(&world, rid, 1);
    world.at(VALID_S + 20);
    world.keeper.pass().await;
    assert_eq!(world.stands(rid).await, (State::Unknown, None));
    drop(ticket);
    assert!(matches!(claim(), Claim::InDoubt(_)));
    world.at(VALID_S + 30);
    world.keeper.pass().await;
    assert_eq!(world.stands(rid).await, (State::Expired, Some(By::Chain)));
    assert!(matches!(claim(), Claim::Free), "the same request buys anew");
    assert!(!world.doubts.any());
}

#[tokio::test]
async fn a_repeat_of_what_the_chain_calls_paid_is_told_so() {
    let mut world = world().await;
    let rid = world.unknown(1).await;
    let (ticket, claim) = in_doubt(&world, rid, 1);
    drop(ticket);
    world.cash(1, 2);
    world.at(VALID_S + 20);
    world.keeper.pass().await;
    assert_eq!(world.stands(rid).await, (State::Settled, Some(By::Chain)));
    assert!(matches!(claim(), Claim::PaidNotDelivered(paid) if paid == rid));
}

#[tokio::test]
async fn a_network_without_nodes_holds_up_nothing() {
    let mut world = world().await;
    let rid = world.unknown(1).await;
    Arc::get_mut(&mut world.keeper.reconciler).unwrap().nodes = [(NETWORK, Vec::new())].into();
    world.at(VALID_S + 20);
    world.keeper.pass().await;
    assert_eq!(world.stands(rid).await, (State::Unknown, None));
    assert_eq!(world.fake.asked(), 0);
    let event = Event::AdminAction {
        action: "alive".into(),
        who: "test".into(),
        why: "the books go on".into(),
    };
    world.ledger().append(event).await.unwrap();
}

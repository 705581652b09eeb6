//! Times and words, against the sandbox Stripe.

use std::sync::Arc;

use super::*;
use crate::account::Account;
use crate::assets::{Mode, currency};
use crate::challenge::{Clause, Rail};
use crate::clock::Clock as _;
use crate::ledger::{Arm, Hold, Reserve, Rid, Terms};
use crate::money::{Atoms, MicroUsd};
use crate::pay::Tokens;
use crate::reconcile::world::{BEGAN, World, time, world};
use crate::sandbox::stripe::{Listening, StripeSandbox};
use crate::stripe::{ApiBase, Currency, Order, PaymentMethod, Profile, SecretKey, Settings, Stripe};

const AGENT: &str = "sk_test_agent";
const PROFILE: &str = "profile_test_seller";

struct Shop {
    world: World,
    sandbox: Arc<StripeSandbox>,
    listening: Listening,
}

fn account(world: &World, listening: &Listening, key: &str) -> Issuer {
    let settings = Settings {
        base: ApiBase::parse(&listening.base_url()).unwrap(),
        ..Settings::default()
    };
    let key = SecretKey::parse(key).unwrap();
    let stripe = Stripe::new(key, settings, world.reconciler.tls.clone()).unwrap();
    let tokens = Tokens::open(world.reconciler.home.tokens()).unwrap();
    Issuer::new(stripe, PaymentMethod::parse("pm_card_visa").unwrap(), tokens)
}

async fn shop() -> Shop {
    let mut world = world().await;
    let sandbox = StripeSandbox::new(world.clock.clone(), AGENT).with_seller("sk_test_seller", PROFILE);
    let sandbox = Arc::new(sandbox);
    let listening = StripeSandbox::listen(sandbox.clone()).await.unwrap();
    let issuer = account(&world, &listening, AGENT);
    Arc::get_mut(&mut world.reconciler).unwrap().issuer = Some(Arc::new(issuer));
    Shop {
        world,
        sandbox,
        listening,
    }
}

impl Shop {
    /// Reserved and, as far as the books know, sent.
    async fn unknown(&self, n: u8) -> Rid {
        let now = self.world.clock.now();
        let hold = Hold {
            rid: Rid::new(now, [n; 10]),
            agent: "research".into(),
            group: None,
            host: "api.example.com".into(),
            path: "/".into(),
            query: None,
            terms: Terms {
                rail: Rail::MppStripe,
                asset: Asset::Fiat(Mode::Test, currency("usd").unwrap()),
                amount: Atoms::new(100),
                usd: MicroUsd::new(1_000_000),
                payee: Account::parse(PROFILE).unwrap(),
                clause: Clause::None,
            },
            charges: Vec::new(),
            policy_gen: 1,
            fingerprint: [n; 32],
            idempotency: None,
            offer_sha256: [0; 32],
            others: Vec::new(),
        };
        let arm = Arm {
            from: Account::parse("pm_card_visa").unwrap(),
            nonce: alloy_primitives::B256::repeat_byte(n),
            valid_after: 0,
            valid_before: u64::try_from(now.as_second()).unwrap() + 300,
        };
        let rid = self.world.ledger().reserve(Reserve { hold, arm }).await.unwrap().rid();
        let outcome = Outcome::Unknown {
            why: "answer-lost",
            tx: None,
        };
        self.world.ledger().finish(rid, outcome).await.unwrap();
        rid
    }

    async fn payment(&self, rid: Rid) -> Payment {
        self.world.ledger().get(rid).await.unwrap().unwrap()
    }

    async fn ask(&self, rid: Rid) -> PaymentLine {
        self.world.reconciler.stripe_payment(&self.payment(rid).await).await
    }

    /// What the proxy orders before it sends anything.
    async fn order(&self, rid: Rid) -> TokenId {
        let expires_at = self.payment(rid).await.arm.unwrap().valid_before.0;
        let (method, seller) = (
            PaymentMethod::parse("pm_card_visa").unwrap(),
            Profile::parse(PROFILE).unwrap(),
        );
        let order = Order {
            idempotency_key: rid,
            payment_method: &method,
            currency: Currency::USD,
            max_amount: 100,
            expires_at,
            seller: &seller,
        };
        let settings = Settings {
            base: ApiBase::parse(&self.listening.base_url()).unwrap(),
            ..Settings::default()
        };
        let stripe = Stripe::new(
            SecretKey::parse(AGENT).unwrap(),
            settings,
            self.world.reconciler.tls.clone(),
        );
        stripe.unwrap().issue(&order).await.unwrap().id
    }

    fn at(&self, seconds: u64) {
        self.world.clock.set(time(BEGAN + seconds));
    }
}

#[tokio::test]
async fn a_token_is_left_to_the_seller_for_as_long_as_it_may_take_it() {
    let shop = shop().await;
    let rid = shop.unknown(1).await;
    shop.order(rid).await;
    shop.at(29);
    let line = shop.ask(rid).await;
    assert_eq!((line.finding, line.until), (Finding::Pending, Some(time(BEGAN + 30))));
    assert_eq!(shop.sandbox.counters().revocations, 0);
    shop.at(30);
    let line = shop.ask(rid).await;
    assert_eq!(
        (line.finding, line.why.as_deref()),
        (Finding::Expired, Some("token-revoked"))
    );
    let counters = shop.sandbox.counters();
    assert_eq!(
        (counters.tokens_issued, counters.revocations),
        (1, 1),
        "the order was the same order"
    );
    assert_eq!(shop.payment(rid).await.by, Some(By::Stripe));
}

#[tokio::test]
async fn an_order_that_never_arrived_makes_no_token_that_lives() {
    let shop = shop().await;
    let (soon, late) = (shop.unknown(1).await, shop.unknown(2).await);
    // Before its end the same order makes a token, which is taken back at once; after it Stripe makes none.
    shop.at(60);
    assert_eq!(shop.ask(soon).await.finding, Finding::Expired);
    shop.at(3600);
    let line = shop.ask(late).await;
    assert_eq!(
        (line.finding, line.why.as_deref()),
        (Finding::Expired, Some("never-issued"))
    );
    let counters = shop.sandbox.counters();
    assert_eq!((counters.tokens_issued, counters.revocations), (1, 1));
}

#[tokio::test]
async fn an_order_is_made_again_for_twenty_hours_and_a_kept_token_is_asked_about_for_ever() {
    let shop = shop().await;
    let (lost, kept) = (shop.unknown(1).await, shop.unknown(2).await);
    let token = shop.order(kept).await;
    shop.world
        .reconciler
        .issuer
        .as_ref()
        .unwrap()
        .tokens()
        .keep(kept, &token);
    shop.order(lost).await;
    shop.at(20 * 3600 + 1);
    let line = shop.ask(lost).await;
    assert_eq!(line.finding, Finding::Undecided);
    assert!(line.why.unwrap().contains("resolve it by hand"));
    assert_eq!(shop.payment(lost).await.state, State::Unknown, "it stays counted");
    let line = shop.ask(kept).await;
    assert_eq!(
        (line.finding, line.why.as_deref()),
        (Finding::Expired, Some("token-expired"))
    );
    assert_eq!(shop.sandbox.counters().tokens_issued, 2);
}

#[tokio::test]
async fn what_a_merchant_claims_without_having_charged_is_disputed_once_it_never_can() {
    let shop = shop().await;
    let rid = shop.unknown(1).await;
    shop.order(rid).await;
    let (by, tx) = (By::Merchant, Some("pi_invented".to_owned()));
    shop.world
        .ledger()
        .finish(rid, Outcome::Settled { by, tx })
        .await
        .unwrap();
    shop.at(200);
    let line = shop.ask(rid).await;
    assert_eq!((line.finding, line.until), (Finding::Pending, Some(time(BEGAN + 300))));
    shop.at(301);
    let line = shop.ask(rid).await;
    assert_eq!(line.finding, Finding::Disputed, "{line:?}");
    let payment = shop.payment(rid).await;
    assert_eq!(payment.state, State::Settled, "a dispute lowers nothing");
    assert_eq!(shop.world.heard.lock().unwrap().len(), 1);
    assert_eq!(shop.sandbox.counters().revocations, 0);
}

#[tokio::test]
async fn a_key_that_cannot_tell_decides_nothing() {
    let mut shop = shop().await;
    let rid = shop.unknown(1).await;
    shop.at(60);
    let stranger = account(&shop.world, &shop.listening, "sk_test_of_another_account");
    Arc::get_mut(&mut shop.world.reconciler).unwrap().issuer = Some(Arc::new(stranger));
    assert_eq!(shop.ask(rid).await.finding, Finding::Undecided);
    let live = account(&shop.world, &shop.listening, "sk_live_key");
    Arc::get_mut(&mut shop.world.reconciler).unwrap().issuer = Some(Arc::new(live));
    let line = shop.ask(rid).await;
    assert!(line.why.unwrap().contains("other mode"));
    Arc::get_mut(&mut shop.world.reconciler).unwrap().issuer = None;
    let line = shop.ask(rid).await;
    assert_eq!(line.finding, Finding::Undecided);
    assert_eq!(shop.payment(rid).await.state, State::Unknown);
}

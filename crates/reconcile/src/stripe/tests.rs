//! Timing and results, against the sandbox's Stripe.

use std::sync::Arc;

use super::*;
use crate::world::{BEGAN, World, time, world};
use bursar_core::account::{Account, AccountMark};
use bursar_core::assets::{Mode, currency};
use bursar_core::challenge::{Clause, Rail};
use bursar_core::clock::Clock as _;
use bursar_core::money::{Atoms, MicroUsd};
use bursar_ledger::{Arm, Hold, PaymentId, Reason, Reserve, Terms};
use bursar_rails::pay::Tokens;
use bursar_rails::stripe::{ApiBase, Currency, Order, PaymentMethod, Profile, SecretKey, Settings, Stripe};
use bursar_sandbox::stripe::{Listening, StripeSandbox};

const AGENT: &str = "sk_test_agent";
const PROFILE: &str = "profile_test_seller";

struct Shop {
    world: World,
    sandbox: Arc<StripeSandbox>,
    listening: Listening,
    /// As payment records name it.
    ordered_by: Option<AccountMark>,
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
    let ordered_by = Some(issuer.mark());
    Arc::get_mut(&mut world.reconciler).unwrap().issuer = Some(Arc::new(issuer));
    Shop {
        world,
        sandbox,
        listening,
        ordered_by,
    }
}

impl Shop {
    /// Reserved and, as far as the ledger knows, sent.
    async fn unknown(&self, n: u8) -> PaymentId {
        let now = self.world.clock.now();
        let hold = Hold {
            rid: PaymentId::new(now, [n; 10]),
            agent: "research".into(),
            group: None,
            host: "api.example.com".into(),
            origin: None,
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
            issuer: self.ordered_by,
            nonce: alloy_primitives::B256::repeat_byte(n).into(),
            signer: None,
            valid_after: 0,
            valid_before: u64::try_from(now.as_second()).unwrap() + 300,
        };
        let rid = self.world.ledger().reserve(Reserve { hold, arm }).await.unwrap().rid();
        let outcome = Outcome::Unknown {
            why: Reason::AnswerLost,
            tx: None,
        };
        self.world.ledger().finish(rid, outcome).await.unwrap();
        rid
    }

    async fn payment(&self, rid: PaymentId) -> Payment {
        self.world.ledger().get(rid).await.unwrap().unwrap()
    }

    async fn ask(&self, rid: PaymentId) -> PaymentLine {
        let payment = self.payment(rid).await;
        let reconciler = &self.world.reconciler;
        reconciler.stripe_payment(&payment, &mut Silences::new()).await
    }

    /// The order that the proxy places before it sends anything.
    async fn order(&self, rid: PaymentId) -> TokenId {
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
    assert_eq!(shop.payment(rid).await.by, Some(Source::Stripe));
}

#[tokio::test]
async fn an_order_that_never_arrived_makes_no_token_that_lives() {
    let shop = shop().await;
    let (soon, late) = (shop.unknown(1).await, shop.unknown(2).await);
    // Before the expiry, the same order makes a token, which is revoked at once; after it, Stripe makes none.
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
    let (by, tx) = (Source::Merchant, Some("pi_invented".to_owned()));
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
    assert_eq!(shop.world.received.lock().unwrap().len(), 1);
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

/// The token that the seller holds is account A's. Its file is lost (a crash, a restore: `private/tokens` is in no
/// backup; another proxy on a shared ledger). Account B has never seen the order, so its answer proves nothing about
/// A's token.
#[tokio::test]
async fn another_account_declares_nothing_dead_that_the_first_one_ordered() {
    const OTHER: &str = "sk_test_other_account";
    let mut world = world().await;
    let sandbox = StripeSandbox::new(world.clock.clone(), AGENT)
        .with_seller("sk_test_seller", PROFILE)
        .with_seller(OTHER, "profile_test_other");
    let sandbox = Arc::new(sandbox);
    let listening = StripeSandbox::listen(sandbox.clone()).await.unwrap();
    let ordered_by = Some(account(&world, &listening, AGENT).mark());
    let issuer = account(&world, &listening, OTHER);
    Arc::get_mut(&mut world.reconciler).unwrap().issuer = Some(Arc::new(issuer));
    let mut shop = Shop {
        world,
        sandbox,
        listening,
        ordered_by,
    };
    let rid = shop.unknown(1).await;
    // Ordered by account A, and sent to the seller.
    let held_by_seller = shop.order(rid).await;
    shop.at(60);
    let line = shop.ask(rid).await;
    let mine = account(&shop.world, &shop.listening, AGENT);
    assert_eq!(
        mine.look(&held_by_seller).await,
        Ok(TokenStatus::Live),
        "the seller can still charge it"
    );
    assert_eq!(line.finding, Finding::Undecided, "{line:?}");
    assert!(line.why.unwrap().contains("put that key back"));
    assert_eq!(shop.payment(rid).await.state, State::Unknown);
    // From before there were account marks: it could be any account's.
    shop.ordered_by = None;
    let old = shop.unknown(2).await;
    shop.at(120);
    let line = shop.ask(old).await;
    assert_eq!(line.finding, Finding::Undecided, "{line:?}");
    assert!(line.why.unwrap().contains("does not say which account"));
    assert_eq!(
        shop.sandbox.counters().tokens_issued,
        1,
        "the other account ordered nothing"
    );
    // With the first key, everything is known again.
    Arc::get_mut(&mut shop.world.reconciler).unwrap().issuer = Some(Arc::new(mine));
    assert_eq!(shop.ask(rid).await.finding, Finding::Expired);
    assert_eq!(shop.ask(old).await.finding, Finding::Undecided);
}

/// R14: a repeat that was sent a second ago also has its `settle_wait`.
#[tokio::test]
async fn a_token_that_a_repeat_has_just_shown_is_left_to_the_seller() {
    use bursar_core::challenge::Credential;
    use bursar_rails::outstanding::{Claim, Target};
    let shop = shop().await;
    let rid = shop.unknown(1).await;
    shop.order(rid).await;
    let target = Target::of("research", "GET", "https", "api.example.com", "/");
    let fingerprint = target.with_body(&[0; 32]);
    let (field, credential) = (
        http::header::AUTHORIZATION,
        Credential::from_stored("Payment abc".to_owned()).unwrap(),
    );
    let sent = (Rail::MppStripe, &field, &credential);
    let valid_before = BEGAN + 300;
    drop(
        shop.world
            .outstanding
            .sent(rid, target, fingerprint, sent, valid_before, false),
    );
    shop.at(29);
    match shop.world.outstanding.claim(target, fingerprint) {
        Claim::Present(presentable) => drop(presentable),
        _ => panic!("it can be presented"),
    }
    // As `Presentation` records it.
    let (why, tx) = (Reason::AnswerLost, None);
    shop.world
        .ledger()
        .finish(rid, Outcome::Unknown { why, tx })
        .await
        .unwrap();
    shop.at(30);
    let line = shop.ask(rid).await;
    assert_eq!(shop.sandbox.counters().revocations, 0, "{line:?}");
    assert_eq!((line.finding, line.until), (Finding::Pending, Some(time(BEGAN + 59))));
    // It was put back where repeats find it.
    assert!(matches!(
        shop.world.outstanding.claim(target, fingerprint),
        Claim::Present(_)
    ));
    shop.at(89);
    assert_eq!(shop.ask(rid).await.finding, Finding::Expired);
}

#[tokio::test]
async fn what_says_nothing_is_not_asked_about_everything_and_a_stop_is_heard_between_payments() {
    let mut shop = shop().await;
    let mut payments = Vec::new();
    for n in 1..=6 {
        let rid = shop.unknown(n).await;
        payments.push(shop.payment(rid).await);
    }
    shop.at(60);
    // Every connection is closed immediately.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = ApiBase::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counting = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            drop(stream);
        }
    });
    let settings = Settings {
        base,
        ..Settings::default()
    };
    let tls = shop.world.reconciler.tls.clone();
    let stripe = Stripe::new(SecretKey::parse(AGENT).unwrap(), settings, tls).unwrap();
    let tokens = Tokens::open(shop.world.reconciler.home.tokens()).unwrap();
    for payment in &payments {
        tokens.keep(payment.rid(), &TokenId::parse("spt_kept").unwrap());
    }
    let silent = Issuer::new(stripe, PaymentMethod::parse("pm_card_visa").unwrap(), tokens);
    Arc::get_mut(&mut shop.world.reconciler).unwrap().issuer = Some(Arc::new(silent));
    let (reconciler, heads) = (&shop.world.reconciler, Default::default());
    let lines = reconciler.payments(&payments, &heads, &|_| {}).await;
    assert!(lines.iter().all(|line| line.finding == Finding::Undecided));
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), usize::from(SILENCES));
    assert_eq!(lines[5].why.as_deref(), Some("Stripe stopped answering"));
    reconciler.stop.cancel();
    let lines = reconciler.payments(&payments, &heads, &|_| {}).await;
    assert_eq!(lines[0].why.as_deref(), Some("the comparison was interrupted"));
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), usize::from(SILENCES));
}

/// A hold on the card outlives its token, and is captured when nobody checks any more.
#[tokio::test]
async fn a_hold_that_is_captured_after_the_token_ended_is_reported() {
    let mut shop = shop().await;
    let rid = shop.unknown(1).await;
    let token = shop.order(rid).await;
    shop.at(60);
    assert_eq!(shop.ask(rid).await.finding, Finding::Expired);
    let day = 24 * 3600;
    shop.at(3 * day);
    assert_eq!(shop.ask(rid).await.finding, Finding::Confirmed);
    let tokens = |shop: &Shop| shop.world.reconciler.issuer.clone().unwrap();
    assert_eq!(tokens(&shop).tokens().watched(), [rid]);
    // The sandbox does not support holds.
    let path = format!("/v1/shared_payment/issued_tokens/{}", token.expose());
    let mut headers = http::HeaderMap::new();
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{AGENT}:"));
    let key = http::HeaderValue::try_from(format!("Basic {key}")).unwrap();
    headers.insert(http::header::AUTHORIZATION, key);
    headers.insert("stripe-version", http::HeaderValue::from_static("2026-07-29.preview"));
    let mut captured = shop.sandbox.answer(&http::Method::GET, &path, &headers, b"").json;
    captured["usage_details"]["amount_captured"]["value"] = 100.into();
    let base = answering(captured.to_string()).await;
    let settings = Settings {
        base,
        ..Settings::default()
    };
    let stripe = Stripe::new(
        SecretKey::parse(AGENT).unwrap(),
        settings,
        shop.world.reconciler.tls.clone(),
    );
    let kept = Tokens::open(shop.world.reconciler.home.tokens()).unwrap();
    let issuer = Issuer::new(stripe.unwrap(), PaymentMethod::parse("pm_card_visa").unwrap(), kept);
    let before = Arc::get_mut(&mut shop.world.reconciler)
        .unwrap()
        .issuer
        .replace(Arc::new(issuer));
    let line = shop.ask(rid).await;
    assert_eq!(line.finding, Finding::Disputed, "{line:?}");
    assert_eq!(shop.world.received.lock().unwrap().len(), 1);
    assert!(tokens(&shop).tokens().of(rid).is_none(), "it is told once");
    // A token with which nothing was captured in all that time is forgotten.
    Arc::get_mut(&mut shop.world.reconciler).unwrap().issuer = before;
    tokens(&shop).tokens().keep(rid, &token);
    shop.at(8 * day + 1);
    assert_eq!(shop.ask(rid).await.finding, Finding::Confirmed);
    assert!(tokens(&shop).tokens().of(rid).is_none());
    assert_eq!(tokens(&shop).tokens().watched(), []);
}

/// A service that gives the same answer to everything.
async fn answering(body: String) -> ApiBase {
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::body::{Bytes, Incoming};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = ApiBase::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let body = Bytes::from(body.clone());
            let service = hyper::service::service_fn(move |_: Request<Incoming>| {
                let answer = Response::new(Full::new(body.clone()));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                .await;
        }
    });
    base
}

/// Of three tries of one order, the first made a token, and the second was refused outright.
#[tokio::test]
async fn a_door_that_closes_does_not_undo_an_order_that_was_made() {
    use base64::Engine as _;
    use bursar_rails::pay::{CardPayer, Exposure, Made, NotPaid, PayError, Payers, Permission};
    use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
    use http_body_util::{BodyExt as _, Full};
    use hyper::body::Bytes;
    let shop = shop().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (sandbox, tries) = (shop.sandbox.clone(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (sandbox, tries) = (sandbox.clone(), tries.clone());
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (sandbox, tries) = (sandbox.clone(), tries.clone());
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    if tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0 {
                        let mut answer = Response::new(Full::new(Bytes::from_static(b"{}")));
                        *answer.status_mut() = StatusCode::FORBIDDEN;
                        return Ok(answer);
                    }
                    sandbox.answer(&Method::POST, head.uri.path(), &head.headers, &body);
                    Err("the answer is lost")
                }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                .await;
        }
    });
    let settings = Settings {
        base: ApiBase::parse(&base).unwrap(),
        ..Settings::default()
    };
    let tls = shop.world.reconciler.tls.clone();
    let stripe = Stripe::new(SecretKey::parse(AGENT).unwrap(), settings, tls).unwrap();
    let tokens = Tokens::open(shop.world.reconciler.home.tokens()).unwrap();
    let issuer = Issuer::new(stripe, PaymentMethod::parse("pm_card_visa").unwrap(), tokens);

    let request = format!(r#"{{"amount":"100","currency":"usd","methodDetails":{{"networkId":"{PROFILE}"}}}}"#);
    let request = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(request);
    let challenge =
        format!(r#"Payment id="x", realm="api.example.com", method="stripe", intent="charge", request="{request}""#);
    let mut headers = HeaderMap::new();
    headers.append(
        http::header::WWW_AUTHENTICATE,
        HeaderValue::try_from(challenge).unwrap(),
    );
    let read = bursar_core::challenge::with_mpp(&headers, Err(bursar_core::challenge::Why::NoChallenge)).unwrap();
    let offer = &read.offers[0];

    let now = shop.world.clock.now();
    let hold = Hold {
        rid: PaymentId::new(now, [9; 10]),
        agent: "research".into(),
        group: None,
        host: "api.example.com".into(),
        origin: None,
        path: "/".into(),
        query: None,
        terms: Terms {
            rail: offer.rail,
            asset: offer.asset,
            amount: offer.amount,
            usd: MicroUsd::new(1_000_000),
            payee: offer.payee.clone(),
            clause: Clause::None,
        },
        charges: Vec::new(),
        policy_gen: 1,
        fingerprint: [9; 32],
        idempotency: None,
        offer_sha256: [0; 32],
        others: Vec::new(),
    };
    let arm = Arm {
        from: Account::parse("pm_card_visa").unwrap(),
        issuer: Some(issuer.mark()),
        nonce: alloy_primitives::B256::repeat_byte(9).into(),
        signer: None,
        valid_after: 0,
        valid_before: u64::try_from(now.as_second()).unwrap() + 300,
    };
    let reservation = shop.world.ledger().reserve(Reserve { hold, arm }).await.unwrap();
    let payers = Payers {
        wallet: None,
        issuer: Some(CardPayer::Stripe(Arc::new(issuer))),
    };
    let id = reservation.rid();
    let not_paid = payers
        .pay(reservation, &offer.echo, &Permission::Granted, None)
        .await
        .err()
        .unwrap();
    assert_eq!(shop.sandbox.counters().tokens_issued, 1, "there is a token");
    let NotPaid::UsedUp {
        id: used_up,
        made,
        error,
        ..
    } = *not_paid
    else {
        panic!("a token may exist, so the permission to order is used up");
    };
    assert_eq!((used_up, made), (id, Made::Token));
    assert!(
        matches!(&error, PayError::NotIssued(not_issued) if not_issued.left == Exposure::Perhaps),
        "{error}"
    );
}

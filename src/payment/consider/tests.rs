//! From a challenge to a disposition, without a socket: the ledger is in memory, the clock is manual.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::Value;

use super::*;
use bursar_core::assets::tokens_of;
use bursar_core::clock::ManualClock;
use bursar_core::host::Authority;
use bursar_core::money::Atoms;
use bursar_ledger::memory::Memory;

const SEPOLIA: Network = Network::Eip155(84_532);
const LIMITS: &str = "timezone = \"UTC\"\n[agents.research]\nper_transaction = \"0.05\"\nday = \"5\"\n";

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

/// A proxy with a key, and with Base Sepolia under `[networks]`.
fn decider(limits: &str) -> Decider {
    let clock = Arc::new(ManualClock::at(now()));
    Decider {
        rules: Arc::new(Rules::fixed(limits)),
        ledger: Arc::new(Memory::new(clock.clone(), Arc::new(|_| {}))),
        clock,
        balances: Balances::default(),
        approvals: Approvals::None,
        means: Means {
            is_empty: false,
            address: Some(Address::repeat_byte(0xa1)),
            ..Means::default()
        },
        networks: BTreeSet::from([SEPOLIA]),
        proven: BTreeSet::new(),
        allow_http_payments: BTreeSet::new(),
        agent_payments: AgentPayments::Refuse,
    }
}

fn origin(scheme: Scheme) -> Origin {
    Origin {
        scheme,
        authority: Authority::parse("api.example.com:443").unwrap(),
    }
}

/// A challenge for 0.01 USDC on Base Sepolia, as the reference seller makes it.
fn challenge() -> Challenge {
    challenge::v2(header().as_bytes()).unwrap()
}

fn header() -> String {
    let text = include_str!("../../../fixtures/x402/v2-exact-eip3009-base-sepolia.json");
    let vector: Value = serde_json::from_str(text).unwrap();
    vector["response"]["headers"]["PAYMENT-REQUIRED"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The same offer twice, and the second costs more.
fn two_offers() -> Challenge {
    let mut asked: Value = serde_json::from_slice(&BASE64.decode(header()).unwrap()).unwrap();
    let mut dearer = asked["accepts"][0].clone();
    dearer["amount"] = "20000".into();
    asked["accepts"].as_array_mut().unwrap().push(dearer);
    challenge::v2(BASE64.encode(asked.to_string()).as_bytes()).unwrap()
}

fn agent(name: &str) -> AgentName {
    name.parse().unwrap()
}

fn decided(decider: &Decider, name: &str) -> Disposition {
    let (agent, origin) = (agent(name), origin(Scheme::Https));
    let subject = Subject {
        agent: &agent,
        origin: &origin,
        method: &Method::GET,
    };
    decider.decide_about(subject, challenge(), Vec::new())
}

fn passed_through(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::PassThrough(why) => why.code(),
        Disposition::Refuse(problem) => panic!("refused: {}", problem.code()),
        Disposition::Purchase(_) => panic!("bought"),
    }
}

fn refused(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Refuse(problem) => problem.code(),
        Disposition::PassThrough(why) => panic!("passed through: {}", why.code()),
        Disposition::Purchase(_) => panic!("bought"),
    }
}

#[test]
fn what_is_payable_and_allowed_is_bought_and_charged() {
    let Disposition::Purchase(plan) = decided(&decider(LIMITS), "research") else {
        panic!("not bought");
    };
    assert_eq!(plan.offer.amount, Atoms::new(10_000));
    assert_eq!(plan.decided.usd, MicroUsd::new(10_000));
    assert!(
        plan.decided
            .charges
            .iter()
            .any(|charge| &*charge.rule == "agents.research.day")
    );
    assert!(plan.others(now()).is_empty(), "the challenge has one offer");
}

#[test]
fn limits_refuse_with_their_own_code() {
    assert_eq!(refused(decided(&decider(LIMITS), "stranger")), "no-budget");
    let tight = LIMITS.replace("0.05", "0.005");
    assert_eq!(refused(decided(&decider(&tight), "research")), "over-limit");
    let paused = format!("{LIMITS}paused = true\n");
    assert_eq!(refused(decided(&decider(&paused), "research")), "paused");
    let asks = format!("{LIMITS}approval_above = \"0.001\"\n");
    assert_eq!(refused(decided(&decider(&asks), "research")), "approval-unavailable");
}

#[test]
fn what_this_proxy_cannot_pay_is_passed_through() {
    let elsewhere = Decider {
        networks: BTreeSet::from([Network::Eip155(8453)]),
        ..decider(LIMITS)
    };
    assert_eq!(
        passed_through(decided(&elsewhere, "research")),
        "network-not-configured"
    );
    let without_a_key = Decider {
        means: Means::default(),
        ..decider(LIMITS)
    };
    assert_eq!(passed_through(decided(&without_a_key, "research")), "no-wallet");
}

#[test]
fn a_wallet_that_is_known_to_hold_less_refuses() {
    let decider = decider(LIMITS);
    let token = tokens_of(SEPOLIA).next().unwrap();
    decider.balances.note(token, Atoms::new(9_999));
    assert_eq!(refused(decided(&decider, "research")), "wallet-insufficient");
    decider.balances.note(token, Atoms::new(10_000));
    assert!(matches!(decided(&decider, "research"), Disposition::Purchase(_)));
}

#[test]
fn some_requests_are_not_paid_for_whatever_their_402_says() {
    let agent = agent("research");
    let bars = |decider: &Decider, scheme, method: &Method, field: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        if let Some(field) = field {
            headers.insert(field, "x".parse().unwrap());
        }
        let origin = origin(scheme);
        let subject = Subject {
            agent: &agent,
            origin: &origin,
            method,
        };
        decider.bars(subject, &headers).map(Unpaid::code)
    };
    let decider = decider(LIMITS);
    assert_eq!(bars(&decider, Scheme::Https, &Method::GET, None), None);
    assert_eq!(bars(&decider, Scheme::Http, &Method::GET, None), Some("not-over-tls"));
    assert_eq!(
        bars(&decider, Scheme::Https, &Method::HEAD, None),
        Some("method-not-paid")
    );
    assert_eq!(
        bars(&decider, Scheme::Https, &Method::GET, Some("upgrade")),
        Some("upgrade-not-paid")
    );
    let passing = Decider {
        agent_payments: AgentPayments::Pass,
        ..decider
    };
    assert_eq!(
        bars(&passing, Scheme::Https, &Method::GET, Some("x-payment")),
        Some("agent-pays")
    );
    let over_http = Decider {
        allow_http_payments: BTreeSet::from([origin(Scheme::Http).authority.host]),
        ..passing
    };
    assert_eq!(bars(&over_http, Scheme::Http, &Method::GET, None), None);
}

#[test]
fn an_offer_that_is_gone_leaves_the_next_and_then_nothing() {
    let decider = decider(LIMITS);
    let (agent, origin) = (agent("research"), origin(Scheme::Https));
    let subject = Subject {
        agent: &agent,
        origin: &origin,
        method: &Method::GET,
    };
    let Disposition::Purchase(first) = decider.decide_about(subject, two_offers(), Vec::new()) else {
        panic!("not bought");
    };
    assert_eq!(first.offer.amount, Atoms::new(10_000));
    let second = decider.another(subject, *first, Why::ChallengeUsed).unwrap();
    assert_eq!(second.offer.amount, Atoms::new(20_000));
    assert!(decider.another(subject, second, Why::ChallengeUsed).is_none());
}

#[test]
fn new_limits_are_looked_at_again_and_old_ones_need_not_be() {
    let before = decider(LIMITS);
    let Disposition::Purchase(plan) = decided(&before, "research") else {
        panic!("not bought");
    };
    assert!(before.still_holds(&plan));
    let (agent, origin) = (agent("research"), origin(Scheme::Https));
    let subject = Subject {
        agent: &agent,
        origin: &origin,
        method: &Method::GET,
    };
    before.rules.replace(&LIMITS.replace("0.05", "0.005"));
    assert!(!before.still_holds(&plan));
    assert_eq!(refused(before.decide_again(subject, &[0; 32], *plan)), "over-limit");
}

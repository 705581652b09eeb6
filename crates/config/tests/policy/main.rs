//! Decisions with limits as finance writes them.

mod asking;
mod diff;
mod not_taken;
mod properties;
mod trace;
mod windows;

use alloy_primitives::{Address, address};
use jiff::Timestamp;

use bursar_config as config;
use bursar_core::assets::Asset;
use bursar_core::assets::{self, Network};
use bursar_core::challenge::{Offer, PaymentFlow, Rail};
use bursar_core::money::Atoms;
use bursar_core::money::MicroUsd;
use bursar_core::policy::*;
use http::Method;

const BASE: Network = Network::Eip155(8453);
const SEPOLIA: Network = Network::Eip155(84_532);
const ALICE: Address = address!("0x00000000000000000000000000000000000000a1");
const BOB: Address = address!("0x00000000000000000000000000000000000000b0");

fn limits(text: &str) -> Limits {
    config::limits::parse("limits.toml", text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn usdc(network: Network) -> Asset {
    Asset::Token(assets::tokens_of(network).next().unwrap())
}

fn bid(cents: u32) -> Bid {
    Bid {
        rail: Rail::X402,
        asset: usdc(BASE),
        payee: ALICE.into(),
        price: Ok(MicroUsd::new(u128::from(cents) * 10_000)),
        flow: PaymentFlow::Authorization,
    }
}

fn decide_at(limits: &Limits, merchant: &str, now: &str, bids: &[Bid]) -> Decision {
    let purchase = Purchase {
        agent: "research",
        merchant,
        method: &Method::GET,
        now: now.parse().unwrap(),
        approvals: Approvals::None,
        over: &[],
    };
    choose(limits, &purchase, bids)
}

fn decision(limits: &Limits, bids: &[Bid]) -> Decision {
    decide_at(limits, "api.example.com", "2026-11-20T14:35:10Z", bids)
}

#[track_caller]
fn paid(text: &str, bids: &[Bid]) -> Plan {
    match decision(&limits(text), bids) {
        Decision::Pay(plan) => plan,
        Decision::Refuse(refusal) => panic!("refused: {}", refusal.detail),
        Decision::Unpaid(unpaid) => panic!("unpaid: {}", unpaid.code()),
    }
}

#[track_caller]
fn refused(text: &str, bids: &[Bid]) -> Refusal {
    match decision(&limits(text), bids) {
        Decision::Refuse(refusal) => refusal,
        Decision::Pay(_) => panic!("paid"),
        Decision::Unpaid(unpaid) => panic!("unpaid: {}", unpaid.code()),
    }
}

#[track_caller]
fn refuses(text: &str, code: RefusalCode, rule: &str) {
    let refusal = refused(text, &[bid(10)]);
    assert_eq!(
        (refusal.code, refusal.rule.as_str()),
        (code, rule),
        "{}",
        refusal.detail
    );
}

#[test]
fn only_an_amount_window_of_agent_or_group_is_a_budget() {
    use RefusalCode::NoBudget;
    refuses("", NoBudget, "agents.research");
    refuses("[account]\ntotal = \"9\"", NoBudget, "agents.research");
    refuses(
        "[account]\ntotal = \"9\"\n[agents.research]\nper_transaction = \"1\"\ncount = { total = 9 }",
        NoBudget,
        "agents.research",
    );
    refuses(
        "[groups.eng]\ncount = { total = 9 }\n[agents.research]\ngroup = \"eng\"",
        NoBudget,
        "agents.research",
    );
    refuses(
        "[groups.eng]\ntotal = \"9\"\n[agents.research]",
        NoBudget,
        "agents.research",
    );
    refuses("[agents.other]\ntotal = \"9\"", NoBudget, "agents.research");
    paid("[agents.research]\ntotal = \"9\"", &[bid(10)]);
    let plan = paid(
        "[groups.eng]\ntotal = \"9\"\n[agents.research]\ngroup = \"eng\"",
        &[bid(10)],
    );
    assert_eq!(plan.group.as_deref(), Some("eng"));
}

#[test]
fn every_level_can_refuse() {
    use RefusalCode::*;
    let levels = "[account]\nACCOUNT\n[groups.eng]\ntotal = \"9\"\nGROUP\n[agents.research]\ngroup = \"eng\"\nAGENT\n";
    for (rule, code, key) in [
        ("per_transaction = \"0.09\"", OverLimit, "per_transaction"),
        ("approval_above = \"0.09\"", ApprovalUnavailable, "approval_above"),
        ("paused = true", Paused, "paused"),
        (
            "merchants = { allow = [\"*.other.example\"] }",
            MerchantNotAllowed,
            "merchants.allow",
        ),
        (
            "merchants = { deny = [\"*.example.com\"] }",
            MerchantNotAllowed,
            "merchants.deny",
        ),
        (
            "merchants = { allow = [\"api.example.com\"], deny = [\"api.example.com\"] }",
            MerchantNotAllowed,
            "merchants.deny",
        ),
        (
            "payees = { allow = [\"0x00000000000000000000000000000000000000b0\"] }",
            PayeeNotAllowed,
            "payees.allow",
        ),
        (
            "payees = { deny = [\"0x00000000000000000000000000000000000000A1\"] }",
            PayeeNotAllowed,
            "payees.deny",
        ),
        ("networks = [\"eip155:84532\"]", NetworkNotAllowed, "networks"),
        ("assets = [\"USDT\"]", AssetNotAllowed, "assets"),
        (
            "assets = [\"eip155:84532/erc20:0x036cbd53842c5426634e7929541ec2318f3dcf7e\"]",
            AssetNotAllowed,
            "assets",
        ),
    ] {
        for (place, section) in [
            ("ACCOUNT", "account"),
            ("GROUP", "groups.eng"),
            ("AGENT", "agents.research"),
        ] {
            let text = levels.replace(place, rule);
            let text = ["ACCOUNT", "GROUP", "AGENT"]
                .iter()
                .fold(text, |t, place| t.replace(place, ""));
            refuses(&text, code, &format!("{section}.{key}"));
        }
    }
}

#[test]
fn a_limit_is_what_may_be_reached_not_passed() {
    let text = "[agents.research]\ntotal = \"9\"\nper_transaction = \"0.10\"\napproval_above = \"0.10\"";
    paid(text, &[bid(10)]);
    refused(text, &[bid(11)]);
    let text = "[agents.research]\ntotal = \"9\"\napproval_above = \"0.10\"";
    let refusal = refused(text, &[bid(11)]);
    assert_eq!(refusal.code.code(), "approval-unavailable");
    assert_eq!(
        (refusal.limit.as_deref(), refusal.asked.as_deref()),
        (Some("0.10"), Some("0.11"))
    );
}

#[test]
fn rails_that_are_not_listed_are_not_paid() {
    refuses(
        "rails = [\"mpp.evm\", \"mpp.stripe\"]\n[agents.research]\ntotal = \"9\"",
        RefusalCode::RailNotAllowed,
        "rails",
    );
}

#[test]
fn methods_decide_what_is_a_purchase() {
    let limits_usual = limits("[agents.research]\ntotal = \"9\"");
    let limits_named = limits("methods = [\"HEAD\", \"POST\"]\n[agents.research]\ntotal = \"9\"");
    let is_paid = |limits: &Limits, method: &Method| {
        let purchase = Purchase {
            agent: "research",
            merchant: "api.example.com",
            method,
            now: Timestamp::UNIX_EPOCH,
            approvals: Approvals::None,
            over: &[],
        };
        match choose(limits, &purchase, &[bid(1)]) {
            Decision::Pay(_) => true,
            Decision::Unpaid(Unpaid::Method) => false,
            _ => panic!("{method}"),
        }
    };
    for (method, usual, named) in [
        (Method::GET, true, false),
        (Method::POST, true, true),
        (Method::HEAD, false, true),
        (Method::OPTIONS, false, false),
        (Method::TRACE, false, false),
    ] {
        assert_eq!(is_paid(&limits_usual, &method), usual, "{method}");
        assert_eq!(is_paid(&limits_named, &method), named, "{method}");
    }
    assert!(matches!(
        decision(&limits_usual, &[]),
        Decision::Unpaid(Unpaid::NoOffer)
    ));
}

#[test]
fn the_cheapest_allowed_offer_wins_then_flow_then_rail_then_position() {
    let free = "[agents.research]\ntotal = \"9\"\n";
    assert_eq!(paid(free, &[bid(30), bid(10), bid(20)]).offer, 1);
    assert_eq!(paid(free, &[bid(10), bid(10)]).offer, 0);
    let upfront = || Bid {
        flow: PaymentFlow::Upfront,
        ..bid(10)
    };
    assert_eq!(paid(free, &[upfront(), bid(10)]).offer, 1);
    assert_eq!(paid(free, &[bid(11), upfront()]).offer, 1);
    let mpp = || Bid {
        rail: Rail::MppEvm,
        ..bid(10)
    };
    assert_eq!(paid(free, &[bid(10), mpp()]).offer, 1); // the default order has mpp.evm first
    let x402_first = format!("rails = [\"x402\", \"mpp.evm\"]\n{free}");
    assert_eq!(paid(&x402_first, &[mpp(), bid(10)]).offer, 1);
    let elsewhere = Bid {
        asset: usdc(SEPOLIA),
        ..bid(5)
    };
    let only_base = format!("{free}networks = [\"eip155:8453\"]\n");
    assert_eq!(paid(&only_base, &[elsewhere, bid(10)]).offer, 1);
}

#[test]
fn when_nothing_is_allowed_the_cheapest_offer_is_explained() {
    let text = "[agents.research]\ntotal = \"9\"\nper_transaction = \"0.01\"\nnetworks = [\"eip155:8453\"]";
    let elsewhere = Bid {
        asset: usdc(SEPOLIA),
        ..bid(5)
    };
    assert_eq!(refused(text, &[bid(10), elsewhere]).rule, "agents.research.networks");
    assert_eq!(refused(text, &[bid(10), bid(4)]).asked.as_deref(), Some("0.04"));
}

#[test]
fn a_payment_is_charged_to_every_budget_it_passes() {
    let text = r#"
timezone = "Europe/Berlin"
[account]
day = "500.00"
[groups.eng]
month = "100.00"
[agents.research]
group = "eng"
hour = "1.00"
total = "50.00"
count = { week = 200, total = 5 }
"#;
    let plan = paid(text, &[bid(25)]);
    let charges: Vec<String> = plan
        .charges
        .iter()
        .map(|c| {
            format!(
                "{} {} {} {}/{} {}",
                c.scope,
                c.window_name(),
                c.start,
                c.amount,
                c.cap,
                c.rule
            )
        })
        .collect();
    assert_eq!(
        charges,
        [
            "account day 2026-11-20T00:00:00+01:00[Europe/Berlin] 250000/500000000 account.day",
            "group:eng month 2026-11-01T00:00:00+01:00[Europe/Berlin] 250000/100000000 groups.eng.month",
            "agent:research hour 2026-11-20T15:00:00+01:00[Europe/Berlin] 250000/1000000 agents.research.hour",
            "agent:research total 0 250000/50000000 agents.research.total",
            "agent:research count.week 2026-11-16T00:00:00+01:00[Europe/Berlin] 1/200 agents.research.count.week",
            "agent:research count.total 0 1/5 agents.research.count.total",
        ]
    );
    assert_eq!(plan.max_validity_s, 300);
    // The same budget, one minute after local midnight: a new window.
    let limits = limits(text);
    let Decision::Pay(plan) = decide_at(&limits, "a.example", "2026-11-20T23:01:00Z", &[bid(25)]) else {
        panic!("not paid");
    };
    assert_eq!(&*plan.charges[0].start, "2026-11-21T00:00:00+01:00[Europe/Berlin]");
}

#[test]
fn offers_are_judged_by_their_own_asset_payee_and_price() {
    let text = "[agents.research]\ntotal = \"9\"\nnetworks = [\"eip155:8453\"]\nassets = [\"USDC\"]\n\
                payees = { allow = [\"0x00000000000000000000000000000000000000a1\"] }";
    let limits = limits(text);
    let offer = |network, micros, payee| {
        let token = assets::tokens_of(network).next().unwrap();
        Offer::of(token, Atoms::new(micros), payee)
    };
    let offers = [
        offer(SEPOLIA, 10, ALICE),
        offer(BASE, 20, BOB),
        offer(BASE, 40, ALICE),
        offer(BASE, 30, ALICE),
    ];
    let purchase = Purchase {
        agent: "research",
        merchant: "api.example.com",
        method: &Method::POST,
        now: Timestamp::UNIX_EPOCH,
        approvals: Approvals::None,
        over: &[],
    };
    let Decision::Pay(plan) = decide(&limits, &purchase, &offers) else {
        panic!("not paid");
    };
    assert_eq!((plan.offer, plan.charges[0].amount), (3, 30));
    let Decision::Refuse(refusal) = decide(&limits, &purchase, &offers[..2]) else {
        panic!("not refused");
    };
    assert_eq!(refusal.rule, "agents.research.networks");
}

#[test]
fn a_refusal_of_the_ledger_has_all_its_fields() {
    let text = "timezone = \"UTC\"\n[agents.research]\nday = \"5.00\"\ncount = { total = 1 }";
    let plan = paid(text, &[bid(60)]);
    let refusal = Refusal::over_limit(&plan.charges[0], 4_500_000, 200_000);
    assert_eq!(
        refusal,
        Refusal {
            code: RefusalCode::OverLimit,
            rule: "agents.research.day".into(),
            limit: Some("5.00".into()),
            used: Some("4.50".into()),
            reserved: Some("0.20".into()),
            asked: Some("0.60".into()),
            resets_at: Some("2026-11-21T00:00:00Z".parse().unwrap()),
            retry_at: Some("2026-11-21T00:00:00Z".parse().unwrap()),
            detail: "This payment of 0.60 USD would exceed agents.research.day, which is 5.00 USD per day: 4.50 USD used, \
                     0.20 USD reserved. The current day ends at 2026-11-21T00:00:00Z, and the count then restarts. Finance \
                     can raise agents.research.day in limits.toml."
                .into(),
        }
    );
    let refusal = Refusal::over_limit(&plan.charges[1], 1, 0);
    assert_eq!(
        refusal.detail,
        "One more payment would exceed agents.research.count.total, which is 1 payment in total: 1 payment used, 0 \
         payments reserved. Finance can raise agents.research.count.total in limits.toml."
    );
    assert_eq!(refusal.resets_at, None);
    let plan = paid(text, &[bid(501)]);
    let refusal = Refusal::over_limit(&plan.charges[0], 0, 0);
    assert!(refusal.detail.contains("waiting does not help"), "{}", refusal.detail);
}

#[test]
fn refusals_read_like_this() {
    let detail = |rules: &str| refused(&format!("[agents.research]\ntotal = \"9\"\n{rules}"), &[bid(10)]).detail;
    assert_eq!(
        detail("per_transaction = \"0.05\""),
        "The price of 0.10 USD is over agents.research.per_transaction, which is 0.05 USD per payment. Finance can raise \
         agents.research.per_transaction in limits.toml."
    );
    assert_eq!(
        detail("per_transaction = \"0.05\"\nover_limit = \"ask\""),
        "The price of 0.10 USD is over agents.research.per_transaction, which is 0.05 USD per payment. Nobody can be \
         asked to approve it: no approval backend is configured. Finance can raise agents.research.per_transaction in \
         limits.toml."
    );
    assert_eq!(
        detail("merchants = { deny = [\"*.example.com\"] }"),
        "The merchant api.example.com is denied by the entry *.example.com of agents.research.merchants.deny in \
         limits.toml. Finance can remove the entry."
    );
    assert_eq!(
        detail("assets = [\"USDT\"]"),
        "The asset USDC on eip155:8453 is not listed in agents.research.assets in limits.toml. Finance can add it there."
    );
    assert_eq!(
        refused("", &[bid(1)]).detail,
        "limits.toml has no section [agents.research], so this agent may not pay. Finance can add the section with an \
         amount window, such as day = \"5.00\"."
    );
}

#[test]
fn resource_hosts_belong_to_one_merchant() {
    let limits = limits("[merchants.\"api.example.com\"]\nresource_hosts = [\"Pay.example.com\"]");
    assert_eq!(
        limits.names_of("API.example.com").unwrap().resource_hosts,
        ["pay.example.com"]
    );
    assert_eq!(limits.names_of("other.example.com"), None);
}

#[test]
fn realms_are_texts_and_stay_as_written() {
    let limits = limits("[merchants.\"api.example.com\"]\nrealms = [\"MPP Payment\", \"B\u{fc}cher\"]");
    let names = limits.names_of("api.example.com").unwrap();
    assert_eq!(names.realms, ["MPP Payment", "B\u{fc}cher"]);
    assert!(names.resource_hosts.is_empty());
    for (bad, what) in [
        ("[]", "merchants.\"api.example.com\".realms: the list is empty"),
        ("[\"\"]", "a realm has no control characters and no blanks around it"),
        (
            "[\" MPP\"]",
            "a realm has no control characters and no blanks around it",
        ),
        (
            "[\"a\\u0007b\"]",
            "a realm has no control characters and no blanks around it",
        ),
        ("\"MPP\"", "a list"),
    ] {
        let text = format!("[merchants.\"api.example.com\"]\nrealms = {bad}\n");
        let Err(error) = config::limits::parse("limits.toml", &text) else {
            panic!("{bad} was taken");
        };
        assert!(error.to_string().contains(what), "{error}");
    }
}

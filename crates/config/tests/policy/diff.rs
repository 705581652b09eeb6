//! Who may spend more: the comparison of two files against purchases made under both.

use bursar_core::policy::diff::{Difference, Direction, Ended, diff};
use proptest::prelude::*;

use super::properties::{rules, text};
use super::*;

fn at() -> Timestamp {
    "2026-11-20T14:35:10Z".parse().unwrap()
}

fn compare(old: &str, new: &str) -> Vec<Difference> {
    diff(&limits(old), &limits(new), at())
}

/// The agent's direction and the rules of the stricter file that say so, with `?` where it cannot tell.
#[track_caller]
fn check(old: &str, new: &str, direction: Direction, rules: &[&str]) {
    let differences = compare(old, new);
    let found = differences
        .iter()
        .find(|difference| difference.agent == "research")
        .unwrap();
    let reasons = found.more.iter().chain(&found.less);
    let named: Vec<String> = reasons
        .map(|reason| format!("{}{}", reason.rule, if reason.example.is_some() { "" } else { "?" }))
        .collect();
    assert_eq!(
        (found.direction(), named),
        (direction, rules.iter().map(|&r| r.to_owned()).collect()),
        "{found:#?}"
    );
}

const ZONE: &str = "timezone = \"Europe/Berlin\"\n";

fn agent(rules: &str) -> String {
    format!("{ZONE}[agents.research]\ntotal = \"500\"\n{rules}\n")
}

#[test]
fn the_same_file_is_the_same() {
    let example = std::fs::read_to_string("../../limits.example.toml").unwrap();
    for difference in compare(&example, &example) {
        assert_eq!(difference.direction(), Direction::Same, "{difference:#?}");
    }
}

#[test]
fn caps_and_thresholds() {
    check(
        &agent("day = \"5\""),
        &agent("day = \"6\""),
        Direction::More,
        &["agents.research.day"],
    );
    check(
        &agent("day = \"6\""),
        &agent("day = \"5\""),
        Direction::Less,
        &["agents.research.day"],
    );
    check(
        &agent("day = \"5\""),
        &agent("week = \"5\""),
        Direction::Less,
        &["agents.research.week"],
    );
    check(
        &agent("day = \"5\""),
        &agent("hour = \"1\""),
        Direction::Both,
        &["agents.research.day", "agents.research.hour"],
    );
    check(
        &agent("count = { day = 5 }"),
        &agent(""),
        Direction::More,
        &["agents.research.count.day"],
    );
    // A day can be 25 hours long.
    check(
        &agent("rolling = { \"24h\" = \"5\" }"),
        &agent("day = \"5\""),
        Direction::Both,
        &["agents.research.rolling.24h", "agents.research.day?"],
    );
    check(
        &agent("day = \"5\""),
        &agent("rolling = { \"48h\" = \"5\" }"),
        Direction::Less,
        &["agents.research.rolling.48h"],
    );
    check(
        &agent("max_pending = \"1\""),
        &agent(""),
        Direction::More,
        &["agents.research.max_pending"],
    );
    check(
        &agent("per_transaction = \"1\""),
        &agent("per_transaction = \"2\""),
        Direction::More,
        &["agents.research.per_transaction"],
    );
    check(
        &agent("approval_above = \"1\""),
        &agent(""),
        Direction::More,
        &["agents.research.approval_above"],
    );
    check(
        &agent("approval_every = \"1\""),
        &agent(""),
        Direction::More,
        &["agents.research.approval_every"],
    );
    check(
        &agent("approval_first_time_payee = true"),
        &agent(""),
        Direction::More,
        &["agents.research.approval_first_time_payee"],
    );
    check(
        &agent("day = \"5\""),
        &agent("day = \"5\"\nover_limit = \"ask\""),
        Direction::More,
        &["agents.research.day", "agents.research.total"],
    );
}

#[test]
fn a_tighter_level_above_makes_a_change_below_pointless() {
    let file = |cap: &str| {
        format!("{ZONE}[account]\nday = \"5\"\nper_transaction = \"1\"\n[agents.research]\nday = \"{cap}\"\n")
    };
    check(&file("10"), &file("20"), Direction::Same, &[]);
    let file = |limit: &str| agent(&format!("approval_above = \"0.5\"\nper_transaction = \"{limit}\""));
    check(
        &file("1"),
        &file("0.75"),
        Direction::Less,
        &["agents.research.per_transaction"],
    );
}

#[test]
fn hosts_and_other_lists() {
    let hosts = |lists: &str| agent(&format!("merchants = {{ {lists} }}"));
    check(
        &hosts("allow = [\"a.example\"]"),
        &hosts("allow = [\"a.example\", \"b.example\"]"),
        Direction::More,
        &["agents.research.merchants.allow"],
    );
    check(
        &hosts("allow = [\"*.example\"]"),
        &hosts("allow = [\"a.example\"]"),
        Direction::Less,
        &["agents.research.merchants.allow"],
    );
    check(
        &hosts("allow = [\"*.example\"]"),
        &hosts("allow = [\"*.example\", \"a.example\"]"),
        Direction::Same,
        &[],
    );
    check(
        &hosts("deny = [\"*.bad.example\"]"),
        &hosts("deny = [\"x.bad.example\"]"),
        Direction::More,
        &["agents.research.merchants.deny"],
    );
    check(
        &hosts("deny = [\"x.example\"]"),
        &agent("merchants = { allow = [\"y.example\"] }"),
        Direction::Less,
        &["agents.research.merchants.allow"],
    );
    check(
        &agent("networks = [\"eip155:8453\"]"),
        &agent(""),
        Direction::More,
        &["agents.research.networks"],
    );
    check(
        &agent("assets = [\"USDC\"]"),
        &agent(""),
        Direction::More,
        &["agents.research.assets"],
    );
    let payee = "payees = { allow = [\"0x00000000000000000000000000000000000000a1\"] }";
    check(
        &agent(payee),
        &agent(""),
        Direction::More,
        &["agents.research.payees.allow"],
    );
    check(
        &format!("methods = [\"GET\"]\n{}", agent("")),
        &agent(""),
        Direction::More,
        &["methods"],
    );
    check(
        &format!("rails = [\"x402\"]\n{}", agent("")),
        &agent(""),
        Direction::More,
        &["rails"],
    );
}

#[test]
fn agents_that_come_go_or_pause() {
    check("", &agent(""), Direction::More, &["agents.research"]);
    check(&agent(""), "", Direction::Less, &["agents.research"]);
    check(
        &agent("paused = true"),
        &agent(""),
        Direction::More,
        &["agents.research.paused"],
    );
}

#[test]
fn rates_and_approvers_and_what_is_decided_elsewhere() {
    let rate = |usd: &str, until: &str| {
        format!("{ZONE}[rates.eur]\nusd = \"{usd}\"\nvalid_until = \"{until}\"\n[agents.research]\ntotal = \"5\"\n")
    };
    check(
        &rate("1.2", "2026-12-31"),
        &rate("1.1", "2026-12-31"),
        Direction::More,
        &["agents.research.total"],
    );
    check(
        &rate("1.2", "2026-12-31"),
        &rate("1.2", "2027-01-31"),
        Direction::More,
        &["rates.eur"],
    );
    let named = |who: &str| agent(&format!("approval_above = \"1\"\napprovers = [{who}]"));
    check(
        &named("\"ann\""),
        &named("\"ann\", \"bob\""),
        Direction::More,
        &["agents.research.approval_above"],
    );
    check(
        &agent("approvers = [\"ann\"]"),
        &agent("approvers = [\"bob\"]"),
        Direction::Same,
        &[],
    );
    check(
        &agent(""),
        &format!("zero_amount = true\n{}", agent("")),
        Direction::More,
        &["zero_amount?"],
    );
}

#[test]
fn another_zone_has_other_days() {
    let zone = |zone: &str| format!("timezone = \"{zone}\"\n[agents.research]\nday = \"5\"\n");
    check(
        &zone("Europe/Berlin"),
        &zone("America/New_York"),
        Direction::Both,
        &["agents.research.day", "agents.research.day"],
    );
    // Two names of the same days: that cannot be told.
    check(
        &zone("Europe/Berlin"),
        &zone("Europe/Paris"),
        Direction::Both,
        &["agents.research.day?", "agents.research.day?"],
    );
}

fn rank(limits: &Limits, bid: &Bid, host: &str, spent: [u128; 3], known: bool) -> u8 {
    let purchase = Purchase {
        agent: "research",
        merchant: host,
        method: &Method::GET,
        now: at(),
        approvals: Approvals::Service,
        over: &[],
    };
    let bid = Bid {
        payee: bid.payee.clone(),
        ..*bid
    };
    let counted = |charge: &Charge| {
        let spent = match &*charge.scope {
            "account" => spent[0],
            "group:eng" => spent[1],
            _ => spent[2],
        };
        Some(match (charge.window, charge.unit) {
            (Window::Payee, _) => Counted {
                settled: u128::from(known),
                open: 0,
            },
            (_, Unit::Payments) => Counted {
                settled: spent / 10_000,
                open: 0,
            },
            (_, Unit::MicroUsd) => Counted {
                settled: 0,
                open: spent,
            },
        })
    };
    match judge(limits, &purchase, &[bid], counted).verdict {
        Verdict::Pay(_) => 2,
        Verdict::Ask(_) => 1,
        Verdict::Refuse(_) | Verdict::Unpaid(_) | Verdict::Unknown(_) => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whenever one file allows what the other does not, the comparison says so.
    #[test]
    fn nobody_spends_more_unnoticed(
        old in [rules(), rules(), rules()],
        new in [rules(), rules(), rules()],
        purchases in prop::collection::vec(
            (0..5u32, any::<[bool; 4]>(), prop::sample::select(vec!["api.example.com", "x.example", "b.test"]),
             [0..6u128, 0..6u128, 0..6u128]),
            24,
        ),
    ) {
        let (old, new) = (text(&old), text(&new));
        let (before, after) = (limits(&old), limits(&new));
        let difference = diff(&before, &after, at()).remove(0);
        for (cents, [sepolia, bob, mpp, known], host, spent) in purchases {
            let bid = Bid {
                asset: usdc(if sepolia { SEPOLIA } else { BASE }),
                payee: if bob { BOB } else { ALICE }.into(),
                rail: if mpp { Rail::MppEvm } else { Rail::X402 },
                ..bid(cents)
            };
            // What an agent has spent, its group and the account have spent too.
            let agent = spent[2] * 10_000;
            let group = agent + spent[1] * 10_000;
            let spent = [group + spent[0] * 10_000, group, agent];
            let ranks = (rank(&before, &bid, host, spent, known), rank(&after, &bid, host, spent, known));
            let seen = difference.direction();
            if ranks.1 > ranks.0 {
                prop_assert!(matches!(seen, Direction::More | Direction::Both), "{old}\n---\n{new}\n{bid:?} {host} {spent:?}");
            }
            if ranks.0 > ranks.1 {
                prop_assert!(matches!(seen, Direction::Less | Direction::Both), "{old}\n---\n{new}\n{bid:?} {host} {spent:?}");
            }
        }
        // Each example was run on both.
        for reason in difference.more.iter().chain(&difference.less) {
            if let Some(example) = &reason.example {
                prop_assert_ne!(&example.strict, &example.loose);
                prop_assert!(!matches!(example.strict, Ended::Pay));
            }
        }
        for unchanged in diff(&before, &before, at()) {
            prop_assert_eq!(unchanged.direction(), Direction::Same, "{}", old);
        }
    }
}

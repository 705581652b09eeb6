//! What a large limits.toml costs: each decision, and reading the file again. 10,000 agents in 100 groups, and 1,000
//! merchant patterns.
//!
//! ```text
//! cargo bench -p bursar-config --bench limits
//! ```

use std::hint::black_box;
use std::time::{Duration, Instant};

use bursar_config::limits;
use bursar_config::warnings::{Surroundings, warnings};
use bursar_core::assets::{Asset, Network, tokens_of};
use bursar_core::challenge::{PaymentFlow, Rail};
use bursar_core::money::MicroUsd;
use bursar_core::policy::{Approvals, Bid, Decision, Purchase, choose};
use http::Method;
use jiff::Timestamp;

const AGENTS: usize = 10_000;
const GROUPS: usize = 100;
const PATTERNS: usize = 1_000;

fn main() {
    // `cargo test --benches` passes no such argument and must not measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let text = file();
    let agents: Vec<String> = (0..AGENTS).map(|n| format!("agent-{n}")).collect();
    let now: Timestamp = "2026-11-20T14:35:10Z".parse().expect("a time");

    let reloads: Vec<Duration> = (0..11).map(|_| reload(&text, &agents, now)).collect();
    report("reload: parse, resolve, warnings", reloads, Duration::from_millis(200));

    let limits = limits::parse("limits.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    let hosts: Vec<String> = (0..PATTERNS).map(|n| format!("api.shop-{n}.example")).collect();
    let bid = Bid {
        rail: Rail::X402,
        asset: Asset::Token(tokens_of(Network::Eip155(8453)).next().expect("USDC")),
        payee: alloy_primitives::Address::repeat_byte(1).into(),
        price: Ok(MicroUsd::new(10_000)),
        flow: PaymentFlow::Authorization,
    };
    let bids = [bid];
    let decisions = (0..200_000).map(|n| {
        let purchase = Purchase {
            agent: &agents[n * 7 % AGENTS],
            merchant: &hosts[n * 13 % PATTERNS],
            method: &Method::GET,
            now,
            approvals: Approvals::None,
            over: &[],
        };
        let began = Instant::now();
        let decision = black_box(choose(&limits, &purchase, &bids));
        let took = began.elapsed();
        assert!(matches!(decision, Decision::Pay(_)));
        took
    });
    report("decide", decisions.collect(), Duration::from_micros(5));
}

fn reload(text: &str, agents: &[String], now: Timestamp) -> Duration {
    let began = Instant::now();
    let limits = limits::parse("limits.toml", text).unwrap_or_else(|error| panic!("{error}"));
    let agents = Some(agents);
    let members = limits.members();
    let members = Some(&members);
    let around = Surroundings { agents, members, now };
    let found = warnings("limits.toml", text, &limits, around);
    let took = began.elapsed();
    assert_eq!(found, []);
    took
}

fn report(what: &str, mut times: Vec<Duration>, target: Duration) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    let met = if at(50) <= target { "met" } else { "MISSED" };
    println!(
        "{what}: p50 {:?}, p99 {:?}; target p50 {target:?}: {met}",
        at(50),
        at(99)
    );
}

fn file() -> String {
    let quoted = |from: usize, to: usize, star: &str| {
        let names: Vec<String> = (from..to).map(|n| format!("\"{star}shop-{n}.example\"")).collect();
        names.join(", ")
    };
    let mut text = format!(
        "timezone = \"Europe/Berlin\"\n[account]\nday = \"50000.00\"\nmerchants = {{ allow = [{}], deny = [{}] }}\n",
        quoted(0, PATTERNS, "*."),
        quoted(PATTERNS, 2 * PATTERNS, ""),
    );
    for group in 0..GROUPS {
        text += &format!("[groups.group-{group}]\nday = \"1000.00\"\n");
    }
    for agent in 0..AGENTS {
        text += &format!(
            "[agents.agent-{agent}]\ngroup = \"group-{}\"\nper_transaction = \"0.50\"\nday = \"5.00\"\nmonth = \"50.00\"\ncount = \
             {{ hour = 200 }}\napproval_above = \"0.25\"\n",
            agent % GROUPS
        );
    }
    text
}

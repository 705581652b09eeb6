//! The decision with every rule, against the one that stops at the first.

use proptest::prelude::*;

use super::properties::{any_bid_over_any_rail, rules, text};
use super::*;

fn purchase(approvals: Approvals, merchant: &str) -> Purchase<'_> {
    Purchase {
        agent: "research",
        merchant,
        method: &Method::GET,
        now: "2026-11-20T14:35:10Z".parse().unwrap(),
        approvals,
        over: &[],
    }
}

/// The first rule that refuses, among those that were reached.
fn first_failure<'t>(looked: impl Iterator<Item = &'t Looked>) -> Option<&'t Looked> {
    looked
        .filter(|looked| looked.reached)
        .find(|looked| looked.outcome == Outcome::Fail)
}

proptest! {
    #[test]
    fn every_rule_together_say_what_the_first_failure_says(
        levels in [rules(), rules(), rules()],
        bids in prop::collection::vec(any_bid_over_any_rail(), 1..4),
        approvals in prop::sample::select(vec![Approvals::None, Approvals::Terminal, Approvals::Service]),
        second in any::<bool>(),
    ) {
        let mut text = text(&levels);
        if second {
            text += "second_approval_above = \"0.02\"\napprovers = [\"ann\", \"bob\"]\n";
        }
        let limits = limits(&text);
        let purchase = purchase(approvals, "api.example.com");
        let trace = trace(&limits, &purchase, &bids);
        let of_offer = |offer: usize| trace.purchase.iter().chain(&trace.offers[offer]);
        match choose(&limits, &purchase, &bids) {
            Decision::Pay(plan) => {
                prop_assert!(first_failure(of_offer(plan.offer)).is_none());
                let asking: Vec<&str> = of_offer(plan.offer)
                    .filter(|looked| looked.outcome == Outcome::Ask)
                    .map(|looked| looked.rule.as_str())
                    .collect();
                let mut named: Vec<&str> = plan.threshold.iter().flat_map(|t| &t.rules).map(String::as_str).collect();
                let mut asking_sorted = asking.clone();
                asking_sorted.sort_unstable();
                named.sort_unstable();
                prop_assert_eq!(asking_sorted, named);
                let mut charged: Vec<&str> = plan.charges.iter().map(|charge| &*charge.rule).collect();
                let mut budgets: Vec<&str> = trace.budgets.iter().map(|looked| looked.rule.as_str()).collect();
                charged.sort_unstable();
                budgets.sort_unstable();
                prop_assert_eq!(charged, budgets);
            }
            Decision::Refuse(refusal) => {
                // It is that of the cheapest offer, unless the purchase itself is refused.
                let failures: Vec<_> = (0..bids.len()).map(|offer| first_failure(of_offer(offer))).collect();
                prop_assert!(failures.iter().all(Option::is_some), "an offer is allowed");
                let is_named = |failure: &Option<&Looked>| {
                    failure.is_some_and(|looked| looked.rule == refusal.rule && looked.code == Some(refusal.code))
                };
                prop_assert!(failures.iter().any(is_named), "{} {:?}", refusal.rule, failures);
            }
            Decision::Unpaid(unpaid) => prop_assert!(false, "{}", unpaid.code()),
        }
        // Nothing is reached after a rule that refuses, and everything before it is.
        for offer in 0..bids.len() {
            let mut refused = false;
            for looked in of_offer(offer) {
                prop_assert_eq!(looked.reached, !refused);
                refused |= looked.outcome == Outcome::Fail;
            }
        }
    }
}

#[test]
fn every_rule_is_listed_with_its_outcome() {
    let limits = limits(
        "[account]\nmerchants = { deny = [\"x.example\"] }\n[agents.research]\ntotal = \"5\"\nper_transaction = \"0.50\"\n\
         approval_above = \"0.25\"\nnetworks = [\"eip155:84532\"]\n",
    );
    let trace = trace(&limits, &purchase(Approvals::Service, "api.example.com"), &[bid(300)]);
    let shown: Vec<_> = trace
        .purchase
        .iter()
        .chain(&trace.offers[0])
        .chain(&trace.budgets)
        .map(|looked| (looked.rule.as_str(), looked.outcome, looked.reached))
        .collect();
    assert_eq!(
        shown,
        [
            ("methods", Outcome::Pass, true),
            ("agents.research", Outcome::Pass, true),
            ("account.merchants.deny", Outcome::Pass, true),
            ("rails", Outcome::Pass, true),
            ("agents.research.networks", Outcome::Fail, true),
            ("agents.research.per_transaction", Outcome::Fail, false),
            ("agents.research.approval_above", Outcome::Ask, false),
            ("agents.research.total", Outcome::Unknown, false),
        ]
    );
    assert_eq!(trace.offers[0][2].limit.as_deref(), Some("0.50"));
    assert_eq!(trace.offers[0][2].asked.as_deref(), Some("3.00"));
}

#[test]
fn a_method_that_is_not_paid_for_is_a_rule_too() {
    let limits = limits("methods = [\"POST\"]\n[agents.research]\ntotal = \"5\"\n");
    let trace = trace(&limits, &purchase(Approvals::None, "api.example.com"), &[bid(1)]);
    assert!(matches!(trace.decision, Decision::Unpaid(Unpaid::Method)));
    assert_eq!(
        (trace.purchase[0].rule.as_str(), trace.purchase[0].outcome),
        ("methods", Outcome::Fail)
    );
    assert!(!trace.offers[0][0].reached);
}

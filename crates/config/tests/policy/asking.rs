//! When a person must approve, because of which rule, and which people.

use std::sync::Arc;

use super::*;

const NAMES: &str = "approvers = [\"a\", \"b\", \"c\"]\n";

fn asked(rules: &str, approvals: Approvals, over: &[&str], cents: u32) -> Decision {
    let limits = limits(&format!("[agents.research]\ntotal = \"90\"\n{rules}"));
    let purchase = Purchase {
        agent: "research",
        merchant: "api.example.com",
        method: &Method::GET,
        now: "2026-11-20T14:35:10Z".parse().unwrap(),
        approvals,
        over: &over.iter().map(|rule| Arc::from(*rule)).collect::<Vec<_>>(),
    };
    choose(&limits, &purchase, &[bid(cents)])
}

#[track_caller]
fn plan(rules: &str, over: &[&str], cents: u32) -> Plan {
    match asked(rules, Approvals::Service, over, cents) {
        Decision::Pay(plan) => plan,
        Decision::Refuse(refusal) => panic!("refused: {}", refusal.detail),
        Decision::Unpaid(why) => panic!("unpaid: {}", why.code()),
    }
}

#[track_caller]
fn refusal(rules: &str, approvals: Approvals, cents: u32) -> Refusal {
    match asked(rules, approvals, &[], cents) {
        Decision::Refuse(refusal) => refusal,
        _ => panic!("not refused"),
    }
}

fn threshold(rules: &[&str], named: Option<&[&str]>, needed: u8) -> Threshold {
    Threshold {
        rules: rules.iter().map(|rule| format!("agents.research.{rule}")).collect(),
        named: named.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
        owners: Vec::new(),
        needed,
    }
}

/// Window name, start, amount, and what happens when the charge does not fit.
fn charged(charges: &[Charge]) -> Vec<(String, &str, u128, Excess)> {
    let summary = |charge: &'_ Charge| (charge.window_name().into_owned(), charge.amount, charge.excess);
    charges
        .iter()
        .map(|charge| {
            let (window, amount, excess) = summary(charge);
            (window, &*charge.start, amount, excess)
        })
        .collect()
}

#[test]
fn the_exceeded_threshold_decides_how_many_must_approve() {
    let rules = format!("approval_above = \"0.10\"\nsecond_approval_above = \"0.20\"\napprovals_needed = 3\n{NAMES}");
    assert_eq!(plan(&rules, &[], 10).threshold, None);
    let all: &[&str] = &["a", "b", "c"];
    assert_eq!(
        plan(&rules, &[], 11).threshold,
        Some(threshold(&["approval_above"], Some(all), 1))
    );
    assert_eq!(
        plan(&rules, &[], 20).threshold,
        Some(threshold(&["approval_above"], Some(all), 1))
    );
    assert_eq!(
        plan(&rules, &[], 21).threshold,
        Some(threshold(&["second_approval_above", "approval_above"], Some(all), 3))
    );
    // The second threshold works without the first.
    let rules = format!("second_approval_above = \"0.20\"\n{NAMES}");
    assert_eq!(plan(&rules, &[], 20).threshold, None);
    assert_eq!(
        plan(&rules, &[], 21).threshold,
        Some(threshold(&["second_approval_above"], Some(all), 2))
    );
}

#[test]
fn the_owner_of_the_agent_is_not_asked() {
    let rules = format!("approval_above = \"0.10\"\nowner = \"b\"\n{NAMES}");
    let asked = plan(&rules, &[], 11).threshold.unwrap();
    assert_eq!(
        (asked.named, asked.owners),
        (Some(vec!["a".into(), "c".into()]), vec!["b".into()])
    );
    let asked = plan("approval_above = \"0.10\"\nowner = \"b\"", &[], 11)
        .threshold
        .unwrap();
    assert_eq!((asked.named, asked.owners), (None, vec!["b".into()]));
}

#[test]
fn what_was_spent_asks_over_the_rule_that_it_passes() {
    let rule = "agents.research.total";
    let asked = plan("over_limit = \"ask\"", &[rule], 5);
    assert_eq!(asked.threshold, Some(threshold(&["total"], None, 1)));
    assert_eq!(
        charged(&asked.charges),
        [("total".to_owned(), "0", 50_000, Excess::Approved)]
    );
    assert!(asked.held().is_empty());
    // If the price exceeds a threshold as well, the question names both.
    let asked = plan("over_limit = \"ask\"\napproval_above = \"0.04\"", &[rule], 5);
    assert_eq!(asked.threshold, Some(threshold(&["approval_above", "total"], None, 1)));
}

#[test]
fn only_what_asks_may_be_passed() {
    let rules = "count = { total = 5 }\napproval_every = \"1.00\"\napproval_first_time_payee = true\n";
    let payee = ALICE.to_string();
    let calm = plan(rules, &[], 5);
    assert_eq!(
        charged(&calm.charges),
        [
            ("total".to_owned(), "0", 50_000, Excess::Denied),
            ("count.total".to_owned(), "0", 1, Excess::Denied),
            ("approval_every".to_owned(), "", 50_000, Excess::Asked),
            ("count.payee".to_owned(), &*payee, 1, Excess::Asked),
        ]
    );
    assert_eq!(calm.held(), calm.charges);
    let asked = plan(rules, &["agents.research.approval_every"], 5);
    assert_eq!(
        charged(&asked.charges),
        [
            ("total".to_owned(), "0", 50_000, Excess::Denied),
            ("count.total".to_owned(), "0", 1, Excess::Denied),
            ("count.payee".to_owned(), &*payee, 1, Excess::Asked),
            (
                "approval_every".to_owned(),
                "00001795185310000000",
                50_000,
                Excess::Approved
            ),
        ]
    );
    assert_eq!(asked.held(), asked.charges[..3]);
    // One level asks, another denies: the charges that no approval lets pass come first.
    let limits = limits("[account]\ntotal = \"9\"\nover_limit = \"ask\"\n[agents.research]\ntotal = \"5\"\n");
    let purchase = Purchase {
        agent: "research",
        merchant: "api.example.com",
        method: &Method::GET,
        now: "2026-11-20T14:35:10Z".parse().unwrap(),
        approvals: Approvals::Service,
        over: &["account.total".into()],
    };
    let Decision::Pay(plan) = choose(&limits, &purchase, &[bid(5)]) else {
        panic!()
    };
    let scopes: Vec<(&str, Excess)> = plan
        .charges
        .iter()
        .map(|charge| (&*charge.scope, charge.excess))
        .collect();
    assert_eq!(
        scopes,
        [("agent:research", Excess::Denied), ("account", Excess::Approved)]
    );
}

/// Two windows that ask, and a price over a third rule: an approval lifts what the question names, nothing else.
#[test]
fn an_approval_lifts_only_the_rules_that_its_question_names() {
    let rules = "rolling = { \"24h\" = \"1.00\" }\nover_limit = \"ask\"\napproval_above = \"0.04\"\n";
    let (day, total) = ("agents.research.rolling.24h", "agents.research.total");
    let lifted = |over: &[&str]| {
        let plan = plan(rules, over, 5);
        let lifted = plan.charges.iter().filter(|charge| charge.excess == Excess::Approved);
        let lifted: Vec<String> = lifted.map(|charge| charge.rule.to_string()).collect();
        (plan.threshold.clone().unwrap().rules, lifted, plan.held().len())
    };
    let above = "agents.research.approval_above";
    // The price alone asks: what the windows hold still counts.
    assert_eq!(lifted(&[]), (vec![above.to_owned()], vec![], 2));
    assert_eq!(
        lifted(&[day]),
        (vec![above.to_owned(), day.to_owned()], vec![day.to_owned()], 1)
    );
    let (named, mut both, held) = lifted(&[day, total]);
    both.sort_unstable();
    assert_eq!(
        (named, both, held),
        (
            vec![above.to_owned(), day.to_owned(), total.to_owned()],
            vec![day.to_owned(), total.to_owned()],
            0
        )
    );
}

#[test]
fn where_nobody_can_be_asked_it_is_refused() {
    let rules = "approval_every = \"1.00\"\napproval_first_time_payee = true\nover_limit = \"ask\"\n";
    let Decision::Pay(plan) = asked(rules, Approvals::None, &[], 5) else {
        panic!()
    };
    assert!(plan.charges.iter().all(|charge| charge.excess == Excess::Denied));
    let refusal_of = |at: usize, settled, open| Refusal::over_limit(&plan.charges[at], settled, open);
    let due = refusal_of(1, 970_000, 20_000);
    assert_eq!(
        (due.code, &*due.detail),
        (
            RefusalCode::ApprovalUnavailable,
            "With this payment of 0.05 USD, spending since a person last approved a payment would exceed 1.00 USD (0.97 USD used, \
             0.02 USD reserved), the amount set by agents.research.approval_every. A person must approve it, but no approval backend \
             is configured. Finance can raise agents.research.approval_every in limits.toml."
        )
    );
    let stranger = refusal_of(2, 0, 1);
    assert_eq!(stranger.code, RefusalCode::ApprovalUnavailable);
    assert_eq!(
        stranger.detail,
        format!(
            "No earlier payment to {ALICE} is known to agents.research.approval_first_time_payee, so a person must approve this \
             one, but no approval backend is configured. Finance can remove agents.research.approval_first_time_payee from \
             limits.toml."
        )
    );
    let second = format!("second_approval_above = \"0.20\"\n{NAMES}");
    assert_eq!(
        refusal(&second, Approvals::Terminal, 21).detail,
        "The price of 0.21 USD is over agents.research.second_approval_above, which is 0.20 USD, so 2 people must approve it. The \
         operator's terminal cannot tell people apart: that needs [approval] backend = \"ciba\" or \"keyra\" in bursar.toml."
    );
    assert_eq!(
        refusal(&second, Approvals::None, 21).rule,
        "agents.research.second_approval_above"
    );
}

//! Past spending decides whether a person is asked: a payee never paid before, a sum since the last approval, a budget
//! that a person may let a payment exceed (threat 1.3). The ledger decides one payment after the other, so that no two
//! slip through together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::approvals::{
    AT_ONCE, approve, assert_problem, at_ten_cents, kinds, new_limits, pending, question, seller_at,
};
use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, eventually, setup};
use crate::support::origin::Origin;
use crate::support::seller;

fn start(origin: &Origin, rules: &str, approval: &str) -> Bursar {
    let limits = format!("[agents.research]\ntotal = \"5.00\"\n{rules}\n");
    setup().trust(&origin.ca_pem).limits(&limits).config(approval).start()
}

/// Sells for ten cents, paid to an address that ends in `payee`.
async fn to_payee(payee: &Arc<AtomicU64>) -> Origin {
    let payee = payee.clone();
    Origin::https(move |request| {
        let payee = payee.clone();
        async move {
            if request.is_paid() {
                return seller::sold("goods");
            }
            let mut requirement = seller::requirement("100000");
            requirement["payTo"] = format!("0x{:040x}", 0xA11CE + payee.load(Ordering::SeqCst)).into();
            seller::v2(&seller::challenge("/", &[requirement]))
        }
    })
    .await
}

async fn is_approved(bursar: &Bursar) {
    let (id, code) = question(bursar).await;
    approve(bursar, &id, &code);
}

fn windows(bursar: &Bursar, kind: &str) -> Vec<Value> {
    let entries = bursar.journal();
    let entries = entries.into_iter().filter(|entry| entry["ev"] == *kind);
    entries.map(|entry| entry["windows"].clone()).collect()
}

#[tokio::test]
async fn a_payee_is_asked_about_once() {
    let payee = Arc::new(AtomicU64::new(0));
    let origin = to_payee(&payee).await;
    let mut bursar = start(&origin, "approval_first_time_payee = true", AT_ONCE);
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/one").await, 503, "approval-pending");
    is_approved(&bursar).await;
    assert_eq!(agent.get(origin.address, "/one").await.status, 200);
    // Now the payee is known, whatever else is bought there.
    assert_eq!(agent.get(origin.address, "/two").await.status, 200);
    payee.store(1, Ordering::SeqCst);
    assert_problem(&agent.get(origin.address, "/two").await, 503, "approval-pending");
    payee.store(0, Ordering::SeqCst);
    assert_eq!(agent.get(origin.address, "/three").await.status, 200);
    assert_eq!(origin.payments().len(), 3);
    // It is still known after a restart, with and without the index.
    let mut bursar = bursar.kill().serve();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/four").await.status, 200);
    bursar.stop();
    std::fs::remove_dir_all(bursar.path().join("index")).unwrap();
    let bursar = bursar.kill().serve();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/five").await.status, 200);
    assert_eq!(origin.payments().len(), 5);
}

#[tokio::test]
async fn a_payee_is_known_to_the_level_that_has_paid_it() {
    let payee = Arc::new(AtomicU64::new(0));
    let origin = to_payee(&payee).await;
    let limits = "[groups.eng]\ntotal = \"5.00\"\napproval_first_time_payee = true\n[agents.research]\ngroup = \"eng\"\n\
                  [agents.writer]\ngroup = \"eng\"\n[agents.loner]\ntotal = \"1.00\"\napproval_first_time_payee = true\n";
    let bursar = setup().trust(&origin.ca_pem).limits(limits).config(AT_ONCE).start();
    let writer = Agent::named(&bursar, "writer", &bursar.home.add_agent("writer"));
    let loner = Agent::named(&bursar, "loner", &bursar.home.add_agent("loner"));
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/one").await,
        503,
        "approval-pending",
    );
    is_approved(&bursar).await;
    // Approved is not paid: until it is paid, the payee is unknown to every level.
    assert_problem(&writer.get(origin.address, "/two").await, 503, "approval-pending");
    assert_eq!(Agent::of(&bursar).get(origin.address, "/one").await.status, 200);
    assert_eq!(writer.get(origin.address, "/three").await.status, 200);
    assert_problem(&loner.get(origin.address, "/one").await, 503, "approval-pending");
}

#[tokio::test]
async fn a_person_looks_again_once_so_much_was_spent() {
    let origin = at_ten_cents().await;
    let mut bursar = start(&origin, "approval_every = \"0.25\"", AT_ONCE);
    let agent = Agent::of(&bursar);
    for path in ["/one", "/two"] {
        assert_eq!(agent.get(origin.address, path).await.status, 200);
    }
    assert_problem(&agent.get(origin.address, "/three").await, 503, "approval-pending");
    is_approved(&bursar).await;
    // Approved is not paid: a new count begins only once the payment is armed.
    assert_problem(&agent.get(origin.address, "/other").await, 503, "approval-pending");
    assert_eq!(agent.get(origin.address, "/three").await.status, 200);
    for path in ["/four", "/five"] {
        assert_eq!(agent.get(origin.address, path).await.status, 200);
    }
    assert_problem(&agent.get(origin.address, "/six").await, 503, "approval-pending");
    assert_eq!(origin.payments().len(), 5);
    // A restart does not begin a new count either.
    bursar.stop();
    std::fs::remove_dir_all(bursar.path().join("index")).unwrap();
    let bursar = bursar.kill().serve();
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/seven").await,
        503,
        "approval-pending",
    );
    assert_eq!(origin.payments().len(), 5);
    // The approved payment itself does not count in the period that it begins.
    let armed = windows(&bursar, "pay.armed");
    let window = armed[0]
        .as_array()
        .unwrap()
        .iter()
        .find(|window| window[1] == "approval_every");
    assert_eq!(
        (&window.unwrap()[3], &window.unwrap()[4]),
        (&"0".into(), &"250000".into())
    );
}

#[tokio::test]
async fn of_many_at_once_no_more_pass_than_the_sum_allows() {
    let origin = at_ten_cents().await;
    let config =
        format!("{AT_ONCE}max_pending_per_agent = 100\nmax_pending_per_approver = 100\nprompts_per_hour = 100\n");
    let bursar = start(&origin, "approval_every = \"0.35\"", &config);
    let mut buying = JoinSet::new();
    for n in 0..24 {
        let (agent, site) = (Agent::of(&bursar), origin.address);
        buying.spawn(async move { agent.get(site, &format!("/{n}")).await });
    }
    let pages = buying.join_all().await;
    let paid = pages.iter().filter(|page| page.status == 200).count();
    assert_eq!((paid, origin.payments().len()), (3, 3));
    for page in pages.iter().filter(|page| page.status != 200) {
        assert_problem(page, 503, "approval-pending");
    }
}

#[tokio::test]
async fn a_person_lets_one_payment_pass_a_budget() {
    let origin = at_ten_cents().await;
    let bursar = start(
        &origin,
        "rolling = { \"24h\" = \"0.25\" }\nover_limit = \"ask\"",
        AT_ONCE,
    );
    let agent = Agent::of(&bursar);
    for path in ["/one", "/two"] {
        assert_eq!(agent.get(origin.address, path).await.status, 200);
    }
    let page = agent.get(origin.address, "/three").await;
    assert_problem(&page, 503, "approval-pending");
    assert_eq!(bursar.states(), ["settled", "settled", "held"]);
    question(&bursar).await;
    assert_eq!(pending(&bursar)[0]["rules"], json!(["agents.research.rolling.24h"]));
    let printed = String::from_utf8(bursar.run(&["pending"]).stdout).unwrap();
    assert!(
        printed.contains("approval required by agents.research.rolling.24h\n  bursar approve "),
        "{printed}"
    );
    is_approved(&bursar).await;
    assert_eq!(agent.get(origin.address, "/three").await.status, 200);
    // The approval was for that payment only, and the payment counts.
    assert_problem(&agent.get(origin.address, "/four").await, 503, "approval-pending");
    let (id, _) = question(&bursar).await;
    assert!(bursar.run(&["deny", &id, "--why", "enough"]).status.success());
    assert_problem(&agent.get(origin.address, "/four").await, 403, "approval-denied");
    assert_eq!(origin.payments().len(), 3);
    let armed = windows(&bursar, "pay.armed");
    assert!(armed[0].to_string().contains("rolling.86400"), "{armed:?}");
}

/// A person allowed a price. What others spent meanwhile has passed a window that also asks, which the question did not
/// name, so the approval does not lift it: the person is asked again, with both named.
#[tokio::test]
async fn a_window_that_is_passed_while_a_person_decides_is_asked_about_as_well() {
    let price = Arc::new(AtomicU64::new(100_000));
    let origin = seller_at(&price).await;
    let limits = "[groups.eng]\ntotal = \"5.00\"\nrolling = { \"24h\" = \"0.25\" }\nover_limit = \"ask\"\n\
                  [agents.research]\ngroup = \"eng\"\napproval_above = \"0.05\"\n[agents.writer]\ngroup = \"eng\"\n";
    let bursar = setup().trust(&origin.ca_pem).limits(limits).config(AT_ONCE).start();
    let research = Agent::of(&bursar);
    let writer = Agent::named(&bursar, "writer", &bursar.home.add_agent("writer"));
    let (above, window) = ("agents.research.approval_above", "groups.eng.rolling.24h");
    assert_problem(&research.get(origin.address, "/one").await, 503, "approval-pending");
    // The first payment is held, so that the second passes the window.
    price.store(200_000, Ordering::SeqCst);
    assert_problem(&writer.get(origin.address, "/two").await, 503, "approval-pending");
    let open = eventually("two questions", || {
        Some(pending(&bursar)).filter(|open| open.len() == 2)
    })
    .await;
    let named: Vec<&Value> = open.iter().map(|question| &question["rules"]).collect();
    assert_eq!(named, [&json!([above]), &json!([window])]);
    for question in &open {
        approve(
            &bursar,
            question["id"].as_str().unwrap(),
            question["code"].as_str().unwrap(),
        );
    }
    assert_eq!(writer.get(origin.address, "/two").await.status, 200);

    price.store(100_000, Ordering::SeqCst);
    assert_problem(&research.get(origin.address, "/one").await, 503, "approval-pending");
    assert_eq!(bursar.states(), ["released", "settled", "held"]);
    assert_eq!(origin.payments().len(), 1);
    let (again, code) = question(&bursar).await;
    assert_ne!(again, open[0]["id"]);
    assert_ne!(
        code,
        open[0]["code"].as_str().unwrap(),
        "another question has another code"
    );
    assert_eq!(pending(&bursar)[0]["rules"], json!([above, window]));
    let printed = String::from_utf8(bursar.run(&["pending"]).stdout).unwrap();
    let both = format!("approval required by {above} and {window}\n");
    assert!(printed.contains(&both), "{printed}");
    // The old approval is over, with its code.
    let old = &open[0];
    let output = bursar.run(&[
        "approve",
        old["id"].as_str().unwrap(),
        "--code",
        old["code"].as_str().unwrap(),
    ]);
    assert!(!output.status.success(), "{output:?}");

    approve(&bursar, &again, &code);
    assert_eq!(research.get(origin.address, "/one").await.status, 200);
    assert_eq!(bursar.states(), ["released", "settled", "settled"]);
    assert_eq!(origin.payments().len(), 2);
    let requested = bursar.journal();
    let requested: Vec<&Value> = requested
        .iter()
        .filter(|entry| entry["ev"] == "approval.requested")
        .map(|entry| &entry["rules"])
        .collect();
    assert_eq!(requested, [&json!([above]), &json!([window]), &json!([above, window])]);
}

/// Finance lowers a threshold while a person decides about a price over another one.
#[tokio::test]
async fn a_threshold_that_is_set_while_a_person_decides_is_asked_about_as_well() {
    let origin = at_ten_cents().await;
    let bursar = start(&origin, "approval_above = \"0.05\"", AT_ONCE);
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/one").await, 503, "approval-pending");
    is_approved(&bursar).await;
    bursar.home.write_limits(
        "[account]\napproval_above = \"0.02\"\n[agents.research]\ntotal = \"5.00\"\napproval_above = \"0.05\"\n",
    );
    new_limits(&bursar).await;
    assert_problem(&agent.get(origin.address, "/one").await, 503, "approval-pending");
    assert!(origin.payments().is_empty());
    question(&bursar).await;
    let both = json!(["account.approval_above", "agents.research.approval_above"]);
    assert_eq!(pending(&bursar)[0]["rules"], both);
    is_approved(&bursar).await;
    assert_eq!(agent.get(origin.address, "/one").await.status, 200);
    assert_eq!(bursar.states(), ["released", "settled"]);
}

#[tokio::test]
async fn a_question_over_a_budget_leaves_what_is_left_of_it_to_others() {
    let price = Arc::new(AtomicU64::new(900_000));
    let origin = seller_at(&price).await;
    let bursar = start(
        &origin,
        "rolling = { \"24h\" = \"0.25\" }\nover_limit = \"ask\"",
        AT_ONCE,
    );
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/dear").await, 503, "approval-pending");
    price.store(100_000, Ordering::SeqCst);
    for path in ["/one", "/two"] {
        assert_eq!(agent.get(origin.address, path).await.status, 200);
    }
    // No approval exceeds the budget of another level that does not ask.
    let limits = "[account]\ntotal = \"0.50\"\n[agents.research]\ntotal = \"0.25\"\nover_limit = \"ask\"\n";
    let bursar = setup().trust(&origin.ca_pem).limits(limits).config(AT_ONCE).start();
    let agent = Agent::of(&bursar);
    price.store(600_000, Ordering::SeqCst);
    assert_problem(&agent.get(origin.address, "/dear").await, 403, "over-limit");
    assert!(pending(&bursar).is_empty());
}

#[tokio::test]
async fn without_a_backend_nobody_is_asked_and_nothing_is_paid() {
    let origin = at_ten_cents().await;
    for (rules, problem, rule) in [
        (
            "approval_first_time_payee = true",
            "approval-unavailable",
            "agents.research.approval_first_time_payee",
        ),
        (
            "approval_every = \"0.05\"",
            "approval-unavailable",
            "agents.research.approval_every",
        ),
        (
            "rolling = { \"24h\" = \"0.05\" }\nover_limit = \"ask\"",
            "over-limit",
            "agents.research.rolling.24h",
        ),
    ] {
        let bursar = start(&origin, rules, "");
        let page = Agent::of(&bursar).get(origin.address, "/report").await;
        assert_problem(&page, 403, problem);
        assert_eq!(page.json()["rule"], *rule, "{page:?}");
        assert!(kinds(&bursar).iter().all(|kind| !kind.starts_with("approval")));
    }
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn the_owner_of_an_agent_does_not_approve_for_it() {
    let origin = at_ten_cents().await;
    let me = format!("uid:{}", rustix::process::geteuid().as_raw());
    let mut bursar = start(
        &origin,
        &format!("approval_above = \"0.05\"\nowner = \"{me}\""),
        AT_ONCE,
    );
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    for _ in 0..2 {
        let output = bursar.run(&["approve", &id, "--code", &code]);
        assert_eq!(output.status.code(), Some(1));
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(
            printed.contains(&me) && printed.contains("owns this agent"),
            "{printed}"
        );
        // Nor after a restart.
        assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    }
    let bursar = bursar.kill().serve();
    let (id, code) = question(&bursar).await;
    assert_eq!(bursar.run(&["approve", &id, "--code", &code]).status.code(), Some(1));
    assert!(origin.payments().is_empty());
    // Owners may deny.
    assert!(bursar.run(&["deny", &id, "--why", "mine"]).status.success());
    eventually("the denial", || (bursar.states() == ["released"]).then_some(())).await;
}

#[tokio::test]
async fn the_terminal_cannot_be_two_people() {
    let origin = at_ten_cents().await;
    let rules = "second_approval_above = \"0.05\"\napprovers = [\"did:x:a\", \"did:x:b\"]";
    let bursar = start(&origin, rules, AT_ONCE);
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_problem(&page, 403, "approval-unavailable");
    assert_eq!(page.json()["rule"], "agents.research.second_approval_above");
    assert!(origin.payments().is_empty());
}

/// The hold has already taken the key.
#[tokio::test]
async fn a_repeat_under_a_key_joins_what_was_asked_because_of_what_was_spent() {
    for rules in [
        "approval_first_time_payee = true",
        "approval_every = \"0.05\"",
        "rolling = { \"24h\" = \"0.05\" }\nover_limit = \"ask\"",
    ] {
        let origin = at_ten_cents().await;
        let bursar = start(&origin, rules, AT_ONCE);
        let agent = Agent::of(&bursar);
        let ask = || http::Request::get("/report").header("idempotency-key", "order-1");
        assert_problem(&agent.request(origin.address, ask()).await, 503, "approval-pending");
        let (id, code) = question(&bursar).await;
        let again = agent.request(origin.address, ask()).await;
        assert_eq!(
            again.json()["type"],
            "urn:bursar:problem:approval-pending",
            "{rules}: {again:?}"
        );
        approve(&bursar, &id, &code);
        let page = agent.request(origin.address, ask()).await;
        assert_eq!(
            (page.status.as_u16(), page.header("bursar-payment")),
            (200, Some(&*id)),
            "{rules}"
        );
    }
}

#[tokio::test]
async fn an_owner_who_is_named_while_the_question_is_open_does_not_approve_it() {
    let origin = at_ten_cents().await;
    let me = format!("uid:{}", rustix::process::geteuid().as_raw());
    let bursar = start(&origin, "approval_above = \"0.05\"", AT_ONCE);
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    bursar.home.write_limits(&format!(
        "[agents.research]\ntotal = \"5.00\"\napproval_above = \"0.05\"\nowner = \"{me}\"\n"
    ));
    new_limits(&bursar).await;
    drop(bursar.run(&["approve", &id, "--code", &code]));
    let page = agent.get(origin.address, "/report").await;
    assert_ne!(page.status, 200, "the owner has approved what their own agent buys");
    assert!(origin.payments().is_empty());
}

/// The money that a question holds must not block the repeat that takes its answer.
#[tokio::test]
async fn a_repeat_joins_its_question_although_the_hold_took_what_was_left() {
    for rules in [
        "approval_first_time_payee = true",
        "approval_every = \"0.05\"",
        "over_limit = \"ask\"\nrolling = { \"24h\" = \"0.05\" }",
    ] {
        let origin = at_ten_cents().await;
        // Enough for one payment: the account's total refuses a second one, whichever rule asks.
        let limits = format!("[account]\ntotal = \"0.15\"\n[agents.research]\ntotal = \"5.00\"\n{rules}\n");
        let bursar = setup().trust(&origin.ca_pem).limits(&limits).config(AT_ONCE).start();
        let agent = Agent::of(&bursar);
        assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
        let (id, code) = question(&bursar).await;
        approve(&bursar, &id, &code);
        let page = agent.get(origin.address, "/report").await;
        let printed = (page.status.as_u16(), page.header("bursar-payment"));
        assert_eq!(printed, (200, Some(&*id)), "{rules}: {page:?}");
    }
}

/// An approval must not be left over for the next equal purchase, which nobody has seen.
#[tokio::test]
async fn an_approval_is_used_even_if_the_payment_no_longer_needs_one() {
    let origin = at_ten_cents().await;
    let bursar = start(&origin, "approval_every = \"0.25\"", AT_ONCE);
    let agent = Agent::of(&bursar);
    for path in ["/one", "/two"] {
        assert_eq!(agent.get(origin.address, path).await.status, 200);
    }
    assert_problem(&agent.get(origin.address, "/three").await, 503, "approval-pending");
    let (third, code) = question(&bursar).await;
    assert_problem(&agent.get(origin.address, "/other").await, 503, "approval-pending");
    approve(&bursar, &third, &code);
    let other = eventually("the other question", || {
        pending(&bursar).into_iter().find(|open| open["state"] == "open")
    });
    let other = other.await;
    approve(&bursar, other["id"].as_str().unwrap(), other["code"].as_str().unwrap());
    // Its payment begins a new count, so that the third fits now.
    assert_eq!(agent.get(origin.address, "/other").await.status, 200);
    let page = agent.get(origin.address, "/three").await;
    assert_eq!(page.status, 200);
    let used = page.header("bursar-payment") == Some(&*third);
    for path in ["/four", "/five"] {
        let page = agent.get(origin.address, path).await;
        if page.status != 200 {
            assert_problem(&page, 503, "approval-pending");
        }
    }
    // Bought once more after enough was spent: one purchase was approved, and this is the second.
    let again = agent.get(origin.address, "/three").await;
    assert!(used, "the approval was not used for what it was given for");
    assert_problem(&again, 503, "approval-pending");
}

#[tokio::test]
async fn what_was_denied_is_not_paid_because_it_fits_a_moment_later() {
    let origin = at_ten_cents().await;
    let bursar = start(&origin, "approval_every = \"0.25\"", AT_ONCE);
    let agent = Agent::of(&bursar);
    for path in ["/one", "/two"] {
        assert_eq!(agent.get(origin.address, path).await.status, 200);
    }
    assert_problem(&agent.get(origin.address, "/three").await, 503, "approval-pending");
    let (third, _) = question(&bursar).await;
    assert!(bursar.run(&["deny", &third, "--why", "not this"]).status.success());
    assert_problem(&agent.get(origin.address, "/three").await, 403, "approval-denied");
    // Another payment is approved, and begins a new count.
    assert_problem(&agent.get(origin.address, "/other").await, 503, "approval-pending");
    is_approved(&bursar).await;
    assert_eq!(agent.get(origin.address, "/other").await.status, 200);
    assert_problem(&agent.get(origin.address, "/three").await, 403, "approval-denied");
}

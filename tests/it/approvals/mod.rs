//! A person decides: nothing is signed before, an approval pays once, and the agent, the proxy and the approver may
//! each go away in between (R39 to R47).

mod canary;
mod ciba;
mod exported;
mod hold;
mod keyra;
mod killed;
mod late;
mod several;
mod spent;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Request;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::agent::{Agent, Page};
use crate::support::bursar::{Bursar, eventually, setup};
use crate::support::origin::{Answer, Origin, answer};
use crate::support::{mpp, seller};

/// A threshold below ten US cents.
pub(crate) const LIMITS: &str = "[agents.research]\ntotal = \"1.00\"\napproval_above = \"0.05\"\n";
pub(crate) const AT_ONCE: &str = "[approval]\nbackend = \"operator\"\nhold_s = 0\n";
pub(crate) const HOLDS: &str = "[approval]\nbackend = \"operator\"\nhold_s = 60\n";

/// Sells at the current value of `price`.
pub(crate) async fn seller_at(price: &Arc<AtomicU64>) -> Origin {
    let price = price.clone();
    Origin::https(move |request| {
        let price = price.clone();
        async move {
            match request.is_paid() {
                true => seller::sold("goods"),
                false => seller::asks(&price.load(Ordering::SeqCst).to_string()),
            }
        }
    })
    .await
}

pub(crate) async fn at_ten_cents() -> Origin {
    seller_at(&Arc::new(AtomicU64::new(100_000))).await
}

fn start(origin: &Origin, approval: &str) -> Bursar {
    setup().trust(&origin.ca_pem).limits(LIMITS).config(approval).start()
}

pub(crate) fn pending(bursar: &Bursar) -> Vec<Value> {
    let output = bursar.run(&["pending", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) async fn question(bursar: &Bursar) -> (String, String) {
    let open = eventually("a question", || pending(bursar).into_iter().next()).await;
    let text = |name: &str| open[name].as_str().unwrap().to_owned();
    (text("id"), text("code"))
}

pub(crate) fn approve(bursar: &Bursar, id: &str, code: &str) {
    let output = bursar.run(&["approve", id, "--code", code]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until the second limits.toml of this run is in force.
pub(crate) async fn new_limits(bursar: &Bursar) {
    let loaded = || {
        let entries = bursar.journal();
        let loads = entries.iter().filter(|entry| entry["ev"] == "policy.load").count();
        (loads == 2).then_some(())
    };
    eventually("the new limits", loaded).await;
}

pub(crate) fn assert_problem(page: &Page, status: u16, problem: &str) {
    assert_eq!(
        (page.status.as_u16(), page.problem()),
        (status, problem.to_owned()),
        "{:?}",
        page.body
    );
}

pub(crate) fn kinds(bursar: &Bursar) -> Vec<String> {
    let entries = bursar.journal();
    let kinds = entries
        .iter()
        .map(|entry| entry["ev"].as_str().unwrap_or_default().to_owned());
    kinds
        .filter(|kind| kind.starts_with("approval.") || kind.starts_with("pay."))
        .collect()
}

#[tokio::test]
async fn an_agent_that_waits_gets_what_was_approved() {
    let origin = at_ten_cents().await;
    let bursar = start(&origin, HOLDS);
    let (agent, site) = (Agent::of(&bursar), origin.address);
    let waiting = tokio::spawn(async move { agent.get(site, "/report?q=1").await });
    let (id, code) = question(&bursar).await;
    assert!(origin.payments().is_empty());
    assert_eq!(bursar.states(), ["held"]);

    approve(&bursar, &id, &code);
    let page = waiting.await.unwrap();
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]));
    assert_eq!(page.header("bursar-payment"), Some(&*id));
    assert_eq!(origin.payments().len(), 1);
    let payment = &bursar.payments()[0];
    assert_eq!(
        (payment["state"].as_str(), payment["approval"].as_str()),
        (Some("settled"), Some(&*id))
    );
    assert_eq!(
        kinds(&bursar),
        [
            "pay.reserved",
            "approval.requested",
            "approval.granted",
            "pay.armed",
            "pay.settled"
        ]
    );
    assert!(pending(&bursar).is_empty());
}

#[tokio::test]
async fn the_pending_answer_names_the_question_but_never_its_code() {
    let origin = at_ten_cents().await;
    let bursar = start(&origin, AT_ONCE);
    let agent = Agent::of(&bursar);
    let page = agent.get(origin.address, "/report").await;
    assert_problem(&page, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    assert_eq!(page.json()["approval_id"], *id);
    assert_eq!(page.json()["retryable"], true);
    assert!(page.json()["expires_at"].is_string());
    assert_eq!(page.header("retry-after"), Some("5"));
    let whole = format!("{:?} {}", page.headers, String::from_utf8_lossy(&page.body));
    assert!(!whole.contains(&code), "{whole}");
    // With the seller's challenge, an agent that has its own wallet could pay it past the limits.
    assert!(page.header("payment-required").is_none());

    let open = &pending(&bursar)[0];
    let sentence = open["sentence"].as_str().unwrap();
    assert_eq!(sentence, format!("research: pay 0.10 USDC to localhost #{code}"));
    // The same request again joins the question instead of asking another.
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    assert_eq!(pending(&bursar).len(), 1);

    approve(&bursar, &id, &code);
    let paid = agent.get(origin.address, "/report").await;
    assert_eq!((paid.status.as_u16(), paid.header("bursar-payment")), (200, Some(&*id)));
    assert_eq!(bursar.states(), ["settled"]);
    // The approval was for one purchase.
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn a_denial_holds_without_asking_again_and_gives_the_money_back() {
    let origin = at_ten_cents().await;
    let mut bursar = start(&origin, AT_ONCE);
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, _) = question(&bursar).await;
    let output = bursar.run(&["deny", &id, "--why", "not this month"]);
    assert!(output.status.success(), "{output:?}");

    for _ in 0..2 {
        let page = agent.get(origin.address, "/report").await;
        assert_problem(&page, 403, "approval-denied");
        assert!(page.json()["detail"].as_str().unwrap().contains("not this month"));
    }
    assert_eq!(bursar.states(), ["released"]);
    // Another resource is another question.
    assert_problem(&agent.get(origin.address, "/other").await, 503, "approval-pending");
    // The denial survives a restart.
    assert_eq!(bursar.stop(), 0);
    let again = bursar.kill().serve();
    let agent = Agent::of(&again);
    assert_problem(&agent.get(origin.address, "/report").await, 403, "approval-denied");
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn a_wrong_code_approves_nothing() {
    let origin = at_ten_cents().await;
    let bursar = start(&origin, AT_ONCE);
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    for wrong in ["00000000", "", "1", &code[1..]] {
        let output = bursar.run(&["approve", &id, "--code", wrong]);
        assert_eq!(output.status.code(), Some(1), "{wrong}");
    }
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    assert_eq!(
        bursar.run(&["approve", &id, "--code", "ZZZZZZZZ"]).status.code(),
        Some(1)
    );
    // After five wrong codes it is no typing error any more.
    let locked = bursar.run(&["approve", &id, "--code", &code]);
    assert_eq!(locked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&locked.stderr).contains("too many wrong codes"));
    assert!(bursar.run(&["deny", &id, "--why", "guessed at"]).status.success());
    assert_eq!(bursar.run(&["deny", &id, "--why", "twice"]).status.code(), Some(1));
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn what_was_asked_and_what_was_approved_survive_a_kill() {
    let origin = at_ten_cents().await;
    let mut bursar = start(&origin, AT_ONCE);
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        503,
        "approval-pending",
    );
    let (id, code) = question(&bursar).await;

    let mut bursar = bursar.kill().serve();
    assert_eq!(bursar.states(), ["held"]);
    assert_eq!(question(&bursar).await, (id.clone(), code.clone()));
    approve(&bursar, &id, &code);

    let bursar = bursar.kill().serve();
    assert!(origin.payments().is_empty());
    let page = Agent::of(&bursar).get(origin.address, "/report").await;
    assert_eq!((page.status.as_u16(), page.header("bursar-payment")), (200, Some(&*id)));
    assert_eq!(origin.payments().len(), 1);
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn a_higher_price_is_another_question() {
    let price = Arc::new(AtomicU64::new(100_000));
    let origin = seller_at(&price).await;
    let bursar = start(&origin, AT_ONCE);
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    approve(&bursar, &id, &code);

    price.store(100_001, Ordering::SeqCst);
    let page = agent.get(origin.address, "/report").await;
    assert_problem(&page, 503, "approval-pending");
    assert_ne!(page.json()["approval_id"], *id);
    assert!(origin.payments().is_empty());
    // So is another body.
    price.store(100_000, Ordering::SeqCst);
    let page = agent.post(origin.address, "/report", "a body").await;
    assert_problem(&page, 503, "approval-pending");
    assert_ne!(page.json()["approval_id"], *id);
    // The first approval still holds for its own request.
    assert_eq!(agent.get(origin.address, "/report").await.status, 200);
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn of_requests_that_wait_for_one_approval_one_is_paid() {
    let origin = at_ten_cents().await;
    let bursar = start(&origin, HOLDS);
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let (agent, site) = (Agent::of(&bursar), origin.address);
        waiting.spawn(async move { agent.get(site, "/report").await });
    }
    let (id, code) = question(&bursar).await;
    // All four must be waiting before the decision.
    eventually("four requests", || (origin.seen().len() >= 4).then_some(())).await;
    approve(&bursar, &id, &code);
    let pages = waiting.join_all().await;
    let paid = pages.iter().filter(|page| page.status == 200).count();
    assert_eq!((paid, origin.payments().len()), (1, 1));
    let prompts = kinds(&bursar)
        .iter()
        .filter(|kind| *kind == "approval.requested")
        .count();
    assert_eq!(prompts, 1);
}

#[tokio::test]
async fn held_money_counts_and_a_full_budget_asks_nobody() {
    let origin = at_ten_cents().await;
    let limits = "[agents.research]\ntotal = \"0.15\"\napproval_above = \"0.05\"\n";
    let bursar = setup().trust(&origin.ca_pem).limits(limits).config(AT_ONCE).start();
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/one").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    // The hold takes all that is left of the budget.
    let page = agent.get(origin.address, "/two").await;
    assert_problem(&page, 403, "over-limit");
    assert_eq!(pending(&bursar).len(), 1);
    approve(&bursar, &id, &code);
    assert_eq!(agent.get(origin.address, "/one").await.status, 200);
}

#[tokio::test]
async fn limits_that_were_lowered_meanwhile_win_over_an_approval() {
    let origin = at_ten_cents().await;
    let bursar = start(&origin, AT_ONCE);
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    approve(&bursar, &id, &code);
    bursar
        .home
        .write_limits("[agents.research]\ntotal = \"0.09\"\napproval_above = \"0.05\"\n");
    new_limits(&bursar).await;
    let page = agent.get(origin.address, "/report").await;
    assert_problem(&page, 403, "over-limit");
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn an_agent_may_not_keep_a_person_busy() {
    let origin = at_ten_cents().await;
    let config = format!("{AT_ONCE}max_pending_per_agent = 2\nprompts_per_hour = 3\n");
    let bursar = start(&origin, &config);
    let agent = Agent::of(&bursar);
    for path in ["/one", "/two"] {
        assert_problem(&agent.get(origin.address, path).await, 503, "approval-pending");
    }
    assert_problem(&agent.get(origin.address, "/three").await, 503, "approval-busy");
    eventually("two questions", || (pending(&bursar).len() == 2).then_some(())).await;
    let deny = |bursar: &Bursar| {
        let id = pending(bursar)[0]["id"].as_str().unwrap().to_owned();
        assert!(bursar.run(&["deny", &id, "--why", "no"]).status.success());
    };
    deny(&bursar);
    assert_problem(&agent.get(origin.address, "/three").await, 503, "approval-pending");
    eventually("two questions", || (pending(&bursar).len() == 2).then_some(())).await;
    deny(&bursar);
    // There is room for another open question, but three were asked within the hour.
    let page = agent.get(origin.address, "/four").await;
    assert_problem(&page, 503, "approval-busy");
    assert!(page.header("retry-after").unwrap().parse::<u64>().unwrap() > 3000);
    // Each bound is reported once, however often the agent tries.
    for path in ["/five", "/six"] {
        assert_problem(&agent.get(origin.address, path).await, 503, "approval-busy");
    }
    let alerts = || {
        let entries = bursar.journal();
        let alerts = entries.iter().filter(|entry| entry["ev"] == "alert.raised");
        let told = alerts.map(|alert| {
            assert_eq!(alert["kind"], "approval-flood");
            alert["detail"].as_str().unwrap().to_owned()
        });
        told.collect::<Vec<String>>()
    };
    let told = eventually("both alerts", || Some(alerts()).filter(|told| told.len() == 2)).await;
    assert!(
        told[0].starts_with("research has 2 questions waiting for a person, the most allowed"),
        "{told:?}"
    );
    assert!(
        told[1].starts_with("research has asked operator 3 times within an hour"),
        "{told:?}"
    );
}

/// The text of every file in the data directory that is not the question itself.
fn whole_directory(bursar: &Bursar) -> String {
    fn collect(folder: &std::path::Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true if path.ends_with("private/approvals") => {}
                true => collect(&path, text),
                false => *text += &String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()),
            }
        }
    }
    let mut text = String::new();
    collect(bursar.path(), &mut text);
    text
}

/// An agent knows the 402 and its own request, so it can compute the intent. That must not give it the code.
#[tokio::test]
async fn a_code_does_not_follow_from_the_402_and_a_repeated_purchase_has_another_one() {
    let origin = at_ten_cents().await;
    let bursar = start(&origin, AT_ONCE);
    let agent = Agent::of(&bursar);
    let mut codes = Vec::new();
    for round in 0..3 {
        assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
        let (id, code) = question(&bursar).await;
        let path = bursar.path().join(format!("private/approvals/{id}.json"));
        let stored: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let members = serde_json::from_value(stored["intent"].clone()).unwrap();
        let intent = ::bursar_core::approval::ApprovalIntent::recorded(&members).unwrap();
        let derived = intent.derived_code().to_string();
        assert_ne!(code, derived);
        for wrong in codes.iter().chain([&derived]) {
            let output = bursar.run(&["approve", &id, "--code", wrong]);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
        }
        assert!(
            !whole_directory(&bursar).contains(&code),
            "the code is in no entry and in no log"
        );
        let entries = bursar.journal();
        let requested = entries
            .iter()
            .rfind(|entry| entry["ev"] == "approval.requested")
            .unwrap();
        assert_eq!(requested["sd"].as_array().unwrap().len(), 1, "{requested}");
        approve(&bursar, &id, &code);
        assert_eq!(agent.get(origin.address, "/report").await.status, 200);
        assert!(!codes.contains(&code), "round {round}");
        codes.push(code);
    }
    assert_eq!(origin.payments().len(), 3);
}

#[tokio::test]
async fn a_key_goes_with_its_question_and_the_same_key_pays_once() {
    let origin = at_ten_cents().await;
    let mut bursar = start(&origin, AT_ONCE);
    let ask = |key: &'static str| Request::get("/report").header("idempotency-key", key);
    let agent = Agent::of(&bursar);
    assert_problem(
        &agent.request(origin.address, ask("order-1")).await,
        503,
        "approval-pending",
    );
    assert_problem(
        &agent.request(origin.address, ask("order-2")).await,
        503,
        "approval-busy",
    );
    let (id, code) = question(&bursar).await;
    let bursar = bursar.kill().serve();
    approve(&bursar, &id, &code);
    let agent = Agent::of(&bursar);
    let first = agent.request(origin.address, ask("order-1")).await;
    assert_eq!(
        (first.status.as_u16(), first.header("bursar-payment")),
        (200, Some(&*id))
    );
    let again = agent.request(origin.address, ask("order-1")).await;
    assert_eq!(again.header("bursar-payment"), Some(&*id));
    let credentials: std::collections::HashSet<_> = origin.payments().into_iter().collect();
    assert_eq!(credentials.len(), 1);
}

#[tokio::test]
async fn over_a_limit_that_asks_a_person_may_allow_it() {
    let origin = at_ten_cents().await;
    let limits = "[agents.research]\ntotal = \"1.00\"\nper_transaction = \"0.05\"\nover_limit = \"ask\"\n";
    let bursar = setup().trust(&origin.ca_pem).limits(limits).config(AT_ONCE).start();
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    approve(&bursar, &id, &code);
    assert_eq!(agent.get(origin.address, "/report").await.status, 200);
}

#[tokio::test]
async fn what_becomes_free_meanwhile_is_not_paid() {
    let free = Arc::new(AtomicU64::new(0));
    let is_free = free.clone();
    let origin = Origin::https(move |request| {
        let is_free = is_free.clone();
        async move {
            let answer: Answer = match (request.is_paid(), is_free.load(Ordering::SeqCst)) {
                (true, _) => seller::sold("goods"),
                (false, 0) => seller::asks("100000"),
                (false, _) => answer(200, &[], "free now"),
            };
            answer
        }
    })
    .await;
    let bursar = start(&origin, AT_ONCE);
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    approve(&bursar, &id, &code);
    free.store(1, Ordering::SeqCst);
    let page = agent.get(origin.address, "/report").await;
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"free now"[..]));
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn a_stop_answers_those_who_wait_at_once_and_the_question_goes_on() {
    let origin = at_ten_cents().await;
    let mut bursar = start(&origin, HOLDS);
    let (agent, site) = (Agent::of(&bursar), origin.address);
    let waiting = tokio::spawn(async move { agent.get(site, "/report").await });
    let (id, code) = question(&bursar).await;
    assert_eq!(bursar.stop(), 0);
    assert_problem(&waiting.await.unwrap(), 503, "approval-pending");
    let bursar = bursar.kill().serve();
    assert_eq!(question(&bursar).await, (id.clone(), code.clone()));
    approve(&bursar, &id, &code);
    assert_eq!(
        Agent::of(&bursar).get(site, "/report").await.header("bursar-payment"),
        Some(&*id)
    );
}

#[tokio::test]
async fn the_evidence_is_shown_with_its_payment() {
    let origin = at_ten_cents().await;
    let bursar = start(&origin, AT_ONCE);
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    approve(&bursar, &id, &code);
    assert_eq!(agent.get(origin.address, "/report").await.status, 200);
    let shown = bursar.run(&["payments", "show", &id, "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let (record, ask) = (&shown["approval_record"], &shown["approval_record"]["asks"][0]);
    assert_eq!(ask["code"], *code);
    assert_eq!(ask["evidence"]["kind"], "operator");
    assert_eq!(record["intent"]["resource"], origin.url("/report"));
    let text = bursar.run(&["payments", "show", &id]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("#{code}")) && text.contains("uid:"), "{text}");
}

#[tokio::test]
async fn under_one_key_other_terms_wait_until_the_question_is_over() {
    let price = Arc::new(AtomicU64::new(100_000));
    let origin = seller_at(&price).await;
    let bursar = start(&origin, AT_ONCE);
    let agent = Agent::of(&bursar);
    let ask = || Request::get("/report").header("idempotency-key", "order-1");
    assert_problem(&agent.request(origin.address, ask()).await, 503, "approval-pending");
    let (id, _) = question(&bursar).await;
    price.store(90_000, Ordering::SeqCst);
    let page = agent.request(origin.address, ask()).await;
    // Not "already paid", because nothing was.
    assert_problem(&page, 503, "approval-busy");
    assert_eq!(page.json()["approval_id"], *id);
    assert!(bursar.run(&["deny", &id, "--why", "too dear"]).status.success());
    assert_problem(&agent.request(origin.address, ask()).await, 503, "approval-pending");
    let (other, code) = question(&bursar).await;
    assert_ne!(other, id);
    approve(&bursar, &other, &code);
    assert_eq!(agent.request(origin.address, ask()).await.status, 200);
    assert_eq!(origin.payments().len(), 1);
    assert_eq!(bursar.payments()[1]["amount"], "90000");
}

#[tokio::test]
async fn what_the_limits_refuse_is_not_asked_and_does_not_count_as_asked() {
    let origin = at_ten_cents().await;
    let limits = "[agents.research]\ntotal = \"0.09\"\napproval_above = \"0.05\"\n";
    let config = format!("{AT_ONCE}prompts_per_hour = 1\n");
    let bursar = setup().trust(&origin.ca_pem).limits(limits).config(&config).start();
    let agent = Agent::of(&bursar);
    for _ in 0..3 {
        assert_problem(&agent.get(origin.address, "/report").await, 403, "over-limit");
    }
    assert!(pending(&bursar).is_empty());
    bursar.home.write_limits(LIMITS);
    new_limits(&bursar).await;
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    assert_problem(&agent.get(origin.address, "/other").await, 503, "approval-busy");
}

/// Sells over MPP at the next of `prices`, then always at the last; each challenge is valid for ten seconds.
async fn impatient_seller(prices: &'static [&'static str]) -> Origin {
    let asked = Arc::new(AtomicU64::new(0));
    Origin::https(move |request| {
        let asked = asked.clone();
        async move {
            if request.is_paid() {
                return mpp::sold("goods");
            }
            let turn = usize::try_from(asked.fetch_add(1, Ordering::SeqCst)).unwrap();
            let price = prices.get(turn).or(prices.last()).unwrap();
            mpp::asks(&[mpp::evm(price).with("expires", &in_seconds(10).to_string())])
        }
    })
    .await
}

fn in_seconds(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + seconds).unwrap()
}

/// Asks, and approves once the first challenge is too old to be paid (sellers need six seconds of it).
async fn approved_when_the_challenge_is_over(origin: &Origin, bursar: &Bursar) -> (String, Page) {
    let (agent, site) = (Agent::of(bursar), origin.address);
    let waiting = tokio::spawn(async move { agent.get(site, "/report").await });
    let (id, code) = question(bursar).await;
    let over = in_seconds(5);
    eventually("the end of the challenge", || {
        (jiff::Timestamp::now() > over).then_some(())
    })
    .await;
    approve(bursar, &id, &code);
    (id, waiting.await.unwrap())
}

#[tokio::test]
async fn a_challenge_that_ran_out_while_a_person_decided_is_asked_for_again() {
    let origin = impatient_seller(&["100000"]).await;
    let bursar = start(&origin, HOLDS);
    let (id, page) = approved_when_the_challenge_is_over(&origin, &bursar).await;
    assert_eq!(
        (page.status.as_u16(), page.header("bursar-payment")),
        (200, Some(&*id)),
        "{:?}",
        page.body
    );
    assert_eq!((origin.seen().len(), origin.payments().len()), (3, 1));
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn a_fresh_challenge_at_another_price_is_not_what_was_approved() {
    let origin = impatient_seller(&["100000", "110000"]).await;
    let bursar = setup()
        .trust(&origin.ca_pem)
        .limits(LIMITS)
        .config("[approval]\nbackend = \"operator\"\nhold_s = 10\n")
        .start();
    let (id, page) = approved_when_the_challenge_is_over(&origin, &bursar).await;
    // The money of the old question is released; the new one waits.
    assert_problem(&page, 503, "approval-pending");
    let (other, _) = question(&bursar).await;
    assert_ne!(other, id);
    assert_eq!(
        pending(&bursar)[0]["sentence"].as_str().unwrap().split('#').next(),
        Some("research: pay 0.11 USDC to localhost ")
    );
    assert_eq!(bursar.states(), ["released", "held"]);
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn an_approval_can_be_taken_back_until_it_is_used() {
    let origin = at_ten_cents().await;
    let mut bursar = start(&origin, AT_ONCE);
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    approve(&bursar, &id, &code);
    let output = bursar.run(&["deny", &id, "--why", "a slip of the hand"]);
    assert!(output.status.success(), "{output:?}");
    assert_problem(&agent.get(origin.address, "/report").await, 403, "approval-denied");
    assert_eq!(bursar.states(), ["released"]);
    let bursar = bursar.kill().serve();
    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/report").await,
        403,
        "approval-denied",
    );

    assert_problem(
        &Agent::of(&bursar).get(origin.address, "/other").await,
        503,
        "approval-pending",
    );
    let (other, code) = question(&bursar).await;
    approve(&bursar, &other, &code);
    assert_eq!(Agent::of(&bursar).get(origin.address, "/other").await.status, 200);
    assert_eq!(
        bursar.run(&["deny", &other, "--why", "too late"]).status.code(),
        Some(1)
    );
    assert_eq!(origin.payments().len(), 1);
}

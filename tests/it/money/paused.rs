//! `bursar pause` and `resume`: in force at once, through restarts and broken files, and never at the cost of money that
//! was signed for.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Output;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::approvals::{AT_ONCE, approve, assert_problem, at_ten_cents, new_limits, question};
use crate::support::agent::{Agent, Page};
use crate::support::bursar::{Bursar, Home, LIMITS, eventually, setup};
use crate::support::origin::{Origin, Parts, answer, streamed};
use crate::support::seller;

/// Everything under `/buy` costs a cent.
async fn shop() -> Origin {
    Origin::https(|request| async move {
        match request.target.starts_with("/buy") {
            false => answer(200, &[], "free"),
            true if request.is_paid() => seller::sold("goods"),
            true => seller::asks("10000"),
        }
    })
    .await
}

async fn buy(bursar: &Bursar, shop: &Origin) -> Page {
    Agent::of(bursar).get(shop.address, "/buy").await
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn done(output: &Output) -> &str {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn listed(home: &Home) -> Vec<Value> {
    let output = home.run(&["pause", "--list", "--json"]);
    let lines = done(&output).lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_pause_stops_payments_at_once_and_holds_through_kill_9_until_it_is_lifted() {
    let shop = shop().await;
    let bursar = setup().trust(&shop.ca_pem).start();
    assert_eq!(buy(&bursar, &shop).await.status, 200);

    let said = bursar.run(&["pause", "--all", "--why", "the key may have leaked"]);
    assert_eq!(
        done(&said),
        "All payments are paused. `bursar resume --all --why TEXT` lifts the pause.\n"
    );
    let page = buy(&bursar, &shop).await;
    assert_problem(&page, 403, "paused");
    let problem = page.json();
    assert_eq!(
        (&problem["rule"], &problem["retryable"]),
        (&json!("pause.all"), &json!(false))
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("All payments are paused since "), "{detail}");
    assert!(!detail.contains("leaked") && !detail.contains("uid:"), "{detail}");
    assert_eq!(page.header("retry-after"), None);
    assert_eq!(
        Agent::of(&bursar).get(shop.address, "/").await.status,
        200,
        "free traffic passes"
    );

    // Again is fine, and says since when and by whom.
    let said = bursar.run(&["pause", "--all", "--why", "me too"]);
    let uid = format!("uid:{}", rustix::process::geteuid().as_raw());
    assert!(
        done(&said).starts_with("Nothing changed: All payments are paused since "),
        "{said:?}"
    );
    assert!(
        done(&said).contains(&uid) && done(&said).contains("the key may have leaked"),
        "{said:?}"
    );

    let mut bursar = bursar;
    let home = bursar.kill();
    let list = listed(&home);
    assert_eq!(list.len(), 1);
    assert_eq!((&list[0]["scope"], &list[0]["who"]), (&json!("all"), &json!(uid)));
    assert_eq!(list[0]["recorded"], json!(true));
    let bursar = home.serve();
    assert!(
        bursar
            .log()
            .contains("payments are paused, until `bursar resume` lifts it")
    );
    // Another page: the credential of the first payment was kept through the kill, and presenting it again buys nothing new.
    let other = Agent::of(&bursar).get(shop.address, "/buy/2").await;
    assert_problem(&other, 403, "paused");
    assert_eq!(listed(&bursar.home).len(), 1);
    let table = bursar.run(&["payments", "list"]);
    assert!(
        text(&table.stderr).contains("All payments are paused since"),
        "{table:?}"
    );

    assert_eq!(
        done(&bursar.run(&["resume", "--all", "--why", "another key"])),
        "All payments are no longer paused.\n"
    );
    assert_eq!(Agent::of(&bursar).get(shop.address, "/buy/2").await.status, 200);
    assert_eq!(listed(&bursar.home).len(), 0);
    assert_eq!(
        bursar.run(&["resume", "--all", "--why", "again"]).status.code(),
        Some(1)
    );
    // What was raised just now is recorded by then.
    let mut bursar = bursar;
    assert_eq!(bursar.stop(), 0);
    let entries = bursar.journal();
    let of = |ev: &str| entries.iter().find(|entry| entry["ev"] == ev).unwrap();
    for (ev, why) in [
        ("pause.set", "the key may have leaked"),
        ("pause.lifted", "another key"),
    ] {
        let entry = of(ev);
        assert_eq!((&entry["who"], &entry["why"]), (&json!(uid), &json!(why)), "{ev}");
    }
    let alerts = entries.iter().filter(|entry| entry["ev"] == "alert.raised");
    let kinds: Vec<_> = alerts.map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["payments-paused", "payments-resumed"]);
}

#[tokio::test]
async fn overlapping_pauses_a_broken_file_and_paused_in_the_file_are_each_lifted_on_their_own() {
    let shop = shop().await;
    let limits = format!("show_pause_reason = true\n{LIMITS}group = \"eng\"\n[groups.eng]\n");
    let bursar = setup().trust(&shop.ca_pem).limits(&limits).start();
    // No pause depends on a file that parses.
    bursar.home.write_limits("[agents.research\n");
    for scope in [["--agent", "research"], ["--group", "eng"], ["--merchant", "localhost"]] {
        done(&bursar.run(&["pause", scope[0], scope[1], "--why", "audit"]));
    }
    for (lifted, rule) in [
        (["--group", "eng"], "pause.groups.eng"),
        (["--agent", "research"], "pause.agents.research"),
        (["--merchant", "localhost"], "pause.merchants.localhost"),
    ] {
        let page = buy(&bursar, &shop).await;
        assert_problem(&page, 403, "paused");
        assert_eq!(page.json()["rule"], rule);
        assert!(page.json()["detail"].as_str().unwrap().contains("(audit)"), "{page:?}");
        if rule == "pause.merchants.localhost" {
            bursar.home.write_limits(&format!("{limits}paused = true\n"));
            new_limits(&bursar).await;
        }
        let resumed = bursar.run(&["resume", lifted[0], lifted[1], "--why", "done"]);
        done(&resumed);
        if rule == "pause.groups.eng" {
            assert!(text(&resumed.stderr).contains("Another pause is still in force: Payments of agent research"));
        }
    }
    // The file's own switch still stands.
    let page = buy(&bursar, &shop).await;
    assert_problem(&page, 403, "paused");
    assert_eq!(page.json()["rule"], "groups.eng.paused");
    done(&bursar.run(&["pause", "--group", "eng", "--why", "x"]));
    let resumed = bursar.run(&["resume", "--group", "eng", "--why", "y"]);
    assert!(
        text(&resumed.stderr).contains("limits.toml still pauses payments: paused = true in [groups.eng]"),
        "{resumed:?}"
    );
    assert!(shop.payments().is_empty());
}

#[tokio::test]
async fn without_a_server_the_command_records_it_and_the_next_start_is_paused() {
    let shop = shop().await;
    let home = setup().trust(&shop.ca_pem).home();
    let typo = home.run(&["pause", "--agent", "reserch", "--why", "typing"]);
    done(&typo);
    assert!(text(&typo.stderr).contains("There is no agent reserch now"), "{typo:?}");
    assert!(text(&typo.stderr).contains("Did you mean research?"), "{typo:?}");
    done(&home.run(&["pause", "--merchant", "*.example.com", "--why", "typing"]));
    done(&home.run(&["pause", "--agent", "research", "--why", "it runs wild"]));
    for wrong in [
        &["pause", "--all"][..],
        &["pause", "--all", "--why", " "],
        &["pause", "--why", "x"],
        &["pause", "--all", "--agent", "a", "--why", "x"],
        &["pause", "--merchant", "https://a.example", "--why", "x"],
        &["resume", "--why", "x"],
    ] {
        assert_eq!(home.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(listed(&home).len(), 3);
    let bursar = home.serve();
    assert_problem(&buy(&bursar, &shop).await, 403, "paused");
    done(&bursar.run(&["resume", "--agent", "research", "--why", "tame"]));
    assert_eq!(
        buy(&bursar, &shop).await.status,
        200,
        "the other two pause something else"
    );
    let mut bursar = bursar;
    assert_eq!(bursar.stop(), 0);
    let home = bursar.kill();
    done(&home.run(&["resume", "--agent", "reserch", "--why", "typo"]));
    assert_eq!(listed(&home).len(), 1);
}

#[tokio::test]
async fn what_is_held_stays_held_its_question_runs_on_and_the_approval_serves_after_resume() {
    let origin = at_ten_cents().await;
    let limits = crate::approvals::LIMITS;
    let bursar = setup().trust(&origin.ca_pem).limits(limits).config(AT_ONCE).start();
    let agent = Agent::of(&bursar);
    assert_problem(&agent.get(origin.address, "/report").await, 503, "approval-pending");
    let (id, code) = question(&bursar).await;
    done(&bursar.run(&["pause", "--agent", "research", "--why", "who asks?"]));
    assert_problem(&agent.get(origin.address, "/report").await, 403, "paused");
    assert_eq!(bursar.states(), ["held"]);
    approve(&bursar, &id, &code);
    assert_problem(&agent.get(origin.address, "/report").await, 403, "paused");
    assert_eq!(bursar.states(), ["held"]);
    assert!(origin.payments().is_empty());
    done(&bursar.run(&["resume", "--agent", "research", "--why", "we do"]));
    let page = agent.get(origin.address, "/report").await;
    assert_eq!((page.status.as_u16(), page.header("bursar-payment")), (200, Some(&*id)));
    assert_eq!(
        (bursar.states(), origin.payments().len()),
        (vec!["settled".to_owned()], 1)
    );
}

/// An agent whose request is waiting for a person when payments are paused, and is approved meanwhile.
#[tokio::test]
async fn an_approval_that_comes_while_payments_are_paused_arms_nothing_and_is_kept() {
    let origin = at_ten_cents().await;
    let (limits, holds) = (crate::approvals::LIMITS, crate::approvals::HOLDS);
    let bursar = setup().trust(&origin.ca_pem).limits(limits).config(holds).start();
    let (agent, site) = (Agent::of(&bursar), origin.address);
    let waiting = tokio::spawn(async move { agent.get(site, "/report").await });
    let (id, code) = question(&bursar).await;
    done(&bursar.run(&["pause", "--all", "--why", "stop"]));
    approve(&bursar, &id, &code);
    assert_problem(&waiting.await.unwrap(), 403, "paused");
    assert_eq!(bursar.states(), ["held"]);
    done(&bursar.run(&["resume", "--all", "--why", "go"]));
    let page = Agent::of(&bursar).get(site, "/report").await;
    assert_eq!((page.status.as_u16(), page.header("bursar-payment")), (200, Some(&*id)));
    assert_eq!(origin.payments().len(), 1);
}

/// The admin socket, asked directly: starting the command would take longer than the moment that is meant.
fn pause_now(bursar: &Bursar) {
    let mut socket = UnixStream::connect(bursar.path().join("run/admin.sock")).unwrap();
    let body = r#"{"scope":"all","why":"now"}"#;
    let length = body.len();
    write!(
        socket,
        "POST /pause HTTP/1.1\r\nHost: bursar\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The payment is on record, and bursar still reads the rest of the 402, which it does for a quarter of a second: in
/// this moment payments are paused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_armed_and_not_signed_expires_and_the_seller_gets_nothing() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = bodies.clone();
    let origin = Origin::https(move |request| {
        let kept = kept.clone();
        async move {
            if request.is_paid() {
                return seller::sold("goods");
            }
            // Never finished, never ended.
            let (sender, parts) = Parts::new();
            kept.lock().unwrap().push(sender);
            streamed(seller::asks("10000"), parts)
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    // On a loaded machine the quarter of a second may be over; then the payment has gone on, and it is tried again.
    for attempt in 0..100 {
        let (agent, site) = (Agent::of(&bursar), origin.address);
        let buying = tokio::spawn(async move { agent.get(site, &format!("/{attempt}")).await });
        let reserved = || {
            let entries = bursar.journal();
            let reserved = entries.iter().filter(|entry| entry["ev"] == "pay.reserved").count();
            (reserved > attempt).then_some(())
        };
        eventually("the record", reserved).await;
        pause_now(&bursar);
        let page = buying.await.unwrap();
        let payments = bursar.payments();
        let last = payments.last().unwrap();
        if page.status == 403 {
            assert_eq!(page.problem(), "paused");
            assert_eq!(
                (&last["state"], &last["by"], &last["reason"]),
                (&json!("expired"), &json!("us"), &json!("paused"))
            );
            assert_eq!(page.json()["payment"], last["id"]);
            assert_eq!(origin.payments().len(), attempt, "the seller got nothing for it");
            return;
        }
        // After the signature it goes on.
        assert_eq!((page.status.as_u16(), &last["state"]), (200, &json!("settled")));
        done(&bursar.run(&["resume", "--all", "--why", "again"]));
    }
    panic!("not once in the moment between record and signature");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_in_flight_are_paid_or_refused_and_none_is_lost() {
    let shop = shop().await;
    let bursar = setup().trust(&shop.ca_pem).start();
    let mut buying = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (agent, site) = (Agent::of(&bursar), shop.address);
        buying.spawn(async move { agent.get(site, "/buy").await });
    }
    let first = buying.join_next().await.unwrap().unwrap();
    pause_now(&bursar);
    let sent = || shop.payments().len();
    let mut pages = buying.join_all().await;
    pages.push(first);
    let paid = pages.iter().filter(|page| page.status == 200).count();
    for page in pages.iter().filter(|page| page.status != 200) {
        assert_problem(page, 403, "paused");
    }
    assert_eq!(sent(), paid);
    let states = bursar.states();
    assert_eq!(states.iter().filter(|state| *state == "settled").count(), paid);
    assert!(
        states.iter().all(|state| ["settled", "expired"].contains(&&**state)),
        "{states:?}"
    );
    assert_problem(&buy(&bursar, &shop).await, 403, "paused");
    assert_eq!(sent(), paid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_while_paused_write_a_handful_of_lines() {
    const EACH: usize = 250;
    const AGENTS: usize = 8;
    let shop = shop().await;
    let bursar = setup().trust(&shop.ca_pem).start();
    done(&bursar.run(&["pause", "--all", "--why", "stop"]));
    let began = std::time::Instant::now();
    let before = bursar.journal().len();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..AGENTS {
        let (agent, site) = (Agent::of(&bursar), shop.address);
        asking.spawn(async move {
            let mut connection = agent.connect(site, &["h2"]).await;
            for _ in 0..EACH {
                let request = Request::get("/buy").body(Full::<Bytes>::default()).unwrap();
                assert_eq!(connection.send(site, request).await.unwrap().status, 403);
            }
        });
    }
    asking.join_all().await;
    let mut bursar = bursar;
    assert_eq!(bursar.stop(), 0);
    let entries = bursar.journal();
    let refused: Vec<&Value> = entries.iter().filter(|entry| entry["ev"] == "pay.refused").collect();
    let counted: u64 = refused.iter().map(|entry| entry["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, (EACH * AGENTS) as u64);
    // Equal refusals become one entry per ten seconds.
    let most = began.elapsed().as_secs() as usize / 10 + 3;
    assert!(refused.len() <= most, "{} entries", refused.len());
    assert!(entries.len() - before <= most + 3, "{} entries", entries.len() - before);
    assert!(shop.payments().is_empty());
}

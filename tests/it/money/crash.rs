//! The process dies, often and at the worst moments: whatever a seller may hold stays counted until a person resolves
//! it and says why.

use std::collections::{HashMap, HashSet};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use http::Request;
use http_body_util::Full;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Home, bin, setup};
use crate::support::origin::Origin;
use crate::support::seller;

const ONE_PAYMENT: &str = "timezone = \"UTC\"\n[agents.research]\ntotal = \"0.01\"\n";

/// A seller that signals the first paid request and never answers it; later ones it sells.
async fn holds_the_first() -> (Origin, mpsc::UnboundedReceiver<()>) {
    let (held, arrived) = mpsc::unbounded_channel();
    let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let origin = Origin::https(move |request| {
        let (held, first) = (held.clone(), first.clone());
        async move {
            if !request.is_paid() {
                return seller::asks("10000");
            }
            if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                held.send(()).unwrap();
                std::future::pending::<()>().await;
            }
            seller::sold("goods")
        }
    })
    .await;
    (origin, arrived)
}

/// A directory whose server was killed while the seller held its only payment.
async fn killed_while_paying(limits: &str) -> (Home, Origin, String) {
    let (origin, mut arrived) = holds_the_first().await;
    let mut bursar = setup().limits(limits).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let address = origin.address;
    let asking = tokio::spawn(async move {
        let mut connection = agent.connect(address, &["http/1.1"]).await;
        connection.send(address, Request::new(Full::default())).await
    });
    arrived.recv().await.unwrap();
    let home = bursar.kill();
    assert!(asking.await.unwrap().is_err());
    let id = home.payments(&[])[0]["id"].as_str().unwrap().to_owned();
    (home, origin, id)
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Another request: repeating the same one would present the payment whose outcome is unknown.
async fn refused_at_the_cap(bursar: &Bursar, origin: &Origin) {
    let page = Agent::of(bursar).get(origin.address, "/another").await;
    assert_eq!(page.problem(), "over-limit");
    assert_eq!(page.json()["reserved"], "0.01");
}

#[tokio::test]
async fn what_was_sent_before_a_kill_stays_counted_until_it_is_resolved_as_expired() {
    let (home, origin, id) = killed_while_paying(ONE_PAYMENT).await;
    assert_eq!(home.payments(&[])[0]["state"], "armed", "not marked unknown yet");
    let bursar = home.serve();
    let payment = &bursar.payments()[0];
    assert_eq!(
        (&payment["state"], &payment["reason"]),
        (&"unknown".into(), &"restart".into())
    );
    refused_at_the_cap(&bursar, &origin).await;

    let why = "nonce unused at finalized block 123";
    let resolved = bursar.run(&["payments", "resolve", &id, "--expired", "--why", why]);
    assert_eq!(code(&resolved), 0, "{}", says(&resolved));
    let payment = &bursar.payments()[0];
    assert_eq!(payment["state"], "expired");
    assert_eq!((&payment["by"], &payment["reason"]), (&"operator".into(), &why.into()));
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 200);
    assert_eq!(bursar.states(), ["expired", "settled"]);
    let action = bursar
        .journal()
        .into_iter()
        .find(|entry| entry["ev"] == "admin.action")
        .unwrap();
    assert_eq!((&action["why"], &action["rid"]), (&why.into(), &Value::from(id)));
    assert!(action["who"].as_str().unwrap().starts_with("uid:"));
}

#[tokio::test]
async fn resolved_as_settled_it_counts_for_ever() {
    let (home, origin, id) = killed_while_paying(ONE_PAYMENT).await;
    let bursar = home.serve();
    let resolved = bursar.run(&["payments", "resolve", &id, "--settled", "--why", "seen on the chain"]);
    assert_eq!(code(&resolved), 0, "{}", says(&resolved));
    let page = Agent::of(&bursar).get(origin.address, "/another").await;
    assert_eq!(page.problem(), "over-limit");
    assert_eq!(page.json()["used"], "0.01");
    let again = bursar.run(&["payments", "resolve", &id, "--expired", "--why", "changed my mind"]);
    assert_eq!(code(&again), 1, "{}", says(&again));
    assert_eq!(bursar.states(), ["settled"]);
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn without_a_server_resolving_works_on_the_directory_itself() {
    for (resolution, state) in [("--expired", "expired"), ("--settled", "settled")] {
        let (home, origin, id) = killed_while_paying(ONE_PAYMENT).await;
        let resolved = home.run(&[
            "payments",
            "resolve",
            &id,
            resolution,
            "--why",
            "asked the seller's bank",
        ]);
        assert_eq!(code(&resolved), 0, "{}", says(&resolved));
        assert_eq!(home.payments(&[])[0]["state"], state);
        home.journal();
        let bursar = home.serve();
        let page = Agent::of(&bursar).get(origin.address, "/another").await;
        assert_eq!(page.status, if state == "expired" { 200 } else { 403 });
    }
}

#[tokio::test]
async fn a_payment_that_is_under_way_cannot_be_resolved() {
    let (origin, mut arrived) = holds_the_first().await;
    let bursar = setup().limits(ONE_PAYMENT).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let address = origin.address;
    let _asking = tokio::spawn(async move { agent.get(address, "/").await });
    arrived.recv().await.unwrap();
    let id = bursar.payments()[0]["id"].as_str().unwrap().to_owned();
    for resolution in ["--expired", "--settled"] {
        let resolved = bursar.run(&["payments", "resolve", &id, resolution, "--why", "impatience"]);
        assert_eq!(code(&resolved), 1, "{}", says(&resolved));
        assert!(
            says(&resolved).contains("becomes settled or unknown by itself"),
            "{}",
            says(&resolved)
        );
    }
    assert_eq!(bursar.states(), ["armed"]);
    refused_at_the_cap(&bursar, &origin).await;
}

#[tokio::test]
async fn resolving_an_unknown_id_says_so() {
    let bursar = setup().start();
    let never = "0198c9f0-0000-7000-8000-000000000000";
    let unknown = bursar.run(&["payments", "resolve", never, "--expired", "--why", "x"]);
    assert_eq!(code(&unknown), 1);
    assert!(says(&unknown).contains(never), "{}", says(&unknown));
    for bad in [
        &["payments", "resolve", "nonsense", "--expired", "--why", "x"][..],
        &["payments", "resolve", never, "--expired", "--why", " "],
        &["payments", "resolve", never, "--expired"],
        &["payments", "resolve", never, "--why", "x"],
        &["payments", "resolve", never, "--expired", "--settled", "--why", "x"],
        &["payments", "list", "--state", "paid"],
    ] {
        let refused = bursar.run(bad);
        assert_eq!(code(&refused), 2, "{bad:?}: {}", says(&refused));
    }
    let shown = bursar.run(&["payments", "show", never]);
    assert_eq!(code(&shown), 1);
    assert_eq!(
        bursar
            .journal()
            .iter()
            .filter(|entry| entry["ev"] == "admin.action")
            .count(),
        0
    );
}

#[tokio::test]
async fn a_second_server_leaves_the_directory_and_the_first_one_alone() {
    let (origin, _arrived) = holds_the_first().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let entries = bursar.journal().len();
    let listen = std::fs::read_to_string(bursar.path().join("run/listen")).unwrap();
    let second = bursar.run(&["serve"]);
    assert_eq!(code(&second), 5);
    assert!(says(&second).contains("another bursar uses"), "{}", says(&second));
    assert_eq!(bursar.journal().len(), entries);
    assert_eq!(
        std::fs::read_to_string(bursar.path().join("run/listen")).unwrap(),
        listen
    );
    assert_eq!(code(&bursar.run(&["payments", "list"])), 0);
    let resolve = bursar.run(&[
        "payments",
        "resolve",
        "0198c9f0-0000-7000-8000-000000000000",
        "--expired",
        "--why",
        "x",
    ]);
    assert_eq!(code(&resolve), 1, "the first server still answers: {}", says(&resolve));
}

#[tokio::test]
async fn stopped_while_paying_it_waits_for_the_receipt_and_then_leaves_it_unknown() {
    let (origin, mut arrived) = holds_the_first().await;
    let mut bursar = setup()
        .trust(&origin.ca_pem)
        .config("[timeouts]\nsettle_wait_s = 1\ndrain_s = 1\n")
        .start();
    let agent = Agent::of(&bursar);
    let address = origin.address;
    let asking = tokio::spawn(async move {
        let mut connection = agent.connect(address, &["http/1.1"]).await;
        connection.send(address, Request::new(Full::default())).await
    });
    arrived.recv().await.unwrap();
    assert_eq!(bursar.stop(), 0);
    assert!(asking.await.unwrap().is_err());
    let home = bursar.kill();
    home.journal();
    let bursar = home.serve();
    assert_eq!(bursar.states(), ["unknown"]);
}

/// Agents that send requests without a pause until the server is gone.
fn load(bursar: &Bursar, origin: &Origin, start: usize) -> JoinSet<()> {
    let mut asking = JoinSet::new();
    for number in 0..6 {
        let (agent, address) = (Agent::of(bursar), origin.address);
        asking.spawn(async move {
            let alpn = if number % 2 == 0 { "h2" } else { "http/1.1" };
            let mut connection = agent.connect(address, &[alpn]).await;
            // A separate purchase each time: repeating one whose outcome is unknown would present it again.
            for round in 0.. {
                let request = Request::get(format!("/{start}/{number}/{round}"))
                    .body(Full::default())
                    .unwrap();
                if connection.send(address, request).await.is_err() {
                    break;
                }
            }
        });
    }
    asking
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_ten_kills_under_load_every_credential_is_in_the_ledger_and_counted() {
    const KILLS: usize = 10;
    let paid = Arc::new(Notify::new());
    let signal = paid.clone();
    let origin = Origin::https(move |request| {
        let signal = signal.clone();
        async move {
            if !request.is_paid() {
                return seller::asks("10000");
            }
            signal.notify_one();
            seller::sold("goods")
        }
    })
    .await;
    let limits = "timezone = \"UTC\"\n[agents.research]\ntotal = \"1000000.00\"\n";
    let mut home = setup().limits(limits).trust(&origin.ca_pem).home();
    for kill in 0..KILLS {
        let mut bursar = home.serve();
        let mut asking = load(&bursar, &origin, kill);
        // Later kills hit other moments of the same work.
        for _ in 0..=3 * kill {
            paid.notified().await;
        }
        home = bursar.kill();
        asking.shutdown().await;
    }
    let mut bursar = home.serve();
    let booked: HashMap<String, Value> = bursar
        .payments()
        .into_iter()
        .map(|payment| (payment["nonce"].as_str().unwrap().to_owned(), payment))
        .collect();
    let seen = origin.payments();
    assert!(seen.len() >= KILLS);
    let mut nonces = HashSet::new();
    for credential in &seen {
        let (nonce, amount, payee) = seller::signed(credential);
        let payment = booked
            .get(&nonce)
            .unwrap_or_else(|| panic!("a credential is missing from the ledger: {nonce}"));
        assert!(
            ["settled", "unknown"].contains(&payment["state"].as_str().unwrap()),
            "{payment}"
        );
        assert_eq!(payment["amount"], amount);
        assert_eq!(payment["payee"], payee.to_lowercase());
        assert!(nonces.insert(nonce), "a credential came twice");
    }
    // The counters match the ledger, to the last payment.
    let spent = booked.len();
    bursar.home.write_limits(&format!(
        "timezone = \"UTC\"\n[agents.research]\ntotal = \"{}.{:02}\"\n",
        spent / 100,
        spent % 100
    ));
    let agent = Agent::of(&bursar);
    let mut more = 0;
    let problem = loop {
        let page = agent.get(origin.address, "/").await;
        if page.status == 403 {
            break page.json();
        }
        more += 1;
        assert!(more < 100_000);
    };
    let count = |member: &str| -> usize {
        let text = problem[member].as_str().unwrap();
        let (whole, cents) = text.split_once('.').unwrap();
        whole.parse::<usize>().unwrap() * 100 + cents.parse::<usize>().unwrap()
    };
    assert_eq!(count("used") + count("reserved"), spent + more, "{problem}");
    assert_eq!(bursar.stop(), 0);
    let home = bursar.kill();
    let entries = home.journal();
    let starts = entries.iter().filter(|entry| entry["ev"] == "log.open").count();
    assert_eq!(starts, KILLS + 1);
    assert_eq!(entries.last().unwrap()["ev"], "log.close");
}

#[tokio::test]
async fn a_list_whose_reader_stops_reading_ends_quietly() {
    let (home, _origin, _) = killed_while_paying(ONE_PAYMENT).await;
    for arguments in [&["payments", "list", "--json"][..], &["payments", "list"]] {
        let mut child = Command::new(bin())
            .args(arguments)
            .arg("--dir")
            .arg(home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(says(&output), "");
        assert_eq!(code(&output), 0);
    }
}

//! People are notified by a command, by a webhook and in the ledger; once each, and never at the cost of a payment.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, WALLET_KEY, eventually, setup};
use crate::support::origin::{Origin, Speaks, answer, certificate};
use crate::support::seller::shop;

/// Five cents a day; the fourth cent reaches 80 %.
const FIVE_CENTS: &str = "timezone = \"UTC\"\n[agents.research]\nday = \"0.05\"\n";

async fn buy(bursar: &Bursar, shop: &Origin, times: usize) {
    for _ in 0..times {
        assert_eq!(Agent::of(bursar).get(shop.address, "/").await.status, 200);
    }
}

/// The complete JSON lines that a command has appended to a file in the data directory.
fn delivered(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn alerts_in(journal: &[Value]) -> Vec<&Value> {
    journal.iter().filter(|entry| entry["ev"] == "alert.raised").collect()
}

fn code(output: &std::process::Output) -> i32 {
    output.status.code().unwrap()
}

#[tokio::test]
async fn a_command_runs_once_when_a_budget_has_reached_80_per_cent() {
    let shop = shop().await;
    let config = "[alerts]\ncommand = [\"sh\", \"-c\", \"env > env.txt; cat >> told.jsonl\"]\n";
    let mut bursar = setup().limits(FIVE_CENTS).trust(&shop.ca_pem).config(config).start();
    buy(&bursar, &shop, 3).await;
    assert_eq!(alerts_in(&bursar.journal()).len(), 0);
    buy(&bursar, &shop, 2).await;
    let file = bursar.path().join("told.jsonl");
    eventually("the command is run", || (!delivered(&file).is_empty()).then_some(())).await;
    assert_eq!(bursar.stop(), 0);
    let delivered = delivered(&file);
    assert_eq!(delivered.len(), 1, "{delivered:?}");
    assert_eq!(delivered[0]["kind"], "budget-80");
    let text = delivered[0]["text"].as_str().unwrap();
    assert!(
        text.starts_with(
            "The budget agents.research.day has reached 80 %: 0.04 USD of 0.05 USD spent or reserved (agent:research, \
             day,"
        ),
        "{text}"
    );
    let journal = bursar.journal();
    let entries = alerts_in(&journal);
    assert_eq!(entries.len(), 1);
    assert_eq!(
        (&entries[0]["kind"], &entries[0]["detail"]),
        (&delivered[0]["kind"], &delivered[0]["text"])
    );
    assert!(bursar.log().contains("reached 80 %"));
    // The server's environment holds the wallet's key; the command's does not.
    let environment = std::fs::read_to_string(bursar.path().join("env.txt")).unwrap();
    assert!(environment.contains("PATH="), "{environment}");
    assert!(
        !environment.contains("BURSAR") && !environment.contains(WALLET_KEY),
        "{environment}"
    );
}

#[tokio::test]
async fn a_webhook_gets_the_alert_with_its_token_and_a_second_try() {
    let shop = shop().await;
    let tries = Arc::new(AtomicUsize::new(0));
    let hook = Origin::https(move |_| {
        let status = if tries.fetch_add(1, Ordering::SeqCst) == 0 {
            503
        } else {
            204
        };
        async move { answer(status, &[], "") }
    })
    .await;
    let setup = setup().limits(FIVE_CENTS);
    let both = format!("{}{}", shop.ca_pem, hook.ca_pem);
    let config = format!(
        "[alerts]\nwebhook = \"{}\"\nwebhook_token = \"env:BURSAR_TEST_WALLET\"\n",
        hook.url("/hooks/secret-path")
    );
    let bursar = setup.trust(&both).config(&config).start();
    buy(&bursar, &shop, 4).await;
    let posts = eventually("two tries", || Some(hook.seen()).filter(|seen| seen.len() == 2)).await;
    for post in &posts {
        assert_eq!(
            (post.method.as_str(), post.target.as_str()),
            ("POST", "/hooks/secret-path")
        );
        assert_eq!(post.headers["content-type"], "application/json");
        assert_eq!(post.headers["authorization"], format!("Bearer {WALLET_KEY}"));
        let message: Value = serde_json::from_slice(&post.body).unwrap();
        assert_eq!(message["kind"], "budget-80");
        assert!(message["text"].as_str().unwrap().contains("agents.research.day"));
    }
    let log = bursar.log();
    assert!(log.contains("it answered 503"), "{log}");
    assert!(!log.contains("secret-path") && !log.contains(WALLET_KEY));
}

#[tokio::test]
async fn a_command_that_hangs_holds_up_neither_payments_nor_the_end() {
    let shop = shop().await;
    let config = "[alerts]\ncommand = [\"sh\", \"-c\", \"sleep 600 & echo $! > pid.new; mv pid.new pid; wait\"]\n";
    let mut bursar = setup().limits(FIVE_CENTS).trust(&shop.ca_pem).config(config).start();
    buy(&bursar, &shop, 4).await;
    let file = bursar.path().join("pid");
    let pid = eventually("the command runs", || std::fs::read_to_string(&file).ok()).await;
    buy(&bursar, &shop, 1).await;
    let process = format!("/proc/{}/stat", pid.trim());
    assert!(Path::new(&process).exists());
    assert_eq!(bursar.stop(), 0);
    // Killed, and its child too, although init may not have reaped that one yet.
    let is_gone = || match std::fs::read_to_string(&process) {
        Err(_) => Some(()),
        Ok(stat) => stat.contains(") Z ").then_some(()),
    };
    eventually("the sleep is killed", is_gone).await;
    assert_eq!(bursar.states().len(), 5);
}

#[tokio::test]
async fn a_wallet_that_runs_low_alerts_once() {
    let node = Origin::start(
        Speaks::Plain,
        certificate(&["localhost"], |_| {}),
        |request| async move {
            let question: Value = serde_json::from_slice(&request.body).unwrap();
            let result = match question["method"].as_str().unwrap() {
                "eth_chainId" => "0x14a34".to_owned(),
                // 9.50 USD
                _ => format!("0x{:064x}", 9_500_000),
            };
            let said = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
            answer(200, &[("content-type", "application/json")], said.to_string())
        },
    )
    .await;
    let config = format!(
        "[networks.\"eip155:84532\"]\nrpc = [\"http://127.0.0.1:{}\"]\n[alerts]\nlow_wallet = \"10.00\"\n",
        node.address.port()
    );
    let bursar = setup().config(&config).start();
    let entry = eventually("the alert", || alerts_in(&bursar.journal()).first().copied().cloned()).await;
    assert_eq!(entry["kind"], "wallet-low");
    assert_eq!(
        entry["detail"],
        "The wallet holds 9.50 USD on eip155:84532, below the low_wallet threshold of 10.00 USD. Fund it before \
         payments there are refused."
    );
}

#[test]
fn the_test_alert_reports_the_result_of_each_channel() {
    let home = setup()
        .config("[alerts]\ncommand = [\"sh\", \"-c\", \"cat > told.jsonl\"]\n")
        .home();
    let tested = home.run(&["alerts", "test"]);
    assert_eq!(code(&tested), 0, "{tested:?}");
    assert_eq!(String::from_utf8_lossy(&tested.stdout), "the command sh: delivered.\n");
    let delivered = delivered(&home.path().join("told.jsonl"));
    assert_eq!(delivered[0]["kind"], "test");

    let home = setup().config("[alerts]\ncommand = [\"./no-such-program\"]\n").home();
    let tested = home.run(&["alerts", "test"]);
    assert_eq!(code(&tested), 1, "{tested:?}");
    let said = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(
        said.starts_with("the command ./no-such-program: failed: could not start it"),
        "{said}"
    );

    let tested = setup().home().run(&["alerts", "test"]);
    assert_eq!(code(&tested), 2, "{tested:?}");
    let said = String::from_utf8_lossy(&tested.stderr).into_owned();
    assert!(said.contains("set `command` or `webhook` under [alerts]"), "{said}");
}

#[tokio::test]
async fn the_clock_is_accepted_by_the_server_or_without_one() {
    let mut bursar = setup().start();
    let accept = ["clock", "accept", "--why", "the time server was wrong"];
    assert_eq!(code(&bursar.run(&accept)), 0);
    assert_eq!(bursar.stop(), 0);
    assert_eq!(code(&bursar.run(&accept)), 0);
    let journal = bursar.journal();
    let accepted: Vec<_> = journal.iter().filter(|entry| entry["ev"] == "clock.accepted").collect();
    assert_eq!(accepted.len(), 2);
    for entry in accepted {
        assert_eq!(entry["why"], "the time server was wrong");
        assert!(entry["who"].as_str().unwrap().starts_with("uid:"));
    }
    let silent = bursar.run(&["clock", "accept", "--why", " "]);
    assert_eq!(code(&silent), 2, "{silent:?}");
}

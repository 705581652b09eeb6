//! limits.toml is enforced: at once, under concurrency, and until the file changes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::agent::{Agent, Connection};
use crate::support::bursar::{Bursar, eventually, setup};
use crate::support::origin::{Origin, read_request};
use crate::support::seller::{self, PAYEE, challenge, requirement, shop};

/// Sends `times` requests at once, each on its own tunnel or all on one h2 connection; returns how many got the goods.
async fn at_once(bursar: &Bursar, origin: &Origin, alpn: &str, times: usize) -> usize {
    let agent = Arc::new(Agent::of(bursar));
    let address = origin.address;
    let mut asking = JoinSet::new();
    let shared = match agent.connect(address, &[alpn]).await {
        Connection::H2(sender, authority) => Some((sender, authority)),
        Connection::H1(_) => None,
    };
    for _ in 0..times {
        let (agent, shared, alpn) = (agent.clone(), shared.clone(), alpn.to_owned());
        asking.spawn(async move {
            let mut connection = match shared {
                Some((sender, authority)) => Connection::H2(sender, authority),
                None => agent.connect(address, &[&alpn]).await,
            };
            let page = connection.send(address, Request::new(Full::default())).await.unwrap();
            match page.status.as_u16() {
                200 => true,
                403 => {
                    assert_eq!(page.problem(), "over-limit");
                    false
                }
                _ => panic!("{page:?}"),
            }
        });
    }
    asking.join_all().await.into_iter().filter(|got| *got).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_at_once_exactly_as_many_get_through_as_the_limit_says() {
    let budgets = [
        ("day = \"100.00\"\ncount = { day = 20 }", "agents.research.count.day"),
        ("day = \"0.20\"", "agents.research.day"),
    ];
    for (budget, rule) in budgets {
        for alpn in ["http/1.1", "h2"] {
            let origin = shop().await;
            let limits = format!("timezone = \"UTC\"\n[agents.research]\n{budget}\n");
            let bursar = setup().limits(&limits).trust(&origin.ca_pem).start();
            assert_eq!(at_once(&bursar, &origin, alpn, 64).await, 20, "{alpn}: {budget}");
            let credentials: HashSet<String> = origin.payments().into_iter().collect();
            assert_eq!((credentials.len(), origin.payments().len()), (20, 20));
            let nonces: HashSet<String> = credentials
                .iter()
                .map(|credential| seller::signed(credential).0)
                .collect();
            let booked = bursar.payments();
            assert_eq!(booked.len(), 20);
            assert!(booked.iter().all(|payment| payment["state"] == "settled"
                && nonces.contains(payment["nonce"].as_str().unwrap())));
            let refused = eventually("refusals are on record", || {
                Some(bursar.refusals()).filter(|refused| !refused.is_empty())
            })
            .await;
            assert!(
                refused
                    .iter()
                    .all(|line| line["rule"] == rule && line["reason"] == "over-limit")
            );
        }
    }
}

/// Agent, its section, price in atoms, code, and members of the problem.
type Case = (&'static str, &'static str, &'static str, &'static str, Value);

fn cases() -> Vec<Case> {
    let cents = |rule: &str, limit: &str, asked: &str| json!({ "rule": rule, "limit": limit, "asked": asked });
    let names = |rule: &str, asked: &str| json!({ "rule": rule, "asked": asked });
    vec![
        (
            "pertx",
            "per_transaction = \"0.50\"\nday = \"9.00\"",
            "500001",
            "over-limit",
            cents("agents.pertx.per_transaction", "0.50", "0.500001"),
        ),
        (
            "hour",
            "hour = \"0.01\"",
            "10001",
            "over-limit",
            json!({ "rule": "agents.hour.hour", "limit": "0.01", "used": "0.00", "reserved": "0.00", "asked": "0.010001" }),
        ),
        (
            "week",
            "week = \"0.01\"",
            "20000",
            "over-limit",
            cents("agents.week.week", "0.01", "0.02"),
        ),
        (
            "month",
            "month = \"0.01\"",
            "20000",
            "over-limit",
            cents("agents.month.month", "0.01", "0.02"),
        ),
        (
            "total",
            "total = \"0.01\"",
            "20000",
            "over-limit",
            cents("agents.total.total", "0.01", "0.02"),
        ),
        (
            "counted",
            "day = \"1.00\"\ncount = { hour = 0 }",
            "",
            "over-limit",
            json!({ "rule": "agents.counted.count.hour", "limit": "0", "used": "0", "reserved": "0", "asked": "1" }),
        ),
        (
            "nobudget",
            "per_transaction = \"1.00\"",
            "",
            "no-budget",
            json!({ "rule": "agents.nobudget" }),
        ),
        (
            "stopped",
            "day = \"1.00\"\npaused = true",
            "",
            "paused",
            json!({ "rule": "agents.stopped.paused" }),
        ),
        (
            "elsewhere",
            "day = \"1.00\"\nmerchants = { allow = [\"api.example.com\"] }",
            "",
            "merchant-not-allowed",
            names("agents.elsewhere.merchants.allow", "localhost"),
        ),
        (
            "barred",
            "day = \"1.00\"\nmerchants = { deny = [\"localhost\"] }",
            "",
            "merchant-not-allowed",
            json!({ "rule": "agents.barred.merchants.deny", "limit": "localhost", "asked": "localhost" }),
        ),
        (
            "otherpayee",
            "day = \"1.00\"\npayees = { allow = [\"0x000000000000000000000000000000000000dEaD\"] }",
            "",
            "payee-not-allowed",
            names("agents.otherpayee.payees.allow", PAYEE),
        ),
        (
            "mainnet",
            "day = \"1.00\"\nnetworks = [\"eip155:8453\"]",
            "",
            "network-not-allowed",
            names("agents.mainnet.networks", "eip155:84532"),
        ),
        (
            "euros",
            "day = \"1.00\"\nassets = [\"USDT\"]",
            "",
            "asset-not-allowed",
            names("agents.euros.assets", "USDC on eip155:84532"),
        ),
        (
            "asks",
            "day = \"1.00\"\napproval_above = \"0.05\"",
            "50001",
            "approval-unavailable",
            cents("agents.asks.approval_above", "0.05", "0.050001"),
        ),
        (
            "ingroup",
            "group = \"eng\"",
            "",
            "paused",
            json!({ "rule": "groups.eng.paused" }),
        ),
        (
            "poor",
            "group = \"poor\"\nday = \"9.00\"",
            "20000",
            "over-limit",
            cents("groups.poor.day", "0.01", "0.02"),
        ),
        (
            "rich",
            "day = \"1000.00\"",
            "6000000",
            "over-limit",
            cents("account.total", "5.00", "6.00"),
        ),
        ("stranger", "", "", "no-budget", json!({ "rule": "agents.stranger" })),
    ]
}

#[tokio::test]
async fn every_refusal_names_its_rule_and_reads_well() {
    let origin = shop().await;
    let mut limits = "timezone = \"UTC\"\n[account]\ntotal = \"5.00\"\n[groups.eng]\nday = \"9.00\"\npaused = true\n\
                      [groups.poor]\nday = \"0.01\"\n"
        .to_owned();
    for (agent, section, ..) in cases().iter().filter(|(_, section, ..)| !section.is_empty()) {
        limits += &format!("[agents.{agent}]\n{section}\n");
    }
    let home = setup().limits(&limits).trust(&origin.ca_pem).home();
    let tokens: Vec<String> = cases().iter().map(|(agent, ..)| home.add_agent(agent)).collect();
    let bursar = home.serve();
    for ((name, _, price, code, members), token) in cases().iter().zip(&tokens) {
        let agent = Agent::named(&bursar, name, token);
        let page = agent.get(origin.address, &format!("/{price}")).await;
        assert_eq!(page.status, 403, "{name}: {page:?}");
        assert_eq!(page.problem(), *code, "{name}");
        let status = format!("bursar; error=http_request_denied; details=\"{code}\"");
        assert_eq!(page.header("proxy-status"), Some(status.as_str()));
        assert!(!page.headers.contains_key("bursar-payment"));
        let problem = page.json();
        for (member, value) in members.as_object().unwrap() {
            assert_eq!(&problem[member], value, "{name}: {problem:#}");
        }
        assert_eq!(problem["retryable"], false, "{name}");
        assert_eq!(problem["status"], 403);
        let window = ["hour", "week", "month", "counted", "poor"].contains(name);
        assert_eq!(problem["resets_at"].is_string(), window, "{name}: {problem:#}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            (detail.starts_with(|c: char| c.is_ascii_uppercase()) || detail.starts_with("limits.toml "))
                && detail.ends_with('.'),
            "{detail}"
        );
        assert!(detail.contains(problem["rule"].as_str().unwrap()), "{detail}");
    }
    assert_eq!(origin.payments().len(), 0);
    assert_eq!(bursar.payments().len(), 0);
    let recorded = eventually("all refusals are on record", || {
        Some(bursar.refusals()).filter(|recorded| recorded.len() >= cases().len())
    })
    .await;
    for (name, _, _, code, members) in &cases() {
        let line = recorded.iter().find(|line| line["agent"] == *name);
        let line = line.unwrap_or_else(|| panic!("the refusal of {name} is not on record"));
        assert_eq!((&line["reason"], &line["rule"]), (&json!(code), &members["rule"]));
        let group = match *name {
            "ingroup" => json!("eng"),
            "poor" => json!("poor"),
            _ => Value::Null,
        };
        assert_eq!(line["group"], group, "{name}");
    }
}

#[tokio::test]
async fn exactly_the_limit_still_passes_and_what_is_spent_counts_on_every_level() {
    let origin = shop().await;
    let limits = "timezone = \"UTC\"\n[account]\nday = \"0.06\"\n[groups.eng]\nday = \"0.05\"\n\
                  [agents.research]\ngroup = \"eng\"\nper_transaction = \"0.03\"\napproval_above = \"0.03\"\nday = \"1.00\"\n\
                  [agents.other]\nday = \"1.00\"\n";
    let home = setup().limits(limits).trust(&origin.ca_pem).home();
    let token = home.add_agent("other");
    let bursar = home.serve();
    let research = Agent::of(&bursar);
    assert_eq!(research.get(origin.address, "/30000").await.status, 200);
    let page = research.get(origin.address, "/20001").await;
    let problem = page.json();
    assert_eq!(problem["rule"], "groups.eng.day");
    assert_eq!(
        (&problem["used"], &problem["reserved"]),
        (&json!("0.03"), &json!("0.00"))
    );
    assert_eq!(research.get(origin.address, "/20000").await.status, 200);
    let other = Agent::named(&bursar, "other", &token);
    let page = other.get(origin.address, "/10001").await;
    assert_eq!(page.json()["rule"], "account.day");
    assert_eq!(other.get(origin.address, "/10000").await.status, 200);
    let usd: Vec<_> = bursar.payments().iter().map(|payment| payment["usd"].clone()).collect();
    assert_eq!(usd, ["0.03", "0.02", "0.01"]);
}

#[tokio::test]
async fn a_changed_file_takes_effect_and_a_broken_one_changes_nothing() {
    let origin = shop().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    assert_eq!(agent.get(origin.address, "/").await.status, 200);

    bursar
        .home
        .write_limits("[agents.research]\ntotal = \"9.00\"\npaused = true\n");
    let began = Instant::now();
    let page = loop {
        let page = agent.get(origin.address, "/").await;
        if page.status == 403 {
            break page;
        }
        assert!(began.elapsed() < Duration::from_secs(60));
    };
    assert_eq!(page.problem(), "paused");

    bursar
        .home
        .write_limits("[agents.research]\ntotal = \"9.00\"\npaused = flase\n");
    let rejected = eventually("the broken file is on record", || {
        bursar
            .journal()
            .into_iter()
            .find(|entry| entry["ev"] == "policy.rejected")
    })
    .await;
    assert_eq!(rejected["sha256"].as_str().unwrap().len(), 64);
    assert!(!rejected.to_string().contains("flase"), "the entry quotes no file");
    let log = bursar.log();
    assert!(
        log.contains("limits.toml was not accepted, so the limits of before stay in force"),
        "{log}"
    );
    assert!(log.contains("limits.toml, line 3"), "the log says where: {log}");
    assert_eq!(agent.get(origin.address, "/").await.problem(), "paused");

    // Money spent under the old file still counts under the new one.
    let spent = bursar.payments().len();
    let spent = format!("{}.{:02}", spent / 100, spent % 100);
    let limits = format!("timezone = \"UTC\"\n[agents.research]\nday = \"{spent}\"\n");
    bursar.home.write_limits(&limits);
    let began = Instant::now();
    let page = loop {
        let page = agent.get(origin.address, "/").await;
        if page.problem() != "paused" {
            break page;
        }
        assert!(began.elapsed() < Duration::from_secs(60));
    };
    assert_eq!(page.problem(), "over-limit");
    assert_eq!(page.json()["used"], spent);
    let loads: Vec<_> = bursar
        .journal()
        .into_iter()
        .filter(|entry| entry["ev"] == "policy.load")
        .collect();
    assert_eq!(loads.len(), 3);
}

/// Waits until the server has the file in force.
fn in_force(bursar: &Bursar) {
    let output = bursar.run(&["limits", "check", "--wait", "--timeout", "60s"]);
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_line_that_is_written_after_spending_meets_what_was_spent() {
    let origin = shop().await;
    let roomy = |group: &str| {
        format!(
            "timezone = \"UTC\"\n[groups.{group}]\ntotal = \"9.00\"\n[agents.research]\ngroup = \"{group}\"\n[agents.other]\n"
        )
    };
    let home = setup()
        .limits(&format!("{}total = \"9.00\"\n", roomy("eng")))
        .trust(&origin.ca_pem)
        .home();
    let token = home.add_agent("other");
    let mut bursar = home.serve();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/50000").await.status, 200);

    let utc = |lines: &str| format!("timezone = \"UTC\"\n{lines}");
    let research = [
        (
            "account.month",
            utc("[account]\nmonth = \"0.05\"\n[agents.research]\ntotal = \"9.00\"\n"),
        ),
        ("agents.research.month", utc("[agents.research]\nmonth = \"0.05\"\n")),
        (
            "agents.research.count.month",
            utc("[agents.research]\ntotal = \"9.00\"\ncount = { month = 1 }\n"),
        ),
    ];
    let research = research.map(|(rule, lines)| ("research", rule, lines));
    let zones = ["Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns"].map(|zone| {
        let lines = "[agents.research]\ntotal = \"9.00\"\nmonth = \"0.05\"\n";
        let lines = format!("timezone = \"{zone}\"\n{lines}");
        ("research", "agents.research.month", lines)
    });
    let rolling = "[agents.research]\nrolling = { \"24h\" = \"0.05\" }\n".to_owned();
    let rolling = ("research", "agents.research.rolling.24h", rolling);
    // `other` has joined the group and paid nothing itself.
    let joined = "timezone = \"UTC\"\n[groups.eng]\nmonth = \"0.05\"\n[agents.other]\ngroup = \"eng\"\n".to_owned();
    let joined = ("other", "groups.eng.month", joined);
    let renamed = "[groups.new]\nwas = \"eng\"\ntotal = \"0.05\"\n[agents.other]\ngroup = \"new\"\n".to_owned();
    let renamed = ("other", "groups.new.total", renamed);
    let total = "[agents.research]\ntotal = \"0.05\"\n".to_owned();
    let cases = research.into_iter().chain(zones).chain([rolling, joined, renamed]);
    let cases = cases.chain([("research", "agents.research.total", total)]);
    for (agent, rule, limits) in cases {
        bursar.home.write_limits(&limits);
        in_force(&bursar);
        let client = match agent {
            "other" => Agent::named(&bursar, "other", &token),
            _ => Agent::of(&bursar),
        };
        let page = client.get(origin.address, "/10000").await;
        assert_eq!(page.problem(), "over-limit", "{rule}: {page:?}");
        let problem = page.json();
        let used = if rule.contains(".count.") { "1" } else { "0.05" };
        assert_eq!((&problem["rule"], &problem["used"]), (&json!(rule), &json!(used)));
    }
    // From the index, and from the journal alone.
    for is_deleted in [false, true] {
        let home = bursar.kill();
        if is_deleted {
            std::fs::remove_dir_all(home.path().join("index")).unwrap();
        }
        bursar = home.serve();
        let page = Agent::of(&bursar).get(origin.address, "/10000").await;
        assert_eq!(page.json()["used"], "0.05");
    }
    assert_eq!(bursar.payments().len(), 1);
    // A group under a new name begins with nothing spent unless the file says that it is the same.
    bursar.home.write_limits(&roomy("new").replace("[agents.other]\n", ""));
    in_force(&bursar);
    bursar
        .home
        .write_limits(&roomy("newer").replace("[agents.other]\n", ""));
    let log = eventually("the warning", || {
        let log = bursar.log();
        log.contains("group-dropped").then_some(log)
    })
    .await;
    assert!(log.contains("is gone and its agent"), "{log}");
}

#[tokio::test]
async fn an_upload_that_is_drawn_out_does_not_save_up_what_was_allowed_when_it_began() {
    let (decided, mut was_decided) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut stream, _| {
        let decided = decided.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let challenge = seller::encoded(&challenge("/", &[requirement("10000")]));
                let head = match request.payment() {
                    Some(_) => format!("HTTP/1.1 200 OK\r\nx-bought: {}\r\n", request.head.len()),
                    None => format!("HTTP/1.1 402 Pay\r\npayment-required: {challenge}\r\n"),
                };
                let answer = format!("{head}content-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                if request.head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
                    // Once payment is decided, the first upload stops; the rest of the body is kept for the second one.
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                    decided.send(()).unwrap();
                    return;
                }
            }
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let mut upload = agent.tls(origin.address, "localhost", &["http/1.1"]).await.unwrap();
    let head = format!(
        "POST /slow HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
        origin.address.port()
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    upload.flush().await.unwrap();
    was_decided.recv().await.unwrap();

    bursar
        .home
        .write_limits("[agents.research]\ntotal = \"9.00\"\npaused = true\n");
    let began = Instant::now();
    while agent.get(origin.address, "/").await.status == 200 {
        assert!(began.elapsed() < Duration::from_secs(60));
    }
    let bought = bursar.payments().len();
    upload.write_all(b"1\r\nb\r\n0\r\n\r\n").await.unwrap();
    upload.flush().await.unwrap();
    let mut answer = Vec::new();
    let _ = upload.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("urn:bursar:problem:paused"), "{answer}");
    assert_eq!(bursar.payments().len(), bought);
}

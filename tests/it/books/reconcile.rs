//! `bursar reconcile` and the server's own reconciliation, against a real chain: what counts afterwards is what moved
//! there.

use std::process::Output;

use ::bursar_core::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, Home, LIMITS, eventually, setup};
use crate::support::buyer::{Buyer, buyer_asking, lab, rpc, site, skip};
use crate::support::lab::{Lab, installed};
use crate::support::node::{Mood, Node};
use crate::support::origin::{Origin, answer};
use crate::support::seller;

const FUNDS: u128 = 1_000_000;

/// What `reconcile --json` printed, and its exit code.
struct Printed {
    code: i32,
    lines: Vec<Value>,
}

impl Printed {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Self {
            code: output.status.code().unwrap(),
            lines,
        }
    }

    fn kind(&self, kind: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["kind"] == kind).collect()
    }

    /// Findings about the payments, oldest first.
    fn findings(&self) -> Vec<&str> {
        let of = |line: &&Value| line["finding"].as_str().unwrap().to_owned().leak() as &str;
        self.kind("payment").iter().map(of).collect()
    }

    fn summary(&self) -> &Value {
        self.lines.last().unwrap()
    }
}

fn reconcile(home: &Home) -> Printed {
    Printed::of(&home.run(&["reconcile", "--json"]))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn by(bursar: &Bursar) -> Vec<String> {
    let source = |payment: &Value| match &payment["by"] {
        Value::String(by) => format!("{} by {by}", payment["state"].as_str().unwrap()),
        _ => payment["state"].as_str().unwrap().to_owned(),
    };
    bursar.payments().iter().map(source).collect()
}

fn entries(bursar: &Bursar, ev: &str) -> Vec<Value> {
    let mut all = bursar.journal();
    all.retain(|entry| entry["ev"] == ev);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn with_and_without_a_server_the_chain_settles_what_was_lost_and_confirms_what_was_claimed() {
    let Some(lab) = lab() else { return };
    let node = Node::of(lab, Mood::Down).await;
    let mut buyer = buyer_asking(lab, FUNDS, LIMITS, &[node.url()], "");
    let agent = Agent::of(&buyer.bursar);
    assert_eq!(agent.get(site(&lab.v2), "/paid").await.status, 200);
    assert_eq!(agent.get(site(&lab.v2), "/lost").await.status, 502);
    assert_eq!(by(&buyer.bursar), ["settled by merchant", "unknown"]);

    // No node answers: everything stays as it was.
    let printed = reconcile(&buyer.bursar.home);
    assert_eq!(
        (printed.code, printed.findings()),
        (4, vec!["undecided", "undecided"]),
        "{:?}",
        printed.lines
    );
    assert_eq!(printed.kind("unsearched").len(), 1);
    let why = printed.kind("payment")[0]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("no node answered") && why.contains("503"), "{why}");
    assert_eq!(buyer.bursar.stop(), 0);
    let printed = reconcile(&buyer.bursar.home);
    assert_eq!((printed.code, printed.findings()), (4, vec!["undecided", "undecided"]));
    assert_eq!(by(&buyer.bursar), ["settled by merchant", "unknown"]);

    node.be(Mood::Final);
    let transfers = buyer.transfers();
    let printed = reconcile(&buyer.bursar.home);
    assert_eq!(
        (printed.code, printed.findings()),
        (0, vec!["confirmed", "settled"]),
        "{:?}",
        printed.lines
    );
    for (line, transfer) in printed.kind("payment").iter().zip(&transfers) {
        assert_eq!(line["tx"], transfer.tx.as_str());
        assert_eq!((&line["amount"], &line["after"]), (&json!("10000"), &json!("settled")));
        assert!(line["block"].as_u64().unwrap() > 0);
    }
    assert_eq!(
        (&printed.summary()["matched"], &printed.summary()["disputed"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(by(&buyer.bursar), ["settled by chain", "settled by chain"]);
    assert_eq!(buyer.bursar.payments()[1]["tx"], transfers[1].tx.as_str());

    // Named by id they are checked again; a server reports the same and records nothing new.
    let ids: Vec<String> = printed
        .kind("payment")
        .iter()
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect();
    let by_id = ["reconcile", "--json", &ids[0], &ids[1]];
    let offline = Printed::of(&buyer.bursar.run(&by_id));
    assert_eq!((offline.code, offline.findings()), (0, vec!["confirmed", "confirmed"]));
    let recorded = entries(&buyer.bursar, "pay.confirmed").len();
    assert_eq!(recorded, 1);
    let (home, wallet) = (buyer.bursar.kill(), buyer.wallet.clone());
    let server = home.serve();
    let online = Printed::of(&server.run(&by_id));
    assert_eq!((online.code, &online.lines), (0, &offline.lines));
    assert_eq!(reconcile(&server.home).code, 0);
    assert_eq!(entries(&server, "pay.confirmed").len(), recorded);
    assert_eq!(entries(&server, "wallet.outflow"), [] as [Value; 0], "{wallet}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_by_itself_confirms_and_settles() {
    let Some(lab) = lab() else { return };
    let node = Node::of(lab, Mood::Down).await;
    let mut buyer = buyer_asking(lab, FUNDS, LIMITS, &[node.url()], "");
    Agent::of(&buyer.bursar).get(site(&lab.v2), "/lost").await;
    assert_eq!(buyer.bursar.stop(), 0);
    assert_eq!(by(&buyer.bursar), ["unknown"]);
    // What an earlier run left behind is checked before the first request is accepted.
    node.be(Mood::Final);
    let server = buyer.bursar.kill().serve();
    assert_eq!(by(&server), ["settled by chain"]);
    Agent::of(&server).get(site(&lab.v2), "/paid").await;
    let both = ["settled by chain", "settled by chain"];
    eventually("the chain's proofs are recorded", || {
        (by(&server) == both).then_some(())
    })
    .await;
    let printed = reconcile(&server.home);
    assert_eq!((printed.code, printed.findings()), (0, vec![]));
}

/// Valid for ten seconds: the shortest that an offer may ask for.
fn brief(amount: &str) -> crate::support::origin::Answer {
    let mut requirement = seller::requirement(amount);
    requirement["maxTimeoutSeconds"] = json!(10);
    seller::v2(&seller::challenge("/", &[requirement]))
}

/// Takes credentials but never cashes one; `/liar` claims that it did.
async fn idle_seller() -> Origin {
    Origin::https(|request| async move {
        match (request.is_paid(), request.target.as_str()) {
            (false, _) => brief("10000"),
            (true, "/liar") => seller::sold("goods"),
            (true, _) => answer(500, &[], "oops"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_cashed_comes_back_and_what_was_claimed_of_it_is_disputed() {
    if !installed() {
        return skip("the lab is not installed: run `npm ci` in tests/interop");
    }
    // Its own lab, because its clock is set ahead.
    let lab: &'static Lab = Box::leak(Box::new(Lab::start()));
    let (node, origin) = (Node::of(lab, Mood::Final).await, idle_seller().await);
    let limits = "timezone = \"UTC\"\n[agents.research]\nday = \"0.02\"\n";
    let buyer = buyer_asking(lab, FUNDS, limits, &[node.url()], &origin.ca_pem);
    let agent = Agent::of(&buyer.bursar);
    rpc(lab, "evm_mine", json!([]));
    assert_eq!(agent.get(origin.address, "/never").await.status, 500);
    assert_eq!(agent.get(origin.address, "/liar").await.status, 200);
    assert_eq!(
        agent.get(origin.address, "/more").await.status,
        403,
        "two cents are counted"
    );
    let printed = reconcile(&buyer.bursar.home);
    assert_eq!(
        (printed.code, printed.findings()),
        (4, vec!["pending", "pending"]),
        "{:?}",
        printed.lines
    );
    assert!(printed.kind("payment")[0]["until"].as_str().unwrap().ends_with('Z'));

    rpc(lab, "evm_increaseTime", json!([15]));
    rpc(lab, "evm_mine", json!([]));
    let output = buyer.bursar.run(&["reconcile"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let payments = buyer.bursar.payments();
    let liar = payments[1]["id"].as_str().unwrap();
    let printed = format!("Mismatch: payment {liar} of 0.01 USDC to localhost: the receipt says paid, but");
    assert!(
        text.contains(&printed) || text.contains(&printed.replace("localhost", "127.0.0.1")),
        "{text}"
    );
    assert_eq!(by(&buyer.bursar), ["expired by chain", "settled by merchant"]);
    assert!(payments[1]["disputed"].is_string(), "{payments:?}");
    assert_eq!(entries(&buyer.bursar, "pay.dispute").len(), 1);
    // It remains a mismatch.
    let printed = reconcile(&buyer.bursar.home);
    assert_eq!(
        (printed.code, printed.findings()),
        (1, vec!["disputed"]),
        "{:?}",
        printed.lines
    );
    assert_eq!(entries(&buyer.bursar, "pay.dispute").len(), 1);

    // One cent is free again, and the same request buys again.
    assert_eq!(agent.get(origin.address, "/never").await.status, 500);
    let states = buyer.bursar.states();
    assert_eq!(states, ["expired", "settled", "unknown"]);
    let credentials = origin.payments();
    assert_eq!(credentials.len(), 3);
    assert_ne!(credentials[0], credentials[2]);
    assert_eq!(agent.get(origin.address, "/more").await.status, 403);
    assert_eq!(buyer.transfers(), []);
}

fn steal(lab: &Lab, buyer: &Buyer, atoms: u128) -> String {
    rpc(lab, "anvil_setBalance", json!([buyer.wallet, "0xde0b6b3a7640000"]));
    rpc(lab, "anvil_impersonateAccount", json!([buyer.wallet]));
    let data = format!("0xa9059cbb{:0>64}{atoms:064x}", "bb".repeat(20));
    let sent = rpc(
        lab,
        "eth_sendTransaction",
        json!([{ "from": buyer.wallet, "to": lab.token, "data": data }]),
    );
    sent.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_another_program_takes_is_reported_and_recorded_once() {
    let Some(lab) = lab() else { return };
    let node = Node::of(lab, Mood::Final).await;
    let mut buyer = buyer_asking(lab, FUNDS, LIMITS, &[node.url()], "");
    Agent::of(&buyer.bursar).get(site(&lab.v2), "/paid").await;
    assert_eq!(reconcile(&buyer.bursar.home).code, 0);

    let tx = steal(lab, &buyer, 123_456);
    let output = buyer.bursar.run(&["reconcile"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("Mismatch: 0.123456 USDC left the wallet on eip155:84532"),
        "{text}"
    );
    assert!(text.contains(&tx) && text.contains(&"bb".repeat(20)), "{text}");
    let recorded = entries(&buyer.bursar, "wallet.outflow");
    assert_eq!(recorded.len(), 1);
    assert_eq!(
        (&recorded[0]["tx"], &recorded[0]["amount"]),
        (&json!(tx), &json!("123456"))
    );
    assert!(
        buyer
            .bursar
            .log()
            .contains("money left the wallet without a payment by bursar")
    );

    // The saved search position only saves time.
    assert_eq!(buyer.bursar.stop(), 0);
    let cursor = buyer.bursar.path().join("private/reconciled.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&cursor).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    for lost in [false, true] {
        if lost {
            std::fs::remove_file(&cursor).unwrap();
        }
        let printed = reconcile(&buyer.bursar.home);
        assert_eq!(
            (printed.code, printed.kind("outflow").len()),
            (1, 1),
            "{:?}",
            printed.lines
        );
        assert_eq!(printed.kind("outflow")[0]["tx"], tx.as_str());
        assert_eq!(entries(&buyer.bursar, "wallet.outflow").len(), 1);
    }
    let tomorrow = SystemClock.now() + jiff::SignedDuration::from_hours(24);
    let later = buyer.bursar.run(&["reconcile", "--since", &tomorrow.to_string()]);
    assert_eq!(later.status.code(), Some(0), "{}", said(&later));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_disagree_prove_nothing() {
    let Some(lab) = lab() else { return };
    let (honest, liar) = (Node::of(lab, Mood::Final).await, Node::of(lab, Mood::Down).await);
    let mut buyer = buyer_asking(lab, FUNDS, LIMITS, &[honest.url(), liar.url()], "");
    honest.be(Mood::Down);
    Agent::of(&buyer.bursar).get(site(&lab.v2), "/lost").await;
    assert_eq!(buyer.bursar.stop(), 0);
    honest.be(Mood::Final);
    liar.be(Mood::Denying);
    let printed = reconcile(&buyer.bursar.home);
    assert_eq!(
        (printed.code, printed.findings()),
        (4, vec!["undecided"]),
        "{:?}",
        printed.lines
    );
    let why = printed.kind("payment")[0]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("disagree"), "{why}");
    assert_eq!(by(&buyer.bursar), ["unknown"]);
    // One node's proof is enough to settle, if the other one only fails to answer.
    liar.be(Mood::Down);
    let printed = reconcile(&buyer.bursar.home);
    assert_eq!(
        (printed.code, printed.findings()),
        (0, vec!["settled"]),
        "{:?}",
        printed.lines
    );
}

#[test]
fn without_nodes_nothing_can_be_verified() {
    let mut server = setup().start();
    let said_by = |server: &Bursar| {
        let output = server.run(&["reconcile"]);
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        said(&output)
    };
    let with = said_by(&server);
    assert!(with.contains("add `rpc = ["), "{with}");
    assert!(
        server.log().contains("names no node for this network"),
        "{}",
        server.log()
    );
    assert_eq!(server.stop(), 0);
    assert_eq!(said_by(&server), with);
    let unknown = server.run(&["reconcile", "nonsense"]);
    assert_eq!(unknown.status.code(), Some(2));
}

/// Invariant 2, judged by the chain: the counted amount is never less than what moved, never more than the cap, and
/// after reconciling exactly what moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_many_kills_under_load_the_ledger_matches_what_the_chain_moved() {
    const CAP: u128 = 300_000;
    if !installed() {
        return skip("the packages in tests/interop");
    }
    // Its own lab, because time is moved below.
    let lab: &'static Lab = Box::leak(Box::new(Lab::start()));
    let node = Node::of(lab, Mood::Down).await;
    // A short validity, so that uncashed payments expire soon.
    let limits = "max_validity = 10\ntimezone = \"UTC\"\n[agents.research]\ntotal = \"0.30\"\n";
    let mut buyer = buyer_asking(lab, FUNDS, limits, &[node.url()], "");
    for round in 0..5 {
        let before = buyer.transfers().len();
        let mut agents = tokio::task::JoinSet::new();
        for number in 0..3 {
            let agent = Agent::of(&buyer.bursar);
            let target = site(&lab.v2);
            agents.spawn(async move {
                for turn in 0.. {
                    let way = if (number + turn) % 3 == 0 { "lost" } else { "paid" };
                    let path = format!("/{way}?{round}-{number}-{turn}");
                    let mut connection = agent.connect(target, &["http/1.1"]).await;
                    let request = http::Request::get(path).body(http_body_util::Full::default()).unwrap();
                    if connection.send(target, request).await.is_err() {
                        return;
                    }
                }
            });
        }
        eventually("money moves", || (buyer.transfers().len() > before + 1).then_some(())).await;
        let home = buyer.bursar.kill();
        // Some requests no longer find a server.
        while agents.join_next().await.is_some() {}
        buyer.bursar = home.serve();
        let (counted, moved) = (counted(&buyer.bursar), moved(&buyer));
        assert!(
            moved <= counted && counted <= CAP,
            "{moved} moved, {counted} counted in round {round}"
        );
    }
    assert_eq!(buyer.bursar.stop(), 0);
    rpc(lab, "evm_increaseTime", json!([15]));
    rpc(lab, "evm_mine", json!([]));
    node.be(Mood::Final);
    let printed = reconcile(&buyer.bursar.home);
    assert_eq!(printed.code, 0, "{:#?}", printed.lines);
    assert_eq!(counted(&buyer.bursar), moved(&buyer));
    assert!(moved(&buyer) >= 100_000, "ten purchases at least");
}

/// Atoms that count, according to the ledger.
fn counted(bursar: &Bursar) -> u128 {
    let payments = bursar.payments();
    let counts = |payment: &&Value| !["expired", "released"].contains(&payment["state"].as_str().unwrap());
    let atoms = |payment: &Value| payment["amount"].as_str().unwrap().parse::<u128>().unwrap();
    payments.iter().filter(counts).map(atoms).sum()
}

/// Atoms that left the wallet, according to the chain.
fn moved(buyer: &Buyer) -> u128 {
    buyer.transfers().iter().map(|transfer| transfer.atoms).sum()
}

/// A crash lost the credential, and the chain shows that it was cashed: the same request must not buy a second time.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_paid_and_never_delivered_is_not_bought_again_when_its_credential_is_lost() {
    let Some(lab) = lab() else { return };
    let node = Node::of(lab, Mood::Down).await;
    let mut buyer = buyer_asking(lab, FUNDS, LIMITS, &[node.url()], "");
    assert_eq!(Agent::of(&buyer.bursar).get(site(&lab.v2), "/lost").await.status, 502);
    let home = buyer.bursar.kill();
    for file in std::fs::read_dir(home.path().join("private/credentials")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    buyer.bursar = home.serve();
    let agent = Agent::of(&buyer.bursar);
    let page = agent.get(site(&lab.v2), "/lost").await;
    assert_eq!(
        (page.status.as_u16(), page.problem().as_str()),
        (409, "payment-in-doubt")
    );
    node.be(Mood::Final);
    assert_eq!(reconcile(&buyer.bursar.home).code, 0);
    assert_eq!(by(&buyer.bursar), ["settled by chain"]);
    let page = agent.get(site(&lab.v2), "/lost").await;
    assert_eq!(
        (page.status.as_u16(), page.problem().as_str()),
        (409, "paid-not-delivered")
    );
    assert_eq!(buyer.transfers().len(), 1);
}

//! `bursar payments list` and `show` for people: days and times in the zone of limits.toml, order, merchants, and why a
//! payment is in its state.

use std::path::Path;

use bursar_core::clock::Clock;
use bursar_core::money::{Atoms, MicroUsd};
use bursar_ledger::{Embedded, Ledger, Outcome, PaymentId, RefusalRecord, Reserve, Source};
use serde_json::{Value, json};

use super::{USAGE, done, fails, json_lines, stderr, stdout};
use crate::approvals::{AT_ONCE, question};
use crate::support::agent::Agent;
use crate::support::bursar::{Home, setup};
use crate::support::seller::shop;
use crate::world::World;

const BERLIN: &str = "timezone = \"Europe/Berlin\"\n[agents.research]\nday = \"5.00\"\n";

/// Around the first of November in Berlin, which is an hour ahead of UTC by then.
const HISTORY: [(&str, &str, &str, u128); 4] = [
    ("2026-10-31T22:59:59Z", "research", "api.example.com", 2),
    ("2026-10-31T23:00:00Z", "writer", "a.b.example.com", 100),
    ("2026-11-01T22:59:59Z", "research", "example.com", 9),
    ("2026-11-01T23:00:00Z", "archive", "api.example.com", 1),
];

fn purchase(world: &World, (_, agent, host, cents): (&str, &str, &str, u128)) -> Reserve {
    let now = world.clock.now();
    let mut purchase = world.charged(Vec::new());
    let mut random = [0; 10];
    random.copy_from_slice(&purchase.arm.nonce.known().unwrap().as_slice()[22..]);
    purchase.hold.rid = PaymentId::new(now, random);
    purchase.hold.agent = agent.into();
    purchase.hold.host = host.into();
    purchase.hold.terms.amount = Atoms::new(cents * 10_000);
    purchase.hold.terms.usd = MicroUsd::new(cents * 10_000);
    purchase.arm.valid_before = u64::try_from(now.as_second()).unwrap() + 300;
    purchase
}

/// A data directory whose ledger bought and refused by another clock.
async fn with_history() -> Home {
    let home = setup().limits(BERLIN).home();
    let world = World::new();
    world.clock.set(HISTORY[0].0.parse().unwrap());
    let ledger = Embedded::open(home.path(), world.options()).unwrap();
    for (number, bought) in HISTORY.into_iter().enumerate() {
        if number == 2 {
            world.clock.set("2026-11-01T12:00:00Z".parse().unwrap());
            ledger.refused(RefusalRecord {
                agent: "writer".to_owned(),
                group: None,
                host: "api.example.com".to_owned(),
                reason: "over-limit".to_owned(),
                rule: "agents.writer.day".to_owned(),
                asked: Some(MicroUsd::new(50_000)),
            });
            // Once this is answered, it is in the journal.
            ledger.open_items().await.unwrap();
        }
        world.clock.set(bought.0.parse().unwrap());
        let purchase = purchase(&world, bought);
        let rid = purchase.hold.rid;
        ledger.reserve(purchase).await.unwrap();
        let settled = Outcome::Settled {
            by: Source::Merchant,
            tx: None,
        };
        ledger.finish(rid, settled).await.unwrap();
    }
    ledger.close().await;
    home
}

/// The places in [`HISTORY`] of what is listed, in its order; refusals as 9.
fn listed(dir: &Path, more: &[&str]) -> Vec<usize> {
    let lines = json_lines(&done(dir, &[&["payments", "list", "--json"], more].concat()));
    let place = |line: &Value| {
        let at = line["created_at"].as_str();
        at.map_or(9, |at| HISTORY.iter().position(|(time, ..)| *time == at).unwrap())
    };
    lines.iter().map(place).collect()
}

#[tokio::test]
async fn a_day_is_one_of_the_zone_of_limits_toml() {
    let home = with_history().await;
    let day = "2026-11-01";
    let list = |more: &[&str]| listed(home.path(), more);
    assert_eq!(list(&[]), [0, 1, 2, 3]);
    assert_eq!(list(&["--since", day, "--until", day]), [1, 2]);
    assert_eq!(list(&["--since", day]), [1, 2, 3]);
    assert_eq!(list(&["--until", "2026-10-31"]), [0]);
    assert_eq!(
        list(&["--since", "2026-11-01T23:59:59+01:00"]),
        [2, 3],
        "an instant is itself"
    );
    assert_eq!(list(&["--until", "2026-10-31T23:00:00Z"]), [0]);
    assert_eq!(list(&["--since", "36500d"]), [0, 1, 2, 3]);
    assert_eq!(list(&["--since", "1h"]), [0; 0]);

    let text = |more: &[&str]| done(home.path(), &[&["payments", "list"], more].concat());
    let shown = stdout(&text(&["--since", day, "--until", day]));
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "   Times are in Europe/Berlin.", "{shown}");
    assert!(
        lines[1].starts_with("   2026-11-01 00:00:00  settled           1 USDC"),
        "{shown}"
    );
    assert!(
        lines[3].starts_with("   2026-11-01 23:59:59  settled        0.09 USDC"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "no colours in a pipe: {shown:?}");
    let id = lines[2].trim();
    let sheet = stdout(&done(home.path(), &["payments", "show", id]));
    for part in [
        "created_at      2026-11-01 00:00:00 +01:00\n",
        "times in        Europe/Berlin\n",
        "state           settled: The seller's receipt says so.\n",
    ] {
        assert!(sheet.contains(part), "{part} is missing:\n{sheet}");
    }

    // Without a zone days are those of UTC, and it is said.
    home.write_limits("[agents.research]\ntotal = \"5.00\"\n");
    assert_eq!(list(&["--since", day, "--until", day]), [2, 3]);
    let output = text(&["--since", day]);
    let words = "UTC (limits.toml sets no timezone)";
    assert!(
        stdout(&output).starts_with(&format!("   Times are in {words}.\n")),
        "{output:?}"
    );
    assert!(
        stderr(&output).contains(&format!("{day} is taken as a day in {words}.")),
        "{output:?}"
    );
    // Payments can be seen whatever is wrong with the file.
    home.write_limits("timezone = \"Europe/Berlim\"\n");
    assert_eq!(list(&["--until", "2026-10-31"]), [0, 1]);
    let output = text(&[]);
    assert!(
        stdout(&output).starts_with("   Times are in UTC (limits.toml cannot be used: "),
        "{output:?}"
    );
    assert_eq!(stderr(&output), "", "no day was named");
}

#[tokio::test]
async fn payments_are_chosen_by_merchant_and_sorted() {
    let home = with_history().await;
    let list = |more: &[&str]| listed(home.path(), more);
    assert_eq!(list(&["--refused"]), [0, 1, 9, 2, 3], "in order of time");
    assert_eq!(list(&["--merchant", "api.example.com"]), [0, 3]);
    assert_eq!(list(&["--merchant", "API.example.com", "--refused"]), [0, 9, 3]);
    assert_eq!(
        list(&["--merchant", "*.example.com"]),
        [0, 1, 3],
        "not example.com itself"
    );
    assert_eq!(list(&["--merchant", "example.com", "--refused"]), [2]);
    assert_eq!(list(&["--merchant", "b.example.com"]), [0; 0]);
    assert_eq!(list(&["--sort", "time"]), [0, 1, 2, 3]);
    assert_eq!(list(&["--sort", "amount", "--refused"]), [3, 0, 9, 2, 1], "as numbers");
    assert_eq!(list(&["--sort", "merchant"]), [1, 0, 3, 2]);
    assert_eq!(list(&["--sort", "agent", "--refused"]), [3, 0, 2, 1, 9]);
    assert_eq!(
        list(&["--sort", "amount", "--limit", "2"]),
        [3, 2],
        "the newest, then sorted"
    );
    for (wrong, words) in [
        (["--merchant", "https://example.com"], "without scheme or path"),
        (["--merchant", "a*.example.com"], "first label"),
        (["--sort", "price"], "amount"),
        (["--until", "yesterday"], "2026-11-01T08:00:00Z"),
        (["--since", "2026-02-30"], "write a day"),
    ] {
        let arguments = [&["payments", "list"][..], &wrong].concat();
        fails(home.path(), &arguments, USAGE, &[words]);
    }
}

#[tokio::test]
async fn a_denied_payment_says_who_denied_it_and_why() {
    let origin = shop().await;
    let limits = "timezone = \"Asia/Kolkata\"\n[agents.research]\ntotal = \"5.00\"\napproval_above = \"0.00\"\n";
    let bursar = setup().limits(limits).config(AT_ONCE).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    assert_eq!(agent.get(origin.address, "/10000").await.problem(), "approval-pending");
    let (id, _) = question(&bursar).await;
    done(bursar.path(), &["deny", &id, "--why", "not this month"]);

    let payment = bursar.payments().remove(0);
    assert_eq!(
        (&payment["state"], &payment["reason"]),
        (&json!("released"), &json!("approval-denied"))
    );
    let who = format!("uid:{}", rustix::process::getuid().as_raw());
    let rid = payment["id"].as_str().unwrap();
    let shown = json_lines(&done(bursar.path(), &["payments", "show", rid, "--json"])).remove(0);
    let denial = &shown["denial"];
    assert_eq!((&denial["by"], &denial["why"]), (&json!(who), &json!("not this month")));
    let at: jiff::Timestamp = denial["at"].as_str().unwrap().parse().unwrap();
    let india = at.to_zoned(jiff::tz::TimeZone::get("Asia/Kolkata").unwrap());
    let sheet = stdout(&done(bursar.path(), &["payments", "show", rid]));
    let line = format!(
        "state           released: denied by {who} at {} +05:30: not this month\n",
        india.strftime("%Y-%m-%d %H:%M:%S")
    );
    assert!(sheet.contains(&line), "{line} is missing:\n{sheet}");
}

//! The alerts that the ledger and the clock raise: once each, and recorded in the ledger.

use std::sync::Arc;

use crate::world::{World, charge};
use bursar::alerts::{Alert, AlertDelivery, Alerts, watch};
use bursar_core::policy::budget::{Unit, Window};
use bursar_ledger::{Embedded, Event, Ledger, Outcome, ReserveError};
use jiff::Timestamp;
use serde_json::Value;

const CENT: u128 = 10_000;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

struct Setup {
    world: World,
    alerts: Alerts,
    ledger: Embedded,
    delivery: AlertDelivery,
}

fn setup() -> Setup {
    let world = World::new();
    let (alerts, raised) = Alerts::new(world.clock.clone());
    let ledger = world.open_with(|options| options.alarms = alerts.alarms());
    let delivery = raised.send(Arc::new(ledger.clone()), &[]);
    Setup {
        world,
        alerts,
        ledger,
        delivery,
    }
}

impl Setup {
    /// The alerts in the ledger after everything was sent. Starting a new ledger raises none.
    async fn entries(self) -> Vec<Value> {
        self.delivery.end().await;
        self.ledger.close().await;
        let journal = self.world.journal();
        let entries = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.filter(|entry| entry["ev"] == "alert.raised").collect()
    }

    async fn pay(&self, outcome: Option<Outcome>) {
        let purchase = self.world.purchase(100 * CENT);
        let rid = purchase.hold.rid;
        self.ledger.reserve(purchase).await.unwrap();
        if let Some(outcome) = outcome {
            self.ledger.finish(rid, outcome).await.unwrap();
        }
    }
}

fn unknown() -> Option<Outcome> {
    Some(Outcome::Unknown {
        why: bursar_ledger::Reason::NoReceipt,
        tx: None,
    })
}

#[tokio::test]
async fn a_payment_unknown_for_more_than_an_hour_alerts_once() {
    let setup = setup();
    setup.pay(unknown()).await;
    setup.pay(None).await;
    let look = async |time: &str| {
        setup.world.clock.set(at(time));
        watch::look(&setup.alerts, &setup.ledger.open_items().await.unwrap(), at(time));
    };
    look("2026-11-20T13:00:00Z").await;
    assert_eq!(setup.world.count("alert.raised"), 0, "an hour, and not more");
    look("2026-11-20T13:00:01Z").await;
    look("2026-11-20T13:01:00Z").await;
    let unknown = setup.ledger.open_items().await.unwrap()[0].rid();
    let entries = setup.entries().await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(entries[0]["kind"], "payment-unknown");
    assert_eq!(entries[0]["rid"], unknown.to_string());
    let detail = entries[0]["detail"].as_str().unwrap();
    assert_eq!(
        detail,
        format!(
            "The outcome of payment {unknown} (0.01 USD by research to api.example.com) has been unknown for 60 min. \
             It stays counted. Find out whether it was paid, then close it with `bursar payments resolve {unknown}`."
        )
    );
}

#[tokio::test]
async fn hundreds_of_unknown_payments_are_ten_alerts_and_one_about_the_rest() {
    let setup = setup();
    for _ in 0..60 {
        setup.pay(unknown()).await;
    }
    setup.world.clock.set(at("2026-11-20T14:00:00Z"));
    for _ in 0..3 {
        let open = setup.ledger.open_items().await.unwrap();
        watch::look(&setup.alerts, &open, at("2026-11-20T14:00:00Z"));
    }
    let entries = setup.entries().await;
    assert_eq!(entries.len(), 11, "{entries:?}");
    let last = entries[10]["detail"].as_str().unwrap();
    assert!(
        last.starts_with("The outcome of 50 more payments has been unknown"),
        "{last}"
    );
}

#[tokio::test]
async fn a_clock_that_jumps_by_more_than_an_hour_stops_payments_until_it_is_accepted() {
    let setup = setup();
    setup.world.clock.jump(at("2026-11-20T13:00:01Z"));
    let refused = setup.ledger.reserve(setup.world.purchase(CENT)).await.unwrap_err();
    assert_eq!(refused, ReserveError::ClockJumped { ahead_s: 3601 });
    let accepted = Event::ClockAccepted {
        who: "uid:0".into(),
        why: "the battery was empty".into(),
    };
    setup.ledger.append(accepted).await.unwrap();
    setup.ledger.reserve(setup.world.purchase(CENT)).await.unwrap();
    assert_eq!(setup.ledger.now(), at("2026-11-20T13:00:01Z"));
    let entries = setup.entries().await;
    let kinds: Vec<&Value> = entries.iter().map(|entry| &entry["kind"]).collect();
    // One cent of one cent: this also uses up the budget.
    assert_eq!(kinds, ["clock-jump", "budget-80"]);
}

#[tokio::test]
async fn a_budget_alerts_once_at_four_fifths_whatever_its_counter_does() {
    let setup = setup();
    for _ in 0..3 {
        let purchase = setup
            .world
            .charged(vec![charge("agent:research", Window::Hour, Unit::Payments, 4, 5)]);
        let rid = purchase.hold.rid;
        setup.ledger.reserve(purchase).await.unwrap();
        let proven = Outcome::Expired {
            by: bursar_ledger::Source::Chain,
            why: bursar_ledger::Reason::NeverCashed,
        };
        setup.ledger.finish(rid, proven).await.unwrap();
    }
    let entries = setup.entries().await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    let detail = entries[0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("4 payments of 5 payments spent or reserved"),
        "{detail}"
    );
}

#[tokio::test]
async fn a_full_disk_and_a_dispute_alert_once_each() {
    let world = World::new();
    let (alerts, raised) = Alerts::new(world.clock.clone());
    let ledger = world.open_with(|options| {
        options.alarms = alerts.alarms();
        options.min_free_bytes = u64::MAX;
    });
    let delivery = raised.send(Arc::new(ledger.clone()), &[]);
    let rid = world.purchase(CENT).hold.rid;
    for _ in 0..50 {
        let refused = ledger.reserve(world.purchase(100 * CENT)).await.unwrap_err();
        assert_eq!(refused, ReserveError::LowSpace);
        let why = "the chain shows another amount".to_owned();
        alerts.raise(Alert::Dispute { rid, why });
    }
    delivery.end().await;
    ledger.close().await;
    assert_eq!(world.count("alert.raised"), 2);
    assert!(world.journal().contains("\"kind\":\"disk-low\""));
    assert!(world.journal().contains("\"kind\":\"dispute\""));
}

//! What the ledger lets through, and how it handles every way that a payment can end.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::world::{NOON, World, charge, counted};
use bursar_core::policy::budget::{Charge, Excess, Unit, Window};
use bursar_ledger::{
    Embedded, Event, Ledger, LedgerError, Outcome, PaymentId, Reason, RefusalRecord, Reserve, ReserveError, Resolution,
    Source, State,
};

const CENT: u128 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_callers_get_exactly_what_the_limit_holds() {
    let world = World::new();
    let ledger = world.open();
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let purchase = world.charged(vec![
                charge("account", Window::Month, Unit::MicroUsd, CENT, 1_000 * CENT),
                charge("agent:research", Window::Hour, Unit::Payments, 1, 20),
            ]);
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.reserve(purchase).await })
        })
        .collect();
    let mut granted = 0;
    for caller in callers {
        match caller.await.unwrap() {
            Ok(_) => granted += 1,
            Err(error) => assert_eq!(
                error,
                ReserveError::Denied {
                    charge: 1,
                    settled: 0,
                    open: 20
                }
            ),
        }
    }
    assert_eq!(granted, 20);
    let usage = ledger.usage(&["account", "agent:research"]).await.unwrap();
    let open: Vec<_> = usage.iter().map(|row| (row.window.as_str(), row.open)).collect();
    assert_eq!(open, [("month", 20 * CENT), ("count.hour", 20)]);
    assert_eq!(world.count("pay.reserved"), 20);
}

/// Each payment is far below every threshold; only the sums and the number see them (threat 1.3).
#[tokio::test]
async fn ten_thousand_tiny_payments_stop_at_the_sum_and_at_the_number() {
    const ASKED_AFTER: u128 = 8_000;
    const NUMBER: u128 = 10_000;
    let world = World::new();
    let ledger = world.open();
    let number = || charge("agent:research", Window::Month, Unit::Payments, 1, NUMBER);
    let sum = || Charge {
        excess: Excess::Asked,
        start: "".into(),
        ..charge("agent:research", Window::SinceApproval, Unit::MicroUsd, 1, ASKED_AFTER)
    };
    let spend = async |charges: &dyn Fn() -> Vec<Charge>, tries: usize| {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let purchases: Vec<_> = (0..tries / 32).map(|_| world.charged(charges())).collect();
            let ledger = ledger.clone();
            callers.spawn(async move {
                let mut refused = Vec::new();
                for purchase in purchases {
                    refused.extend(ledger.reserve(purchase).await.err());
                }
                refused
            });
        }
        callers.join_all().await.concat()
    };
    let refused = spend(&|| vec![number(), sum()], 8_320).await;
    assert_eq!(refused.len(), 320);
    for error in refused {
        assert!(
            matches!(error, ReserveError::Denied { charge: 1, open, .. } if open == ASKED_AFTER),
            "{error}"
        );
    }
    // Where no sum is asked about, the number still bounds it.
    let refused = spend(&|| vec![number()], 2_240).await;
    assert_eq!(refused.len(), 240);
    for error in refused {
        assert!(
            matches!(error, ReserveError::Denied { charge: 0, open, .. } if open == NUMBER),
            "{error}"
        );
    }
    assert_eq!(world.count("pay.reserved"), 10_000);
}

#[tokio::test]
async fn a_denied_purchase_books_none_of_its_charges() {
    let world = World::new();
    let ledger = world.open();
    let purchase = world.charged(vec![
        charge("account", Window::Day, Unit::MicroUsd, CENT, CENT),
        charge("agent:research", Window::Day, Unit::MicroUsd, CENT, CENT - 1),
    ]);
    let error = ledger.reserve(purchase).await.unwrap_err();
    assert_eq!(
        error,
        ReserveError::Denied {
            charge: 1,
            settled: 0,
            open: 0
        }
    );
    assert_eq!(ledger.usage(&["account", "agent:research"]).await.unwrap(), []);
}

#[tokio::test]
async fn two_charges_on_one_counter_count_together() {
    let world = World::new();
    let ledger = world.open();
    let twice = || charge("account", Window::Day, Unit::MicroUsd, CENT, 2 * CENT - 1);
    let error = ledger.reserve(world.charged(vec![twice(), twice()])).await.unwrap_err();
    assert_eq!(
        error,
        ReserveError::Denied {
            charge: 1,
            settled: 0,
            open: 0
        }
    );
}

#[tokio::test]
async fn sums_that_do_not_fit_are_denied() {
    let world = World::new();
    let ledger = world.open();
    let all = |amount| {
        world.charged(vec![charge(
            "account",
            Window::Total,
            Unit::MicroUsd,
            amount,
            u128::MAX,
        )])
    };
    ledger.reserve(all(u128::MAX)).await.unwrap();
    assert_eq!(ledger.reserve(all(1)).await.unwrap_err(), ReserveError::Overflow);
}

#[tokio::test]
async fn a_nonce_and_an_id_are_used_once() {
    let world = World::new();
    let ledger = world.open();
    let first = world.purchase(100 * CENT);
    let same_nonce = Reserve {
        arm: first.arm.clone(),
        ..world.purchase(100 * CENT)
    };
    let mut same_id = world.purchase(100 * CENT);
    same_id.hold.rid = first.hold.rid;
    ledger.reserve(first.clone()).await.unwrap();
    assert_eq!(
        ledger.reserve(same_nonce.clone()).await.unwrap_err(),
        ReserveError::NonceTaken
    );
    assert_eq!(ledger.reserve(same_id).await.unwrap_err(), ReserveError::RidTaken);
    ledger.finish(first.hold.rid, settled()).await.unwrap();
    assert_eq!(
        ledger.reserve(same_nonce.clone()).await.unwrap_err(),
        ReserveError::NonceTaken
    );
    ledger.close().await;
    let ledger = world.open();
    assert_eq!(ledger.reserve(same_nonce).await.unwrap_err(), ReserveError::NonceTaken);
}

#[tokio::test]
async fn under_one_idempotency_key_one_payment_is_made_also_after_a_restart_and_a_lost_index() {
    let world = World::new();
    let under = |key| {
        let mut purchase = world.purchase(100 * CENT);
        purchase.hold.idempotency = Some([key; 32]);
        purchase
    };
    let ledger = world.open();
    let (paid, dead) = (under(1), under(2));
    ledger.reserve(paid.clone()).await.unwrap();
    ledger.reserve(dead.clone()).await.unwrap();
    ledger.finish(paid.hold.rid, settled()).await.unwrap();
    let (by, why) = (Source::Us, bursar_ledger::Reason::NeverSigned);
    ledger
        .finish(dead.hold.rid, Outcome::Expired { by, why })
        .await
        .unwrap();
    let taken = ReserveError::KeyTaken(paid.hold.rid);
    assert_eq!(ledger.reserve(under(1)).await.unwrap_err(), taken);
    let again = under(2);
    ledger.reserve(again.clone()).await.unwrap();
    ledger.close().await;

    let ledger = world.open();
    assert_eq!(ledger.reserve(under(1)).await.unwrap_err(), taken);
    let mut held: Vec<PaymentId> = ledger.keys().await.unwrap().iter().map(|hold| hold.rid).collect();
    held.sort();
    assert_eq!(held, [paid.hold.rid, again.hold.rid]);
    ledger.close().await;
    std::fs::remove_dir_all(world.path().join("index")).unwrap();
    let ledger = world.open();
    assert_eq!(ledger.reserve(under(1)).await.unwrap_err(), taken);
    // After 24 hours nothing holds it, even if nothing was recorded in the meantime.
    let day = jiff::SignedDuration::from_secs(24 * 60 * 60);
    let noon: jiff::Timestamp = crate::world::NOON.parse().unwrap();
    world.clock.set(noon + day);
    assert_eq!(ledger.reserve(under(1)).await.unwrap_err(), taken);
    world.clock.set(noon + day + jiff::SignedDuration::from_secs(1));
    ledger.reserve(under(1)).await.unwrap();
}

#[tokio::test]
async fn a_reservation_carries_what_is_on_record() {
    let world = World::new();
    let ledger = world.open();
    let purchase = world.purchase(CENT);
    let reservation = ledger.reserve(purchase.clone()).await.unwrap();
    assert_eq!(reservation.rid(), purchase.hold.rid);
    assert_eq!(reservation.arm(), &purchase.arm);
    assert_eq!(reservation.terms().amount, purchase.hold.terms.amount);
    let payment = ledger.get(purchase.hold.rid).await.unwrap().unwrap();
    assert_eq!(payment.state, State::Armed);
    assert_eq!(payment.arm.unwrap().nonce, purchase.arm.nonce.known());
}

#[tokio::test]
async fn only_the_lawful_ends_are_recorded() {
    let world = World::new();
    let ledger = world.open();
    let rid = reserve(&world, &ledger).await;
    let released = Outcome::Released {
        why: bursar_ledger::Reason::ApprovalFailed,
    };
    let unlawful = |from, to| LedgerError::Unlawful { rid, from, to };
    let error = ledger.finish(rid, released.clone()).await.unwrap_err();
    assert_eq!(error, unlawful(State::Armed, State::Released));
    let unknown = || Outcome::Unknown {
        why: Reason::NoReceipt,
        tx: None,
    };
    ledger.finish(rid, unknown()).await.unwrap();
    ledger.finish(rid, unknown()).await.unwrap();
    assert_eq!(world.count("pay.unknown"), 1);
    let error = ledger.finish(rid, released).await.unwrap_err();
    assert_eq!(error, unlawful(State::Unknown, State::Released));
    assert_eq!(counted(&ledger).await, CENT);
    ledger
        .finish(
            rid,
            Outcome::Expired {
                by: Source::Chain,
                why: bursar_ledger::Reason::NeverCashed,
            },
        )
        .await
        .unwrap();
    assert_eq!(counted(&ledger).await, 0);
    assert_eq!(
        ledger.finish(rid, settled()).await.unwrap_err(),
        LedgerError::NotOpen(rid)
    );
    let payment = ledger.get(rid).await.unwrap().unwrap();
    assert_eq!((payment.state, payment.by), (State::Expired, Some(Source::Chain)));
}

#[tokio::test]
async fn a_finished_payment_is_found_and_no_longer_open() {
    let world = World::new();
    let ledger = world.open();
    let rid = reserve(&world, &ledger).await;
    ledger.finish(rid, settled()).await.unwrap();
    let payment = ledger.get(rid).await.unwrap().unwrap();
    assert_eq!((payment.state, payment.tx.as_deref()), (State::Settled, Some("0xab")));
    let nobody = world.purchase(CENT).hold.rid;
    assert_eq!(ledger.get(nobody).await.unwrap(), None);
    assert_eq!(ledger.open_items().await.unwrap(), []);
}

#[tokio::test]
async fn an_operator_resolves_with_a_reason_and_a_trace() {
    let world = World::new();
    let ledger = world.open();
    let (paid, dead) = (reserve(&world, &ledger).await, reserve(&world, &ledger).await);
    let resolve = |rid, resolution| ledger.resolve(rid, resolution, "uid:0".into(), "seen on the explorer".into());
    // While it is under way, its outcome cannot be known.
    let early = resolve(paid, Resolution::Expired).await.unwrap_err();
    assert_eq!(early, LedgerError::UnderWay(paid));
    for rid in [paid, dead] {
        let unknown = Outcome::Unknown {
            why: Reason::NoReceipt,
            tx: None,
        };
        ledger.finish(rid, unknown).await.unwrap();
    }
    resolve(
        paid,
        Resolution::Settled {
            tx: Some("0xcd".into()),
        },
    )
    .await
    .unwrap();
    resolve(dead, Resolution::Expired).await.unwrap();
    assert_eq!(
        resolve(dead, Resolution::Expired).await.unwrap_err(),
        LedgerError::NotOpen(dead)
    );
    assert_eq!(counted(&ledger).await, CENT);
    let payment = ledger.get(paid).await.unwrap().unwrap();
    assert_eq!(payment.by, Some(Source::Operator));
    assert_eq!(payment.reason.as_deref(), Some("seen on the explorer"));
    let events = world.events();
    assert_eq!(
        events[5..],
        ["admin.action", "pay.settled", "admin.action", "pay.expired"]
    );
}

#[tokio::test]
async fn a_full_disk_stops_new_payments_but_not_the_end_of_open_ones() {
    let world = World::new();
    let ledger = world.open();
    let rid = reserve(&world, &ledger).await;
    ledger.close().await;
    let ledger = world.open_with(|options| options.min_free_bytes = u64::MAX);
    assert_eq!(
        ledger.reserve(world.purchase(100 * CENT)).await.unwrap_err(),
        ReserveError::LowSpace
    );
    ledger.finish(rid, settled()).await.unwrap();
}

#[tokio::test]
async fn an_entry_that_is_too_long_is_refused_and_the_ledger_goes_on() {
    let world = World::new();
    let ledger = world.open();
    let mut long = world.purchase(100 * CENT);
    long.hold.host = "h".repeat(17_000);
    assert!(matches!(ledger.reserve(long).await, Err(ReserveError::Failed(why)) if why.contains("16384")));
    assert_eq!(counted(&ledger).await, 0);
    reserve(&world, &ledger).await;
}

/// The caller goes away while its reservation is queued, or on its way back: it was never signed, so it does not count.
#[tokio::test]
async fn a_reservation_that_nobody_received_expires() {
    let world = World::new();
    let ledger = world.open();
    for rounds in 0..50 {
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut pending = pin!(ledger.reserve(world.purchase(1_000 * CENT)));
            if let Poll::Ready(received) = pending.as_mut().poll(&mut context) {
                // The writer was faster than this thread, so this one was received.
                let never = Outcome::Expired {
                    by: Source::Us,
                    why: Reason::NeverSigned,
                };
                ledger.finish(received.unwrap().rid(), never).await.unwrap();
            }
            if rounds % 2 == 0 {
                // The writer has answered: the reservation is in the channel when the future is dropped.
                counted(&ledger).await;
            }
        }
    }
    let events = || (world.count("pay.reserved"), world.count("pay.expired"));
    // Each dropped reservation wakes the writer; each query gives it another turn.
    for _ in 0..1_000 {
        if counted(&ledger).await == 0 {
            break;
        }
    }
    assert_eq!(ledger.open_items().await.unwrap(), Vec::new());
    let (reserved, expired) = events();
    assert!(reserved >= 25);
    assert_eq!(reserved, expired);
    assert!(world.journal().contains("never-signed"));
}

#[tokio::test]
async fn a_caller_that_gave_up_may_still_finish_its_payment() {
    let world = World::new();
    let ledger = world.open();
    for _ in 0..50 {
        let purchase = world.purchase(1_000 * CENT);
        let rid = purchase.hold.rid;
        {
            let mut context = Context::from_waker(Waker::noop());
            let _ = pin!(ledger.reserve(purchase)).as_mut().poll(&mut context);
        }
        match ledger
            .finish(
                rid,
                Outcome::Expired {
                    by: Source::Us,
                    why: Reason::NeverSigned,
                },
            )
            .await
        {
            Ok(()) | Err(LedgerError::NotOpen(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(counted(&ledger).await, 0);
    reserve(&world, &ledger).await;
}

#[tokio::test]
async fn equal_refusals_are_one_entry_with_a_count() {
    let world = World::new();
    let ledger = world.open();
    let denial = |host: &str| RefusalRecord {
        agent: "research".into(),
        group: None,
        host: host.into(),
        reason: "over-limit".into(),
        rule: "agents.research.day".into(),
        asked: Some(bursar_core::money::MicroUsd::new(CENT)),
    };
    ledger.refused(denial("a.example"));
    counted(&ledger).await;
    for _ in 0..5 {
        ledger.refused(denial("a.example"));
    }
    ledger.refused(denial("b.example"));
    counted(&ledger).await;
    assert_eq!(world.count("pay.refused"), 2);
    world.clock.set("2026-11-20T12:00:10Z".parse().unwrap());
    counted(&ledger).await;
    assert_eq!(world.count("pay.refused"), 3);
    ledger.refused(denial("a.example"));
    ledger.close().await;
    let recorded = bursar_ledger::read_payments(world.path()).unwrap().read;
    let refusals: Vec<_> = recorded
        .refusals
        .iter()
        .map(|refused| (refused.merchant.as_str(), refused.count))
        .collect();
    assert_eq!(
        refusals,
        [("a.example", 1), ("b.example", 1), ("a.example", 5), ("a.example", 1)]
    );
    assert_eq!(recorded.refusals[0].at, NOON.parse().unwrap());
    assert_eq!(recorded.refusals[0].usd.as_deref(), Some("0.01"));
}

/// A wildcard domain has as many hosts as an agent cares to ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_refused_hosts_are_few_entries_and_each_is_counted() {
    const HOSTS: u64 = 100_000;
    let world = World::new();
    let ledger = world.open();
    let before = world.journal().len();
    for number in 0..HOSTS {
        ledger.refused(RefusalRecord {
            agent: "research".into(),
            group: Some("eng".into()),
            host: format!("{number}.{}.example.com", "long-label".repeat(6)),
            reason: "over-limit".into(),
            rule: "agents.research.day".into(),
            asked: Some(bursar_core::money::MicroUsd::new(CENT)),
        });
        if number % 1_000 == 0 {
            // Ten minutes in all.
            let second = i64::try_from(number).unwrap() * 600 / i64::try_from(HOSTS).unwrap();
            world
                .clock
                .set(NOON.parse::<jiff::Timestamp>().unwrap() + jiff::SignedDuration::from_secs(second));
            counted(&ledger).await;
        }
    }
    ledger.close().await;
    let entries = world.count("pay.refused");
    assert!((300..=400).contains(&entries), "{entries} entries");
    let bytes = world.journal().len() - before;
    assert!(bytes < 400 * 600, "{bytes} bytes");
    let recorded = bursar_ledger::read_payments(world.path()).unwrap().read.refusals;
    assert_eq!(recorded.iter().map(|refused| refused.count).sum::<u64>(), HOSTS);
    let summed: Vec<_> = recorded
        .iter()
        .filter(|refused| refused.merchant == bursar_ledger::ANY_HOST)
        .collect();
    assert!(
        summed
            .iter()
            .all(|refused| refused.usd.is_none() && refused.rule == "agents.research.day")
    );
    assert!(summed.len() > 50);
}

#[tokio::test]
async fn other_events_are_on_record_too() {
    let world = World::new();
    let ledger = world.open();
    let (sha256, who) = ([3; 32], "uid:0".to_owned());
    ledger
        .append(Event::PolicyLoaded {
            generation: 1,
            sha256,
            who: who.clone(),
        })
        .await
        .unwrap();
    ledger
        .append(Event::PolicyRejected {
            sha256,
            reason: "line 3".into(),
            who: who.clone(),
        })
        .await
        .unwrap();
    ledger
        .append(Event::AdminAction {
            action: "pause".into(),
            who,
            why: "audit".into(),
        })
        .await
        .unwrap();
    ledger.close().await;
    assert_eq!(
        world.events(),
        [
            "log.open",
            "policy.load",
            "policy.rejected",
            "admin.action",
            "log.close"
        ]
    );
    assert!(
        ledger
            .append(Event::AdminAction {
                action: "x".into(),
                who: "y".into(),
                why: "z".into()
            })
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_second_ledger_names_the_directory_that_is_in_use() {
    let world = World::new();
    let ledger = world.open();
    let error = Embedded::open(world.path(), world.options()).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("another bursar uses "), "{error}");
    ledger.close().await;
    world.open().close().await;
}

fn settled() -> Outcome {
    Outcome::Settled {
        by: Source::Merchant,
        tx: Some("0xab".into()),
    }
}

async fn reserve(world: &World, ledger: &dyn Ledger) -> bursar_ledger::PaymentId {
    ledger.reserve(world.purchase(1_000 * CENT)).await.unwrap().rid()
}

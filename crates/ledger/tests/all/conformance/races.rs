use std::sync::Arc;

use bursar_core::policy::budget::{Unit, Window};
use bursar_ledger::{LedgerError, Outcome, ReserveError, Source};
use tokio::task::JoinSet;

use crate::conformance::engine::Engine;
use crate::conformance::limits::settled;
use crate::world::charge;

const CENT: u128 = 10_000;

pub(super) async fn many_at_once_never_pass_a_limit(engine: Engine) {
    const LIMIT: usize = 20;
    let mut buyers = JoinSet::new();
    for _ in 0..64 {
        let ledger = engine.ledger.clone();
        let purchase = engine.world.charged(vec![
            charge("account", Window::Day, Unit::MicroUsd, CENT, 1_000 * CENT),
            charge("agent:research", Window::Day, Unit::Payments, 1, LIMIT as u128),
        ]);
        buyers.spawn(async move {
            let reservation = ledger.reserve(purchase).await?;
            ledger.finish(reservation.rid(), settled()).await.unwrap();
            Ok::<_, ReserveError>(())
        });
    }
    let results = buyers.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), LIMIT);
    assert!(
        results
            .iter()
            .flat_map(|result| result.as_ref().err())
            .all(|error| matches!(error, ReserveError::Denied { charge: 1, .. }))
    );
    assert_eq!(engine.holds("account", "day").await, (LIMIT as u128 * CENT, 0));
    assert_eq!(engine.holds("agent:research", "count.day").await, (LIMIT as u128, 0));
}

/// The caller goes away while its reservation is queued, or on its way back: it was never signed.
pub(super) async fn a_reservation_that_nobody_waits_for_does_not_count(engine: Engine) {
    for round in 0..40 {
        let (purchase, hold) = (
            engine.world.purchase(1_000 * CENT),
            engine.world.purchase(1_000 * CENT).hold,
        );
        // Two tasks, not one that joins both: once `reserve` has returned, the reservation is its caller's to finish.
        let ledger = engine.ledger.clone();
        let reserving = tokio::spawn(async move { ledger.reserve(purchase).await });
        let ledger = engine.ledger.clone();
        let holding = tokio::spawn(async move { ledger.hold(hold).await });
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        reserving.abort();
        holding.abort();
        if let Ok(reserved) = reserving.await {
            engine.ledger.finish(reserved.unwrap().rid(), settled()).await.unwrap();
        }
        if let Ok(held) = holding.await {
            held.unwrap();
            let open = engine.ledger.open_items().await.unwrap();
            let why = bursar_ledger::Reason::ApprovalDenied;
            for payment in open {
                // The ledger itself may be giving one of an earlier round back at this moment.
                let _ = engine
                    .ledger
                    .finish(payment.reserved.rid, Outcome::Released { why })
                    .await;
            }
        }
    }
    // Everything that was dropped is given back by the time the next two operations are answered.
    let last = engine
        .ledger
        .reserve(engine.world.purchase(1_000 * CENT))
        .await
        .unwrap()
        .rid();
    engine.ledger.finish(last, settled()).await.unwrap();
    let (_, open) = engine.day().await;
    assert_eq!(open, 0);
    assert!(engine.ledger.open_items().await.unwrap().is_empty());
}

pub(super) async fn one_payment_ends_once(engine: Engine) {
    let engine = Arc::new(engine);
    let rid = engine.ledger.reserve(engine.world.purchase(CENT)).await.unwrap().rid();
    let mut ends = JoinSet::new();
    for number in 0..16 {
        let ledger = engine.ledger.clone();
        let (by, why) = (Source::Chain, bursar_ledger::Reason::NeverCashed);
        let outcome = if number % 2 == 0 {
            settled()
        } else {
            Outcome::Expired { by, why }
        };
        ends.spawn(async move { ledger.finish(rid, outcome).await });
    }
    let results = ends.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(
        results
            .iter()
            .flat_map(|result| result.as_ref().err())
            .all(|error| *error == LedgerError::NotOpen(rid))
    );
    let (settled, open) = engine.day().await;
    assert!(settled <= CENT && open == 0);
}

/// Nothing stays in a queue that is no longer read.
pub(super) async fn every_call_during_close_is_answered(engine: Engine) {
    const AGAIN: usize = 20;
    let mut engine = engine;
    for _ in 0..AGAIN {
        let mut asking = JoinSet::new();
        for _ in 0..8 {
            let ledger = engine.ledger.clone();
            asking.spawn(async move { while ledger.open_items().await.is_ok() {} });
        }
        engine.ledger.close().await;
        let answered = tokio::time::timeout(std::time::Duration::from_secs(60), asking.join_all());
        assert!(answered.await.is_ok(), "a caller waits forever");
        let (reopened, has_stopped) = engine.reopened().await;
        if !has_stopped {
            return;
        }
        engine = reopened;
    }
}

use bursar_core::policy::budget::{Charge, Rolling, Unit, Window};
use bursar_ledger::{Alarm, Event, ReserveError};
use jiff::{SignedDuration, Timestamp};

use crate::conformance::engine::Engine;
use crate::world::{NOON, charge};

const CENT: u128 = 10_000;

fn noon_and(minutes: i64) -> Timestamp {
    let noon: Timestamp = NOON.parse().unwrap();
    noon.checked_add(SignedDuration::from_mins(minutes)).unwrap()
}

/// Charged to a rolling hour at that time, as limits.toml would charge it.
fn rolling(now: Timestamp) -> Charge {
    let hour = Rolling::of_seconds(3_600).unwrap();
    let mut charge = charge("agent:research", Window::Rolling(hour), Unit::MicroUsd, CENT, 2 * CENT);
    charge.start = format!("{:010}", now.as_second() - now.as_second() % 60).into();
    charge
}

pub(super) async fn rolling_windows_roll(engine: Engine) {
    let at = |minutes| {
        let now = noon_and(minutes);
        engine.world.clock.set(now);
        engine.ledger.reserve(engine.world.charged(vec![rolling(now)]))
    };
    at(0).await.unwrap();
    at(30).await.unwrap();
    for minutes in [31, 59, 60] {
        let denied = at(minutes).await.unwrap_err();
        let (charge, settled, open) = (0, 0, 2 * CENT);
        assert_eq!(
            denied,
            ReserveError::Denied { charge, settled, open },
            "after {minutes} minutes"
        );
    }
    at(61).await.unwrap();
    at(90).await.unwrap_err();
    at(91).await.unwrap();
    assert_eq!(engine.holds("agent:research", "rolling.3600").await, (0, 4 * CENT));
}

pub(super) async fn a_clock_that_goes_back_reopens_nothing(engine: Engine) {
    let buy = |now| engine.ledger.reserve(engine.world.charged(vec![rolling(now)]));
    buy(noon_and(0)).await.unwrap();
    engine.world.clock.jump(noon_and(-120));
    assert_eq!(
        engine.ledger.now(),
        noon_and(0),
        "windows follow the latest time in the ledger"
    );
    buy(noon_and(-120)).await.unwrap();
    buy(noon_and(-120)).await.unwrap_err();
}

pub(super) async fn a_jump_ahead_stops_reservations(engine: Engine) {
    let ledger = &engine.ledger;
    let held = engine.world.purchase(100 * CENT);
    ledger.hold(held.hold.clone()).await.unwrap();
    engine.world.clock.jump(noon_and(90));
    let jumped = ReserveError::ClockJumped { ahead_s: 5_400 };
    assert_eq!(ledger.reserve(engine.world.purchase(CENT)).await.unwrap_err(), jumped);
    assert_eq!(ledger.hold(engine.world.purchase(CENT).hold).await.unwrap_err(), jumped);
    assert_eq!(ledger.now(), noon_and(0), "no window opens early");
    let (who, why) = ("uid:0".to_owned(), "the battery was empty".to_owned());
    ledger.append(Event::ClockAccepted { who, why }).await.unwrap();
    assert_eq!(ledger.now(), noon_and(90));
    ledger.reserve(engine.world.purchase(100 * CENT)).await.unwrap();
    let alarms = engine.raised_alarms();
    assert!(alarms.len() <= 1, "alarmed once: {alarms:?}");
    assert!(
        alarms
            .iter()
            .all(|alarm| *alarm == Alarm::ClockJumped { ahead_s: 5_400 })
    );
}

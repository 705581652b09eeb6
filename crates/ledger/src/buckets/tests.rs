//! The sums of windows against a slow model that looks at every payment.

use std::sync::Arc;

use alloy_primitives::{Address, B256};
use jiff::civil::date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use proptest::prelude::*;

use super::*;
use crate::book::Book;
use crate::book::snapshot::BookSnapshot;
use crate::entry::{Arm, Armed, Body, Confirmed, Entry, Expired, Released, Reserved, Settled, WindowCharge};
use crate::model::Source;
use crate::text::Digest;
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::budget::{Charge, Excess, Rolling, Window};

/// 2026-11-20, a Friday, 12:00 UTC.
fn noon() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn rid(n: u64) -> PaymentId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    PaymentId::new(noon(), random)
}

fn arm(n: u64) -> Arm {
    Arm {
        from: Address::ZERO.into(),
        issuer: None,
        nonce: Some(B256::left_padding_from(&n.to_be_bytes())),
        signer: None,
        valid_after: Decimal(0),
        valid_before: Decimal(1_795_161_900),
    }
}

/// A payment of so many micro-dollars, in a hundred atoms each, with no charges at all: no limit existed.
fn reserved(n: u64, agent: &str, group: Option<&str>, usd: u128, is_held: bool) -> Body {
    Body::Reserved(Arc::new(Reserved {
        agent: agent.to_owned(),
        amount: Decimal(usd * 100),
        arm: (!is_held).then(|| arm(n)),
        asset: "eip155:1/erc20:0x".into(),
        decimals: 8,
        facilitator: Some(Address::ZERO),
        fee: None,
        fp: Digest::ZERO,
        group: group.map(str::to_owned),
        host: "h".into(),
        idem: None,
        network: "eip155:1".into(),
        offer_sha256: Digest::ZERO,
        others: Vec::new(),
        payee: Address::ZERO.into(),
        policy_gen: 1,
        rail: "x402".into(),
        rid: rid(n),
        scheme: "upto".into(),
        sd: vec![],
        symbol: "USDC".into(),
        usd_micros: Decimal(usd),
        windows: Vec::new(),
    }))
}

fn settled(n: u64, by: Source, taken: Option<u128>) -> Body {
    Body::Settled(Settled {
        back: Vec::new(),
        by,
        rid: rid(n),
        taken: taken.map(Decimal),
        tx: None,
        why: None,
    })
}

fn confirmed(n: u64, taken: u128) -> Body {
    Body::Confirmed(Confirmed {
        back: Vec::new(),
        block: None,
        by: Source::Chain,
        rid: rid(n),
        taken: Some(Decimal(taken)),
        tx: None,
    })
}

fn apply(book: &mut Book, at: Timestamp, body: Body) {
    let entry = Entry {
        seq: 0,
        ts: Moment::of(at),
        body,
    };
    book.apply(&entry).unwrap();
}

/// A cap that was written only now.
fn line(scope: &str, window: Window, start: &str, ends: Option<Timestamp>) -> Charge {
    Charge {
        scope: scope.into(),
        was: None,
        window,
        unit: Unit::MicroUsd,
        start: start.into(),
        ends,
        amount: 1,
        cap: u128::MAX,
        rule: "r".into(),
        excess: Excess::Denied,
    }
}

/// Settled and open.
fn used(book: &Book, charge: &Charge) -> (u128, u128) {
    let counted = book.spending().counted(charge, &[]).unwrap();
    (counted.settled, counted.open)
}

/// The local day that contains `at`.
fn day(scope: &str, zone: &str, at: Timestamp) -> Charge {
    let local = at.to_zoned(TimeZone::get(zone).unwrap());
    let start = local.start_of_day().unwrap();
    let ends = start.date().tomorrow().unwrap().to_zoned(start.time_zone().clone());
    line(scope, Window::Day, &start.to_string(), Some(ends.unwrap().timestamp()))
}

fn month(scope: &str) -> Charge {
    let ends = "2026-12-01T00:00:00Z".parse().ok();
    line(scope, Window::Month, "2026-11-01T00:00:00+00:00[UTC]", ends)
}

#[test]
fn a_line_that_is_written_after_spending_meets_what_was_spent() {
    let mut book = Book::default();
    apply(&mut book, noon(), reserved(1, "a", Some("g"), 50_000, false));
    for scope in ["account", "group:g", "agent:a"] {
        assert_eq!(used(&book, &month(scope)), (0, 50_000), "{scope}");
    }
    apply(&mut book, noon(), settled(1, Source::Chain, None));
    assert_eq!(used(&book, &month("agent:a")), (50_000, 0));
    let total = line("agent:a", Window::Total, "0", None);
    assert_eq!(used(&book, &total), (50_000, 0));
    let count = Charge {
        unit: Unit::Payments,
        ..month("group:g")
    };
    assert_eq!(used(&book, &count), (1, 0));
    let over = Charge {
        cap: 50_000,
        ..month("agent:a")
    };
    let denied = crate::model::ReserveError::Denied {
        charge: 0,
        settled: 50_000,
        open: 0,
    };
    assert_eq!(book.spending().fit(&[over], &[]), Err(denied));
}

#[test]
fn an_agent_that_joins_a_group_meets_its_past_and_brings_none_along() {
    let mut book = Book::default();
    apply(&mut book, noon(), reserved(1, "old", Some("g"), 70, false));
    apply(&mut book, noon(), reserved(2, "new", None, 1_000, false));
    // `new` has joined; its next payment would be added to this.
    assert_eq!(used(&book, &month("group:g")), (0, 70));
    apply(&mut book, noon(), reserved(3, "new", Some("g"), 5, false));
    assert_eq!(used(&book, &month("group:g")), (0, 75));
    assert_eq!(used(&book, &month("agent:new")), (0, 1_005));
}

#[test]
fn a_renamed_group_takes_its_past_along_if_the_file_says_so() {
    let mut book = Book::default();
    apply(&mut book, noon(), reserved(1, "a", Some("old"), 70, false));
    apply(&mut book, noon(), reserved(2, "a", Some("new"), 5, false));
    assert_eq!(used(&book, &month("group:new")), (0, 5));
    let renamed = Charge {
        was: Some("group:old".into()),
        ..month("group:new")
    };
    assert_eq!(used(&book, &renamed), (0, 75));
}

#[test]
fn a_changed_zone_meets_what_was_spent_in_the_new_day() {
    let mut book = Book::default();
    // 23:45 to 00:15 in Berlin.
    for (n, minute) in [(1, 45), (2, 60), (3, 74)] {
        let at = "2026-11-20T22:00:00Z".parse::<Timestamp>().unwrap();
        apply(
            &mut book,
            at + SignedDuration::from_mins(minute),
            reserved(n, "a", None, 1 << n, false),
        );
    }
    let at = "2026-11-20T23:30:00Z".parse().unwrap();
    for (zone, sum) in [
        ("Europe/Berlin", 4 + 8),
        ("UTC", 2 + 4 + 8),
        // Midnight was at 18:30 and 18:15 UTC.
        ("Asia/Kolkata", 2 + 4 + 8),
        ("Asia/Kathmandu", 2 + 4 + 8),
        ("America/New_York", 2 + 4 + 8),
    ] {
        assert_eq!(used(&book, &day("agent:a", zone, at)), (0, sum), "{zone}");
    }
}

#[test]
fn midnights_at_half_and_quarter_past_split_no_bucket() {
    for (zone, midnight) in [("Asia/Kolkata", "18:30:00"), ("Asia/Kathmandu", "18:15:00")] {
        let mut book = Book::default();
        let midnight: Timestamp = format!("2026-11-20T{midnight}Z").parse().unwrap();
        let second = SignedDuration::from_secs(1);
        apply(&mut book, midnight - second, reserved(1, "a", None, 10, false));
        apply(&mut book, midnight, reserved(2, "a", None, 7, false));
        assert_eq!(used(&book, &day("agent:a", zone, midnight)), (0, 7), "{zone}");
        assert_eq!(used(&book, &day("agent:a", zone, midnight - second)), (0, 10), "{zone}");
    }
}

#[test]
fn days_of_23_and_25_hours_hold_all_their_quarters() {
    for (year, month, day_of_month, hours) in [(2026, 3, 29, 23), (2026, 10, 25, 25)] {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let start = date(year, month, day_of_month).to_zoned(zone).unwrap();
        let mut book = Book::default();
        for quarter in -4..=hours * 4 + 4 {
            let at = start.timestamp() + SignedDuration::from_mins(15 * quarter);
            let n = u64::try_from(quarter + 5).unwrap();
            apply(&mut book, at, reserved(n, "a", None, 1, false));
        }
        let noon = start.checked_add(12.hours()).unwrap().timestamp();
        let expected = u128::try_from(hours * 4).unwrap();
        assert_eq!(used(&book, &day("agent:a", "Europe/Berlin", noon)), (0, expected));
    }
}

#[test]
fn what_the_chain_gives_back_leaves_windows_that_no_charge_names() {
    let mut book = Book::default();
    apply(&mut book, noon(), reserved(1, "a", Some("g"), 100, false));
    apply(&mut book, noon(), settled(1, Source::Merchant, None));
    // The book is restored in between, and days pass.
    let snapshot = serde_json::to_vec(&BookSnapshot::of(&book)).unwrap();
    let mut book = serde_json::from_slice::<BookSnapshot>(&snapshot).unwrap().into_book();
    let later = noon() + SignedDuration::from_hours(48);
    apply(&mut book, later, reserved(2, "a", Some("g"), 3, false));
    apply(&mut book, later, confirmed(1, 3_999));
    for scope in ["account", "group:g", "agent:a"] {
        assert_eq!(used(&book, &month(scope)), (40, 3), "{scope}");
        assert_eq!(used(&book, &day(scope, "UTC", noon())), (40, 0), "{scope}");
        assert_eq!(used(&book, &line(scope, Window::Total, "0", None)), (40, 3), "{scope}");
    }
}

#[test]
fn held_money_counts_where_its_charges_say_and_is_spent_when_it_is_armed() {
    let mut book = Book::default();
    let Body::Reserved(reserved) = reserved(1, "a", None, 30, true) else {
        unreachable!()
    };
    let today = day("agent:a", "UTC", noon());
    let charged = WindowCharge(
        "agent:a".into(),
        "day".into(),
        today.start.to_string(),
        Decimal(30),
        Decimal(100),
    );
    let reserved = Reserved {
        windows: vec![charged],
        ..(*reserved).clone()
    };
    apply(&mut book, noon(), Body::Reserved(Arc::new(reserved)));
    assert_eq!((used(&book, &today), used(&book, &month("agent:a"))), ((0, 30), (0, 0)));
    // Its own hold does not stand in its way.
    let own = book.open_payments().next().unwrap().windows().to_vec();
    assert_eq!(book.spending().counted(&today, &own).unwrap(), Counter::default());
    let tomorrow = noon() + SignedDuration::from_hours(24);
    let armed = Armed {
        approval: None,
        arm: arm(1),
        rid: rid(1),
        windows: None,
    };
    apply(&mut book, tomorrow, Body::Armed(armed));
    assert_eq!((used(&book, &today), used(&book, &month("agent:a"))), ((0, 0), (0, 30)));
    assert_eq!(used(&book, &day("agent:a", "UTC", tomorrow)), (0, 30));
}

#[test]
fn a_book_of_before_keeps_what_its_counters_hold() {
    let mut book = Book::default();
    let old = day("agent:a", "UTC", noon());
    let Body::Reserved(payment) = reserved(1, "a", None, 30, false) else {
        unreachable!()
    };
    let charges = [&old, &line("agent:a", Window::Total, "0", None)].map(|charge| {
        let window = charge.window_name().into_owned();
        WindowCharge(
            "agent:a".into(),
            window,
            charge.start.to_string(),
            Decimal(30),
            Decimal(100),
        )
    });
    let payment = Reserved {
        windows: charges.to_vec(),
        ..(*payment).clone()
    };
    apply(&mut book, noon(), Body::Reserved(Arc::new(payment)));
    apply(&mut book, noon(), settled(1, Source::Chain, None));
    apply(&mut book, noon(), reserved(2, "a", None, 4, false));
    let mut text: serde_json::Value = serde_json::to_value(BookSnapshot::of(&book)).unwrap();
    text.as_object_mut().unwrap().remove("buckets").unwrap();
    let mut book = serde_json::from_value::<BookSnapshot>(text).unwrap().into_book();
    let total = line("agent:a", Window::Total, "0", None);
    assert_eq!((used(&book, &old), used(&book, &total)), ((30, 0), (30, 0)));
    // What was open then is in the buckets, and can end.
    apply(&mut book, noon(), settled(2, Source::Chain, None));
    let tomorrow = noon() + SignedDuration::from_hours(24);
    apply(&mut book, tomorrow, reserved(3, "a", None, 5, false));
    assert_eq!(used(&book, &day("agent:a", "UTC", tomorrow)), (0, 5));
}

#[test]
fn the_oldest_days_are_dropped_unless_money_in_them_is_open() {
    let mut book = Book::default();
    let on = |day: i64| noon() + SignedDuration::from_hours(24 * day);
    for day in 0..70 {
        let n = u64::try_from(day).unwrap();
        apply(&mut book, on(day), reserved(n, "a", None, 1, false));
        if day != 3 {
            apply(&mut book, on(day), settled(n, Source::Chain, None));
        }
    }
    let buckets = book.buckets().unwrap();
    let first = &buckets.scopes["agent:a"].days;
    assert_eq!(
        (first.len(), first.first_key_value().unwrap().0),
        (67, &Quarter::of(on(3)).day())
    );
    assert!(buckets.is_closed("agent:a", on(2)) && !buckets.is_closed("agent:a", on(4)));
    assert_eq!(used(&book, &line("agent:a", Window::Total, "0", None)), (69, 1));
    apply(&mut book, on(70), settled(3, Source::Chain, None));
    let first = &book.buckets().unwrap().scopes["agent:a"].days;
    assert_eq!(first.len(), DAYS_KEPT);
}

#[test]
fn nothing_is_let_through_that_does_not_fit_128_bits() {
    let mut book = Book::default();
    let huge = u128::MAX / 100;
    let usd = |n, usd| {
        let Body::Reserved(payment) = reserved(n, "a", None, 1, false) else {
            unreachable!()
        };
        Body::Reserved(Arc::new(Reserved {
            usd_micros: Decimal(usd),
            ..(*payment).clone()
        }))
    };
    apply(&mut book, noon(), usd(1, u128::MAX - huge));
    let before = book.clone();
    let entry = Entry {
        seq: 0,
        ts: Moment::of(noon()),
        body: usd(2, huge + 1),
    };
    assert!(book.apply(&entry).is_err());
    assert_eq!(book, before);
    apply(&mut book, noon(), usd(3, huge));
}

/// One payment of the slow model.
#[derive(Clone, Debug)]
struct Paid {
    agent: &'static str,
    group: Option<&'static str>,
    at: Timestamp,
    usd: u128,
    state: State,
    is_unconfirmed: bool,
}

#[derive(Clone, Debug)]
enum Move {
    Pay {
        agent: usize,
        group: usize,
        usd: u128,
    },
    Hold {
        agent: usize,
        usd: u128,
    },
    Arm(usize),
    Settle {
        which: usize,
        part: Option<u8>,
        by_merchant: bool,
    },
    End(usize),
    Confirm {
        which: usize,
        part: u8,
    },
    Restart,
}

fn moves() -> impl Strategy<Value = Vec<(u32, Move)>> {
    let one = prop_oneof![
        4 => (0..3usize, 0..3usize, 0u128..1_000).prop_map(|(agent, group, usd)| Move::Pay { agent, group, usd }),
        1 => (0..3usize, 0u128..1_000).prop_map(|(agent, usd)| Move::Hold { agent, usd }),
        1 => any::<usize>().prop_map(Move::Arm),
        3 => (any::<usize>(), prop::option::of(0u8..=100), any::<bool>())
            .prop_map(|(which, part, by_merchant)| Move::Settle { which, part, by_merchant }),
        1 => any::<usize>().prop_map(Move::End),
        1 => (any::<usize>(), 0u8..=100).prop_map(|(which, part)| Move::Confirm { which, part }),
        1 => Just(Move::Restart),
    ];
    // Up to six hours between two of them: some weeks in all.
    prop::collection::vec((0u32..21_600, one), 1..120)
}

/// What is taken of a payment, in atoms and in micro-dollars, rounded up.
fn of_part(usd: u128, part: u8) -> (u128, u128) {
    (usd * u128::from(part), (usd * u128::from(part)).div_ceil(100))
}

impl Paid {
    fn counts(&self, scope: &str, from: Timestamp, to: Timestamp) -> bool {
        let is_of = match scope.split_once(':') {
            Some(("agent", name)) => name == self.agent,
            Some((_, name)) => self.group == Some(name),
            None => true,
        };
        let is_spent = matches!(self.state, State::Armed | State::Settled | State::Unknown);
        is_of && is_spent && self.at >= from && self.at < to
    }
}

fn slow(paid: &[Paid], scope: &str, from: Timestamp, to: Timestamp) -> u128 {
    let counted = paid.iter().filter(|paid| paid.counts(scope, from, to));
    counted.map(|paid| paid.usd).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever lines are written afterwards, in whatever zone: exact for calendar windows and totals; for a rolling
    /// window never less than what was spent in it, and at most that of one more quarter-hour.
    #[test]
    fn sums_are_those_of_a_model_that_looks_at_every_payment(moves in moves()) {
        const AGENTS: [&str; 3] = ["a", "b", "c"];
        const GROUPS: [Option<&str>; 3] = [None, Some("g"), Some("h")];
        let (mut book, mut paid, mut now) = (Book::default(), Vec::<Paid>::new(), noon());
        let mut journal = Vec::new();
        let mut enter = |book: &mut Book, now, body: Body| {
            journal.push((now, body.clone()));
            apply(book, now, body);
        };
        for (passes, this) in moves {
            now += SignedDuration::from_secs(passes.into());
            let pick = |which: usize, fits: &dyn Fn(&Paid) -> bool| {
                let those: Vec<usize> = (0..paid.len()).filter(|n| fits(&paid[*n])).collect();
                (!those.is_empty()).then(|| those[which % those.len()])
            };
            let number = |n: usize| u64::try_from(n).unwrap();
            match this {
                Move::Pay { agent, group, usd } => {
                    let n = number(paid.len());
                    enter(&mut book, now, reserved(n, AGENTS[agent], GROUPS[group], usd, false));
                    paid.push(Paid {
                        agent: AGENTS[agent], group: GROUPS[group], at: now, usd, state: State::Armed,
                        is_unconfirmed: false,
                    });
                }
                Move::Hold { agent, usd } => {
                    let n = number(paid.len());
                    enter(&mut book, now, reserved(n, AGENTS[agent], None, usd, true));
                    paid.push(Paid {
                        agent: AGENTS[agent], group: None, at: now, usd, state: State::Held, is_unconfirmed: false,
                    });
                }
                Move::Arm(which) => if let Some(n) = pick(which, &|paid| paid.state == State::Held) {
                    let armed = Armed { approval: None, arm: arm(number(n)), rid: rid(number(n)), windows: None };
                    enter(&mut book, now, Body::Armed(armed));
                    (paid[n].state, paid[n].at) = (State::Armed, now);
                },
                Move::Settle { which, part, by_merchant } => {
                    if let Some(n) = pick(which, &|paid| paid.state == State::Armed) {
                        let by = if by_merchant { Source::Merchant } else { Source::Chain };
                        let part = part.filter(|_| !by_merchant).map(|part| of_part(paid[n].usd, part));
                        enter(&mut book, now, settled(number(n), by, part.map(|(atoms, _)| atoms)));
                        paid[n].usd = part.map_or(paid[n].usd, |(_, usd)| usd);
                        (paid[n].state, paid[n].is_unconfirmed) = (State::Settled, by_merchant);
                    }
                }
                Move::End(which) => {
                    if let Some(n) = pick(which, &|paid| matches!(paid.state, State::Held | State::Armed)) {
                        let (rid, why) = (rid(number(n)), "w".to_owned());
                        let body = match paid[n].state {
                            State::Held => Body::Released(Released { rid, why }),
                            _ => Body::Expired(Expired { by: Source::Chain, rid, why }),
                        };
                        enter(&mut book, now, body);
                        paid[n].state = State::Expired;
                    }
                }
                Move::Confirm { which, part } => {
                    // After a week the book does not wait any longer.
                    let waits = |paid: &Paid| paid.is_unconfirmed && now < noon() + SignedDuration::from_hours(7 * 24);
                    if let Some(n) = pick(which, &waits) {
                        let (atoms, usd) = of_part(paid[n].usd, part);
                        enter(&mut book, now, confirmed(number(n), atoms));
                        (paid[n].usd, paid[n].is_unconfirmed) = (usd, false);
                    }
                }
                Move::Restart => {
                    let text = serde_json::to_vec(&BookSnapshot::of(&book)).unwrap();
                    let restored = serde_json::from_slice::<BookSnapshot>(&text).unwrap().into_book();
                    prop_assert_eq!(&restored, &book);
                    prop_assert!(restored.adds_up());
                    book = restored;
                }
            }
            for scope in ["account", "agent:a", "agent:b", "group:g", "group:h"] {
                let all = slow(&paid, scope, Timestamp::MIN, Timestamp::MAX);
                let total = used(&book, &line(scope, Window::Total, "0", None));
                prop_assert_eq!(total.0 + total.1, all);
                for zone in ["UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"] {
                    let day = day(scope, zone, now);
                    let from: Timestamp = day.start.parse().unwrap();
                    let (settled, open) = used(&book, &day);
                    prop_assert_eq!(settled + open, slow(&paid, scope, from, day.ends.unwrap()), "{} {}", scope, zone);
                }
                for (hours, bucket) in [(1, 60), (24, 1_440)] {
                    let rolling = Rolling::of_seconds(hours * 3_600).unwrap();
                    let newest = now.as_second() - now.as_second() % bucket;
                    let rolling = line(scope, Window::Rolling(rolling), &format!("{newest:010}"), None);
                    let (settled, open) = used(&book, &rolling);
                    let length = SignedDuration::from_hours(hours.into());
                    // The oldest of its own buckets counts whole, too.
                    let widest = length + SignedDuration::from_secs(bucket + 900);
                    prop_assert!(settled + open >= slow(&paid, scope, now - length, Timestamp::MAX));
                    prop_assert!(settled + open <= slow(&paid, scope, now - widest, Timestamp::MAX));
                }
            }
        }
        // From the journal alone.
        let mut again = Book::default();
        for (at, body) in journal {
            apply(&mut again, at, body);
        }
        prop_assert_eq!(again, book);
    }
}

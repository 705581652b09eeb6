use alloy_primitives::{Address, B256, U256};
use proptest::prelude::*;

use super::*;
use crate::counters::WINDOWS_KEPT;
use crate::entry::{Arm, Confirmed, Expired, Released, Unknown};
use crate::model::Source;
use crate::text::{Decimal, Digest};

pub(super) fn ts(second: i64) -> Moment {
    Moment::of(jiff::Timestamp::from_second(1_795_161_600 + second).unwrap())
}

pub(super) fn rid(n: u8) -> PaymentId {
    PaymentId::new(jiff::Timestamp::from_second(1_795_161_600).unwrap(), [n; 10])
}

pub(super) fn arm_of(n: u8) -> Arm {
    Arm {
        from: Address::ZERO.into(),
        issuer: None,
        nonce: Some(B256::repeat_byte(n)),
        signer: None,
        valid_after: Decimal(0),
        valid_before: Decimal(1_795_161_900),
    }
}

pub(super) fn reserved(n: u8, armed: bool, windows: Vec<WindowCharge>) -> Reserved {
    Reserved {
        agent: "a".into(),
        amount: Decimal(1),
        arm: armed.then(|| arm_of(n)),
        asset: "eip155:1/erc20:0x".into(),
        decimals: 6,
        facilitator: None,
        fee: None,
        fp: Digest::ZERO,
        group: None,
        host: "h".into(),
        idem: None,
        network: "eip155:1".into(),
        offer_sha256: Digest::ZERO,
        others: Vec::new(),
        payee: Address::ZERO.into(),
        policy_gen: 1,
        rail: "x402".into(),
        rid: rid(n),
        scheme: "exact".into(),
        sd: vec![],
        symbol: "USDC".into(),
        usd_micros: Decimal(1),
        windows,
    }
}

fn charge(scope: &str, start: &str, amount: u128) -> WindowCharge {
    WindowCharge(scope.into(), "day".into(), start.into(), Decimal(amount), Decimal(100))
}

pub(super) fn apply(book: &mut Book, second: i64, body: Body) -> Result<Effect, Illegal> {
    book.apply(&Entry {
        seq: 0,
        ts: ts(second),
        body,
    })
}

fn settled(n: u8) -> Body {
    Body::Settled(Settled {
        back: Vec::new(),
        by: Source::Merchant,
        rid: rid(n),
        taken: None,
        tx: None,
        why: None,
    })
}

#[derive(Clone, Debug)]
enum Do {
    Reserve {
        n: u8,
        armed: bool,
        windows: Vec<(u8, u8, u8)>,
    },
    Settle(u8),
    Lose(u8),
    Release(u8),
    Expire(u8),
}

fn any_do() -> impl Strategy<Value = Do> {
    let n = 0u8..6;
    prop_oneof![
        3 => (n.clone(), any::<bool>(), prop::collection::vec((0u8..3, 0u8..3, 0u8..50), 0..4))
            .prop_map(|(n, armed, windows)| Do::Reserve { n, armed, windows }),
        1 => n.clone().prop_map(Do::Settle),
        1 => n.clone().prop_map(Do::Lose),
        1 => n.clone().prop_map(Do::Release),
        1 => n.prop_map(Do::Expire),
    ]
}

fn body(step: &Do) -> Body {
    let why = || "w".to_owned();
    match step {
        Do::Reserve { n, armed, windows } => {
            let windows = windows
                .iter()
                .map(|(scope, start, amount)| charge(&scope.to_string(), &start.to_string(), u128::from(*amount)));
            Body::Reserved(Arc::new(reserved(*n, *armed, windows.collect())))
        }
        Do::Settle(n) => settled(*n),
        Do::Lose(n) => Body::Unknown(Unknown {
            rid: rid(*n),
            tx: None,
            why: why(),
        }),
        Do::Release(n) => Body::Released(Released {
            rid: rid(*n),
            why: why(),
        }),
        Do::Expire(n) => Body::Expired(Expired {
            by: Source::Chain,
            rid: rid(*n),
            why: why(),
        }),
    }
}

/// Recounts the list of accepted steps from the beginning: the final state of each reservation, then the sums.
fn slow_counters(accepted: &[Do]) -> BTreeMap<(String, String), Counter> {
    let mut counters = BTreeMap::<(String, String), Counter>::new();
    for (index, step) in accepted.iter().enumerate() {
        let Do::Reserve { n, windows, .. } = step else {
            continue;
        };
        let end = accepted[index + 1..].iter().find(|later| match later {
            Do::Settle(m) | Do::Release(m) | Do::Expire(m) => m == n,
            Do::Lose(_) | Do::Reserve { .. } => false,
        });
        for (scope, start, amount) in windows {
            let counter = counters.entry((scope.to_string(), start.to_string())).or_default();
            match end {
                None => counter.open += u128::from(*amount),
                Some(Do::Settle(_)) => counter.settled += u128::from(*amount),
                Some(_) => {}
            }
        }
    }
    counters
}

proptest! {
    #[test]
    fn the_book_equals_a_recount_of_all_steps(steps in prop::collection::vec(any_do(), 0..60)) {
        let mut book = Book::default();
        let mut accepted: Vec<Do> = Vec::new();
        for step in steps {
            if apply(&mut book, 0, body(&step)).is_ok() {
                accepted.push(step);
            }
            let slow = slow_counters(&accepted);
            for scope in 0..3 {
                for start in 0..3 {
                    let key = (scope.to_string(), start.to_string());
                    let expected = slow.get(&key).copied().unwrap_or_default();
                    prop_assert_eq!(book.counters().get(&key.0, "day", &key.1), expected);
                }
            }
        }
    }
}

#[test]
fn a_nonce_that_a_challenge_decides_stays_taken_until_a_day_after_its_deadline() {
    let mut book = Book::default();
    let by_challenge = |n| Reserved {
        rail: "mpp.evm".into(),
        ..reserved(n, true, vec![])
    };
    apply(&mut book, 0, Body::Reserved(Arc::new(by_challenge(1)))).unwrap();
    apply(&mut book, 1, settled(1)).unwrap();
    let again = Reserved {
        rid: rid(2),
        ..by_challenge(1)
    };
    let again = || Body::Reserved(Arc::new(again.clone()));
    let day = 300 + 24 * 60 * 60;
    assert_eq!(apply(&mut book, day, again()).unwrap_err(), Illegal::NonceTwice(rid(2)));
    let effect = apply(&mut book, day + 1, settled(1)).unwrap_err();
    assert_eq!(effect, Illegal::NotOpen(rid(1)));
    apply(&mut book, day + 1, Body::Closed(crate::entry::Closed {})).unwrap();
    assert!(apply(&mut book, day + 1, again()).is_ok());
}

#[test]
fn a_key_is_held_for_a_day_unless_its_payment_is_proven_dead() {
    let why = || "w".to_owned();
    let under_key = |n| Reserved {
        idem: Some(Digest([7; 32])),
        fp: Digest([9; 32]),
        ..reserved(n, true, vec![])
    };
    let holder = |book: &Book, at| book.keys.holder(&[7; 32], second(ts(at))).map(|hold| hold.rid);
    let expired = |n| {
        Body::Expired(Expired {
            by: Source::Us,
            rid: rid(n),
            why: why(),
        })
    };
    let mut book = Book::default();
    apply(&mut book, 0, Body::Reserved(Arc::new(under_key(1)))).unwrap();
    assert_eq!(holder(&book, 1), Some(rid(1)));
    let effect = apply(&mut book, 1, expired(1)).unwrap();
    assert_eq!((holder(&book, 1), effect.keys.len()), (None, 1));

    apply(&mut book, 2, Body::Reserved(Arc::new(under_key(2)))).unwrap();
    apply(&mut book, 3, settled(2)).unwrap();
    let day = 2 + 24 * 60 * 60;
    assert_eq!(holder(&book, day), Some(rid(2)));
    assert_eq!(holder(&book, day + 1), None, "even if nothing has been recorded since");
    let effect = apply(&mut book, day + 1, Body::Closed(crate::entry::Closed {})).unwrap();
    let hold = KeyHold::new(second(ts(2)), [7; 32], rid(2), [9; 32]);
    assert_eq!(effect.keys, [(hold, KeyChange::Free)]);
    assert_eq!(book.keys, Keys::default());
}

#[test]
fn of_two_payments_under_one_key_the_later_one_holds_it() {
    let under_key = |n| Reserved {
        idem: Some(Digest([7; 32])),
        ..reserved(n, true, vec![])
    };
    let mut book = Book::default();
    for n in [1, 2] {
        apply(&mut book, i64::from(n), Body::Reserved(Arc::new(under_key(n)))).unwrap();
    }
    let expired = Expired {
        by: Source::Chain,
        rid: rid(1),
        why: "w".into(),
    };
    apply(&mut book, 3, Body::Expired(expired)).unwrap();
    let holder = book.keys.holder(&[7; 32], second(ts(3)));
    assert_eq!(holder.map(|hold| hold.rid), Some(rid(2)));
    assert_eq!(book.keys().count(), 1);
}

#[test]
fn overflow_changes_nothing() {
    let mut book = Book::default();
    let windows = |last| vec![charge("x", "1", 5), charge("y", "1", last)];
    apply(
        &mut book,
        0,
        Body::Reserved(Arc::new(reserved(1, true, windows(u128::MAX)))),
    )
    .unwrap();
    let error = apply(&mut book, 0, Body::Reserved(Arc::new(reserved(2, true, windows(1))))).unwrap_err();
    assert_eq!(error, Illegal::Overflow(rid(2)));
    assert_eq!(book.counters().get("x", "day", "1"), Counter { settled: 0, open: 5 });
    assert!(book.open_payment(&rid(2)).is_none());
}

#[test]
fn old_windows_are_forgotten_and_never_reopened_but_open_money_keeps_them() {
    let mut book = Book::default();
    for start in 0..=WINDOWS_KEPT as u8 {
        let windows = vec![charge("x", &format!("{start:03}"), 1)];
        apply(&mut book, 0, Body::Reserved(Arc::new(reserved(start, true, windows)))).unwrap();
        if start > 0 {
            apply(&mut book, 0, settled(start)).unwrap();
        }
    }
    assert_eq!(book.counters().of_scope("x").count(), WINDOWS_KEPT + 1);
    apply(&mut book, 0, settled(0)).unwrap();
    let windows = vec![charge("x", "200", 1)];
    let effect = apply(&mut book, 0, Body::Reserved(Arc::new(reserved(200, true, windows)))).unwrap();
    assert_eq!(effect.dropped.len(), 2);
    assert_eq!(book.counters().of_scope("x").count(), WINDOWS_KEPT);
    assert!(book.counters().is_closed("x", "day", "001"));
    assert!(!book.counters().is_closed("x", "day", "002"));
    assert!(!book.counters().is_closed("x", "day", "201"));
}

/// A payment of `amount` atoms, charged as limits.toml would charge it.
fn costly(n: u8, amount: u128, windows: Vec<WindowCharge>) -> Body {
    Body::Reserved(Arc::new(Reserved {
        amount: Decimal(amount),
        ..reserved(n, true, windows)
    }))
}

fn named(scope: &str, window: &str, start: &str, amount: u128) -> WindowCharge {
    WindowCharge(
        scope.into(),
        window.into(),
        start.into(),
        Decimal(amount),
        Decimal(u128::MAX),
    )
}

fn took(n: u8, by: Source, taken: u128, back: Vec<WindowCharge>) -> Body {
    Body::Settled(Settled {
        back,
        by,
        rid: rid(n),
        taken: Some(Decimal(taken)),
        tx: None,
        why: None,
    })
}

fn confirmed(n: u8, taken: u128, back: Vec<WindowCharge>) -> Body {
    Body::Confirmed(Confirmed {
        back,
        block: Some(7),
        by: Source::Chain,
        rid: rid(n),
        taken: Some(Decimal(taken)),
        tx: None,
    })
}

/// Money, twice in one counter; a rolling bucket; payments; and what is pending.
fn windows(money: u128) -> Vec<WindowCharge> {
    vec![
        named("x", "day", "1", money),
        named("x", "day", "1", money),
        named("x", "count.day", "1", 1),
        named("x", "rolling.3600", "1795161600", money),
        named("x", "pending", "0", money),
    ]
}

fn holds(book: &Book, window: &str, start: &str) -> (u128, u128) {
    let Counter { settled, open } = book.counters().get("x", window, start);
    (settled, open)
}

#[test]
fn what_was_not_taken_leaves_the_windows_of_money_alone() {
    let back = vec![
        named("x", "day", "1", 30_000),
        named("x", "day", "1", 30_000),
        named("x", "rolling.3600", "1795161600", 30_000),
    ];
    for confirms in [false, true] {
        let mut book = Book::default();
        apply(&mut book, 0, costly(1, 50_000, windows(50_000))).unwrap();
        let payment = book.open_payment(&rid(1)).unwrap().clone();
        assert_eq!(payment.back(20_000), Some(back.clone()));
        let charges = if confirms {
            let effect = apply(&mut book, 1, settled(1)).unwrap();
            let mut payment = effect.payment.unwrap();
            assert_eq!(holds(&book, "day", "1"), (100_000, 0), "a receipt lowers nothing");
            let effect = apply(&mut book, 2, confirmed(1, 20_000, back.clone())).unwrap();
            assert_eq!(effect.left.last().unwrap().1.settled, 20_000);
            let (of, amendment) = effect.amended.unwrap();
            assert_eq!((of, &effect.unconfirmed[..]), (rid(1), &[(rid(1), false)][..]));
            amendment.apply(&mut payment);
            payment
        } else {
            let effect = apply(&mut book, 1, took(1, Source::Chain, 20_000, back.clone())).unwrap();
            assert_eq!(effect.counters.len(), 5);
            assert_eq!((effect.counters[1].settled, effect.counters[2].settled), (40_000, 1));
            effect.payment.unwrap()
        };
        assert_eq!(
            (charges.taken, charges.by),
            (Some(Decimal(20_000)), Some(Source::Chain))
        );
        let amounts: Vec<u128> = charges.windows().iter().map(WindowCharge::amount).collect();
        assert_eq!(amounts, [20_000, 20_000, 1, 20_000, 50_000]);
        assert_eq!(holds(&book, "day", "1"), (40_000, 0));
        assert_eq!(holds(&book, "rolling.3600", "1795161600"), (20_000, 0));
        assert_eq!(holds(&book, "count.day", "1"), (1, 0));
        assert_eq!(holds(&book, "pending", "0"), (0, 0));
        // The chain confirms once and gives back once.
        let again = apply(&mut book, 3, confirmed(1, 0, back.clone())).unwrap_err();
        assert_eq!(again, Illegal::NotUnconfirmed(rid(1)));
        let again = apply(&mut book, 3, took(1, Source::Chain, 0, back.clone())).unwrap_err();
        assert!(matches!(again, Illegal::NotOpen(_) | Illegal::WrongPart(_)), "{again}");
        assert_eq!(holds(&book, "day", "1"), (40_000, 0));
    }
}

#[test]
fn a_settlement_gives_back_what_follows_from_it_and_nothing_else() {
    let whole = named("x", "day", "1", 50_000);
    for (taken, back) in [
        (20_000, vec![]),
        (20_000, vec![named("x", "day", "1", 30_001)]),
        (20_000, vec![named("x", "day", "2", 30_000)]),
        (20_000, vec![named("y", "day", "1", 30_000)]),
        (50_000, vec![named("x", "day", "1", 1)]),
        (50_001, vec![]),
    ] {
        let mut book = Book::default();
        apply(&mut book, 0, costly(1, 50_000, vec![whole.clone()])).unwrap();
        let before = book.clone();
        let refused = apply(&mut book, 1, took(1, Source::Chain, taken, back.clone())).unwrap_err();
        assert_eq!(refused, Illegal::WrongPart(rid(1)), "{taken} {back:?}");
        assert_eq!(book, before);
    }
    // And nothing without a proof.
    let mut book = Book::default();
    apply(&mut book, 0, costly(1, 50_000, vec![whole.clone()])).unwrap();
    let unproven = Body::Settled(Settled {
        back: vec![named("x", "day", "1", 30_000)],
        by: Source::Merchant,
        rid: rid(1),
        taken: None,
        tx: None,
        why: None,
    });
    assert_eq!(apply(&mut book, 1, unproven).unwrap_err(), Illegal::WrongPart(rid(1)));
    apply(&mut book, 1, took(1, Source::Chain, 50_000, vec![])).unwrap();
    assert_eq!(holds(&book, "day", "1"), (50_000, 0));
}

#[test]
fn a_window_that_was_dropped_gets_nothing_back() {
    let mut book = Book::default();
    let of = |start: u8| {
        vec![
            named("x", "hour", &format!("{start:03}"), 50),
            named("x", "total", "0", 50),
        ]
    };
    apply(&mut book, 0, costly(200, 50, of(0))).unwrap();
    apply(&mut book, 0, settled(200)).unwrap();
    for start in 1..=WINDOWS_KEPT as u8 {
        apply(&mut book, 0, costly(start, 50, of(start))).unwrap();
    }
    assert_eq!(holds(&book, "hour", "000"), (0, 0));
    let counters_left = book.counters().of_scope("x").count();
    let back = vec![named("x", "hour", "000", 20), named("x", "total", "0", 20)];
    let effect = apply(&mut book, 1, confirmed(200, 30, back)).unwrap();
    assert_eq!(effect.left.len(), 1, "the index must not bring it back");
    assert_eq!(book.counters().of_scope("x").count(), counters_left);
    assert_eq!(holds(&book, "total", "0"), (30, 50 * WINDOWS_KEPT as u128));
}

#[test]
fn what_the_pruned_file_keeps_is_enough_to_give_back() {
    let mut book = Book::default();
    apply(&mut book, 0, costly(1, 50_000, windows(50_000))).unwrap();
    let payment = apply(&mut book, 1, settled(1)).unwrap().payment.unwrap();
    let text = serde_json::to_string(&snapshot::BookSnapshot::of(&book)).unwrap();
    let mut again = serde_json::from_str::<snapshot::BookSnapshot>(&text)
        .unwrap()
        .into_book();
    let end = confirmed(1, 1, payment.back(1).unwrap());
    apply(&mut book, 2, end.clone()).unwrap();
    apply(&mut again, 2, end).unwrap();
    assert_eq!(book, again);
    assert_eq!(holds(&book, "day", "1"), (2, 0));
}

/// `audit/pruned` cannot be recreated, because the entries it stands for are gone. This is what the version before
/// several approvers wrote.
#[test]
fn what_was_pruned_while_one_person_was_asked_is_still_read() {
    let rid = "019aa05d-5400-7101-8101-010101010101";
    let row = |state: serde_json::Value| {
        serde_json::json!({
            "id": rid, "rid": rid, "agent": "a", "approver": "finance", "backend": "operator",
            "intent": "01".repeat(32), "state": state, "requested_at": "2026-11-20T08:00:00Z",
        })
    };
    for state in [
        serde_json::json!({"pending": {"until": "2026-11-20T08:10:00Z"}}),
        serde_json::json!({"granted": {"use_by": "2026-11-20T08:10:00Z", "kind": "operator", "by": "uid:1"}}),
    ] {
        let text = serde_json::json!({
            "counters": [], "nonces": [], "open": [], "unconfirmed": [], "latest": null, "keys": [],
            "approvals": [row(state)],
        });
        let read = serde_json::from_value::<snapshot::BookSnapshot>(text);
        assert!(read.is_ok(), "the server does not start: {}", read.unwrap_err());
    }
}

#[derive(Clone, Debug)]
struct Bought {
    /// Atoms. A charge is this over `scale`, rounded up, as micro-USD are for a token with more decimals.
    signed: u128,
    scale: u128,
    /// Atoms that the chain shows.
    taken: u128,
    /// In this order: outcome unknown, settled on a receipt, not proven at all.
    way: u8,
    start: u8,
}

fn any_bought() -> impl Strategy<Value = Bought> {
    let atoms = prop_oneof![0u128..100, Just(u128::MAX >> 8), 0u128..u128::MAX >> 8];
    (
        atoms,
        prop_oneof![Just(1), Just(1_000_000_000_000)],
        any::<u64>(),
        0u8..3,
        0u8..2,
    )
        .prop_map(|(signed, scale, part, way, start)| {
            let taken = match part % 4 {
                0 => 0,
                1 => signed,
                _ => (U256::from(signed) * U256::from(part) / U256::from(u64::MAX)).to(),
            };
            Bought {
                signed,
                scale,
                taken,
                way,
                start,
            }
        })
}

proptest! {
    /// What is counted is never below what the chain shows was taken, and exactly that if a micro-dollar is an atom.
    #[test]
    fn parts_that_come_back_leave_what_was_taken(bought in prop::collection::vec(any_bought(), 1..30)) {
        let mut book = Book::default();
        let mut closed: Vec<(u8, Payment)> = Vec::new();
        for (n, Bought { signed, scale, start, .. }) in (0u8..).zip(&bought) {
            let charge = named("x", "day", &start.to_string(), signed.div_ceil(*scale));
            apply(&mut book, 0, costly(n, *signed, vec![charge])).unwrap();
        }
        let mut sums = [(0u128, 0u128); 2];
        for (n, Bought { signed, scale, taken, way, start }) in (0u8..).zip(&bought) {
            let payment = book.open_payment(&rid(n)).unwrap().clone();
            let back = payment.back(*taken).unwrap();
            prop_assert_eq!(payment.back(signed + 1), None);
            let sum = &mut sums[usize::from(*start)];
            match way {
                0 => {
                    apply(&mut book, 1, took(n, Source::Chain, *taken, back)).unwrap();
                }
                1 => {
                    let effect = apply(&mut book, 1, settled(n)).unwrap();
                    closed.push((n, effect.payment.unwrap()));
                }
                _ => {}
            }
            let counts = if *way == 2 { *signed } else { *taken };
            sum.0 += counts.div_ceil(*scale);
            sum.1 += counts / *scale + 2;
        }
        // The proofs arrive in a different order.
        for (n, payment) in closed.into_iter().rev() {
            let taken = bought[usize::from(n)].taken;
            let back = payment.back(taken).unwrap();
            apply(&mut book, 2, confirmed(n, taken, back.clone())).unwrap();
            prop_assert!(apply(&mut book, 2, confirmed(n, taken, back)).is_err());
        }
        for (start, (least, most)) in sums.into_iter().enumerate() {
            let (settled, open) = holds(&book, "day", &start.to_string());
            prop_assert!(settled + open >= least && settled + open <= most, "{settled} {open} {least} {most}");
            if bought.iter().all(|bought| bought.scale == 1) {
                prop_assert_eq!(settled + open, least);
            }
        }
        prop_assert!(book.adds_up());
    }
}

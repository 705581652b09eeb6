use std::sync::Arc;

use alloy_primitives::{Address, B256};

use super::*;
use crate::ledger::entry::{Arm, Body, Entry, Expired, Reserved, Settled, Unknown, WindowCharge};
use crate::ledger::model::{By, State};
use crate::ledger::text::{Decimal, Moment};

const HOUR: i64 = 60 * 60;

/// A history with everything that leaves a trace: all states, windows that are forgotten, nonces that become free.
fn history() -> Vec<Entry> {
    let mut bodies = Vec::new();
    for hour in 0..100i64 {
        let at = 1_795_161_600 + hour * HOUR;
        let moment = Moment::of(jiff::Timestamp::from_second(at).unwrap());
        let rid = Rid::new(moment.timestamp(), [hour as u8; 10]);
        bodies.push((moment, Body::Reserved(Arc::new(reserved(rid, hour, at)))));
        let why = "w".to_owned();
        bodies.extend(match hour % 5 {
            0 => Some((
                moment,
                Body::Settled(Settled {
                    by: By::Merchant,
                    rid,
                    tx: None,
                    why: None,
                }),
            )),
            1 | 2 => Some((
                moment,
                Body::Expired(Expired {
                    by: By::Chain,
                    rid,
                    why,
                }),
            )),
            3 => Some((moment, Body::Unknown(Unknown { rid, tx: None, why }))),
            _ => None,
        });
    }
    let entry = |(seq, (ts, body))| Entry {
        seq: seq as u64,
        ts,
        body,
    };
    bodies.into_iter().enumerate().map(entry).collect()
}

fn reserved(rid: Rid, hour: i64, at: i64) -> Reserved {
    let window = |scope: &str, window: &str, start: String| {
        WindowCharge(scope.into(), window.into(), start, Decimal(7 << 64), Decimal(u128::MAX))
    };
    Reserved {
        agent: "a".into(),
        amount: Decimal(1),
        arm: Some(Arm {
            from: Address::ZERO,
            nonce: B256::repeat_byte(hour as u8),
            valid_after: Decimal(0),
            valid_before: Decimal(at as u64 + 300),
        }),
        asset: "eip155:1/erc20:0x".into(),
        decimals: 6,
        fp: Digest::ZERO,
        group: None,
        host: "h".into(),
        idem: None,
        network: "eip155:1".into(),
        offer_sha256: Digest::ZERO,
        payee: Address::ZERO,
        policy_gen: 1,
        rail: "mpp.evm".into(),
        rid,
        scheme: "exact".into(),
        sd: vec![],
        symbol: "USDC".into(),
        usd_micros: Decimal(1),
        windows: vec![
            window("agent:a", "hour", format!("{hour:04}")),
            window("agent:b", "hour", format!("{}", hour % 5 * 1000 + hour)),
            window("agent:a", "total", "0".into()),
        ],
    }
}

#[test]
fn what_the_index_gives_back_is_the_book_it_was_fed_wherever_it_stopped() {
    let (history, dir) = (history(), tempfile::tempdir().unwrap());
    let (mut dropped, mut faded) = (0, 0);
    for (stop, together) in [(1, 1), (37, 5), (history.len(), 64)] {
        let path = dir.path().join(stop.to_string());
        let (mut index, snapshot) = Index::open(&path).unwrap();
        assert!(snapshot.is_new);
        let mut book = Book::default();
        for entries in history[..stop].chunks(together) {
            let effects: Vec<_> = entries.iter().map(|entry| book.apply(entry).unwrap()).collect();
            dropped += effects.iter().map(|effect| effect.dropped.len()).sum::<usize>();
            faded += effects.iter().map(|effect| effect.faded.len()).sum::<usize>();
            let chain = Chain {
                next_seq: entries.last().unwrap().seq + 1,
                tip: Digest([stop as u8; 32]),
            };
            index
                .apply(&[Applied {
                    effects,
                    chain,
                    latest: book.latest(),
                    signed: None,
                    finished: vec![],
                }])
                .unwrap();
        }
        index.checkpoint().unwrap();
        drop(index);
        let (_, snapshot) = Index::open(&path).unwrap();
        assert_eq!(
            snapshot.chain,
            Chain {
                next_seq: stop as u64,
                tip: Digest([stop as u8; 32])
            }
        );
        assert!(!snapshot.is_new);
        assert_eq!(snapshot.book, book, "stopped after {stop}");
    }
    assert!(dropped > 0 && faded > 0, "the history must reach both");
}

#[test]
fn applying_the_same_changes_twice_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut index, _) = Index::open(dir.path()).unwrap();
    let mut book = Book::default();
    let chain = Chain {
        next_seq: 20,
        tip: Digest::ZERO,
    };
    for _ in 0..2 {
        let mut again = Book::default();
        let effects = history()[..20]
            .iter()
            .map(|entry| again.apply(entry).unwrap())
            .collect();
        index
            .apply(&[Applied {
                effects,
                chain,
                latest: again.latest(),
                signed: None,
                finished: vec![],
            }])
            .unwrap();
        book = again;
    }
    drop(index);
    assert_eq!(Index::open(dir.path()).unwrap().1.book, book);
}

#[test]
fn a_finished_payment_can_be_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut index, _) = Index::open(dir.path()).unwrap();
    let mut book = Book::default();
    let history = history();
    let effects: Vec<_> = history[..2].iter().map(|entry| book.apply(entry).unwrap()).collect();
    let rid = effects[0].payment.as_ref().unwrap().rid();
    index
        .apply(&[Applied {
            effects,
            chain: Chain {
                next_seq: 2,
                tip: Digest::ZERO,
            },
            latest: None,
            signed: None,
            finished: vec![],
        }])
        .unwrap();
    assert_eq!(index.find(&rid).unwrap().unwrap().state, State::Settled);
    assert!(book.open_payment(&rid).is_none());
}

#[test]
fn the_signed_position_and_finished_segments_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = crate::ledger::tree::Tree::default();
    tree.append(Digest::ZERO);
    let place = crate::ledger::scan::Place {
        segment: 900,
        offset: 77,
    };
    let signed = Position::new(tree, Digest::ZERO, place);
    let (mut index, _) = Index::open(dir.path()).unwrap();
    for (signed, finished) in [
        (Some(signed.clone()), vec![(0, 5)]),
        (None, vec![(300, 1 << 40), (7, 8)]),
    ] {
        let applied = Applied {
            effects: vec![],
            chain: Chain {
                next_seq: 1000,
                tip: Digest::ZERO,
            },
            latest: None,
            signed,
            finished,
        };
        index.apply(&[applied]).unwrap();
    }
    drop(index);
    let snapshot = Index::open(dir.path()).unwrap().1;
    assert_eq!(snapshot.signed, signed);
    assert_eq!(snapshot.segments, [(0, 5), (7, 8), (300, 1 << 40)]);
}

#[test]
fn a_panic_is_an_error() {
    let result = caught::<()>(|| panic!("as sled does"));
    assert_eq!(result, Err("it panicked".to_owned()));
    assert!(!QUIET.get());
}

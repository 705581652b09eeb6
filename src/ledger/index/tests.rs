use std::sync::Arc;

use alloy_primitives::{Address, B256};

use super::*;
use crate::ledger::book::kept::Kept;
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
        // Every third payment has a key, and every sixth the same one.
        idem: (hour % 3 == 0).then_some(Digest([if hour % 2 == 0 { 0 } else { hour as u8 }; 32])),
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
    let (mut dropped, mut faded, mut keys) = (0, 0, 0);
    for (stop, together) in [(1, 1), (37, 5), (history.len(), 64)] {
        let path = dir.path().join(stop.to_string());
        let (mut index, snapshot) = Index::open(&path).unwrap();
        assert!(snapshot.is_new);
        let mut book = Book::default();
        for entries in history[..stop].chunks(together) {
            let effects: Vec<_> = entries.iter().map(|entry| book.apply(entry).unwrap()).collect();
            dropped += effects.iter().map(|effect| effect.dropped.len()).sum::<usize>();
            faded += effects.iter().map(|effect| effect.faded.len()).sum::<usize>();
            keys += effects.iter().map(|effect| effect.keys.len()).sum::<usize>();
            let chain = Chain {
                next_seq: entries.last().unwrap().seq + 1,
                tip: Digest([stop as u8; 32]),
            };
            index
                .apply(&[Applied {
                    effects,
                    chain,
                    latest: book.latest(),
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
    assert!(dropped > 0 && faded > 0 && keys > 0, "the history must reach all");
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
        }])
        .unwrap();
    assert_eq!(index.find(&rid).unwrap().unwrap().state, State::Settled);
    assert!(book.open_payment(&rid).is_none());
}

#[test]
fn a_panic_is_an_error() {
    let result = caught::<()>(|| panic!("as sled does"));
    assert_eq!(result, Err("it panicked".to_owned()));
    assert!(!QUIET.get());
}

/// For a journal whose oldest entries were moved away: nothing that the book holds is lost on the way, at any entry.
#[test]
fn a_whole_book_goes_through_its_text_and_into_a_new_index_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Book::default();
    for entry in history() {
        book.apply(&entry).unwrap();
        if entry.seq % 40 != 0 {
            continue;
        }
        let text = serde_json::to_string(&Kept::of(&book)).unwrap();
        let kept: Kept = serde_json::from_str(&text).unwrap();
        assert_eq!(kept.into_book(), book, "after entry {}", entry.seq);

        let path = dir.path().join(entry.seq.to_string());
        let (mut index, _) = Index::open(&path).unwrap();
        let chain = Chain {
            next_seq: entry.seq + 1,
            tip: Digest([7; 32]),
        };
        index.fill(&book, chain).unwrap();
        drop(index);
        let (_, snapshot) = Index::open(&path).unwrap();
        assert_eq!((snapshot.book, snapshot.chain), (book.clone(), chain));
    }
}

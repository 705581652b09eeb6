use std::sync::Arc;

use alloy_primitives::{Address, B256};

use super::*;
use crate::book::snapshot::BookSnapshot;
use crate::entry::{
    ApprovalDenied, ApprovalExpired, ApprovalGranted, ApprovalRequested, Arm, Armed, Body, Entry, Expired, Released,
    Reserved, Settled, Unknown, WindowCharge,
};
use crate::model::{Source, State};
use crate::text::{Decimal, Moment};
use bursar_core::approval::EvidenceKind;

const HOUR: i64 = 60 * 60;

/// A history with everything that leaves a row: all states, windows that are dropped, nonces that become free, and
/// approvals in between.
pub(crate) fn history() -> Vec<Entry> {
    let mut bodies = Vec::new();
    for hour in 0..100i64 {
        let at = 1_795_161_600 + hour * HOUR;
        let moment = Moment::of(jiff::Timestamp::from_second(at).unwrap());
        let rid = PaymentId::new(moment.timestamp(), [hour as u8; 10]);
        bodies.push((moment, Body::Reserved(Arc::new(reserved(rid, hour, at)))));
        let why = "w".to_owned();
        bodies.extend(match hour % 5 {
            0 => Some((
                moment,
                Body::Settled(Settled {
                    back: Vec::new(),
                    by: Source::Merchant,
                    rid,
                    taken: None,
                    tx: None,
                    why: None,
                }),
            )),
            1 | 2 => Some((
                moment,
                Body::Expired(Expired {
                    by: Source::Chain,
                    rid,
                    why,
                }),
            )),
            3 => Some((moment, Body::Unknown(Unknown { rid, tx: None, why }))),
            _ => None,
        });
        bodies.extend(approvals(hour, at).into_iter().map(|body| (moment, body)));
    }
    let entry = |(seq, (ts, body))| Entry {
        seq: seq as u64,
        ts,
        body,
    };
    bodies.into_iter().enumerate().map(entry).collect()
}

/// Held money that a person is asked about: granted and used, granted and released, denied, expired, released, or still
/// live.
fn approvals(hour: i64, at: i64) -> Vec<Body> {
    let moment = |hours: i64| Moment::of(Timestamp::from_second(at + hours * HOUR).unwrap());
    let numbered = |n: u8| PaymentId::new(moment(0).timestamp(), [n; 10]);
    let (rid, id) = (numbered(201), numbered(202));
    let held = Reserved {
        arm: None,
        idem: None,
        ..reserved(rid, hour, at)
    };
    let requested = ApprovalRequested {
        agent: "a".into(),
        approver: "finance".into(),
        backend: "operator".into(),
        id,
        intent: Digest([hour as u8; 32]),
        needed: 1,
        rid,
        rules: vec!["agents.a.approval_above".into()],
        sd: vec!["c".into()],
        until: moment(1),
    };
    let granted = Body::ApprovalGranted(ApprovalGranted {
        by: "uid:0".into(),
        evidence_sha256: Digest([1; 32]),
        id,
        kind: EvidenceKind::Operator,
        replay: Digest([hour as u8; 32]),
        replay_until: moment(3),
        use_by: moment(2),
    });
    let (by, why) = (None, "w".to_owned());
    let mut bodies = vec![Body::Reserved(held.into()), Body::ApprovalRequested(requested)];
    bodies.extend(match hour % 7 {
        // The first payments have no approvals.
        _ if hour < 2 => return Vec::new(),
        0 => vec![],
        1 => vec![granted],
        2 => vec![
            granted,
            Body::Armed(Armed {
                approval: Some(id.to_string()),
                arm: Arm {
                    from: Address::ZERO.into(),
                    issuer: None,
                    nonce: Some(B256::from(alloy_primitives::U256::from(1_000 + hour))),
                    signer: None,
                    valid_after: Decimal(0),
                    valid_before: Decimal(at as u64 + 300),
                },
                rid,
                windows: None,
            }),
        ],
        3 => vec![Body::ApprovalDenied(ApprovalDenied {
            by,
            id,
            until: moment(6),
            why,
        })],
        4 => vec![Body::ApprovalExpired(ApprovalExpired { id, why })],
        5 => vec![granted, Body::Released(Released { rid, why })],
        _ => return Vec::new(),
    });
    bodies
}

fn reserved(rid: PaymentId, hour: i64, at: i64) -> Reserved {
    let window = |scope: &str, window: &str, start: String| {
        WindowCharge(scope.into(), window.into(), start, Decimal(7 << 64), Decimal(u128::MAX))
    };
    Reserved {
        agent: "a".into(),
        amount: Decimal(1),
        arm: Some(Arm {
            from: Address::ZERO.into(),
            issuer: None,
            nonce: Some(B256::repeat_byte(hour as u8)),
            signer: None,
            valid_after: Decimal(0),
            valid_before: Decimal(at as u64 + 300),
        }),
        asset: "eip155:1/erc20:0x".into(),
        decimals: 6,
        facilitator: None,
        fee: None,
        fp: Digest::ZERO,
        group: None,
        host: "h".into(),
        // Every third payment has a key, and every sixth has the same one.
        idem: (hour % 3 == 0).then_some(Digest([if hour % 2 == 0 { 0 } else { hour as u8 }; 32])),
        network: "eip155:1".into(),
        offer_sha256: Digest::ZERO,
        others: Vec::new(),
        payee: Address::ZERO.into(),
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
    let (mut dropped, mut faded, mut keys, mut forgotten) = (0, 0, 0, [0, 0]);
    for (stop, together) in [(1, 1), (37, 5), (history.len(), 64)] {
        let path = dir.path().join(stop.to_string());
        let (mut index, snapshot) = Index::open(&path, &path).unwrap();
        assert!(snapshot.is_new);
        let mut book = Book::default();
        for entries in history[..stop].chunks(together) {
            let effects: Vec<_> = entries.iter().map(|entry| book.apply(entry).unwrap()).collect();
            dropped += effects.iter().map(|effect| effect.dropped.len()).sum::<usize>();
            faded += effects.iter().map(|effect| effect.faded.len()).sum::<usize>();
            keys += effects.iter().map(|effect| effect.keys.len()).sum::<usize>();
            for effect in &effects {
                let gone = |until: &Option<Moment>| usize::from(until.is_none());
                forgotten[0] += effect
                    .approvals
                    .replays
                    .iter()
                    .map(|(_, until)| gone(until))
                    .sum::<usize>();
                forgotten[1] += effect
                    .approvals
                    .denials
                    .iter()
                    .map(|(_, until)| gone(until))
                    .sum::<usize>();
            }
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
        let (_, snapshot) = Index::open(&path, &path).unwrap();
        assert_eq!(
            snapshot.chain,
            Chain {
                next_seq: stop as u64,
                tip: Digest([stop as u8; 32])
            }
        );
        assert!(!snapshot.is_new);
        assert_eq!(snapshot.book, book, "stopped after {stop}");
        if stop == history.len() {
            let approvals = book.approvals();
            let kinds = [
                approvals.rows().count(),
                approvals.replays().count(),
                approvals.denials().count(),
            ];
            assert!(kinds.iter().all(|count| *count > 0), "{kinds:?} are left to be kept");
        }
    }
    assert!(dropped > 0 && faded > 0 && keys > 0, "the history must cover all cases");
    assert!(forgotten.iter().all(|count| *count > 0), "{forgotten:?}");
}

#[test]
fn applying_the_same_changes_twice_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut index, _) = Index::open(dir.path(), dir.path()).unwrap();
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
    assert_eq!(Index::open(dir.path(), dir.path()).unwrap().1.book, book);
}

#[test]
fn a_rebuild_leaves_the_rows_that_following_leaves() {
    let history = history();
    let chain = Chain {
        next_seq: history.len() as u64,
        tip: Digest::ZERO,
    };
    let rows = [true, false].map(|is_rebuild| {
        let dir = tempfile::tempdir().unwrap();
        let (mut index, _) = Index::open(dir.path(), dir.path()).unwrap();
        let mut book = Book::default();
        let effects = |entries: &[Entry], book: &mut Book| {
            let effects = entries.iter().map(|entry| {
                let place = Place {
                    segment: 0,
                    offset: entry.seq,
                };
                Effect {
                    place,
                    ..book.apply(entry).unwrap()
                }
            });
            effects.collect::<Vec<_>>()
        };
        let (early, late) = history.split_at(history.len() - 3);
        for entries in early.chunks(7) {
            let effects = effects(entries, &mut book);
            if is_rebuild {
                let touched: Vec<_> = effects.iter().filter_map(Touched::by).collect();
                index.fill(&touched).unwrap();
                continue;
            }
            let (latest, signed, finished) = (book.latest(), None, vec![]);
            index
                .apply(&[Applied {
                    effects,
                    chain,
                    latest,
                    signed,
                    finished,
                }])
                .unwrap();
        }
        let effects = effects(late, &mut book);
        let last = Applied {
            effects,
            chain,
            latest: book.latest(),
            signed: None,
            finished: vec![(0, 9)],
        };
        match is_rebuild {
            true => index.complete(&book, &last).unwrap(),
            false => index.apply(&[last]).unwrap(),
        }
        index.db.iter().map(Result::unwrap).collect::<Vec<_>>()
    });
    assert!(rows[0].len() > history.len() / 2);
    assert_eq!(rows[0], rows[1]);
}

#[test]
fn a_finished_payment_is_read_where_its_entries_stand() {
    let (dir, audit) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut index, _) = Index::open(dir.path(), audit.path()).unwrap();
    let (mut book, mut segment, mut rids) = (Book::default(), Vec::new(), Vec::new());
    for entry in &history()[..4] {
        let place = Place {
            segment: 7,
            offset: segment.len() as u64,
        };
        entry.encode(&Digest::ZERO, &mut segment).unwrap();
        segment.push(b'\n');
        let effect = Effect {
            place,
            ..book.apply(entry).unwrap()
        };
        rids.push(effect.payment.as_ref().unwrap().rid());
        let applied = Applied {
            effects: vec![effect],
            chain: Chain {
                next_seq: entry.seq + 1,
                tip: Digest::ZERO,
            },
            latest: None,
            signed: None,
            finished: vec![],
        };
        index.apply(&[applied]).unwrap();
    }
    let path = audit.path().join(scan::segment_name(7));
    std::fs::write(&path, &segment).unwrap();
    assert_eq!(index.find(&rids[0]).unwrap().unwrap().state, State::Settled);
    assert_eq!(index.find(&rids[2]).unwrap().unwrap().state, State::Expired);
    assert!(book.open_payment(&rids[0]).is_none());
    let stranger = PaymentId::new(jiff::Timestamp::UNIX_EPOCH, [9; 10]);
    assert_eq!(index.find(&stranger).unwrap(), None);
    std::fs::write(&path, &segment[1..]).unwrap();
    index.find(&rids[0]).unwrap_err();
}

/// Its approval, and what else was asked in between, are in other entries; only its own are read.
#[test]
fn an_approved_payment_is_read_from_its_own_entries() {
    let (dir, audit) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut index, _) = Index::open(dir.path(), audit.path()).unwrap();
    let (mut book, mut segment, mut ends) = (Book::default(), Vec::new(), Vec::new());
    for entry in history().iter().filter(|entry| entry.seq < 40) {
        let place = Place {
            segment: 7,
            offset: segment.len() as u64,
        };
        entry.encode(&Digest::ZERO, &mut segment).unwrap();
        segment.push(b'\n');
        let effect = book.apply(entry).unwrap();
        if let Some((row, _)) = &effect.approvals.row {
            ends.push(row.rid);
        }
        let applied = Applied {
            effects: vec![Effect { place, ..effect }],
            chain: Chain {
                next_seq: entry.seq + 1,
                tip: Digest::ZERO,
            },
            latest: None,
            signed: None,
            finished: vec![],
        };
        index.apply(&[applied]).unwrap();
    }
    std::fs::write(audit.path().join(scan::segment_name(7)), &segment).unwrap();
    let found = |rid| index.find(rid).unwrap().unwrap();
    let states: std::collections::HashSet<State> = ends.iter().map(|rid| found(rid).state).collect();
    assert!(
        [State::Held, State::Armed, State::Released]
            .iter()
            .all(|state| states.contains(state))
    );
    let armed = ends
        .iter()
        .map(found)
        .find(|payment| payment.state == State::Armed)
        .unwrap();
    assert_eq!(book.open_payment(&armed.rid()), Some(&armed));
    assert!(armed.approval.is_some());
}

/// If the journal begins in the middle, another payment's question may have been open there; none of the entries read
/// for one payment records that it ended.
#[test]
fn what_others_asked_before_the_journal_begins_hides_no_payment() {
    let (dir, audit) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut index, _) = Index::open(dir.path(), audit.path()).unwrap();
    let at = 1_795_161_600;
    // Hour 2: held, asked, granted, armed. The first question about the same intent is recorded as ended.
    let second = approvals(2, at);
    let mut first: Vec<Body> = approvals(2, at - HOUR)[..2].to_vec();
    let Body::ApprovalRequested(requested) = &first[1] else {
        panic!("the second is the question")
    };
    let (id, why) = (requested.id, "timeout".to_owned());
    first.push(Body::ApprovalExpired(ApprovalExpired { id, why }));
    let (mut book, mut tree, mut segment) = (Book::default(), crate::tree::Tree::default(), Vec::new());
    let moved = 2;
    for (seq, body) in (0..).zip(first.into_iter().chain(second)) {
        if seq == moved {
            let pruned = serde_json::json!({
                "first_seq": moved, "prev": Digest::ZERO, "tree": tree, "at": "2026-11-20T00:00:00Z", "moved_to": "elsewhere",
                "book": BookSnapshot::of(&book),
            });
            std::fs::write(audit.path().join(pruned::NAME), pruned.to_string()).unwrap();
        }
        tree.append(Digest::ZERO);
        let ts = Moment::of(Timestamp::from_second(at).unwrap());
        let entry = Entry { seq, ts, body };
        let effect = book.apply(&entry).unwrap();
        if seq < moved {
            continue;
        }
        let place = Place {
            segment: moved,
            offset: segment.len() as u64,
        };
        entry.encode(&Digest::ZERO, &mut segment).unwrap();
        segment.push(b'\n');
        let applied = Applied {
            effects: vec![Effect { place, ..effect }],
            chain: Chain {
                next_seq: seq + 1,
                tip: Digest::ZERO,
            },
            latest: None,
            signed: None,
            finished: vec![],
        };
        index.apply(&[applied]).unwrap();
    }
    std::fs::write(audit.path().join(scan::segment_name(moved)), &segment).unwrap();
    let armed = book
        .open_payments()
        .find(|payment| payment.state == State::Armed)
        .unwrap();
    assert_eq!(index.find(&armed.rid()).unwrap().as_ref(), Some(armed));
}

#[test]
fn the_signed_position_and_finished_segments_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = crate::tree::Tree::default();
    tree.append(Digest::ZERO);
    let place = crate::scan::Place {
        segment: 900,
        offset: 77,
    };
    let signed = Position::new(tree, Digest::ZERO, place);
    let (mut index, _) = Index::open(dir.path(), dir.path()).unwrap();
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
    let snapshot = Index::open(dir.path(), dir.path()).unwrap().1;
    assert_eq!(snapshot.signed, signed);
    assert_eq!(snapshot.segments, [(0, 5), (7, 8), (300, 1 << 40)]);
}

#[test]
fn a_panic_is_an_error() {
    let result = caught::<()>(|| panic!("as sled does"));
    assert_eq!(result, Err("it panicked".to_owned()));
    assert!(!QUIET.get());
}

/// For a journal whose oldest entries were moved away: at any entry, the snapshot keeps everything that the book holds.
#[test]
fn a_whole_book_goes_through_its_text_and_into_a_new_index_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = Book::default();
    for entry in history() {
        book.apply(&entry).unwrap();
        if entry.seq % 40 != 0 {
            continue;
        }
        let text = serde_json::to_string(&BookSnapshot::of(&book)).unwrap();
        let stored: BookSnapshot = serde_json::from_str(&text).unwrap();
        assert_eq!(stored.into_book(), book, "after entry {}", entry.seq);

        let path = dir.path().join(entry.seq.to_string());
        let (mut index, _) = Index::open(&path, dir.path()).unwrap();
        let chain = Chain {
            next_seq: entry.seq + 1,
            tip: Digest([7; 32]),
        };
        let last = Applied {
            effects: vec![],
            chain,
            latest: book.latest(),
            signed: None,
            finished: vec![],
        };
        index.complete(&book, &last).unwrap();
        drop(index);
        let (_, snapshot) = Index::open(&path, dir.path()).unwrap();
        assert_eq!((snapshot.book, snapshot.chain), (book.clone(), chain));
    }
}

/// A snapshot from before approvals existed can be read, and one without approvals has the same members as then,
/// and the buckets.
#[test]
fn a_book_without_approvals_is_kept_as_before() {
    let mut book = Book::default();
    for entry in &history()[..2] {
        book.apply(entry).unwrap();
    }
    let text = serde_json::to_string(&BookSnapshot::of(&book)).unwrap();
    let before: serde_json::Value = serde_json::from_str(&text).unwrap();
    let members: Vec<&str> = before.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        members,
        ["counters", "nonces", "open", "unconfirmed", "latest", "keys", "buckets"]
    );
    let stored: BookSnapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(stored.into_book(), book);
}

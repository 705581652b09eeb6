//! What is on disk after every kind of stop, and what the next start does with it.

use std::fs;
use std::time::Duration;

use crate::world::{FailAt, NOON, World, counted, files, scratch};
use bursar_ledger::book::Book;
use bursar_ledger::entry::{Body, Entry, Opened, Reserved};
use bursar_ledger::journal::{Journal, SEGMENT_BYTES, Step, Torn, Verdict};
use bursar_ledger::pruned::scan;
use bursar_ledger::scan::{JournalError, Line};
use bursar_ledger::text::{Digest, Moment};
use bursar_ledger::tree::Tree;
use bursar_ledger::{CheckpointInterval, Ledger, LedgerError, OpenError, Outcome, Reason, ReserveError, Source, State};

const CENT: u128 = 10_000;

fn fail_at(step: Step, nth: usize, verdict: Verdict) -> impl Fn(&mut bursar_ledger::Options) {
    move |options| options.faults = Some(Box::new(FailAt { step, nth, verdict }))
}

/// Commit 1 is the start itself; the others are one reservation each.
#[tokio::test]
async fn after_a_kill_at_any_step_everything_acknowledged_still_counts() {
    for step in [Step::Write, Step::Sync, Step::Answer] {
        for nth in 2..=5 {
            let world = World::new();
            let ledger = world.open_with(fail_at(step, nth, Verdict::Die));
            let mut acknowledged = Vec::new();
            let killed = loop {
                let purchase = world.purchase(1_000 * CENT);
                let rid = purchase.hold.rid;
                match ledger.reserve(purchase).await {
                    Ok(reservation) => acknowledged.push(reservation.rid()),
                    Err(_) => break rid,
                }
            };
            assert_eq!(acknowledged.len(), nth - 2, "{step:?} {nth}");
            let ledger = world.open();
            let open = ledger.open_items().await.unwrap();
            let on_record: Vec<_> = open.iter().map(|payment| payment.rid()).collect();
            assert!(acknowledged.iter().all(|rid| on_record.contains(rid)), "{step:?} {nth}");
            assert!(open.iter().all(|payment| payment.state == State::Unknown));
            assert!(open.iter().all(|payment| payment.reason.as_deref() == Some("restart")));
            assert_eq!(counted(&ledger).await, on_record.len() as u128 * CENT);
            // If the kill came after the write, the payment counts although it was never acknowledged.
            assert_eq!(on_record.contains(&killed), step != Step::Write, "{step:?} {nth}");
        }
    }
}

#[tokio::test]
async fn a_settlement_that_was_killed_counts_either_way() {
    for step in [Step::Write, Step::Sync, Step::Answer] {
        let world = World::new();
        let ledger = world.open_with(fail_at(step, 3, Verdict::Die));
        let rid = ledger.reserve(world.purchase(CENT)).await.unwrap().rid();
        let settled = Outcome::Settled {
            by: Source::Merchant,
            tx: None,
        };
        ledger.finish(rid, settled).await.unwrap_err();
        let ledger = world.open();
        assert_eq!(counted(&ledger).await, CENT);
        let state = ledger.get(rid).await.unwrap().unwrap().state;
        assert_eq!(
            state,
            if step == Step::Write {
                State::Unknown
            } else {
                State::Settled
            }
        );
    }
}

#[tokio::test]
async fn one_failed_write_or_sync_ends_all_recording() {
    for step in [Step::Write, Step::Sync] {
        let world = World::new();
        let ledger = world.open_with(fail_at(step, 3, Verdict::Fail));
        let rid = ledger.reserve(world.purchase(100 * CENT)).await.unwrap().rid();
        for _ in 0..3 {
            let error = ledger.reserve(world.purchase(100 * CENT)).await.unwrap_err();
            assert!(matches!(error, ReserveError::Failed(_)), "{error:?}");
        }
        let finished = ledger
            .finish(
                rid,
                Outcome::Settled {
                    by: Source::Merchant,
                    tx: None,
                },
            )
            .await;
        assert!(matches!(finished, Err(LedgerError::Failed(_))));
        assert!(matches!(ledger.usage(&["account"]).await, Err(LedgerError::Failed(_))));
        assert!(matches!(ledger.get(rid).await, Err(LedgerError::Failed(_))));
        ledger.close().await;
        let ledger = world.open();
        assert!(counted(&ledger).await >= CENT);
        assert_eq!(ledger.get(rid).await.unwrap().unwrap().state, State::Unknown);
    }
}

#[tokio::test]
async fn a_last_line_torn_at_any_byte_is_moved_away() {
    let world = World::new();
    let ledger = world.open();
    for _ in 0..2 {
        ledger.reserve(world.purchase(100 * CENT)).await.unwrap();
    }
    let whole = format!("{}\n", world.journal());
    let last = whole.trim_end().rfind('\n').unwrap() + 1;
    for cut in last..whole.len() {
        // As a file that ends there, and with fill that the write did not reach.
        for fill in [0, 1000] {
            let audit = scratch();
            let left = [&whole.as_bytes()[..cut], &vec![b'\n'; fill][..]].concat();
            fs::write(audit.path().join("seg-00000000000000000000.jsonl"), left).unwrap();
            let mut lines = 0;
            let mut count = |_: &Line<'_>| {
                lines += 1;
                Ok(())
            };
            let now = NOON.parse().unwrap();
            let scanned = scan(audit.path(), &mut count).unwrap();
            let (journal, torn) =
                Journal::at_end(audit.path(), scanned, Tree::default(), now, SEGMENT_BYTES, None).unwrap();
            let survives = fill > 0 && cut == whole.len() - 1;
            assert_eq!(lines, if survives { 3 } else { 2 }, "cut at {cut}, fill {fill}");
            assert_eq!(journal.chain().next_seq, lines, "cut at {cut}, fill {fill}");
            let moved = files(audit.path(), "torn-");
            if cut == last || survives {
                assert_eq!((torn, moved.len()), (None, 0));
                continue;
            }
            let tail = &whole.as_bytes()[last..cut];
            assert_eq!(fs::read(&moved[0]).unwrap(), tail);
            assert_eq!(
                torn,
                Some(Torn {
                    bytes: tail.len() as u64,
                    sha256: Digest::of(tail)
                })
            );
        }
    }
}

/// One operation is one line, so what is left of a batch is a whole number of operations.
#[tokio::test]
async fn a_batch_torn_at_any_byte_keeps_its_whole_lines() {
    let world = World::new();
    let ledger = world.open();
    let (first, second) = (world.purchase(100 * CENT), world.purchase(100 * CENT));
    let (first, second) = tokio::join!(ledger.reserve(first), ledger.reserve(second));
    assert!(first.is_ok() && second.is_ok());
    let whole = format!("{}\n", world.journal());
    let batch = whole.find('\n').unwrap() + 1;
    for cut in batch..=whole.len() {
        for fill in [0, 1000] {
            let left = [&whole.as_bytes()[..cut], &vec![b'\n'; fill][..]].concat();
            let (lines, torn) = reopened(&left);
            let mut good = whole[..cut].matches('\n').count();
            // If fill follows it, a line that lacks its newline has one.
            if fill > 0 && whole.as_bytes().get(cut) == Some(&b'\n') {
                good += 1;
            }
            assert_eq!(lines, good, "cut at {cut}, fill {fill}");
            let kept = whole.split_inclusive('\n').take(good).map(str::len).sum();
            assert_eq!(torn, cut.saturating_sub(kept) as u64, "cut at {cut}, fill {fill}");
        }
    }
}

/// Valid entries, and bytes moved away, of a journal with this one segment.
fn reopened(segment: &[u8]) -> (usize, u64) {
    let audit = scratch();
    fs::write(audit.path().join("seg-00000000000000000000.jsonl"), segment).unwrap();
    let mut lines = 0;
    let mut count = |_: &Line<'_>| {
        lines += 1;
        Ok(())
    };
    let (scanned, now) = (scan(audit.path(), &mut count).unwrap(), NOON.parse().unwrap());
    let (_, torn) = Journal::at_end(audit.path(), scanned, Tree::default(), now, SEGMENT_BYTES, None).unwrap();
    (lines, torn.map_or(0, |torn| torn.bytes))
}

#[tokio::test]
async fn a_torn_tail_is_noted_in_the_journal_and_its_payment_does_not_count() {
    let world = World::new();
    let killed = fail_at(Step::Answer, 3, Verdict::Die);
    let ledger = world.open_with(|options| {
        killed(options);
        options.signing = CheckpointInterval::every(Duration::MAX, u64::MAX);
    });
    world.wait_until_signed();
    ledger.reserve(world.purchase(100 * CENT)).await.unwrap();
    ledger.reserve(world.purchase(100 * CENT)).await.unwrap_err();
    drop(ledger);
    world.wait_until_released();
    let segment = &world.segments()[0];
    let lines = fs::read_to_string(segment).unwrap();
    let end = lines.match_indices('\n').nth(1).unwrap().0;
    fs::write(segment, &lines[..end + 100]).unwrap();
    let ledger = world.open();
    assert_eq!(counted(&ledger).await, CENT);
    let moved = &files(&world.path().join("audit"), "torn-")[0];
    let sha256 = Digest::of(&fs::read(moved).unwrap());
    assert!(
        world
            .journal()
            .contains(&format!("\"torn_bytes\":99,\"torn_sha256\":\"{sha256}\""))
    );
}

#[tokio::test]
async fn zeros_that_a_file_system_left_are_a_torn_write() {
    let world = World::new();
    let ledger = world.open();
    let rid = ledger.reserve(world.purchase(CENT)).await.unwrap().rid();
    ledger.close().await;
    let segment = &world.segments()[0];
    let bytes = [fs::read(segment).unwrap(), vec![0; 4096]].concat();
    fs::write(segment, bytes).unwrap();
    let ledger = world.open();
    assert!(ledger.get(rid).await.unwrap().is_some());
    assert!(world.journal().contains("\"torn_bytes\":4096,"));
}

#[tokio::test]
async fn damage_before_valid_entries_is_refused_with_file_and_line() {
    let world = World::new();
    let ledger = world.open();
    for _ in 0..3 {
        ledger.reserve(world.purchase(100 * CENT)).await.unwrap();
    }
    ledger.close().await;
    let segment = &world.segments()[0];
    let good = fs::read(segment).unwrap();
    // Line 3 is a reservation. Its digits are part of it; its hash is in line 4.
    let (from, line) = (
        good.iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .nth(1)
            .unwrap()
            .0
            + 1,
        3,
    );
    // With the index the start would not read them: see signed.rs.
    fs::remove_dir_all(world.path().join("index")).unwrap();
    for (at, expected) in [(from, line), (from + 12, line + 1)] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(segment, &bad).unwrap();
        let error = world.try_open().map(|_| ()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("seg-00000000000000000000.jsonl line {expected}: ")),
            "{error}"
        );
        assert_eq!(fs::read(segment).unwrap(), bad, "nothing may be changed");
    }
    fs::write(segment, &good).unwrap();
    world.open().close().await;
}

/// No later entry reveals damage in the newest entry; only the signature does. With an index a start does not read what
/// was signed before; then the background check finds it (see signed.rs).
#[tokio::test]
async fn one_flipped_bit_in_any_signed_entry_is_refused() {
    let world = World::new();
    let ledger = world.open();
    for _ in 0..3 {
        ledger.reserve(world.purchase(100 * CENT)).await.unwrap();
    }
    ledger.close().await;
    let segment = &world.segments()[0];
    let good = fs::read(segment).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 7);
        fs::write(segment, &bad).unwrap();
        // A refused start has created a new one.
        fs::remove_dir_all(world.path().join("index")).unwrap();
        let opened = world.try_open().map(|_| ());
        assert!(
            matches!(
                opened,
                Err(OpenError::Journal(JournalError::Damaged { .. }) | OpenError::Checkpoint(_))
            ),
            "byte {at}: {opened:?}"
        );
        assert_eq!(fs::read(segment).unwrap(), bad, "nothing may be changed");
    }
    fs::write(segment, &good).unwrap();
    world.open().close().await;
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    let world = World::new();
    for _ in 0..3 {
        let ledger = world.open_with(|options| options.segment_bytes = 1);
        ledger.reserve(world.purchase(100 * CENT)).await.unwrap();
        ledger.close().await;
    }
    let segments = world.segments();
    assert!(segments.len() > 3);
    fs::remove_file(&segments[1]).unwrap();
    let error = world.try_open().map(|_| ()).unwrap_err();
    assert!(
        matches!(error, OpenError::Journal(JournalError::Damaged { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("are missing before it"), "{error}");
}

#[tokio::test]
async fn a_new_day_and_a_full_segment_begin_a_new_file() {
    let world = World::new();
    let ledger = world.open();
    ledger.reserve(world.purchase(100 * CENT)).await.unwrap();
    world.clock.set("2026-11-21T00:00:00Z".parse().unwrap());
    ledger.reserve(world.purchase(100 * CENT)).await.unwrap();
    // A clock that goes back does not begin a new file.
    world.clock.set("2026-11-20T23:59:59Z".parse().unwrap());
    ledger.reserve(world.purchase(100 * CENT)).await.unwrap();
    ledger.close().await;
    let names: Vec<_> = world
        .segments()
        .iter()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        ["seg-00000000000000000000.jsonl", "seg-00000000000000000002.jsonl"]
    );
    for segment in world.segments() {
        let text = fs::read_to_string(segment).unwrap();
        assert!(!text.contains("\n\n"), "a finished segment holds entries alone");
    }
    let ledger = world.open_with(|options| options.segment_bytes = 1);
    assert_eq!(world.segments().len(), 3);
    assert_eq!(counted(&ledger).await, 3 * CENT);
}

/// The hold is made from the entry of an armed payment, so that the start finds held money without an approval.
#[tokio::test]
async fn held_money_is_released_at_the_start() {
    let world = World::new();
    let audit = world.path().join("audit");
    fs::create_dir(&audit).unwrap();
    let ledger_elsewhere = World::new();
    let ledger = ledger_elsewhere.open();
    ledger.reserve(world.purchase(CENT)).await.unwrap();
    let line = ledger_elsewhere.journal().lines().nth(1).unwrap().to_owned();
    let (
        Entry {
            body: Body::Reserved(reserved),
            ..
        },
        _,
    ) = Entry::parse(line.as_bytes()).unwrap()
    else {
        panic!("line 2 is the reservation");
    };
    let held = Reserved {
        arm: None,
        ..(*reserved).clone()
    };
    let now = Moment::of(NOON.parse().unwrap());
    let scanned = scan(&audit, &mut |_| Ok(())).unwrap();
    let now_s = now.timestamp();
    let (mut journal, _) = Journal::at_end(&audit, scanned, Tree::default(), now_s, SEGMENT_BYTES, None).unwrap();
    journal.begin(now.timestamp()).unwrap();
    journal
        .push(
            now,
            Body::Opened(Opened {
                sw: "test".into(),
                torn_bytes: None,
                torn_sha256: None,
            }),
        )
        .unwrap();
    journal.push(now, Body::Reserved(held.into())).unwrap();
    journal.commit().unwrap();
    drop(journal);
    let ledger = world.open();
    assert_eq!(counted(&ledger).await, 0);
    let payment = ledger.get(reserved.rid).await.unwrap().unwrap();
    assert_eq!(
        (payment.state, payment.reason.as_deref()),
        (State::Released, Some("restart"))
    );
}

#[tokio::test]
async fn the_running_ledger_and_a_replay_agree() {
    let world = World::new();
    let ledger = world.open();
    for round in 0..30 {
        let rid = ledger.reserve(world.purchase(1_000 * CENT)).await.unwrap().rid();
        let outcome = match round % 4 {
            0 => Outcome::Settled {
                by: Source::Merchant,
                tx: None,
            },
            1 => Outcome::Unknown {
                why: Reason::NoReceipt,
                tx: None,
            },
            2 => Outcome::Expired {
                by: Source::Chain,
                why: bursar_ledger::Reason::NeverCashed,
            },
            _ => continue,
        };
        ledger.finish(rid, outcome).await.unwrap();
    }
    let mut book = Book::default();
    scan(&world.path().join("audit"), &mut |line| {
        let (entry, _) = Entry::parse(line.bytes).map_err(|error| error.to_string())?;
        book.apply(&entry).map(|_| ()).map_err(|error| error.to_string())
    })
    .unwrap();
    let live: Vec<_> = ledger.usage(&["agent:research"]).await.unwrap();
    let replayed: Vec<_> = book.counters().of_scope("agent:research").collect();
    assert_eq!(live.len(), replayed.len());
    for (live, (window, start, counter)) in live.iter().zip(replayed) {
        assert_eq!((live.window.as_str(), live.start.as_str()), (window, start));
        assert_eq!((live.settled, live.open), (counter.settled, counter.open));
    }
    let open: Vec<_> = book.open_payments().cloned().collect();
    assert_eq!(ledger.open_items().await.unwrap(), open);
}

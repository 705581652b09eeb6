//! Whatever the index and the end of the journal look like, a start ends with the book of a plain replay.

use std::fs::OpenOptions as FileOptions;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};

use bursar_core::clock::ManualClock;
use bursar_home::{Readers, write_new};
use proptest::prelude::*;
use proptest::sample::Index as Choice;

use super::*;
use crate::entry::Entry;
use crate::index::tests::history;
use crate::scan::{segment_name, segments};
use crate::text::Digest;

const KEY: &str = "ed25519-seed AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";

/// The book, the end of the journal, and the tree; or what is wrong.
type Replayed = Result<(Book, Scanned, Tree), String>;

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_new(&dir.path().join("log.key"), KEY.as_bytes(), Readers::Owner).unwrap();
    dir
}

fn options(entry: &Entry) -> Options {
    Options {
        segment_bytes: 16 << 10,
        ..Options::new(Arc::new(ManualClock::at(entry.ts.timestamp())))
    }
}

/// Starts a ledger and records the entries that can still follow; of the batches, the index sees only the first
/// `indexed`. Then the process dies. Returns where the valid lines end.
fn session(dir: &Path, entries: &[Entry], indexed: usize) -> Place {
    let Opening {
        mut journal,
        mut book,
        mut index,
        ..
    } = open(dir, &mut options(&entries[0])).unwrap();
    for (number, batch) in entries.chunks(5).enumerate() {
        let mut effects = Vec::new();
        journal.begin(batch[0].ts.timestamp()).unwrap();
        for Entry { ts, body, .. } in batch {
            let (seq, ts) = (journal.chain().next_seq, *ts);
            let body = body.clone();
            // The start has closed some payments.
            if book
                .clone()
                .apply(&Entry {
                    seq,
                    ts,
                    body: body.clone(),
                })
                .is_err()
            {
                continue;
            }
            let place = journal.next_place();
            let entry = journal.push(ts, body).unwrap();
            let effect = book.apply(&entry).unwrap();
            effects.push(Effect { place, ..effect });
        }
        journal.commit().unwrap();
        journal.fill_ahead().unwrap();
        let applied = Applied {
            effects,
            chain: journal.chain(),
            latest: book.latest(),
            signed: None,
            finished: journal.take_finished(),
        };
        if let (true, Some(index)) = (number < indexed, &mut index) {
            index.apply(&[applied]).unwrap();
        }
    }
    if let Some(index) = &mut index {
        index.checkpoint().unwrap();
    }
    journal.next_place()
}

/// The book and the end of the journal, read line by line.
fn plain(audit: &Path) -> Replayed {
    let (mut book, mut tree) = (Book::default(), Tree::default());
    let scanned = scan(audit, &mut |line| {
        tree.append(line.leaf);
        let entry = Entry::headed(&line.head, line.bytes).map_err(|error| error.to_string())?;
        book.apply(&entry).map(drop).map_err(|illegal| illegal.to_string())
    });
    Ok((book, scanned.map_err(|error| error.to_string())?, tree))
}

/// The same on several cores.
fn on_several_cores(audit: &Path) -> Replayed {
    let first = pruned::beginning(audit).unwrap();
    let mut follower = Follower::new(Tree::default(), &[]);
    let mut replay = Replay::onto(None, &first);
    let show: ShowStart = Arc::new(|_| {});
    let scanned = replay_from(audit, first.chain, first.place, &mut follower, &mut replay, &show);
    let scanned = scanned.map_err(|error| error.to_string())?;
    Ok((replay.end().book, scanned, follower.tree))
}

fn expect_same(one: Replayed, several: Replayed) {
    match (one, several) {
        (Ok((book, scanned, tree)), Ok(several)) => {
            assert_eq!(book, several.0);
            assert_eq!(format!("{scanned:?}"), format!("{:?}", several.1));
            assert_eq!(tree, several.2);
        }
        (one, several) => assert_eq!(one.err(), several.err()),
    }
}

fn put(path: &Path, offset: u64, bytes: &[u8]) {
    let file = FileOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        match file.file_type().unwrap().is_dir() {
            true => copy(&file.path(), &to),
            false => drop(fs::copy(file.path(), to).unwrap()),
        }
    }
}

#[derive(Clone, Debug)]
enum IndexIs {
    AsItWasLeft,
    Missing,
    /// From before the last session.
    Older,
    Damaged(Choice, u8),
    Cut(Choice),
}

fn index_is() -> impl Strategy<Value = IndexIs> {
    prop_oneof![
        Just(IndexIs::AsItWasLeft),
        Just(IndexIs::Missing),
        Just(IndexIs::Older),
        (any::<Choice>(), 1..=u8::MAX).prop_map(|(at, with)| IndexIs::Damaged(at, with)),
        any::<Choice>().prop_map(IndexIs::Cut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_start_ends_with_the_book_of_a_plain_replay(
        stop in 1..240usize,
        indexed in (0..50usize, 0..50usize),
        index_is in index_is(),
        torn in 0..400usize,
    ) {
        let dir = directory();
        let (audit, index) = (dir.path().join("audit"), dir.path().join("index"));
        let history = history();
        let (early, late) = history.split_at(stop);
        session(dir.path(), early, indexed.0);
        copy(&index, &dir.path().join("older"));
        let end = session(dir.path(), late, indexed.1);
        // The last write was cut off.
        let line = history[0].body.clone();
        let mut bytes = Vec::new();
        Entry { seq: 0, ts: history[0].ts, body: line }.encode(&Digest::ZERO, &mut bytes).unwrap();
        bytes.truncate(torn.min(bytes.len() - 1));
        put(&audit.join(segment_name(end.segment)), end.offset, &bytes);
        let db = index.join("db");
        match index_is {
            IndexIs::AsItWasLeft => {}
            IndexIs::Missing => fs::remove_dir_all(&index).unwrap(),
            IndexIs::Older => {
                fs::remove_dir_all(&index).unwrap();
                fs::rename(dir.path().join("older"), &index).unwrap();
            }
            IndexIs::Damaged(at, with) => {
                let mut bytes = fs::read(&db).unwrap();
                let at = at.index(bytes.len());
                bytes[at] ^= with;
                fs::write(&db, bytes).unwrap();
            }
            IndexIs::Cut(at) => {
                let mut bytes = fs::read(&db).unwrap();
                bytes.truncate(at.index(bytes.len()));
                fs::write(&db, bytes).unwrap();
            }
        }

        let steps = Arc::new(Mutex::new(Vec::new()));
        let seen = steps.clone();
        let mut options = options(&history[history.len() - 1]);
        options.show_start = Arc::new(move |step| seen.lock().unwrap().push(step));
        let opening = open(dir.path(), &mut options).unwrap();
        let (book, scanned, tree) = plain(&audit).unwrap();
        prop_assert_eq!(&opening.book, &book);
        prop_assert_eq!(opening.journal.chain(), scanned.chain);
        prop_assert_eq!(tree.size(), scanned.chain.next_seq);
        let steps = steps.lock().unwrap().clone();
        prop_assert_eq!(steps.last(), Some(&StartStep::Ready));
        let read_all = |step: &StartStep| matches!(step, StartStep::Reading { read, of } if read <= of && *read > 0);
        prop_assert!(steps.iter().any(read_all));

        // The index is complete again: it has the same book, and the start did not need to read more.
        drop(opening);
        let (_, known) = Index::open(&index, &audit).unwrap();
        prop_assert_eq!(known.chain, scanned.chain);
        prop_assert_eq!(known.book, book);
        prop_assert_eq!(known.segments, scanned.finished);
    }

    #[test]
    fn several_cores_judge_every_damaged_journal_as_one_does(
        stop in 1..240usize,
        which in any::<Choice>(),
        at in any::<Choice>(),
        with in prop_oneof![Just(b'\n'), Just(b' '), Just(b'"'), any::<u8>()],
        cut in any::<bool>(),
    ) {
        let dir = directory();
        let audit = dir.path().join("audit");
        session(dir.path(), &history()[..stop], 0);
        let segments = segments(&audit).unwrap();
        prop_assert!(on_several_cores(&audit).is_ok());
        let path = &which.get(&segments).1;
        let mut bytes = fs::read(path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 2);
        let at = at.index(used.max(1));
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] = with,
        }
        fs::write(path, bytes).unwrap();
        expect_same(plain(&audit), on_several_cores(&audit));
    }
}

#[test]
fn a_missing_segment_is_found_wherever_it_was() {
    let dir = directory();
    let audit = dir.path().join("audit");
    session(dir.path(), &history(), 0);
    let segments = segments(&audit).unwrap();
    assert!(segments.len() > 3);
    for (_, path) in &segments[..segments.len() - 1] {
        let aside = path.with_extension("aside");
        fs::rename(path, &aside).unwrap();
        let one = plain(&audit);
        assert!(one.is_err());
        expect_same(one, on_several_cores(&audit));
        fs::rename(aside, path).unwrap();
    }
}

//! The index: a sled store of what the book holds, and of where each payment's entries are in the journal, so that a
//! start need not replay the whole journal and a look-up need not search it.
//!
//! It is never the truth. sled 0.34's `flush` does not reach the disk, and after a crash sled may open in an older
//! state or panic. So every batch stores how far it has come and the leaf hash there; a start compares both with the
//! journal, replays the rest, and rebuilds from nothing when they do not match (R204).

mod changes;
mod rows;

use std::fs::File;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::book::approvals::{ReplayKey, Subject};
use super::book::{Book, Effect};
use super::buckets::{Bucket, Quarter, Span};
use super::counters::{Counter, CounterKey};
use super::entry::Entry;
use super::key::KeyHold;
use super::payment::{NonceKey, Payment};
use super::pruned;
use super::resume::Position;
use super::scan::{self, Chain, Place};
use super::text::{Digest, Moment};
use bursar_core::payment_id::PaymentId;
use changes::{Changes, Places};
use rows::*;

/// How long changes may be in memory only, and how many entries. Losing them only costs a longer replay.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
const CHECKPOINT_ENTRIES: usize = 4096;

/// How long changes are gathered, because a batch of many costs little more than a batch of one. What is not
/// checkpointed yet may be lost anyway; a look-up does not wait for it.
const GATHER: Duration = Duration::from_millis(50);

/// The most messages that wait for the index. A writer that is further ahead waits for it: changes take some kilobytes
/// for each payment, and what no index can take at that rate must not pile up in memory.
pub(crate) const FEED: usize = 256;

/// The most entries in one sled batch. sled holds on to every page that a batch has changed until the batch is over:
/// with thousands of entries in one, that is gigabytes.
pub(crate) const BATCH_ENTRIES: usize = 512;

/// Pages that sled keeps in memory, by their size on the disk: in memory they take about three times as much. Only the
/// newest rows are written, and few old ones are looked up.
const CACHE_BYTES: u64 = 8 << 20;

/// Changed whenever keys or values change; an index with another number is rebuilt.
const FORMAT: u8 = 6;

// Key prefixes. There is one tree, so that one batch covers all of it.
const MARK: &[u8] = b"m";
/// How long to wait while something else holds sled's lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

const APPROVAL: u8 = b'a';
const BUCKET: u8 = b'b';
const COUNTER: u8 = b'c';
const DENIAL: u8 = b'd';
const EVER: u8 = b'e';
const KEY: u8 = b'k';
const NONCE: u8 = b'n';
const OPEN: u8 = b'o';
const PAUSE: u8 = b'w';
const PAYMENT: u8 = b'p';
const REPLAY: u8 = b'r';
/// The quarter-hour before which payments are missing from the buckets.
const SINCE: u8 = b't';
const SEGMENT: u8 = b's';
const UNCONFIRMED: u8 = b'u';

/// How far the index has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mark {
    format: u8,
    applied: u64,
    tip: Digest,
    latest: Option<Moment>,
    signed: Position,
}

/// Changes of one batch, in order, and the state of the chain after them.
pub(crate) struct Applied {
    pub effects: Vec<Effect>,
    pub chain: Chain,
    /// The book's latest time after them.
    pub latest: Option<Moment>,
    /// The position of the latest signed checkpoint, if it is new.
    pub signed: Option<Position>,
    /// First entry and length of segments that were finished.
    pub finished: Vec<(u64, u64)>,
}

/// What the writer sends. Only look-ups wait for an answer.
pub(crate) enum Feed {
    Applied(Applied),
    Find(PaymentId, oneshot::Sender<Option<Payment>>),
}

/// Which payment an entry is about, and where the entry is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touched {
    pub rid: PaymentId,
    /// The payment was not in the journal before.
    pub begun: bool,
    pub place: Place,
}

impl Touched {
    pub(crate) fn by(effect: &Effect) -> Option<Self> {
        effect.touched().map(|rid| Self {
            rid,
            begun: effect.begun,
            place: effect.place,
        })
    }
}

pub(crate) struct Index {
    /// The directory of the segments.
    audit: PathBuf,
    db: sled::Db,
    /// A second handle on sled's file, for the sync that sled does not do.
    file: File,
    unsaved: u64,
    saved_at: Instant,
    applied: u64,
    signed: Position,
}

/// What an index contained when it was opened.
pub(crate) struct Snapshot {
    pub chain: Chain,
    pub book: Book,
    /// The last signed position that it was informed of.
    pub signed: Position,
    /// First entry and length of the finished segments, in order.
    pub segments: Vec<(u64, u64)>,
    /// It is empty: new, or deleted before the start.
    pub is_new: bool,
}

impl Index {
    /// Opens and reads the index in a thread of its own, because sled may panic on a damaged file or read as much as
    /// that file says. `Err` says what is wrong; nothing was changed then.
    pub(crate) fn open(dir: &Path, audit: &Path) -> Result<(Self, Snapshot), String> {
        let (dir, audit) = (dir.to_owned(), audit.to_owned());
        thread::Builder::new()
            .name("index-open".to_owned())
            .spawn(move || quietly(|| Self::open_here(&dir, audit)))
            .map_err(|error| error.to_string())?
            .join()
            .unwrap_or_else(|_| Err("opening it panicked".to_owned()))
    }

    fn open_here(dir: &Path, audit: PathBuf) -> Result<(Self, Snapshot), String> {
        let db = open_unlocked(dir)?;
        let file = File::open(dir.join("db")).map_err(|error| error.to_string())?;
        let snapshot = load(&db)?;
        let applied = snapshot.chain.next_seq;
        Ok((
            Self {
                audit,
                db,
                file,
                unsaved: 0,
                saved_at: Instant::now(),
                applied,
                signed: snapshot.signed.clone(),
            },
            snapshot,
        ))
    }

    /// Applies changes in one batch, which sled applies as a whole or not at all.
    pub(crate) fn apply(&mut self, batches: &[Applied]) -> Result<(), String> {
        let Some(&Applied { chain, latest, .. }) = batches.last() else {
            return Ok(());
        };
        if let Some(signed) = batches.iter().rev().find_map(|batch| batch.signed.as_ref()) {
            self.signed.clone_from(signed);
        }
        let mut batch = sled::Batch::default();
        for (first_seq, length) in batches.iter().flat_map(|batch| &batch.finished) {
            batch.insert(key(SEGMENT, &first_seq.to_be_bytes()), &length.to_be_bytes());
        }
        let effects = batches.iter().flat_map(|batch| &batch.effects);
        Changes::of(effects).write(&mut batch, |rid| self.places(rid))?;
        let mark = Mark {
            format: FORMAT,
            applied: chain.next_seq,
            tip: chain.tip,
            latest,
            signed: self.signed.clone(),
        };
        batch.insert(MARK, serde_json::to_vec(&mark).map_err(|error| error.to_string())?);
        // As atomic as sled's transactions, but those also read every old value first.
        caught(|| self.db.apply_batch(batch).map_err(|error| error.to_string()))?;
        self.sweep(batches.iter().map(|batch| batch.effects.len()).sum())?;
        self.unsaved += chain.next_seq.saturating_sub(self.applied);
        self.applied = chain.next_seq;
        Ok(())
    }

    /// Like [`Index::apply`] during a replay of the whole journal: what is known only at the end is left to
    /// [`Index::complete`]. Until then the index has no mark, so it cannot be mistaken for a complete one.
    pub(crate) fn fill(&mut self, touched: &[Touched]) -> Result<(), String> {
        for touched in touched.chunks(BATCH_ENTRIES) {
            let mut places = Places::default();
            touched.iter().for_each(|touched| places.add(*touched));
            let mut batch = sled::Batch::default();
            places.write(&mut batch, |rid| self.places(rid))?;
            caught(|| self.db.apply_batch(batch).map_err(|error| error.to_string()))?;
            self.sweep(touched.len())?;
        }
        Ok(())
    }

    /// Finishes what [`Index::fill`] began: writes the whole content of the book, then the mark. `last` must already be
    /// in the book.
    pub(crate) fn complete(&mut self, book: &Book, last: &Applied) -> Result<(), String> {
        let touched: Vec<_> = last.effects.iter().filter_map(Touched::by).collect();
        self.fill(&touched)?;
        let mut rows = changes::rows(book);
        loop {
            let mut batch = sled::Batch::default();
            let mut count = 0;
            for row in rows.by_ref().take(BATCH_ENTRIES) {
                let (key, value) = row?;
                batch.insert(key, value);
                count += 1;
            }
            if count == 0 {
                break;
            }
            caught(|| self.db.apply_batch(batch).map_err(|error| error.to_string()))?;
            self.sweep(count)?;
        }
        let mark = Applied {
            effects: Vec::new(),
            finished: last.finished.clone(),
            signed: last.signed.clone(),
            ..*last
        };
        self.apply(&[mark])
    }

    /// sled frees what a batch has replaced a little at a time, at the start of a read. During a replay nothing reads,
    /// so this does: otherwise memory would grow until the replay is over.
    fn sweep(&self, entries: usize) -> Result<(), String> {
        caught(|| {
            for _ in 0..512 + 2 * entries {
                self.db.get(MARK).map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    }

    /// Makes what was applied durable.
    pub(crate) fn checkpoint(&mut self) -> Result<(), String> {
        (self.unsaved, self.saved_at) = (0, Instant::now());
        caught(|| self.db.flush().map(|_| ()).map_err(|error| error.to_string()))?;
        self.file.sync_data().map_err(|error| error.to_string())
    }

    /// A payment in any state, from its entries in the journal.
    pub(crate) fn find(&self, rid: &PaymentId) -> Result<Option<Payment>, String> {
        let places = self.places(rid)?;
        if places.is_empty() {
            return Ok(None);
        }
        // A payment that began in segments that were moved away continues from the snapshot of the book.
        let book = pruned::beginning(&self.audit).map_err(|error| error.to_string())?.book;
        let (mut book, mut found) = (book.for_one(*rid), None);
        for place in places {
            let line = scan::line_at(&self.audit, place).map_err(|error| error.to_string())?;
            let line = line.ok_or_else(|| format!("the journal has no entry of payment {rid} where the index says"))?;
            let (entry, _) = Entry::parse(&line).map_err(|error| error.to_string())?;
            let effect = book.apply(&entry).map_err(|illegal| illegal.to_string())?;
            found = effect.payment.or(found);
            if let (Some((_, amendment)), Some(payment)) = (&effect.amended, &mut found) {
                amendment.apply(payment);
            }
        }
        Ok(found.filter(|payment| payment.rid() == *rid))
    }

    fn places(&self, rid: &PaymentId) -> Result<Vec<Place>, String> {
        let row = caught(|| {
            self.db
                .get(key(PAYMENT, rid.bytes()))
                .map_err(|error| error.to_string())
        })?;
        row.map_or(Ok(Vec::new()), |row| {
            places_row(&row).ok_or_else(|| format!("its list of entries for payment {rid} cannot be read"))
        })
    }

    /// Follows the writer until it hangs up. To get a look-up or the end without delay, unpark this thread. An index
    /// that fails is left as it is: the next start rebuilds or replays it.
    pub(crate) fn follow(mut self, feed: &Receiver<Feed>) {
        if let Err(error) = self.follow_until_closed(feed).and_then(|()| self.checkpoint()) {
            tracing::warn!(%error, "the ledger's index stopped; payments go on, and the next start repairs it");
        }
    }

    fn follow_until_closed(&mut self, feed: &Receiver<Feed>) -> Result<(), String> {
        // More waits than one batch can take: gathering would only fall further behind.
        let mut is_behind = false;
        loop {
            let due = self.saved_at + CHECKPOINT_EVERY;
            let first = match self.unsaved {
                0 => feed.recv().map_err(|_| RecvTimeoutError::Disconnected),
                _ => feed.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            let mut batches = Vec::new();
            let mut lookups = Vec::new();
            match first {
                Ok(message) => {
                    if let (Feed::Applied(_), false) = (&message, is_behind) {
                        thread::park_timeout(GATHER);
                    }
                    // What has piled up becomes one batch: a slow index catches up instead of growing a queue.
                    let mut entries = 0;
                    for message in std::iter::once(message).chain(feed.try_iter()) {
                        match message {
                            Feed::Applied(batch) => {
                                entries += batch.effects.len();
                                batches.push(batch);
                            }
                            Feed::Find(rid, reply) => lookups.push((rid, reply)),
                        }
                        if entries >= BATCH_ENTRIES {
                            break;
                        }
                    }
                    is_behind = entries >= BATCH_ENTRIES;
                }
                Err(RecvTimeoutError::Timeout) => is_behind = false,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if self.unsaved == 0 {
                self.saved_at = Instant::now();
            }
            self.apply(&batches)?;
            for (rid, reply) in lookups {
                match self.find(&rid) {
                    // The caller may have gone away.
                    Ok(payment) => drop(reply.send(payment)),
                    // The caller then searches the whole journal.
                    Err(error) => {
                        tracing::warn!(
                            %error,
                            payment = %rid,
                            "the ledger's index failed a look-up; searching the journal"
                        );
                    }
                }
            }
            if self.unsaved >= CHECKPOINT_ENTRIES as u64
                || (self.unsaved > 0 && self.saved_at.elapsed() >= CHECKPOINT_EVERY)
            {
                self.checkpoint()?;
            }
        }
    }
}

/// sled releases its lock a moment after the last handle is gone, and a child process that is being started holds it
/// until its exec. Nothing else can hold it for longer, since we hold the directory's own lock: waiting saves a
/// rebuild.
fn open_unlocked(dir: &Path) -> Result<sled::Db, String> {
    let began = Instant::now();
    loop {
        let opened = sled::Config::new()
            .path(dir)
            .flush_every_ms(None)
            .cache_capacity(CACHE_BYTES)
            .open();
        match opened.map_err(|error| error.to_string()) {
            Err(error) if error.contains("could not acquire lock") && began.elapsed() < LOCK_WAIT => {
                thread::sleep(Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
}

fn load(db: &sled::Db) -> Result<Snapshot, String> {
    let mut book = Book::default();
    let Some(mark) = db.get(MARK).map_err(|error| error.to_string())? else {
        let is_new = db.is_empty() && db.tree_names().len() == 1;
        let foreign = || "it was not created by bursar".to_owned();
        return is_new
            .then_some(Snapshot {
                chain: Chain::START,
                book,
                signed: Position::default(),
                segments: Vec::new(),
                is_new,
            })
            .ok_or_else(foreign);
    };
    let mark: Mark = serde_json::from_slice(&mark).map_err(|error| error.to_string())?;
    if mark.format != FORMAT {
        return Err(format!(
            "its format is {}, but this version of bursar uses {FORMAT}",
            mark.format
        ));
    }
    let broken = |what: &str| format!("a {what} in it cannot be read");
    for row in db.scan_prefix([COUNTER]) {
        let (key, value) = row.map_err(|error| error.to_string())?;
        let (key, counter) = counter_row(&key, &value).ok_or_else(|| broken("counter"))?;
        book.restore_counter(key, counter);
    }
    for row in db.scan_prefix([BUCKET]).chain(db.scan_prefix([EVER])) {
        let (key, value) = row.map_err(|error| error.to_string())?;
        let (scope, span, bucket) = bucket_row(&key, &value).ok_or_else(|| broken("bucket"))?;
        book.restore_bucket(scope, span, bucket);
    }
    if let Some(value) = db.get([SINCE]).map_err(|error| error.to_string())? {
        let since = <[u8; 4]>::try_from(&*value).map_err(|_| broken("quarter-hour"))?;
        book.restore_since(Quarter(u32::from_be_bytes(since)));
    }
    for row in db.scan_prefix([NONCE]) {
        let (key, _) = row.map_err(|error| error.to_string())?;
        let (free_at, nonce) = nonce_row(&key).ok_or_else(|| broken("nonce"))?;
        book.restore_nonce(free_at, nonce);
    }
    for row in db.scan_prefix([UNCONFIRMED]) {
        let (key, value) = row.map_err(|error| error.to_string())?;
        let rid = <[u8; 16]>::try_from(&key[1..]).map_err(|_| broken("payment"))?;
        let booking = match value.is_empty() {
            true => None,
            false => Some(serde_json::from_slice(&value).map_err(|_| broken("booking"))?),
        };
        book.restore_unconfirmed(PaymentId::from_bytes(rid), booking);
    }
    for row in db.scan_prefix([KEY]) {
        let (key, value) = row.map_err(|error| error.to_string())?;
        book.restore_key(KeyHold::from_row(&key[1..], &value).ok_or_else(|| broken("idempotency key"))?);
    }
    for row in db.scan_prefix([APPROVAL]) {
        let (_, value) = row.map_err(|error| error.to_string())?;
        let row = serde_json::from_slice(&value).ok();
        book.restore_approval(row.ok_or_else(|| broken("approval"))?);
    }
    for row in db.scan_prefix([REPLAY]) {
        let (key, value) = row.map_err(|error| error.to_string())?;
        let replay = <[u8; 32]>::try_from(&key[1..]).ok().zip(moment_row(&value));
        let (replay, until) = replay.ok_or_else(|| broken("replay key"))?;
        book.restore_replay(replay, until);
    }
    for row in db.scan_prefix([DENIAL]) {
        let (key, value) = row.map_err(|error| error.to_string())?;
        let denial = subject_row(&key).zip(moment_row(&value));
        let (subject, until) = denial.ok_or_else(|| broken("refusal"))?;
        book.restore_denial(subject, until);
    }
    for row in db.scan_prefix([PAUSE]) {
        let (_, value) = row.map_err(|error| error.to_string())?;
        let pause = serde_json::from_slice(&value).ok();
        book.restore_pause(pause.ok_or_else(|| broken("pause"))?);
    }
    book.restore_latest(mark.latest);
    for row in db.scan_prefix([OPEN]) {
        let (_, value) = row.map_err(|error| error.to_string())?;
        let payment = serde_json::from_slice(&value).ok();
        book.restore_open(payment.ok_or_else(|| broken("payment"))?);
    }
    let mut segments = Vec::new();
    for row in db.scan_prefix([SEGMENT]) {
        let (key, value) = row.map_err(|error| error.to_string())?;
        segments.push(segment_row(&key, &value).ok_or_else(|| broken("segment"))?);
    }
    if !book.adds_up() {
        return Err("its counters and approvals do not match its open payments".to_owned());
    }
    Ok(Snapshot {
        chain: Chain {
            next_seq: mark.applied,
            tip: mark.tip,
        },
        book,
        signed: mark.signed,
        segments,
        is_new: false,
    })
}

/// A panic inside sled is an error of the index, not of the ledger.
fn caught<T>(step: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let result = panic::catch_unwind(AssertUnwindSafe(|| quietly(step)));
    QUIET.set(false);
    result.unwrap_or_else(|_| Err("it panicked".to_owned()))
}

thread_local! {
    static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `step` without the default panic text on stderr: a damaged index is expected now and then, and is reported in a
/// log line.
fn quietly<T>(step: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                before(panic);
            }
        }));
    });
    QUIET.set(true);
    let result = step();
    QUIET.set(false);
    result
}

#[cfg(test)]
pub(crate) mod tests;

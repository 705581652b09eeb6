//! The start: takes the lock, checks the journal, loads or rebuilds the index, and says what a stop left open
//! (digest §2.2, §3.6).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use thiserror::Error;

use super::Options;
use super::book::{Book, Effect, Illegal};
use super::entry::{Body, Entry, EntryError, Opened, Rebuilt, Released, Unknown};
use super::format::{self, FormatError};
use super::index::{Applied, Index, Snapshot};
use super::journal::{CommitError, Journal, sync_dir};
use super::model::{Alarm, State};
use super::pruned;
use super::scan::{Chain, JournalError, Line, scan};
use super::text::Moment;

/// Why the ledger did not open. Nothing can be paid then.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("another bursar uses {}; stop it first, or choose another directory with --dir", .0.display())]
    InUse(PathBuf),
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("cannot record the start: {0}")]
    Commit(#[from] CommitError),
    #[error("cannot record the start: {0}")]
    Entry(#[from] EntryError),
    #[error("cannot record the start: {0}")]
    Illegal(#[from] Illegal),
    /// The data directory and the books in the database do not go together, or the database cannot be used as it is.
    #[error("[store]: {0}")]
    Shared(String),
}

/// All that the writer needs, consistent and durable.
pub struct Opening {
    /// Held as long as the writer lives.
    pub _lock: File,
    pub journal: Journal,
    pub book: Book,
    /// None: it cannot be used, and the ledger goes on without.
    pub index: Option<Index>,
}

/// Makes what is missing of the directory's folders, and keeps other processes out for as long as the file is held.
pub fn take(dir: &Path) -> Result<File, OpenError> {
    let audit = dir.join("audit");
    for path in [dir, &audit, &dir.join("private")] {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| OpenError::Io {
            what: "create",
            path: path.to_owned(),
            source,
        })?;
    }
    sync_dir(dir)?;
    let lock = lock(dir)?;
    format::bring_up_to_date(dir)?;
    Ok(lock)
}

pub fn open(dir: &Path, options: &mut Options) -> Result<Opening, OpenError> {
    let lock = take(dir)?;
    let audit = dir.join("audit");
    let now = Moment::of(options.clock.now());
    let index_dir = dir.join("index");
    let (opened, mut rebuild) = open_index(&index_dir, now.timestamp());
    let (first, before_first) = (pruned::beginning(&audit)?, pruned::first_book(&audit)?);
    let mut replay = Replay::onto(opened, first, &before_first);
    let (mut journal, torn) = Journal::open(
        &audit,
        now.timestamp(),
        options.segment_bytes,
        options.faults.take(),
        &mut |line| replay.visit(line),
    )?;
    if let Some(why) = replay.misfit(journal.chain()) {
        drop(replay);
        let renewed = renew(&index_dir, now.timestamp()).map_err(|error| tracing::warn!(%error, "no index"));
        replay = Replay::onto(renewed.ok(), first, &before_first);
        scan(&audit, &mut |line| replay.visit(line))?;
        rebuild = Some(why);
    }
    let entries = journal.chain().next_seq;
    let rebuilt = rebuild.filter(|_| entries > 0).map(|why| {
        (options.alarms)(Alarm::IndexRebuilt { why: why.to_owned() });
        tracing::warn!(%why, entries, "the ledger's index was rebuilt from the journal");
        Rebuilt {
            entries,
            why: why.to_owned(),
        }
    });
    let Replay {
        mut book,
        mut index,
        mut effects,
        ..
    } = replay;

    if let Some(torn) = &torn {
        (options.alarms)(Alarm::TornWrite { bytes: torn.bytes });
    }
    let mut bodies = vec![Body::Opened(Opened {
        sw: concat!("bursar/", env!("CARGO_PKG_VERSION")).to_owned(),
        torn_bytes: torn.as_ref().map(|torn| torn.bytes),
        torn_sha256: torn.map(|torn| torn.sha256),
    })];
    bodies.extend(rebuilt.map(Body::Rebuilt));
    bodies.extend(left_open(&book));
    journal.begin(now.timestamp())?;
    for body in bodies {
        let entry = journal.push(now, body)?;
        effects.push(book.apply(&entry)?);
    }
    journal.commit()?;
    journal.fill_ahead()?;
    let applied = Applied {
        effects,
        chain: journal.chain(),
        latest: book.latest(),
    };
    index = index.and_then(|index| feed(index, applied));
    Ok(Opening {
        _lock: lock,
        journal,
        book,
        index,
    })
}

/// What nobody waits for any more. Held money was never signed for and goes back; armed money may be with a seller.
fn left_open(book: &Book) -> impl Iterator<Item = Body> {
    book.open_payments().filter_map(|payment| {
        let (rid, why) = (payment.rid(), "restart".to_owned());
        match payment.state {
            State::Held => Some(Body::Released(Released { rid, why })),
            State::Armed => Some(Body::Unknown(Unknown { rid, tx: None, why })),
            _ => None,
        }
    })
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let failed = |source| OpenError::Io {
        what: "lock",
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The index, or a new one in its place and why.
fn open_index(dir: &Path, now: Timestamp) -> (Option<(Index, Snapshot)>, Option<&'static str>) {
    match Index::open(dir) {
        Ok(opened) if opened.1.is_new => (Some(opened), Some("the index was not there")),
        Ok(opened) => (Some(opened), None),
        Err(error) => {
            tracing::warn!(%error, "the ledger's index is broken");
            let renewed = renew(dir, now).map_err(|error| tracing::warn!(%error, "no index"));
            (renewed.ok(), Some("the index was broken"))
        }
    }
}

/// Puts a fresh index where a broken one was, and keeps the broken one beside it.
fn renew(dir: &Path, now: Timestamp) -> Result<(Index, Snapshot), String> {
    let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut kept = dir.with_extension(format!("bad-{time}"));
    for number in 1.. {
        if !kept.exists() {
            break;
        }
        kept = dir.with_extension(format!("bad-{time}-{number}"));
    }
    fs::rename(dir, &kept).map_err(|error| format!("cannot rename {}: {error}", dir.display()))?;
    Index::open(dir)
}

fn feed(mut index: Index, applied: Applied) -> Option<Index> {
    match index.apply(&[applied]) {
        Ok(()) => Some(index),
        Err(error) => {
            tracing::warn!(%error, "the ledger's index cannot be written; payments go on without it");
            None
        }
    }
}

/// A new index of a journal that does not begin at its first entry.
fn begin(mut index: Index, book: &Book, at: Chain) -> Option<Index> {
    match index.fill(book, at) {
        Ok(()) => Some(index),
        Err(error) => {
            tracing::warn!(%error, "the ledger's index cannot be written; payments go on without it");
            None
        }
    }
}

/// How many entries of a replay go to the index at once.
const CHUNK: usize = 4096;

/// Applies what the index has not seen, and finds out on the way whether the index fits the journal.
struct Replay {
    book: Book,
    index: Option<Index>,
    /// How far the index had come.
    from: Chain,
    /// Where the journal begins.
    first: Chain,
    misfit: Option<&'static str>,
    effects: Vec<Effect>,
}

impl Replay {
    /// `first` is where the journal begins, `before` the book there: nothing, unless old segments were moved away.
    fn onto(opened: Option<(Index, Snapshot)>, first: Chain, before: &Book) -> Self {
        let (mut index, snapshot) = opened.unzip();
        let (mut from, mut book, mut misfit) = (first, before.clone(), None);
        if let Some(snapshot) = snapshot.filter(|snapshot| !snapshot.is_new) {
            // The entries between were moved away: it cannot catch up any more.
            let is_behind = snapshot.chain.next_seq < first.next_seq;
            misfit = is_behind.then_some("the index ended before the entries that are here");
            (from, book) = (snapshot.chain, snapshot.book);
        } else if first != Chain::START {
            index = index.and_then(|index| begin(index, before, first));
        }
        Self {
            book,
            index,
            from,
            first,
            misfit,
            effects: Vec::new(),
        }
    }

    fn visit(&mut self, line: &Line<'_>) -> Result<(), String> {
        let seq = line.head.seq;
        if seq + 1 == self.from.next_seq && line.leaf != self.from.tip {
            self.misfit = Some("the index belonged to another journal");
        }
        if seq < self.from.next_seq || self.misfit.is_some() {
            return Ok(());
        }
        let (entry, _) = Entry::parse(line.bytes).map_err(|error| error.to_string())?;
        match self.book.apply(&entry) {
            Ok(effect) => self.effects.push(effect),
            // Against a book that came from the index this accuses the index; a replay from nothing accuses the journal.
            Err(_) if self.from != self.first => self.misfit = Some("the index did not fit the journal"),
            Err(illegal) => return Err(illegal.to_string()),
        }
        if self.effects.len() >= CHUNK {
            let effects = std::mem::take(&mut self.effects);
            let chain = Chain {
                next_seq: seq + 1,
                tip: line.leaf,
            };
            let latest = self.book.latest();
            let applied = Applied { effects, chain, latest };
            self.index = self.index.take().and_then(|index| feed(index, applied));
        }
        Ok(())
    }

    /// Why the index must be rebuilt, now that the end of the journal is known.
    fn misfit(&self, journal: Chain) -> Option<&'static str> {
        let is_ahead = self.from.next_seq > journal.next_seq;
        self.misfit
            .or(is_ahead.then_some("the index knew entries that the journal does not have"))
    }
}

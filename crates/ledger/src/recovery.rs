//! The start: takes the lock, checks the journal, loads or rebuilds the index, and finds out what the last stop left
//! open (R215, R225).

use crate::reason::Reason;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use thiserror::Error;

use super::book::{Book, Effect, Illegal};
use super::checkpoints::{CheckpointError, Checkpoints};
use super::entry::{Body, EntryError, Opened, Rebuilt, Released, Unknown};
use super::format::{self, FormatError};
use super::index::{Applied, Index, Snapshot};
use super::journal::{CommitError, Journal, sync_dir};
use super::model::{Alarm, State};
use super::options::{Options, ShowStart, StartStep};
use super::pipeline;
use super::pruned::{self, scan};
use super::replay::{Replay, Replayed, written};
use super::resume::{Follower, Position};
#[cfg(feature = "postgres")]
use super::scan::Line;
use super::scan::{Chain, JournalError, Place, Scanned, scan_from};
use super::text::Moment;
use super::tree::Tree;

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
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("cannot record the start: {0}")]
    Commit(#[from] CommitError),
    #[error("cannot record the start: {0}")]
    Entry(#[from] EntryError),
    #[error("cannot record the start: {0}")]
    Illegal(#[from] Illegal),
    /// The data directory does not belong to the ledger in the database, or the database cannot be used as it is.
    #[error("[store]: {0}")]
    Shared(String),
}

/// Everything that the writer needs, consistent and durable.
pub(crate) struct Opening {
    /// Held as long as the writer lives.
    pub _lock: File,
    pub journal: Journal,
    pub book: Book,
    /// `None`: it cannot be used, and the ledger runs without it.
    pub index: Option<Index>,
    /// What was signed before, and the key. Goes to the signing thread.
    pub checkpoints: Option<Checkpoints>,
    /// Where reading began: the entries before it were not read.
    pub unread: Option<Position>,
}

/// Creates the folders that are missing in the directory, and keeps other processes out for as long as the file is
/// held.
pub(crate) fn take(dir: &Path) -> Result<File, OpenError> {
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

pub(crate) fn open(dir: &Path, options: &mut Options) -> Result<Opening, OpenError> {
    let lock = take(dir)?;
    let audit = dir.join("audit");
    let checkpoints = Checkpoints::read(dir)?;
    let now = Moment::of(options.clock.now());
    let Reading {
        scanned,
        tree,
        replay,
        rebuild,
        unread,
    } = read(dir, now.timestamp(), &checkpoints, &options.show_start)?;
    let (mut journal, torn) = Journal::at_end(
        &audit,
        scanned,
        tree,
        now.timestamp(),
        options.segment_bytes,
        options.faults.take(),
    )?;
    let entries = journal.chain().next_seq;
    let rebuilt = rebuild.filter(|_| entries > 0).map(|why| {
        (options.alarms)(Alarm::IndexRebuilt { why: why.to_owned() });
        tracing::warn!(%why, entries, "the ledger's index was rebuilt from the journal");
        Rebuilt {
            entries,
            why: why.to_owned(),
        }
    });
    let Replayed {
        mut book,
        mut index,
        mut effects,
        is_new,
    } = replay.end();

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
        let place = journal.next_place();
        let entry = journal.push(now, body)?;
        let effect = book.apply(&entry)?;
        effects.push(Effect { place, ..effect });
    }
    journal.commit()?;
    journal.fill_ahead()?;
    let applied = Applied {
        effects,
        chain: journal.chain(),
        latest: book.latest(),
        signed: None,
        finished: journal.take_finished(),
    };
    index = index.and_then(|mut index| {
        let done = match is_new {
            true => {
                (options.show_start)(StartStep::WritingIndex);
                index.complete(&book, &applied)
            }
            false => index.apply(&[applied]),
        };
        written(index, done)
    });
    (options.show_start)(StartStep::Ready);
    Ok(Opening {
        _lock: lock,
        journal,
        book,
        index,
        checkpoints: Some(checkpoints),
        unread,
    })
}

/// The journal as it was found. Nothing in it was changed yet.
struct Reading {
    scanned: Scanned,
    tree: Tree,
    replay: Replay,
    /// Why the index was rebuilt, if it was.
    rebuild: Option<&'static str>,
    unread: Option<Position>,
}

/// Reads the journal from where the index allows, checks it against what was signed, and brings book and index to its
/// end.
fn read(dir: &Path, now: Timestamp, checkpoints: &Checkpoints, show: &ShowStart) -> Result<Reading, OpenError> {
    let (audit, index_dir) = (dir.join("audit"), dir.join("index"));
    let signed = checkpoints.found();
    let first = pruned::beginning(&audit)?;
    let (opened, mut rebuild) = open_index(&index_dir, &audit, now);
    let from = opened.as_ref().map(|(_, known)| &known.signed);
    if signed.is_empty() && from.is_some_and(|from| from.size() > 0) {
        return Err(CheckpointError::Missing {
            audit,
            index: index_dir,
        }
        .into());
    }
    let sound = opened.as_ref().filter(|(_, known)| {
        known
            .signed
            .is_sound(&first, &audit, signed, known.chain, &known.segments)
    });
    let mut unread = sound.map(|(_, known)| known.signed.clone());
    let mut replay = Replay::onto(opened, &first);
    let mut follower = Follower::new(first.tree.clone(), signed);
    let mut scanned = None;
    if let Some(from) = &unread {
        follower.tree.clone_from(from.tree());
        let tail = replay_from(&audit, from.chain(), from.place(), &mut follower, &mut replay, show);
        match tail {
            Ok(tail) => scanned = Some(tail),
            // The position from the index may be wrong. If it is not, reading everything reports what is.
            Err(_) => {
                follower = Follower::new(first.tree.clone(), signed);
                scan(&audit, &mut |line| follower.visit(line))?;
                replay.misfit = Some("the index did not match the journal");
            }
        }
    } else {
        let whole = replay_from(&audit, first.chain, first.place, &mut follower, &mut replay, show);
        scanned = Some(whole?);
    }
    not_shorter(audit.clone(), &follower.tree, checkpoints)?;
    let misfit = match &scanned {
        Some(scanned) => replay.misfit(scanned.chain),
        None => replay.misfit,
    };
    let scanned = match (scanned, misfit) {
        (Some(scanned), None) => scanned,
        (_, why) => {
            drop(replay);
            let renewed = renew(&index_dir, &audit, now).map_err(
                |error| tracing::warn!(%error, "cannot rebuild the ledger's index; payments go on without it"),
            );
            replay = Replay::onto(renewed.ok(), &first);
            (rebuild, unread) = (why, None);
            follower = Follower::new(first.tree.clone(), signed);
            replay_from(&audit, first.chain, first.place, &mut follower, &mut replay, show)?
        }
    };
    Ok(Reading {
        scanned,
        tree: follower.tree,
        replay,
        rebuild,
        unread,
    })
}

/// Reads the journal from `place` to its end: on several cores as far as nothing is unusual, and line by line from
/// there.
fn replay_from(
    audit: &Path,
    chain: Chain,
    place: Place,
    follower: &mut Follower,
    replay: &mut Replay,
    show: &ShowStart,
) -> Result<Scanned, JournalError> {
    let of = pipeline::bytes_from(audit, place);
    let reached = pipeline::run(
        audit,
        chain,
        place,
        &mut |read| show(StartStep::Reading { read, of }),
        &mut |parsed| {
            follower.append(parsed.leaf)?;
            replay.take(parsed)
        },
    )?;
    let mut scanned = scan_from(audit, reached.chain, reached.place, &mut |line| {
        follower.visit(line)?;
        replay.visit(line)
    })?;
    scanned.finished.splice(0..0, reached.finished);
    Ok(scanned)
}

/// The log of a shared ledger's node: read completely, and checked against what was signed. It may be shorter than
/// that, because missing entries are fetched from the database.
#[cfg(feature = "postgres")]
pub(crate) fn read_log(
    dir: &Path,
    checkpoints: &Checkpoints,
    visit: &mut dyn FnMut(&Line<'_>),
) -> Result<(Scanned, Tree), OpenError> {
    let audit = dir.join("audit");
    let first = pruned::beginning(&audit)?;
    let mut follower = Follower::new(first.tree, checkpoints.found());
    let scanned = scan(&audit, &mut |line| {
        visit(line);
        follower.visit(line)
    })?;
    Ok((scanned, follower.tree))
}

/// Checked before anything is repaired, so that people who look for the lost entries find everything as it was.
fn not_shorter(audit: PathBuf, tree: &Tree, checkpoints: &Checkpoints) -> Result<(), CheckpointError> {
    match checkpoints.last() {
        Some(last) if last.size > tree.size() => Err(CheckpointError::Shorter {
            audit,
            have: tree.size(),
            signed: last.size,
        }),
        _ => Ok(()),
    }
}

/// What no caller waits for after a restart. Held money was never signed for and is released, unless a person was asked
/// about it: then their answer is waited for (R44), and the asking process records how an overdue approval ended. Armed
/// money may be with a seller.
fn left_open(book: &Book) -> impl Iterator<Item = Body> {
    book.open_payments().filter_map(|payment| {
        let (rid, why) = (payment.rid(), Reason::Restart.into());
        match payment.state {
            State::Held if book.approvals().of_payment(rid).is_some() => None,
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

/// The index; or a new one in its place, and why.
fn open_index(dir: &Path, audit: &Path, now: Timestamp) -> (Option<(Index, Snapshot)>, Option<&'static str>) {
    match Index::open(dir, audit) {
        Ok(opened) if opened.1.is_new => (Some(opened), Some("the index was missing")),
        Ok(opened) => (Some(opened), None),
        Err(error) => {
            tracing::warn!(%error, "the ledger's index is damaged; rebuilding it");
            let renewed = renew(dir, audit, now).map_err(
                |error| tracing::warn!(%error, "cannot rebuild the ledger's index; payments go on without it"),
            );
            (renewed.ok(), Some("the index was damaged"))
        }
    }
}

/// Creates a new index in place of a damaged one, which is kept beside it.
fn renew(dir: &Path, audit: &Path, now: Timestamp) -> Result<(Index, Snapshot), String> {
    let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut aside = dir.with_extension(format!("bad-{time}"));
    for number in 1.. {
        if !aside.exists() {
            break;
        }
        aside = dir.with_extension(format!("bad-{time}-{number}"));
    }
    fs::rename(dir, &aside).map_err(|error| format!("cannot rename {}: {error}", dir.display()))?;
    Index::open(dir, audit)
}

#[cfg(test)]
mod tests;

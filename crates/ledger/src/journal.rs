//! The writing end of the journal: the write-ahead log of the ledger and the leaves of the audit log (R201, R223,
//! R225).
//!
//! A batch is one write and one `sync_data`. After a failed one nothing more is written: the kernel may have dropped
//! the dirty pages, so a second sync that succeeds would prove nothing. A next segment that cannot be opened is another
//! matter: no byte was written, so entries go on into the old one, and opening is tried again (R203), as long as the
//! attempt left no file behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rustix::io::Errno;
use thiserror::Error;

use super::entry::{Body, Entry, EntryError};
use super::resume::Position;
use super::scan::{Chain, FILL, JournalError, Place, Scanned, day_of, segment_name};
use super::text::{Digest, Moment};
use super::tree::Tree;
use bursar_home::spare;

/// A segment that has reached this size gets no further batch.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// How much longer than its entries the newest segment is kept: a write into existing bytes needs no file-system
/// journal, which makes its sync faster.
const AHEAD: usize = 1 << 20;

/// The first and the longest pause before opening the next segment is tried again.
const SOONEST: SignedDuration = SignedDuration::from_secs(1);
const LATEST: SignedDuration = SignedDuration::from_secs(60);

/// A step of a commit, for tests of its failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Opens the next segment.
    Open,
    Write,
    Sync,
    Answer,
}

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// The step reports an error and does nothing.
    Fail,
    /// The step is done, and then reports an error.
    FailDone,
    /// The writer ends here, as if the process had been killed.
    Die,
}

/// Decides the fate of each step. Production uses none.
pub trait Faults: Send {
    fn at(&mut self, step: Step) -> Verdict;
}

/// Why a batch is not on disk, as far as we know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommitError {
    #[error("{0}")]
    Failed(String),
    #[error("killed by a fail point")]
    Died,
}

/// A torn last write that was moved away at the start.
#[derive(Debug, PartialEq, Eq)]
pub struct Torn {
    pub bytes: u64,
    pub sha256: Digest,
}

pub struct Journal {
    audit: PathBuf,
    /// The folder, for syncing it: that needs no new descriptor.
    dir: File,
    file: File,
    /// File name of the newest segment, and its first entry.
    name: String,
    first_seq: u64,
    day: Option<i64>,
    /// Bytes of entries in the newest segment; the next batch is written there.
    len: u64,
    /// Length of the file, including fill.
    filled: u64,
    chain: Chain,
    /// The tree over the entries that are on disk.
    tree: Tree,
    /// Leaf hashes of entries that are not in the tree yet.
    leaves: Vec<Digest>,
    /// First entry and length of segments that were finished since the last call of `take_finished`.
    finished: Vec<(u64, u64)>,
    batch: Vec<u8>,
    segment_bytes: u64,
    /// The next segment is due and could not be opened.
    overdue: Option<Overdue>,
    failed: Option<String>,
    faults: Option<Box<dyn Faults>>,
}

struct Overdue {
    tried: Timestamp,
    pause: SignedDuration,
    /// Taken by the first who asks.
    why: Option<String>,
}

/// Why the next segment was not begun.
enum NotRolled {
    /// Nothing was written, and there is no next segment.
    Yet(JournalError),
    Failed(JournalError),
    Died,
}

impl Journal {
    /// Continues where a scan ended: moves a torn last write away and opens the newest segment. `tree` covers all
    /// entries that the scan found valid.
    pub fn at_end(
        audit: &Path,
        scanned: Scanned,
        tree: Tree,
        now: Timestamp,
        segment_bytes: u64,
        faults: Option<Box<dyn Faults>>,
    ) -> Result<(Self, Option<Torn>), JournalError> {
        let (path, first_seq, len, day, torn) = match scanned.newest {
            Some(newest) => (newest.path, newest.first_seq, newest.len, newest.day, newest.torn),
            None => (audit.join(segment_name(0)), 0, 0, None, Vec::new()),
        };
        let mut moved = None;
        if !torn.is_empty() {
            move_away(audit, now, &torn)?;
            moved = Some(Torn {
                bytes: torn.len() as u64,
                sha256: Digest::of(&torn),
            });
        }
        let file = open_segment(&path)?;
        // The last run's fill goes too: it is written again, and a file that ends with its entries is easier to check.
        file.set_len(len).map_err(JournalError::io("truncate", &path))?;
        file.sync_all().map_err(JournalError::io("sync", &path))?;
        let dir = File::open(audit).map_err(JournalError::io("open", audit))?;
        dir.sync_all().map_err(JournalError::io("sync", audit))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let journal = Self {
            audit: audit.to_owned(),
            dir,
            file,
            name,
            first_seq,
            day,
            len,
            filled: len,
            chain: scanned.chain,
            tree,
            leaves: Vec::new(),
            finished: scanned.finished,
            batch: Vec::with_capacity(64 << 10),
            segment_bytes,
            overdue: None,
            failed: None,
            faults,
        };
        Ok((journal, moved))
    }

    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// How far the journal is on disk. `None`: after a failure it is unknown, and in the middle of a batch there is no
    /// such place. Adds what was committed to the tree, so call it after the answers are sent.
    pub fn position(&mut self) -> Option<Position> {
        if self.failed.is_some() || !self.batch.is_empty() {
            return None;
        }
        for leaf in self.leaves.drain(..) {
            self.tree.append(leaf);
        }
        let place = Place {
            segment: self.first_seq,
            offset: self.len,
        };
        Some(Position::new(self.tree.clone(), self.chain.tip, place))
    }

    /// First entry and length of the segments that were finished since the last call.
    pub(crate) fn take_finished(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.finished)
    }

    pub fn segment(&self) -> &str {
        &self.name
    }

    /// Bytes of entries that wait for [`Journal::commit`].
    pub(crate) fn batched(&self) -> usize {
        self.batch.len()
    }

    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Nothing may be written after this.
    pub fn poison(&mut self, why: String) -> CommitError {
        tracing::error!(error = %why, "the ledger stops recording; payments are refused until a restart");
        self.failed = Some(why.clone());
        CommitError::Failed(why)
    }

    /// Starts a batch at `now`: a new UTC day or a full segment begins a new file. A clock that goes back does not. If
    /// the new file cannot be opened, the batch goes into the old one.
    pub fn begin(&mut self, now: Timestamp) -> Result<(), CommitError> {
        self.check()?;
        let today = day_of(now);
        let new_day = self.day.is_some_and(|day| today > day);
        let is_due = new_day || (self.len > 0 && self.len >= self.segment_bytes);
        if is_due && self.overdue.as_ref().is_none_or(|overdue| overdue.is_to_be_tried(now)) {
            match self.roll() {
                Ok(()) => self.overdue = None,
                Err(NotRolled::Yet(error)) => self.put_off(now, &error),
                Err(NotRolled::Failed(error)) => return Err(self.poison(error.to_string())),
                Err(NotRolled::Died) => return Err(CommitError::Died),
            }
        }
        if self.day.is_none() {
            self.day = Some(today);
        }
        Ok(())
    }

    /// Why the next segment cannot be opened; once each time that begins.
    pub(crate) fn take_overdue(&mut self) -> Option<String> {
        self.overdue.as_mut()?.why.take()
    }

    fn put_off(&mut self, now: Timestamp, error: &JournalError) {
        let pause = self
            .overdue
            .as_ref()
            .map_or(SOONEST, |overdue| (overdue.pause * 2).min(LATEST));
        tracing::warn!(
            %error,
            again_in_s = pause.as_secs(),
            "the next segment of the journal cannot be opened; entries go on into {}",
            self.name
        );
        let why = match self.overdue.take() {
            Some(before) => before.why,
            None => Some(error.to_string()),
        };
        self.overdue = Some(Overdue { tried: now, pause, why });
    }

    /// Where the next entry of the batch will be.
    pub(crate) fn next_place(&self) -> Place {
        Place {
            segment: self.first_seq,
            offset: self.len + self.batch.len() as u64,
        }
    }

    /// Adds an entry to the batch and to the chain.
    pub fn push(&mut self, ts: Moment, body: Body) -> Result<Entry, EntryError> {
        let entry = Entry {
            seq: self.chain.next_seq,
            ts,
            body,
        };
        let start = self.batch.len();
        entry.encode(&self.chain.tip, &mut self.batch)?;
        let leaf = Digest::leaf(&self.batch[start..]);
        self.leaves.push(leaf);
        self.chain = Chain {
            next_seq: entry.seq + 1,
            tip: leaf,
        };
        self.batch.push(b'\n');
        Ok(entry)
    }

    /// Adds an entry that is already encoded, without its newline. It must be the next one of the chain.
    #[cfg(feature = "postgres")]
    pub(crate) fn push_line(&mut self, line: &[u8]) -> Result<(), CommitError> {
        self.check()?;
        let follows = super::scan::follows(line, &self.chain).map(|head| head.seq);
        let seq = follows.map_err(|why| self.poison(format!("an entry does not continue the log: {why}")))?;
        self.batch.extend_from_slice(line);
        self.batch.push(b'\n');
        let leaf = Digest::leaf(line);
        self.leaves.push(leaf);
        self.chain = Chain {
            next_seq: seq + 1,
            tip: leaf,
        };
        Ok(())
    }

    /// Writes the batch and syncs. `Ok`: it is durable.
    pub fn commit(&mut self) -> Result<(), CommitError> {
        self.check()?;
        if self.batch.is_empty() {
            return Ok(());
        }
        self.step(Step::Write, |journal| {
            journal.file.write_all_at(&journal.batch, journal.len)
        })?;
        self.step(Step::Sync, |journal| journal.file.sync_data())?;
        self.len += self.batch.len() as u64;
        self.filled = self.filled.max(self.len);
        self.batch.clear();
        self.step(Step::Answer, |_| Ok(()))
    }

    /// Lengthens the newest segment when its fill runs low. Called between batches, after the answers.
    pub(crate) fn fill_ahead(&mut self) -> Result<(), CommitError> {
        if self.failed.is_some() || self.filled - self.len >= AHEAD as u64 / 4 {
            return Ok(());
        }
        // A disk without room for fill may still have room for entries: only a failed sync matters.
        if self.file.write_all_at(&vec![FILL; AHEAD], self.filled).is_ok() {
            self.filled += AHEAD as u64;
        }
        self.sync()
    }

    /// Removes the fill, so that `sha256sum` and `jq` see entries alone.
    pub fn trim(&mut self) -> Result<(), CommitError> {
        self.check()?;
        let trimmed = self.file.set_len(self.len).and_then(|()| self.file.sync_all());
        self.filled = self.len;
        trimmed.map_err(|error| self.poison(format!("cannot trim {}: {error}", self.name)))
    }

    /// Opening the file is the last step that may fail without harm: once it exists, entries must not go on in the old
    /// one, because it would then begin with the wrong number.
    fn roll(&mut self) -> Result<(), NotRolled> {
        let old = self.audit.join(&self.name);
        let failed = |what, path: &Path, error| NotRolled::Failed(JournalError::io(what, path)(error));
        let trimmed = self.file.set_len(self.len);
        trimmed.map_err(|error| NotRolled::Yet(JournalError::io("truncate", &old)(error)))?;
        self.filled = self.len;
        self.file.sync_all().map_err(|error| failed("sync", &old, error))?;
        // A batch may begin in one segment and be written to the next.
        let waiting = self.batch.iter().filter(|byte| **byte == b'\n').count();
        let first_seq = self.chain.next_seq - waiting as u64;
        let name = segment_name(first_seq);
        let path = self.audit.join(&name);
        let opened = match self.verdict(Step::Open) {
            Verdict::Go => open_segment(&path),
            Verdict::Fail => Err(JournalError::io("open", &path)(Errno::MFILE.into())),
            Verdict::FailDone => {
                open_segment(&path).and_then(|_| Err(JournalError::io("open", &path)(Errno::IO.into())))
            }
            Verdict::Die => return Err(NotRolled::Died),
        };
        let file = opened.map_err(|error| self.not_opened(&path, error))?;
        file.sync_all().map_err(|error| failed("sync", &path, error))?;
        self.dir
            .sync_all()
            .map_err(|error| failed("sync", &self.audit, error))?;
        self.finished.push((self.first_seq, self.len));
        (self.file, self.name, self.first_seq) = (file, name, first_seq);
        (self.len, self.filled, self.day) = (0, 0, None);
        Ok(())
    }

    /// Opening the next segment failed, and may have created it all the same. It must not stay there while entries go on
    /// in the old one. Needs no descriptor.
    fn not_opened(&self, path: &Path, error: JournalError) -> NotRolled {
        let is_gone = match fs::symlink_metadata(path) {
            Err(missing) => missing.kind() == io::ErrorKind::NotFound,
            Ok(found) => {
                let is_empty = found.is_file() && found.len() == 0;
                is_empty && fs::remove_file(path).is_ok() && self.dir.sync_all().is_ok()
            }
        };
        // If it may be there, the next start begins with it.
        if is_gone {
            NotRolled::Yet(error)
        } else {
            NotRolled::Failed(error)
        }
    }

    fn sync(&mut self) -> Result<(), CommitError> {
        let synced = self.file.sync_data();
        synced.map_err(|error| self.poison(format!("cannot sync {}: {error}", self.name)))
    }

    fn check(&self) -> Result<(), CommitError> {
        self.failed.clone().map_or(Ok(()), |why| Err(CommitError::Failed(why)))
    }

    fn verdict(&mut self, step: Step) -> Verdict {
        self.faults.as_mut().map_or(Verdict::Go, |faults| faults.at(step))
    }

    fn step(&mut self, step: Step, act: impl FnOnce(&Self) -> io::Result<()>) -> Result<(), CommitError> {
        let done = match self.verdict(step) {
            Verdict::Go => act(self),
            Verdict::Fail => Err(io::Error::other("failed by a fail point")),
            Verdict::FailDone => act(self).and_then(|()| Err(io::Error::other("failed by a fail point"))),
            Verdict::Die => return Err(CommitError::Died),
        };
        done.map_err(|error| self.poison(format!("{step:?} of {} failed: {error}", self.name)))
    }
}

impl Overdue {
    fn is_to_be_tried(&self, now: Timestamp) -> bool {
        // In both directions: a clock that was set back must not put it off for longer.
        now.duration_since(self.tried).abs() >= self.pause
    }
}

fn open_segment(path: &Path) -> Result<File, JournalError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    spare::opening(|| options.open(path)).map_err(JournalError::io("open", path))
}

/// A new directory entry is durable only once its directory is synced (R206).
pub(crate) fn sync_dir(path: &Path) -> Result<(), JournalError> {
    spare::opening(|| File::open(path)?.sync_all()).map_err(JournalError::io("sync", path))
}

fn move_away(audit: &Path, now: Timestamp, torn: &[u8]) -> Result<(), JournalError> {
    let (path, mut file) = create_beside(audit, "torn", now)?;
    file.write_all(torn)
        .and_then(|()| file.sync_all())
        .map_err(JournalError::io("write", &path))?;
    tracing::warn!(
        bytes = torn.len(),
        file = %path.display(),
        "the last stop tore a write; its bytes, which were never acknowledged, were moved to this file"
    );
    sync_dir(audit)
}

/// Creates a file `<name>-<time>` in `dir`, with a number appended if two are created within one second.
fn create_beside(dir: &Path, name: &str, now: Timestamp) -> Result<(PathBuf, File), JournalError> {
    let time = now.strftime("%Y%m%dT%H%M%SZ");
    let mut number = 0;
    loop {
        let suffix = if number == 0 {
            String::new()
        } else {
            format!("-{number}")
        };
        let path = dir.join(format!("{name}-{time}{suffix}"));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(JournalError::io("create", &path)(error)),
        }
    }
}

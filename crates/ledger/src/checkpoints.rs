//! The two files of signed checkpoints: `audit/checkpoint`, the newest one, and `audit/checkpoints.log`, all of them
//! (R223). Entries are synced before they are signed, and every start checks the journal against the checkpoints
//! (R225).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use thiserror::Error;
use zeroize::Zeroizing;

use super::journal::sync_dir;
use super::note::{Checkpoint, NoteError, Signer};
use super::scan::JournalError;
use super::tree::Tree;
use bursar_home::{self as home, HomeError, spare};

/// Larger than any record, so that a piece of a record at the end of the log is shorter.
const RECORD_BYTES: usize = 4096;

/// Why the journal cannot be checked against what was signed, or fails that check. Nothing was changed.
#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error(
        "cannot read the key that signs the journal: {0}. Restore log.key from a backup; `bursar init` creates it only \
         once"
    )]
    Key(#[from] HomeError),
    #[error("{} does not contain the key that `bursar init` created; restore it from a backup", .0.display())]
    NotAKey(PathBuf),
    #[error(
        "audit.corrupt: {} is not valid: {why}. Nothing was changed. Restore this file, or log.key if that was \
         replaced, from a backup",
        path.display()
    )]
    Bad { path: PathBuf, why: NoteError },
    #[error(
        "audit.corrupt: checkpoint and checkpoints.log in {} hold two signed checkpoints of {size} entries with \
         different roots. Nothing was changed. One of them is not from this directory; restore it from a backup",
        audit.display()
    )]
    Fork { audit: PathBuf, size: u64 },
    #[error(
        "audit.corrupt: the journal in {} has {have} valid entries, but {signed} were signed. Nothing was changed. \
         Restore its newest segment from a backup",
        audit.display()
    )]
    Shorter { audit: PathBuf, have: u64, signed: u64 },
    #[error(
        "audit.corrupt: checkpoint and checkpoints.log are missing in {}, but this journal was signed. Restore one of \
         them from a backup. If there is none, check the payments, then delete {} and start again: the journal is then \
         signed as it is now",
        audit.display(),
        index.display()
    )]
    Missing { audit: PathBuf, index: PathBuf },
    #[error(
        "audit.corrupt: the journal in {} has {have} entries and no signed checkpoint. Either checkpoint and \
         checkpoints.log were removed: restore one of them from a backup. Or the journal could not be signed since its \
         first entry: the server's log says why. If it never was, start the server: it signs the journal",
        audit.display()
    )]
    NeverSigned { audit: PathBuf, have: u64 },
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl CheckpointError {
    /// Whether the key is missing or unusable, so that nothing can be compared.
    pub(crate) fn is_without_key(&self) -> bool {
        matches!(self, Self::Key(_) | Self::NotAKey(_))
    }
}

/// The log's key and what it has signed so far.
pub(crate) struct Checkpoints {
    audit: PathBuf,
    signer: Signer,
    /// Verified, the smaller one first. After a clean stop both files hold the same checkpoint.
    found: Vec<Checkpoint>,
    last: Option<Checkpoint>,
    /// Bytes of complete records in `checkpoints.log`.
    log_len: u64,
    log: Option<File>,
    /// In `checkpoints.log`, and not in `checkpoint` yet.
    unreplaced: Option<String>,
}

impl Checkpoints {
    /// Reads the key and the newest checkpoint of each file, and verifies them. Changes nothing.
    pub(crate) fn read(dir: &Path) -> Result<Self, CheckpointError> {
        Self::signed_by(dir, read_key(&dir.join("log.key"))?)
    }

    /// The same for a reader, which may be root.
    pub(crate) fn read_by_others(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join("log.key");
        let signer = match read_key(&path) {
            // The owner of the directory owns the key, and only root can open it as well.
            Err(CheckpointError::Key(HomeError::ForeignOwner { owner, .. }))
                if fs::metadata(dir).is_ok_and(|about| about.uid() == owner) =>
            {
                let text = fs::read_to_string(&path).map(Zeroizing::new);
                parse_key(&path, &text.map_err(|source| home::failed("read", &path, source))?)?
            }
            signer => signer?,
        };
        Self::signed_by(dir, signer)
    }

    fn signed_by(dir: &Path, signer: Signer) -> Result<Self, CheckpointError> {
        let audit = dir.join("audit");
        let (logged, log_len) = newest_record(&audit.join("checkpoints.log"), &signer)?;
        let path = audit.join("checkpoint");
        let newest = match fs::read_to_string(&path) {
            Ok(note) => Some(verified(&path, &note, &signer)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(JournalError::io("read", &path)(error).into()),
        };
        if let (Some(one), Some(other)) = (newest, logged)
            && one.size == other.size
            && one.root != other.root
        {
            let size = one.size;
            return Err(CheckpointError::Fork { audit, size });
        }
        let mut found: Vec<Checkpoint> = newest.into_iter().chain(logged).collect();
        found.sort_by_key(|checkpoint| checkpoint.size);
        found.dedup();
        Ok(Self {
            audit,
            signer,
            last: found.last().copied(),
            found,
            log_len,
            log: None,
            unreplaced: None,
        })
    }

    /// What was signed before this start.
    pub(crate) fn found(&self) -> &[Checkpoint] {
        &self.found
    }

    pub(crate) fn last(&self) -> Option<Checkpoint> {
        self.last
    }

    /// Signs the tree, whose entries must be synced. The log is written before the newest checkpoint, so a kill in
    /// between leaves the log ahead. After an error it can be called again, with this tree or a larger one: the record
    /// is then written anew at the same place.
    pub(crate) fn sign(&mut self, tree: &Tree) -> Result<(), CheckpointError> {
        let (size, root) = (tree.size(), tree.root());
        if let Some(last) = self.last {
            // A tree only grows, so this cannot happen. But two roots for one size, both signed by us, would be proof
            // of forgery.
            if size < last.size || (size == last.size && root != last.root) {
                let audit = self.audit.clone();
                return Err(CheckpointError::Fork { audit, size });
            }
            if size == last.size {
                return self.replace();
            }
        }
        let checkpoint = Checkpoint { size, root };
        let note = self.signer.sign(&checkpoint);
        self.append(&note)?;
        self.last = Some(checkpoint);
        self.unreplaced = Some(note);
        self.replace()
    }

    fn append(&mut self, note: &str) -> Result<(), CheckpointError> {
        let path = self.audit.join("checkpoints.log");
        let log = match &mut self.log {
            Some(log) => log,
            closed => {
                let file = spare::opening(|| open(&path, false)).map_err(JournalError::io("open", &path))?;
                // The last stop may have left a torn record.
                file.set_len(self.log_len)
                    .and_then(|()| file.sync_all())
                    .map_err(JournalError::io("truncate", &path))?;
                sync_dir(&self.audit)?;
                closed.insert(file)
            }
        };
        let record = format!("{note}\n");
        log.write_all_at(record.as_bytes(), self.log_len)
            .and_then(|()| log.sync_data())
            .map_err(JournalError::io("write", &path))?;
        self.log_len += record.len() as u64;
        Ok(())
    }

    fn replace(&mut self) -> Result<(), CheckpointError> {
        let Some(note) = &self.unreplaced else {
            return Ok(());
        };
        // One draft name is enough, because the directory is locked; a kill leaves at most one draft.
        let (draft, path) = (self.audit.join("checkpoint.tmp"), self.audit.join("checkpoint"));
        let written = spare::opening(|| {
            let mut file = open(&draft, true)?;
            file.write_all(note.as_bytes())?;
            file.sync_all()
        });
        written.map_err(JournalError::io("write", &draft))?;
        fs::rename(&draft, &path).map_err(JournalError::io("replace", &path))?;
        sync_dir(&self.audit)?;
        self.unreplaced = None;
        Ok(())
    }
}

fn open(path: &Path, empty: bool) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(empty)
        .mode(0o600)
        .open(path)
}

fn verified(path: &Path, note: &str, signer: &Signer) -> Result<Checkpoint, CheckpointError> {
    let path = path.to_owned();
    Checkpoint::verified(note, &[signer.verifier()]).map_err(|why| CheckpointError::Bad { path, why })
}

/// Reads the line that `bursar init` writes: `ed25519-seed` and 32 bytes in Base64.
fn read_key(path: &Path) -> Result<Signer, CheckpointError> {
    parse_key(path, &home::read_secret(path)?)
}

fn parse_key(path: &Path, text: &str) -> Result<Signer, CheckpointError> {
    let encoded = text.strip_prefix("ed25519-seed ").map(str::trim_end);
    let seed = encoded
        .and_then(|encoded| BASE64.decode(encoded).ok())
        .map(Zeroizing::new);
    let seed = seed.and_then(|seed| <[u8; 32]>::try_from(seed.as_slice()).ok().map(Zeroizing::new));
    seed.and_then(|seed| Signer::unnamed(&seed))
        .ok_or_else(|| CheckpointError::NotAKey(path.to_owned()))
}

/// The last complete record of the log, and where it ends. What follows it must be a piece of a record.
fn newest_record(path: &Path, signer: &Signer) -> Result<(Option<Checkpoint>, u64), CheckpointError> {
    let (tail, before) = match read_tail(path, 4 * RECORD_BYTES as u64) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, 0)),
        Err(error) => return Err(JournalError::io("read", path)(error).into()),
    };
    let bad = |why| CheckpointError::Bad {
        path: path.to_owned(),
        why: NoteError::Malformed(why),
    };
    let (record, end) = last_record(&tail).unwrap_or((&[], 0));
    if tail.len() - end > RECORD_BYTES {
        return Err(bad("what follows its last record is longer than a torn record can be"));
    }
    if record.is_empty() {
        return Ok((None, before));
    }
    let note = str::from_utf8(record).map_err(|_| bad("it is not UTF-8"))?;
    Ok((Some(verified(path, note, signer)?), before + end as u64))
}

/// The last `wanted` bytes, and the number of bytes before them.
fn read_tail(path: &Path, wanted: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    let before = file.metadata()?.len().saturating_sub(wanted);
    file.seek(SeekFrom::Start(before))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok((tail, before))
}

/// A record is text, an empty line, signature lines, and an empty line. Returns it without the last empty line, and
/// where the next record begins.
fn last_record(tail: &[u8]) -> Option<(&[u8], usize)> {
    let gaps: Vec<usize> = tail
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| pair == b"\n\n")
        .map(|(at, _)| at)
        .collect();
    let begins = |number: usize| number.checked_sub(1).map_or(0, |before| gaps[before] + 2);
    let is_signature = |number: &usize| tail[begins(*number)..].starts_with("\u{2014} ".as_bytes());
    let last = (1..gaps.len()).rev().find(is_signature)?;
    let end = gaps[last] + 2;
    Some((&tail[begins(last - 1)..end - 1], end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Digest;

    const KEY: &str = "ed25519-seed AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("audit")).unwrap();
        home::write_new(&dir.path().join("log.key"), KEY.as_bytes(), home::Readers::Owner).unwrap();
        dir
    }

    fn tree(size: u64) -> Tree {
        let mut tree = Tree::default();
        for n in 0..size {
            tree.append(Digest::leaf(&n.to_be_bytes()));
        }
        tree
    }

    fn log(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("audit/checkpoints.log")
    }

    #[test]
    fn what_was_signed_is_found_again_and_the_log_keeps_all() {
        let dir = directory();
        assert!(Checkpoints::read(dir.path()).unwrap().found().is_empty());
        for size in [3, 3, 70, 71] {
            let mut checkpoints = Checkpoints::read(dir.path()).unwrap();
            checkpoints.sign(&tree(size)).unwrap();
            let found = Checkpoints::read(dir.path()).unwrap().found().to_vec();
            assert_eq!(
                found,
                [Checkpoint {
                    size,
                    root: tree(size).root()
                }]
            );
        }
        let all = fs::read_to_string(log(&dir)).unwrap();
        assert_eq!(all.matches("\u{2014} ").count(), 3);
        assert!(all.ends_with("\n\n"));
    }

    #[test]
    fn a_record_torn_at_any_byte_is_cut_off_by_the_next_one() {
        let dir = directory();
        let mut checkpoints = Checkpoints::read(dir.path()).unwrap();
        checkpoints.sign(&tree(3)).unwrap();
        let first = fs::read(log(&dir)).unwrap();
        checkpoints.sign(&tree(5)).unwrap();
        let both = fs::read(log(&dir)).unwrap();
        let newest = fs::read(dir.path().join("audit/checkpoint")).unwrap();
        for cut in first.len()..both.len() {
            fs::write(log(&dir), &both[..cut]).unwrap();
            // The newest checkpoint is written after the log, so it is the previous one if the log's record is torn.
            fs::write(dir.path().join("audit/checkpoint"), &first[..first.len() - 1]).unwrap();
            let mut checkpoints = Checkpoints::read(dir.path()).unwrap();
            assert_eq!(checkpoints.found().len(), 1, "cut at {cut}");
            assert_eq!(checkpoints.last().unwrap().size, 3, "cut at {cut}");
            checkpoints.sign(&tree(5)).unwrap();
            assert_eq!(fs::read(log(&dir)).unwrap(), both, "cut at {cut}");
            assert_eq!(fs::read(dir.path().join("audit/checkpoint")).unwrap(), newest);
        }
    }

    #[test]
    fn a_log_ahead_of_the_newest_is_accepted_and_another_root_is_not() {
        let dir = directory();
        let mut checkpoints = Checkpoints::read(dir.path()).unwrap();
        checkpoints.sign(&tree(3)).unwrap();
        let older = fs::read(dir.path().join("audit/checkpoint")).unwrap();
        checkpoints.sign(&tree(5)).unwrap();
        fs::write(dir.path().join("audit/checkpoint"), older).unwrap();
        let checkpoints = Checkpoints::read(dir.path()).unwrap();
        let sizes: Vec<u64> = checkpoints.found().iter().map(|found| found.size).collect();
        assert_eq!((sizes, checkpoints.last().unwrap().size), (vec![3, 5], 5));

        let other = Checkpoint {
            size: 5,
            root: Digest::ZERO,
        };
        fs::write(dir.path().join("audit/checkpoint"), checkpoints.signer.sign(&other)).unwrap();
        assert!(matches!(
            Checkpoints::read(dir.path()),
            Err(CheckpointError::Fork { size: 5, .. })
        ));
    }

    #[test]
    fn nothing_is_signed_twice_with_two_roots_or_backwards() {
        let dir = directory();
        let mut checkpoints = Checkpoints::read(dir.path()).unwrap();
        checkpoints.sign(&tree(5)).unwrap();
        let before = fs::read(log(&dir)).unwrap();
        let mut other = tree(4);
        other.append(Digest::ZERO);
        for tree in [other, tree(4)] {
            assert!(matches!(checkpoints.sign(&tree), Err(CheckpointError::Fork { .. })));
        }
        assert_eq!(fs::read(log(&dir)).unwrap(), before);
    }

    #[test]
    fn what_could_not_be_written_is_written_by_the_next_attempt() {
        let dir = directory();
        let mut checkpoints = Checkpoints::read(dir.path()).unwrap();
        checkpoints.sign(&tree(3)).unwrap();
        // A folder in the draft's place: the log takes the checkpoint, `checkpoint` cannot be replaced.
        let draft = dir.path().join("audit/checkpoint.tmp");
        fs::create_dir(&draft).unwrap();
        for size in [5, 5, 6] {
            checkpoints.sign(&tree(size)).unwrap_err();
        }
        fs::remove_dir(&draft).unwrap();
        checkpoints.sign(&tree(6)).unwrap();
        let newest = fs::read_to_string(dir.path().join("audit/checkpoint")).unwrap();
        assert!(newest.contains("\n6\n"), "{newest}");
        let all = fs::read_to_string(log(&dir)).unwrap();
        assert_eq!(all.matches("\u{2014} ").count(), 3, "each size once: {all}");
        assert_eq!(Checkpoints::read(dir.path()).unwrap().found().len(), 1);
    }

    #[test]
    fn damaged_files_and_an_invalid_key_are_refused() {
        let dir = directory();
        Checkpoints::read(dir.path()).unwrap().sign(&tree(5)).unwrap();
        let good = fs::read(log(&dir)).unwrap();
        for (name, text) in [
            ("checkpoint", "hello\n".to_owned()),
            ("checkpoints.log", "x".repeat(2 * RECORD_BYTES)),
            (
                "checkpoints.log",
                String::from_utf8_lossy(&good).replace("\n5\n", "\n6\n"),
            ),
        ] {
            let path = dir.path().join("audit").join(name);
            let before = fs::read(&path).unwrap();
            fs::write(&path, text).unwrap();
            let refused = Checkpoints::read(dir.path()).map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains(&path.display().to_string()), "{refused}");
            fs::write(&path, before).unwrap();
        }
        fs::write(dir.path().join("log.key"), "ed25519-seed AQEB\n").unwrap();
        assert!(matches!(
            Checkpoints::read(dir.path()),
            Err(CheckpointError::NotAKey(_))
        ));
        fs::remove_file(dir.path().join("log.key")).unwrap();
        assert!(matches!(Checkpoints::read(dir.path()), Err(CheckpointError::Key(_))));
    }
}

//! Whether a journal holds everything that was signed, for readers in other processes (R225).
//!
//! A reader takes the checkpoints first and the entries afterwards. Entries are synced before they are signed, so a
//! journal that is ahead of its newest checkpoint is normal, and one that is behind it, or differs from it, is damaged,
//! whether a server is writing or not.

use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoints::{CheckpointError, Checkpoints};
use super::note::Checkpoint;
use super::pruned::Beginning;
use super::resume::Follower;
use super::scan::Line;
use super::text::Digest;

/// What was read from a journal, and whether it could be compared with what was signed.
#[derive(Debug)]
pub struct Compared<T> {
    pub read: T,
    pub comparison: Comparison,
}

/// A journal that does not match what was signed is an error instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It holds everything that was signed, unchanged.
    Matches,
    /// There is no key to tell, for this reason.
    NotPossible(String),
}

impl<T> Compared<T> {
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Compared<U> {
        Compared {
            read: change(self.read),
            comparison: self.comparison,
        }
    }
}

/// What was signed, read before the entries.
pub(crate) enum Signed {
    Checkpoints(Vec<Checkpoint>),
    NoKey(String),
}

impl Signed {
    pub(crate) fn read(dir: &Path) -> Result<Self, CheckpointError> {
        match Checkpoints::read_by_others(dir) {
            Ok(checkpoints) => Ok(Self::Checkpoints(checkpoints.found().to_vec())),
            Err(error) if error.is_without_key() => Ok(Self::NoKey(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Compares along a scan that starts at `first`.
    pub(crate) fn from(self, dir: &Path, first: &Beginning) -> Result<Comparing, CheckpointError> {
        let (signed, no_key) = match self {
            Self::Checkpoints(signed) => (signed, None),
            Self::NoKey(why) => (Vec::new(), Some(why)),
        };
        let mut comparing = Comparing {
            audit: dir.join("audit"),
            index: dir.join("index"),
            newest: signed.last().copied(),
            no_key,
            follower: Follower::new(first.tree.clone(), &signed),
        };
        // What was signed at that size is not here any more, and the next entries need not be signed yet.
        let begins_at = first.tree.size();
        match comparing.newest {
            Some(newest) if newest.size == begins_at && newest.root != first.tree.root() => {
                let audit = comparing.audit;
                return Err(CheckpointError::Fork { audit, size: begins_at });
            }
            Some(newest) if newest.size < begins_at => {
                comparing.no_key = Some(format!(
                    "the newest checkpoint covers {} entries, and the journal begins after {begins_at}: what was \
                     signed was moved away",
                    newest.size
                ));
            }
            _ => {}
        }
        Ok(comparing)
    }
}

/// A comparison under way.
pub(crate) struct Comparing {
    audit: PathBuf,
    index: PathBuf,
    newest: Option<Checkpoint>,
    no_key: Option<String>,
    follower: Follower,
}

impl Comparing {
    pub(crate) fn visit(&mut self, line: &Line<'_>) -> Result<(), String> {
        self.follower.visit(line)
    }

    /// Like [`Comparing::visit`], of an entry that was parsed already.
    pub(crate) fn append(&mut self, leaf: Digest) -> Result<(), String> {
        self.follower.append(leaf)
    }

    /// The journal has been read to its end.
    pub(crate) fn end(self) -> Result<Comparison, CheckpointError> {
        let (audit, have) = (self.audit, self.follower.tree.size());
        if let Some(why) = self.no_key {
            return Ok(Comparison::NotPossible(why));
        }
        match self.newest {
            Some(newest) if newest.size > have => Err(CheckpointError::Shorter {
                audit,
                have,
                signed: newest.size,
            }),
            Some(_) => Ok(Comparison::Matches),
            None if have > 0 => Err(CheckpointError::NeverSigned { audit, have }),
            // A server that has run leaves an index, so there were entries.
            None if fs::read_dir(&self.index).is_ok_and(|mut files| files.next().is_some()) => {
                let index = self.index;
                Err(CheckpointError::Missing { audit, index })
            }
            None => Ok(Comparison::Matches),
        }
    }
}

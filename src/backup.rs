//! Keeping it: copies of the data directory, and what makes of a copy a directory again.
//!
//! A backup is a consistent prefix of the books with the files beside them, complete or not there at all. Restored, it knows
//! nothing of what was paid after it was made, and says so before anything can be paid (invariant 2).

mod files;
pub mod manifest;
pub mod restore;
pub mod retain;
pub mod take;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use bursar_home::HomeError;
use bursar_ledger::OpenError;
use bursar_ledger::format::FormatError;
use bursar_ledger::scan::JournalError;

pub use manifest::Manifest;
pub use restore::restore;
pub use take::backup;

/// Why nothing was copied, or not to its end. What was there before is as it was.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error("{} is not empty; name a directory that does not exist yet", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} was left by a copy that did not end; remove it and try again", .0.display())]
    Unfinished(PathBuf),
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("{} is no complete backup: backup.json is missing", .0.display())]
    NoManifest(PathBuf),
    #[error("backup.json cannot be read: {0}")]
    Manifest(String),
    #[error("the backup is damaged: {file} {why}. Nothing was restored; use another backup")]
    Damaged { file: String, why: &'static str },
    #[error(
        "the backup is damaged: its journal has {found} entries up to {found_tip}, and backup.json says {said} up to {said_tip}. \
         Nothing was restored; use another backup"
    )]
    OtherJournal {
        found: u64,
        found_tip: String,
        said: u64,
        said_tip: String,
    },
    #[error("{} was not restored from a backup, so there is nothing to accept", .0.display())]
    NothingToAccept(PathBuf),
    #[error("--before must lie at least 8 days back: younger entries may still be needed here")]
    TooYoung,
    #[error("{} is there already and is another file; name another directory", .0.display())]
    Taken(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot record it: {0}")]
    Record(#[from] bursar_ledger::LedgerError),
}

fn io_at<'a>(what: &'static str, path: &'a std::path::Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

//! Backups of the data directory, restoring them, and retention.
//!
//! A backup is a consistent prefix of the ledger with the files that belong to it; it is either complete or absent. A
//! restored directory knows nothing of payments made after the backup, and refuses to pay until an operator has
//! accepted that (invariant 2).

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

/// Why nothing was copied, or not everything. Whatever existed before is unchanged.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error("{} is not empty; name a directory that does not exist yet", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} was left behind by an unfinished copy; remove it and try again", .0.display())]
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
    #[error("{} is not a complete backup: backup.json is missing", .0.display())]
    NoManifest(PathBuf),
    #[error("backup.json cannot be read: {0}")]
    Manifest(String),
    #[error("the backup is damaged: {file} {why}. Nothing was restored; use another backup")]
    Damaged { file: String, why: &'static str },
    #[error(
        "the backup is damaged: its journal has {found} entries up to {found_tip}, but backup.json says {said} up to \
         {said_tip}. Nothing was restored; use another backup"
    )]
    OtherJournal {
        found: u64,
        found_tip: String,
        said: u64,
        said_tip: String,
    },
    #[error("{} was not restored from a backup, so there is nothing to accept", .0.display())]
    NothingToAccept(PathBuf),
    #[error("--before must be at least 8 days ago: newer entries may still be needed here")]
    TooYoung,
    #[error("{} already exists with different content; name another directory", .0.display())]
    Taken(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot record this in the ledger: {0}")]
    Record(#[from] bursar_ledger::LedgerError),
}

fn io_at<'a>(what: &'static str, path: &'a std::path::Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

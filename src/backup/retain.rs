//! `bursar retain`: moves old segments elsewhere; the payments in them still count.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::{BackupError, files, io_at};
use bursar_core::clock::SharedClock;
use bursar_home::{self as home, Home, Readers};
use bursar_ledger::pruned::{self, Plan};
use bursar_ledger::text::Digest;
use bursar_ledger::{Embedded, Event, Ledger, Options};

/// Younger entries stay: an idempotency key is valid for a day, and a payment waits up to seven days for proof from the
/// chain.
pub const YOUNGEST: SignedDuration = SignedDuration::from_hours(8 * 24);

/// What was moved.
pub struct Moved {
    pub segments: usize,
    /// The first entry that remains.
    pub first_seq: u64,
}

/// Moves whole segments of entries older than `before` to the folder `to`, with their disclosures. Returns `None` if
/// there are none. Takes the directory's lock.
///
/// The order ensures that a crash at any point loses nothing: first an entry with the hash of `audit/pruned`, then the
/// copies in `to`, then `audit/pruned`; only then are the segments removed. A second run continues where one stopped.
pub async fn retain(
    home: &Home,
    before: Timestamp,
    to: &Path,
    clock: SharedClock,
    who: String,
) -> Result<Option<Moved>, BackupError> {
    let now = clock.now();
    if now.duration_since(before) < YOUNGEST {
        return Err(BackupError::TooYoung);
    }
    let ledger = Embedded::open(home.root(), Options::new(clock))?;
    let moved = move_away(home, &ledger, before, to, now, who).await;
    ledger.close().await;
    moved
}

async fn move_away(
    home: &Home,
    ledger: &Embedded,
    before: Timestamp,
    to: &Path,
    now: Timestamp,
    who: String,
) -> Result<Option<Moved>, BackupError> {
    let (audit, private) = (home.audit(), home.private());
    let Some(plan) = pruned::plan(&audit, before, now, to)? else {
        return Ok(None);
    };
    let Plan {
        text,
        segments,
        first_seq,
    } = plan;
    home::create_folder(&to.join("audit"))?;
    home::create_folder(&to.join("private"))?;
    let why = format!(
        "moving {} segments before entry {first_seq} to {}; audit/pruned has sha256 {}",
        segments.len(),
        to.display(),
        Digest::of(&text)
    );
    let action = "retention".to_owned();
    ledger.append(Event::AdminAction { action, who, why }).await?;
    let mut moved: Vec<PathBuf> = Vec::new();
    for segment in &segments {
        let name = segment.file_name().unwrap_or_default();
        moved.push(keep_copy(segment, &to.join("audit").join(name))?);
        let disclosures = private.join(name);
        if disclosures.exists() {
            moved.push(keep_copy(&disclosures, &to.join("private").join(name))?);
        }
    }
    for folder in [to.join("audit"), to.join("private"), to.to_owned()] {
        sync(&folder)?;
    }
    home::write_atomic(&audit.join(pruned::NAME), &text, Readers::Owner)?;
    for file in &moved {
        fs::remove_file(file).map_err(io_at("remove", file))?;
    }
    sync(&audit)?;
    sync(&private)?;
    Ok(Some(Moved {
        segments: segments.len(),
        first_seq,
    }))
}

/// Copies a file unless an earlier run already did; returns the path that may then be removed.
fn keep_copy(from: &Path, to: &Path) -> Result<PathBuf, BackupError> {
    match fs::read(to) {
        Ok(there) => {
            let ours = fs::read(from).map_err(io_at("read", from))?;
            if there != ours {
                return Err(BackupError::Taken(to.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = File::open(from).map_err(io_at("read", from))?;
            files::copy(file, to).map_err(io_at("copy", from))?;
        }
        Err(error) => return Err(io_at("read", to)(error)),
    }
    Ok(from.to_owned())
}

fn sync(folder: &Path) -> Result<(), BackupError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_at("sync", folder))
}

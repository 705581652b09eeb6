//! `bursar restore`: a directory from a backup, and the word that it may pay again.
//!
//! What was paid after the backup is missing in it, so its limits would allow that money a second time (invariant 2). A
//! marker therefore keeps `serve` from starting until an operator has looked and said so.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::files::{self, Unfinished};
use super::manifest::Manifest;
use super::{BackupError, io_at};
use bursar_core::clock::SharedClock;
use bursar_home::{self as home, Home, Readers};
use bursar_ledger::follow::follow;
use bursar_ledger::text::Digest;
use bursar_ledger::{Embedded, Event, Ledger, Options};

/// In D, until the restored books are accepted.
pub const MARKER: &str = "restored";

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When the backup was made: what was paid later is not in these books.
    pub made_at: Timestamp,
    pub restored_at: Timestamp,
    pub entries: u64,
    pub tip: Digest,
}

/// The books were restored and nobody has accepted them.
#[derive(Debug, Error)]
pub enum NotAccepted {
    #[error(
        "{dir} was restored from a backup of {made_at}: what was paid after that is missing in its books, so the limits would \
         allow that money again. Make sure that no other bursar runs with this wallet; compare the wallet's transfers since \
         then with `bursar payments list`; lower the limits, or write paused = true in limits.toml, where money is missing; \
         then run `bursar restore --accept --why TEXT --dir {dir}`",
        dir = dir.display()
    )]
    Restored { dir: PathBuf, made_at: Timestamp },
    #[error("{} cannot be read: {why}; it says that these books were restored from a backup", path.display())]
    Unreadable { path: PathBuf, why: String },
}

/// Makes `home` from the backup in `source`. `home` must be absent or empty, and stays so if anything is wrong.
pub fn restore(
    source: &Path,
    home: &Home,
    now: Timestamp,
    progress: &mut dyn FnMut(u64),
) -> Result<Manifest, BackupError> {
    let manifest = Manifest::read(source)?;
    let copy = Unfinished::begin(home.root())?;
    let made = Home::at(copy.path())?;
    made.create()?;
    let mut bytes = 0;
    for (name, said) in &manifest.files {
        let (from, to) = (source.join(name), copy.path().join(name));
        let damaged = |why| BackupError::Damaged {
            file: name.clone(),
            why,
        };
        if let Some(folder) = to.parent() {
            home::create_folder(folder)?;
        }
        let file = File::open(&from).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => damaged("is missing"),
            _ => io_at("read", &from)(error),
        })?;
        let (found, length) = files::copy(file, &to).map_err(io_at("copy", &from))?;
        if found != *said {
            return Err(damaged("was changed"));
        }
        bytes += length;
        progress(bytes);
    }
    let end = follow(&made.audit(), &mut |_| Ok(()))?;
    if (end.next_seq, end.tip) != (manifest.entries, manifest.tip) {
        return Err(BackupError::OtherJournal {
            found: end.next_seq,
            found_tip: end.tip.to_string(),
            said: manifest.entries,
            said_tip: manifest.tip.to_string(),
        });
    }
    for certificate in [made.ca_certificate(), made.bundle()] {
        readable(&certificate)?;
    }
    let marker = Restored {
        made_at: manifest.made_at,
        restored_at: now,
        entries: manifest.entries,
        tip: manifest.tip,
    };
    let text = serde_json::to_string(&marker).map_err(|error| BackupError::Manifest(error.to_string()))?;
    // The backup of a directory that was not accepted brings a marker of its own; this backup's is the later one.
    home::write_atomic(
        &made.root().join(MARKER),
        format!("{text}\n").as_bytes(),
        Readers::Owner,
    )?;
    copy.finish()?;
    Ok(manifest)
}

/// Agents under other uids read the certificates.
fn readable(path: &Path) -> Result<(), BackupError> {
    use std::os::unix::fs::PermissionsExt;
    match fs::set_permissions(path, fs::Permissions::from_mode(0o644)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_at("give all users leave to read", path)(error))
        }
        _ => Ok(()),
    }
}

/// Before anything may be paid from `home`.
pub fn require_accepted(home: &Home) -> Result<(), NotAccepted> {
    match marker(home)? {
        None => Ok(()),
        Some(restored) => Err(NotAccepted::Restored {
            dir: home.root().to_owned(),
            made_at: restored.made_at,
        }),
    }
}

fn marker(home: &Home) -> Result<Option<Restored>, NotAccepted> {
    let path = home.root().join(MARKER);
    let unreadable = |why: String| NotAccepted::Unreadable {
        path: path.clone(),
        why,
    };
    match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error.to_string())),
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| unreadable(error.to_string())),
    }
}

/// An operator has looked: the books say so, and then `serve` starts.
pub async fn accept(home: &Home, clock: SharedClock, who: String, why: &str) -> Result<(), BackupError> {
    let path = home.root().join(MARKER);
    // One that cannot be read can still be accepted; only what it said is lost.
    let about = match marker(home) {
        Ok(None) => return Err(BackupError::NothingToAccept(home.root().to_owned())),
        Ok(Some(restored)) => format!(
            "backup of {}, {} entries, tip {}",
            restored.made_at, restored.entries, restored.tip
        ),
        Err(unreadable) => unreadable.to_string(),
    };
    let ledger = Embedded::open(home.root(), Options::new(clock))?;
    let event = Event::AdminAction {
        action: "restore".to_owned(),
        who,
        why: format!("{why} ({about})"),
    };
    let recorded = ledger.append(event).await;
    ledger.close().await;
    recorded?;
    fs::remove_file(&path).map_err(io_at("remove", &path))?;
    File::open(home.root())
        .and_then(|folder| folder.sync_all())
        .map_err(io_at("sync", home.root()))
}

//! `bursar restore`: creates a data directory from a backup; `--accept` allows it to pay again.
//!
//! Payments made after the backup are missing from it, so its limits would allow that money to be spent a second time
//! (invariant 2). A marker file therefore keeps `serve` from starting until an operator has checked and accepted.

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

/// In the data directory until the restored ledger is accepted.
pub const MARKER: &str = "restored";

/// The content of the marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When the backup was made: later payments are not in this ledger.
    pub made_at: Timestamp,
    pub restored_at: Timestamp,
    pub entries: u64,
    pub tip: Digest,
}

/// The ledger was restored and has not been accepted yet.
#[derive(Debug, Error)]
pub enum NotAccepted {
    #[error(
        "{dir} was restored from a backup of {made_at}: payments made after that are missing from its ledger, so the \
         limits would allow that money to be spent again. Make sure that no other bursar runs with this wallet; \
         compare the wallet's transfers since then with `bursar payments list`; if any are missing, lower the limits \
         or write paused = true in limits.toml; then run `bursar restore --accept --why TEXT --dir {dir}`",
        dir = dir.display()
    )]
    Restored { dir: PathBuf, made_at: Timestamp },
    #[error("{} cannot be read: {why}; this file marks a ledger that was restored from a backup", path.display())]
    Unreadable { path: PathBuf, why: String },
}

/// Creates `home` from the backup in `source`. `home` must be absent or empty, and stays so if anything fails.
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
    // A backup of a directory that was not accepted contains a marker too; the one for this restore replaces it.
    home::write_atomic(
        &made.root().join(MARKER),
        format!("{text}\n").as_bytes(),
        Readers::Owner,
    )?;
    copy.finish()?;
    Ok(manifest)
}

/// Agents running under other uids read the certificates.
fn readable(path: &Path) -> Result<(), BackupError> {
    use std::os::unix::fs::PermissionsExt;
    match fs::set_permissions(path, fs::Permissions::from_mode(0o644)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_at("allow all users to read", path)(error))
        }
        _ => Ok(()),
    }
}

/// Must succeed before anything may be paid from `home`.
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

/// Records in the ledger that an operator has checked the directory; `serve` starts afterwards.
pub async fn accept(home: &Home, clock: SharedClock, who: String, why: &str) -> Result<(), BackupError> {
    let path = home.root().join(MARKER);
    // A marker that cannot be read can still be accepted; only its content is lost.
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

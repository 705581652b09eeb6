//! `backup.json`: the contents of a backup. Written last, so a backup that has it is complete.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BackupError;
use bursar_ledger::format::{self, FormatError};
use bursar_ledger::text::Digest;

pub const NAME: &str = "backup.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of the data directory.
    pub format: u32,
    /// Version of the program that made it.
    pub bursar: String,
    pub made_at: Timestamp,
    /// The end of the journal: the number of entries ever written, and the leaf hash of the newest.
    pub entries: u64,
    pub tip: Digest,
    /// Whether keys are included.
    pub keys: bool,
    /// Files that belong to the directory but are not in the backup.
    pub left_out: Vec<String>,
    /// SHA-256 of every file, keyed by its path inside the backup.
    pub files: BTreeMap<String, Digest>,
}

impl Manifest {
    /// Treats the file as untrusted: no path may lead out of the directory.
    pub fn read(backup: &Path) -> Result<Self, BackupError> {
        let path = backup.join(NAME);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(BackupError::NoManifest(backup.to_owned()));
            }
            text => text.map_err(super::io_at("read", &path))?,
        };
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| BackupError::Manifest(error.to_string()))?;
        if manifest.format > format::CURRENT {
            return Err(BackupError::Format(FormatError::Newer {
                dir: backup.to_owned(),
                found: manifest.format,
            }));
        }
        for file in manifest.files.keys() {
            let stays_inside = !file.is_empty()
                && Path::new(file)
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)));
            if !stays_inside {
                return Err(BackupError::Manifest(format!(
                    "it names {file:?}, which is not a file inside it"
                )));
            }
        }
        Ok(manifest)
    }
}

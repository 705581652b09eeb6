//! The files of a copy: mode 0600, hashed while copied, and synced before the copy counts as complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{BackupError, io_at};
use bursar_home as home;
use bursar_ledger::text::Digest;

/// A directory whose name marks it as unfinished. Removed on drop unless it was finished.
pub(super) struct Unfinished {
    path: PathBuf,
    destination: PathBuf,
    is_finished: bool,
}

impl Unfinished {
    /// `destination` must be absent or an empty directory.
    pub(super) fn begin(destination: &Path) -> Result<Self, BackupError> {
        match fs::read_dir(destination) {
            Ok(mut inside) => {
                if inside.next().is_some() {
                    return Err(BackupError::NotEmpty(destination.to_owned()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_at("list", destination)(error)),
        }
        let mut name = destination.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let path = destination.with_file_name(name);
        if path.symlink_metadata().is_ok() {
            return Err(BackupError::Unfinished(path));
        }
        home::create_folder(&path)?;
        Ok(Self {
            path,
            destination: destination.to_owned(),
            is_finished: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames it to its destination, atomically and durably.
    pub(super) fn finish(mut self) -> Result<(), BackupError> {
        sync_folders(&self.path).map_err(io_at("sync", &self.path))?;
        // A rename can replace an empty directory, but not a mount point.
        fs::rename(&self.path, &self.destination).map_err(io_at("rename the finished copy to", &self.destination))?;
        self.is_finished = true;
        let parent = self.destination.parent().unwrap_or(Path::new("."));
        File::open(parent)
            .and_then(|folder| folder.sync_all())
            .map_err(io_at("sync", parent))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            // The caller reports the error that led here, not this one.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Copies `from` into a new file; returns its SHA-256 and length.
pub(super) fn copy(mut from: impl Read, to: &Path) -> io::Result<(Digest, u64)> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut buffer = zeroize::Zeroizing::new(vec![0; 64 << 10]);
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        file.write_all(&buffer[..read])?;
        hash.update(&buffer[..read]);
        length += read as u64;
    }
    file.sync_all()?;
    Ok((Digest(hash.finalize().into()), length))
}

/// Names of the regular files directly in `folder`, sorted. Empty if the folder does not exist.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let inside = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        inside => inside?,
    };
    for file in inside {
        let file = file?;
        if file.file_type()?.is_file()
            && let Ok(name) = file.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for inside in fs::read_dir(folder)? {
        let inside = inside?;
        if inside.file_type()?.is_dir() {
            sync_folders(&inside.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

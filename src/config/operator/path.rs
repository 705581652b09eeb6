//! Paths in bursar.toml.

use std::path::{Path, PathBuf};

use bursar_config::section::Entry;

/// Relative ones start at the data directory.
pub(super) fn path(entry: &Entry<'_>, dir: &Path) -> Option<PathBuf> {
    let text = entry.text()?;
    if text.is_empty() {
        let what = format!("{}: the path is empty", entry.path());
        return entry.reject(
            what,
            "Write a path; a relative path starts at the data directory.".to_owned(),
        );
    }
    Some(dir.join(text))
}

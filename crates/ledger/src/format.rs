//! The format of the data directory: one number in `D/format`, and the migration from each number to the next.
//!
//! It covers the directory as a whole. Entries have a version of their own (`v`), and the index is rebuilt when it does
//! not fit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use bursar_home::{self as home, HomeError, Readers};

/// The step from one format to the next. It can be interrupted at any point and is then repeated from its beginning.
struct Step {
    to: u32,
    act: fn(&Path) -> Result<(), HomeError>,
}

const STEPS: [Step; 4] = [
    // Format 1 had no number; nothing else differs.
    Step { to: 2, act: |_| Ok(()) },
    // Entries of version 2 may come from here on, which an older program cannot read (R89).
    Step { to: 3, act: |_| Ok(()) },
    // `approval.requested` may have commitments to codes from here on, which an older program cannot read (R96).
    Step { to: 4, act: |_| Ok(()) },
    // From here on `pause.set` and `pause.lifted` may come, which an older program cannot read, and credentials of outstanding
    // payments are in slots, which an older program would delete.
    Step { to: 5, act: |_| Ok(()) },
];

/// The format that this version writes.
pub const CURRENT: u32 = STEPS[STEPS.len() - 1].to;

/// Why this version cannot use the directory.
#[derive(Debug, Error)]
pub enum FormatError {
    #[error(
        "{} has format {found}, and this bursar knows formats up to {CURRENT}: use the newer bursar that wrote it. Nothing was changed",
        dir.display()
    )]
    Newer { dir: PathBuf, found: u32 },
    #[error("{} does not contain a format number; restore it from a backup. Nothing was changed", .0.display())]
    Unreadable(PathBuf),
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot upgrade the directory to format {to}: {source}")]
    Step { to: u32, source: HomeError },
}

/// Reads the format of `dir`. A newer one than this version knows is an error.
pub fn check(dir: &Path) -> Result<u32, FormatError> {
    let path = path(dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(1),
        Err(source) => return Err(FormatError::Io { path, source }),
    };
    match text.trim_end().parse() {
        Ok(found) if found > CURRENT => Err(FormatError::Newer {
            dir: dir.to_owned(),
            found,
        }),
        Ok(found) if found > 0 => Ok(found),
        _ => Err(FormatError::Unreadable(path)),
    }
}

/// Takes every step that `dir` still needs. The caller must hold the directory's lock.
pub(crate) fn bring_up_to_date(dir: &Path) -> Result<(), FormatError> {
    let found = check(dir)?;
    for Step { to, act } in STEPS.into_iter().filter(|step| step.to > found) {
        let failed = |source| FormatError::Step { to, source };
        act(dir).map_err(failed)?;
        home::write_atomic(&path(dir), number(to).as_bytes(), Readers::Owner).map_err(failed)?;
        tracing::info!(from = found, to, dir = %dir.display(), "the data directory was upgraded to a newer format");
    }
    Ok(())
}

/// The content of the file for [`CURRENT`].
pub fn current() -> String {
    number(CURRENT)
}

fn number(format: u32) -> String {
    format!("{format}\n")
}

fn path(dir: &Path) -> PathBuf {
    dir.join("format")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_number_is_format_1_and_gets_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(dir.path()).unwrap(), 1);
        bring_up_to_date(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(path(dir.path())).unwrap(), "5\n");
        assert_eq!(check(dir.path()).unwrap(), CURRENT);
    }

    #[test]
    fn every_step_leads_one_further() {
        let formats: Vec<u32> = STEPS.iter().map(|step| step.to).collect();
        assert_eq!(formats, (2..=CURRENT).collect::<Vec<_>>());
    }

    #[test]
    fn newer_and_unreadable_numbers_are_refused_and_stay() {
        for (text, says) in [
            ("6\n", "has format 6"),
            ("0\n", "a format number"),
            ("", "a format number"),
            ("x", "a format number"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(path(dir.path()), text).unwrap();
            let said = bring_up_to_date(dir.path()).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
            assert_eq!(fs::read_to_string(path(dir.path())).unwrap(), text);
        }
    }
}

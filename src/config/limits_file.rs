//! Where limits.toml is, and whose it may be. `[limits] file` names another place than the data directory, such as
//! finance's own folder or a Kubernetes ConfigMap.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bursar_config::diagnose::ConfigError;
use bursar_config::limits;
use bursar_core::policy::Limits;
use bursar_home::{HomeError, Owners, open_deciding};
use rustix::process::geteuid;

/// limits.toml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LimitsFile {
    path: PathBuf,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Somewhere below the data directory, whose owner it has.
    InData { dir: PathBuf },
    Elsewhere {
        /// Who may own it beside root and our own uid.
        owner: Option<u32>,
    },
}

impl LimitsFile {
    pub(crate) fn in_data(path: PathBuf, dir: &Path) -> Self {
        let place = Place::InData { dir: dir.to_owned() };
        Self { path, place }
    }

    pub(crate) fn elsewhere(path: PathBuf, owner: Option<u32>) -> Self {
        let place = Place::Elsewhere { owner };
        Self { path, place }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's text, if only those who may decide about limits could have written it.
    pub(crate) fn read(&self) -> Result<String, ConfigError> {
        let owners = match &self.place {
            Place::InData { dir } => Owners::of_data(dir),
            Place::Elsewhere { owner } => Owners::ours().and(*owner),
        };
        deciding(&self.path, owners).map_err(|error| self.hinted(error))
    }

    pub(crate) fn load(&self) -> Result<Limits, ConfigError> {
        self.parse(&self.read()?)
    }

    pub(crate) fn parse(&self, text: &str) -> Result<Limits, ConfigError> {
        limits::parse(&self.path.display().to_string(), text)
    }
}

impl LimitsFile {
    /// Where finance's own folder is meant, the operator has to name its uid.
    fn hinted(&self, error: ConfigError) -> ConfigError {
        let owner = self.path.metadata().map(|about| about.uid()).ok();
        match (error, &self.place, owner) {
            (ConfigError::Untrusted(said), Place::Elsewhere { owner: None }, Some(owner))
                if owner != 0 && owner != geteuid().as_raw() =>
            {
                ConfigError::Untrusted(format!(
                    "{said} (if that user decides about limits, write owner = {owner} under [limits] in bursar.toml instead)"
                ))
            }
            (error, ..) => error,
        }
    }
}

/// The text of a file that decides about money.
pub(super) fn deciding(path: &Path, owners: Owners) -> Result<String, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable {
        file: path.display().to_string(),
        reason,
    };
    let mut file = open_deciding(path, owners).map_err(|error| match error {
        HomeError::Io { source, .. } => unreadable(source.to_string()),
        refused => ConfigError::Untrusted(refused.to_string()),
    })?;
    let mut text = String::new();
    file.read_to_string(&mut text)
        .map_err(|error| unreadable(error.to_string()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_or_not_text_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("limits.toml");
        let says = || {
            LimitsFile::in_data(path.clone(), dir.path())
                .load()
                .err()
                .unwrap()
                .to_string()
        };
        assert!(says().starts_with(&format!("cannot read {}: ", path.display())));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(says().contains("UTF-8"), "{}", says());
        std::fs::write(&path, "[agents.a]\r\ndaay = \"1\"\r\n").unwrap();
        assert!(says().contains("limits.toml:2:1: [agents.a] has no key `daay`\n  2 | daay = \"1\"\n"));
    }
}

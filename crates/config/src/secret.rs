//! Where a secret is kept. The configuration files name the place, never the secret itself.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use thiserror::Error;
use zeroize::Zeroizing;

/// `env:NAME` or `file:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    Env(String),
    /// Relative to the data directory.
    File(PathBuf),
}

/// Why a secret could not be read: always a problem with the machine's setup. Never quotes the secret.
#[derive(Debug, Error)]
pub enum SecretError {
    #[error("the environment variable {0} is not set; set it for the process that runs bursar")]
    Unset(String),
    #[error("{0} is empty")]
    Empty(SecretSource),
    #[error("{0} does not contain UTF-8 text")]
    NotText(SecretSource),
    #[error("{0} is longer than {MAX_LENGTH} bytes, which is too long for a key or password")]
    TooLong(SecretSource),
    #[error("cannot read {path}: {error}", path = .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "{path} can be read by other users (mode {mode:04o}); run: chmod 600 {path}",
        path = .path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
}

/// In bytes. Longer than any key, password or keystore.
const MAX_LENGTH: usize = 64 << 10;

impl SecretSource {
    /// `None` for anything else. It may be the secret itself, so do not print it.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "env" if is_variable_name(rest) => Some(Self::Env(rest.to_owned())),
            "file" if !rest.is_empty() => Some(Self::File(rest.into())),
            _ => None,
        }
    }

    /// The secret, without trailing line ends. Relative paths start at `base_dir`, the data directory.
    pub fn read(&self, base_dir: &Path) -> Result<SecretString, SecretError> {
        let text = match self {
            Self::Env(name) => {
                let value = std::env::var_os(name).ok_or_else(|| SecretError::Unset(name.clone()))?;
                let value = value.into_string();
                Zeroizing::new(value.map_err(|_| SecretError::NotText(self.clone()))?)
            }
            Self::File(path) => self.read_file(base_dir.join(path))?,
        };
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(SecretError::Empty(self.clone()));
        }
        Ok(SecretString::from(secret))
    }

    fn read_file(&self, path: PathBuf) -> Result<Zeroizing<String>, SecretError> {
        let unreadable = |error| SecretError::Unreadable {
            path: path.clone(),
            error,
        };
        let file = File::open(&path).map_err(unreadable)?;
        // Ask the open file, so that the file that is checked is the one that is read.
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Exposed { path, mode });
        }
        // Allocate everything at once: a buffer that grows leaves copies behind that are never wiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LENGTH + 1));
        let read = file
            .take(MAX_LENGTH as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        if read > MAX_LENGTH {
            return Err(SecretError::TooLong(self.clone()));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| SecretError::NotText(self.clone()))?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use secrecy::ExposeSecret;

    use super::*;

    fn file_with(bytes: &[u8], mode: u32) -> (tempfile::TempDir, SecretSource) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, SecretSource::File("key".into()))
    }

    #[test]
    fn a_source_is_env_or_file() {
        assert_eq!(
            SecretSource::parse("env:WALLET_KEY"),
            Some(SecretSource::Env("WALLET_KEY".into()))
        );
        assert_eq!(SecretSource::parse("file:a/b"), Some(SecretSource::File("a/b".into())));
        for other in ["", "env:", "env:A B", "file:", "0x00", "hunter2", "ENV:X", "env:$X"] {
            assert_eq!(SecretSource::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn files_are_read_without_their_line_end() {
        let (dir, source) = file_with(b"hunter2\r\n", 0o600);
        assert_eq!(source.read(dir.path()).unwrap().expose_secret(), "hunter2");
        let (dir, source) = file_with(b"\n", 0o400);
        assert!(matches!(source.read(dir.path()), Err(SecretError::Empty(_))));
        let (dir, source) = file_with(&[0xff, 0xfe], 0o600);
        assert!(matches!(source.read(dir.path()), Err(SecretError::NotText(_))));
        let (dir, source) = file_with(&vec![b'a'; 65_537], 0o600);
        assert!(matches!(source.read(dir.path()), Err(SecretError::TooLong(_))));
    }

    #[test]
    fn files_that_others_can_read_are_refused_with_the_command() {
        for mode in [0o640, 0o604, 0o644, 0o620] {
            let (dir, source) = file_with(b"hunter2", mode);
            let error = source.read(dir.path()).unwrap_err().to_string();
            let path = dir.path().join("key");
            let wanted = format!(
                "{path} can be read by other users (mode {mode:04o}); run: chmod 600 {path}",
                path = path.display()
            );
            assert_eq!(error, wanted);
        }
    }

    #[test]
    fn variables_are_read_and_missed_by_name() {
        // Cargo sets this variable for every test.
        let source = SecretSource::Env("CARGO_PKG_NAME".into());
        assert_eq!(
            source.read(Path::new("/")).unwrap().expose_secret(),
            env!("CARGO_PKG_NAME")
        );
        let source = SecretSource::Env("BURSAR_NO_SUCH_VARIABLE".into());
        let error = source.read(Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("BURSAR_NO_SUCH_VARIABLE is not set"), "{error}");
    }
}

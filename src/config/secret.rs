//! Reads the secrets whose places bursar.toml names.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use thiserror::Error;
use zeroize::Zeroizing;

pub(crate) use bursar_config::secret::SecretSource;
use bursar_home::{self as home, HomeError};

/// In bytes. Longer than any key, password or keystore.
const MAX_LENGTH: usize = 64 << 10;

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
    #[error(transparent)]
    Refused(HomeError),
    #[error(
        "credential:{0} needs systemd, which passes no credentials to this process: add LoadCredential={0}:PATH to the \
         service, or name another place"
    )]
    NoCredentials(String),
}

/// The secret, without trailing line ends. Relative paths start at `dir`, the data directory.
pub(crate) fn read(source: &SecretSource, dir: &Path) -> Result<SecretString, SecretError> {
    read_with(source, dir, |name| std::env::var_os(name))
}

fn read_with(
    source: &SecretSource,
    dir: &Path,
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<SecretString, SecretError> {
    let text = match source {
        SecretSource::Env(name) => {
            let value = variable(name).ok_or_else(|| SecretError::Unset(name.clone()))?;
            let value = value.into_string();
            Zeroizing::new(value.map_err(|_| SecretError::NotText(source.clone()))?)
        }
        SecretSource::File(path) => {
            let path = dir.join(path);
            content(source, &path, home::open_secret(&path))?
        }
        SecretSource::Credential(name) => {
            let folder = variable("CREDENTIALS_DIRECTORY").map(PathBuf::from);
            let folder = folder.filter(|folder| folder.is_absolute());
            let folder = folder.ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
            content(source, &folder.join(name), home::open_credential(&folder, name))?
        }
    };
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(SecretError::Empty(source.clone()));
    }
    Ok(SecretString::from(secret))
}

fn content(
    source: &SecretSource,
    path: &Path,
    opened: Result<File, HomeError>,
) -> Result<Zeroizing<String>, SecretError> {
    let unreadable = |error| SecretError::Unreadable {
        path: path.into(),
        error,
    };
    let file = opened.map_err(|error| match error {
        HomeError::Io { source, .. } => unreadable(source),
        refused => SecretError::Refused(refused),
    })?;
    // Allocate everything at once: a buffer that grows leaves copies behind that are never wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LENGTH + 1));
    let read = file
        .take(MAX_LENGTH as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if read > MAX_LENGTH {
        return Err(SecretError::TooLong(source.clone()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretError::NotText(source.clone()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

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
    fn files_are_read_without_their_line_end() {
        let (dir, source) = file_with(b"hunter2\r\n", 0o600);
        assert_eq!(read(&source, dir.path()).unwrap().expose_secret(), "hunter2");
        let (dir, source) = file_with(b"\n", 0o400);
        assert!(matches!(read(&source, dir.path()), Err(SecretError::Empty(_))));
        let (dir, source) = file_with(&[0xff, 0xfe], 0o600);
        assert!(matches!(read(&source, dir.path()), Err(SecretError::NotText(_))));
        let (dir, source) = file_with(&vec![b'a'; 65_537], 0o600);
        assert!(matches!(read(&source, dir.path()), Err(SecretError::TooLong(_))));
        let (dir, _) = file_with(b"", 0o600);
        let missing = read(&SecretSource::File("other".into()), dir.path());
        assert!(matches!(missing, Err(SecretError::Unreadable { .. })));
    }

    #[test]
    fn files_that_others_can_read_are_refused_with_the_command() {
        for mode in [0o604, 0o644, 0o620, 0o666] {
            let (dir, source) = file_with(b"hunter2", mode);
            let error = read(&source, dir.path()).unwrap_err().to_string();
            let path = dir.path().join("key");
            assert!(
                error.contains(&format!("mode {mode:04o}) can be read by other users")),
                "{error}"
            );
            assert!(
                error.ends_with(&format!("run: chmod 600 {}", path.display())),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_linked_secret_is_refused() {
        let (dir, _) = file_with(b"hunter2", 0o600);
        std::os::unix::fs::symlink(dir.path().join("key"), dir.path().join("wallet.key")).unwrap();
        let error = read(&SecretSource::File("wallet.key".into()), dir.path()).unwrap_err();
        assert!(error.to_string().contains("wallet.key is a symbolic link"), "{error}");
    }

    #[test]
    fn variables_are_read_and_missed_by_name() {
        // Cargo sets this variable for every test.
        let source = SecretSource::Env("CARGO_PKG_NAME".into());
        assert_eq!(
            read(&source, Path::new("/")).unwrap().expose_secret(),
            env!("CARGO_PKG_NAME")
        );
        let source = SecretSource::Env("BURSAR_NO_SUCH_VARIABLE".into());
        let error = read(&source, Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("BURSAR_NO_SUCH_VARIABLE is not set"), "{error}");
    }

    #[test]
    fn credentials_are_read_from_the_folder_of_the_service() {
        // As systemd shows an access control list: the mask stands where the rights of the group would.
        let (dir, _) = file_with(b"hunter2\n", 0o440);
        let source = SecretSource::Credential("key".into());
        let of = |folder: Option<&Path>| {
            let folder = folder.map(|folder| folder.as_os_str().to_owned());
            read_with(&source, Path::new("/"), |name| match name {
                "CREDENTIALS_DIRECTORY" => folder.clone(),
                _ => None,
            })
        };
        assert_eq!(of(Some(dir.path())).unwrap().expose_secret(), "hunter2");
        for none in [None, Some(Path::new("relative"))] {
            let error = of(none).unwrap_err().to_string();
            assert!(error.contains("LoadCredential=key:PATH"), "{error}");
        }
        fs::set_permissions(dir.path().join("key"), Permissions::from_mode(0o444)).unwrap();
        assert!(matches!(of(Some(dir.path())), Err(SecretError::Refused(_))));
    }
}

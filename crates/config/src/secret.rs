//! Where a secret is kept. The configuration files name the place, never the secret itself.

use std::fmt;
use std::path::PathBuf;

/// `env:NAME`, `file:PATH` or `credential:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    Env(String),
    /// Relative to the data directory.
    File(PathBuf),
    /// One that systemd passes to the service (`LoadCredential=`).
    Credential(String),
}

impl SecretSource {
    /// `None` for anything else. It may be the secret itself, so do not print it.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "env" if is_variable_name(rest) => Some(Self::Env(rest.to_owned())),
            "file" if !rest.is_empty() => Some(Self::File(rest.into())),
            "credential" if is_credential_name(rest) => Some(Self::Credential(rest.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// One file in a directory, never a path: such names cannot lead elsewhere.
fn is_credential_name(name: &str) -> bool {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_env_file_or_credential() {
        for (text, source) in [
            ("env:WALLET_KEY", SecretSource::Env("WALLET_KEY".into())),
            ("file:a/b", SecretSource::File("a/b".into())),
            ("credential:wallet.key", SecretSource::Credential("wallet.key".into())),
        ] {
            assert_eq!(SecretSource::parse(text), Some(source.clone()));
            assert_eq!(source.to_string(), text);
        }
        for other in [
            "",
            "env:",
            "env:A B",
            "file:",
            "0x00",
            "hunter2",
            "ENV:X",
            "env:$X",
            "credential:",
            "credential:..",
            "credential:a/b",
            "credential:../key",
            "credential:a b",
        ] {
            assert_eq!(SecretSource::parse(other), None, "{other:?}");
        }
    }
}

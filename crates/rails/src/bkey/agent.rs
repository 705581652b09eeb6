//! Which BKey agent bursar acts as: read from where BKey's own tools keep that, their environment variables and
//! `~/.bkey/profiles.json` (approvals §4.1, §4.2). Of the file only `agents` is read, not a person's login. Nothing is
//! ever written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

use bursar_net::oauth::{Secret, form};

const DEFAULT_API: &str = "https://api.bkey.id";
const LONGEST_FILE: u64 = 1 << 20;

/// An OAuth client at BKey.
pub struct BkeyAgent {
    /// The issuer, without a trailing slash.
    pub api_url: String,
    pub client_id: String,
    pub client_secret: Secret,
    /// `BKEY_USER_DID`: the approver where none is configured.
    pub approver: Option<String>,
}

/// The messages never quote a secret.
#[derive(Debug, Error)]
pub enum BkeyError {
    #[error("set both BKEY_CLIENT_ID and BKEY_CLIENT_SECRET, or neither")]
    Half,
    #[error("no BKey agent: set BKEY_CLIENT_ID and BKEY_CLIENT_SECRET, or run `bkey auth setup-agent`")]
    NoAgent,
    #[error("a profile name has up to 48 letters, digits, - or _, and starts with a letter or digit")]
    Name,
    #[error("profiles.json has no agent {0}")]
    Unknown(String),
    #[error("profiles.json is not in the format that BKey's tools write")]
    NotProfiles,
    #[error("profiles.json has version {0}; only version 1 is supported")]
    Version(u64),
    #[error("profiles.json can be read by other users (mode {0:04o}); run: chmod 600 ~/.bkey/profiles.json")]
    Exposed(u32),
    #[error("profiles.json cannot be read: {0}")]
    Unreadable(#[source] io::Error),
}

/// The file's content and mode.
pub struct ProfilesFile {
    pub mode: u32,
    pub content: Zeroizing<Vec<u8>>,
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

#[derive(Deserialize)]
struct Profiles {
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    agents: BTreeMap<String, Profile>,
}

#[derive(Default, Deserialize)]
struct Defaults {
    agent: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    api_url: String,
    client_id: String,
    client_secret: String,
}

impl ProfilesFile {
    /// `None` if there is no such file.
    pub fn read(path: &Path) -> Result<Option<Self>, BkeyError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BkeyError::Unreadable(error)),
        };
        // Taken from the open file, so that the mode that is checked belongs to the content that is read.
        let mode = file.metadata().map_err(BkeyError::Unreadable)?.permissions().mode() & 0o7777;
        let mut content = Zeroizing::new(Vec::with_capacity(64 << 10));
        file.take(LONGEST_FILE)
            .read_to_end(&mut content)
            .map_err(BkeyError::Unreadable)?;
        Ok(Some(Self { mode, content }))
    }
}

impl BkeyAgent {
    /// Id and secret from the environment win over a profile. `profile`, from bursar.toml, wins over `BKEY_PROFILE`,
    /// and that over the file's default. `BKEY_ACCESS_TOKEN` is not enough: polling for an answer requires
    /// authenticating as the client.
    pub fn find(
        variable: impl Fn(&str) -> Option<String>,
        profile: Option<&str>,
        file: Option<&ProfilesFile>,
    ) -> Result<Self, BkeyError> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let api_url = variable("BKEY_API_URL").or_else(|| variable("BKEY_BASE_URL"));
        let approver = variable("BKEY_USER_DID");
        let (client_id, client_secret, api_url) = match (variable("BKEY_CLIENT_ID"), variable("BKEY_CLIENT_SECRET")) {
            (Some(id), Some(secret)) => (
                id,
                Secret::new(secret),
                api_url.unwrap_or_else(|| DEFAULT_API.to_owned()),
            ),
            (None, None) => {
                let named = profile.map(str::to_owned).or_else(|| variable("BKEY_PROFILE"));
                let found = file.ok_or(BkeyError::NoAgent)?.agent(named)?;
                let secret = Secret::new(found.client_secret);
                (found.client_id, secret, api_url.unwrap_or(found.api_url))
            }
            _ => return Err(BkeyError::Half),
        };
        Ok(Self {
            api_url: api_url.trim_end_matches('/').to_owned(),
            client_id,
            client_secret,
            approver,
        })
    }
}

impl ProfilesFile {
    fn agent(&self, name: Option<String>) -> Result<Profile, BkeyError> {
        if self.mode & 0o077 != 0 {
            return Err(BkeyError::Exposed(self.mode));
        }
        let text = form::object(&self.content).ok_or(BkeyError::NotProfiles)?;
        // The version is checked first: another one may have other members.
        let version: Version = serde_json::from_str(text).map_err(|_| BkeyError::NotProfiles)?;
        if version.version != 1 {
            return Err(BkeyError::Version(version.version));
        }
        let mut profiles: Profiles = serde_json::from_str(text).map_err(|_| BkeyError::NotProfiles)?;
        let name = name.or(profiles.defaults.agent).ok_or(BkeyError::NoAgent)?;
        if !is_name(&name) {
            return Err(BkeyError::Name);
        }
        profiles.agents.remove(&name).ok_or(BkeyError::Unknown(name))
    }
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let begins = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    begins && name.len() <= 48 && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn profiles() -> Value {
        json!({
            "version": 1,
            "defaults": { "human": "me", "agent": "main" },
            "humans": { "me": { "apiUrl": "https://api.bkey.id", "accessToken": "secret of a human" } },
            "agents": {
                "main": { "apiUrl": "https://id.example/", "clientId": "bkey_client_m", "clientSecret": "bkey_secret_m", "later": [] },
                "other": { "apiUrl": "https://api.bkey.id", "clientId": "bkey_client_o", "clientSecret": "bkey_secret_o" },
            },
        })
    }

    fn file(content: &Value, mode: u32) -> ProfilesFile {
        let content = Zeroizing::new(content.to_string().into_bytes());
        ProfilesFile { mode, content }
    }

    /// URL, id, secret and approver, or the error's text.
    fn found(
        variables: &[(&str, &str)],
        profile: Option<&str>,
        file: Option<&ProfilesFile>,
    ) -> Result<[String; 4], String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        };
        let agent = BkeyAgent::find(variable, profile, file).map_err(|error| error.to_string())?;
        let secret = agent.client_secret.expose().to_owned();
        Ok([
            agent.api_url,
            agent.client_id,
            secret,
            agent.approver.unwrap_or_default(),
        ])
    }

    #[test]
    fn variables_win_over_the_file() {
        let file = file(&profiles(), 0o600);
        let both = [
            ("BKEY_CLIENT_ID", "id"),
            ("BKEY_CLIENT_SECRET", "secret"),
            ("BKEY_USER_DID", "did:bkey:z"),
        ];
        let of = |variables: &[(&str, &str)]| found(variables, Some("other"), Some(&file)).unwrap();
        assert_eq!(of(&both), ["https://api.bkey.id", "id", "secret", "did:bkey:z"]);
        let named = [
            both.as_slice(),
            &[("BKEY_BASE_URL", "https://old.example/"), ("BKEY_API_URL", "")],
        ]
        .concat();
        assert_eq!(of(&named)[0], "https://old.example");
        let named = [named.as_slice(), &[("BKEY_API_URL", "https://new.example")]].concat();
        let named: Vec<_> = named.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        assert_eq!(of(&named)[0], "https://new.example");
        assert!(found(&both[..1], None, Some(&file)).unwrap_err().contains("or neither"));
        assert!(found(&[], None, None).unwrap_err().contains("no BKey agent"));
        assert!(found(&[("BKEY_ACCESS_TOKEN", "t")], None, None).is_err());
    }

    #[test]
    fn an_agent_is_found_by_name_or_default() {
        let file = file(&profiles(), 0o600);
        let main = ["https://id.example", "bkey_client_m", "bkey_secret_m", ""];
        assert_eq!(found(&[], None, Some(&file)).unwrap(), main);
        let by_variable = [("BKEY_PROFILE", "other")];
        assert_eq!(found(&by_variable, None, Some(&file)).unwrap()[1], "bkey_client_o");
        assert_eq!(found(&by_variable, Some("main"), Some(&file)).unwrap(), main);
        assert!(found(&[], Some("me"), Some(&file)).unwrap_err().contains("no agent me"));
        for name in ["", "-a", "a/b", "../x", &"a".repeat(49)] {
            assert!(
                found(&[], Some(name), Some(&file)).unwrap_err().contains("48 letters"),
                "{name}"
            );
        }
    }

    #[test]
    fn a_file_that_others_read_or_that_is_newer_is_refused() {
        for mode in [0o640, 0o604, 0o660, 0o644] {
            let error = found(&[], None, Some(&file(&profiles(), mode))).unwrap_err();
            assert!(
                error.contains("chmod 600") && error.contains(&format!("{mode:04o}")),
                "{error}"
            );
        }
        let error = found(&[], None, Some(&file(&json!({ "version": 2, "agents": [] }), 0o600))).unwrap_err();
        assert!(error.contains("version 2"), "{error}");
        for other in [
            json!({}),
            json!([1]),
            json!({ "version": "1" }),
            json!({ "version": 1, "agents": { "main": {} } }),
        ] {
            let error = found(&[], Some("main"), Some(&file(&other, 0o600))).unwrap_err();
            assert!(error.contains("not in the format"), "{error}");
        }
    }

    #[test]
    fn the_file_is_read_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profiles.json");
        assert!(ProfilesFile::read(&path).unwrap().is_none());
        std::fs::write(&path, profiles().to_string()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let read = ProfilesFile::read(&path).unwrap().unwrap();
        assert!(matches!(
            BkeyAgent::find(|_| None, None, Some(&read)),
            Err(BkeyError::Exposed(0o640))
        ));
    }
}

//! The values of the KEYRA settings in bursar.toml, as checked types; [`KeyraSettings`](super::KeyraSettings) is the
//! whole section. KEYRA's documentation leaves much open; each of these settings is one interpretation of it (approvals
//! §6.2).

use std::fmt;

use http::{HeaderValue, Uri};
use thiserror::Error;
use zeroize::Zeroizing;

use bursar_net::post::{host_and_port, is_this_machine};

/// What it takes to accept an approval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// KEYRA verified the attestation of the approver's device when bursar asked.
    #[default]
    Verify,
    /// KEYRA reports the challenge as approved.
    Status,
}

impl Trust {
    /// Parses the name used in bursar.toml.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "verify" => Some(Self::Verify),
            "status" => Some(Self::Status),
            _ => None,
        }
    }
}

/// Whether KEYRA must echo the question. What it echoes must be equal in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Echo {
    #[default]
    IfGiven,
    /// `require_echo = true`.
    Required,
}

/// `KEYRA_ENV`. It does not change the URL; it only has to match the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Environment {
    #[default]
    Sandbox,
    Production,
}

impl Environment {
    /// Parses the name used in `KEYRA_ENV` and bursar.toml.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "sandbox" => Some(Self::Sandbox),
            "production" => Some(Self::Production),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    #[error("not a service URL such as https://keyra.example.com")]
    NotAUrl,
    #[error(
        "a KEYRA key is sent over https only; plain http is allowed only to this machine, such as http://127.0.0.1:8420"
    )]
    Plain,
    #[error("the URL of KEYRA's API must not have a user, a query or a fragment, and must end before /v1")]
    MoreThanABase,
    #[error("not a KEYRA key: it must be at most 255 letters, digits and -._~+/=")]
    NotAKey,
    #[error("env is \"production\", but the KEYRA key does not begin with sk_live_")]
    SandboxKeyInProduction,
    #[error("env is \"sandbox\", but the KEYRA key is a live one (sk_live_)")]
    LiveKeyInSandbox,
    #[error("a KEYRA action must look like payment.approve: at most 64 letters, digits and ._:-")]
    NotAnAction,
    #[error("the KEYRA webhook secret is empty")]
    EmptySecret,
}

/// The API's URL before `/v1`: HTTPS, or plain HTTP to this machine. KEYRA documents none, so there is no default.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl {
    uri: Uri,
    /// Without a trailing slash; usually empty.
    path: String,
}

impl BaseUrl {
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let uri: Uri = text.parse().map_err(|_| SettingsError::NotAUrl)?;
        let authority = uri.authority().ok_or(SettingsError::NotAUrl)?;
        if authority.host().is_empty() {
            return Err(SettingsError::NotAUrl);
        }
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_this_machine(authority.host()) => {}
            Some("http") => return Err(SettingsError::Plain),
            _ => return Err(SettingsError::NotAUrl),
        }
        let path = uri.path().trim_end_matches('/').to_owned();
        // `Uri` drops the fragment, so look for it in the text.
        let more = uri.query().is_some() || text.contains('#') || authority.as_str().contains('@');
        if more || path == "/v1" || path.ends_with("/v1") {
            return Err(SettingsError::MoreThanABase);
        }
        Ok(Self { uri, path })
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{}{}", host_and_port(&self.uri), self.path)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret key that matches `KEYRA_ENV`. No `Debug`, no `Display`; wiped when dropped.
pub struct ApiKey {
    text: Zeroizing<String>,
    environment: Environment,
}

impl ApiKey {
    const LONGEST: usize = 255;
    const LIVE: &str = "sk_live_";

    pub fn parse(text: &str, environment: Environment) -> Result<Self, SettingsError> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        let rest = text.strip_prefix(Self::LIVE).unwrap_or(text);
        if rest.is_empty() || text.len() > Self::LONGEST || !text.bytes().all(is_token) {
            return Err(SettingsError::NotAKey);
        }
        match (environment, text.starts_with(Self::LIVE)) {
            (Environment::Production, false) => Err(SettingsError::SandboxKeyInProduction),
            (Environment::Sandbox, true) => Err(SettingsError::LiveKeyInSandbox),
            _ => Ok(Self {
                text: Zeroizing::new(text.to_owned()),
                environment,
            }),
        }
    }

    pub fn environment(&self) -> Environment {
        self.environment
    }

    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let field = Zeroizing::new(format!("Bearer {}", self.text.as_str()));
        let mut value = HeaderValue::try_from(field.as_str()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// KEYRA's name for what the approver is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action(String);

impl Action {
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        match (1..=64).contains(&text.len()) && text.bytes().all(is_word) {
            true => Ok(Self(text.to_owned())),
            false => Err(SettingsError::NotAnAction),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Action {
    fn default() -> Self {
        Self("payment.approve".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_over_https_or_stays_on_this_machine() {
        for (good, shown) in [
            ("https://keyra.example.com", "https://keyra.example.com"),
            ("https://keyra.example.com/", "https://keyra.example.com"),
            (
                "https://gateway.example.com:8443/keyra/",
                "https://gateway.example.com:8443/keyra",
            ),
            ("http://127.0.0.1:8420", "http://127.0.0.1:8420"),
            ("http://[::1]:8420/", "http://[::1]:8420"),
        ] {
            assert_eq!(BaseUrl::parse(good).unwrap().to_string(), shown);
        }
        for (bad, why) in [
            ("http://keyra.example.com", SettingsError::Plain),
            ("http://10.0.0.1", SettingsError::Plain),
            ("http://127.0.0.1.example.com", SettingsError::Plain),
            ("http://localhost@keyra.example.com", SettingsError::Plain),
            ("https://key@keyra.example.com", SettingsError::MoreThanABase),
            ("https://keyra.example.com/v1", SettingsError::MoreThanABase),
            ("https://keyra.example.com/v1/", SettingsError::MoreThanABase),
            ("https://keyra.example.com?x", SettingsError::MoreThanABase),
            ("https://keyra.example.com#x", SettingsError::MoreThanABase),
            ("keyra.example.com", SettingsError::NotAUrl),
            ("ftp://127.0.0.1", SettingsError::NotAUrl),
            ("", SettingsError::NotAUrl),
        ] {
            assert_eq!(BaseUrl::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_key_must_match_its_environment_and_is_never_shown() {
        let parse = |text, environment| ApiKey::parse(text, environment).err();
        let (sandbox, production) = (Environment::Sandbox, Environment::Production);
        assert_eq!(parse("sk_test_abc", sandbox), None);
        assert_eq!(parse("sk_live_abc", production), None);
        for (text, environment, why) in [
            ("sk_live_hunter2", sandbox, SettingsError::LiveKeyInSandbox),
            ("sk_test_hunter2", production, SettingsError::SandboxKeyInProduction),
            ("SK_LIVE_hunter2", production, SettingsError::SandboxKeyInProduction),
            (" sk_live_hunter2", production, SettingsError::NotAKey),
            ("sk_live_", production, SettingsError::NotAKey),
            ("", sandbox, SettingsError::NotAKey),
            ("sk_test_hunter2\r\nX: y", sandbox, SettingsError::NotAKey),
        ] {
            assert_eq!(parse(text, environment), Some(why), "{text:?}");
            assert!(!why.to_string().contains("hunter2"));
        }
        let field = ApiKey::parse("sk_test_abc", sandbox)
            .ok()
            .unwrap()
            .authorization()
            .unwrap();
        assert_eq!(field, "Bearer sk_test_abc");
        assert!(field.is_sensitive());
    }

    #[test]
    fn names_in_the_file_are_the_documented_ones() {
        assert_eq!(Trust::parse("verify"), Some(Trust::default()));
        assert_eq!(Trust::parse("status"), Some(Trust::Status));
        assert_eq!(Trust::parse("none"), None);
        assert_eq!(Environment::parse("sandbox"), Some(Environment::default()));
        assert_eq!(Environment::parse("live"), None);
        assert_eq!(Action::parse("payment.approve"), Ok(Action::default()));
        for bad in ["", "pay me", "a\"b", &"a".repeat(65)] {
            assert_eq!(Action::parse(bad), Err(SettingsError::NotAnAction));
        }
    }
}

//! The URL of an identity server: https, or plain HTTP to this machine where that is allowed.

use http::Uri;
use thiserror::Error;

use crate::post::is_this_machine;

/// Whether plain HTTP is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    #[default]
    Never,
    /// To this machine only, for a server that runs beside bursar or in a test.
    ToThisMachine,
}

/// An identity server, such as the one that signs approvals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Without a trailing slash.
    text: String,
    /// As it was configured.
    written: String,
    uri: Uri,
    plain: PlainHttp,
}

/// Why a text cannot be the URL of an identity server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    #[error("not a server URL; write one such as https://api.bkey.id")]
    NotAUrl,
    #[error("an identity server is contacted only over https; plain http is allowed only to this machine")]
    Plain,
    #[error("the URL must not contain a user name or password")]
    UserInfo,
    #[error("the URL must not have a query or a fragment")]
    MoreThanAPath,
}

impl Issuer {
    pub fn parse(text: &str, plain: PlainHttp) -> Result<Self, UrlError> {
        let written = text.to_owned();
        let text = text.strip_suffix('/').unwrap_or(text);
        let uri = checked(text, plain)?;
        if uri.query().is_some() {
            return Err(UrlError::MoreThanAPath);
        }
        Ok(Self {
            text: text.to_owned(),
            written,
            uri,
            plain,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As it was configured, with a trailing slash if it had one: some servers compare their name byte for byte.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// The URL of its metadata.
    pub fn document(&self) -> Result<Uri, UrlError> {
        let text = format!("{}/.well-known/openid-configuration", self.text);
        text.parse().map_err(|_| UrlError::NotAUrl)
    }

    /// Parses a URL from this server's documents, with the same rule about plain HTTP.
    pub fn endpoint(&self, url: &str) -> Result<Uri, UrlError> {
        checked(url, self.plain)
    }

    /// Whether `host` is this server's host.
    pub fn has_host(&self, host: &str) -> bool {
        self.uri.host().is_some_and(|own| own.eq_ignore_ascii_case(host))
    }

    /// Whether `text` names the same server.
    pub fn is(&self, text: &str) -> bool {
        text.strip_suffix('/').unwrap_or(text) == self.text
    }
}

fn checked(text: &str, plain: PlainHttp) -> Result<Uri, UrlError> {
    let uri: Uri = text.parse().map_err(|_| UrlError::NotAUrl)?;
    let authority = uri.authority().ok_or(UrlError::NotAUrl)?;
    if authority.as_str().contains('@') {
        return Err(UrlError::UserInfo);
    }
    // `Uri` drops a fragment, so look for it in the text.
    if text.contains('#') {
        return Err(UrlError::MoreThanAPath);
    }
    if authority.host().is_empty() {
        return Err(UrlError::NotAUrl);
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if plain == PlainHttp::ToThisMachine && is_this_machine(authority.host()) => Ok(uri),
        Some("http") => Err(UrlError::Plain),
        _ => Err(UrlError::NotAUrl),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_and_only_where_allowed() {
        let allowed = PlainHttp::ToThisMachine;
        for good in [
            "http://127.0.0.1:8420",
            "http://[::1]:1/realm/",
            "http://localhost:3000",
            "https://id.test",
        ] {
            assert!(Issuer::parse(good, allowed).is_ok(), "{good}");
        }
        assert_eq!(
            Issuer::parse("http://127.0.0.1:1", PlainHttp::Never),
            Err(UrlError::Plain)
        );
        for (bad, why) in [
            ("http://10.0.0.1", UrlError::Plain),
            ("http://127.0.0.1.example.com", UrlError::Plain),
            ("http://0.0.0.0:1", UrlError::Plain),
            ("https://a@id.test", UrlError::UserInfo),
            ("https://id.test?x", UrlError::MoreThanAPath),
            ("https://id.test/#x", UrlError::MoreThanAPath),
            ("ftp://127.0.0.1", UrlError::NotAUrl),
            ("id.test", UrlError::NotAUrl),
            ("", UrlError::NotAUrl),
        ] {
            assert_eq!(Issuer::parse(bad, allowed), Err(why), "{bad}");
        }
        let issuer = Issuer::parse("https://id.test/realms/a/", allowed).unwrap();
        assert_eq!(
            issuer.document().unwrap(),
            "https://id.test/realms/a/.well-known/openid-configuration"
        );
    }
}

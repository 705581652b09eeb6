//! Which service is called, in which version, at which of its two endpoints.

use std::fmt;

use http::Uri;
use thiserror::Error;

use bursar_net::post::is_this_machine;

/// The URL of the API: HTTPS, or plain HTTP to this machine, where a sandbox may listen. A key is never sent
/// unencrypted to another machine.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiBase(Uri);

/// A dated preview version of the API. Stripe knows shared payment tokens only with `.preview` (MPP §6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiVersion(String);

/// How a token is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /v1/shared_payment/issued_tokens`: a token for any seller.
    #[default]
    Issued,
    /// `POST /v1/test_helpers/shared_payment/granted_tokens`: a token as if it was granted to the key's own account, so
    /// it pays only a seller that uses the same test account.
    TestHelper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ServiceError {
    #[error("this is not the URL of a service, such as https://api.stripe.com")]
    NotAUrl,
    #[error(
        "a Stripe key is sent only over https; plain http is allowed only to this machine, such as \
         http://127.0.0.1:8420"
    )]
    Plain,
    #[error("the URL of Stripe's API must end after host and port")]
    MoreThanAHost,
    #[error("not a preview version of Stripe's API; one looks like {}", ApiVersion::DEFAULT)]
    Version,
}

impl ApiBase {
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let uri: Uri = text.parse().map_err(|_| ServiceError::NotAUrl)?;
        let authority = uri.authority().ok_or(ServiceError::NotAUrl)?;
        if authority.host().is_empty() {
            return Err(ServiceError::NotAUrl);
        }
        // `Uri` drops the fragment, so the text is checked for one.
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none() && !text.contains('#');
        if !bare || authority.as_str().contains('@') {
            return Err(ServiceError::MoreThanAHost);
        }
        match uri.scheme_str() {
            Some("https") => Ok(Self(uri)),
            Some("http") if is_this_machine(authority.host()) => Ok(Self(uri)),
            Some("http") => Err(ServiceError::Plain),
            _ => Err(ServiceError::NotAUrl),
        }
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl Default for ApiBase {
    fn default() -> Self {
        Self(Uri::from_static("https://api.stripe.com"))
    }
}

impl fmt::Display for ApiBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{}", bursar_net::post::host_and_port(&self.0))
    }
}

impl fmt::Debug for ApiBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ApiVersion {
    /// R27.
    pub(crate) const DEFAULT: &str = "2026-07-29.preview";

    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        let date = text.strip_suffix(".preview").ok_or(ServiceError::Version)?;
        let well_formed = date.len() == 10
            && date.bytes().enumerate().all(|(at, byte)| match at {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        match well_formed {
            true => Ok(Self(text.to_owned())),
            false => Err(ServiceError::Version),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ApiVersion {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl Endpoint {
    /// Parses the name used in bursar.toml.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "issued" => Some(Self::Issued),
            "test_helper" => Some(Self::TestHelper),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine() {
        for good in [
            "https://api.stripe.com",
            "https://api.stripe.com/",
            "https://stripe.internal:8443",
            "http://127.0.0.1:8420",
            "http://127.9.9.9",
            "http://localhost:1/",
            "http://[::1]:8420",
        ] {
            assert!(ApiBase::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://api.stripe.com", ServiceError::Plain),
            ("http://10.0.0.1:8420", ServiceError::Plain),
            ("http://localhost.example.com", ServiceError::Plain),
            ("http://127.0.0.1.example.com", ServiceError::Plain),
            ("http://0.0.0.0:1", ServiceError::Plain),
            ("http://localhost@evil.example", ServiceError::MoreThanAHost),
            ("https://key@api.stripe.com", ServiceError::MoreThanAHost),
            ("https://api.stripe.com/v1", ServiceError::MoreThanAHost),
            ("https://api.stripe.com?x", ServiceError::MoreThanAHost),
            ("https://api.stripe.com#x", ServiceError::MoreThanAHost),
            ("api.stripe.com", ServiceError::NotAUrl),
            ("ftp://127.0.0.1", ServiceError::NotAUrl),
            ("/v1", ServiceError::NotAUrl),
            ("", ServiceError::NotAUrl),
        ] {
            assert_eq!(ApiBase::parse(bad), Err(why), "{bad}");
        }
        assert_eq!(ApiBase::default().to_string(), "https://api.stripe.com");
        assert_eq!(
            ApiBase::parse("http://[::1]:8420/").unwrap().to_string(),
            "http://[::1]:8420"
        );
    }

    #[test]
    fn a_version_is_a_dated_preview() {
        assert_eq!(ApiVersion::default(), ApiVersion::parse(ApiVersion::DEFAULT).unwrap());
        for bad in [
            "",
            "2026-07-29",
            "2026-07-29.dahlia",
            ".preview",
            "2026-7-29.preview",
            "2026-07-29.preview\r\nX: y",
            "2026_07_29.preview",
        ] {
            assert_eq!(ApiVersion::parse(bad), Err(ServiceError::Version), "{bad:?}");
        }
        assert_eq!(Endpoint::parse("test_helper"), Some(Endpoint::TestHelper));
        assert_eq!(Endpoint::parse("granted"), None);
    }
}

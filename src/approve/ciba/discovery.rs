//! Where an identity server's endpoints are, by its own document, and which of what it says is believed (approvals digest §2.1).

use std::net::IpAddr;

use http::Uri;
use serde::Deserialize;
use thiserror::Error;

use super::settings::{AuthMethod, Delivery};
use crate::oauth::form;

/// A document of this length is read, a longer one is not.
pub const LONGEST_DOCUMENT: usize = 256 << 10;

/// Whether plain HTTP is ever spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    #[default]
    Never,
    /// `allow_insecure_loopback`: to this machine, where a test's server listens.
    ToThisMachine,
}

/// Who signs approvals: https, or plain HTTP to this machine where that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Without the slash at its end, if it had one.
    text: String,
    /// As the server is said to name itself.
    written: String,
    uri: Uri,
    plain: PlainHttp,
}

/// What the document says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub authentication: Uri,
    pub token: Uri,
    pub jwks: Uri,
    /// Whether the way in which we authenticate is among those that it lists.
    pub takes_our_authentication: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    #[error("this is no URL of a server such as https://api.bkey.id")]
    NotAUrl,
    #[error("an identity server is spoken to over https only; plain http is for this machine, where it is allowed")]
    Plain,
    #[error("the URL holds a name or password")]
    UserInfo,
    #[error("the URL has a query or a fragment")]
    MoreThanAPath,
}

/// Why an issuer's document is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiscoveryError {
    #[error("it is longer than {LONGEST_DOCUMENT} bytes")]
    TooLong,
    #[error("it is no JSON object with issuer, endpoints and delivery modes")]
    NotMetadata,
    #[error("it is another issuer's")]
    OtherIssuer,
    #[error("{member}: {why}")]
    Url { member: &'static str, why: UrlError },
    #[error("{member} is at a host that is neither the issuer's nor configured")]
    OtherHost { member: &'static str },
    #[error("it does not offer the delivery mode that is configured")]
    Delivery,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    backchannel_authentication_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    backchannel_token_delivery_modes_supported: Vec<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
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

    /// With the slash at its end, if it was written with one: some servers compare their own name to the byte.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Where its metadata is.
    pub fn document(&self) -> Result<Uri, UrlError> {
        let text = format!("{}/.well-known/openid-configuration", self.text);
        text.parse().map_err(|_| UrlError::NotAUrl)
    }

    fn is(&self, text: &str) -> bool {
        text.strip_suffix('/').unwrap_or(text) == self.text
    }
}

impl Metadata {
    pub fn parse(
        document: &[u8],
        issuer: &Issuer,
        hosts: &[String],
        delivery: Delivery,
        client_auth: AuthMethod,
    ) -> Result<Self, DiscoveryError> {
        if document.len() > LONGEST_DOCUMENT {
            return Err(DiscoveryError::TooLong);
        }
        let text = form::object(document).ok_or(DiscoveryError::NotMetadata)?;
        let document: Document = serde_json::from_str(text).map_err(|_| DiscoveryError::NotMetadata)?;
        if !issuer.is(&document.issuer) {
            return Err(DiscoveryError::OtherIssuer);
        }
        let mode = match delivery {
            Delivery::Poll => "poll",
            Delivery::Ping => "ping",
        };
        let modes = &document.backchannel_token_delivery_modes_supported;
        if !modes.iter().any(|offered| offered == mode) {
            return Err(DiscoveryError::Delivery);
        }
        let endpoint = |member, url: &str| {
            let uri = checked(url, issuer.plain).map_err(|why| DiscoveryError::Url { member, why })?;
            let host = uri.host().unwrap_or_default();
            let of_issuer = issuer.uri.host().is_some_and(|own| own.eq_ignore_ascii_case(host));
            match of_issuer || hosts.iter().any(|other| other.eq_ignore_ascii_case(host)) {
                true => Ok(uri),
                false => Err(DiscoveryError::OtherHost { member }),
            }
        };
        let method = match client_auth {
            AuthMethod::Basic => "client_secret_basic",
            AuthMethod::Post => "client_secret_post",
            AuthMethod::PrivateKeyJwt => "private_key_jwt",
        };
        let takes_our_authentication = match &document.token_endpoint_auth_methods_supported {
            Some(methods) => methods.iter().any(|offered| offered == method),
            None => client_auth == AuthMethod::Basic,
        };
        Ok(Self {
            authentication: endpoint(
                "backchannel_authentication_endpoint",
                &document.backchannel_authentication_endpoint,
            )?,
            token: endpoint("token_endpoint", &document.token_endpoint)?,
            jwks: endpoint("jwks_uri", &document.jwks_uri)?,
            takes_our_authentication,
        })
    }
}

fn checked(text: &str, plain: PlainHttp) -> Result<Uri, UrlError> {
    let uri: Uri = text.parse().map_err(|_| UrlError::NotAUrl)?;
    let authority = uri.authority().ok_or(UrlError::NotAUrl)?;
    if authority.as_str().contains('@') {
        return Err(UrlError::UserInfo);
    }
    // `Uri` drops a fragment, so it is looked for in the text.
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

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Value {
        json!({
            "issuer": "https://api.bkey.id",
            "backchannel_authentication_endpoint": "https://api.bkey.id/oauth/bc-authorize",
            "token_endpoint": "https://api.bkey.id/oauth/token",
            "jwks_uri": "https://api.bkey.id/oauth/jwks",
            "backchannel_token_delivery_modes_supported": ["poll"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        })
    }

    fn read(document: &Value) -> Result<Metadata, DiscoveryError> {
        let issuer = Issuer::parse("https://api.bkey.id/", PlainHttp::Never).unwrap();
        let hosts = ["keys.example".to_owned()];
        let document = document.to_string();
        Metadata::parse(document.as_bytes(), &issuer, &hosts, Delivery::Poll, AuthMethod::Post)
    }

    fn with(member: &str, value: impl Into<Value>) -> Value {
        let mut document = document();
        document[member] = value.into();
        document
    }

    #[test]
    fn a_document_of_the_issuer_is_believed() {
        let metadata = read(&document()).unwrap();
        assert_eq!(metadata.authentication, "https://api.bkey.id/oauth/bc-authorize");
        assert_eq!(metadata.token, "https://api.bkey.id/oauth/token");
        assert_eq!(metadata.jwks, "https://api.bkey.id/oauth/jwks");
        assert!(metadata.takes_our_authentication);
        assert!(read(&with("issuer", "https://api.bkey.id/")).is_ok());
        assert!(read(&with("jwks_uri", "https://keys.example/jwks")).is_ok());
        let unlisted = read(&with("token_endpoint_auth_methods_supported", Value::Null)).unwrap();
        assert!(!unlisted.takes_our_authentication, "basic is the default");
    }

    #[test]
    fn nothing_else_is() {
        let url = |why| DiscoveryError::Url {
            member: "token_endpoint",
            why,
        };
        let elsewhere = DiscoveryError::OtherHost {
            member: "token_endpoint",
        };
        for (value, why) in [
            ("http://api.bkey.id/token", url(UrlError::Plain)),
            ("http://127.0.0.1/token", url(UrlError::Plain)),
            ("https://me@api.bkey.id/token", url(UrlError::UserInfo)),
            ("https://api.bkey.id/token#x", url(UrlError::MoreThanAPath)),
            ("/token", url(UrlError::NotAUrl)),
            ("https://api.bkey.id.evil.test/token", elsewhere.clone()),
            ("https://sub.api.bkey.id/token", elsewhere),
        ] {
            assert_eq!(read(&with("token_endpoint", value)), Err(why), "{value}");
        }
        for other in [
            "https://api.bkey.id//",
            "https://api.bkey.id/x",
            "http://api.bkey.id",
            "",
        ] {
            assert_eq!(
                read(&with("issuer", other)),
                Err(DiscoveryError::OtherIssuer),
                "{other}"
            );
        }
        let modes = "backchannel_token_delivery_modes_supported";
        assert_eq!(read(&with(modes, json!(["push"]))), Err(DiscoveryError::Delivery));
        assert_eq!(read(&with(modes, Value::Null)), Err(DiscoveryError::NotMetadata));
        assert_eq!(read(&json!([])), Err(DiscoveryError::NotMetadata));
        let long = with("service_documentation", "x".repeat(LONGEST_DOCUMENT));
        assert_eq!(read(&long), Err(DiscoveryError::TooLong));
    }

    #[test]
    fn invalid_utf8_is_found_in_members_that_nobody_reads() {
        let mut bytes = document().to_string().into_bytes();
        bytes.pop();
        bytes.extend_from_slice(b",\"x\":\"\xff\"}");
        let issuer = Issuer::parse("https://api.bkey.id", PlainHttp::Never).unwrap();
        let read = Metadata::parse(&bytes, &issuer, &[], Delivery::Poll, AuthMethod::Post);
        assert_eq!(read, Err(DiscoveryError::NotMetadata));
    }

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

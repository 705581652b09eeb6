//! Reads an identity server's discovery document: which endpoints it has, and which of them bursar accepts (approvals
//! §2.1).

use http::Uri;
use serde::Deserialize;
use thiserror::Error;

use super::settings::{AuthMethod, Delivery};
use bursar_net::oauth::form;
use bursar_net::oauth::issuer::{Issuer, UrlError};

/// Longer documents are rejected.
pub(crate) const LONGEST_DOCUMENT: usize = 256 << 10;

/// The checked contents of a discovery document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub authentication: Uri,
    pub token: Uri,
    pub jwks: Uri,
    /// Whether the server lists the configured client authentication.
    pub takes_our_authentication: bool,
}

/// Why a discovery document was rejected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiscoveryError {
    #[error("the document is longer than {LONGEST_DOCUMENT} bytes")]
    TooLong,
    #[error("the document is not a JSON object with issuer, endpoints and delivery modes")]
    NotMetadata,
    #[error("the document is for another issuer")]
    OtherIssuer,
    #[error("{member}: {why}")]
    Url { member: &'static str, why: UrlError },
    #[error("the host of {member} is neither the issuer's nor a configured one")]
    OtherHost { member: &'static str },
    #[error("the server does not offer the configured delivery mode")]
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
            let uri = issuer
                .endpoint(url)
                .map_err(|why| DiscoveryError::Url { member, why })?;
            let host = uri.host().unwrap_or_default();
            match issuer.has_host(host) || hosts.iter().any(|other| other.eq_ignore_ascii_case(host)) {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use bursar_net::oauth::issuer::PlainHttp;

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
    fn the_issuers_own_document_is_accepted() {
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
    fn any_other_document_is_rejected() {
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
}

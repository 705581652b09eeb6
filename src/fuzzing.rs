//! The reader of `Proxy-Authorization`, which the program keeps to itself, for `fuzz/`.

use http::HeaderValue;
use secrecy::ExposeSecret;

use crate::agents::ProxyCredential;

/// Name and token.
pub fn proxy_credential(value: &HeaderValue) -> Option<(String, String)> {
    let ProxyCredential { name, token } = ProxyCredential::parse(value)?;
    Some((name, token.expose_secret().to_owned()))
}

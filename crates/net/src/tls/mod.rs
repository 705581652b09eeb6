//! TLS on both sides of an intercepted tunnel: our certificates for agents, verified connections to origins.
//!
//! Every builder names its crypto provider (aws-lc-rs), so no process-wide default is needed or touched.

use std::sync::{Arc, LazyLock};

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;

pub mod authority;
mod certificate;
mod fault;
pub mod leaf;
pub mod site;
mod trust;
pub mod upstream;
mod validity;
mod verifier;

/// The ALPN identifiers (RFC 7301) of the two protocols that bursar reads.
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// The protocol that was negotiated with the origin. It is the only one then offered to the agent: with the same
/// protocol on both sides, nothing needs translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// No protocol was negotiated: HTTP/1.1 by convention.
    Absent,
    Http1,
    Http2,
}

impl Alpn {
    /// From the ALPN result of a finished handshake.
    pub fn negotiated(identifier: Option<&[u8]>) -> Self {
        match identifier {
            Some(HTTP2) => Self::Http2,
            Some(HTTP1) => Self::Http1,
            _ => Self::Absent,
        }
    }

    fn identifiers(self) -> Vec<Vec<u8>> {
        match self {
            Self::Absent => Vec::new(),
            Self::Http1 => vec![HTTP1.to_vec()],
            Self::Http2 => vec![HTTP2.to_vec()],
        }
    }
}

/// The protocols in the agent's ClientHello that bursar can read, in the agent's order. The origin is offered the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlpnOffer {
    Nothing,
    Http1,
    Http2,
    Http2ThenHttp1,
    Http1ThenHttp2,
}

impl AlpnOffer {
    const ALL: [Self; 5] = [
        Self::Nothing,
        Self::Http1,
        Self::Http2,
        Self::Http2ThenHttp1,
        Self::Http1ThenHttp2,
    ];

    pub fn of_client<'a>(identifiers: impl IntoIterator<Item = &'a [u8]>) -> Self {
        identifiers
            .into_iter()
            .fold(Self::Nothing, |offer, identifier| match (offer, identifier) {
                (Self::Nothing, HTTP1) => Self::Http1,
                (Self::Nothing, HTTP2) => Self::Http2,
                (Self::Http1, HTTP2) => Self::Http1ThenHttp2,
                (Self::Http2, HTTP1) => Self::Http2ThenHttp1,
                _ => offer,
            })
    }

    fn identifiers(self) -> Vec<Vec<u8>> {
        let order: &[&[u8]] = match self {
            Self::Nothing => &[],
            Self::Http1 => &[HTTP1],
            Self::Http2 => &[HTTP2],
            Self::Http2ThenHttp1 => &[HTTP2, HTTP1],
            Self::Http1ThenHttp2 => &[HTTP1, HTTP2],
        };
        order.iter().map(|identifier| identifier.to_vec()).collect()
    }
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// For agents, with AES-128 and SHA-256 first, as in browsers: SHA-256 is done by the processor nearly everywhere and
/// SHA-384 is not, and a handshake hashes and derives keys for most of its time. Sites keep the library's order: with
/// this one some broke off when a session of another site of the same name was offered to them.
fn agents_provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // Stable: nothing else changes its place.
        provider.cipher_suites.sort_by_key(|suite| {
            let is_first = matches!(
                suite.suite(),
                CipherSuite::TLS13_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            );
            (suite.tls13().is_none(), !is_first)
        });
        Arc::new(provider)
    });
    PROVIDER.clone()
}

#[cfg(test)]
mod tests;

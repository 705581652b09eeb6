//! An OAuth client (RFC 6749) of an identity server: the client's secret, one request with a deadline, and the client's
//! own access token.
//!
//! Used for CIBA approvals (`bursar_approvals::ciba`) and for payments through BKey (`bursar_rails::bkey`).

pub mod exchange;
pub mod failure;
pub mod form;
pub mod issuer;
pub mod login;
mod outgoing;

pub use outgoing::Outgoing;
use zeroize::Zeroizing;

/// A client secret or a token. Neither `Debug` nor `Display`; wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

//! A client of an identity server (RFC 6749): its secret, one bounded request, and the token by which it is known.
//!
//! CIBA asks with it (`approve/ciba`), and BKey's payments (`bkey`).

pub mod exchange;
pub mod failure;
pub mod form;
pub mod issuer;
pub mod login;
mod outgoing;

pub use outgoing::Outgoing;
use zeroize::Zeroizing;

/// A client secret or a token. Neither `Debug` nor `Display`; wiped when it goes.
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

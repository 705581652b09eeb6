//! The readers of answers that this crate keeps to itself, for `fuzz/`.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::bkey::{Authorization, Created, Looked, Token, Unreadable, WalletAnswer, fuzzing as bkey};
pub use crate::rpc::fuzzing::{TX, rpc_block, rpc_logs, rpc_mined, rpc_quantity, rpc_sent};
use crate::stripe::StripeError;

/// [`Created`], with what it holds in plain sight.
pub enum Ordered<T> {
    Made(Result<T, Unreadable>),
    Pending {
        id: String,
        interval: Duration,
        life: Duration,
    },
    Refused,
    Unclear,
}

/// [`Looked`], likewise.
pub enum Polled<T> {
    Made(Result<T, Unreadable>),
    Wait,
    Over(&'static str),
}

pub fn bkey_wallet(body: &[u8]) -> Result<WalletAnswer, Unreadable> {
    bkey::wallet(body)
}

pub fn bkey_created_authorization(status: StatusCode, body: &[u8]) -> Ordered<Authorization> {
    match bkey::created(status, body) {
        Created::Made(read) => Ordered::Made(read),
        Created::Pending(pending) => Ordered::Pending {
            id: pending.id().to_owned(),
            interval: pending.interval(),
            life: pending.life(),
        },
        Created::Refused(_) => Ordered::Refused,
        Created::Unclear(_) => Ordered::Unclear,
    }
}

pub fn bkey_looked_at_token(status: StatusCode, body: &[u8]) -> Polled<Token> {
    match bkey::looked(status, body) {
        Looked::Made(read) => Polled::Made(read),
        Looked::Wait(_) => Polled::Wait,
        Looked::Over(reason) => Polled::Over(reason.as_str()),
    }
}

pub fn stripe_error(status: StatusCode, body: &[u8]) -> StripeError {
    StripeError::of_answer(status, &HeaderMap::new(), body)
}

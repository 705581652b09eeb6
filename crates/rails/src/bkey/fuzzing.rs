//! The readers of BKey's answers, for `fuzz/`.

use http::StatusCode;

use super::answer;
use super::{Authorization, Created, Looked, Product, Token, Unreadable, WalletAnswer};

pub(crate) fn wallet(body: &[u8]) -> Result<WalletAnswer, Unreadable> {
    answer::wallet(body)
}

pub(crate) fn created(status: StatusCode, body: &[u8]) -> Created<Authorization> {
    answer::created(status, body, Authorization::READ)
}

pub(crate) fn looked(status: StatusCode, body: &[u8]) -> Looked<Token> {
    answer::looked(status, body, None, Token::READ)
}

//! The readers of answers that this crate keeps to itself, for `fuzz/`.

use http::StatusCode;

use crate::Failure;
pub use crate::keyra::fuzzing::{keyra_answer, keyra_error};

/// Handle, seconds to live and interval of a question that was asked.
pub fn ciba_asked(status: StatusCode, body: &[u8]) -> Result<(String, u64, Option<u64>), Failure> {
    crate::ciba::fuzzing::asked(status, body)
}

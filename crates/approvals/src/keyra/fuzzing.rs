//! The readers of KEYRA's answers, for `fuzz/`.

use http::{HeaderMap, StatusCode};

use super::challenge::ChallengeAnswer;
use super::errors::Fault;

/// The status in lower case, and whether there is an attestation.
pub fn keyra_answer(body: &[u8]) -> Option<(String, bool)> {
    let answer = ChallengeAnswer::parse(body)?;
    let status = format!("{:?}", answer.status).to_ascii_lowercase();
    Some((status, answer.attestation.is_some()))
}

pub fn keyra_error(status: StatusCode, body: &[u8]) -> String {
    format!("{:?}", Fault::of_answer(status, &HeaderMap::new(), body))
}

//! The reader of an accepted question, for `fuzz/`.

use http::StatusCode;

use super::asked::{self, Accepted, NotAsked};
use crate::Failure;

pub(crate) fn asked(status: StatusCode, body: &[u8]) -> Result<(String, u64, Option<u64>), Failure> {
    let Accepted {
        auth_req_id,
        expires_in_s,
        interval_s,
    } = asked::read(status, body).map_err(NotAsked::into_failure)?;
    Ok((auth_req_id, expires_in_s, interval_s))
}

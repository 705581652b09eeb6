//! The payment id: a UUIDv7 that is the same in the ledger, in `Bursar-Payment`, in Stripe's `Idempotency-Key` and (as
//! `pay_` and 32 hex digits) in the x402 extension `payment-identifier` (R8).

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Identifies one reservation, and so one payment. Sorts by the millisecond in which it was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PaymentId(Uuid);

impl PaymentId {
    /// A new id. `random` comes from the operating system's generator; the version and variant bits are set on top of
    /// it.
    pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
        // UUIDv7 cannot express times before 1970. A clock that says so is wrong, and only the order of ids is lost.
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// An id derived from this one, for one part of the payment's work. Different names give different ids.
    pub fn part(self, name: &str) -> Self {
        let hash = Sha256::new().chain_update(self.bytes()).chain_update(name).finalize();
        let mut random = [0; 10];
        random.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        Self::new(self.made_at().unwrap_or(Timestamp::UNIX_EPOCH), random)
    }

    /// Reads the hyphenated lower-case form of a UUIDv7, and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let rid = Self(Uuid::try_parse(text).ok()?);
        (rid.0.get_version_num() == 7 && rid.to_string() == text).then_some(rid)
    }

    /// The id in the form that `payment-identifier` requires: `pay_` and 32 hex digits.
    pub fn pay_id(&self) -> String {
        format!("pay_{}", self.0.simple())
    }

    /// When it was created, to the millisecond. `None` if the time is outside the calendar's range.
    pub fn made_at(&self) -> Option<Timestamp> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        let (seconds, nanos) = (i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?);
        Timestamp::new(seconds, nanos).ok()
    }

    /// The id from its sixteen bytes, which are not checked.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    pub fn bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for PaymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64, random: [u8; 10]) -> PaymentId {
        PaymentId::new(Timestamp::from_millisecond(millis).unwrap(), random)
    }

    #[test]
    fn the_text_is_a_version_7_uuid_and_reads_back() {
        let rid = at(1_795_161_602_123, [0xff; 10]);
        assert_eq!(rid.to_string(), "01a1f7f8-384b-7fff-bfff-ffffffffffff");
        assert_eq!(PaymentId::parse(&rid.to_string()), Some(rid));
        assert_eq!(rid.pay_id(), "pay_01a1f7f8384b7fffbfffffffffffffff");
    }

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        assert!(at(1_000, [0xff; 10]) < at(1_001, [0; 10]));
    }

    #[test]
    fn other_spellings_and_versions_are_not_ids() {
        for bad in [
            "",
            "01a1f7f8-384b-7fff-bfff-FFFFFFFFFFFF",
            "01a1f7f8384b7fffbfffffffffffffff",
            "{01a1f7f8-384b-7fff-bfff-ffffffffffff}",
            "01a1f7f8-384b-4fff-bfff-ffffffffffff",
        ] {
            assert_eq!(PaymentId::parse(bad), None, "{bad:?}");
        }
    }
}

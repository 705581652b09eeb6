//! The bytes that one outstanding payment has on disk:
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | `BSC1` |
//! | 4..8 | length of the body, big-endian |
//! | 8..24 | payment id |
//! | 24..56 | SHA-256 over the 24 bytes before it and the body |
//! | 56 | how often repeats have presented it |
//! | 57 | 1 if its answer has been delivered |
//! | 64.. | body: [`Stored`] as JSON |
//!
//! Nothing but the bytes 56 and 57 ever changes. They are outside the hash and written one at a time: a single byte is
//! written whole or not at all, so that a kill in the middle of a change cannot cost the record.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::PRESENTATIONS;
use bursar_core::challenge::Rail;
use bursar_ledger::PaymentId;

const MAGIC: &[u8; 4] = b"BSC1";
const HASHED: usize = 24;
const PRESENTED: usize = 56;
const DELIVERED: usize = 57;
const HEAD: usize = 64;

/// What is kept of one payment.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) rid: PaymentId,
    pub(super) target: String,
    pub(super) fingerprint: String,
    #[serde(default = "x402")]
    pub(super) rail: String,
    pub(super) field: String,
    pub(super) credential: String,
    pub(super) valid_before: i64,
    /// The payment was made under an `Idempotency-Key`.
    #[serde(default)]
    pub(super) keyed: bool,
    /// How often repeats have presented it, after it was first sent. Part of the JSON only in the files of before format
    /// 5.
    #[serde(default, skip_serializing)]
    pub(super) presented: u8,
    /// A complete 2xx reached the agent. Only a payment with a key is still stored then. Part of the JSON like
    /// `presented`.
    #[serde(default, skip_serializing)]
    pub(super) delivered: bool,
}

/// The rail of files that were written before there was a second one.
fn x402() -> String {
    Rail::X402.name().to_owned()
}

/// What changes in a record.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    /// It is about to be presented for this time.
    Presented(u8),
    Delivered,
}

impl Mark {
    /// Where in the record, and the byte.
    pub(super) fn byte(self) -> (usize, u8) {
        match self {
            Self::Presented(number) => (PRESENTED, number),
            Self::Delivered => (DELIVERED, 1),
        }
    }
}

impl Stored {
    /// The record, with room for `capacity` bytes.
    pub(super) fn encoded(&self, capacity: usize) -> Vec<u8> {
        let mut record = Vec::with_capacity(capacity);
        record.resize(HEAD, 0);
        // Strings, numbers and truth values always have a JSON form.
        let _ = serde_json::to_writer(&mut record, self);
        let length = u32::try_from(record.len() - HEAD).unwrap_or(u32::MAX);
        record[..4].copy_from_slice(MAGIC);
        record[4..8].copy_from_slice(&length.to_be_bytes());
        record[8..HASHED].copy_from_slice(self.rid.bytes());
        let hash = sha256(&record[..HASHED], &record[HEAD..]);
        record[HASHED..PRESENTED].copy_from_slice(&hash);
        record[PRESENTED] = self.presented;
        record[DELIVERED] = u8::from(self.delivered);
        record
    }

    /// `None` if the bytes do not begin with a whole record: torn, half cleared, or something else.
    pub(super) fn decoded(bytes: &[u8]) -> Option<Self> {
        let head = bytes.get(..HEAD)?;
        let length = u32::from_be_bytes(*head[4..].first_chunk()?);
        let body = bytes[HEAD..].get(..usize::try_from(length).ok()?)?;
        if &head[..4] != MAGIC || head[HASHED..PRESENTED] != sha256(&head[..HASHED], body) {
            return None;
        }
        let mut stored: Self = serde_json::from_slice(body).ok()?;
        if stored.rid.bytes() != &head[8..HASHED] {
            return None;
        }
        // A byte that we never write must not allow one more presentation.
        stored.presented = head[PRESENTED].min(PRESENTATIONS);
        stored.delivered = head[DELIVERED] != 0;
        Some(stored)
    }
}

fn sha256(head: &[u8], body: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(head).chain_update(body).finalize().into()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn stored(presented: u8, delivered: bool) -> Stored {
        Stored {
            rid: PaymentId::new(Timestamp::from_second(1_760_000_000).unwrap(), [7; 10]),
            target: "00".repeat(32),
            fingerprint: "11".repeat(32),
            rail: "x402".to_owned(),
            field: "payment-signature".to_owned(),
            credential: "Y3JlZGVudGlhbA".repeat(40),
            valid_before: 1_760_000_060,
            keyed: true,
            presented,
            delivered,
        }
    }

    #[test]
    fn a_record_reads_as_it_was_written_whatever_follows_it() {
        for (presented, delivered) in [(0, false), (2, true)] {
            let mut record = stored(presented, delivered).encoded(0);
            record.resize(4096, 0);
            let read = Stored::decoded(&record).unwrap();
            assert_eq!(
                (read.presented, read.delivered, read.keyed),
                (presented, delivered, true)
            );
            assert_eq!(read.credential, stored(0, false).credential);
        }
    }

    #[test]
    fn a_mark_changes_one_byte_and_the_record_stays_whole() {
        let mut record = stored(0, false).encoded(0);
        for mark in [Mark::Presented(1), Mark::Delivered] {
            let (at, byte) = mark.byte();
            record[at] = byte;
        }
        let read = Stored::decoded(&record).unwrap();
        assert_eq!((read.presented, read.delivered), (1, true));
        record[PRESENTED] = 0xff;
        assert_eq!(Stored::decoded(&record).unwrap().presented, PRESENTATIONS);
    }

    #[test]
    fn a_torn_record_is_none() {
        let whole = stored(0, false).encoded(0);
        for end in 0..whole.len() {
            assert!(Stored::decoded(&whole[..end]).is_none(), "cut at {end}");
            let mut zeroed = whole.clone();
            zeroed[end..].fill(0);
            let is_whole = zeroed == whole;
            assert_eq!(Stored::decoded(&zeroed).is_some(), is_whole, "zeroed from {end}");
        }
        // The end of an older record behind the beginning of a newer one.
        let mut older = stored(0, false);
        older.credential = "b2xkZXI".repeat(90);
        let mut mixed = older.encoded(0);
        for end in [8, HEAD, HEAD + 40, whole.len() - 1] {
            mixed[..end].copy_from_slice(&whole[..end]);
            assert!(Stored::decoded(&mixed).is_none(), "the first {end} bytes are newer");
        }
    }

    proptest! {
        #[test]
        fn any_other_changed_byte_is_found(at in 0..500_usize, change in 1..=u8::MAX) {
            let mut record = stored(1, false).encoded(0);
            record[at] ^= change;
            let may_change = (PRESENTED..HEAD).contains(&at);
            prop_assert_eq!(Stored::decoded(&record).is_some(), may_change);
        }
    }
}

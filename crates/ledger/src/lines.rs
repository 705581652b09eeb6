//! Journal lines about payments that a person was asked about, unchanged, to show one payment to somebody who does not
//! have the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::compared::Compared;
use super::entry::{Body, Entry, EntryError};
use super::read::{ReadError, read_entries};
use super::text::Digest;
use bursar_core::payment_id::PaymentId;

/// One line, outside of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// Locates it in the signed tree of the log: SHA-256(0x00 || line), in hex.
    leaf_sha256: Digest,
    /// The line is this value without white space, with sorted members (RFC 8785).
    entry: serde_json::Value,
}

impl Recorded {
    /// Decodes the line as strictly as the journal is read; also returns whether the hash matches.
    pub fn read(&self) -> Result<(Entry, bool), EntryError> {
        let line = serde_json::to_vec(&self.entry)?;
        let (entry, _) = Entry::parse(&line)?;
        Ok((entry, Digest::leaf(&line) == self.leaf_sha256))
    }

    /// The event's name as the line has it, which may be the one of an earlier version.
    pub fn event(&self) -> Option<&str> {
        self.entry.get("ev")?.as_str()
    }

    fn of(line: &[u8], leaf: Digest) -> Result<Self, String> {
        let entry = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        Ok(Self {
            leaf_sha256: leaf,
            entry,
        })
    }
}

/// Payments that a person was asked about according to the journal in `dir` (the data directory), oldest first.
pub fn asked_about(dir: &Path) -> Result<Compared<BTreeSet<PaymentId>>, ReadError> {
    read_entries(
        dir,
        |_| BTreeSet::new(),
        |asked, line| {
            if line.head.ev != "approval.requested" {
                return Ok(());
            }
            let entry = Entry::headed(&line.head, line.bytes).map_err(|error| error.to_string())?;
            asked.extend(entry.body.about());
            Ok(())
        },
    )
}

/// Every line of the journal in `dir` (the data directory) about one of `payments`, in order.
pub fn lines_about(
    dir: &Path,
    payments: &BTreeSet<PaymentId>,
) -> Result<Compared<BTreeMap<PaymentId, Vec<Recorded>>>, ReadError> {
    read_entries(
        dir,
        |_| BTreeMap::<PaymentId, Vec<Recorded>>::new(),
        |found, line| {
            let entry = Entry::headed(&line.head, line.bytes).map_err(|error| error.to_string())?;
            if let Some(rid) = entry.body.about().filter(|rid| payments.contains(rid)) {
                found.entry(rid).or_default().push(Recorded::of(line.bytes, line.leaf)?);
            }
            Ok(())
        },
    )
}

impl Body {
    /// The payment that the entry is about; for an approval, its payment.
    pub fn about(&self) -> Option<PaymentId> {
        match self {
            Self::Reserved(reserved) => Some(reserved.rid),
            Self::Armed(armed) => Some(armed.rid),
            Self::Issued(issued) => Some(issued.rid),
            Self::Presented(presented) => Some(presented.rid),
            Self::Settled(settled) => Some(settled.rid),
            Self::Unknown(unknown) => Some(unknown.rid),
            Self::Released(released) => Some(released.rid),
            Self::Expired(expired) => Some(expired.rid),
            Self::Admin(admin) => admin.rid,
            Self::Confirmed(confirmed) => Some(confirmed.rid),
            Self::Disputed(disputed) => Some(disputed.rid),
            Self::Adopted(adopted) => Some(adopted.payment.rid()),
            Self::Yielded(yielded) => Some(yielded.rid),
            Self::Alert(alert) => alert.rid,
            Self::ApprovalRequested(requested) => Some(requested.rid),
            Self::ApprovalGranted(granted) => Some(granted.id),
            Self::ApprovalDenied(refused) => Some(refused.id),
            Self::ApprovalExpired(expired) => Some(expired.id),
            Self::Opened(_)
            | Self::Closed(_)
            | Self::PolicyLoaded(_)
            | Self::PolicyRejected(_)
            | Self::Refused(_)
            | Self::Rebuilt(_)
            | Self::Outflow(_)
            | Self::ClockJumped(_)
            | Self::ClockAccepted(_)
            | Self::PauseSet(_)
            | Self::PauseLifted(_) => None,
        }
    }
}

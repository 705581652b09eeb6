//! Journal entries, byte for byte (R221, R60 and R61).
//!
//! An entry is one RFC 8785 (JCS) object of at most 16 KiB. The structs below declare their members in JCS order and have
//! ASCII names, so plain `serde_json` output is already canonical once the five head members are merged in at their places;
//! that is ten times faster than canonicalising a value tree, and the tests compare the two.

mod members;
mod whole;

use std::sync::Arc;

use memchr::{memchr, memmem};
use serde::{Serialize, Serializer};
use thiserror::Error;

use super::merge::{self, Head};
use super::text::{Digest, Moment};
pub use members::*;
use whole::Found;

/// The longest entry: the bundle of a transparency log has 16-bit lengths, and bursar sets a lower bound (R221).
pub(crate) const MAX_ENTRY: usize = 16 * 1024;

/// Which event names a line uses. Written lines are signed and never change, so each is read by the table of its own
/// version (R89).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V1,
    V2,
}

impl Version {
    /// The version that is written, unless older programs have to read it.
    pub const CURRENT: Self = Self::V2;

    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    pub const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// One line of the journal, without its place in the hash chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: u64,
    pub ts: Moment,
    pub body: Body,
}

/// Why this version cannot read a line as an entry.
#[derive(Debug, Error)]
pub enum EntryError {
    #[error("it is longer than {MAX_ENTRY} bytes")]
    TooLong,
    #[error("it is not an entry: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("its format version is {0}; this program reads versions 1 to {current}", current = Version::CURRENT.number())]
    Version(u8),
    #[error("its event `{0}` is unknown to this version of bursar")]
    UnknownEvent(String),
    #[error("it is not in canonical form or has members that its event does not have")]
    NotCanonical,
}

impl Entry {
    /// Appends the canonical bytes (no newline) to `out`. On error `out` is as it was.
    pub fn encode(&self, prev: &Digest, out: &mut Vec<u8>) -> Result<(), EntryError> {
        self.encode_as(Version::CURRENT, prev, out)
    }

    /// Like [`Entry::encode`], with the event names of `version`.
    pub(crate) fn encode_as(&self, version: Version, prev: &Digest, out: &mut Vec<u8>) -> Result<(), EntryError> {
        let start = out.len();
        let head = Head {
            v: version.number(),
            seq: self.seq,
            ts: self.ts,
            prev: *prev,
            ev: self.body.ev(version).into(),
        };
        merge::write(&head, &self.body, out)?;
        if out.len() - start > MAX_ENTRY {
            out.truncate(start);
            return Err(EntryError::TooLong);
        }
        Ok(())
    }

    /// Reads a line strictly: the entry would be written as exactly these bytes.
    pub fn parse(line: &[u8]) -> Result<(Self, Digest), EntryError> {
        let head = read_head(line)?;
        Ok((Self::headed(&head, line)?, head.prev))
    }

    /// Like [`Entry::parse`] with the reason left out, in one pass over the JSON where that is possible. `again` is
    /// used for the bytes that the entry would be written as.
    pub(crate) fn read(line: &[u8], again: &mut Vec<u8>) -> Option<(Self, Digest)> {
        // Only the current version's names are tried; older lines take the longer way.
        Self::in_one_pass(line, again).or_else(|| Self::parse(line).ok())
    }

    fn in_one_pass(line: &[u8], again: &mut Vec<u8>) -> Option<(Self, Digest)> {
        if line.len() > MAX_ENTRY {
            return None;
        }
        let (body, Found { v, seq, ts, prev }) = Body::parse(event(line)?, Version::CURRENT, line).ok()?;
        let (entry, prev) = (
            Self {
                seq: seq?,
                ts: ts?,
                body,
            },
            prev?,
        );
        again.clear();
        entry.encode_as(Version::CURRENT, &prev, again).ok()?;
        // This compares the version and the name of the event, too.
        (v? == Version::CURRENT.number() && again == line).then_some((entry, prev))
    }

    /// Like [`Entry::parse`], with `head` already read from this line.
    pub(crate) fn headed(head: &Head<'_>, line: &[u8]) -> Result<Self, EntryError> {
        let version = Version::of(head.v).ok_or(EntryError::Version(head.v))?;
        let entry = Self {
            seq: head.seq,
            ts: head.ts,
            body: Body::parse(&head.ev, version, line)?.0,
        };
        let mut again = Vec::with_capacity(line.len());
        entry.encode_as(version, &head.prev, &mut again)?;
        if again != line {
            return Err(EntryError::NotCanonical);
        }
        Ok(entry)
    }
}

/// The name of the event, as far as that can be found without reading the line: in JSON, `"ev":"` is never part of a
/// string.
fn event(line: &[u8]) -> Option<&str> {
    const BEFORE: &[u8] = br#""ev":""#;
    let begin = memmem::find(line, BEFORE)? + BEFORE.len();
    let end = begin + memchr(b'"', &line[begin..])?;
    std::str::from_utf8(&line[begin..end]).ok()
}

/// The members of every entry. Enough to follow the hash chain without understanding the event.
pub fn read_head(line: &[u8]) -> Result<Head<'_>, EntryError> {
    if line.len() > MAX_ENTRY {
        return Err(EntryError::TooLong);
    }
    let head: Head<'_> = serde_json::from_slice(line)?;
    if Version::of(head.v).is_none() {
        return Err(EntryError::Version(head.v));
    }
    Ok(head)
}

/// One table for the variants, their names, and both directions. `was`: the name in lines of version 1.
macro_rules! bodies {
    ($($ev:literal $((was $old:literal))? $variant:ident($members:ty)),+ $(,)?) => {
        /// What happened; each variant's name in a log is its `ev` member.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Body {
            $(#[doc = concat!("`", $ev, "`")] $variant($members),)+
        }

        impl Body {
            pub fn ev(&self, version: Version) -> &'static str {
                match (self, version) {
                    $($((Self::$variant(_), Version::V1) => $old,)?)+
                    $((Self::$variant(_), _) => $ev,)+
                }
            }

            fn parse(ev: &str, version: Version, line: &[u8]) -> Result<(Self, Found), EntryError> {
                match (ev, version) {
                    $($(
                        ($old, Version::V1) => {
                            let (members, found) = whole::members::<members::$variant>(line)?;
                            Ok((Self::$variant(members.into()), found))
                        }
                        ($ev, Version::V1) => Err(EntryError::UnknownEvent(ev.to_owned())),
                    )?)+
                    $(($ev, _) => {
                        let (members, found) = whole::members::<members::$variant>(line)?;
                        Ok((Self::$variant(members.into()), found))
                    })+
                    (other, _) => Err(EntryError::UnknownEvent(other.to_owned())),
                }
            }
        }

        impl Serialize for Body {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$variant(members) => members.serialize(serializer),)+
                }
            }
        }
    };
}

bodies! {
    "log.open" Opened(Opened),
    "log.close" Closed(Closed),
    "policy.load" PolicyLoaded(PolicyLoaded),
    "policy.rejected" PolicyRejected(PolicyRejected),
    "pay.reserved" Reserved(Arc<Reserved>),
    "pay.armed" Armed(Armed),
    "pay.issued" Issued(Issued),
    "pay.presented" Presented(Presented),
    "pay.settled" Settled(Settled),
    "pay.unknown" Unknown(Unknown),
    "pay.released" Released(Released),
    "pay.expired" Expired(Expired),
    "pay.refused" (was "pay.denied") Refused(Refused),
    "admin.action" Admin(Admin),
    "ledger.rebuilt" Rebuilt(Rebuilt),
    "pay.confirmed" Confirmed(Confirmed),
    "pay.dispute" Disputed(Disputed),
    "pay.adopted" Adopted(Adopted),
    "pay.yielded" Yielded(Yielded),
    "wallet.outflow" Outflow(Outflow),
    "alert.raised" Alert(Alert),
    "clock.jump" ClockJumped(ClockJumped),
    "clock.accepted" ClockAccepted(ClockAccepted),
    "pause.set" PauseSet(PauseSet),
    "pause.lifted" PauseLifted(PauseLifted),
    "approval.requested" ApprovalRequested(ApprovalRequested),
    "approval.granted" ApprovalGranted(ApprovalGranted),
    "approval.denied" (was "approval.refused") ApprovalDenied(ApprovalDenied),
    "approval.expired" ApprovalExpired(ApprovalExpired),
}

#[cfg(test)]
mod tests;

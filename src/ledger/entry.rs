//! Journal entries: what is written, to the byte (digest §3.2, Rulings 60 and 61).
//!
//! An entry is one RFC 8785 (JCS) object of at most 16 KiB. The structs below declare their members in JCS order and have
//! ASCII names, so plain `serde_json` output is already canonical once the five head members are merged in at their places;
//! that is ten times faster than canonicalising a value tree, and the tests compare the two.

use std::sync::Arc;

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use super::merge::{self, Head};
use super::model::{self, By};
use super::rid::Rid;
use super::text::{Decimal, Digest, Moment};

/// No entry is longer: the bundle of a transparency log has 16-bit lengths, and the digest bounds it lower.
pub const MAX_ENTRY: usize = 16 * 1024;

/// Entry format; a reader refuses any other.
const VERSION: u8 = 1;

/// One line of the journal, without its place in the hash chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub seq: u64,
    pub ts: Moment,
    pub body: Body,
}

/// What happened. The names in quotes are the `ev` member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// `log.open`
    Opened(Opened),
    /// `log.close`
    Closed(Closed),
    /// `policy.load`
    PolicyLoaded(PolicyLoaded),
    /// `policy.rejected`
    PolicyRejected(PolicyRejected),
    /// `pay.reserved`
    Reserved(Arc<Reserved>),
    /// `pay.armed`
    Armed(Armed),
    /// `pay.presented`
    Presented(Presented),
    /// `pay.settled`
    Settled(Settled),
    /// `pay.unknown`
    Unknown(Unknown),
    /// `pay.released`
    Released(Released),
    /// `pay.expired`
    Expired(Expired),
    /// `pay.denied`
    Denied(Denied),
    /// `admin.action`
    Admin(Admin),
    /// `ledger.rebuilt`
    Rebuilt(Rebuilt),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Program and version.
    pub sw: String,
    /// Length of a torn tail that was moved away before this entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn_sha256: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLoaded {
    pub policy_gen: u64,
    pub sha256: Digest,
    pub who: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRejected {
    pub reason: String,
    pub sha256: Digest,
    pub who: String,
}

/// A reservation with all its charges: one op is one line, so a torn batch is still a whole number of ops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    pub agent: String,
    /// Atoms.
    pub amount: Decimal<u128>,
    /// Present: reserved and armed at once (Ruling 61). Absent: held, `pay.armed` may follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<Arm>,
    /// CAIP-19, lower case.
    pub asset: String,
    pub decimals: u8,
    pub fp: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    pub host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idem: Option<Digest>,
    /// CAIP-2.
    pub network: String,
    pub offer_sha256: Digest,
    pub payee: Address,
    pub policy_gen: u64,
    pub rail: String,
    pub rid: Rid,
    pub scheme: String,
    /// Commitments to path and query, sorted as text so that their order tells nothing.
    pub sd: Vec<String>,
    pub symbol: String,
    pub usd_micros: Decimal<u128>,
    pub windows: Vec<WindowCharge>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    pub from: Address,
    pub nonce: B256,
    pub valid_after: Decimal<u64>,
    pub valid_before: Decimal<u64>,
}

/// `[scope, window, start, amount, cap]`: enough to recompute the limit decision from the log alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowCharge(pub String, pub String, pub String, pub Decimal<u128>, pub Decimal<u128>);

impl WindowCharge {
    pub fn scope(&self) -> &str {
        &self.0
    }

    pub fn window(&self) -> &str {
        &self.1
    }

    pub fn start(&self) -> &str {
        &self.2
    }

    pub fn amount(&self) -> u128 {
        self.3.0
    }
}

/// A repeat is about to send the same credential again (Ruling 61). Moves no money and no state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presented {
    /// Which presentation by a repeat, from 1.
    pub number: u8,
    pub rid: Rid,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    pub arm: Arm,
    pub rid: Rid,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    pub by: By,
    pub rid: Rid,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    pub rid: Rid,
    /// A transaction that a failing receipt names all the same (Ruling 10): where a proof can begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx: Option<String>,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    pub rid: Rid,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    pub by: By,
    pub rid: Rid,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    pub agent: String,
    /// How many equal refusals this entry stands for.
    pub count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    pub host: String,
    pub reason: String,
    pub rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_micros: Option<Decimal<u128>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admin {
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rid: Option<Rid>,
    pub who: String,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Entries replayed.
    pub entries: u64,
    pub why: String,
}

/// Why a line is no entry of this program.
#[derive(Debug, Error)]
pub enum EntryError {
    #[error("it is longer than {MAX_ENTRY} bytes")]
    TooLong,
    #[error("it is not an entry: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("its format version is {0}, this program reads version {VERSION}")]
    Version(u8),
    #[error("its event `{0}` is unknown to this version of bursar")]
    UnknownEvent(String),
    #[error("it is not in canonical form or has members that its event does not have")]
    NotCanonical,
}

impl Entry {
    /// Appends the canonical bytes (no newline) to `out`. On error `out` is as it was.
    pub fn encode(&self, prev: &Digest, out: &mut Vec<u8>) -> Result<(), EntryError> {
        let start = out.len();
        let head = Head {
            v: VERSION,
            seq: self.seq,
            ts: self.ts,
            prev: *prev,
            ev: self.body.ev().into(),
        };
        merge::write(&head, &self.body, out)?;
        if out.len() - start > MAX_ENTRY {
            out.truncate(start);
            return Err(EntryError::TooLong);
        }
        Ok(())
    }

    /// Reads a line strictly: what comes back would be written as exactly these bytes.
    pub fn parse(line: &[u8]) -> Result<(Self, Digest), EntryError> {
        let head = read_head(line)?;
        let (seq, ts, prev) = (head.seq, head.ts, head.prev);
        let entry = Self {
            seq,
            ts,
            body: Body::parse(&head.ev, line)?,
        };
        let mut again = Vec::with_capacity(line.len());
        entry.encode(&prev, &mut again)?;
        if again != line {
            return Err(EntryError::NotCanonical);
        }
        Ok((entry, prev))
    }
}

/// The members that every entry has. Enough to follow the hash chain without understanding the event.
pub fn read_head(line: &[u8]) -> Result<Head<'_>, EntryError> {
    if line.len() > MAX_ENTRY {
        return Err(EntryError::TooLong);
    }
    let head: Head<'_> = serde_json::from_slice(line)?;
    if head.v != VERSION {
        return Err(EntryError::Version(head.v));
    }
    Ok(head)
}

impl Body {
    pub fn ev(&self) -> &'static str {
        match self {
            Self::Opened(_) => "log.open",
            Self::Closed(_) => "log.close",
            Self::PolicyLoaded(_) => "policy.load",
            Self::PolicyRejected(_) => "policy.rejected",
            Self::Reserved(_) => "pay.reserved",
            Self::Armed(_) => "pay.armed",
            Self::Presented(_) => "pay.presented",
            Self::Settled(_) => "pay.settled",
            Self::Unknown(_) => "pay.unknown",
            Self::Released(_) => "pay.released",
            Self::Expired(_) => "pay.expired",
            Self::Denied(_) => "pay.denied",
            Self::Admin(_) => "admin.action",
            Self::Rebuilt(_) => "ledger.rebuilt",
        }
    }

    fn parse(ev: &str, line: &[u8]) -> Result<Self, EntryError> {
        Ok(match ev {
            "log.open" => Self::Opened(serde_json::from_slice(line)?),
            "log.close" => Self::Closed(serde_json::from_slice(line)?),
            "policy.load" => Self::PolicyLoaded(serde_json::from_slice(line)?),
            "policy.rejected" => Self::PolicyRejected(serde_json::from_slice(line)?),
            "pay.reserved" => Self::Reserved(Arc::new(serde_json::from_slice(line)?)),
            "pay.armed" => Self::Armed(serde_json::from_slice(line)?),
            "pay.presented" => Self::Presented(serde_json::from_slice(line)?),
            "pay.settled" => Self::Settled(serde_json::from_slice(line)?),
            "pay.unknown" => Self::Unknown(serde_json::from_slice(line)?),
            "pay.released" => Self::Released(serde_json::from_slice(line)?),
            "pay.expired" => Self::Expired(serde_json::from_slice(line)?),
            "pay.denied" => Self::Denied(serde_json::from_slice(line)?),
            "admin.action" => Self::Admin(serde_json::from_slice(line)?),
            "ledger.rebuilt" => Self::Rebuilt(serde_json::from_slice(line)?),
            other => return Err(EntryError::UnknownEvent(other.to_owned())),
        })
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Opened(body) => body.serialize(serializer),
            Self::Closed(body) => body.serialize(serializer),
            Self::PolicyLoaded(body) => body.serialize(serializer),
            Self::PolicyRejected(body) => body.serialize(serializer),
            Self::Reserved(body) => body.serialize(serializer),
            Self::Armed(body) => body.serialize(serializer),
            Self::Presented(body) => body.serialize(serializer),
            Self::Settled(body) => body.serialize(serializer),
            Self::Unknown(body) => body.serialize(serializer),
            Self::Released(body) => body.serialize(serializer),
            Self::Expired(body) => body.serialize(serializer),
            Self::Denied(body) => body.serialize(serializer),
            Self::Admin(body) => body.serialize(serializer),
            Self::Rebuilt(body) => body.serialize(serializer),
        }
    }
}

impl From<&model::Arm> for Arm {
    fn from(arm: &model::Arm) -> Self {
        Self {
            from: arm.from,
            nonce: arm.nonce,
            valid_after: Decimal(arm.valid_after),
            valid_before: Decimal(arm.valid_before),
        }
    }
}

#[cfg(test)]
mod tests;

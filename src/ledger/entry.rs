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
pub struct WindowCharge(
    pub String,
    pub String,
    pub String,
    pub Decimal<u128>,
    pub Decimal<u128>,
);

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
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        entries: Vec<Vector>,
        segment_jsonl_sha256: String,
    }

    #[derive(Deserialize)]
    struct Vector {
        seq: u64,
        utf8: String,
        leaf_hash_hex: String,
    }

    #[test]
    fn hashes_chain_and_segment_match_the_vectors() {
        let vectors: Vectors =
            serde_json::from_str(include_str!("../../fixtures/audit/entries.json")).unwrap();
        let (mut prev, mut segment) = (Digest::ZERO, Vec::new());
        for vector in &vectors.entries {
            let line = vector.utf8.as_bytes();
            let head = read_head(line).unwrap();
            assert_eq!((head.seq, head.prev), (vector.seq, prev));
            prev = Digest::leaf(line);
            assert_eq!(prev.to_string(), vector.leaf_hash_hex);
            segment.extend_from_slice(line);
            segment.push(b'\n');
        }
        assert_eq!(vectors.entries.len(), 8);
        assert_eq!(
            Digest::of(&segment).to_string(),
            vectors.segment_jsonl_sha256
        );
    }

    fn rid(last: u8) -> Rid {
        Rid::new("2026-11-20T08:00:02Z".parse().unwrap(), [last; 10])
    }

    fn reserved() -> Reserved {
        Reserved {
            agent: "crawler \u{1}\"\\/é\u{7f}\u{2028}😀".into(),
            amount: Decimal(u128::MAX),
            arm: Some(arm()),
            asset: "eip155:8453/erc20:0x833589fcd6edb6e08f4c7c32d4f71b54bda02913".into(),
            decimals: 6,
            fp: Digest([1; 32]),
            group: Some("eng".into()),
            host: "api.example.com".into(),
            idem: Some(Digest([2; 32])),
            network: "eip155:8453".into(),
            offer_sha256: Digest([3; 32]),
            payee: Address::repeat_byte(0xAB),
            policy_gen: 7,
            rail: "x402".into(),
            rid: rid(1),
            scheme: "exact".into(),
            sd: vec!["AUsHjcbWT-FgKRhiEqKjVNtVF2ksvIWx6U8d1c4ltFU".into()],
            symbol: "USDC".into(),
            usd_micros: Decimal(10_000),
            windows: vec![WindowCharge(
                "agent:crawler".into(),
                "count.day".into(),
                "2026-11-20T00:00:00+01:00[Europe/Berlin]".into(),
                Decimal(1),
                Decimal(20),
            )],
        }
    }

    fn arm() -> Arm {
        Arm {
            from: Address::repeat_byte(0xCD),
            nonce: B256::repeat_byte(0xEF),
            valid_after: Decimal(0),
            valid_before: Decimal(u64::MAX),
        }
    }

    fn all_bodies() -> Vec<Body> {
        let (rid, why, who) = (rid(2), "restart".to_owned(), "ops".to_owned());
        let bare = Reserved {
            arm: None,
            group: None,
            idem: None,
            sd: vec![],
            windows: vec![],
            ..reserved()
        };
        let sha256 = Digest([9; 32]);
        vec![
            Body::Opened(Opened {
                sw: "bursar/1".into(),
                torn_bytes: None,
                torn_sha256: None,
            }),
            Body::Opened(Opened {
                sw: "bursar/1".into(),
                torn_bytes: Some(3),
                torn_sha256: Some(sha256),
            }),
            Body::Closed(Closed {}),
            Body::PolicyLoaded(PolicyLoaded {
                policy_gen: 1,
                sha256,
                who: who.clone(),
            }),
            Body::PolicyRejected(PolicyRejected {
                reason: "line 3".into(),
                sha256,
                who: who.clone(),
            }),
            Body::Reserved(Arc::new(reserved())),
            Body::Reserved(Arc::new(bare)),
            Body::Armed(Armed {
                approval: Some("a".into()),
                arm: arm(),
                rid,
            }),
            Body::Settled(Settled {
                by: By::Merchant,
                rid,
                tx: Some("0xab".into()),
                why: None,
            }),
            Body::Settled(Settled {
                by: By::Operator,
                rid,
                tx: None,
                why: Some(why.clone()),
            }),
            Body::Unknown(Unknown {
                rid,
                why: why.clone(),
            }),
            Body::Released(Released {
                rid,
                why: why.clone(),
            }),
            Body::Expired(Expired {
                by: By::Chain,
                rid,
                why: why.clone(),
            }),
            Body::Denied(Denied {
                agent: "a".into(),
                count: 3,
                group: Some("eng".into()),
                host: "h".into(),
                reason: "over-limit".into(),
                rule: "agents.a.day".into(),
                usd_micros: Some(Decimal(5)),
            }),
            Body::Admin(Admin {
                action: "payments.resolve.expired".into(),
                rid: Some(rid),
                who,
                why: why.clone(),
            }),
            Body::Rebuilt(Rebuilt { entries: 12, why }),
        ]
    }

    fn encoded(body: Body) -> (Entry, Vec<u8>) {
        let entry = Entry {
            seq: 5,
            ts: Moment::of("2026-11-20T08:00:02.5Z".parse().unwrap()),
            body,
        };
        let mut line = Vec::new();
        entry.encode(&Digest([7; 32]), &mut line).unwrap();
        (entry, line)
    }

    #[test]
    fn every_event_is_canonical_and_reads_back() {
        for body in all_bodies() {
            let (entry, line) = encoded(body);
            let tree: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let canonical = serde_json_canonicalizer::to_vec(&tree).unwrap();
            assert_eq!(
                String::from_utf8_lossy(&line),
                String::from_utf8_lossy(&canonical)
            );
            assert_eq!(tree["ev"], entry.body.ev());
            assert_eq!(Entry::parse(&line).unwrap(), (entry, Digest([7; 32])));
        }
    }

    #[test]
    fn a_line_with_one_byte_more_or_less_in_its_members_is_refused() {
        let (_, line) = encoded(Body::Unknown(Unknown {
            rid: rid(1),
            why: "x".into(),
        }));
        let text = String::from_utf8(line).unwrap();
        for (from, to) in [
            ("{", "{ "),
            ("{", "{\"a\":1,"),
            ("\"why\":\"x\"", "\"why\":\"\\u0078\""),
            ("pay.unknown", "pay.unheard"),
            ("\"v\":1", "\"v\":2"),
            ("\"seq\":5", "\"seq\":05"),
            (",\"why\":\"x\"", ""),
            ("02.500000Z", "02.5Z"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            assert!(Entry::parse(changed.as_bytes()).is_err(), "{changed}");
        }
    }

    #[test]
    fn an_entry_over_16_kib_is_refused_and_leaves_no_trace() {
        let mut line = b"before".to_vec();
        let body = Body::Unknown(Unknown {
            rid: rid(1),
            why: "x".repeat(MAX_ENTRY),
        });
        let entry = Entry {
            seq: 0,
            ts: Moment::of("2026-11-20T08:00:02Z".parse().unwrap()),
            body,
        };
        assert!(matches!(
            entry.encode(&Digest::ZERO, &mut line),
            Err(EntryError::TooLong)
        ));
        assert_eq!(line, b"before");
    }
}

//! `private/approvals/ID.json`: the question, its handle and the evidence. The ledger has hashes of them (R46). The
//! file is kept as long as the payment, so that the approval can be checked later.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::codes::opens_to;
use crate::Asked;
use bursar_core::approval::{ApprovalIntent, Code, Evidence, Question};
use bursar_home::{self as home, HomeError, Readers};
use bursar_ledger::PaymentId;
use bursar_ledger::disclosure::Disclosure;

/// One payment's question, as stored on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredQuestion {
    pub id: PaymentId,
    pub agent: String,
    pub backend: String,
    pub asked_at: Timestamp,
    /// The members of the intent that was approved or denied.
    pub intent: BTreeMap<String, String>,
    /// Hex.
    pub intent_sha256: String,
    pub usd_cents: u64,
    pub ttl_s: u64,
    pub ends: Timestamp,
    /// Paths in limits.toml of the rules that require the approval. Older versions stored one, as `rule`.
    pub rules: Vec<String>,
    /// How many people must approve.
    pub needed: usize,
    /// Accounts that may not approve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// Hash of the request's `Idempotency-Key`, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<String>,
    /// One item per approver.
    pub asks: Vec<StoredAsk>,
}

/// The question to one approver, and the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredAsk {
    pub id: PaymentId,
    pub approver: String,
    pub code: String,
    /// What opens the commitment to the code in `approval.requested`. Missing for a question of a version whose codes
    /// followed from the intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disclosure: Option<Disclosure>,
    /// What the approver was shown.
    pub sentence: String,
    pub compact: String,
    /// Absent until the backend has accepted the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Handle>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// The backend's id of the question, and how to poll it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Handle {
    pub handle: String,
    pub expires_at: Timestamp,
    pub interval_ms: u64,
}

impl StoredQuestion {
    /// The question to this approver. `None` if the intent is not valid.
    pub fn question(&self, ask: &StoredAsk) -> Option<Question> {
        Some(Question {
            id: ask.id,
            intent: ApprovalIntent::recorded(&self.intent)?.to(&ask.approver),
            code: Code::parse(&ask.code)?,
            sentence: ask.sentence.clone(),
            compact: ask.compact.clone(),
            usd_cents: self.usd_cents,
            ttl: Duration::from_secs(self.ttl_s),
        })
    }

    /// Whether the codes are those that the ledger has commitments to.
    pub(super) fn is_committed(&self, sd: &[String]) -> bool {
        let opened = |ask: &StoredAsk| match &ask.disclosure {
            Some(disclosure) => sd.contains(&disclosure.digest()) && opens_to(disclosure, &ask.approver, &ask.code),
            None => sd.is_empty(),
        };
        self.asks.iter().all(opened)
    }

    /// Whether the rules are those that the ledger has. Entries of format 3 and before have none.
    pub(super) fn names_rules(&self, recorded: &[String]) -> bool {
        recorded.is_empty() || self.rules == recorded
    }

    pub fn idempotency(&self) -> Option<[u8; 32]> {
        let text = self.idempotency.as_ref()?;
        alloy_primitives::hex::decode_to_array(text).ok()
    }

    /// Written atomically and synced: without its handle, a question's answer can never be fetched.
    pub fn write(&self, folder: &Path) -> Result<(), HomeError> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        home::write_atomic(&path(folder, self.id), &text, Readers::Owner)
    }
}

/// `None` if there is no question with this id, or it cannot be read.
pub fn read(folder: &Path, id: PaymentId) -> Option<StoredQuestion> {
    look(folder, id).ok().flatten()
}

/// `Ok(None)` if there is no question with this id; `Err` if there is one that cannot be read.
pub fn look(folder: &Path, id: PaymentId) -> Result<Option<StoredQuestion>, String> {
    let path = path(folder, id);
    let text = match home::read_secret(&path) {
        Ok(text) => text,
        Err(HomeError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let read = parse(&text);
    read.map(Some)
        .map_err(|error| format!("{} is not a question that bursar wrote: {error}", path.display()))
}

/// Also reads the older formats: for a single approver, with the members of the one ask at the top level; and with one
/// rule.
fn parse(text: &str) -> serde_json::Result<StoredQuestion> {
    let mut stored: Value = serde_json::from_str(text)?;
    if let Value::Object(members) = &mut stored
        && !members.contains_key("asks")
    {
        let mut ask = serde_json::Map::new();
        ask.insert("id".to_owned(), members.get("id").cloned().unwrap_or_default());
        let approver = members.get("intent").and_then(|intent| intent.get("approver")).cloned();
        ask.insert("approver".to_owned(), approver.unwrap_or_else(|| Value::from("")));
        for name in ["code", "sentence", "compact", "asked", "evidence"] {
            if let Some(member) = members.remove(name) {
                ask.insert(name.to_owned(), member);
            }
        }
        members.insert("asks".to_owned(), Value::from(vec![Value::Object(ask)]));
        members.insert("needed".to_owned(), Value::from(1));
        members.insert("rules".to_owned(), Value::Array(Vec::new()));
    }
    if let Value::Object(members) = &mut stored
        && let Some(rule) = members.remove("rule")
    {
        members.insert("rules".to_owned(), Value::Array(vec![rule]));
    }
    StoredQuestion::deserialize(stored)
}

fn path(folder: &Path, id: PaymentId) -> PathBuf {
    folder.join(format!("{id}.json"))
}

impl From<&Asked> for Handle {
    fn from(asked: &Asked) -> Self {
        Self {
            handle: asked.handle.clone(),
            expires_at: asked.expires_at,
            interval_ms: u64::try_from(asked.interval.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl From<Handle> for Asked {
    fn from(handle: Handle) -> Self {
        Self {
            handle: handle.handle,
            expires_at: handle.expires_at,
            interval: Duration::from_millis(handle.interval_ms),
            failures: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of versions with a single approver stay on disk and must remain readable.
    #[test]
    fn questions_in_the_single_approver_format_are_still_read() {
        let text = r##"{
            "id": "019aa05d-5400-7101-8101-010101010101", "agent": "research", "backend": "operator",
            "asked_at": "2026-11-20T08:00:00Z", "intent": {}, "intent_sha256": "00", "code": "0BY5GS4N",
            "sentence": "research: pay 0.10 USDC to api.example.com #0BY5GS4N", "compact": "0.10USDC#0BY5GS4N",
            "usd_cents": 10, "ttl_s": 350, "ends": "2026-11-20T08:05:50Z",
            "asked": {"handle": "h", "expires_at": "2026-11-20T08:05:50Z", "interval_ms": 3600000},
            "evidence": {"kind": "operator", "approver": "uid:1000", "decided_at": "2026-11-20T08:01:00Z",
                "good_until": null, "replay_key": "00", "proof": {}}
        }"##;
        let stored = parse(text).unwrap();
        assert_eq!((stored.needed, stored.asks.len()), (1, 1));
        assert!(stored.is_committed(&[]) && stored.names_rules(&[]));
        assert!(!stored.is_committed(&["other".to_owned()]));
        assert_eq!(stored.asks[0].evidence.as_ref().unwrap().approver, "uid:1000");
    }
}

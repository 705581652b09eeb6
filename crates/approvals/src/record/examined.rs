//! Checks whether an approval record is consistent: the question with its hash, the evidence with its ledger entries,
//! the payment with the question, and the token with its key (approvals §5, §8; R45 and R46). Pure.
//!
//! A document cannot prove by itself that its entries are in the log, or that its key is the issuer's. It has leaf
//! hashes and key thumbprints so that these can be compared.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};
use thiserror::Error;

use super::{ApprovalRecord, Ask, Asked, EvidenceStrength};
use crate::questions::{evidence_bytes, opens_to};
use bursar_core::account::Account;
use bursar_core::approval::details::Binding;
use bursar_core::approval::proof::{self, Unproven};
use bursar_core::approval::token::{Policy, Source, Verified};
use bursar_core::approval::{ApprovalIntent, Code, Evidence, EvidenceKind};
use bursar_core::assets::Asset;
use bursar_ledger::entry::{ApprovalGranted, ApprovalRequested, Body, Entry, Reserved};
use bursar_ledger::text::Digest;

/// The result of checking an approval record.
#[derive(Debug, Serialize)]
pub struct Examined {
    /// According to the ledger entries.
    pub decision: Decision,
    /// Whether the payment's first entry is included; older segments may have been moved away (`bursar retain`).
    pub whole: bool,
    /// The inconsistencies. A single one means that the record was changed or damaged.
    pub differences: Vec<Difference>,
    /// What each answer proves.
    pub proofs: Vec<Proof>,
    /// Sequence number and event of each readable entry.
    #[serde(skip)]
    pub entries: Vec<(u64, String)>,
}

/// The state of an approval according to its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Pending,
    Granted,
    /// A payment was armed with it.
    Used,
    Denied,
    Expired,
}

/// What one answer proves.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    pub approver: String,
    pub kind: EvidenceKind,
    pub worth: EvidenceStrength,
    /// Sequence number of the `approval.granted` entry that records it and uses up its replay key.
    pub granted: Option<u64>,
    /// Present for a token that verifies.
    #[serde(flatten)]
    pub token: Option<Token>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    pub issuer: String,
    /// RFC 7638 thumbprint, to compare with the key that the issuer published at the time.
    pub key: String,
    pub bound_by: BoundBy,
}

/// What ties a token to this payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoundBy {
    /// The token names the payment, and the issuer signed that.
    Token,
    /// Only this proxy vouches for it: it fetched the token with this question's handle.
    Handle,
}

/// Two parts of a record that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Difference {
    #[error("entry {0} of the document cannot be read: {1}")]
    BadEntry(usize, String),
    #[error("entry {0} does not match its leaf hash")]
    Leaf(u64),
    #[error("entry {0} belongs to another payment")]
    OtherPayment(u64),
    #[error("entry {0} is out of order")]
    Order(u64),
    #[error("the question is missing, although the ledger records its approval")]
    QuestionGone,
    #[error("the stored question cannot be read: {0}")]
    QuestionUnreadable(String),
    #[error("the intent has missing, unknown or malformed members")]
    Members,
    #[error("the intent does not match the hash stored with it")]
    IntentHash,
    #[error("the approvers who were asked are not those named in the intent")]
    People,
    #[error("the {0} does not match the intent and the code")]
    Words(&'static str),
    #[error("the code of {0} is not the one that the ledger has a commitment to")]
    Code(String),
    #[error("the code of {0} does not follow from the intent, and the ledger has no commitment to it")]
    DerivedCode(String),
    #[error("the ledger has no question about this intent")]
    NotRequested,
    #[error("entry {0} has a different {1} from the stored question")]
    Requested(u64, &'static str),
    #[error("entry {0} has a different {1} from what the approver was asked about")]
    Paid(u64, &'static str),
    #[error("entry {0} records an approval, but its evidence is missing")]
    EvidenceGone(u64),
    #[error("the stored evidence does not match the hash in entry {0}")]
    Evidence(u64),
    #[error("entry {0} has a different {1} from the stored evidence")]
    Granted(u64, &'static str),
    #[error("entry {0} arms the payment with this approval, but the earlier entries do not grant it")]
    NotGranted(u64),
    #[error("`worth` does not match the kind of the evidence")]
    EvidenceStrength,
    #[error("the answer is not from the approver who was asked")]
    OtherApprover,
    #[error("the details in the evidence name another payment")]
    OtherSent,
    #[error("the evidence does not verify: {0}")]
    Unproven(#[from] Unproven),
}

impl Serialize for Difference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Compares every part of `record` with the others.
pub fn examine(record: &ApprovalRecord) -> Examined {
    let mut differences = Vec::new();
    let entries = entries(record, &mut differences);
    let whole = entries
        .iter()
        .any(|entry| matches!(entry.body, Body::Reserved(_) | Body::Adopted(_)));
    let mut proofs = Vec::new();
    match &record.asked {
        None => missing(&entries, &mut differences),
        Some(asked) => {
            let intent = asked_of_all(asked, &mut differences);
            requested(asked, &entries, &mut differences);
            for ask in &asked.of {
                let intent = intent.as_ref().map(|intent| intent.to(&ask.approver));
                if let Some(intent) = &intent {
                    words(ask, intent, committed(asked, &entries), &mut differences);
                }
                proofs.extend(answer(ask, intent.as_ref(), &entries, &mut differences));
            }
            granted(asked, &entries, &mut differences);
        }
    }
    armed(&entries, &mut differences);
    if !whole {
        // The missing entries may be in the segments that were moved away.
        differences.retain(|difference| !matches!(difference, Difference::NotRequested | Difference::NotGranted(_)));
    }
    Examined {
        decision: Decision::of(&entries),
        whole,
        differences,
        proofs,
        entries: names(record),
    }
}

impl Decision {
    fn of(entries: &[Entry]) -> Self {
        let decisions = entries.iter().rev().filter_map(|entry| match &entry.body {
            Body::Armed(armed) if armed.approval.is_some() => Some(Self::Used),
            Body::ApprovalGranted(_) => Some(Self::Granted),
            Body::ApprovalDenied(_) => Some(Self::Denied),
            Body::ApprovalExpired(_) => Some(Self::Expired),
            _ => None,
        });
        decisions.into_iter().next().unwrap_or(Self::Pending)
    }
}

fn entries(record: &ApprovalRecord, differences: &mut Vec<Difference>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (place, recorded) in record.entries.iter().enumerate() {
        let entry = match recorded.read() {
            Ok((entry, true)) => entry,
            Ok((entry, false)) => {
                differences.push(Difference::Leaf(entry.seq));
                entry
            }
            Err(error) => {
                differences.push(Difference::BadEntry(place, error.to_string()));
                continue;
            }
        };
        if entry.body.about() != Some(record.id) {
            differences.push(Difference::OtherPayment(entry.seq));
        }
        if entries.last().is_some_and(|before| before.seq >= entry.seq) {
            differences.push(Difference::Order(entry.seq));
        }
        entries.push(entry);
    }
    entries
}

/// Number and event of each, in the words of its own line.
fn names(record: &ApprovalRecord) -> Vec<(u64, String)> {
    let named = record.entries.iter().filter_map(|recorded| {
        let (entry, _) = recorded.read().ok()?;
        Some((entry.seq, recorded.event()?.to_owned()))
    });
    named.collect()
}

fn missing(entries: &[Entry], differences: &mut Vec<Difference>) {
    // A question that could not be stored was never asked, and has ended (questions/lifecycle.rs).
    let granted = entries
        .iter()
        .any(|entry| matches!(entry.body, Body::ApprovalGranted(_)));
    if granted {
        differences.push(Difference::QuestionGone);
    }
}

/// The intent that names all approvers.
fn asked_of_all(asked: &Asked, differences: &mut Vec<Difference>) -> Option<ApprovalIntent> {
    let Some(intent) = ApprovalIntent::recorded(&asked.intent) else {
        differences.push(Difference::Members);
        return None;
    };
    if hash(&intent) != asked.intent_sha256 {
        differences.push(Difference::IntentHash);
    }
    let people: Vec<&str> = asked.of.iter().map(|ask| ask.approver.as_str()).collect();
    if intent.member("approver") != Some(&ApprovalIntent::approver_of(&people, asked.needed)) {
        differences.push(Difference::People);
    }
    Some(intent)
}

fn hash(intent: &ApprovalIntent) -> String {
    alloy_primitives::hex::encode(intent.hash())
}

/// The commitments to the codes, if the entry of the question is here.
fn committed<'e>(asked: &Asked, entries: &'e [Entry]) -> Option<&'e [String]> {
    entries.iter().find_map(|entry| match &entry.body {
        Body::ApprovalRequested(known) if known.intent.to_string() == asked.intent_sha256 => Some(known.sd.as_slice()),
        _ => None,
    })
}

/// Checks what one approver was shown.
fn words(ask: &Ask, intent: &ApprovalIntent, committed: Option<&[String]>, differences: &mut Vec<Difference>) {
    differences.extend(other_code(ask, intent, committed));
    let amount = intent.amount();
    let code = Code::parse(&ask.code);
    for (name, stated, is) in [
        (
            "sentence",
            &ask.sentence,
            code.map(|code| intent.sentence(&amount, code)),
        ),
        (
            "compact message",
            &ask.compact,
            code.map(|code| intent.compact(&amount, code)),
        ),
    ] {
        if is.is_none_or(|is| *stated != is) {
            differences.push(Difference::Words(name));
        }
    }
}

/// A code is the one that the entry commits to. In entries of before there is no commitment: there it follows from the
/// intent. Without the entry, what the document says of itself decides which of the two it is.
fn other_code(ask: &Ask, intent: &ApprovalIntent, committed: Option<&[String]>) -> Option<Difference> {
    let who = || ask.approver.clone();
    let is_derived = ask.code == intent.derived_code().as_str();
    match (&ask.disclosure, committed) {
        (None, None | Some([])) => (!is_derived).then(|| Difference::DerivedCode(who())),
        (None, Some(_)) | (Some(_), Some([])) => Some(Difference::Code(who())),
        (Some(disclosure), committed) => {
            let is_known = committed.is_none_or(|sd| sd.contains(&disclosure.digest()));
            let opens = opens_to(disclosure, &ask.approver, &ask.code);
            (!is_known || !opens).then(|| Difference::Code(who()))
        }
    }
}

/// Compares the question with its entry, and with the payment whose money was held for it.
fn requested(asked: &Asked, entries: &[Entry], differences: &mut Vec<Difference>) {
    let known = entries.iter().find_map(|entry| match &entry.body {
        Body::ApprovalRequested(known) if known.intent.to_string() == asked.intent_sha256 => Some((entry.seq, known)),
        _ => None,
    });
    match known {
        None => differences.push(Difference::NotRequested),
        Some((seq, known)) => {
            let ApprovalRequested {
                agent,
                approver,
                backend,
                ..
            } = known;
            for (name, same) in [
                ("agent", *agent == asked.agent),
                ("approver", asked.intent.get("approver") == Some(approver)),
                ("number of approvers", usize::from(known.needed) == asked.needed),
                ("backend", *backend == asked.backend),
                ("list of rules", known.rules == asked.rules),
                // Entries have microsecond precision.
                (
                    "end time",
                    known.until.timestamp().as_microsecond() == asked.ends.as_microsecond(),
                ),
            ] {
                if !same {
                    differences.push(Difference::Requested(seq, name));
                }
            }
        }
    }
    for entry in entries {
        if let Body::Reserved(reserved) = &entry.body {
            let other = unlike(reserved, asked);
            differences.extend(other.into_iter().map(|name| Difference::Paid(entry.seq, name)));
        }
    }
}

/// The terms in which a payment differs from the question.
fn unlike(reserved: &Reserved, asked: &Asked) -> Vec<&'static str> {
    let intent = |name: &str| asked.intent.get(name).map_or("", String::as_str);
    let outlay = reserved.amount.0.saturating_add(reserved.fee.map_or(0, |fee| fee.0));
    let asset = match Asset::parse(&reserved.asset) {
        Some(Asset::Token(token)) => token.address.to_string(),
        Some(Asset::Fiat(_, currency)) => currency.code.to_owned(),
        // An asset that only another version knows.
        None => intent("asset").to_owned(),
    };
    let cents = u64::try_from(reserved.usd_micros.0.div_ceil(10_000)).unwrap_or(u64::MAX);
    let pairs = [
        (
            "agent",
            reserved.agent == intent("agent") && reserved.agent == asked.agent,
        ),
        ("amount", outlay.to_string() == intent("amount")),
        ("amount in US dollars", cents == asked.usd_cents),
        ("asset", asset == intent("asset")),
        ("currency", reserved.symbol == intent("currency")),
        ("host", reserved.host == intent("host")),
        ("network", reserved.network == intent("network")),
        (
            "payee",
            Account::parse(intent("payee")).as_ref() == Some(&reserved.payee),
        ),
    ];
    pairs
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(name, _)| name)
        .collect()
}

/// Checks one approver's answer.
fn answer(
    ask: &Ask,
    intent: Option<&ApprovalIntent>,
    entries: &[Entry],
    differences: &mut Vec<Difference>,
) -> Option<Proof> {
    let intent_sha256 = intent.map(hash).unwrap_or_default();
    let evidence = ask.evidence.as_ref();
    if ask.worth != evidence.map(|evidence| evidence.kind.into()) {
        differences.push(Difference::EvidenceStrength);
    }
    let evidence = evidence?;
    let token = match (evidence.kind, proof::reverify(evidence)) {
        (EvidenceKind::SignedToken, Ok(verified)) => Some(token(&intent_sha256, &verified, differences)),
        (EvidenceKind::SignedToken, Err(why)) => {
            differences.push(why.into());
            None
        }
        (EvidenceKind::KeyraVerified | EvidenceKind::KeyraStatus | EvidenceKind::Operator, _) => None,
    };
    // The operator is asked as a role, but answers as an account of this machine.
    if evidence.kind != EvidenceKind::Operator && ask.approver != evidence.approver {
        differences.push(Difference::OtherApprover);
    }
    if evidence.kind == EvidenceKind::Operator && !is_of(ask, &intent_sha256, evidence) {
        differences.push(Difference::OtherSent);
    }
    Some(Proof {
        approver: evidence.approver.clone(),
        kind: evidence.kind,
        worth: evidence.kind.into(),
        granted: entries
            .iter()
            .find(|entry| grants(entry, evidence))
            .map(|entry| entry.seq),
        token,
    })
}

/// Whether the operator's answer was to this question.
fn is_of(ask: &Ask, intent_sha256: &str, evidence: &Evidence) -> bool {
    let proof = &evidence.proof;
    proof["intent_sha256"] == *intent_sha256 && proof["code"] == *ask.code && proof["by"] == *evidence.approver
}

fn token(intent_sha256: &str, verified: &Verified, differences: &mut Vec<Difference>) -> Token {
    let sent = &verified.policy().sent;
    let names = |text: &Option<String>, place: &str| -> Option<String> {
        let details: serde_json::Value = serde_json::from_str(text.as_ref()?).ok()?;
        Some(details.pointer(place)?.as_str()?.to_owned())
    };
    let authorization = names(&sent.authorization_details, "/0/identifier");
    let action = names(&sent.action_details, "/resource");
    if [&authorization, &action]
        .into_iter()
        .flatten()
        .any(|named| *named != intent_sha256)
    {
        differences.push(Difference::OtherSent);
    }
    Token {
        issuer: verified.policy().issuer.clone(),
        key: verified.key().thumbprint(),
        // Details that had to be repeated were, or the token would not have verified (approval/details.rs).
        bound_by: match repeats(verified.policy()) {
            true => BoundBy::Token,
            false => BoundBy::Handle,
        },
    }
}

/// Whether the issuer signed the payment's details. Details next to an id_token are not signed.
fn repeats(policy: &Policy) -> bool {
    let is_beside = matches!(
        &policy.source,
        Source::IdToken {
            authorization_details: Some(_),
            ..
        }
    );
    let sent = &policy.sent;
    let authorization = sent.authorization_details.is_some() && !is_beside;
    authorization || (sent.action_details.is_some() && policy.binding == Binding::Required)
}

/// Checks that every granted entry has its evidence, byte for byte.
fn granted(asked: &Asked, entries: &[Entry], differences: &mut Vec<Difference>) {
    let evidence: Vec<&Evidence> = asked.of.iter().filter_map(|ask| ask.evidence.as_ref()).collect();
    for entry in entries {
        let Body::ApprovalGranted(granted) = &entry.body else {
            continue;
        };
        match evidence.iter().find(|evidence| grants(entry, evidence)) {
            Some(evidence) => differences.extend(
                misnamed(granted, evidence)
                    .into_iter()
                    .map(|name| Difference::Granted(entry.seq, name)),
            ),
            None if evidence.is_empty() => differences.push(Difference::EvidenceGone(entry.seq)),
            None => differences.push(Difference::Evidence(entry.seq)),
        }
    }
}

/// Whether `entry` grants the approval for exactly this evidence.
fn grants(entry: &Entry, evidence: &Evidence) -> bool {
    match &entry.body {
        Body::ApprovalGranted(granted) => Digest::of(&evidence_bytes(evidence)) == granted.evidence_sha256,
        _ => false,
    }
}

fn misnamed(granted: &ApprovalGranted, evidence: &Evidence) -> Vec<&'static str> {
    let pairs = [
        ("approver", granted.by == evidence.approver),
        ("kind", granted.kind == evidence.kind),
        ("replay key", granted.replay.to_string() == evidence.replay_key),
    ];
    pairs
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(name, _)| name)
        .collect()
}

fn armed(entries: &[Entry], differences: &mut Vec<Difference>) {
    let (mut needed, mut people) = (1, BTreeSet::new());
    for entry in entries {
        match &entry.body {
            Body::ApprovalRequested(requested) => needed = usize::from(requested.needed),
            Body::ApprovalGranted(granted) => drop(people.insert(granted.by.as_str())),
            Body::Armed(armed) if armed.approval.is_some() && people.len() < needed => {
                differences.push(Difference::NotGranted(entry.seq));
            }
            _ => {}
        }
    }
}

//! Whether a dossier agrees with itself: question with its hash, evidence with what the books say of it, the payment with what was
//! asked, and the token with its key (approvals §5, §8; R45 and R46). Pure.
//!
//! That the entries are those of the log, and the key the issuer's, is nothing that the document can prove of itself: leaf hashes
//! and thumbprints are there to be compared.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};
use thiserror::Error;

use super::{ApprovalRecord, Ask, Asked, EvidenceStrength};
use crate::questions::evidence_bytes;
use bursar_core::account::Account;
use bursar_core::approval::details::Binding;
use bursar_core::approval::proof::{self, Unproven};
use bursar_core::approval::token::{Policy, Source, Verified};
use bursar_core::approval::{ApprovalIntent, Evidence, EvidenceKind};
use bursar_core::assets::Asset;
use bursar_ledger::entry::{ApprovalGranted, ApprovalRequested, Body, Entry, Reserved};
use bursar_ledger::text::Digest;

/// What a look at a dossier has shown.
#[derive(Debug, Serialize)]
pub struct Examined {
    /// By the books.
    pub decision: Decision,
    /// Whether the entries begin where the payment does; the segments before may have been moved away (`bursar retain`).
    pub whole: bool,
    /// What does not agree. One is enough: somebody has changed or damaged it.
    pub differences: Vec<Difference>,
    /// Of each answer, what it proves.
    pub proofs: Vec<Proof>,
    /// Number and event of each entry that reads.
    #[serde(skip)]
    pub entries: Vec<(u64, &'static str)>,
}

/// How far an approval has come, by its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Pending,
    Granted,
    /// A payment was armed by it.
    Used,
    Refused,
    Expired,
}

/// What one answer proves.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    pub approver: String,
    pub kind: EvidenceKind,
    pub worth: EvidenceStrength,
    /// The entry that took it, and used it up.
    pub granted: Option<u64>,
    /// Of a token that verifies.
    #[serde(flatten)]
    pub token: Option<Token>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    pub issuer: String,
    /// RFC 7638 thumbprint, to be compared with what the issuer published then.
    pub key: String,
    pub bound_by: BoundBy,
}

/// What ties a token to this payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoundBy {
    /// It names the payment: the issuer has signed that.
    Token,
    /// This proxy fetched it by the handle of this question, and says so.
    Handle,
}

/// Two things that should be the same and are not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Difference {
    #[error("entry {0} of the document cannot be read: {1}")]
    BadEntry(usize, String),
    #[error("entry {0} has another leaf hash")]
    Leaf(u64),
    #[error("entry {0} is about another payment")]
    OtherPayment(u64),
    #[error("entry {0} does not come after the one before it")]
    Order(u64),
    #[error("what was asked is not kept any more, and the books have the approval")]
    QuestionGone,
    #[error("the kept question cannot be read: {0}")]
    QuestionUnreadable(String),
    #[error("the members of the intent are not those that there are")]
    Members,
    #[error("the intent has another hash than the one kept beside it")]
    IntentHash,
    #[error("those who were asked are not those whom the intent names")]
    People,
    #[error("the {0} is not that of the intent")]
    Words(&'static str),
    #[error("the books have no question about this intent")]
    NotRequested,
    #[error("entry {0} names another {1} than what is kept")]
    Requested(u64, &'static str),
    #[error("entry {0} says that the payment has another {1} than was asked about")]
    Paid(u64, &'static str),
    #[error("entry {0} says that an approval was granted, and no evidence is kept")]
    EvidenceGone(u64),
    #[error("the kept evidence has another hash than entry {0} has")]
    Evidence(u64),
    #[error("entry {0} names another {1} than the kept evidence")]
    Granted(u64, &'static str),
    #[error("the payment was armed by this approval (entry {0}), and the entries before do not grant it")]
    NotGranted(u64),
    #[error("the evidence is labelled as worth something else than it is")]
    EvidenceStrength,
    #[error("the answer is not from the approver who was asked")]
    OtherApprover,
    #[error("what was sent to the issuer names another payment")]
    OtherSent,
    #[error("the evidence does not verify: {0}")]
    Unproven(#[from] Unproven),
}

impl Serialize for Difference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Holds everything in `record` against everything else in it.
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
                    words(ask, intent, &mut differences);
                }
                proofs.extend(answer(ask, intent.as_ref(), &entries, &mut differences));
            }
            granted(asked, &entries, &mut differences);
        }
    }
    armed(&entries, &mut differences);
    if !whole {
        // What is missed may stand in what was moved away.
        differences.retain(|difference| !matches!(difference, Difference::NotRequested | Difference::NotGranted(_)));
    }
    Examined {
        decision: Decision::of(&entries),
        whole,
        differences,
        proofs,
        entries: entries.iter().map(|entry| (entry.seq, entry.body.ev())).collect(),
    }
}

impl Decision {
    fn of(entries: &[Entry]) -> Self {
        let decisions = entries.iter().rev().filter_map(|entry| match &entry.body {
            Body::Armed(armed) if armed.approval.is_some() => Some(Self::Used),
            Body::ApprovalGranted(_) => Some(Self::Granted),
            Body::ApprovalRefused(_) => Some(Self::Refused),
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

fn missing(entries: &[Entry], differences: &mut Vec<Difference>) {
    // A question that could not be written down was not put, and is over (questions/carry.rs).
    let granted = entries
        .iter()
        .any(|entry| matches!(entry.body, Body::ApprovalGranted(_)));
    if granted {
        differences.push(Difference::QuestionGone);
    }
}

/// What was asked of all together.
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

/// What one approver was shown.
fn words(ask: &Ask, intent: &ApprovalIntent, differences: &mut Vec<Difference>) {
    let amount = intent.amount();
    for (name, kept, is) in [
        ("code", &ask.code, intent.code().to_string()),
        ("sentence", &ask.sentence, intent.sentence(&amount)),
        ("compact message", &ask.compact, intent.compact(&amount)),
    ] {
        if *kept != is {
            differences.push(Difference::Words(name));
        }
    }
}

/// The question against its entry, and against the payment that was set aside for it.
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
                ("way of asking", *backend == asked.backend),
                // Entries have microseconds.
                (
                    "end",
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

/// In what a payment is not the one that was asked about.
fn unlike(reserved: &Reserved, asked: &Asked) -> Vec<&'static str> {
    let intent = |name: &str| asked.intent.get(name).map_or("", String::as_str);
    let outlay = reserved.amount.0.saturating_add(reserved.fee.map_or(0, |fee| fee.0));
    let asset = match Asset::parse(&reserved.asset) {
        Some(Asset::Token(token)) => token.address.to_string(),
        Some(Asset::Fiat(_, currency)) => currency.code.to_owned(),
        // A later version's, or an earlier one's.
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

/// What came back, by itself.
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
    // The operator is asked as a role, and answers as an account of this machine.
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

/// What the operator typed was about this question.
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
        // What had to come back did, or the token would not have verified (approval/details.rs).
        bound_by: match repeats(verified.policy()) {
            true => BoundBy::Token,
            false => BoundBy::Handle,
        },
    }
}

/// Whether the issuer has signed what the payment is. What stands beside an id_token it has not signed.
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

/// Every grant in the books has its evidence, to the byte.
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

/// Whether `entry` is the grant by just these bytes.
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

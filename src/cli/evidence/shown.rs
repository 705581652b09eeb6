//! The approval of a payment, as shown by `bursar payments show`.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::entries;
use crate::cli::zone::ShownZone;
use crate::cli::{Exit, Failure, journal};
use bursar_approvals::questions::{self, StoredQuestion};
use bursar_approvals::record::{ApprovalRecord, Difference, Examined, examine};
use bursar_core::plain::plain;
use bursar_home::Home;
use bursar_ledger::PaymentId;
use bursar_ledger::entry::Body;
use bursar_ledger::lines::{Recorded, lines_about};

/// Empty if no approval was asked for.
#[derive(Default, serde::Serialize)]
pub(in crate::cli) struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    denial: Option<Denial>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval_record: Option<StoredQuestion>,
    /// Whether a stored token verifies offline: checked with the key stored with it, since its issuer may have rotated
    /// its keys (approvals §5, §10).
    #[serde(skip_serializing_if = "Option::is_none")]
    approval_check: Option<TokenCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval_ledger: Option<LedgerCheck>,
}

/// A person's no, as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(in crate::cli) struct Denial {
    /// `null` if the approval backend did not say who.
    pub by: Option<String>,
    /// `null` if no reason was given.
    pub why: Option<String>,
    pub at: Timestamp,
}

#[derive(serde::Serialize)]
#[serde(tag = "verified", rename_all = "snake_case")]
enum TokenCheck {
    Yes {
        /// RFC 7638 thumbprints, one for each person who approved, to compare with what the issuer published then.
        keys: Vec<String>,
    },
    No {
        why: String,
    },
}

/// The stored approval compared with the ledger.
#[derive(serde::Serialize)]
struct LedgerCheck {
    agree: bool,
    #[serde(flatten)]
    examined: Examined,
}

impl Shown {
    pub(in crate::cli) fn of(home: &Home, id: PaymentId) -> Result<Self, Failure> {
        let lines = journal::read_again(lines_about(home.root(), &BTreeSet::from([id])))?.remove(&id);
        let (stored, unreadable) = match questions::look(&home.approvals(), id) {
            Ok(stored) => (stored, None),
            Err(why) => (None, Some(Difference::QuestionUnreadable(why))),
        };
        let lines = lines.unwrap_or_default();
        let denial = lines.iter().find_map(Denial::of);
        let mut examined = examine(&ApprovalRecord::of(id, stored.as_ref(), lines));
        let was_asked = examined.entries.iter().any(|(_, ev)| ev.starts_with("approval."));
        if stored.is_none() && unreadable.is_none() && !was_asked {
            return Ok(Self::default());
        }
        examined.differences.extend(unreadable);
        let check = TokenCheck::of(&examined);
        let ledger = LedgerCheck {
            agree: examined.differences.is_empty(),
            examined,
        };
        Ok(Self {
            denial,
            approval_record: stored,
            approval_check: check,
            approval_ledger: Some(ledger),
        })
    }

    /// Disagreement counts as damage (R53).
    pub(in crate::cli) fn exit(&self) -> Exit {
        let is_bad = matches!(self.approval_check, Some(TokenCheck::No { .. }))
            || self.approval_ledger.as_ref().is_some_and(|ledger| !ledger.agree);
        if is_bad { Exit::Negative } else { Exit::Done }
    }

    pub(in crate::cli) const fn denial(&self) -> Option<&Denial> {
        self.denial.as_ref()
    }

    /// The lines below the payment's own.
    pub(in crate::cli) fn text(&self, zone: &ShownZone) -> String {
        let mut lines = Vec::new();
        if let Some(stored) = &self.approval_record {
            lines.extend(record(stored, zone));
        }
        match &self.approval_check {
            Some(TokenCheck::Yes { keys }) => lines.push(("verified", format!("yes (key {})", keys.join(", ")))),
            Some(TokenCheck::No { why }) => lines.push(("verified", format!("no: {why}"))),
            None => {}
        }
        match &self.approval_ledger {
            Some(ledger) if ledger.agree && !ledger.examined.whole => {
                let moved = "agrees, as far as its entries are here: the first ones were moved away by `bursar retain`";
                lines.push(("ledger", moved.to_owned()));
            }
            Some(ledger) if ledger.agree => lines.push(("ledger", format!("agrees: {}", entries(&ledger.examined)))),
            Some(ledger) => {
                let differ = &ledger.examined.differences;
                lines.extend(
                    differ
                        .iter()
                        .map(|difference| ("ledger", format!("DIFFERS: {difference}"))),
                );
            }
            None => {}
        }
        let line = |(name, text): (&str, String)| format!("{name:<15} {}\n", plain(&text));
        lines.into_iter().map(line).collect()
    }
}

/// What a denial without a reason is recorded as.
const NO_REASON: &str = "denied";

impl Denial {
    fn of(line: &Recorded) -> Option<Self> {
        let (entry, _) = line.read().ok()?;
        let Body::ApprovalDenied(denied) = entry.body else {
            return None;
        };
        Some(Self {
            by: denied.by,
            why: Some(denied.why).filter(|why| why != NO_REASON),
            at: entry.ts.timestamp(),
        })
    }
}

impl TokenCheck {
    fn of(examined: &Examined) -> Option<Self> {
        let wrong = examined
            .differences
            .iter()
            .find(|difference| matches!(difference, Difference::Unproven(_) | Difference::OtherApprover));
        if let Some(wrong) = wrong {
            let why = wrong.to_string();
            return Some(Self::No { why });
        }
        let tokens = examined.proofs.iter().filter_map(|proof| proof.token.as_ref());
        let keys: Vec<String> = tokens.map(|token| token.key.clone()).collect();
        (!keys.is_empty()).then_some(Self::Yes { keys })
    }
}

/// The question and its answers.
fn record(stored: &StoredQuestion, zone: &ShownZone) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("asked_at", zone.instant(stored.asked_at)),
        ("asked_through", stored.backend.clone()),
        ("intent_sha256", stored.intent_sha256.clone()),
    ];
    if stored.asks.len() > 1 {
        lines.push(("needed", format!("{} of {} people", stored.needed, stored.asks.len())));
    }
    for ask in &stored.asks {
        lines.push(("asked", ask.sentence.clone()));
        match &ask.evidence {
            None => lines.push(("approved_by", "nobody".to_owned())),
            Some(evidence) => lines.extend([
                ("approved_by", evidence.approver.clone()),
                ("approved_at", zone.instant(evidence.decided_at)),
                ("evidence", evidence.kind.to_string()),
            ]),
        }
    }
    lines
}

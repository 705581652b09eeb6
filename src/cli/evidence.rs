//! `bursar approvals`: exports approval records for readers without this data directory, and verifies exported ones.
//! `bursar payments show` makes the same checks.

mod shown;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::arguments::{not_found, parse_id};
use super::dates::has_form;
use super::output::{note, print, print_json};
use super::zone::ShownZone;
use super::{Exit, Failure, journal};
use bursar_approvals::questions;
use bursar_approvals::record::{
    ApprovalRecord, BoundBy, Decision, Difference, Examined, NotRead, Proof, Token, examine,
};
use bursar_core::plain::plain;
use bursar_home::Home;
use bursar_ledger::lines::{asked_about, lines_about};
use bursar_ledger::{PaymentId, PaymentRecord, read_payments};
pub(super) use shown::{Denial, Shown};

/// Room for more than a year of approvals; a longer file can be split by lines.
const LONGEST: u64 = 256 << 20;

#[derive(Subcommand)]
pub(super) enum Approvals {
    /// Print approval records: what was asked, answered and recorded, one JSON document per line
    Export(Export),
    /// Verify exported approval records; needs no network, server or data directory
    Verify(Verify),
}

#[derive(Args)]
pub(super) struct Export {
    /// Payment ids, as shown by `bursar payments list` [default: all payments that needed approval]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Only payments made since then: a day (2026-11-20) in the time zone of limits.toml, a time (2026-11-20T08:00:00Z),
    /// or how long ago (7d, 12h)
    #[arg(long, value_name = "TIME", value_parser = has_form)]
    since: Option<String>,
    /// Only this agent's payments
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

#[derive(Args)]
pub(super) struct Verify {
    /// Output of `bursar approvals export`; `-` reads stdin
    file: PathBuf,
    /// RFC 7638 thumbprint of a key that you know to be the issuer's; may be repeated
    // One in sixty-four begins with a hyphen.
    #[arg(long, value_name = "THUMBPRINT", allow_hyphen_values = true)]
    key: Vec<String>,
    /// One JSON object per document
    #[arg(long)]
    json: bool,
}

impl Approvals {
    /// `home` is evaluated only if it is needed: an auditor has no data directory.
    pub(super) fn run(self, home: impl FnOnce() -> Result<Home, Failure>) -> Result<Exit, Failure> {
        match self {
            Self::Export(export) => export.run(&home()?),
            Self::Verify(verify) => verify.run(),
        }
    }
}

impl Export {
    fn run(&self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let (asked, mut exit) = journal::read(asked_about(home.root()))?;
        let recorded = journal::read_again(read_payments(home.root()))?;
        let wanted = self.wanted(home, &recorded.payments, &asked)?;
        let mut lines = journal::read_again(lines_about(home.root(), &wanted))?;
        for id in wanted {
            let stored = questions::look(&home.approvals(), id).unwrap_or_else(|why| {
                note!("bursar: {id}: {why}");
                exit = Exit::Negative;
                None
            });
            let record = ApprovalRecord::of(id, stored.as_ref(), lines.remove(&id).unwrap_or_default());
            for difference in examine(&record).differences {
                note!("bursar: {id}: {difference}");
                exit = Exit::Negative;
            }
            print_json(&record)?;
        }
        Ok(exit)
    }

    fn wanted(
        &self,
        home: &Home,
        payments: &[PaymentRecord],
        asked: &BTreeSet<PaymentId>,
    ) -> Result<BTreeSet<PaymentId>, Failure> {
        let named: BTreeSet<PaymentId> = self.ids.iter().map(|id| parse_id(id)).collect::<Result<_, _>>()?;
        for id in &named {
            if !payments.iter().any(|payment| payment.id == *id) {
                return Err(not_found(*id));
            }
            if !asked.contains(id) {
                return Err(Failure::negative(match questions::look(&home.approvals(), *id) {
                    Ok(None) => format!("payment {id} needed no approval, so there is nothing to export"),
                    _ => format!(
                        "the ledger entry of the question about {id} was moved away by `bursar retain`; export it from \
                         a backup made before that"
                    ),
                }));
            }
        }
        let since = self
            .since
            .as_deref()
            .map(|text| ShownZone::of(home).since(text))
            .transpose()?;
        let is_wanted = |payment: &&PaymentRecord| {
            asked.contains(&payment.id)
                && (named.is_empty() || named.contains(&payment.id))
                && since.is_none_or(|since| payment.created_at >= since)
                && self.agent.as_ref().is_none_or(|agent| payment.agent == *agent)
        };
        Ok(payments.iter().filter(is_wanted).map(|payment| payment.id).collect())
    }
}

/// The result for one document, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// Every answer is signed by a key given with `--key`, or nothing was granted and nothing in it claims otherwise.
    Verified,
    /// It is consistent, but its truth rests on somebody's statement.
    Unproven,
    Damaged,
}

/// One line of `approvals verify --json`.
#[derive(serde::Serialize)]
struct Checked<'a> {
    /// Absent if the document cannot be read.
    id: Option<PaymentId>,
    verdict: Verdict,
    why: Option<String>,
    #[serde(flatten)]
    examined: Option<&'a Examined>,
}

impl Verify {
    fn run(&self) -> Result<Exit, Failure> {
        let text = self.text()?;
        let mut worst = None;
        let documents = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
        for document in documents {
            let verdict = match document.map_err(Into::into).and_then(ApprovalRecord::read) {
                Ok(record) => self.check(&record)?,
                Err(why) => self.unread(&why)?,
            };
            worst = worst.max(Some(verdict));
        }
        match worst {
            Some(Verdict::Verified) => Ok(Exit::Done),
            Some(Verdict::Unproven) => Ok(Exit::Unverifiable),
            Some(Verdict::Damaged) => Ok(Exit::Negative),
            None => Err(Failure::unverifiable(format!(
                "{} contains no approval record",
                self.file.display()
            ))),
        }
    }

    fn text(&self) -> Result<String, Failure> {
        use std::io::Read as _;
        let mut text = String::new();
        let read = match self.file.as_os_str() == "-" {
            true => std::io::stdin().lock().take(LONGEST).read_to_string(&mut text),
            false => std::fs::File::open(&self.file).and_then(|file| file.take(LONGEST).read_to_string(&mut text)),
        };
        read.map_err(|error| Failure::usage(format!("cannot read {}: {error}", self.file.display())))?;
        Ok(text)
    }

    fn check(&self, record: &ApprovalRecord) -> Result<Verdict, Failure> {
        let examined = examine(record);
        let (verdict, why) = self.verdict(&examined);
        if self.json {
            let checked = Checked {
                id: Some(record.id),
                verdict,
                why,
                examined: Some(&examined),
            };
            print_json(&checked)?;
        } else {
            print(format_args!("{}", sheet(record, &examined, verdict, why.as_deref())))?;
        }
        Ok(verdict)
    }

    fn unread(&self, why: &NotRead) -> Result<Verdict, Failure> {
        let (verdict, why) = (Verdict::Damaged, Some(why.to_string()));
        let checked = Checked {
            id: None,
            verdict,
            why,
            examined: None,
        };
        match (self.json, &checked.why) {
            (true, _) => print_json(&checked)?,
            (false, why) => print(format_args!(
                "result          damaged: {}\n\n",
                why.as_deref().unwrap_or_default()
            ))?,
        }
        Ok(verdict)
    }

    /// A consistent document is proven only by a key that the reader trusts (R53).
    fn verdict(&self, examined: &Examined) -> (Verdict, Option<String>) {
        if !examined.differences.is_empty() {
            return (Verdict::Damaged, Some(joined(&examined.differences)));
        }
        if !examined.whole {
            let why = "the payment's first ledger entries are missing, so not everything could be compared";
            return (Verdict::Unproven, Some(why.to_owned()));
        }
        let why = examined.proofs.iter().find_map(|proof| match &proof.token {
            _ if proof.granted.is_none() => Some("the ledger has not recorded the answer".to_owned()),
            None => Some(format!("it is {}", proof.worth.text())),
            Some(token) if self.key.is_empty() => Some(format!(
                "it is signed by key {}; if you know that this key belongs to {}, pass it with --key",
                token.key, token.issuer
            )),
            Some(token) if !self.key.contains(&token.key) => Some(format!(
                "it is signed by key {}, which is not among the keys given with --key",
                token.key
            )),
            Some(_) => None,
        });
        match why {
            Some(why) => (Verdict::Unproven, Some(why)),
            None => (Verdict::Verified, None),
        }
    }
}

fn joined(differences: &[Difference]) -> String {
    let joined: Vec<String> = differences.iter().map(ToString::to_string).collect();
    joined.join("; ")
}

fn sheet(record: &ApprovalRecord, examined: &Examined, verdict: Verdict, why: Option<&str>) -> String {
    let mut lines = vec![("id", record.id.to_string())];
    for ask in record.asked.iter().flat_map(|asked| &asked.of) {
        lines.push(("asked", ask.sentence.clone()));
    }
    if let Some(asked) = &record.asked {
        lines.push(("asked_at", asked.at.to_string()));
        lines.push(("asked_through", asked.backend.clone()));
    }
    for proof in &examined.proofs {
        lines.extend(proven(proof));
    }
    lines.push(("decision", decided(examined.decision).to_owned()));
    lines.push(("entries", entries(examined)));
    lines.push((
        "result",
        match (verdict, why) {
            (Verdict::Verified, _) if examined.proofs.is_empty() => "undamaged; nobody approved it".to_owned(),
            (Verdict::Verified, _) => "verified".to_owned(),
            (Verdict::Unproven, why) => format!("undamaged, not proven: {}", why.unwrap_or_default()),
            (Verdict::Damaged, why) => format!("damaged: {}", why.unwrap_or_default()),
        },
    ));
    let mut sheet = String::new();
    for (name, text) in lines {
        let _ = writeln!(sheet, "{name:<15} {}", plain(&text));
    }
    sheet + "\n"
}

fn proven(proof: &Proof) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("approved_by", proof.approver.clone()),
        ("evidence", format!("{}: {}", proof.kind, proof.worth.text())),
    ];
    if let Some(Token { issuer, key, bound_by }) = &proof.token {
        lines.push(("issuer", issuer.clone()));
        lines.push(("key", key.clone()));
        let bound = match bound_by {
            BoundBy::Token => "the token names this payment",
            BoundBy::Handle => "the token does not name the payment; bursar fetched it by this question's handle",
        };
        lines.push(("bound", bound.to_owned()));
    }
    lines
}

const fn decided(decision: Decision) -> &'static str {
    match decision {
        Decision::Pending => "none yet",
        Decision::Granted => "approved",
        Decision::Used => "approved, and used for the payment",
        Decision::Denied => "denied",
        Decision::Expired => "expired: not answered in time, or not used in time",
    }
}

fn entries(examined: &Examined) -> String {
    let named: Vec<String> = examined.entries.iter().map(|(seq, ev)| format!("{seq} {ev}")).collect();
    named.join(", ")
}

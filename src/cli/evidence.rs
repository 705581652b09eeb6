//! `bursar approvals`: what people approved, in documents for whoever has not got this directory; and the same checks where
//! `bursar payments show` shows an approval.

mod shown;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::output::print;
use super::payments::{moment, not_found, parse_id, print_json};
use super::{Exit, Failure};
use bursar_approvals::questions;
use bursar_approvals::record::{
    ApprovalRecord, BoundBy, Decision, Difference, Examined, NotRead, Proof, Token, examine,
};
use bursar_home::Home;
use bursar_ledger::lines::{asked_about, lines_about};
use bursar_ledger::{PaymentId, PaymentRecord, read_payments};
pub(super) use shown::Shown;

/// More than a year of approvals; a file that is longer is none of ours, or can be split by lines.
const LONGEST: u64 = 256 << 20;

#[derive(Subcommand)]
pub enum Approvals {
    /// Print what was asked, answered and recorded, as one JSON document a line for each approval
    Export(Export),
    /// Check such documents, without the network, a server or a data directory
    Verify(Verify),
}

#[derive(Args)]
pub struct Export {
    /// Payments, as `payments list` shows them [default: all that a person was asked about]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Only those made since then: 2026-11-20, or 2026-11-20T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only this agent's
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

#[derive(Args)]
pub struct Verify {
    /// What `approvals export` printed; `-` reads it from stdin
    file: PathBuf,
    /// A key that the issuer is known to have had, by its RFC 7638 thumbprint; may be repeated
    // One in sixty-four begins with a hyphen.
    #[arg(long, value_name = "THUMBPRINT", allow_hyphen_values = true)]
    key: Vec<String>,
    /// One JSON object per document
    #[arg(long)]
    json: bool,
}

impl Approvals {
    /// `home` is asked for only where it is needed: an auditor has none.
    pub fn run(self, home: impl FnOnce() -> Result<Home, Failure>) -> Result<Exit, Failure> {
        match self {
            Self::Export(export) => export.run(&home()?),
            Self::Verify(verify) => verify.run(),
        }
    }
}

impl Export {
    fn run(&self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let unread = |error: bursar_ledger::ReadError| Failure::negative(error.to_string());
        let asked = asked_about(home.root()).map_err(unread)?;
        let wanted = self.wanted(home, &read_payments(home.root()).map_err(unread)?.payments, &asked)?;
        let mut lines = lines_about(home.root(), &wanted).map_err(unread)?;
        let mut exit = Exit::Done;
        for id in wanted {
            let kept = questions::look(&home.approvals(), id).unwrap_or_else(|why| {
                eprintln!("bursar: {id}: {why}");
                exit = Exit::Negative;
                None
            });
            let record = ApprovalRecord::of(id, kept.as_ref(), lines.remove(&id).unwrap_or_default());
            for difference in examine(&record).differences {
                eprintln!("bursar: {id}: {difference}");
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
                    Ok(None) => format!("nobody was asked about {id}, so there is nothing to export"),
                    _ => format!(
                        "the entry of the question about {id} was moved away by `bursar retain`: export it before that, or from a \
                         backup that has it"
                    ),
                }));
            }
        }
        let is_wanted = |payment: &&PaymentRecord| {
            asked.contains(&payment.id)
                && (named.is_empty() || named.contains(&payment.id))
                && self.since.is_none_or(|since| payment.created_at >= since)
                && self.agent.as_ref().is_none_or(|agent| payment.agent == *agent)
        };
        Ok(payments.iter().filter(is_wanted).map(|payment| payment.id).collect())
    }
}

/// What one document is worth, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// Every answer is signed by a key that was named as the issuer's, or nothing was granted and nothing claims so.
    Verified,
    /// It agrees with itself, and whether it is true stands on somebody's word.
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
                "{} holds no approval",
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

    /// What agrees with itself is proven only by somebody whom the reader trusts (R53).
    fn verdict(&self, examined: &Examined) -> (Verdict, Option<String>) {
        if !examined.differences.is_empty() {
            return (Verdict::Damaged, Some(told(&examined.differences)));
        }
        if !examined.whole {
            let why = "the payment's first entries are not in it, so not all could be compared";
            return (Verdict::Unproven, Some(why.to_owned()));
        }
        let why = examined.proofs.iter().find_map(|proof| match &proof.token {
            _ if proof.granted.is_none() => Some("the books have not taken the answer".to_owned()),
            None => Some(format!("it is {}", proof.worth.text())),
            Some(token) if self.key.is_empty() => Some(format!(
                "it is signed by the key {}; if that is {}'s, say so by --key",
                token.key, token.issuer
            )),
            Some(token) if !self.key.contains(&token.key) => Some(format!(
                "it is signed by the key {}, which --key does not name",
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

fn told(differences: &[Difference]) -> String {
    let told: Vec<String> = differences.iter().map(ToString::to_string).collect();
    told.join("; ")
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

/// A document comes from anywhere; what it says must not move the cursor.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
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
            BoundBy::Handle => "the token does not name the payment; bursar fetched it by the handle of this question",
        };
        lines.push(("bound", bound.to_owned()));
    }
    lines
}

const fn decided(decision: Decision) -> &'static str {
    match decision {
        Decision::Pending => "none yet",
        Decision::Granted => "approved",
        Decision::Used => "approved, and paid by it",
        Decision::Refused => "denied",
        Decision::Expired => "none in time, or not used in time",
    }
}

fn entries(examined: &Examined) -> String {
    let named: Vec<String> = examined.entries.iter().map(|(seq, ev)| format!("{seq} {ev}")).collect();
    named.join(", ")
}

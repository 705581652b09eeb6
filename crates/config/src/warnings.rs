//! What is probably not meant in a file without mistakes: rules that can never apply, agents that can never pay, lists that
//! a lower level loosens in vain. A file with warnings takes force like any other (R234).

mod levels;
mod names;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use toml::de::{DeTable, DeValue};

use crate::diagnose::{Confidence, Document, Problem};
use bursar_core::policy::Limits;

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub code: Code,
    pub problem: Problem,
}

/// What kind of warning it is. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    EmptyFile,
    UnknownAgent,
    NoSection,
    NoBudget,
    UnusedGroup,
    GroupDropped,
    NeverReached,
    NeverAsks,
    ShadowedAllow,
    RateEnds,
    OwnerApproves,
    ApproversWidened,
}

impl Code {
    pub const fn name(self) -> &'static str {
        match self {
            Self::EmptyFile => "empty-file",
            Self::UnknownAgent => "unknown-agent",
            Self::NoSection => "no-section",
            Self::NoBudget => "no-budget",
            Self::UnusedGroup => "unused-group",
            Self::GroupDropped => "group-dropped",
            Self::NeverReached => "never-reached",
            Self::NeverAsks => "never-asks",
            Self::ShadowedAllow => "shadowed-allow",
            Self::RateEnds => "rate-ends",
            Self::OwnerApproves => "owner-approves",
            Self::ApproversWidened => "approvers-widened",
        }
    }
}

/// What the warnings depend on beside the file.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The agents that may use the proxy; `None` if that is not known.
    pub agents: Option<&'a [String]>,
    /// Each agent's group under the file in force; `None` if there is none, or if it is not known.
    pub members: Option<&'a BTreeMap<String, Arc<str>>>,
    pub now: Timestamp,
}

/// A rate that ends within this time is warned about.
const RATE_ENDS_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// More warnings of one kind than this are only counted: ten thousand lines hide the one that matters.
const MOST_OF_A_KIND: usize = 20;

/// The warnings about a file that [`crate::limits::parse`] has accepted as `limits`, in the order of the file.
pub fn warnings(file: &str, text: &str, limits: &Limits, around: Surroundings<'_>) -> Vec<Warning> {
    let document = Document::new(file, text, Confidence::Open);
    let Ok(table) = document.table() else {
        return Vec::new();
    };
    let mut found = Findings {
        document: &document,
        table: table.get_ref(),
        warnings: Vec::new(),
        counts: HashMap::new(),
    };
    names::check(limits, around, &mut found);
    levels::check(limits, &mut found);
    rates(limits, around.now, &mut found);
    found.finish()
}

fn rates(limits: &Limits, now: Timestamp, found: &mut Findings<'_>) {
    for (code, rate) in &limits.rates.0 {
        let path = ["rates", code, "valid_until"];
        if rate.until <= now {
            found.warn(
                Code::RateEnds,
                &path,
                || format!("[rates.{code}] has ended, so nothing in this currency is paid"),
                || "Renew `usd` and `valid_until`.".to_owned(),
            );
        } else if rate.until.duration_since(now) <= RATE_ENDS_SOON {
            let days = rate.until.duration_since(now).as_hours() / 24;
            found.warn(
                Code::RateEnds,
                &path,
                || format!("[rates.{code}] ends in {days} days; after that nothing in this currency is paid"),
                || "Renew `usd` and `valid_until` before that.".to_owned(),
            );
        }
    }
}

/// Collects warnings, with their places.
struct Findings<'d> {
    document: &'d Document<'d>,
    table: &'d DeTable<'d>,
    warnings: Vec<Warning>,
    counts: HashMap<Code, usize>,
}

impl Findings<'_> {
    /// `path`: the names of the sections and the key. The texts are made only if they are shown.
    fn warn(&mut self, code: Code, path: &[&str], what: impl FnOnce() -> String, way_out: impl FnOnce() -> String) {
        let count = self.counts.entry(code).or_default();
        *count += 1;
        if *count > MOST_OF_A_KIND {
            return;
        }
        let place = place(self.table, path);
        let problem = self.document.describe(&place, what(), way_out());
        self.warnings.push(Warning { code, problem });
    }

    /// The names under a section of the file, such as those of all groups.
    fn names_under(&self, section: &str) -> Vec<&str> {
        let section = self.table.get(section).and_then(|value| value.get_ref().as_table());
        section
            .into_iter()
            .flat_map(|table| table.iter().map(|(name, _)| &**name.get_ref()))
            .collect()
    }

    fn finish(mut self) -> Vec<Warning> {
        self.warnings
            .sort_by_key(|warning| (warning.problem.line, warning.problem.column));
        let last = self.warnings.len();
        for (code, count) in &self.counts {
            if *count > MOST_OF_A_KIND
                && let Some(at) = self.warnings[..last].iter().rposition(|warning| warning.code == *code)
            {
                let more = count - MOST_OF_A_KIND;
                let way_out = &mut self.warnings[at].problem.way_out;
                way_out.push_str(&format!(" There are {more} more warnings of this kind."));
            }
        }
        self.warnings
    }
}

/// Where the key stands that `path` names, or the last section on the way to it that exists.
fn place(table: &DeTable<'_>, path: &[&str]) -> Range<usize> {
    let (mut table, mut place) = (table, 0..0);
    for name in path {
        let Some((key, value)) = table.get_key_value(*name) else {
            break;
        };
        place = key.span();
        match value.get_ref() {
            DeValue::Table(below) => table = below,
            _ => break,
        }
    }
    place
}

/// As `limits check` prints it.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  ({})", self.problem, self.code.name())
    }
}

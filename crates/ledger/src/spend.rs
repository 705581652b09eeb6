//! What was spent on whom: a fold over the journal, which keeps only the open payments and the sums (R262).
//!
//! A payment belongs to the moment at which it was charged: when it was armed; while a person decides, when
//! the money was set aside (R261). What comes back leaves that moment's sum.

mod fold;

use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::compared::{Compared, Signed};
use super::entry::Entry;
use super::format;
use super::pipeline;
use super::pruned::{self, Beginning};
use super::read::{ReadError, looking};
use super::scan::{JournalError, Place, scan_from};
use bursar_core::policy::HostPattern;
use fold::Fold;
pub use fold::Sums;

/// What sums are made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    Agent,
    Group,
    Merchant,
    Payee,
    Rail,
    Asset,
    /// Of the question's zone, as is the month.
    Day,
    Month,
}

/// Which payments are added up, and how.
#[derive(Clone, Debug)]
pub struct SpendQuestion {
    /// One sum for each combination; none: one sum.
    pub by: Vec<By>,
    /// Charged at that time or later.
    pub since: Option<Timestamp>,
    /// Charged before that time.
    pub until: Option<Timestamp>,
    pub agent: Option<String>,
    pub merchant: Option<HostPattern>,
    pub zone: TimeZone,
}

/// One sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpendRow {
    /// In the order of the question's `by`. An agent without a group has an empty one.
    pub key: Vec<String>,
    pub sums: Sums,
}

/// All sums, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spending {
    pub rows: Vec<SpendRow>,
    pub total: Sums,
    /// The first entry that was read, if older ones were moved away: what they recorded is not in the sums.
    pub begins_at: Option<u64>,
}

impl By {
    pub const ALL: [Self; 8] = [
        Self::Agent,
        Self::Group,
        Self::Merchant,
        Self::Payee,
        Self::Rail,
        Self::Asset,
        Self::Day,
        Self::Month,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Group => "group",
            Self::Merchant => "merchant",
            Self::Payee => "payee",
            Self::Rail => "rail",
            Self::Asset => "asset",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.name() == name)
    }
}

/// Adds up the journal in `dir` (the data directory), without a lock, whether a server runs or not.
pub fn read_spending(dir: &Path, question: &SpendQuestion) -> Result<Compared<Spending>, ReadError> {
    format::check(dir)?;
    looking(dir, || read_once(dir, question))
}

fn read_once(dir: &Path, question: &SpendQuestion) -> Result<Compared<Spending>, ReadError> {
    let audit = dir.join("audit");
    // Before the entries: what is signed then is on disk.
    let signed = Signed::read(dir)?;
    let first = match audit.exists() {
        true => pruned::beginning(&audit)?,
        false => Beginning::default(),
    };
    let begins_at = (first.place != Place::START).then_some(first.chain.next_seq);
    let mut comparing = signed.from(dir, &first)?;
    let mut fold = Fold::new(question, &first.book);
    if audit.exists() {
        let reached = pipeline::run(&audit, first.chain, first.place, &mut |_| {}, &mut |parsed| {
            comparing.append(parsed.leaf)?;
            fold.apply(&parsed.entry)
        })?;
        scan_from(&audit, reached.chain, reached.place, &mut |line| {
            comparing.visit(line)?;
            let entry = Entry::headed(&line.head, line.bytes).map_err(|error| error.to_string())?;
            fold.apply(&entry)
        })?;
    }
    let comparison = comparing.end()?;
    let sums = fold.end().map_err(|why| JournalError::Damaged {
        path: audit,
        line: 1,
        why,
    })?;
    let read = Spending { begins_at, ..sums };
    Ok(Compared { read, comparison })
}

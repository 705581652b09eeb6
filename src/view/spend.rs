//! What was spent on whom, as `bursar spend` prints it.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::cli::dates;
use bursar_core::money::MicroUsd;
use bursar_core::policy::HostPattern;
use bursar_home::Home;
use bursar_ledger::spend::{By, SpendQuestion, Spending, Sums, read_spending};
use bursar_ledger::{Compared, Comparison, ReadError};

/// What somebody wants to know, as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpendAsked {
    pub by: Vec<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub merchant: Option<String>,
    pub agent: Option<String>,
}

/// The sums of one journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SpendView {
    pub by: Vec<String>,
    /// Of the days and months.
    pub zone: String,
    pub since: Option<Timestamp>,
    /// The first instant that is not included.
    pub until: Option<Timestamp>,
    pub rows: Vec<SpendRow>,
    pub total: SpendSums,
    /// The first entry of the journal, if older ones were moved away.
    pub begins_at: Option<u64>,
    /// Why the journal could not be compared with what was signed.
    pub unverified: Option<String>,
    /// The journal is one proxy's; others of the same ledger have their own.
    pub is_shared: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpendRow {
    /// In the order of `by`.
    pub key: Vec<String>,
    pub sums: SpendSums,
}

/// US dollars.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpendSums {
    pub settled: String,
    /// `armed` and `unknown` together.
    pub outstanding: String,
    pub armed: String,
    pub unknown: String,
    pub held: String,
    pub returned: String,
    pub count: u64,
}

impl SpendAsked {
    pub(crate) fn question(&self, zone: &TimeZone, now: Timestamp) -> Result<SpendQuestion, String> {
        let by = |name: &String| {
            By::named(name).ok_or_else(|| {
                let known: Vec<&str> = By::ALL.into_iter().map(By::name).collect();
                format!("--by {name}: sums are made by {}", known.join(", "))
            })
        };
        let by: Vec<By> = self.by.iter().map(by).collect::<Result<_, _>>()?;
        if let Some(twice) = by
            .iter()
            .enumerate()
            .find(|(place, by_one)| by[..*place].contains(by_one))
        {
            return Err(format!("--by names {} twice; name it once", twice.1.name()));
        }
        let since = self.since.as_ref().map(|text| dates::since(text, zone, now));
        let until = self.until.as_ref().map(|text| dates::until(text, zone, now));
        let (since, until) = (
            since.transpose().map_err(|error| format!("--since: {error}"))?,
            until.transpose().map_err(|error| format!("--until: {error}"))?,
        );
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err(format!(
                "--until must be later than --since; they are {until} and {since}"
            ));
        }
        let merchant = self.merchant.as_deref().map(HostPattern::parse);
        Ok(SpendQuestion {
            by,
            since,
            until,
            agent: self.agent.clone(),
            merchant: merchant.transpose().map_err(|error| format!("--merchant: {error}"))?,
            zone: zone.clone(),
        })
    }
}

impl SpendView {
    /// Adds up the journal of a data directory.
    pub(crate) fn read(home: &Home, asked: &SpendAsked, question: &SpendQuestion) -> Result<Self, ReadError> {
        let Compared { read, comparison } = read_spending(home.root(), question)?;
        let Spending { rows, total, begins_at } = read;
        Ok(Self {
            by: asked.by.clone(),
            zone: question.zone.iana_name().unwrap_or("UTC").to_owned(),
            since: question.since,
            until: question.until,
            rows: rows
                .into_iter()
                .map(|row| SpendRow {
                    key: row.key,
                    sums: SpendSums::of(&row.sums),
                })
                .collect(),
            total: SpendSums::of(&total),
            begins_at,
            unverified: match comparison {
                Comparison::Matches => None,
                Comparison::NotPossible(why) => Some(why),
            },
            is_shared: home.node().exists(),
        })
    }
}

impl SpendSums {
    fn of(sums: &Sums) -> Self {
        let usd = |micros| MicroUsd::new(micros).to_string();
        Self {
            settled: usd(sums.settled),
            outstanding: usd(sums.outstanding()),
            armed: usd(sums.armed),
            unknown: usd(sums.unknown),
            held: usd(sums.held),
            returned: usd(sums.returned),
            count: sums.count,
        }
    }
}

//! `bursar explain`: why an offer was taken, and why each other offer of the same 402 was not.

use std::fmt::Write;

use clap::Args;
use serde::Serialize;

use super::arguments::{not_found, parse_id};
use super::output::{print, print_json};
use super::{Exit, Failure, journal};
use bursar_core::challenge::Why;
use bursar_core::money::MicroUsd;
use bursar_core::plain::plain;
use bursar_core::policy::{NotTaken, RefusalCode};
use bursar_home::Home;
use bursar_ledger::entry::{NOT_RECORDED, Other};
use bursar_ledger::{Explained, PaymentId, PaymentRecord, State, read_explained};

#[derive(Args)]
pub(super) struct Explain {
    /// Payment id, as shown by `bursar payments list`
    id: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let rid = parse_id(&self.id)?;
        let (explained, exit) = journal::read(read_explained(home.root(), rid))?;
        let explained = explained.ok_or_else(|| not_found(rid))?;
        let explanation = Explanation::of(&explained);
        if self.json {
            print_json(&explanation)?;
        } else {
            print(format_args!("{}", explanation.text()))?;
        }
        Ok(exit)
    }
}

/// One object of `explain --json`; members in this order, amounts in dollars as text.
#[derive(Serialize)]
struct Explanation<'a> {
    id: PaymentId,
    state: State,
    merchant: &'a str,
    rail: &'a str,
    usd: &'a str,
    why: Choice,
    /// In the order of the 402.
    others: Vec<NotChosen<'a>>,
}

/// Why the offer was taken, judged by the offers beside it. The closest rival decides, hence the order of the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Choice {
    /// Others at the same price were allowed too.
    Preferred,
    /// Others were allowed, at higher prices.
    Cheapest,
    /// No other was both payable and allowed.
    OnlyAllowed,
    /// It was the only offer, or its ledger entry predates the recording of others.
    NoOthersRecorded,
}

#[derive(Serialize)]
struct NotChosen<'a> {
    at: &'a str,
    rail: Option<&'a str>,
    usd: Option<String>,
    why: &'a str,
    rule: Option<&'a str>,
    detail: String,
    #[serde(skip)]
    reason: Reason,
}

/// A recorded code, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    /// It was payable and allowed.
    Behind(NotTaken),
    Barred(RefusalCode),
    Unpayable(Why),
    /// The entry had no room for the offers from here on.
    NotRecorded,
    /// Written by a later version.
    Unknown,
}

impl<'a> Explanation<'a> {
    fn of(explained: &'a Explained) -> Self {
        let Explained { payment, others } = explained;
        let PaymentRecord {
            id,
            state,
            merchant,
            rail,
            usd,
            ..
        } = payment;
        let others: Vec<NotChosen<'a>> = others.iter().map(|other| NotChosen::of(other, rail)).collect();
        Self {
            id: *id,
            state: *state,
            merchant,
            rail,
            usd,
            why: Choice::among(&others),
            others,
        }
    }

    fn text(&self) -> String {
        let Self {
            id,
            state,
            merchant,
            rail,
            usd,
            why,
            others,
        } = self;
        let mut text = format!(
            "Payment {id} ({state}): {usd} USD to {} over {}",
            plain(merchant),
            plain(rail)
        );
        text += match why {
            Choice::Preferred => ", the first of the cheapest offers that the limits allow.\n",
            Choice::Cheapest => ", the cheapest offer that the limits allow.\n",
            Choice::OnlyAllowed => ", the only payable offer that the limits allow.\n",
            Choice::NoOthersRecorded => {
                ".\nNo other offers are recorded: the 402 had none, or an earlier version made the payment.\n"
            }
        };
        if others.is_empty() {
            return text;
        }
        text += "Not taken:\n";
        let usd = |other: &NotChosen<'_>| other.usd.as_ref().map_or("-".to_owned(), |usd| format!("{usd} USD"));
        let wide = |len: fn(&NotChosen<'_>) -> usize| others.iter().map(len).max().unwrap_or(0);
        let at_width = wide(|other| other.at.len());
        let rail_width = wide(|other| other.rail.map_or(1, str::len));
        let usd_width = others.iter().map(|other| usd(other).len()).max().unwrap_or(0);
        for other in others {
            let _ = writeln!(
                text,
                "  {:<at_width$}  {:<rail_width$}  {:>usd_width$}  {}",
                plain(other.at),
                plain(other.rail.unwrap_or("-")),
                usd(other),
                plain(&other.line()),
            );
        }
        text
    }
}

impl Choice {
    fn among(others: &[NotChosen<'_>]) -> Self {
        let against = |other: &NotChosen<'_>| match &other.reason {
            Reason::Behind(NotTaken::Dearer) => Self::Cheapest,
            Reason::Behind(_) => Self::Preferred,
            Reason::Barred(_) | Reason::Unpayable(_) | Reason::NotRecorded | Reason::Unknown => Self::OnlyAllowed,
        };
        others.iter().map(against).min().unwrap_or(Self::NoOthersRecorded)
    }
}

impl<'a> NotChosen<'a> {
    fn of(other: &'a Other, taken: &str) -> Self {
        let reason = Reason::read(&other.why);
        Self {
            at: &other.at,
            rail: other.rail.as_deref(),
            usd: other.usd_micros.map(|micros| MicroUsd::new(micros.0).to_string()),
            why: &other.why,
            rule: other.rule.as_deref(),
            detail: reason.detail(other, taken),
            reason,
        }
    }

    /// Includes the code if the table of codes says more about it.
    fn line(&self) -> String {
        match self.reason {
            Reason::Unpayable(_) | Reason::Unknown => format!("{}: {}", self.why, self.detail),
            Reason::Behind(_) | Reason::Barred(_) | Reason::NotRecorded => self.detail.clone(),
        }
    }
}

impl Reason {
    fn read(code: &str) -> Self {
        if let Some(behind) = NotTaken::ORDER.into_iter().find(|known| known.code() == code) {
            return Self::Behind(behind);
        }
        if code == NOT_RECORDED {
            return Self::NotRecorded;
        }
        let barred = RefusalCode::parse(code).map(Self::Barred);
        let unpayable = || Why::parse(code).map(Self::Unpayable);
        barred.or_else(unpayable).unwrap_or(Self::Unknown)
    }

    fn detail(&self, other: &Other, taken: &str) -> String {
        match self {
            Self::Behind(behind) => after(behind, other, taken),
            Self::Barred(code) => barred(*code, other.rule.as_deref().unwrap_or("a rule")),
            Self::Unpayable(why) => why.to_string(),
            Self::NotRecorded => "not recorded one by one: the ledger entry had no room for more offers".to_owned(),
            Self::Unknown => "recorded by a newer version of bursar".to_owned(),
        }
    }
}

fn after(behind: &NotTaken, other: &Other, taken: &str) -> String {
    match behind {
        NotTaken::Upfront => {
            "same price; its seller charges before serving, the chosen offer's seller afterwards".to_owned()
        }
        NotTaken::RailOrder => {
            let rail = other.rail.as_deref().unwrap_or("its rail");
            format!("same price; {taken} comes before {rail} in `rails`")
        }
        NotTaken::Later => "same price over the same rail; it comes later in the 402".to_owned(),
        NotTaken::Dearer => "more expensive".to_owned(),
        NotTaken::Barred { .. } => behind.code().to_owned(),
    }
}

fn barred(code: RefusalCode, rule: &str) -> String {
    let what = match code {
        RefusalCode::OverLimit => return format!("over {rule} in limits.toml"),
        RefusalCode::ApprovalUnavailable => {
            return format!("over {rule} in limits.toml, and no approver was available");
        }
        RefusalCode::NoRate => return format!("no price in US dollars: limits.toml had no valid {rule}"),
        RefusalCode::PayeeNotAllowed => "this payee",
        RefusalCode::NetworkNotAllowed => "this network",
        RefusalCode::AssetNotAllowed => "this asset",
        RefusalCode::RailNotAllowed => "this rail",
        // These refuse the whole purchase, not a single offer.
        RefusalCode::MerchantNotAllowed => "this merchant",
        RefusalCode::NoBudget | RefusalCode::Paused => "any payment",
    };
    format!("{rule} in limits.toml did not allow {what}")
}

#[cfg(test)]
mod tests;

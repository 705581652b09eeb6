//! `bursar spend`: what was spent on whom, added up from the journal.

use clap::{ArgGroup, Args};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value};

use super::dates::has_form;
use super::output::{note, print_exact, print_json};
use super::reach::{Place, Reach};
use super::table::{Colour, Look, Side, columns, places};
use super::{Exit, Failure, journal};
use crate::admin::{self, AdminError, Show, Unspent};
use crate::config::Config;
use crate::view::{SpendAsked, SpendSums, SpendView};
use bursar_core::assets::Asset;
use bursar_core::money::MicroUsd;
use bursar_core::plain::plain;
use bursar_home::Home;

/// The widest bar.
const BAR: usize = 24;
/// A narrower one says nothing.
const LEAST_BAR: usize = 8;

#[derive(Args)]
#[command(
    group(ArgGroup::new("form")),
    after_help = "\
settled: paid. outstanding: signed, and not known to be paid. held: set aside while a person decides. returned: was counted and came
back. A payment belongs to the day it was charged at; what comes back leaves that day. Days are those of limits.toml's time zone.

Exit codes: 0 shown; 1 the journal is damaged; 2 usage, or a mistake in limits.toml; 3 shown, but the journal could not be compared
with what was signed; 5 no server at --socket."
)]
pub(super) struct Spend {
    #[command(flatten)]
    reach: Reach,
    /// What to add up by: agent, group, merchant, payee, rail, asset, day, month; several with commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "agent")]
    by: Vec<String>,
    /// Only what was charged since then: a day (2026-11-01), a time (2026-11-01T08:00:00Z), or 7d, 12h ago
    #[arg(long, value_name = "TIME", value_parser = has_form)]
    since: Option<String>,
    /// Only what was charged until then; a day is meant to its end
    #[arg(long, value_name = "TIME", value_parser = has_form)]
    until: Option<String>,
    /// Only payments to this host; `*.example.com` for all hosts below a name
    #[arg(long, value_name = "PATTERN")]
    merchant: Option<String>,
    /// Only this agent's payments
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Comma-separated values with a header, for a spreadsheet
    #[arg(long, group = "form")]
    csv: bool,
    /// One JSON object per line, and a last one with the totals
    #[arg(long, group = "form")]
    json: bool,
}

impl Spend {
    pub(super) async fn run(self, home: Result<Home, Failure>) -> Result<Exit, Failure> {
        let place = self.reach.place(home)?;
        let asked = SpendAsked {
            by: self.by.clone(),
            since: self.since.clone(),
            until: self.until.clone(),
            merchant: self.merchant.clone(),
            agent: self.agent.clone(),
        };
        let view = match &place {
            Place::Home(home) => here(home, &place, &asked).await?,
            Place::Socket(door) => admin::spend(door, &asked).await.map_err(|error| match error {
                Unspent::Admin(AdminError::Refused(why)) => Failure::usage(why),
                Unspent::Admin(error) => place.failed(error),
                Unspent::Damaged(why) => Failure::negative(why),
            })?,
        };
        let exit = match &view.unverified {
            None => Exit::Done,
            Some(why) => journal::unverified(why),
        };
        notes(&view);
        if self.csv {
            print_exact(&csv(&view))?;
        } else if self.json {
            json(&view)?;
        } else {
            print_exact(&text(&view, Look::of_stdout()))?;
        }
        Ok(exit)
    }
}

/// Adds up the journal in this process, by the zone of the limits in force.
async fn here(home: &Home, place: &Place, asked: &SpendAsked) -> Result<SpendView, Failure> {
    let account = Show {
        name: Some("account".to_owned()),
    };
    let zone = match admin::show(&place.door(), &account).await {
        Ok(view) => TimeZone::get(&view.zone).ok(),
        // Without a server, or one that does not answer this user, by the file.
        Err(_) => None,
    };
    let zone = match zone {
        Some(zone) => zone,
        None => {
            let config = Config::load(home.root()).map_err(|error| Failure::usage(error.to_string()))?;
            let limits = config
                .limits
                .load()
                .map_err(|error| Failure::usage(error.to_string()))?;
            limits.calendar.zone().clone()
        }
    };
    let question = asked.question(&zone, Timestamp::now()).map_err(Failure::usage)?;
    SpendView::read(home, asked, &question).map_err(journal::damaged)
}

fn notes(view: &SpendView) {
    if let Some(first) = view.begins_at {
        note!(
            "bursar: the journal begins with entry {first}: older ones were moved away with `bursar retain`, and what they \
             record is not in these sums."
        );
    }
    if view.is_shared {
        note!(
            "bursar: these sums are of this proxy's own log; the other proxies of the shared ledger have theirs in their own \
             data directories."
        );
    }
}

/// The headings of the figures, and the figures, in one order.
const FIGURES: [&str; 6] = ["settled", "outstanding", "armed", "unknown", "held", "returned"];

fn figures(sums: &SpendSums) -> [&String; 6] {
    [
        &sums.settled,
        &sums.outstanding,
        &sums.armed,
        &sums.unknown,
        &sums.held,
        &sums.returned,
    ]
}

fn has_days(view: &SpendView) -> bool {
    view.by.iter().any(|by| by == "day" || by == "month")
}

fn json(view: &SpendView) -> Result<(), Failure> {
    let figured = |sums: &SpendSums, line: &mut Map<String, Value>| {
        for (name, figure) in FIGURES.iter().zip(figures(sums)) {
            line.insert((*name).to_owned(), Value::from(figure.as_str()));
        }
        line.insert("count".to_owned(), Value::from(sums.count));
    };
    for row in &view.rows {
        let mut line = Map::new();
        line.insert("kind".to_owned(), Value::from("row"));
        for (by, key) in view.by.iter().zip(&row.key) {
            // An agent without a group.
            let key = (!key.is_empty()).then(|| key.clone());
            line.insert(by.clone(), Value::from(key));
        }
        if has_days(view) {
            line.insert("zone".to_owned(), Value::from(view.zone.as_str()));
        }
        figured(&row.sums, &mut line);
        print_json(&line)?;
    }
    let summary = Summary {
        kind: "summary",
        by: &view.by,
        zone: &view.zone,
        since: view.since,
        until: view.until,
        rows: view.rows.len(),
        sums: &view.total,
        begins_at: view.begins_at,
        unverified: view.unverified.as_deref(),
        is_shared: view.is_shared,
    };
    print_json(&summary)
}

/// The last line of `--json`.
#[derive(Serialize)]
struct Summary<'a> {
    kind: &'static str,
    by: &'a [String],
    zone: &'a str,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    rows: usize,
    #[serde(flatten)]
    sums: &'a SpendSums,
    begins_at: Option<u64>,
    unverified: Option<&'a str>,
    is_shared: bool,
}

/// RFC 4180. A spreadsheet must not take a text for a formula; figures are left as they are (R263).
fn csv(view: &SpendView) -> String {
    let mut heads: Vec<String> = view.by.iter().map(|by| text_cell(by)).collect();
    if has_days(view) {
        heads.push("zone".to_owned());
    }
    heads.extend(FIGURES.iter().map(|name| format!("{name}_usd")));
    heads.push("count".to_owned());
    let mut out = heads.join(",") + "\r\n";
    for row in &view.rows {
        let mut cells: Vec<String> = row.key.iter().map(|key| text_cell(key)).collect();
        if has_days(view) {
            cells.push(text_cell(&view.zone));
        }
        cells.extend(figures(&row.sums).into_iter().cloned());
        cells.push(row.sums.count.to_string());
        out += &(cells.join(",") + "\r\n");
    }
    out
}

fn text_cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let shown = format!("{}{}", if formula { "'" } else { "" }, plain(text));
    match shown.contains(['"', ',', '\r', '\n']) {
        true => format!("\"{}\"", shown.replace('"', "\"\"")),
        false => shown,
    }
}

fn text(view: &SpendView, look: Look) -> String {
    let zone = TimeZone::get(&view.zone).unwrap_or(TimeZone::UTC);
    let local = |at: Timestamp| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string();
    let span = match (view.since.map(local), view.until.map(local)) {
        (None, None) => "all that the journal holds".to_owned(),
        (Some(since), None) => format!("since {since}"),
        (None, Some(until)) => format!("before {until}"),
        (Some(since), Some(until)) => format!("from {since} to {until}"),
    };
    let mut out = format!("US dollars, {span}, {}\n", plain(&view.zone));
    if view.rows.is_empty() {
        return out + "no payments\n";
    }
    let mut heads = view.by.clone();
    heads.extend(["settled", "outstanding", "held", "returned", "count"].map(str::to_owned));
    let row = |keys: Vec<String>, sums: &SpendSums| {
        let mut row = keys;
        row.extend([&sums.settled, &sums.outstanding, &sums.held, &sums.returned].map(Clone::clone));
        row.push(sums.count.to_string());
        row
    };
    let mut rows = vec![heads];
    rows.extend(view.rows.iter().map(|spent| {
        let keys = view.by.iter().zip(&spent.key).map(|(by, key)| shown(by, key)).collect();
        row(keys, &spent.sums)
    }));
    let mut total = vec![String::new(); view.by.len()];
    if let Some(first) = total.first_mut() {
        *first = "total".to_owned();
    }
    rows.push(row(total, &view.total));
    let sides: Vec<Side> = view.by.iter().map(|_| Side::Left).chain([Side::Right; 5]).collect();
    let lines = columns(&rows, &sides);
    let bars = bars(
        view,
        lines.iter().map(|line| line.chars().count()).max().unwrap_or(0),
        look,
    );
    for (line, bar) in lines.iter().zip(bars) {
        out += &format!("{}{bar}\n", plain(line));
    }
    out
}

/// A bar for each line, on a terminal that is wide enough: what counts, compared with the row that counts most.
fn bars(view: &SpendView, longest: usize, look: Look) -> Vec<String> {
    let none = || vec![String::new(); view.rows.len() + 2];
    let room = look.width.saturating_sub(longest + 2).min(BAR);
    if !look.is_terminal || room < LEAST_BAR {
        return none();
    }
    let parts = |sums: &SpendSums| -> Option<[u128; 3]> {
        let micros = |figure: &str| MicroUsd::parse(figure).ok().map(MicroUsd::get);
        Some([micros(&sums.settled)?, micros(&sums.outstanding)?, micros(&sums.held)?])
    };
    let all: Option<Vec<[u128; 3]>> = view.rows.iter().map(|row| parts(&row.sums)).collect();
    let Some(all) = all else {
        return none();
    };
    let sum = |parts: &[u128; 3]| parts.iter().fold(0u128, |sum, part| sum.saturating_add(*part));
    let most = all.iter().map(sum).max().unwrap_or(0);
    let bar = |parts: &[u128; 3]| {
        let places = places(parts, most.max(1), room);
        let drawn = places
            .iter()
            .zip([("#", Colour::Settled), (":", Colour::Doubt), ("-", Colour::Held)]);
        let drawn = drawn.map(|(places, (sign, colour))| look.coloured(&sign.repeat(*places), colour));
        format!("  {}", drawn.collect::<String>())
    };
    // The heading and the totals have none.
    let mut bars = vec![String::new()];
    bars.extend(all.iter().map(bar));
    bars.push(String::new());
    bars
}

/// A key as people read it.
fn shown(by: &str, key: &str) -> String {
    match (by, key, Asset::parse(key)) {
        (_, "", _) => "-".to_owned(),
        ("asset", _, Some(asset)) => format!("{} on {}", asset.symbol(), asset.network()),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests;

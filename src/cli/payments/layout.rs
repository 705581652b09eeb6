//! How payments and refusals are shown to people: one line each where the terminal is wide enough, else two.

use bursar_core::plain::plain;
use bursar_ledger::{ANY_HOST, PaymentRecord, Refused, State};

use super::chosen::Row;
use crate::cli::table::{Colour, Look, Side, columns};
use crate::cli::zone::ShownZone;

/// With less room for a resource, lines are hard to read.
const NARROWEST_RESOURCE: usize = 24;

/// The columns before the resource and, last, the payment's id.
const SIDES: [Side; 7] = [
    Side::Left,
    Side::Left,
    Side::Right,
    Side::Left,
    Side::Left,
    Side::Left,
    Side::Left,
];
const STATE: usize = 1;
const RESOURCE: usize = 5;
const BETWEEN: usize = 2;

/// The rows below a line that names the zone; nothing if there are none.
pub(super) fn listed(rows: &[Row<'_>], zone: &ShownZone, look: Look) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let lines = match look.is_terminal {
        true => wide(rows, zone, look),
        false => None,
    };
    format!(
        "   Times are in {zone}.\n{}",
        lines.unwrap_or_else(|| narrow(rows, zone, look))
    )
}

/// `None` if the terminal has too little room.
fn wide(rows: &[Row<'_>], zone: &ShownZone, look: Look) -> Option<String> {
    let mut cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(zone).into()).collect();
    let wide = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let others: usize = (0..SIDES.len()).filter(|column| *column != RESOURCE).map(wide).sum();
    let room = look.width.checked_sub(others + BETWEEN * (SIDES.len() - 1))?;
    let wanted = wide(RESOURCE);
    if room < wanted.min(NARROWEST_RESOURCE) {
        return None;
    }
    for row in &mut cells {
        row[RESOURCE] = shortened(&row[RESOURCE], room);
    }
    let states_begin = cells.iter().map(|row| row[0].chars().count()).max().unwrap_or(0) + BETWEEN;
    let lines = columns(&cells, &SIDES);
    let coloured = lines.iter().zip(rows).zip(&cells).map(|((line, row), cells)| {
        let (before, rest) = line.split_at_checked(states_begin)?;
        let (state, after) = rest.split_at_checked(cells[STATE].len())?;
        Some(format!("{before}{}{after}\n", row.coloured(state, look)))
    });
    coloured.collect()
}

/// The form that does not depend on a terminal: the id stands below its payment.
fn narrow(rows: &[Row<'_>], zone: &ShownZone, look: Look) -> String {
    let line = |row: &Row<'_>| {
        let [at, state, amount, symbol, agent, resource, id] = row.cells(zone);
        let state = row.coloured(&format!("{state:<8}"), look);
        let id = match id.is_empty() {
            true => id,
            false => format!("   {id}\n"),
        };
        format!("   {at}  {state} {amount:>10} {symbol:<5} {agent:<12} {resource}\n{id}")
    };
    rows.iter().map(line).collect()
}

/// Its beginning says more than its end.
fn shortened(text: &str, room: usize) -> String {
    match text.chars().count() <= room {
        true => text.to_owned(),
        false => text.chars().take(room.saturating_sub(1)).chain(['…']).collect(),
    }
}

impl Row<'_> {
    /// Time, state, amount, symbol, agent, resource and id, each safe for a terminal.
    fn cells(&self, zone: &ShownZone) -> [String; SIDES.len()] {
        let (at, agent) = (zone.time(self.at()), plain(self.agent()).into_owned());
        match self {
            Self::Payment(payment) => {
                let (symbol, resource) = (plain(&payment.symbol), plain(&payment.resource));
                [
                    at,
                    payment.state.to_string(),
                    payment.amount_decimal.clone(),
                    symbol.into_owned(),
                    agent,
                    resource.into_owned(),
                    payment.id.to_string(),
                ]
            }
            Self::Refusal(refusal) => [
                at,
                "refused".to_owned(),
                refusal.usd.clone().unwrap_or_else(|| "-".to_owned()),
                "USD".to_owned(),
                agent,
                refused_at(refusal),
                String::new(),
            ],
        }
    }

    fn coloured(&self, text: &str, look: Look) -> String {
        match self.colour() {
            Some(colour) => look.coloured(text, colour),
            None => text.to_owned(),
        }
    }

    const fn colour(&self) -> Option<Colour> {
        match self {
            Self::Refusal(_) => Some(Colour::Warning),
            Self::Payment(PaymentRecord { state, .. }) => match state {
                State::Settled => Some(Colour::Settled),
                State::Unknown => Some(Colour::Doubt),
                State::Held | State::Armed => Some(Colour::Held),
                State::Released | State::Expired => None,
            },
        }
    }
}

/// The host, the rule, and how often.
fn refused_at(refusal: &Refused) -> String {
    let host = match refusal.merchant.as_str() {
        ANY_HOST => "several hosts".into(),
        host => plain(host),
    };
    let times = match refusal.count {
        0 | 1 => String::new(),
        count => format!(" ({count} times)"),
    };
    format!("{host} by {}{times}", plain(&refusal.rule))
}

#[cfg(test)]
mod tests;

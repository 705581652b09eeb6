//! What new charges would add up with, for tools that ask and book nothing.

use std::collections::BTreeSet;
use std::path::Path;

use super::book::Book;
use super::compared::Compared;
use super::counters::Counter;
use super::entry::Entry;
use super::pauses::Pause;
use super::read::{ReadError, read_entries};
use super::spending::Spending;
use super::{Ledger, LedgerError};
use bursar_core::policy::{Charge, Counted};

/// What caps of some scopes are compared with, and the pauses in force, as one moment saw them.
#[derive(Debug, Default)]
pub struct Standing {
    spending: Spending,
    pauses: Vec<Pause>,
}

impl Standing {
    /// What a ledger counts at this moment for the charges' scopes, in one step of its writer.
    pub async fn ask(ledger: &dyn Ledger, charges: &[Charge]) -> Result<Self, LedgerError> {
        let scopes = scopes(charges);
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let spending = ledger.spending(&scopes).await?;
        let pauses = ledger.pauses().into_iter().map(|(pause, _)| pause).collect();
        Ok(Self { spending, pauses })
    }

    /// The pause that stops this agent's payments to this host.
    pub fn pause_on(&self, agent: &str, group: Option<&str>, host: &str) -> Option<&Pause> {
        self.pauses.iter().find(|pause| pause.scope.covers(agent, group, host))
    }

    /// What the charge would be added to. `None`: its window is over, so that nothing can be added.
    pub fn counted(&self, charge: &Charge) -> Option<Counted> {
        let mut charges = [charge.clone()];
        self.spending.counters.begin(&mut charges);
        let [charge] = charges;
        if self.spending.is_closed(&charge) {
            return None;
        }
        let Counter { settled, open } = self.spending.counted(&charge, &[])?;
        Some(Counted { settled, open })
    }
}

/// Also the former names of groups.
fn scopes(charges: &[Charge]) -> Vec<String> {
    let scopes = charges
        .iter()
        .flat_map(|charge| std::iter::once(&charge.scope).chain(&charge.was));
    let scopes: BTreeSet<String> = scopes.map(ToString::to_string).collect();
    scopes.into_iter().collect()
}

/// What the charges would be added to, replayed from the journal in `dir` (the data directory) without a lock.
pub fn read_standing(dir: &Path, charges: &[Charge]) -> Result<Compared<Standing>, ReadError> {
    let visit = |book: &mut Book, line: &super::scan::Line<'_>| {
        let entry = Entry::headed(&line.head, line.bytes).map_err(|error| error.to_string())?;
        book.apply(&entry).map_err(|illegal| illegal.to_string())?;
        Ok(())
    };
    let read = read_entries(dir, |book| book, visit)?;
    Ok(read.map(|book| {
        let spending = book.spending().of_scopes(&scopes(charges));
        let pauses = book.pauses().all().cloned().collect();
        Standing { spending, pauses }
    }))
}

#[cfg(test)]
mod tests {
    use bursar_core::policy::{Excess, Unit, Window, fits};

    use super::*;
    use crate::decisions::Usage;

    fn standing(usage: Vec<Usage>) -> Standing {
        Standing {
            spending: Spending::of_counters(usage),
            pauses: Vec::new(),
        }
    }

    fn charge(window: Window, start: &str, cap: u128) -> Charge {
        Charge {
            scope: "agent:a".into(),
            window,
            unit: Unit::MicroUsd,
            start: start.into(),
            ends: None,
            amount: 10,
            cap,
            was: None,
            rule: "agents.a.day".into(),
            excess: Excess::Denied,
        }
    }

    fn usage(window: &str, start: &str, settled: u128, open: u128) -> Usage {
        Usage {
            scope: "agent:a".to_owned(),
            window: window.to_owned(),
            start: start.to_owned(),
            settled,
            open,
        }
    }

    #[test]
    fn a_charge_meets_what_its_own_window_counts() {
        let standing = standing(vec![usage("day", "today", 60, 20), usage("day", "yesterday", 500, 0)]);
        for (cap, fit) in [(90, true), (89, false)] {
            let today = charge(Window::Day, "today", cap);
            let counted = standing.counted(&today).unwrap();
            assert_eq!(counted, Counted { settled: 60, open: 20 });
            assert_eq!(fits(&today, counted), fit);
            // As the ledger itself decides.
            assert_eq!(standing.spending.fit(&[today], &[]).is_ok(), fit);
        }
        let other = charge(Window::Month, "today", 10);
        assert_eq!(standing.counted(&other), Some(Counted::default()));
    }

    #[test]
    fn a_first_payment_to_a_payee_needs_an_earlier_one_that_was_settled() {
        let payee = charge(Window::Payee, "0xa1", u128::MAX);
        let name = payee.window_name().into_owned();
        for (settled, open, fit) in [(1, 0, true), (0, 1, false)] {
            let standing = standing(vec![usage(&name, "0xa1", settled, open)]);
            assert_eq!(fits(&payee, standing.counted(&payee).unwrap()), fit);
            assert_eq!(standing.spending.fit(std::slice::from_ref(&payee), &[]).is_ok(), fit);
        }
    }
}

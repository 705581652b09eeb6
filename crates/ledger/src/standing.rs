//! What new charges would add up with, for tools that ask and book nothing.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;

use super::book::Book;
use super::compared::Compared;
use super::counters::Counter;
use super::entry::{Entry, WindowCharge};
use super::model::State;
use super::pauses::Pause;
use super::payment::Payment;
use super::read::{ReadError, read_entries};
use super::spending::Spending;
use super::{Ledger, LedgerError};
use bursar_core::policy::{Charge, Counted, Unit, Window};

/// What an engine reads in one step: what caps of some scopes are compared with, and the payments that are open in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub spending: Spending,
    pub open: Vec<Payment>,
    /// Number of the newest entry; `None` if there is none, or if several logs have entries.
    pub as_of: Option<u64>,
}

impl Seen {
    pub(crate) fn of<'p>(
        spending: Spending,
        open: impl Iterator<Item = &'p Payment>,
        scopes: &[String],
        as_of: Option<u64>,
    ) -> Self {
        let is_in = |payment: &&Payment| {
            let mut charges = payment.windows().iter();
            charges.any(|charge| scopes.iter().any(|scope| scope == charge.scope()))
                || scopes.iter().any(|scope| counts_for(payment, scope))
        };
        Self {
            spending,
            open: open.filter(is_in).cloned().collect(),
            as_of,
        }
    }
}

/// Whether a payment counts for a scope, whatever limits its charges name.
fn counts_for(payment: &Payment, scope: &str) -> bool {
    let reserved = &payment.reserved;
    match scope.split_once(':') {
        None => scope == "account",
        Some(("agent", name)) => reserved.agent == name,
        Some(("group", name)) => reserved.group.as_deref() == Some(name),
        Some(_) => false,
    }
}

/// What of a counter's `open` is held, armed or unknown, in its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    pub held: u128,
    pub armed: u128,
    pub unknown: u128,
}

impl Open {
    fn sum(self) -> Option<u128> {
        self.held.checked_add(self.armed)?.checked_add(self.unknown)
    }
}

/// What caps of some scopes are compared with, and the pauses in force, as one moment saw them.
#[derive(Debug, Default)]
pub struct Standing {
    spending: Spending,
    open: Vec<Payment>,
    pauses: Vec<Pause>,
    as_of: Option<u64>,
}

impl Standing {
    /// What a ledger counts at this moment for the charges' scopes, in one step of its writer.
    pub async fn ask(ledger: &dyn Ledger, charges: &[Charge]) -> Result<Self, LedgerError> {
        let scopes = scopes(charges);
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let Seen { spending, open, as_of } = ledger.standing(&scopes).await?;
        let pauses = ledger.pauses().into_iter().map(|(pause, _)| pause).collect();
        Ok(Self {
            spending,
            open,
            pauses,
            as_of,
        })
    }

    /// The pause that stops this agent's payments to this host.
    pub fn pause_on(&self, agent: &str, group: Option<&str>, host: &str) -> Option<&Pause> {
        self.pauses.iter().find(|pause| pause.scope.covers(agent, group, host))
    }

    /// Number of the newest entry that it saw; `None` if there is none, or if several logs have entries.
    pub fn as_of(&self) -> Option<u64> {
        self.as_of
    }

    pub fn pauses(&self) -> &[Pause] {
        &self.pauses
    }

    /// What of [`Counted::open`] is held, armed and unknown, by the states of the payments that are open there. `None`: it
    /// does not add up.
    pub fn open(&self, charge: &Charge) -> Option<Open> {
        let counted = self.counted(charge)?;
        let mut charges = [charge.clone()];
        self.spending.counters.begin(&mut charges);
        let [charge] = charges;
        // By the windows that were charged, or by the time for which a window is summed up, whatever charges named it.
        [Self::charged_by_name, Self::charged_in_time]
            .into_iter()
            .filter_map(|charged| self.open_by(|payment| charged(payment, &charge)))
            .find(|open| open.sum() == Some(counted.open))
    }

    fn open_by(&self, charged: impl Fn(&Payment) -> Option<u128>) -> Option<Open> {
        let mut open = Open::default();
        for payment in &self.open {
            let part = match payment.state {
                State::Held => &mut open.held,
                State::Armed => &mut open.armed,
                State::Unknown => &mut open.unknown,
                State::Settled | State::Released | State::Expired => continue,
            };
            *part = part.checked_add(charged(payment)?)?;
        }
        Some(open)
    }

    fn charged_by_name(payment: &Payment, charge: &Charge) -> Option<u128> {
        let window = charge.window_name();
        let counts = |start: &str| match charge.window {
            Window::Rolling(rolling) => *start >= *rolling.oldest(&charge.start),
            _ => *start == *charge.start,
        };
        let booked = payment
            .windows()
            .iter()
            .filter(|booked| booked.scope() == &*charge.scope && booked.window() == window && counts(booked.start()));
        booked.map(WindowCharge::amount).try_fold(0, u128::checked_add)
    }

    /// Held money counts in the windows that its charges name.
    fn charged_in_time(payment: &Payment, charge: &Charge) -> Option<u128> {
        if payment.state == State::Held {
            return Self::charged_by_name(payment, charge);
        }
        let second = |start: &str| {
            start
                .parse()
                .ok()
                .and_then(|second| Timestamp::from_second(second).ok())
        };
        let from = match charge.window {
            Window::Rolling(rolling) => second(&rolling.oldest(&charge.start)),
            _ => charge.start.parse().ok(),
        };
        let at = payment.charged_at().timestamp();
        let is_in = from.is_none_or(|from: Timestamp| at >= from)
            && charge
                .ends
                .filter(|_| charge.window.is_calendar())
                .is_none_or(|ends| at < ends);
        let former = charge.was.as_ref().is_some_and(|was| counts_for(payment, was));
        Some(
            match (is_in && (former || counts_for(payment, &charge.scope)), charge.unit) {
                (false, _) => 0,
                (true, Unit::MicroUsd) => payment.reserved.usd_micros.0,
                (true, Unit::Payments) => 1,
            },
        )
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
    let visit = |(book, as_of): &mut (Book, Option<u64>), line: &super::scan::Line<'_>| {
        let entry = Entry::headed(&line.head, line.bytes).map_err(|error| error.to_string())?;
        book.apply(&entry).map_err(|illegal| illegal.to_string())?;
        *as_of = Some(entry.seq);
        Ok(())
    };
    let read = read_entries(dir, |book| (book, None), visit)?;
    Ok(read.map(|(book, as_of)| Standing {
        spending: book.spending().of_scopes(&scopes(charges)),
        open: book.open_payments().cloned().collect(),
        pauses: book.pauses().all().cloned().collect(),
        as_of,
    }))
}

#[cfg(test)]
mod tests {
    use bursar_core::policy::{Excess, Unit, Window, fits};

    use super::*;
    use crate::counters::Usage;

    fn standing(usage: Vec<Usage>) -> Standing {
        Standing {
            spending: Spending::of_counters(usage),
            ..Standing::default()
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

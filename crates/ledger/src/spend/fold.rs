//! The fold itself: one entry after another, whatever the journal's length.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::{By, SpendQuestion, SpendRow, Spending};
use crate::book::{Book, CONFIRMABLE};
use crate::entry::{Body, Entry, Reserved};
use crate::model::{Source, State};
use crate::payment::part;
use bursar_core::payment_id::PaymentId;

/// Sums of some payments, in micro-USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub settled: u128,
    /// Signed, and the outcome is unknown.
    pub unknown: u128,
    /// Signed or about to be, and the outcome is being waited for.
    pub armed: u128,
    /// Set aside while a person decides.
    pub held: u128,
    /// Was charged and counts no more.
    pub returned: u128,
    /// Payments that count.
    pub count: u64,
}

impl Sums {
    /// Armed and unknown: signed, and not known to be settled.
    pub const fn outstanding(&self) -> u128 {
        // Both are part of one sum that was checked.
        self.unknown.saturating_add(self.armed)
    }

    fn add(&mut self, other: &Self) -> Option<()> {
        let sum = Self {
            settled: self.settled.checked_add(other.settled)?,
            unknown: self.unknown.checked_add(other.unknown)?,
            armed: self.armed.checked_add(other.armed)?,
            held: self.held.checked_add(other.held)?,
            returned: self.returned.checked_add(other.returned)?,
            count: self.count.checked_add(other.count)?,
        };
        sum.unknown.checked_add(sum.armed)?;
        *self = sum;
        Some(())
    }
}

pub(super) struct Fold<'q> {
    question: &'q SpendQuestion,
    open: HashMap<PaymentId, Open>,
    cells: Cells,
    /// Settled on the merchant's receipt: the chain may still prove that less was taken.
    unconfirmed: HashMap<PaymentId, Settled>,
    /// The same, oldest first.
    waiting: VecDeque<(Timestamp, PaymentId)>,
}

/// A payment that has not ended.
struct Open {
    reserved: Arc<Reserved>,
    charged_at: Timestamp,
    state: State,
}

struct Settled {
    cell: usize,
    usd: u128,
    signed: u128,
}

impl<'q> Fold<'q> {
    /// `book` is what was open where the journal begins.
    pub(super) fn new(question: &'q SpendQuestion, book: &Book) -> Self {
        let mut fold = Self {
            question,
            open: HashMap::new(),
            cells: Cells::default(),
            unconfirmed: HashMap::new(),
            waiting: VecDeque::new(),
        };
        for payment in book.open_payments() {
            let (reserved, state) = (payment.reserved.clone(), payment.state);
            fold.begin(&reserved, payment.created_at.timestamp(), state);
        }
        fold
    }

    /// On an error the journal is damaged at this entry.
    pub(super) fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        let now = entry.ts.timestamp();
        let fits = match &entry.body {
            Body::Reserved(reserved) => {
                let state = match reserved.arm {
                    Some(_) => State::Armed,
                    None => State::Held,
                };
                self.begin(reserved, now, state);
                Some(())
            }
            Body::Armed(armed) => {
                if let Some(open) = self.open.get_mut(&armed.rid) {
                    open.state = State::Armed;
                    open.charged_at = now;
                }
                Some(())
            }
            Body::Unknown(unknown) => {
                if let Some(open) = self.open.get_mut(&unknown.rid) {
                    open.state = State::Unknown;
                }
                Some(())
            }
            Body::Settled(settled) => {
                let taken = settled.taken.map(|taken| taken.0);
                self.settle(settled.rid, taken, settled.by, now)
            }
            Body::Released(released) => self.give_back(released.rid),
            Body::Expired(expired) => self.give_back(expired.rid),
            Body::Confirmed(confirmed) => self.confirm(confirmed.rid, confirmed.taken.map(|taken| taken.0)),
            Body::Adopted(adopted) => {
                let payment = &adopted.payment;
                self.begin(&payment.reserved, payment.created_at.timestamp(), payment.state);
                Some(())
            }
            // The log of the proxy that took it over has the rest.
            Body::Yielded(yielded) => {
                self.open.remove(&yielded.rid);
                Some(())
            }
            _ => Some(()),
        };
        fits.ok_or_else(|| "the sums of payments do not fit 128 bits, or more came back than was charged".to_owned())
    }

    fn begin(&mut self, reserved: &Arc<Reserved>, at: Timestamp, state: State) {
        if self.is_asked_about(reserved) {
            let open = Open {
                reserved: reserved.clone(),
                charged_at: at,
                state,
            };
            self.open.insert(reserved.rid, open);
        }
    }

    fn is_asked_about(&self, reserved: &Reserved) -> bool {
        let SpendQuestion { agent, merchant, .. } = self.question;
        agent.as_ref().is_none_or(|agent| reserved.agent == *agent)
            && merchant.as_ref().is_none_or(|pattern| pattern.matches(&reserved.host))
    }

    fn settle(&mut self, rid: PaymentId, taken: Option<u128>, by: Source, now: Timestamp) -> Option<()> {
        let Some(open) = self.open.remove(&rid) else {
            return Some(());
        };
        let Some(cell) = self.cells.of(&open, self.question) else {
            return Some(());
        };
        let (usd, signed) = (open.reserved.usd_micros.0, open.reserved.amount.0);
        let stays = stays(usd, taken, signed)?;
        self.cells.sums.get_mut(cell)?.add(&Sums {
            settled: stays,
            returned: usd.checked_sub(stays)?,
            count: 1,
            ..Sums::default()
        })?;
        if by == Source::Merchant {
            self.unconfirmed.insert(rid, Settled { cell, usd, signed });
            self.waiting.push_back((now, rid));
            self.forget(now);
        }
        Some(())
    }

    /// Those for which the ledger takes no confirmation any more.
    fn forget(&mut self, now: Timestamp) {
        // The ledger counts from the reservation, which is earlier.
        let longest = CONFIRMABLE.saturating_add(SignedDuration::from_hours(1));
        while let Some(&(at, rid)) = self.waiting.front()
            && now.duration_since(at) > longest
        {
            self.waiting.pop_front();
            self.unconfirmed.remove(&rid);
        }
    }

    fn confirm(&mut self, rid: PaymentId, taken: Option<u128>) -> Option<()> {
        let Some(Settled { cell, usd, signed }) = self.unconfirmed.remove(&rid) else {
            return Some(());
        };
        let back = usd.checked_sub(stays(usd, taken, signed)?)?;
        let sums = self.cells.sums.get_mut(cell)?;
        sums.settled = sums.settled.checked_sub(back)?;
        sums.returned = sums.returned.checked_add(back)?;
        Some(())
    }

    fn give_back(&mut self, rid: PaymentId) -> Option<()> {
        let Some(open) = self.open.remove(&rid) else {
            return Some(());
        };
        let Some(cell) = self.cells.of(&open, self.question) else {
            return Some(());
        };
        self.cells.sums.get_mut(cell)?.add(&Sums {
            returned: open.reserved.usd_micros.0,
            ..Sums::default()
        })
    }

    /// What is still open counts as it is.
    pub(super) fn end(mut self) -> Result<Spending, String> {
        let overflow = || "the sums of payments do not fit 128 bits".to_owned();
        for open in std::mem::take(&mut self.open).values() {
            let Some(cell) = self.cells.of(open, self.question) else {
                continue;
            };
            let usd = open.reserved.usd_micros.0;
            let mut more = Sums {
                count: 1,
                ..Sums::default()
            };
            match open.state {
                State::Held => more.held = usd,
                State::Armed => more.armed = usd,
                _ => more.unknown = usd,
            }
            let sums = self.cells.sums.get_mut(cell).ok_or_else(overflow)?;
            sums.add(&more).ok_or_else(overflow)?;
        }
        let mut total = Sums::default();
        for sums in &self.cells.sums {
            total.add(sums).ok_or_else(overflow)?;
        }
        Ok(Spending {
            rows: self.cells.rows(self.question.by.len()),
            total,
            begins_at: None,
        })
    }
}

/// What stays counted of a charge if `taken` of the `signed` atoms were taken.
fn stays(usd: u128, taken: Option<u128>, signed: u128) -> Option<u128> {
    match taken {
        None => Some(usd),
        Some(taken) => (taken <= signed).then(|| part(usd, taken, signed)),
    }
}

/// The sums, by numbers that stand for the texts of their keys: the same few texts come a million times.
#[derive(Default)]
struct Cells {
    numbers: HashMap<String, u32>,
    texts: Vec<String>,
    places: HashMap<Key, usize>,
    keys: Vec<Key>,
    sums: Vec<Sums>,
    /// A day, and the second in which it begins and ends, because most payments are of the same day as the one before.
    day: Option<(i64, i64, u32, u32)>,
}

/// One number for each of the question's `by`; unused ones are zero.
type Key = [u32; By::ALL.len()];

impl Cells {
    /// Where the payment is added. `None`: it was charged at another time than is asked about.
    fn of(&mut self, open: &Open, question: &SpendQuestion) -> Option<usize> {
        let at = open.charged_at;
        if question.since.is_some_and(|since| at < since) || question.until.is_some_and(|until| at >= until) {
            return None;
        }
        let mut key = Key::default();
        for (number, by) in key.iter_mut().zip(&question.by) {
            *number = match by {
                By::Agent => self.number(&open.reserved.agent),
                By::Group => self.number(open.reserved.group.as_deref().unwrap_or_default()),
                By::Merchant => self.number(&open.reserved.host),
                By::Payee => self.number(&open.reserved.payee.text()),
                By::Rail => self.number(&open.reserved.rail),
                By::Asset => self.number(&open.reserved.asset),
                By::Day => self.day(at, question).0,
                By::Month => self.day(at, question).1,
            };
        }
        if let Some(place) = self.places.get(&key) {
            return Some(*place);
        }
        let place = self.sums.len();
        self.sums.push(Sums::default());
        self.keys.push(key);
        self.places.insert(key, place);
        Some(place)
    }

    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        // Each has taken memory of its own, so they end long before the numbers do.
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }

    /// The numbers of the day and the month.
    fn day(&mut self, at: Timestamp, question: &SpendQuestion) -> (u32, u32) {
        let second = at.as_second();
        if let Some((begins, ends, day, month)) = self.day
            && (begins..ends).contains(&second)
        {
            return (day, month);
        }
        let date = at.to_zoned(question.zone.clone()).date();
        let (day, month) = (self.number(&date.to_string()), self.number(&month(date)));
        let midnight = |date: Date| {
            date.to_zoned(question.zone.clone())
                .map(|midnight| midnight.timestamp())
        };
        let ends = date.tomorrow().and_then(midnight);
        if let (Ok(begins), Ok(ends)) = (midnight(date), ends) {
            self.day = Some((begins.as_second(), ends.as_second(), day, month));
        }
        (day, month)
    }

    fn rows(self, columns: usize) -> Vec<SpendRow> {
        let text = |number: &u32| {
            let number = usize::try_from(*number).ok();
            let text = number.and_then(|number| self.texts.get(number));
            text.cloned().unwrap_or_default()
        };
        let row = |(key, sums): (&Key, &Sums)| SpendRow {
            key: key.iter().take(columns).map(text).collect(),
            sums: *sums,
        };
        let mut rows: Vec<SpendRow> = self.keys.iter().zip(&self.sums).map(row).collect();
        rows.sort_by(|one, other| one.key.cmp(&other.key));
        rows
    }
}

/// `2026-11`.
fn month(date: Date) -> String {
    format!("{:04}-{:02}", date.year(), date.month())
}

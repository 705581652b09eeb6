//! What the writer provides to the decisions that all engines share: its book, its journal, and the free space of its
//! disk.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Writer;
use crate::book::{Book, Effect};
use crate::decisions::{self, Decisions};
use crate::disclosure::Disclosure;
use crate::entry::Body;
use crate::model::{Alarm, ReserveError};
use crate::pauses::Pause;
use crate::signing::{Overdue, Signing};
use crate::text::Moment;
use crate::timekeeping::Timekeeper;

/// How long a measurement of the free space is used.
const SPACE_CHECKED_EVERY: Duration = Duration::from_secs(1);

impl Decisions for Writer {
    fn book(&self) -> &Book {
        &self.opening.book
    }

    fn time(&self) -> &Timekeeper {
        &self.time
    }

    fn pause_on(&self, agent: &str, group: Option<&str>, host: &str) -> Option<Pause> {
        self.shared.pauses().on(agent, group, host).cloned()
    }

    fn record(&mut self, now: Moment, body: Body) -> Result<u64, String> {
        if let Some(why) = self.opening.journal.failed() {
            return Err(why.to_owned());
        }
        let place = self.journal().next_place();
        let entry = self
            .journal()
            .push(now, body)
            .map_err(|error| format!("the entry cannot be written: {error}"))?;
        match self.opening.book.apply(&entry) {
            Ok(effect) => {
                self.time.saw(now.timestamp());
                self.effects.push(Effect { place, ..effect });
            }
            // The decision allowed it and the book rejects it: the book is wrong, so nothing may be built on it.
            Err(illegal) => return Err(self.journal().poison(illegal.to_string()).to_string()),
        }
        Ok(entry.seq)
    }

    fn disclose(&mut self, seq: u64, disclosures: Vec<Disclosure>) {
        self.disclosures
            .extend(disclosures.into_iter().map(|disclosure| (seq, disclosure)));
    }

    fn may_reserve(&mut self) -> Result<(), ReserveError> {
        if let Some(why) = self.opening.journal.failed() {
            return Err(ReserveError::Failed(why.to_owned()));
        }
        if let Some(ahead) = self.time.read().ahead {
            let ahead_s = decisions::seconds(ahead);
            return Err(ReserveError::ClockJumped { ahead_s });
        }
        if self.space.is_low() {
            self.raise(Alarm::LowSpace);
            return Err(ReserveError::LowSpace);
        }
        if let Some(Overdue { for_s, alarm }) = self.signing.as_ref().and_then(Signing::overdue) {
            self.raise(alarm);
            return Err(ReserveError::Unsigned { for_s });
        }
        Ok(())
    }

    fn raise(&self, alarm: Alarm) {
        (self.alarms)(alarm);
    }
}

/// Free space on the disk that holds the journal (R205).
pub(crate) struct Space {
    dir: PathBuf,
    min_free_bytes: u64,
    checked: Option<(Instant, bool)>,
}

impl Space {
    pub(crate) fn new(dir: PathBuf, min_free_bytes: u64) -> Self {
        Self {
            dir,
            min_free_bytes,
            checked: None,
        }
    }

    pub(crate) fn is_low(&mut self) -> bool {
        match self.checked {
            Some((at, is_low)) if at.elapsed() < SPACE_CHECKED_EVERY => is_low,
            _ => {
                let free = rustix::fs::statvfs(&self.dir).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
                // If the free space is unknown, reservations are refused.
                let is_low = free.map_or(true, |free| free < self.min_free_bytes);
                self.checked = Some((Instant::now(), is_low));
                is_low
            }
        }
    }
}

//! What a long start of the ledger shows on stderr: one line that is overwritten on a terminal, a line now and then
//! elsewhere, and nothing if it is over within a second.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bursar_core::clock::SharedClock;
use bursar_ledger::{Options, ShowStart, StartStep};

/// Nothing is shown before this.
const QUIET: Duration = Duration::from_secs(1);
const ON_TERMINAL: Duration = Duration::from_millis(200);
const IN_LOG: Duration = Duration::from_secs(5);

/// For a command that opens the ledger itself.
pub(super) fn options(clock: SharedClock) -> Options {
    Options {
        show_start: of_start(),
        ..Options::new(clock)
    }
}

/// Shows the start of a ledger on stderr.
pub(super) fn of_start() -> ShowStart {
    let shown = Mutex::new(Shown::new(std::io::stderr().is_terminal(), Instant::now()));
    Arc::new(move |step| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = shown.text(step, Instant::now()) {
            // Not worth failing for.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
    })
}

struct Shown {
    on_terminal: bool,
    began: Instant,
    next: Instant,
    was_shown: bool,
    mib: u64,
}

impl Shown {
    fn new(on_terminal: bool, now: Instant) -> Self {
        Self {
            on_terminal,
            began: now,
            next: now + QUIET,
            was_shown: false,
            mib: 0,
        }
    }

    /// What to write now.
    fn text(&mut self, step: StartStep, now: Instant) -> Option<String> {
        if let StartStep::Reading { of, .. } = step {
            self.mib = mib(of);
        }
        if step == StartStep::Ready {
            return self.was_shown.then(|| {
                let seconds = now.duration_since(self.began).as_secs();
                self.line(&format!(
                    "the ledger is open: {} MiB of journal in {seconds} s",
                    self.mib
                )) + self.end()
            });
        }
        if now < self.next {
            return None;
        }
        self.next = now + if self.on_terminal { ON_TERMINAL } else { IN_LOG };
        self.was_shown = true;
        Some(match step {
            StartStep::Reading { read, of } => {
                let percent = (read * 100).checked_div(of).unwrap_or(100);
                self.line(&format!(
                    "reading the journal: {} of {} MiB, {percent} %",
                    mib(read),
                    mib(of)
                ))
            }
            StartStep::WritingIndex => self.line("reading the journal: done; writing the index"),
            StartStep::Ready => return None,
        })
    }

    /// On a terminal the next one takes its place.
    fn line(&self, text: &str) -> String {
        match self.on_terminal {
            true => format!("\r\x1b[K{text}"),
            false => format!("{text}\n"),
        }
    }

    fn end(&self) -> &'static str {
        if self.on_terminal { "\n" } else { "" }
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A start that reads 1 GiB: 8 MiB each tenth of a second.
    fn shown(on_terminal: bool, tenths: u32) -> String {
        let began = Instant::now();
        let mut shown = Shown::new(on_terminal, began);
        let mut text = String::new();
        let at = |tenth: u32| began + Duration::from_millis(100) * tenth;
        for tenth in 0..tenths {
            let step = StartStep::Reading {
                read: u64::from(tenth) << 23,
                of: 1 << 30,
            };
            text.extend(shown.text(step, at(tenth)));
        }
        text.extend(shown.text(StartStep::WritingIndex, at(tenths)));
        text.extend(shown.text(StartStep::Ready, at(tenths + 5)));
        text
    }

    #[test]
    fn a_long_start_shows_a_line_every_five_seconds_where_there_is_no_terminal() {
        let lines = "reading the journal: 80 of 1024 MiB, 7 %\n\
                     reading the journal: 480 of 1024 MiB, 46 %\n\
                     reading the journal: 880 of 1024 MiB, 85 %\n\
                     the ledger is open: 1024 MiB of journal in 13 s\n";
        assert_eq!(shown(false, 128), lines);
    }

    #[test]
    fn on_a_terminal_one_line_is_overwritten() {
        let text = "\r\x1b[Kreading the journal: 80 of 1024 MiB, 7 %\
                    \r\x1b[Kreading the journal: 96 of 1024 MiB, 9 %\
                    \r\x1b[Kreading the journal: done; writing the index\
                    \r\x1b[Kthe ledger is open: 1024 MiB of journal in 1 s\n";
        assert_eq!(shown(true, 14), text);
    }

    #[test]
    fn a_start_of_less_than_a_second_shows_nothing() {
        assert_eq!(shown(true, 9), "");
        assert_eq!(shown(false, 9), "");
    }
}

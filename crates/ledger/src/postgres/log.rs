//! This node's own log (R64, R212). Entries are encoded before the commit and go into the outbox with it; then a thread
//! that nothing waits for appends the same bytes to `audit/`.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::checkpoints::Checkpoints;
use crate::disclosure::{Disclosure, Private};
use crate::entry::{Body, Entry, EntryError, Version, read_head};
use crate::journal::{CommitError, Journal};
use crate::model::{Alarm, Alarms};
use crate::options::Options;
use crate::scan::{Chain, day_of};
use crate::signing::{Overdue, Signing};
use crate::text::{Digest, Moment};

/// Entries of one transaction.
#[derive(Clone)]
pub(super) struct Lines {
    pub chain: Chain,
    version: Version,
    /// Number and bytes, without newline.
    pub entries: Vec<(u64, Vec<u8>)>,
}

impl Lines {
    pub(super) fn after(chain: Chain, version: Version) -> Self {
        Self {
            chain,
            version,
            entries: Vec::new(),
        }
    }

    /// An entry and its bytes, as the next of the chain. [`Lines::push`] adds them.
    pub(super) fn encode(&self, ts: Moment, body: Body) -> Result<(Entry, Vec<u8>), EntryError> {
        let seq = self.chain.next_seq;
        let entry = Entry { seq, ts, body };
        let mut bytes = Vec::with_capacity(1024);
        entry.encode_as(self.version, &self.chain.tip, &mut bytes)?;
        Ok((entry, bytes))
    }

    pub(super) fn push(&mut self, seq: u64, bytes: Vec<u8>) {
        self.chain = Chain {
            next_seq: seq + 1,
            tip: Digest::leaf(&bytes),
        };
        self.entries.push((seq, bytes));
    }
}

/// How long entries wait for others before they are written together. They are durable in the database already, which may be on
/// the same disk and the same cores.
const GATHERED: Duration = Duration::from_millis(20);

/// What is sent to the thread.
enum Feed {
    Append(Vec<(u64, Vec<u8>)>, Vec<(u64, Disclosure)>),
    Trim,
}

/// The writing end of `audit/` and `private/`.
pub(super) struct LocalLog {
    feed: Option<Sender<Feed>>,
    thread: Option<JoinHandle<()>>,
    signing: Arc<Signing>,
    failed: Arc<OnceLock<String>>,
    /// Where the files end once everything that was sent is written.
    pub chain: Chain,
    /// Of the entries from here on: what every node reads.
    pub version: Version,
}

impl LocalLog {
    pub(super) fn start(
        mut journal: Journal,
        dir: &Path,
        checkpoints: Checkpoints,
        options: &Options,
    ) -> std::io::Result<Self> {
        let failed = Arc::new(OnceLock::new());
        let chain = journal.chain();
        let (feed, fed) = channel();
        let position = journal.position().unwrap_or_default();
        let signing = Arc::new(Signing::start(checkpoints, options, position)?);
        let writer = Writer {
            signing: signing.clone(),
            private: Private::new(dir.join("private")),
            journal,
            failed: failed.clone(),
            alarms: options.alarms.clone(),
            day: None,
        };
        let thread = std::thread::Builder::new()
            .name("ledger-log".to_owned())
            .spawn(move || writer.run(&fed))?;
        Ok(Self {
            feed: Some(feed),
            thread: Some(thread),
            signing,
            failed,
            chain,
            version: Version::V1,
        })
    }

    /// Appends entries that are committed.
    pub(super) fn append(&mut self, lines: Lines, disclosures: Vec<(u64, Disclosure)>) {
        self.chain = lines.chain;
        if self.failed().is_none() {
            self.signing.sent(self.chain.next_seq);
        }
        self.send(Feed::Append(lines.entries, disclosures));
    }

    /// Why nothing can be written here any more. The outbox has what is missing; the next start fetches it.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Whether payments must stop, because this log could not be written or signed for too long.
    pub(super) fn overdue(&self) -> Option<Overdue> {
        self.signing.overdue()
    }

    /// Writes what is pending and removes the fill from the files. Blocks.
    pub(super) fn close(&mut self) {
        self.send(Feed::Trim);
        self.feed = None;
        if let Some(thread) = self.thread.take() {
            // A panic there is in the process log already; what is missing is fetched at the next start.
            let _ = thread.join();
        }
    }

    fn send(&self, feed: Feed) {
        // If the thread is gone, the log has failed and its error was logged.
        let _ = self.feed.as_ref().map(|sender| sender.send(feed));
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        self.feed = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    journal: Journal,
    signing: Arc<Signing>,
    private: Private,
    failed: Arc<OnceLock<String>>,
    alarms: Alarms,
    /// Of the newest entry that waits for the sync.
    day: Option<i64>,
}

impl Writer {
    /// What has piled up becomes one write and one sync: nothing waits for it, and the database may use the same disk.
    fn run(mut self, fed: &Receiver<Feed>) {
        while let Ok(first) = fed.recv() {
            let until = Instant::now() + GATHERED;
            let mut ends = false;
            let mut done = Ok(());
            let mut feed = Some(first);
            while let Some(this) = feed {
                match this {
                    Feed::Append(entries, disclosures) => done = done.and_then(|()| self.append(&entries, disclosures)),
                    Feed::Trim => ends = true,
                }
                feed = match ends || done.is_err() {
                    true => fed.try_recv().ok(),
                    false => fed.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
                };
            }
            if let Err(error) = done.and_then(|()| self.commit(ends)) {
                // The journal has logged it as an error.
                let _ = self.failed.set(error.to_string());
                return;
            }
        }
    }

    fn commit(&mut self, ends: bool) -> Result<(), CommitError> {
        self.day = None;
        self.journal.commit()?;
        // Never before the sync.
        if let Some(position) = self.journal.position() {
            self.signing.synced(position);
        }
        if !ends {
            return self.journal.fill_ahead();
        }
        self.journal.trim()?;
        self.signing.finish();
        Ok(())
    }

    fn append(&mut self, entries: &[(u64, Vec<u8>)], disclosures: Vec<(u64, Disclosure)>) -> Result<(), CommitError> {
        for (_, line) in entries {
            let ts = read_head(line)
                .map_err(|error| CommitError::Failed(error.to_string()))?
                .ts
                .timestamp();
            if self.day.replace(day_of(ts)) != Some(day_of(ts)) {
                // A new day or a full segment begins a new file: what belongs in the old one is written first.
                self.journal.commit()?;
                let begun = self.journal.begin(ts);
                if let Some(why) = self.journal.take_overdue() {
                    (self.alarms)(Alarm::SegmentOverdue { why });
                }
                begun?;
            }
            self.journal.push_line(line)?;
        }
        if !disclosures.is_empty()
            && let Err(error) = self.private.write(self.journal.segment(), disclosures)
        {
            tracing::warn!(%error, "cannot write the paths of payments to private/; reports will not show them");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! What a start does with each entry of the journal: applies it to the book, unless the index has it already, and
//! brings the index along. A new index is filled by a thread of its own.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::book::{Book, Effect};
use super::entry::Entry;
use super::index::{Applied, BATCH_ENTRIES, Index, Snapshot, Touched};
use super::pipeline::Parsed;
use super::pruned::Beginning;
use super::scan::{Chain, Line, Place};
use super::text::Digest;

/// Full batches that wait for the thread that fills a new index.
const WAITING: usize = 8;

/// Applies what the index has not seen, and finds out on the way whether the index matches the journal.
pub(crate) struct Replay {
    book: Book,
    index: Follow,
    /// How far the index had come.
    from: Chain,
    pub misfit: Option<&'static str>,
}

/// How the index follows.
enum Follow {
    /// It is new: it gets the places of the entries now, and the rest at the end.
    New {
        filling: Option<Filling>,
        touched: Vec<Touched>,
    },
    Known {
        index: Option<Index>,
        effects: Vec<Effect>,
    },
}

/// Where a replay has ended.
pub(crate) struct Replayed {
    pub book: Book,
    pub index: Option<Index>,
    /// The index has no mark yet: [`Index::complete`] writes what is missing.
    pub is_new: bool,
    /// What the index has not got yet.
    pub effects: Vec<Effect>,
}

impl Replay {
    pub(crate) fn onto(opened: Option<(Index, Snapshot)>, first: &Beginning) -> Self {
        let (index, snapshot) = opened.unzip();
        let known = snapshot.filter(|snapshot| !snapshot.is_new);
        let is_new = known.is_none();
        let (from, book) = known.map_or_else(
            || (first.chain, first.book.clone()),
            |snapshot| (snapshot.chain, snapshot.book),
        );
        // The entries in between were moved away, so it cannot catch up any more.
        let is_behind = from.next_seq < first.chain.next_seq;
        Self {
            book,
            index: match is_new {
                true => Follow::New {
                    filling: index.and_then(Filling::start),
                    touched: Vec::new(),
                },
                false => Follow::Known {
                    index,
                    effects: Vec::new(),
                },
            },
            from,
            misfit: is_behind.then_some("the index ended before the first entry of the journal"),
        }
    }

    pub(crate) fn visit(&mut self, line: &Line<'_>) -> Result<(), String> {
        if !self.is_wanted(line.head.seq, line.leaf) {
            return Ok(());
        }
        let entry = Entry::headed(&line.head, line.bytes).map_err(|error| error.to_string())?;
        self.apply(&entry, line.leaf, line.place)
    }

    /// Like [`Replay::visit`], of an entry that was parsed already.
    pub(crate) fn take(&mut self, parsed: &Parsed) -> Result<(), String> {
        match self.is_wanted(parsed.entry.seq, parsed.leaf) {
            true => self.apply(&parsed.entry, parsed.leaf, parsed.place),
            false => Ok(()),
        }
    }

    fn is_wanted(&mut self, seq: u64, leaf: Digest) -> bool {
        if seq + 1 == self.from.next_seq && leaf != self.from.tip {
            self.misfit = Some("the index belonged to another journal");
        }
        seq >= self.from.next_seq && self.misfit.is_none()
    }

    fn apply(&mut self, entry: &Entry, leaf: Digest, place: Place) -> Result<(), String> {
        let effect = match (self.book.apply(entry), &self.index) {
            (Ok(effect), _) => Effect { place, ..effect },
            // If the book came from the index, the index is wrong; in a replay from the beginning, the journal is.
            (Err(_), Follow::Known { .. }) => {
                self.misfit = Some("the index did not match the journal");
                return Ok(());
            }
            (Err(illegal), Follow::New { .. }) => return Err(illegal.to_string()),
        };
        match &mut self.index {
            Follow::New { filling, touched } => {
                touched.extend(Touched::by(&effect));
                if touched.len() >= BATCH_ENTRIES {
                    Filling::send(filling, std::mem::take(touched));
                }
            }
            Follow::Known { index, effects } => {
                effects.push(effect);
                if effects.len() >= BATCH_ENTRIES {
                    let applied = Applied {
                        effects: std::mem::take(effects),
                        chain: Chain {
                            next_seq: entry.seq + 1,
                            tip: leaf,
                        },
                        latest: self.book.latest(),
                        signed: None,
                        finished: Vec::new(),
                    };
                    *index = index.take().and_then(|mut index| {
                        let done = index.apply(&[applied]);
                        written(index, done)
                    });
                }
            }
        }
        Ok(())
    }

    /// Why the index must be rebuilt, now that the end of the journal is known.
    pub(crate) fn misfit(&self, journal: Chain) -> Option<&'static str> {
        let is_ahead = self.from.next_seq > journal.next_seq;
        self.misfit
            .or(is_ahead.then_some("the index contained entries that the journal does not have"))
    }

    pub(crate) fn end(self) -> Replayed {
        let (index, is_new, effects) = match self.index {
            Follow::New { mut filling, touched } => {
                Filling::send(&mut filling, touched);
                (filling.and_then(Filling::end), true, Vec::new())
            }
            Follow::Known { index, effects } => (index, false, effects),
        };
        Replayed {
            book: self.book,
            index,
            is_new,
            effects,
        }
    }
}

/// The thread that writes the places of entries into a new index. Dropping this waits for it, because the index must be
/// closed before another one can be opened in its place.
struct Filling {
    sender: Option<SyncSender<Vec<Touched>>>,
    thread: Option<JoinHandle<Option<Index>>>,
}

impl Filling {
    fn start(index: Index) -> Option<Self> {
        let (sender, batches) = sync_channel::<Vec<Touched>>(WAITING);
        let fill = move || {
            let mut index = Some(index);
            for touched in batches {
                index = index.take().and_then(|mut index| {
                    let done = index.fill(&touched);
                    written(index, done)
                });
                if index.is_none() {
                    break;
                }
            }
            index
        };
        let thread = thread::Builder::new().name("ledger-index".to_owned()).spawn(fill);
        let failed = |error: &std::io::Error| {
            tracing::warn!(%error, "cannot start the thread that fills the ledger's index; payments go on without it");
        };
        Some(Self {
            sender: Some(sender),
            thread: Some(thread.inspect_err(failed).ok()?),
        })
    }

    fn send(filling: &mut Option<Self>, touched: Vec<Touched>) {
        let sent = filling.as_ref().and_then(|filling| filling.sender.as_ref());
        // It has said why it stopped.
        if sent.is_some_and(|sender| sender.send(touched).is_err()) {
            *filling = None;
        }
    }

    fn end(mut self) -> Option<Index> {
        self.join()
    }

    fn join(&mut self) -> Option<Index> {
        self.sender = None;
        // If it panicked, the ledger runs without an index, and the next start builds one.
        self.thread.take()?.join().ok().flatten()
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        drop(self.join());
    }
}

pub(crate) fn written(index: Index, done: Result<(), String>) -> Option<Index> {
    match done {
        Ok(()) => Some(index),
        Err(error) => {
            tracing::warn!(%error, "the ledger's index cannot be written; payments go on without it");
            None
        }
    }
}

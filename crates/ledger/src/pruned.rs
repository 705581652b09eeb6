//! A journal whose oldest segments were moved away: `audit/pruned` records where the journal begins and what the book
//! held there (R223). Nothing is renumbered; the hash of the file is in an entry of the journal. [`scan`] reads
//! from there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::book::Book;
use super::book::snapshot::BookSnapshot;
use super::entry::{Body, Entry};
use super::payment::Payment;
use super::scan::{Chain, JournalError, Line, Place, Scanned, scan_from, segments};
use super::text::Digest;
use super::tree::Tree;
use bursar_core::payment_id::PaymentId;

pub const NAME: &str = "pruned";

/// Where the journal begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pruned {
    /// The first entry that is still here.
    first_seq: u64,
    /// Leaf hash of the entry before it.
    prev: Digest,
    /// The tree over all entries before it.
    tree: Tree,
    /// When they were moved, and where to; for people.
    at: Timestamp,
    moved_to: PathBuf,
    book: BookSnapshot,
}

impl Pruned {
    /// `None`: the journal is complete.
    pub fn read(audit: &Path) -> Result<Option<Self>, JournalError> {
        let path = audit.join(NAME);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(JournalError::io("read", &path))?,
        };
        let read = serde_json::from_slice(&text).map_err(|error| JournalError::Damaged {
            path,
            line: error.line(),
            why: error.to_string(),
        });
        read.map(Some)
    }
}

/// Where the journal begins, and the state of the book there; empty for a complete journal.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    pub chain: Chain,
    pub tree: Tree,
    pub place: Place,
    pub book: Book,
}

pub fn beginning(audit: &Path) -> Result<Beginning, JournalError> {
    let Some(pruned) = Pruned::read(audit)? else {
        return Ok(Beginning::default());
    };
    if pruned.tree.size() != pruned.first_seq {
        return Err(JournalError::Damaged {
            path: audit.join(NAME),
            line: 1,
            why: "the size of its tree is not the number of entries before the first".to_owned(),
        });
    }
    Ok(Beginning {
        chain: Chain {
            next_seq: pruned.first_seq,
            tip: pruned.prev,
        },
        place: Place {
            segment: pruned.first_seq,
            offset: 0,
        },
        tree: pruned.tree,
        book: pruned.book.into_book(),
    })
}

/// Reads every segment of `audit` from the first entry on. `visit` sees each valid line in order; if it returns an
/// error, the journal counts as damaged at that line.
pub fn scan(audit: &Path, visit: &mut dyn FnMut(&Line<'_>) -> Result<(), String>) -> Result<Scanned, JournalError> {
    let first = beginning(audit)?;
    scan_from(audit, first.chain, first.place, visit)
}

/// What can be moved away.
pub struct Plan {
    /// The exact content that `audit/pruned` must have before the first segment is moved.
    pub text: Vec<u8>,
    /// Segments, oldest first.
    pub segments: Vec<PathBuf>,
    /// The first entry that stays.
    pub first_seq: u64,
}

/// Finds the segments that hold only entries from before `before` and nothing about payments that are still open. The
/// newest one always stays. `None`: nothing can be moved.
pub fn plan(audit: &Path, before: Timestamp, at: Timestamp, moved_to: &Path) -> Result<Option<Plan>, JournalError> {
    let segments = segments(audit)?;
    let first = beginning(audit)?;
    let mut book = first.book.clone();
    let known_open: Vec<PaymentId> = book.open_payments().map(Payment::rid).collect();
    let (mut first_late, mut begun) = (u64::MAX, std::collections::HashMap::new());
    scan(audit, &mut |line| {
        let entry = apply(&mut book, line)?;
        if entry.ts.timestamp() >= before {
            first_late = first_late.min(entry.seq);
        }
        match &entry.body {
            Body::Reserved(reserved) => drop(begun.insert(reserved.rid, entry.seq)),
            Body::Adopted(adopted) => drop(begun.insert(adopted.payment.rid(), entry.seq)),
            _ => {}
        }
        Ok(())
    })?;
    let first_open = book
        .open_payments()
        // A payment that began in segments that were moved earlier does not hold back any segment.
        .filter(|payment| !known_open.contains(&payment.rid()))
        .filter_map(|payment| begun.get(&payment.rid()).copied())
        .min();
    let must_stay = first_late.min(first_open.unwrap_or(u64::MAX));
    let Beginning {
        mut chain,
        mut tree,
        mut book,
        ..
    } = first;
    let starts = segments.iter().map(|(first, _)| *first);
    let cut = starts.filter(|first| *first <= must_stay).max().unwrap_or(0);
    // At least as far as the last time: an interrupted run may have left segments that count as moved.
    let cut = cut.max(chain.next_seq);
    if segments.first().is_none_or(|(first, _)| *first >= cut) {
        return Ok(None);
    }
    scan(audit, &mut |line| {
        if line.head.seq < cut {
            apply(&mut book, line)?;
            tree.append(line.leaf);
            chain = Chain {
                next_seq: line.head.seq + 1,
                tip: line.leaf,
            };
        }
        Ok(())
    })?;
    let pruned = Pruned {
        first_seq: chain.next_seq,
        prev: chain.tip,
        tree,
        at,
        moved_to: moved_to.to_owned(),
        book: BookSnapshot::of(&book),
    };
    let mut text =
        serde_json::to_vec(&pruned).map_err(|error| JournalError::io("write", &audit.join(NAME))(error.into()))?;
    text.push(b'\n');
    let moved = segments.into_iter().filter(|(first, _)| *first < cut);
    Ok(Some(Plan {
        text,
        segments: moved.map(|(_, path)| path).collect(),
        first_seq: cut,
    }))
}

fn apply(book: &mut Book, line: &Line<'_>) -> Result<Entry, String> {
    let (entry, _) = Entry::parse(line.bytes).map_err(|error| error.to_string())?;
    book.apply(&entry).map_err(|illegal| illegal.to_string())?;
    Ok(entry)
}

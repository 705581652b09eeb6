//! Reads a long journal on several cores: one thread reads the files, others hash and parse the lines, and the caller's
//! thread follows the chain and applies them (R225).
//!
//! It passes on only what is plainly right: complete lines in canonical form that follow each other. At the first line
//! that is anything else, and at the end, it stops and says how far it has come; [`scan_from`](super::scan::scan_from)
//! continues there. So there is one place that decides what is damage, a torn write, or fill.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::entry::Entry;
use super::scan::{Chain, JournalError, Place, segments};
use super::text::Digest;

/// Bytes that are read at a time. A few blocks are in memory at once, parsed ones at about four times their size.
const BLOCK: usize = 256 << 10;

/// The most blocks that wait for each thread.
const WAITING: usize = 2;

/// More threads than this parse faster than one can apply.
const MOST_PARSERS: usize = 4;

/// A line that follows the one before it.
pub(crate) struct Parsed {
    pub entry: Entry,
    pub leaf: Digest,
    pub place: Place,
    prev: Digest,
}

/// How far the reading came.
pub(crate) struct Reached {
    pub chain: Chain,
    pub place: Place,
    /// First entry and length of the segments before that place.
    pub finished: Vec<(u64, u64)>,
}

/// Complete lines of one segment.
struct Block {
    place: Place,
    bytes: Vec<u8>,
}

/// The lines of one block up to the first that cannot be parsed.
struct Batch {
    place: Place,
    entries: Vec<Parsed>,
    bytes: usize,
    is_whole: bool,
}

/// Reads from `place` on, where the state of the chain is `chain`. `take` gets each line in order; if it returns an
/// error, the journal counts as damaged at that line. `read` is called with the number of bytes read so far.
pub(crate) fn run(
    audit: &Path,
    chain: Chain,
    place: Place,
    read: &mut dyn FnMut(u64),
    take: &mut dyn FnMut(&Parsed) -> Result<(), String>,
) -> Result<Reached, JournalError> {
    let segments: Vec<_> = segments(audit)?
        .into_iter()
        .filter(|(first_seq, _)| *first_seq >= place.segment)
        .collect();
    let mut reached = Reached {
        chain,
        place,
        finished: Vec::new(),
    };
    // It would not be at its place.
    if segments
        .first()
        .is_none_or(|(first_seq, _)| *first_seq != place.segment)
    {
        return Ok(reached);
    }
    let parsers = thread::available_parallelism()
        .map_or(1, usize::from)
        .clamp(1, MOST_PARSERS);
    thread::scope(|scope| {
        let (mut blocks, mut batches) = (Vec::new(), Vec::new());
        for number in 0..parsers {
            let (block, from_reader) = sync_channel(WAITING);
            let (to_caller, batch) = sync_channel(WAITING);
            let parse = move || parse(&from_reader, &to_caller);
            let spawned = thread::Builder::new()
                .name(format!("ledger-parse-{number}"))
                .spawn_scoped(scope, parse);
            if spawned.is_ok() {
                blocks.push(block);
                batches.push(batch);
            }
        }
        let files = &segments;
        let spawned = thread::Builder::new()
            .name("ledger-read".to_owned())
            .spawn_scoped(scope, move || read_files(files, place.offset, &blocks));
        if spawned.is_err() {
            return Ok(());
        }
        follow(&segments, &batches, &mut reached, read, take)
        // Whatever still runs ends now, because nobody receives what it sends.
    })?;
    Ok(reached)
}

/// Reads the segments and distributes their lines in turn. An error ends it: the reader that continues finds it again.
fn read_files(segments: &[(u64, PathBuf)], offset: u64, parsers: &[SyncSender<Block>]) {
    let mut turn = parsers.iter().cycle();
    let mut send = |block| turn.next().is_some_and(|parser| parser.send(block).is_ok());
    for (number, (first_seq, path)) in segments.iter().enumerate() {
        let begin = Place {
            segment: *first_seq,
            offset: if number == 0 { offset } else { 0 },
        };
        if !matches!(read_file(path, begin, &mut send), Ok(true)) {
            return;
        }
    }
}

/// Whether the file ended with a complete line, and all of it was sent.
fn read_file(path: &Path, mut place: Place, send: &mut impl FnMut(Block) -> bool) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(place.offset))?;
    // Also of an empty file, so that the receiver knows of it.
    let mut is_sent = false;
    let mut bytes = Vec::with_capacity(BLOCK);
    loop {
        let before = bytes.len();
        let read = (&mut file).take(BLOCK as u64).read_to_end(&mut bytes)?;
        if read == 0 && (before > 0 || is_sent) {
            return Ok(before == 0);
        }
        let end = bytes[before..].iter().rposition(|byte| *byte == b'\n');
        let Some(end) = end.map(|end| before + end + 1).or((read == 0).then_some(0)) else {
            // No entry is that long: what follows is not one.
            match bytes.len() > 2 * BLOCK {
                true => return Ok(false),
                false => continue,
            }
        };
        let mut rest = Vec::with_capacity(BLOCK + bytes.len() - end);
        rest.extend_from_slice(&bytes[end..]);
        bytes.truncate(end);
        is_sent = true;
        if !send(Block { place, bytes }) {
            return Ok(false);
        }
        place.offset += end as u64;
        bytes = rest;
    }
}

fn parse(blocks: &Receiver<Block>, batches: &SyncSender<Batch>) {
    let mut again = Vec::new();
    while let Ok(block) = blocks.recv() {
        let batch = parse_block(&block, &mut again);
        let is_whole = batch.is_whole;
        if batches.send(batch).is_err() || !is_whole {
            return;
        }
    }
}

fn parse_block(Block { place, bytes }: &Block, again: &mut Vec<u8>) -> Batch {
    let mut batch = Batch {
        place: *place,
        entries: Vec::with_capacity(bytes.len() / 512),
        bytes: bytes.len(),
        is_whole: true,
    };
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\n', bytes) {
        let line = &bytes[begin..end];
        let Some((entry, prev)) = Entry::read(line, again) else {
            batch.is_whole = false;
            break;
        };
        batch.entries.push(Parsed {
            entry,
            leaf: Digest::leaf(line),
            place: Place {
                offset: place.offset + begin as u64,
                ..*place
            },
            prev,
        });
        begin = end + 1;
    }
    batch.bytes = begin;
    batch
}

/// Takes the batches in the order of their lines.
fn follow(
    segments: &[(u64, PathBuf)],
    batches: &[Receiver<Batch>],
    reached: &mut Reached,
    read: &mut dyn FnMut(u64),
    take: &mut dyn FnMut(&Parsed) -> Result<(), String>,
) -> Result<(), JournalError> {
    let mut bytes = 0;
    for parser in batches.iter().cycle() {
        let Ok(batch) = parser.recv() else {
            return Ok(());
        };
        if batch.place.segment != reached.place.segment {
            if batch.place.segment != reached.chain.next_seq {
                return Ok(());
            }
            reached.finished.push((reached.place.segment, reached.place.offset));
            reached.place = batch.place;
        }
        let end = batch.place.offset + batch.bytes as u64;
        for parsed in &batch.entries {
            let Parsed {
                entry,
                leaf,
                place,
                prev,
            } = parsed;
            if entry.seq != reached.chain.next_seq || *prev != reached.chain.tip {
                reached.place = *place;
                return Ok(());
            }
            take(parsed).map_err(|why| damaged(segments, *place, why))?;
            reached.chain = Chain {
                next_seq: entry.seq + 1,
                tip: *leaf,
            };
        }
        reached.place.offset = end;
        bytes += batch.bytes as u64;
        read(bytes);
        if !batch.is_whole {
            return Ok(());
        }
    }
    Ok(())
}

fn damaged(segments: &[(u64, PathBuf)], place: Place, why: String) -> JournalError {
    let path = segments.iter().find(|(first_seq, _)| *first_seq == place.segment);
    let path = path.map(|(_, path)| path.clone()).unwrap_or_default();
    let damaged = JournalError::Damaged {
        path: path.clone(),
        line: 1,
        why,
    };
    damaged.further(&path, place.offset)
}

/// How many bytes the segments hold from `place` on, as far as can be seen.
pub(crate) fn bytes_from(audit: &Path, place: Place) -> u64 {
    let segments = segments(audit).unwrap_or_default();
    let lengths = segments
        .iter()
        .filter(|(first_seq, _)| *first_seq >= place.segment)
        .filter_map(|(_, path)| fs::metadata(path).ok())
        .map(|about| about.len());
    lengths.sum::<u64>().saturating_sub(place.offset)
}

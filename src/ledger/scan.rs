//! Reads the journal's segments in order and follows the hash chain (digest §3.6). Shared by the writer's start and by
//! readers in other processes, so that both agree on what the journal says and where it ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::entry::read_head;
use super::merge::Head;
use super::pruned;
use super::text::Digest;

/// Fill written ahead of the entries; a trailing run of it is not part of the journal.
pub const FILL: u8 = b'\n';

/// Why the journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Not a torn write: entries that may have been acknowledged are damaged. Nothing is repaired by guessing.
    #[error(
        "the journal is damaged: {} line {line}: {why}. Nothing was changed. Restore this file from a copy, or ask for help \
         before you touch it",
        path.display()
    )]
    Damaged { path: PathBuf, line: usize, why: String },
}

impl JournalError {
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// Where the chain stands: what the next entry must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    pub next_seq: u64,
    /// Leaf hash of the newest entry.
    pub tip: Digest,
}

impl Chain {
    pub const START: Self = Self {
        next_seq: 0,
        tip: Digest::ZERO,
    };
}

/// One good line.
pub struct Line<'a> {
    pub head: Head<'a>,
    pub bytes: &'a [u8],
    pub leaf: Digest,
}

/// The newest segment, as far as it is good.
#[derive(Debug)]
pub struct Newest {
    pub path: PathBuf,
    /// Bytes of good lines.
    pub len: u64,
    /// Day of its first entry, in days since the epoch, UTC. None: it has no entry yet.
    pub day: Option<i64>,
    /// What follows the good lines, without trailing fill, when it is a torn write. Never acknowledged.
    pub torn: Vec<u8>,
}

#[derive(Debug)]
pub struct Scanned {
    pub chain: Chain,
    pub newest: Option<Newest>,
}

/// The file name of the segment that begins with `seq`.
pub fn segment_name(seq: u64) -> String {
    format!("seg-{seq:020}.jsonl")
}

/// Reads every segment of `audit` from the first entry on. `visit` sees each good line in order; a complaint of its own
/// makes the journal damaged at that line.
pub fn scan(audit: &Path, visit: &mut dyn FnMut(&Line<'_>) -> Result<(), String>) -> Result<Scanned, JournalError> {
    let mut chain = pruned::beginning(audit)?;
    let mut segments = segments(audit)?;
    // What a stop in the middle of moving has left.
    segments.retain(|(first_seq, _)| *first_seq >= chain.next_seq);
    let mut newest = None;
    for (index, (first_seq, path)) in segments.iter().enumerate() {
        if *first_seq != chain.next_seq {
            let why = format!(
                "the entries from {} to {first_seq} are missing before it",
                chain.next_seq
            );
            return Err(JournalError::Damaged {
                path: path.clone(),
                line: 1,
                why,
            });
        }
        let bytes = fs::read(path).map_err(JournalError::io("read", path))?;
        let part = lines(&bytes, chain, path, visit)?;
        let rest = &bytes[part.good..];
        if let Some(why) = &part.complaint
            && (index + 1 < segments.len() || entries_follow(rest))
        {
            return Err(JournalError::Damaged {
                path: path.clone(),
                line: part.lines + 1,
                why: why.clone(),
            });
        }
        chain = part.chain;
        newest = Some(Newest {
            path: path.clone(),
            len: part.good as u64,
            day: part.day,
            torn: trim_fill(rest).to_vec(),
        });
    }
    Ok(Scanned { chain, newest })
}

/// First sequence number and path of every segment, in order.
pub(super) fn segments(audit: &Path) -> Result<Vec<(u64, PathBuf)>, JournalError> {
    let mut found = Vec::new();
    for file in fs::read_dir(audit).map_err(JournalError::io("list", audit))? {
        let file = file.map_err(JournalError::io("list", audit))?;
        let name = file.file_name();
        let seq = name
            .to_str()
            .and_then(|name| name.strip_prefix("seg-")?.strip_suffix(".jsonl"));
        if let Some(seq) = seq.and_then(|seq| seq.parse().ok())
            && name == *segment_name(seq)
        {
            found.push((seq, file.path()));
        }
    }
    found.sort();
    Ok(found)
}

struct Part {
    chain: Chain,
    /// Bytes of good lines, and their number.
    good: usize,
    lines: usize,
    day: Option<i64>,
    /// What is wrong with the first line that is not good.
    complaint: Option<String>,
}

fn lines(
    bytes: &[u8],
    chain: Chain,
    path: &Path,
    visit: &mut dyn FnMut(&Line<'_>) -> Result<(), String>,
) -> Result<Part, JournalError> {
    let mut part = Part {
        chain,
        good: 0,
        lines: 0,
        day: None,
        complaint: None,
    };
    while part.good < bytes.len() {
        let rest = &bytes[part.good..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            part.complaint = Some("the line does not end".to_owned());
            break;
        };
        let line = &rest[..end];
        if line.is_empty() && trim_fill(rest).is_empty() {
            break;
        }
        let head = match follows(line, &part.chain) {
            Ok(head) => head,
            Err(why) => {
                part.complaint = Some(why);
                break;
            }
        };
        part.day.get_or_insert(day_of(head.ts.timestamp()));
        let line = Line {
            head,
            bytes: line,
            leaf: Digest::leaf(line),
        };
        visit(&line).map_err(|why| JournalError::Damaged {
            path: path.to_owned(),
            line: part.lines + 1,
            why,
        })?;
        part.chain = Chain {
            next_seq: line.head.seq + 1,
            tip: line.leaf,
        };
        part.good += end + 1;
        part.lines += 1;
    }
    Ok(part)
}

/// Days since the epoch, UTC.
pub fn day_of(time: jiff::Timestamp) -> i64 {
    time.as_second().div_euclid(24 * 60 * 60)
}

/// Whether `line` is the next entry; says what is wrong with it.
pub(super) fn follows<'a>(line: &'a [u8], chain: &Chain) -> Result<Head<'a>, String> {
    let head = read_head(line).map_err(|error| error.to_string())?;
    if head.seq != chain.next_seq {
        return Err(format!("its seq is {}, expected {}", head.seq, chain.next_seq));
    }
    if head.prev != chain.tip {
        return Err("its prev is not the hash of the entry before".to_owned());
    }
    Ok(head)
}

/// Whether a complete entry stands anywhere in what should be a torn write. A torn write ends in a fragment; a whole line
/// at or after the first bad byte means that something in the middle was damaged, and it may have been acknowledged.
pub(super) fn entries_follow(rest: &[u8]) -> bool {
    let mut pieces = rest.split(|byte| *byte == b'\n');
    // What stands after the last newline does not end: it was never acknowledged, even if it looks whole.
    pieces.next_back();
    pieces.any(|line| read_head(line).is_ok())
}

fn trim_fill(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != FILL).map_or(0, |last| last + 1);
    &bytes[..end]
}

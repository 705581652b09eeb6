//! Reads the segments of the journal in order and follows the hash chain (R225). The writer's start and readers in
//! other processes share it, so that they agree on what the journal contains and where it ends.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::entry::{MAX_ENTRY, read_head};
use super::merge::Head;
use super::text::Digest;

/// Fill written ahead of the entries; a trailing run of it is not part of the journal.
pub(crate) const FILL: u8 = b'\n';

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
        "the journal is damaged: {} line {line}: {why}. Nothing was changed. Restore this file from a backup, or ask \
         for help before you change it",
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

/// The state of the chain: what the next entry must continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    pub next_seq: u64,
    /// Leaf hash of the newest entry.
    pub tip: Digest,
}

impl Default for Chain {
    fn default() -> Self {
        Self::START
    }
}

impl Chain {
    pub const START: Self = Self {
        next_seq: 0,
        tip: Digest::ZERO,
    };
}

/// Where an entry begins: the segment, named by its first entry, and the offset in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub segment: u64,
    pub offset: u64,
}

impl Place {
    pub const START: Self = Self { segment: 0, offset: 0 };
}

/// One valid line.
pub struct Line<'a> {
    pub head: Head<'a>,
    pub bytes: &'a [u8],
    pub leaf: Digest,
    pub place: Place,
}

/// The newest segment, as far as it is valid.
#[derive(Debug)]
pub struct Newest {
    pub path: PathBuf,
    pub first_seq: u64,
    /// Bytes of valid lines.
    pub len: u64,
    /// Day of its first entry, in days since the epoch, UTC. `None`: it has no entry yet.
    pub day: Option<i64>,
    /// What follows the valid lines, without trailing fill, if it is a torn write. Never acknowledged.
    pub torn: Vec<u8>,
}

#[derive(Debug)]
pub struct Scanned {
    pub chain: Chain,
    /// First entry and length of every segment that was read, except the newest.
    pub finished: Vec<(u64, u64)>,
    pub newest: Option<Newest>,
}

/// The file name of the segment that begins with `seq`.
pub fn segment_name(seq: u64) -> String {
    format!("seg-{seq:020}.jsonl")
}

/// Reads every segment of `audit` from `place` on, where the state of the chain is `chain`. `visit` sees each valid line
/// in order; if it returns an error, the journal counts as damaged at that line.
pub(crate) fn scan_from(
    audit: &Path,
    mut chain: Chain,
    place: Place,
    visit: &mut dyn FnMut(&Line<'_>) -> Result<(), String>,
) -> Result<Scanned, JournalError> {
    let mut segments = segments(audit)?;
    // Segments left by a stop in the middle of moving are before `place`, too.
    segments.retain(|(first_seq, _)| *first_seq >= place.segment);
    let (mut newest, mut finished) = (None, Vec::new());
    let mut bytes = Vec::new();
    for (index, (first_seq, path)) in segments.iter().enumerate() {
        let is_first = *first_seq == place.segment;
        if *first_seq != chain.next_seq && !(is_first && place.offset > 0) {
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
        let offset = if is_first { place.offset } else { 0 };
        read_from(path, offset, &mut bytes).map_err(JournalError::io("read", path))?;
        let place = Place {
            segment: *first_seq,
            offset,
        };
        let part = lines(&bytes, chain, path, place, visit).map_err(|error| error.further(path, offset))?;
        let rest = &bytes[part.good..];
        let is_newest = index + 1 == segments.len();
        if let Some(why) = &part.complaint
            && (!is_newest || entries_follow(rest))
        {
            let damaged = JournalError::Damaged {
                path: path.clone(),
                line: part.lines + 1,
                why: why.clone(),
            };
            return Err(damaged.further(path, offset));
        }
        chain = part.chain;
        if !is_newest {
            finished.push((*first_seq, offset + bytes.len() as u64));
            continue;
        }
        newest = Some(Newest {
            path: path.clone(),
            first_seq: *first_seq,
            len: offset + part.good as u64,
            day: match offset {
                0 => part.day,
                _ => day_of_first(path)?,
            },
            torn: trim_fill(rest).to_vec(),
        });
    }
    Ok(Scanned {
        chain,
        finished,
        newest,
    })
}

fn read_from(path: &Path, offset: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    bytes.clear();
    file.read_to_end(bytes).map(drop)
}

impl JournalError {
    /// Adds the lines before `offset`, where reading began, to the line number.
    pub(super) fn further(self, segment: &Path, offset: u64) -> Self {
        match self {
            Self::Damaged { path, line, why } if offset > 0 => {
                let before = fs::read(segment).map(|bytes| {
                    let before = bytes.iter().take(usize::try_from(offset).unwrap_or(usize::MAX));
                    before.filter(|byte| **byte == b'\n').count()
                });
                let line = line + before.unwrap_or(0);
                Self::Damaged { path, line, why }
            }
            other => other,
        }
    }
}

fn day_of_first(path: &Path) -> Result<Option<i64>, JournalError> {
    let mut start = vec![0; MAX_ENTRY + 1];
    let read = File::open(path).and_then(|file| file.read_at(&mut start, 0));
    start.truncate(read.map_err(JournalError::io("read", path))?);
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(read_head(line).ok().map(|head| day_of(head.ts.timestamp())))
}

/// First entry and length of the segments before one.
pub(crate) fn lengths_before(audit: &Path, segment: u64) -> Result<Vec<(u64, u64)>, JournalError> {
    let before = segments(audit)?
        .into_iter()
        .filter(|(first_seq, _)| *first_seq < segment);
    before
        .map(|(first_seq, path)| {
            let about = fs::metadata(&path).map_err(JournalError::io("examine", &path))?;
            Ok((first_seq, about.len()))
        })
        .collect()
}

/// The line that begins at `place`, if one does.
pub(crate) fn line_at(audit: &Path, place: Place) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(audit.join(segment_name(place.segment)))?;
    let mut line = vec![0; MAX_ENTRY + 1];
    let read = file.read_at(&mut line, place.offset)?;
    line.truncate(read);
    let end = line.iter().position(|byte| *byte == b'\n');
    Ok(end.map(|end| {
        line.truncate(end);
        line
    }))
}

/// The leaf hash of the line that ends at `place`, if one does.
pub(crate) fn leaf_before(audit: &Path, place: Place) -> io::Result<Option<Digest>> {
    let file = File::open(audit.join(segment_name(place.segment)))?;
    let begin = place.offset.saturating_sub(MAX_ENTRY as u64 + 2);
    let mut bytes = vec![0; usize::try_from(place.offset - begin).unwrap_or(0)];
    file.read_exact_at(&mut bytes, begin)?;
    let Some((b'\n', line)) = bytes.split_last() else {
        return Ok(None);
    };
    let line = line.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Some(Digest::leaf(line)))
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
    /// Bytes of valid lines, and their number.
    good: usize,
    lines: usize,
    day: Option<i64>,
    /// What is wrong with the first line that is not valid.
    complaint: Option<String>,
}

fn lines(
    bytes: &[u8],
    chain: Chain,
    path: &Path,
    begin: Place,
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
            part.complaint = Some("the line has no newline".to_owned());
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
            place: Place {
                offset: begin.offset + part.good as u64,
                ..begin
            },
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

/// Whether `line` is the next entry; the error says why not.
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

/// Whether a complete entry occurs in what should be a torn write. A torn write ends in a fragment. A complete line at
/// or after the first bad byte means that something in the middle was damaged, and it may have been acknowledged.
pub(super) fn entries_follow(rest: &[u8]) -> bool {
    let mut pieces = rest.split(|byte| *byte == b'\n');
    // What follows the last newline is incomplete: it was never acknowledged, even if it looks complete.
    pieces.next_back();
    pieces.any(|line| read_head(line).is_ok())
}

fn trim_fill(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != FILL).map_or(0, |last| last + 1);
    &bytes[..end]
}

//! Follows the journal segment by segment, to copy it or to check a copy. It takes no lock and works while a server
//! writes or none runs.

use std::fs;
use std::io;
use std::path::Path;

use super::pruned;
use super::scan::{Chain, JournalError, entries_follow, follows, segments};
use super::text::Digest;

/// How often the newest segment is read, because a read can meet a write that is half done. A line that is incomplete
/// after the last attempt is damage.
const LOOKS: usize = 3;

/// One segment, up to where its lines are complete and continue the chain.
pub struct Segment<'a> {
    pub path: &'a Path,
    pub lines: &'a [u8],
}

/// Passes every segment in order to `each` and returns where the chain ends. Everything that was acknowledged before
/// the call is included; what is being written may be.
pub fn follow(audit: &Path, each: &mut dyn FnMut(Segment<'_>) -> Result<(), io::Error>) -> Result<Chain, JournalError> {
    let mut chain = pruned::beginning(audit)?.chain;
    let mut segments = segments(audit)?;
    // Left behind by a stop in the middle of moving segments away.
    segments.retain(|(first_seq, _)| *first_seq >= chain.next_seq);
    for (index, (first, path)) in segments.iter().enumerate() {
        if *first != chain.next_seq {
            return Err(JournalError::Damaged {
                path: path.clone(),
                line: 1,
                why: format!("the entries from {} to {first} are missing before it", chain.next_seq),
            });
        }
        let (lines, after) = whole_lines(path, chain, index + 1 == segments.len())?;
        each(Segment { path, lines: &lines }).map_err(JournalError::io("copy", path))?;
        chain = after;
    }
    Ok(chain)
}

fn whole_lines(path: &Path, before: Chain, is_newest: bool) -> Result<(Vec<u8>, Chain), JournalError> {
    let mut look = 1;
    loop {
        let mut bytes = fs::read(path).map_err(JournalError::io("read", path))?;
        let part = good_part(&bytes, before);
        match part.complaint {
            Some(why) if !is_newest || (entries_follow(&bytes[part.good..]) && look == LOOKS) => {
                return Err(JournalError::Damaged {
                    path: path.to_owned(),
                    line: part.lines + 1,
                    why,
                });
            }
            Some(_) if entries_follow(&bytes[part.good..]) => look += 1,
            _ => {
                bytes.truncate(part.good);
                return Ok((bytes, part.chain));
            }
        }
    }
}

struct Part {
    chain: Chain,
    /// Bytes of valid lines, and their number.
    good: usize,
    lines: usize,
    complaint: Option<String>,
}

fn good_part(bytes: &[u8], chain: Chain) -> Part {
    let mut part = Part {
        chain,
        good: 0,
        lines: 0,
        complaint: None,
    };
    while let Some(end) = bytes[part.good..].iter().position(|byte| *byte == b'\n') {
        let line = &bytes[part.good..part.good + end];
        let head = match follows(line, &part.chain) {
            Ok(head) => head,
            Err(why) => {
                // Fill after the entries is not an error.
                let is_fill = bytes[part.good..].iter().all(|byte| *byte == b'\n');
                part.complaint = (!is_fill).then_some(why);
                return part;
            }
        };
        part.chain = Chain {
            next_seq: head.seq + 1,
            tip: Digest::leaf(line),
        };
        part.good += end + 1;
        part.lines += 1;
    }
    let unfinished = part.good < bytes.len();
    part.complaint = unfinished.then(|| "the line has no newline".to_owned());
    part
}

//! Reads, after a fast start, what that start skipped: every entry up to its position, once, slowly (R225).
//!
//! The tree over the lines as they are now must equal the tree of the position. Nothing but the lines that were checked
//! when they were written has that root, so they need not be parsed again.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::note::Checkpoint;
use super::pruned;
use super::resume::{Follower, Position};
use super::scan;
use super::text::Digest;

/// It pauses after this many bytes.
const STRETCH: usize = 1 << 20;

/// How many times longer it pauses than it works: it takes at most a quarter of one core, and of the disk.
const REST: u32 = 3;

/// The thread that rereads. Dropping this stops it.
pub(crate) struct Rereading {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rereading {
    /// `damaged` receives what is wrong, and where.
    pub(crate) fn start(
        audit: PathBuf,
        until: Position,
        signed: Vec<Checkpoint>,
        damaged: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        let reread = move || {
            let goes_on = &mut |worked: Duration| {
                thread::park_timeout(worked * REST);
                !theirs.load(Ordering::Relaxed)
            };
            match reread(&audit, &until, &signed, goes_on) {
                Ok(Read::All) => tracing::info!(
                    entries = until.size(),
                    "the whole journal was read and matches what was signed"
                ),
                Ok(Read::Stopped) => {}
                Err(why) => damaged(why),
            }
        };
        let thread = thread::Builder::new().name("ledger-reread".to_owned()).spawn(reread)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Rereading {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // If it panicked, it found no damage.
            let _ = thread.join();
        }
    }
}

/// `Err` says what is damaged and where.
fn reread(
    audit: &Path,
    until: &Position,
    signed: &[Checkpoint],
    goes_on: &mut dyn FnMut(Duration) -> bool,
) -> Result<Read, String> {
    let first = pruned::beginning(audit).map_err(|error| error.to_string())?;
    let mut follower = Follower::new(first.tree, signed);
    match follow(audit, first.place.segment, until, &mut follower, goes_on)? {
        Read::All if follower.tree != *until.tree() => Err(located(audit, signed)),
        read => Ok(read),
    }
}

enum Read {
    All,
    Stopped,
}

fn follow(
    audit: &Path,
    first: u64,
    until: &Position,
    follower: &mut Follower,
    goes_on: &mut dyn FnMut(Duration) -> bool,
) -> Result<Read, String> {
    let place = until.place();
    let segments = scan::segments(audit).map_err(|error| error.to_string())?;
    let mut line = Vec::new();
    let unread = segments
        .iter()
        .filter(|(first_seq, _)| (first..=place.segment).contains(first_seq));
    for (first_seq, path) in unread {
        let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
        let file = File::open(path).map_err(failed)?;
        let end = if *first_seq == place.segment {
            place.offset
        } else {
            file.metadata().map_err(failed)?.len()
        };
        let mut lines = BufReader::with_capacity(64 << 10, file.take(end));
        let (mut began, mut stretch) = (Instant::now(), 0);
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                break;
            }
            let entry = line.strip_suffix(b"\n").unwrap_or(&line);
            if follower.append(Digest::leaf(entry)).is_err() {
                return Ok(Read::All);
            }
            stretch += line.len();
            if stretch >= STRETCH {
                if !goes_on(began.elapsed()) {
                    return Ok(Read::Stopped);
                }
                (began, stretch) = (Instant::now(), 0);
            }
        }
    }
    Ok(Read::All)
}

/// Something is wrong: a scan of the whole journal says what, with file and line.
fn located(audit: &Path, signed: &[Checkpoint]) -> String {
    let tree = pruned::beginning(audit).map(|first| first.tree).unwrap_or_default();
    let mut follower = Follower::new(tree, signed);
    match pruned::scan(audit, &mut |line| follower.visit(line)) {
        Err(error) => error.to_string(),
        Ok(_) => format!(
            "the journal is damaged: the entries in {} are not those that the index and the checkpoints were made from",
            audit.display()
        ),
    }
}

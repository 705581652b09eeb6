//! File descriptors set aside for what must go on when the process has run out of them: the ledger, the evidence of
//! payments and the admin socket (docs/architecture/0059).
//!
//! Connections can use up every descriptor. A server therefore sets some aside when it starts. Code that opens a file
//! here gives one of them up when there is no other, and it is replaced as soon as there is room.

use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

/// How many a server sets aside: the writer, the signer and the index at once, evidence, and some admin connections.
const SET_ASIDE: usize = 16;

/// Another thread may take the descriptor that was just given up.
const ATTEMPTS: usize = 4;

static SPARE: Mutex<Spare> = Mutex::new(Spare {
    wanted: 0,
    files: Vec::new(),
});

struct Spare {
    wanted: usize,
    files: Vec<File>,
}

/// Sets descriptors aside for the rest of this process. Fails if there is not even room for these.
pub fn set_aside() -> io::Result<()> {
    let mut spare = spare();
    spare.wanted = SET_ASIDE;
    spare.refill()
}

/// Opens something. If the process has run out of descriptors, gives up one that was set aside and tries again. Use what
/// is open only for a moment within `open` as well: then the one given up is replaced before others can take it.
pub fn opening<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut opened = open();
    for _ in 0..ATTEMPTS {
        match &opened {
            Err(error) if is_exhausted(error) && give_up() => opened = open(),
            _ => break,
        }
    }
    if opened.is_ok() {
        replace();
    }
    opened
}

/// Whether no descriptor was left, in this process or on this machine.
pub fn is_exhausted(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

/// Gives up one descriptor for what is opened next. `false`: none is left.
pub fn give_up() -> bool {
    spare().files.pop().is_some()
}

/// Replaces what was given up, as far as there is room.
pub fn replace() {
    let mut spare = spare();
    if spare.files.len() < spare.wanted {
        // There is still no room; the next call tries again.
        let _ = spare.refill();
    }
}

impl Spare {
    fn refill(&mut self) -> io::Result<()> {
        while self.files.len() < self.wanted {
            self.files.push(File::open("/dev/null")?);
        }
        Ok(())
    }
}

// After a panic of another holder the list is whole: it is only pushed to and popped from.
fn spare() -> MutexGuard<'static, Spare> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

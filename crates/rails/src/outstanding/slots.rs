//! One file of equal slots, one record each. A payment costs two writes in it and no change of a directory.
//!
//! A slot is written whole, from its first byte to its last, so that nothing of an earlier record remains and the kernel
//! never has to read the page first. The file grows by a step when no slot is free, and is cut after its last record at
//! the next start.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::record::{Mark, Stored};
use bursar_home::{self as home, HomeError, failed};

/// One page: a credential that repeats the seller's challenge usually has one to two kilobytes.
pub(super) const SLOT: usize = 4096;
/// How many slots the file grows by.
const STEP: u32 = 64;

pub(super) struct Slots {
    file: File,
    free: Mutex<Free>,
}

/// The right to one slot. Not `Clone`: a slot that is freed twice would be given to two payments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// Where a slot is.
#[derive(Clone, Copy)]
pub(super) struct At(u64);

#[derive(Default)]
struct Free {
    /// The last one freed is taken first: its page is in memory.
    slots: Vec<u32>,
    /// How many slots the file has.
    count: u32,
}

/// What the file held.
pub(super) struct Read {
    pub(super) records: Vec<(Slot, Stored)>,
    /// Slots that hold something, but not a whole record. They have been zeroed.
    pub(super) torn: usize,
}

impl Slots {
    /// Opens the file, reads all of it, and makes it a step long if it is shorter.
    pub(super) fn open(path: &Path) -> Result<(Self, Read), HomeError> {
        let file = home::open_private(path)?;
        let read = |source| failed("read", path, source);
        let length = file.metadata().map_err(read)?.len();
        let count = u32::try_from(length / SLOT as u64).unwrap_or(u32::MAX);
        let slots = Self {
            file,
            free: Mutex::default(),
        };
        let (mut records, mut empty, mut torn) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = Zeroizing::new(vec![0; SLOT]);
        for slot in 0..count {
            slots.file.read_exact_at(&mut bytes, offset(slot)).map_err(read)?;
            match Stored::decoded(&bytes) {
                Some(stored) => records.push((Slot(slot), stored)),
                None if bytes.iter().all(|byte| *byte == 0) => empty.push(slot),
                None => torn.push(slot),
            }
        }
        // Highest first, so that the lowest is taken first.
        empty.reverse();
        *slots.free() = Free { slots: empty, count };
        for slot in &torn {
            slots
                .clear(Slot(*slot))
                .map_err(|source| failed("write", path, source))?;
        }
        slots.fit(&records).map_err(|source| failed("write", path, source))?;
        let torn = torn.len();
        Ok((slots, Read { records, torn }))
    }

    /// Cuts the file after its last record, at a whole step.
    fn fit(&self, records: &[(Slot, Stored)]) -> io::Result<()> {
        let used = records.iter().map(|(slot, _)| slot.0 + 1).max().unwrap_or(0);
        let wanted = used.max(1).next_multiple_of(STEP);
        let mut free = self.free();
        if free.count > wanted {
            self.file.set_len(offset(wanted))?;
            free.count = wanted;
            free.slots.retain(|slot| *slot < wanted);
        }
        while free.count < wanted {
            if let Err(error) = self.grow(&mut free) {
                // A full disk must not keep the server from starting: free traffic needs no slots.
                tracing::warn!(%error, "no room was set aside for credentials yet; each payment tries again");
                break;
            }
        }
        Ok(())
    }

    /// Writes a record into a free slot. A failed write frees it again.
    pub(super) fn put(&self, mut record: Vec<u8>) -> io::Result<Slot> {
        record.resize(SLOT, 0);
        let slot = self.take()?;
        match self.file.write_all_at(&record, offset(slot.0)) {
            Ok(()) => Ok(slot),
            Err(error) => {
                // What was written of it is torn, and the next record replaces it.
                self.free().slots.push(slot.0);
                Err(error)
            }
        }
    }

    pub(super) fn mark(&self, At(at): At, mark: Mark) -> io::Result<()> {
        let (within, byte) = mark.byte();
        self.file.write_all_at(&[byte], at + within as u64)
    }

    /// Zeroes a slot and frees it. It is freed even if that fails: its record is of a payment that has ended, which the
    /// next start finds out from the ledger.
    pub(super) fn clear(&self, Slot(slot): Slot) -> io::Result<()> {
        const ZEROS: [u8; SLOT] = [0; SLOT];
        let zeroed = self.file.write_all_at(&ZEROS, offset(slot));
        self.free().slots.push(slot);
        zeroed
    }

    fn take(&self) -> io::Result<Slot> {
        let mut free = self.free();
        if free.slots.is_empty() {
            self.grow(&mut free)?;
        }
        free.slots
            .pop()
            .map(Slot)
            .ok_or_else(|| io::Error::other("no slot is free"))
    }

    /// Zeros that are written, not a hole: what is written into them later needs no new blocks.
    fn grow(&self, free: &mut Free) -> io::Result<()> {
        let count = free
            .count
            .checked_add(STEP)
            .ok_or_else(|| io::Error::other("the file has as many slots as it can"))?;
        self.file
            .write_all_at(&vec![0; STEP as usize * SLOT], offset(free.count))?;
        free.slots.extend((free.count..count).rev());
        free.count = count;
        Ok(())
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn at(&self) -> At {
        At(offset(self.0))
    }
}

fn offset(slot: u32) -> u64 {
    u64::from(slot) * SLOT as u64
}

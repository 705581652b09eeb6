//! The disk alone: what a plain program pays to write the same bytes.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use crate::Fault;
use crate::report::Lap;

/// Bytes of a reservation with five charges, and of its settlement.
const PAIR: [usize; 2] = [1200, 260];

pub(crate) struct Bare {
    /// One append and `fdatasync`.
    pub sync: Lap,
    /// Two of them.
    pub pair: Lap,
}

/// Appends to a file that is long enough already, as the journal does.
pub(crate) fn syncs(dir: &Path, pairs: usize) -> Result<Bare, Fault> {
    let path = dir.join("bare");
    let file = File::create(&path)?;
    file.write_all_at(&vec![b'\n'; PAIR.iter().sum::<usize>() * pairs], 0)?;
    file.sync_all()?;
    let (mut syncs, mut both, mut at) = (Vec::new(), Vec::new(), 0);
    for _ in 0..pairs {
        let began = Instant::now();
        for length in PAIR {
            let single = Instant::now();
            file.write_all_at(&vec![b'x'; length], at)?;
            file.sync_data()?;
            at += length as u64;
            syncs.push(single.elapsed());
        }
        both.push(began.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(Bare {
        sync: Lap::of(syncs),
        pair: Lap::of(both),
    })
}

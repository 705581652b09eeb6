//! What commands that read the journal do about its signed checkpoints (R53): nothing of a damaged journal is printed, and
//! one that cannot be compared is printed with a note and exit code 3.

use super::output::note;
use super::{Exit, Failure};
use bursar_ledger::{Compared, Comparison, ReadError};

/// What was read, and the exit code so far.
pub(super) fn read<T>(compared: Result<Compared<T>, ReadError>) -> Result<(T, Exit), Failure> {
    let Compared { read, comparison } = compared.map_err(damaged)?;
    Ok((read, noted(comparison)))
}

/// What was read by a command that has already compared, or that has a further check ahead.
pub(super) fn read_again<T>(compared: Result<Compared<T>, ReadError>) -> Result<T, Failure> {
    Ok(compared.map_err(damaged)?.read)
}

/// Notes on stderr that the journal could not be compared.
pub(super) fn noted(comparison: Comparison) -> Exit {
    match comparison {
        Comparison::Matches => Exit::Done,
        Comparison::NotPossible(why) => unverified(&why),
    }
}

/// Notes on stderr why the journal could not be compared.
pub(super) fn unverified(why: &str) -> Exit {
    note!("bursar: could not check whether entries of the journal are missing or were changed: {why}");
    Exit::Unverifiable
}

pub(super) fn damaged(error: ReadError) -> Failure {
    Failure::negative(error.to_string())
}

//! Output on stdout. `println!` panics when the reader has gone (`bursar payments list | head`) or the disk is full;
//! here the first is not an error, and the second is reported as one.

use std::fmt;
use std::io::{ErrorKind, Write};

use super::Failure;

/// Writes and flushes, so that a script waiting for a line gets it.
pub(super) fn print(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        // The reader has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::negative(format!("cannot write to stdout: {error}"))),
    }
}

/// One JSON value on one line.
pub(super) fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(|error| Failure::negative(error.to_string()))?;
    print(format_args!("{line}\n"))
}

/// [`print()`] with a newline.
macro_rules! say {
    () => { $crate::cli::output::print(format_args!("\n")) };
    ($($text:tt)+) => { $crate::cli::output::print(format_args!("{}\n", format_args!($($text)+))) };
}
pub(super) use say;

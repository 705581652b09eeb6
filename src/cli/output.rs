//! What a command says on stdout. `println!` panics when the reader has gone (`bursar payments list | head`) or the disk is
//! full; here the first is no error and the second is one.

use std::fmt;
use std::io::{ErrorKind, Write};

use super::Failure;

/// Writes and flushes, so that a script that waits for a line gets it.
pub fn print(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        // Whoever was reading has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::negative(format!("cannot write to stdout: {error}"))),
    }
}

/// [`print()`] with a line end.
macro_rules! say {
    () => { $crate::cli::output::print(format_args!("\n")) };
    ($($text:tt)+) => { $crate::cli::output::print(format_args!("{}\n", format_args!($($text)+))) };
}
pub(super) use say;

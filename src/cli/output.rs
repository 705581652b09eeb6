//! Output on stdout and stderr. `println!` panics when the reader has gone (`bursar payments list | head`) or the disk is
//! full; here the first is not an error, and the second is reported as one. All of it is made plain first (R78), so
//! that a value which a command did not expect from others cannot move the cursor or hide a line.

use std::fmt;
use std::io::{ErrorKind, Write};

use super::Failure;
use bursar_core::plain::{plain_json, plain_lines};

/// Writes and flushes, so that a script waiting for a line gets it.
pub(super) fn print(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    print_exact(&plain_lines(&text.to_string()))
}

/// Without escapes: for a shell, which must get a path as it is.
pub(super) fn print_exact(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::negative(format!("cannot write to stdout: {error}"))),
    }
}

/// One JSON value on one line. What a terminal would act on is written as `\u202e` and the like, which is the same JSON.
pub(super) fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(|error| Failure::negative(error.to_string()))?;
    print_exact(&format!("{}\n", plain_json(&line)))
}

/// Writes to stderr. If nobody reads it, there is nobody to notify.
pub(super) fn print_note(text: fmt::Arguments<'_>) {
    let _ = std::io::stderr()
        .lock()
        .write_all(plain_lines(&text.to_string()).as_bytes());
}

/// [`print()`] with a newline.
macro_rules! say {
    () => { $crate::cli::output::print(format_args!("\n")) };
    ($($text:tt)+) => { $crate::cli::output::print(format_args!("{}\n", format_args!($($text)+))) };
}
pub(super) use say;

/// [`print_note()`] with a newline.
macro_rules! note {
    ($($text:tt)+) => { $crate::cli::output::print_note(format_args!("{}\n", format_args!($($text)+))) };
}
pub(super) use note;

//! The log on stderr: one line for each event, whatever its values contain (R78).

use std::fmt::{self, Debug};
use std::io::IsTerminal;
use std::str::FromStr;

use tracing::Level;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::prelude::*;

use super::Failure;
use bursar_core::plain::plain;

pub(super) fn log_to_stderr(levels: &str) -> Result<(), Failure> {
    let filter = Targets::from_str(levels)
        .map_err(|error| Failure::usage(format!("--log {levels}: {error}; try for example --log debug")))?;
    // `--log bursar_ledger=debug` names one module only; all others still log warnings.
    let filter = match filter.default_level() {
        Some(_) => filter,
        None => filter.with_default(Level::WARN),
    };
    let layer = tracing_subscriber::fmt::layer()
        .fmt_fields(PlainFields)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    Ok(())
}

/// The message, then `name=value` for each other field, all of it plain.
struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line {
            writer,
            is_empty: true,
            written: Ok(()),
        };
        fields.record(&mut line);
        line.written
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    written: fmt::Result,
}

impl Line<'_> {
    fn write(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if !self.is_empty {
            self.writer.write_char(' ')?;
        }
        self.is_empty = false;
        if name != "message" {
            match self.writer.has_ansi_escapes() {
                true => write!(self.writer, "\x1b[3m{name}\x1b[0m=")?,
                false => write!(self.writer, "{name}=")?,
            }
        }
        self.writer.write_str(&plain(&format!("{value:?}")))
    }
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // What crates that use `log` say about themselves is in the event's metadata already.
        if self.written.is_ok() && !field.name().starts_with("log.") {
            self.written = self.write(field.name(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_value_begins_a_line_or_reaches_the_terminal() {
        let written = Written::default();
        let writer = written.clone();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(PlainFields)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false);
        let hostile = "a\n2026-01-01 INFO paid\u{9b}1A\u{202e}\x1b[2J";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(host = %hostile, path = hostile, count = 3, "asked {hostile}");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let shown = "a\\n2026-01-01 INFO paid\\u{9b}1A\\u{202e}\\u{1b}[2J";
        assert_eq!(
            text,
            format!(" INFO asked {shown} host={shown} path=\"{shown}\" count=3\n")
        );
    }
}

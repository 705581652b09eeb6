//! Aligned text for people: how wide the terminal is, whether it shows colours, columns.

use std::io::IsTerminal;

/// How text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// In characters.
    pub width: usize,
    pub is_terminal: bool,
    pub has_colours: bool,
}

/// Where stdout is no terminal.
const USUAL: usize = 100;

impl Look {
    pub(super) fn of_stdout() -> Self {
        let out = std::io::stdout();
        let is_terminal = out.is_terminal();
        let size = rustix::termios::tcgetwinsize(&out).ok().filter(|_| is_terminal);
        let width = size.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
        Self {
            width: width.unwrap_or(USUAL),
            is_terminal,
            has_colours: is_terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
        }
    }

    /// Where nobody can say how wide lines may be.
    pub(super) const fn of_no_terminal() -> Self {
        Self {
            width: USUAL,
            is_terminal: false,
            has_colours: false,
        }
    }

    pub(super) fn coloured(self, text: &str, colour: Colour) -> String {
        match self.has_colours && !text.is_empty() {
            true => format!("\x1b[{}m{text}\x1b[0m", colour.code()),
            false => text.to_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Settled,
    Doubt,
    Held,
    Warning,
}

impl Colour {
    const fn code(self) -> &'static str {
        match self {
            Self::Settled => "32",
            Self::Doubt => "33",
            Self::Held => "36",
            Self::Warning => "31",
        }
    }
}

/// Which side of its column a text stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Rows of equally many cells, each column as wide as its widest cell, two spaces between them.
pub(super) fn columns(rows: &[Vec<String>], sides: &[Side]) -> Vec<String> {
    let wide = |column: usize| {
        rows.iter()
            .filter_map(|row| Some(row.get(column)?.chars().count()))
            .max()
    };
    let widths: Vec<usize> = (0..sides.len()).map(|column| wide(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .zip(sides)
            .map(|((cell, width), side)| match side {
                Side::Left => format!("{cell:<width$}"),
                Side::Right => format!("{cell:>width$}"),
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |one: &str, two: &str| vec![one.to_owned(), two.to_owned()];
        let rows = [row("a", "1.00"), row("österreich", "12.00")];
        assert_eq!(
            columns(&rows, &[Side::Left, Side::Right]),
            ["a            1.00", "österreich  12.00"]
        );
    }
}

//! Aligned text for people: how wide the terminal is, whether it shows colours, bars, columns.

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

/// How many of `width` places each part of `whole` takes, one after the other: rounded up, and at least one, so that a
/// little is seen.
pub(super) fn places(parts: &[u128], whole: u128, width: usize) -> Vec<usize> {
    let (mut sum, mut taken) = (0u128, 0usize);
    // Those that come after it and have to be seen, too.
    let later = |number: usize| parts.iter().skip(number + 1).filter(|part| **part > 0).count();
    let wide = u128::try_from(width).unwrap_or(u128::MAX);
    parts
        .iter()
        .enumerate()
        .map(|(number, part)| {
            sum = sum.saturating_add(*part);
            let end = match whole {
                0 if sum > 0 => width,
                0 => 0,
                // Divided first where the product would not fit: a bar shows no more than its places.
                whole => match sum.checked_mul(wide) {
                    Some(product) => usize::try_from(product.div_ceil(whole)).unwrap_or(width),
                    None => usize::try_from(sum.div_ceil((whole / wide.max(1)).max(1))).unwrap_or(width),
                },
            };
            let end = match *part {
                0 => taken,
                _ => end.max(taken + 1).min(width.saturating_sub(later(number))),
            };
            let places = end.saturating_sub(taken);
            taken = end;
            places
        })
        .collect()
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
    fn a_bar_shows_a_little_and_never_more_than_all() {
        assert_eq!(places(&[0, 0, 0], 100, 20), [0, 0, 0]);
        assert_eq!(places(&[1, 0, 0], 1_000_000, 20), [1, 0, 0]);
        assert_eq!(places(&[1, 1, 1], 1_000_000, 20), [1, 1, 1]);
        assert_eq!(places(&[50, 25, 25], 100, 20), [10, 5, 5]);
        assert_eq!(places(&[100, 10, 10], 100, 20), [18, 1, 1], "over the limit");
        assert_eq!(places(&[5, 0, 0], 0, 20), [20, 0, 0], "a limit of nothing");
        assert_eq!(places(&[u128::MAX, 1, 0], u128::MAX, 20), [19, 1, 0]);
        assert_eq!(
            places(&[u128::MAX / 2, 0, u128::MAX / 2], u128::MAX, 20)
                .iter()
                .sum::<usize>(),
            20
        );
    }

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

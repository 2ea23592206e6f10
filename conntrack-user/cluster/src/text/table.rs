//! Columns.

use std::fmt::Write as _;

use ctpressure_model::words::shorten;

use super::Look;

/// A column: its name, and its columns at most; numbers stand at the right.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) most: usize,
    pub(super) right: bool,
}

pub(super) const fn left(name: &'static str, most: usize) -> Column {
    Column {
        name,
        most,
        right: false,
    }
}

pub(super) const fn right(name: &'static str, most: usize) -> Column {
    Column {
        name,
        most,
        right: true,
    }
}

/// One row, and how bad it is.
pub(super) struct Row<const N: usize> {
    pub(super) cells: [String; N],
    pub(super) grave: u8,
}

/// The rows below their names, each column as wide as what is in it. What anybody may name is cleaned, and cut in its middle.
pub(super) fn table<const N: usize>(
    out: &mut String,
    look: Look,
    columns: &[Column; N],
    rows: &[Row<N>],
) {
    let cells: Vec<[String; N]> = rows
        .iter()
        .map(|row| std::array::from_fn(|at| shorten(&row.cells[at], columns[at].most)))
        .collect();
    let width = |at: usize| {
        let cells = cells.iter().map(|row| row[at].chars().count());
        cells.chain([columns[at].name.len()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (at, cell) in cells.into_iter().enumerate() {
            let (width, gap) = (widths[at], if at == 0 { "" } else { "  " });
            let _ = if columns[at].right {
                write!(line, "{gap}{cell:>width$}")
            } else {
                write!(line, "{gap}{cell:<width$}")
            };
        }
        line.trim_end().to_owned()
    };
    let names = line(std::array::from_fn(|at| columns[at].name));
    let _ = writeln!(out, "{}", look.heading(&names));
    for (row, cells) in rows.iter().zip(&cells) {
        let text = line(std::array::from_fn(|at| cells[at].as_str()));
        let _ = writeln!(out, "{}", look.grave(&text, row.grave));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_needed_and_no_wider_than_allowed() {
        let columns = [left("node", 6), right("entries", 9)];
        let row = |node: &str, entries: &str| Row {
            cells: [node.to_owned(), entries.to_owned()],
            grave: 0,
        };
        let rows = [
            row("a", "1"),
            row("a-long-name", "12,345"),
            row("\u{1b}[2J", ""),
        ];
        let mut out = String::new();
        table(&mut out, Look { colour: false }, &columns, &rows);
        assert_eq!(
            out,
            "node    entries\na             1\na-l…me   12,345\n\u{fffd}[2J\n"
        );
    }
}

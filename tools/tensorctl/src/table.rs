//! Rows in columns, text to the left and figures to the right.

use std::io::{self, Write};

/// How a column stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Figures.
    Right,
}

/// Prints a table with a head. A last column of text is not padded.
pub fn print(out: &mut impl Write, head: &[(&str, Align)], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = head.iter().map(|(name, _)| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let names: Vec<String> = head.iter().map(|(name, _)| (*name).to_owned()).collect();
    for row in std::iter::once(&names).chain(rows) {
        let mut line = String::new();
        for (((_, align), cell), width) in head.iter().zip(row).zip(&widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let gap = " ".repeat(width - cell.chars().count());
            match align {
                Align::Left => line.extend([cell.as_str(), &gap]),
                Align::Right => line.extend([&gap, cell.as_str()]),
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut out = Vec::new();
        let head = [
            ("NAME", Align::Left),
            ("N", Align::Right),
            ("WHO", Align::Left),
        ];
        let rows =
            [["ä", "10", "x"], ["longer", "2", ""]].map(|row| row.map(str::to_owned).to_vec());
        print(&mut out, &head, &rows).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME     N  WHO\nä       10  x\nlonger   2\n"
        );
    }
}

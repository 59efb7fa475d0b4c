//! Numbers and times as people read them, and tables that fit the terminal.

use comfy_table::presets;
use comfy_table::{CellAlignment, ContentArrangement, Table};

/// A count in at most five characters: `999`, `1.2k`, `12.3M`.
pub(super) fn count(value: f64) -> String {
    scaled(value, &["", "k", "M", "G", "T", "P", "E"])
}

/// Bits per second from bytes per second.
pub(super) fn bits(bytes_per_s: f64) -> String {
    scaled(bytes_per_s * 8.0, &["", "k", "M", "G", "T", "P", "E"]) + "bit"
}

fn scaled(value: f64, units: &[&str]) -> String {
    let mut value = value.max(0.0);
    let mut units = units.iter().peekable();
    loop {
        let unit = units.next().copied().unwrap_or_default();
        // 999.95 would be written as 1000.0.
        if value < 999.95 || units.peek().is_none() {
            let whole = unit.is_empty() && value.fract() == 0.0;
            return if whole { format!("{value:.0}") } else { format!("{value:.1}{unit}") };
        }
        value /= 1000.0;
    }
}

/// A round trip: `180 us`, `12.3 ms`, `1.2 s`.
pub(super) fn microseconds(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} us"),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// A time in its two largest units: `59 s`, `1 h 2 min`, `3 d 4 h`.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// What stands where there is no value.
pub(super) const NOTHING: &str = "-";

/// The value, or what stands for none.
pub(super) fn or_nothing<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NOTHING.to_owned(), text)
}

/// How a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under headings, at most `width` columns wide; longer cells are broken into lines.
pub(super) fn table(
    headings: &[(&str, Align)],
    rows: impl IntoIterator<Item = Vec<String>>,
    width: u16,
) -> String {
    let mut table = bare_table(width);
    table.set_header(headings.iter().map(|(heading, _)| heading.to_uppercase()));
    table.add_rows(rows);
    for (column, (_, align)) in table.column_iter_mut().zip(headings) {
        if *align == Align::Right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    finish(&mut table)
}

/// Values after their names.
pub(super) fn fields(rows: impl IntoIterator<Item = (String, String)>, width: u16) -> String {
    let mut table = bare_table(width);
    table.add_rows(rows.into_iter().map(|(name, value)| vec![name, value]));
    finish(&mut table)
}

/// A sentence, broken between words.
pub(super) fn paragraph(text: &str, width: u16) -> String {
    let mut table = bare_table(width);
    table.add_row([text]);
    finish(&mut table)
}

fn bare_table(width: u16) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table
}

/// Two spaces between columns, and none at the edges.
fn finish(table: &mut Table) -> String {
    let last = table.column_count().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (999.0, "999"),
            (1000.0, "1.0k"),
            (999_940.0, "999.9k"),
            (999_990.0, "1.0M"),
            (1.5e21, "1500.0E"),
            (-1.0, "0"),
        ] {
            assert_eq!(count(value), text);
        }
        assert_eq!(bits(125_000_000.0), "1.0Gbit");
    }

    #[test]
    fn times_have_their_two_largest_units() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_725, "1 h 2 min"), (273_600, "3 d 4 h")]
        {
            assert_eq!(duration(seconds), text);
        }
        for (us, text) in [(0, "0 us"), (9_999, "9999 us"), (12_345, "12.3 ms"), (1_234_567, "1.2 s")] {
            assert_eq!(microseconds(us), text);
        }
    }

    #[test]
    fn tables_align_and_fit() {
        let headings = [("name", Align::Left), ("n", Align::Right)];
        let rows = [vec!["beta".to_owned(), "7".to_owned()], vec!["a".to_owned(), "100".to_owned()]];
        assert_eq!(table(&headings, rows, 80), "NAME    N\nbeta    7\na     100\n");
        let long = vec!["word ".repeat(30), "1".to_owned()];
        for width in [20, 40, 80] {
            let text = table(&headings, [long.clone()], width);
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
            assert_eq!(text.matches("word").count(), 30);
        }
        assert_eq!(paragraph("one two three", 9), "one two\nthree\n");
    }
}

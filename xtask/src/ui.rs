//! What a person sees: lines, colours, progress. Owns the choice between terminal and plain
//! output; knows nothing of what is being shown.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressStyle};

/// Prints one line to standard output. A reader that went away (`| head`) is not an error.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints one line to standard error, as a remark that does not belong to the result.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

pub(crate) fn error(line: &str) {
    note(&format!("{} {line}", paint(Colour::Red, "error:")));
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Colour {
    Red,
    Green,
    Yellow,
    Cyan,
    Bold,
    Dim,
}

/// `text` in `colour` where both outputs are terminals and NO_COLOR is not set, else plain.
pub(crate) fn paint(colour: Colour, text: &str) -> String {
    if !is_coloured() {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Red => "31;1",
        Colour::Green => "32;1",
        Colour::Yellow => "33;1",
        Colour::Cyan => "36",
        Colour::Bold => "1",
        Colour::Dim => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

fn is_coloured() -> bool {
    static COLOURED: OnceLock<bool> = OnceLock::new();
    *COLOURED.get_or_init(|| {
        std::env::var_os("NO_COLOR").is_none()
            && std::io::stdout().is_terminal()
            && std::io::stderr().is_terminal()
    })
}

/// What a terminal of a usual size shows in one line.
pub(crate) const WIDTH: u16 = 100;

/// A table of at most `WIDTH` characters: the first `texts` columns to the left, the others, which
/// hold numbers, to the right.
pub(crate) fn table(header: &[&str], texts: usize) -> Table {
    const STYLE: TableStyle = TableStyle::new()
        .header_separator(LineStyle::new('─', '─', '─', '─'))
        .bottom_border(LineStyle::new('─', '─', '─', '─'));
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        if index < texts {
            column.set_padding((0, 1));
        } else {
            column.set_padding((1, 0)).set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// One piece of work that takes a while: a spinner on a terminal, else a line when it starts.
#[derive(Debug)]
pub(crate) struct Task {
    bar: ProgressBar,
    label: String,
    started: Instant,
}

impl Task {
    pub(crate) fn start(label: &str) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_message(label.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        } else {
            note(&format!("  {label} ..."));
            ProgressBar::hidden()
        };
        Self { bar, label: label.to_owned(), started: Instant::now() }
    }

    /// Replaces the spinner by a line that says that it is done.
    pub(crate) fn done(self) {
        self.bar.finish_and_clear();
        let took_s = self.started.elapsed().as_secs_f64();
        note(&format!("{} {} ({took_s:.1} s)", paint(Colour::Green, "✓"), self.label));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

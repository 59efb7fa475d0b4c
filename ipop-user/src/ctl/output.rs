//! Where commands print: standard output, or a buffer in tests.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Columns where nobody says how many there are.
const WIDTH_DEFAULT: u16 = 80;
const HEIGHT_DEFAULT: u16 = 24;
/// Less than this no table can be broken into.
const WIDTH_MIN: u16 = 40;

/// A place to print to, its size, and the form to print in.
pub(super) struct Output<'a> {
    writer: &'a mut dyn Write,
    pub(super) json: bool,
    pub(super) is_terminal: bool,
    fixed_width: Option<u16>,
}

impl<'a> Output<'a> {
    pub(super) fn stdout(stdout: &'a mut io::StdoutLock<'_>, json: bool) -> Self {
        let is_terminal = stdout.is_terminal();
        let fixed_width = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        Self { writer: stdout, json, is_terminal, fixed_width: fixed_width.filter(|_| !is_terminal) }
    }

    /// Columns that a line may have.
    pub(super) fn width(&self) -> u16 {
        let of_terminal = || self.is_terminal.then(|| crossterm::terminal::size().ok()).flatten();
        self.fixed_width
            .or_else(|| of_terminal().map(|(columns, _)| columns))
            .unwrap_or(WIDTH_DEFAULT)
            .max(WIDTH_MIN)
    }

    /// Lines that fit on the terminal.
    pub(super) fn height(&self) -> usize {
        usize::from(crossterm::terminal::size().map_or(HEIGHT_DEFAULT, |(_, lines)| lines))
    }

    /// Prints text that has its line ends, at once.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes())?;
        self.writer.flush()
    }

    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        self.text(&format!("{line}\n"))
    }

    /// Prints a value as JSON, for people's eyes.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.line(&text)
    }

    /// Prints a value as one line of JSON, for a series of values.
    pub(super) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        self.line(&text)
    }

    /// Prints a value as JSON if that was asked for, and else what `render` makes of it.
    pub(super) fn show<T: Serialize>(
        &mut self,
        value: &T,
        render: impl FnOnce(&T, u16) -> String,
    ) -> io::Result<()> {
        if self.json {
            return self.json(value);
        }
        let text = render(value, self.width());
        self.text(&text)
    }
}

//! What is wrong with a configuration file, where, and what to do about it: one line each.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One mistake, or one warning. Displayed as `FILE:LINE:COLUMN: REASON; ADVICE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// Counted from 1.
    pub line: Option<usize>,
    /// Characters, counted from 1.
    pub column: Option<usize>,
    pub reason: String,
    pub advice: String,
}

impl Problem {
    /// A problem with the file as a whole.
    pub fn new(file: &Path, reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, column: None, reason: reason.into(), advice: advice.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        for place in [self.line, self.column].into_iter().flatten() {
            write!(f, "{place}:")?;
        }
        // What a file says can hold line breaks and terminal codes; a message is one plain line.
        let message = format!(" {}; {}", self.reason, self.advice);
        for c in message.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

/// Everything that keeps a configuration from being used: at least one problem, in the order of
/// the file. Displayed one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }

    /// `None` if there are no problems.
    pub(super) fn new(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        (!problems.is_empty()).then_some(Self(problems))
    }
}

impl From<Problem> for ConfigErrors {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The text that spans point into, and its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) path: &'a Path,
}

impl Source<'_> {
    /// A problem at a place in the text.
    pub(super) fn problem(
        &self,
        span: &Range<usize>,
        reason: impl Into<String>,
        advice: impl Into<String>,
    ) -> Problem {
        let (line, column) = self.position(span.start);
        Problem { line: Some(line), column: Some(column), ..Problem::new(self.path, reason, advice) }
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.position(span.start).0
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (1 + before.matches('\n').count(), 1 + before[line_start..].chars().count())
    }
}

//! Counting over many test runners: reads what libtest prints, adds what was skipped. Pure.

use std::fmt::Write as _;

/// Counts so far, with the names of what did not pass.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    failures: Vec<String>,
    skips: Vec<String>,
    /// The list that a runner prints last under "failures:", while it is being read.
    list: Option<Vec<String>>,
}

impl Tally {
    /// Takes one line of libtest's output into account.
    pub(crate) fn read_line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ").and_then(parse_counts) {
            let [passed, failed, ignored] = counts;
            self.passed += passed;
            self.failed += failed;
            self.ignored += ignored;
            self.failures.extend(self.list.take().into_iter().flatten());
        } else if line == "failures:" {
            // Printed twice: before what the failed tests have said, then before their names.
            self.list = Some(Vec::new());
        } else if let Some((name, reason)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored"))
        {
            self.skips.push(describe(name, reason.trim_start_matches(", ")));
        } else if let (Some(list), Some(name)) = (&mut self.list, line.strip_prefix("    ")) {
            list.push(name.to_owned());
        }
    }

    /// A run that failed although no test of it has: it did not compile, or a runner died.
    pub(crate) fn note_failed_run(&mut self, what: &str) {
        if self.failed == 0 {
            self.fail(what);
        }
    }

    /// Tests that found out while running that they cannot run here: they have reported success
    /// to libtest, and written `NAME: REASON` into `list`.
    pub(crate) fn skip_listed(&mut self, list: &str) {
        for line in list.lines().filter(|line| !line.trim().is_empty()) {
            self.passed = self.passed.saturating_sub(1);
            self.ignored += 1;
            self.skips.push(line.to_owned());
        }
    }

    /// Something passed that is no test of a runner.
    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    /// As [`Self::pass`], for what failed.
    pub(crate) fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.failures.push(what.to_owned());
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    pub(crate) fn skips(&self) -> &[String] {
        &self.skips
    }

    pub(crate) fn ran_nothing(&self) -> bool {
        self.passed + self.failed + self.ignored == 0
    }

    pub(crate) fn is_good(&self) -> bool {
        self.failed == 0 && !self.ran_nothing()
    }

    pub(crate) fn closing_line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.ignored)
    }
}

fn describe(name: &str, reason: &str) -> String {
    let mut text = name.to_owned();
    if !reason.is_empty() {
        let _ = write!(text, ": {reason}");
    }
    text
}

/// `ok. 5 passed; 0 failed; 1 ignored; ..` as passed, failed, ignored.
fn parse_counts(result: &str) -> Option<[u64; 3]> {
    let (_, counts) = result.split_once(". ")?;
    let count = |name: &str| {
        let part = counts.split("; ").find(|part| part.ends_with(name))?;
        part.split(' ').next()?.parse().ok()
    };
    Some([count(" passed")?, count(" failed")?, count(" ignored")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test wire::empty ... ok
test wire::short ... FAILED
test vm::boots_6_1 ... ignored, qemu is missing

failures:

---- wire::short stdout ----
test result: this line is a test's own output
    and so is this one

failures:
    wire::short

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.50s
";

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read_line(line));
        tally
    }

    #[test]
    fn runners_are_added_up() {
        let tally = tally(OUTPUT);
        assert_eq!(tally.closing_line(), "41 passed, 1 failed, 1 skipped");
        assert_eq!(tally.failures(), ["wire::short"]);
        assert_eq!(tally.skips(), ["vm::boots_6_1: qemu is missing"]);
        assert!(!tally.is_good());
    }

    #[test]
    fn a_run_that_dies_without_a_failed_test_fails() {
        let mut tally = tally("test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n");
        assert!(tally.is_good());
        tally.note_failed_run("cargo test ended with signal 11");
        assert_eq!(tally.closing_line(), "4 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn tests_that_skip_themselves_do_not_count_as_passed() {
        let mut tally = tally("test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n");
        tally.skip_listed("netns::xdp: this kernel has no native XDP\n\n");
        assert_eq!(tally.closing_line(), "3 passed, 0 failed, 1 skipped");
        assert_eq!(tally.skips(), ["netns::xdp: this kernel has no native XDP"]);
    }

    #[test]
    fn nothing_run_is_not_good() {
        assert!(!tally("running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\n").is_good());
    }
}

//! `--fuzz SECONDS`: builds the fuzz targets with libFuzzer, lets each look for new input for a
//! while, and says of an input that fails where it is and how to repeat it.
//!
//! libFuzzer, because it works with the stable compiler and no clang: rustc's own LLVM counts the
//! edges, the `libfuzzer-sys` crate brings libFuzzer's source and compiles it with any C++ compiler,
//! and comparisons are traced, so that magic numbers are found and not guessed. (AFL++ needs a
//! compiler plug-in and a changed core_pattern, bolero's own engine mutates blindly.) What needs a
//! nightly compiler are sanitizers; the targets are safe Rust.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::tally::Tally;
use crate::ui::{Colour, paint};
use crate::{sh, stop, ui, workspace};

const PACKAGE: &str = "ipop-tests";
const PROGRAM: &str = "ipop-fuzz";
/// Each target has a folder of inputs here.
const CORPUS: &str = "tests/fuzz/corpus";
/// Some have words for the mutator here.
const DICTIONARIES: &str = "tests/fuzz";
/// Tells the program its target; see tests/fuzz/driver.rs.
const TARGET_VARIABLE: &str = "IPOP_FUZZ_TARGET";
/// Tells the tests to replay one input; see tests/fuzz/main.rs.
const INPUT_VARIABLE: &str = "IPOP_FUZZ_INPUT";

/// Counts edges, traces comparisons, and keeps the checks that a release build leaves out. All are
/// options of the stable compiler.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Folded branches are edges that are not counted.
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

/// An input that takes longer is a finding too.
const INPUT_SECONDS_MAX: u32 = 10;
/// As is one that takes more memory.
const MEMORY_MIB_MAX: u32 = 2048;
/// What is kept of libFuzzer's output: a panic's message stands before its stack and statistics.
const LINES_KEPT: usize = 100;

/// Fuzzes every target whose name contains one of `filters`, `seconds` each.
pub(super) fn run(seconds: u64, filters: &[String], tally: &mut Tally) -> Result<()> {
    let targets = targets(filters)?;
    if targets.is_empty() {
        return Ok(());
    }
    let program = build()?;
    for (index, target) in targets.iter().enumerate() {
        stop::check()?;
        let task = ui::Task::start(&format!(
            "fuzzing {} for {seconds} s, {} of {}",
            target.test,
            index + 1,
            targets.len()
        ));
        let outcome = target.run(&program, seconds)?;
        task.done();
        report(target, &outcome, tally);
    }
    Ok(())
}

/// A fuzz target and where its files are.
#[derive(Debug)]
struct Target {
    /// Name of the folder of its corpus.
    name: String,
    /// Name of the test that replays the corpus.
    test: String,
}

fn targets(filters: &[String]) -> Result<Vec<Target>> {
    let folder = workspace::root().join(CORPUS);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let targets = names.into_iter().map(|name| Target { test: format!("fuzz::{name}"), name });
    // As libtest filters.
    let wanted = |test: &str| filters.is_empty() || filters.iter().any(|filter| test.contains(filter));
    Ok(targets.filter(|target| wanted(&target.test)).collect())
}

/// Compiles the program that has all targets; cargo's own progress is shown.
fn build() -> Result<PathBuf> {
    if sh::find("c++").is_none() {
        bail!("fuzzing needs a C++ compiler, which builds libFuzzer: run `apt-get install g++`");
    }
    let host = host()?;
    let folder = folder()?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", PACKAGE, "--bin", PROGRAM, "--features", "fuzz", "--release"]);
    // Named, so that build scripts are compiled without the counters.
    cargo.args(["--target", &host, "--config", "profile.release.lto=\"off\"", "--target-dir"]).arg(&folder);
    cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    sh::inherit(&mut cargo)?;
    Ok(folder.join(host).join("release").join(PROGRAM))
}

/// The target triple of this machine's compiler.
fn host() -> Result<String> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let version = sh::capture(rustc.current_dir(workspace::root()).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say what it compiles for")?.to_owned())
}

/// Where programs, found inputs and failing inputs are.
fn folder() -> Result<PathBuf> {
    Ok(workspace::target()?.join("fuzz"))
}

/// What one run has brought.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    tried: u64,
    /// Edges of the program that some input has reached.
    edges: u64,
    failure: Option<Failure>,
}

#[derive(Debug, PartialEq, Eq)]
struct Failure {
    /// The failing input.
    input: PathBuf,
    /// Why: a panic's place and message, or what libFuzzer says of time and memory.
    reason: Vec<String>,
}

impl Target {
    fn run(&self, program: &Path, seconds: u64) -> Result<Outcome> {
        let folder = folder()?;
        let found = folder.join("corpus").join(&self.name);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let mut command = Command::new(program);
        command
            .env(TARGET_VARIABLE, &self.name)
            .env("RUST_BACKTRACE", "0")
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
            .arg(format!("-artifact_prefix={}/{}-", folder.display(), self.name))
            .arg("-print_final_stats=1");
        let dictionary = workspace::root().join(DICTIONARIES).join(format!("{}.dict", self.name));
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        // New inputs go into the first folder; both are read.
        command.arg(&found).arg(workspace::root().join(CORPUS).join(&self.name));
        sh::ends_with_us(&mut command);
        let shown = sh::shown(&command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let lines = last_lines(child.stderr.take().context("libFuzzer has no output")?)?;
        let status = child.wait().with_context(|| format!("cannot watch `{shown}`"))?;
        stop::check()?;
        let outcome = read(&lines, status.success());
        if !status.success() && outcome.failure.is_none() {
            bail!("`{shown}` ended with {status} and no input that fails:\n{}", lines.tail());
        }
        Ok(outcome)
    }
}

/// The end of libFuzzer's output.
#[derive(Debug, Default)]
struct Lines(VecDeque<String>);

impl Lines {
    fn push(&mut self, line: String) {
        if self.0.len() == LINES_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    fn tail(&self) -> String {
        let from = self.0.len().saturating_sub(20);
        self.0.iter().skip(from).map(|line| format!("    {line}\n")).collect()
    }
}

fn last_lines(output: ChildStderr) -> Result<Lines> {
    let (mut reader, mut lines) = (BufReader::new(output), Lines::default());
    loop {
        // Not `lines()`: what it shows of an input need not be UTF-8.
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).context("cannot read libFuzzer's output")? == 0 {
            return Ok(lines);
        }
        lines.push(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
    }
}

/// Understands what libFuzzer says at its end. Inputs that it has written without failing are slow
/// ones, on a machine that does something else for one.
fn read(lines: &Lines, success: bool) -> Outcome {
    let statistic = |name: &str| {
        let value = lines.iter().rev().find_map(|line| line.strip_prefix(name))?;
        value.trim_start_matches(':').trim().parse().ok()
    };
    let edges = lines.iter().rev().find_map(|line| {
        let (_, rest) = line.split_once(" cov: ")?;
        rest.split(' ').next()?.parse().ok()
    });
    let written = lines.iter().rev().find_map(|line| line.split_once("Test unit written to "));
    let input = written.map(|(_, path)| path).filter(|_| !success);
    Outcome {
        tried: statistic("stat::number_of_executed_units").unwrap_or(0),
        edges: edges.unwrap_or(0),
        failure: input.map(|path| Failure { input: path.into(), reason: reason(lines) }),
    }
}

/// A panic's lines, else libFuzzer's own word for what happened.
fn reason(lines: &Lines) -> Vec<String> {
    let panic: Vec<String> = lines
        .iter()
        .skip_while(|line| !line.contains("' panicked at ") && !line.contains(") panicked at "))
        .take_while(|line| !line.starts_with("note: ") && !line.starts_with("=="))
        .map(str::to_owned)
        .collect();
    if !panic.is_empty() {
        return panic;
    }
    lines.iter().filter(|line| line.contains("ERROR: libFuzzer: ")).map(str::to_owned).collect()
}

fn report(target: &Target, outcome: &Outcome, tally: &mut Tally) {
    let Target { test, .. } = target;
    let Some(Failure { input, reason }) = &outcome.failure else {
        ui::say(&format!("{test}: {} inputs tried, {} edges reached", outcome.tried, outcome.edges));
        tally.pass();
        return;
    };
    let input = input.display();
    ui::say(&format!("{} after {} inputs:", paint(Colour::Red, &format!("{test} fails")), outcome.tried));
    reason.iter().for_each(|line| ui::say(&format!("    {line}")));
    ui::say(&format!("  input:  {input}"));
    ui::say(&format!(
        "  replay: {INPUT_VARIABLE}={input} cargo test -p {PACKAGE} --test fuzz -- --exact {test}"
    ));
    tally.fail(&format!("{test}: {input}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Lines {
        let mut lines = Lines::default();
        text.lines().for_each(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn a_run_without_findings_is_counted() {
        let text = "\
#2\tINITED cov: 100 ft: 120 corp: 2/30b exec/s: 0 rss: 30Mb
#524288\tpulse  cov: 212 ft: 400 corp: 50/2Kb lim: 4 exec/s: 174762 rss: 30Mb
#600000\tDONE   cov: 213 ft: 400 corp: 51/2Kb lim: 4 exec/s: 60000 rss: 30Mb
Done 600000 runs in 10 second(s)
stat::number_of_executed_units: 600000
stat::average_exec_per_sec:     60000
";
        let outcome = Outcome { tried: 600_000, edges: 213, failure: None };
        assert_eq!(read(&lines(text), true), outcome);
        let slow = format!("artifact_prefix='/t/'; Test unit written to /t/slow-unit-1\n{text}");
        assert_eq!(read(&lines(&slow), true), outcome);
    }

    #[test]
    fn a_panic_is_told_with_its_input() {
        let text = "\
#4458\tNEW    cov: 9 ft: 9 corp: 3/19b lim: 43 exec/s: 0 rss: 27Mb L: 9/9 MS: 1 CMP- DE: \"\\336\"-

thread '<unnamed>' (5934) panicked at tests/fuzz/targets/frame.rs:4:128:
assertion failed: left == right
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
==5934== ERROR: libFuzzer: deadly signal
artifact_prefix='/t/fuzz/frame-'; Test unit written to /t/fuzz/frame-crash-4bb8
stat::number_of_executed_units: 4458
";
        let reason = [
            "thread '<unnamed>' (5934) panicked at tests/fuzz/targets/frame.rs:4:128:",
            "assertion failed: left == right",
        ];
        let failure =
            Failure { input: "/t/fuzz/frame-crash-4bb8".into(), reason: reason.map(str::to_owned).to_vec() };
        assert_eq!(read(&lines(text), false), Outcome { tried: 4458, edges: 9, failure: Some(failure) });
    }

    #[test]
    fn an_input_that_takes_too_long_is_told() {
        let text = "\
ALARM: working on the last Unit for 11 seconds
artifact_prefix='/t/'; Test unit written to /t/timeout-1
==77== ERROR: libFuzzer: timeout after 11 seconds
";
        let failure = read(&lines(text), false).failure.expect("a finding");
        assert_eq!(failure.reason, ["==77== ERROR: libFuzzer: timeout after 11 seconds"]);
    }

    #[test]
    fn targets_are_chosen_as_tests_are() {
        let chosen = |filters: &[&str]| -> Vec<String> {
            let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
            targets(&filters).expect("a corpus").into_iter().map(|target| target.name).collect()
        };
        assert!(chosen(&[]).len() > 5);
        assert_eq!(chosen(&["fuzz::"]), chosen(&[]));
        assert_eq!(chosen(&["fuzz::frame", "hello"]), ["frame", "hello"]);
        assert!(chosen(&["no such target"]).is_empty());
    }
}

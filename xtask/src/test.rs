//! `cargo xtask test`: every test of the workspace, one closing line for all of them. As root
//! everything runs; otherwise the tests that need root skip themselves, which is told and counted.

mod fuzz;
mod tally;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::build::{Binaries, Profile};
use crate::setup::{Scope, boringtun};
use crate::ui::{Colour, paint};
use crate::{build, privilege, setup, sh, ui, workspace};
use tally::Tally;

/// What the tests are told by the environment.
mod variable {
    /// The folder in which ipopd and ipopctl are.
    pub(crate) const BINARIES: &str = "IPOP_BIN_DIR";
    /// A WireGuard of others that is in no PATH.
    pub(crate) const BORINGTUN: &str = "IPOP_BORINGTUN";
    /// A file to which a test that cannot run here appends one line: `NAME: REASON`.
    pub(crate) const SKIPPED: &str = "IPOP_TEST_SKIPPED";
    /// Set where a test that needs root must not skip itself.
    pub(crate) const REQUIRE_ROOT: &str = "IPOP_REQUIRE_ROOT";
    /// Set when slow tests are to run too.
    pub(crate) const FULL: &str = "IPOP_TEST_FULL";
    /// A file to which the matrix of NATs is written.
    pub(crate) const NAT_MATRIX: &str = "IPOP_NAT_MATRIX";
    /// Set when other kernels are to be booted.
    pub(crate) const VM: &str = "IPOP_TEST_VM";
}

/// Of the tests of NATs and firewalls: who is reached, what routers and servers say, what the lab's boxes do.
const NAT: [&str; 3] = ["nat::", "places::", "boxes::"];

// No group: `ci` takes these arguments beside its own.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Also boot Debian's other kernels under qemu and run the programs there
    #[arg(long)]
    vm: bool,
    /// Also the slow tests
    #[arg(long)]
    full: bool,
    /// Let the tests between network namespaces run the optimised binaries instead of those that check themselves
    #[arg(long)]
    release: bool,
    /// Only the tests of NATs and firewalls, and show who reached whom, and how
    #[arg(long)]
    nat: bool,
    /// Let every fuzz target look for new input for so long, beyond replaying its corpus
    #[arg(long, value_name = "SECONDS")]
    fuzz: Option<u64>,
    /// Only tests whose name contains one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Scope { vm: args.vm, ..Scope::TEST })?;
    let binaries = binaries(args)?;
    let skipped = workspace::target()?.join("xtask-skipped-tests");
    // The list of an earlier run is not this one's; there may be none.
    let _ = fs::remove_file(&skipped);

    let mut cargo = cargo_test(args);
    cargo.env(variable::SKIPPED, &skipped);
    if let Some(folder) = binaries.ipopd.parent() {
        cargo.env(variable::BINARIES, folder);
    }
    if let Some(program) = boringtun::program()? {
        cargo.env(variable::BORINGTUN, program);
    }
    let matrix = workspace::target()?.join("nat-matrix.txt");
    if args.nat {
        // Nor is the matrix of an earlier one.
        let _ = fs::remove_file(&matrix);
        cargo.env(variable::NAT_MATRIX, &matrix);
    }
    let mut tally = Tally::default();
    run_counted(cargo, args, &mut tally)?;
    if let Ok(matrix) = fs::read_to_string(&matrix)
        && args.nat
    {
        ui::say(&format!("\n{matrix}"));
    }
    tally.skip_listed(&fs::read_to_string(&skipped).unwrap_or_default());
    if let Some(seconds) = args.fuzz {
        fuzz::run(seconds, &args.filters, &mut tally)?;
    }
    Ok(close(&tally))
}

/// The binaries that the tests will run. Those of the debug build come out of `cargo test` itself: the packages
/// that they belong to have tests that need them.
fn binaries(args: &Args) -> Result<Binaries> {
    if !args.release {
        return build::binaries(Profile::Debug);
    }
    build::build_group(Profile::Release)?;
    build::build(Profile::Release)
}

fn cargo_test(args: &Args) -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    let switches = [
        (variable::REQUIRE_ROOT, privilege::is_root()),
        (variable::FULL, args.full),
        (variable::VM, args.vm),
    ];
    for (name, _) in switches.into_iter().filter(|(_, wanted)| *wanted) {
        cargo.env(name, "1");
    }
    cargo
}

/// Runs `cargo`, shows what it prints, and counts what its test runners say.
fn run_counted(mut cargo: Command, args: &Args, tally: &mut Tally) -> Result<()> {
    let nat = args.nat.then_some(NAT).into_iter().flatten();
    cargo.arg("--").args(nat).args(&args.filters);
    let shown = sh::shown(&cargo);
    sh::ends_with_us(&mut cargo);
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let output = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line.with_context(|| format!("cannot read the output of `{shown}`"))?;
        ui::say(&line);
        tally.read_line(&line);
    }
    let status = child.wait().with_context(|| format!("cannot watch `{shown}`"))?;
    if !status.success() {
        tally.note_failed_run(&format!("`{shown}` ended with {status}"));
    }
    Ok(())
}

/// Says what was skipped and what failed, and the closing line as the very last.
fn close(tally: &Tally) -> ExitCode {
    if !tally.skips().is_empty() {
        ui::say("");
        ui::say(&paint(Colour::Yellow, "skipped:"));
        for skip in tally.skips() {
            ui::say(&format!("  {skip}"));
        }
    }
    if !tally.failures().is_empty() {
        ui::say("");
        ui::say(&paint(Colour::Red, "failed:"));
        for failure in tally.failures() {
            ui::say(&format!("  {failure}"));
        }
    }
    if !privilege::is_root() {
        ui::say("");
        ui::say("Not run as root: tests that need network namespaces or eBPF were skipped.");
    }
    if tally.ran_nothing() {
        ui::say("no test has that name");
    }
    ui::say("");
    ui::say(&tally.closing_line());
    if tally.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

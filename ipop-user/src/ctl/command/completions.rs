//! `ipopctl completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::ctl::args::Args;
use crate::ctl::failure::Failure;
use crate::ctl::output::Output;

pub(in crate::ctl) fn run(shell: Shell, output: &mut Output<'_>) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "ipopctl", &mut script);
    Ok(output.text(&String::from_utf8_lossy(&script))?)
}

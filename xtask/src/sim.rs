//! `cargo xtask sim`: builds the simulator of the overlay and runs it. Owns neither its scenarios nor its
//! arguments; `cargo xtask sim --help` is the simulator's own help.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{build, setup, sh};

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub(crate) struct Args {
    /// What the simulator takes: names of scenarios, --nodes, --seeds, --jobs, --json, --list
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure_packages(setup::Scope::RUN)?;
    let program = build::build_sim()?;
    let status = sh::status(Command::new(program).args(&args.arguments))?;
    // A program that a signal has ended has no code.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: super::Args,
    }

    #[test]
    fn everything_is_passed_on() {
        let words = ["ring", "--nodes", "60", "--seeds", "1,2", "--help"];
        let cli = Cli::try_parse_from(["sim"].into_iter().chain(words)).expect("any arguments");
        assert_eq!(cli.args.arguments, words);
        let cli = Cli::try_parse_from(["sim", "--list"]).expect("any arguments");
        assert_eq!(cli.args.arguments, ["--list"]);
    }
}

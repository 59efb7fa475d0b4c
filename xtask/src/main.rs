//! `cargo xtask`: sets the machine up, builds, demonstrates, tests and measures IPOP.
//!
//! Owns the command line only; each command has a file of its own. Depends on no crate of the
//! product, so it runs also when the product does not compile.

mod bench;
mod build;
mod ci;
mod config;
mod daemon;
mod demo;
mod netns;
mod privilege;
mod process;
mod setup;
mod sh;
mod sim;
mod stop;
mod test;
mod ui;
mod workspace;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Set-up, build, demo, tests and benchmarks of IPOP", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what building and running IPOP needs (every other command does this by itself)
    Setup(setup::Args),
    /// Build ipopd and ipopctl, eBPF programs included
    Build(build::Args),
    /// Run all tests
    Test(test::Args),
    /// Everything that a change must pass: formatting, lints, rules, tests
    Ci(ci::Args),
    /// Show hosts that talk over IPOP: by the kernel path, by the user path, and over the overlay
    Demo(demo::Args),
    /// Run networks of thousands of overlay nodes in virtual time
    Sim(sim::Args),
    /// Measure every path beside the bare wire, the kernel's VXLAN and virtual networks of others
    Bench(bench::Args),
}

fn main() -> std::process::ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(_) if stop::requested() => {
            ui::error("stopped by a signal; everything that had been set up is removed");
            // As a shell reports a program that SIGINT has ended.
            std::process::ExitCode::from(130)
        }
        Err(error) => {
            ui::error(&format!("{error:#}"));
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}

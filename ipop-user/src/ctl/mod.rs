//! `ipopctl`: asks the daemon over its control socket, and makes keys and configurations.
//!
//! Commands print through [`output::Output`] and fail with [`failure::Failure`]; nothing here
//! decides what the daemon knows.

mod args;
mod client;
mod command;
mod failure;
mod format;
mod interrupt;
mod output;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Args, Command, Config, Datapath, Group, Key, Switch};
use client::Client;
use failure::Failure;
use output::Output;

use crate::token;

/// Runs `ipopctl` with a command line, the program's name included.
pub fn run(command_line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = match Args::try_parse_from(command_line) {
        Ok(args) => execute(args),
        Err(error) => explain_usage(&error),
    };
    let Err(failure) = result else { return ExitCode::SUCCESS };
    if let Some(message) = failure.message() {
        // There is nowhere left to complain if this fails.
        let _ = writeln!(io::stderr().lock(), "{message}");
    }
    ExitCode::from(failure.exit_status())
}

fn execute(args: Args) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let mut output = Output::stdout(&mut stdout, args.json);
    let client = Client::new(args.socket);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Refused(format!("cannot start: {error}; check the limits of this user")))?;
    runtime.block_on(dispatch(args.command, &client, &mut output))
}

async fn dispatch(command: Command, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
    match command {
        Command::Init(init) => command::init::run(&init, output),
        Command::Group(Group::Join(join)) => command::group::join(&join, output),
        Command::Group(Group::Leave { file }) => command::group::leave(&file, output).await,
        Command::Group(Group::Status) => command::group::status(client, output).await,
        Command::Group(order) => command::manage::run(order, output).await,
        Command::Status => Ok(output.show(&client.status().await?, command::status::render)?),
        Command::Peers => {
            Ok(output.show(&client.peers().await?, |peers, w| command::peers::render(peers, w))?)
        }
        Command::Links => {
            Ok(output.show(&client.links().await?, |links, w| command::links::render(links, w))?)
        }
        Command::Routes => {
            Ok(output.show(&client.routes().await?, |routes, w| command::routes::render(routes, w))?)
        }
        Command::Stations => Ok(output.show(&client.stations().await?, command::stations::render)?),
        Command::Groups => Ok(output.show(&client.groups().await?, command::groups::render)?),
        Command::Explain { peer } => {
            Ok(output.show(&client.explain(&peer).await?, command::explain::render)?)
        }
        Command::Ping(ping) => command::ping::run(client, &ping, output).await,
        Command::Traceroute(trace) => command::traceroute::run(client, &trace, output).await,
        Command::Dhcp(dhcp) => command::dhcp::run(client, &dhcp, output).await,
        Command::Dht(dht) => command::dht::run(client, &dht, output).await,
        Command::Crawl(crawl) => command::crawl::run(client, &crawl, output).await,
        Command::Counters { all } => Ok(output
            .show(&client.counters().await?, |counters, w| command::counters::render(counters, all, w))?),
        Command::Top { samples } => command::top::run(client, samples, output).await,
        Command::Datapath(Datapath::Kernel { state }) => {
            done(output, &client.set_kernel(matches!(state, Switch::On)).await?)
        }
        Command::Config(Config::Check { file }) => command::config_check::run(&file, output),
        Command::Reload => done(output, &client.reload().await?),
        Command::Key(Key::Gen { file }) => command::key::generate(&file, output),
        Command::Key(Key::Pub { file }) => command::key::public(&file, output),
        Command::Key(Key::Psk { file }) => command::key::pre_shared(&file, output),
        Command::Completions { shell } => command::completions::run(shell, output),
    }
}

fn done(output: &mut Output<'_>, done: &crate::api::Done) -> Result<(), Failure> {
    Ok(output.show(done, |done, _| format!("{}\n", done.message))?)
}

/// Help and version are what was asked for; everything else is one line.
fn explain_usage(error: &clap::Error) -> Result<(), Failure> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            Ok(Output::stdout(&mut io::stdout().lock(), false).text(&text)?)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(Failure::Usage("a command is missing; see `ipopctl --help`".to_owned()))
        }
        _ => Err(Failure::Usage(one_line(&text))),
    }
}

/// Clap's message without the usage that it appends, its lines joined, and without a token that was put in
/// the wrong place.
fn one_line(text: &str) -> String {
    let message = text.split("\nUsage:").next().unwrap_or(text);
    let message = message.split("\nFor more information").next().unwrap_or(message);
    let paragraphs = message.trim_start_matches("error: ").split("\n\n");
    let mut lines: Vec<String> = paragraphs
        .map(|paragraph| paragraph.split_whitespace().map(without_token).collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .collect();
    lines.push("see `ipopctl --help`".to_owned());
    lines.join("; ")
}

fn without_token(word: &str) -> &str {
    if word.contains(token::PREFIX) { "TOKEN" } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn usage(arguments: &[&str], message: &str) {
        let error = Args::try_parse_from(arguments).unwrap_err();
        let failure = explain_usage(&error).unwrap_err();
        assert_eq!((failure.to_string().as_str(), failure.exit_status()), (message, 2));
    }

    #[test]
    fn wrong_usage_is_one_line() {
        usage(&["ipopctl"], "a command is missing; see `ipopctl --help`");
        usage(
            &["ipopctl", "peer"],
            "unrecognized subcommand 'peer'; tip: a similar subcommand exists: 'peers'; see `ipopctl --help`",
        );
        usage(
            &["ipopctl", "explain"],
            "the following required arguments were not provided: <PEER>; see `ipopctl --help`",
        );
        usage(
            &["ipopctl", "ping", "beta", "-i", "0"],
            "invalid value '0' for '--interval <SECONDS>': want seconds from 0.01 to 3600; see `ipopctl --help`",
        );
        usage(
            &["ipopctl", "datapath", "kernel", "maybe"],
            "invalid value 'maybe' for '<STATE>' [possible values: on, off]; see `ipopctl --help`",
        );
        usage(
            &["ipopctl", "init", "ipop1:c2VjcmV0"],
            "unexpected argument TOKEN found; see `ipopctl --help`",
        );
        usage(
            &["ipopctl", "init", "--join", "ipop1:c2VjcmV0", "--network", "lab"],
            "the argument '--join <TOKEN>' cannot be used with '--network <NETWORK>'; see `ipopctl --help`",
        );
    }
}

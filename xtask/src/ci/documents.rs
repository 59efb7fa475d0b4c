//! The commands that the documents tell people to type: each `cargo xtask ..` in them must be one
//! that this program understands.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use clap::error::ErrorKind;

use crate::{Cli, workspace};

const PROGRAM: &str = "cargo xtask";
/// What a new user types, and must find in the README.
const README_COMMANDS: &[&str] = &["cargo xtask demo", "cargo xtask test"];

pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let readme = read(&root.join("README.md"))?;
    let mut wrong: Vec<String> = README_COMMANDS
        .iter()
        .filter(|command| !commands(&readme).iter().any(|found| found == *command))
        .map(|command| format!("README.md does not tell people to type `{command}`"))
        .collect();
    for document in documents(&root) {
        let name = document.strip_prefix(&root).unwrap_or(&document).display().to_string();
        for command in commands(&read(&document)?) {
            if let Err(error) = understood(&command) {
                wrong.push(format!("{name}: `{command}`: {error}"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The Markdown files of the workspace's own folder and of docs/.
fn documents(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [root.to_path_buf(), root.join("docs"), root.join("docs/decisions")] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    found.sort();
    found
}

/// Every `cargo xtask ..` in `text`: lines of code blocks without their remarks, and code within
/// a line. Summaries of several commands (`setup | build`) and `..` are no commands.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            found.extend(command_in(line.trim_start().trim_start_matches("$ ").trim_start_matches("sudo ")));
        } else {
            found.extend(line.split('`').skip(1).step_by(2).filter_map(command_in));
        }
    }
    found
}

fn command_in(code: &str) -> Option<String> {
    let code = code.split(" #").next()?.trim();
    let arguments = code.strip_prefix(PROGRAM)?;
    let is_summary = arguments.is_empty() || arguments.contains(['|', '<', '[']) || arguments.contains("..");
    (!is_summary && arguments.starts_with(' ')).then(|| code.to_owned())
}

fn understood(command: &str) -> Result<(), String> {
    let arguments = command.strip_prefix(PROGRAM).unwrap_or(command).split_whitespace();
    match Cli::try_parse_from([PROGRAM].into_iter().chain(arguments)) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Ok(()),
        Err(error) => Err(error.to_string().lines().next().unwrap_or("not understood").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_blocks_and_lines() {
        let text = "Type `cargo xtask demo`, or `cargo xtask bench --quick`; not cargo xtask nonsense.\n\
                    ```sh\n$ cargo xtask test   # everything\nls\n```\n\
                    `cargo xtask setup | build`, `cargo xtask ..` and `cargo xtask` are no commands.\n";
        assert_eq!(commands(text), ["cargo xtask demo", "cargo xtask bench --quick", "cargo xtask test"]);
    }

    #[test]
    fn commands_are_held_against_the_command_line() {
        assert_eq!(understood("cargo xtask bench --json FILE --plot DIR"), Ok(()));
        assert_eq!(understood("cargo xtask --help"), Ok(()));
        assert!(understood("cargo xtask bnech").is_err());
        assert!(understood("cargo xtask bench --jsno x").is_err());
    }

    #[test]
    fn readme_commands_are_understood() {
        for command in README_COMMANDS {
            assert_eq!(understood(command), Ok(()));
        }
    }
}

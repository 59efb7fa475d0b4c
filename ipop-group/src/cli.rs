//! The command line. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.

use std::io::{BufRead, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use zeroize::Zeroizing;

use crate::model::accounts;
use crate::{password, serve, store};

/// The server of IPOP groups.
#[derive(Debug, Parser)]
#[command(name = "ipop-group", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve pages and nodes
    Serve(ServeArgs),
    /// Make accounts
    Account {
        #[command(subcommand)]
        command: AccountCommand,
    },
    /// Copy the database to a file, also while the server runs; the master key is not in it
    Backup {
        #[command(flatten)]
        data: Data,
        /// The file to be made
        file: PathBuf,
    },
    /// Put a backup in the place of the database; the server must not run
    Restore {
        #[command(flatten)]
        data: Data,
        /// A file that `backup` has made
        file: PathBuf,
    },
    /// Look whether the database is whole
    Check {
        #[command(flatten)]
        data: Data,
    },
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Make an account; the password is read from standard input
    Add {
        #[command(flatten)]
        data: Data,
        name: String,
        /// The name that people see
        #[arg(long, default_value = "")]
        display: String,
    },
    /// Give an account another password, read from standard input; its sessions end
    Password {
        #[command(flatten)]
        data: Data,
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Data {
    /// The folder of the database
    #[arg(long = "data", value_name = "DIR")]
    folder: PathBuf,
}

/// What `serve` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The folder of the database; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// How people and nodes reach this server, as https://group.example.org
    #[arg(long, value_name = "URL")]
    pub(crate) public_url: Option<String>,
    /// Certificates for HTTPS, PEM; read again when the file changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// Their key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,
    /// A reverse proxy that speaks HTTPS for this server and says in X-Forwarded-For who asks; may be repeated
    #[arg(long = "proxy", value_name = "IP")]
    pub(crate) proxies: Vec<IpAddr>,
    /// Let whoever comes make an account
    #[arg(long)]
    pub(crate) open_registration: bool,
    /// The master key, which seals the groups' keys; DIR/master.key if not given
    #[arg(long, value_name = "FILE")]
    pub(crate) master_key: Option<PathBuf>,
    /// What to log: error, warn, info, debug
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub(crate) log: String,
}

/// Does what the arguments of the process say.
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Account { command: AccountCommand::Add { data, name, display } } => {
            add_account(&data.folder, &name, &display)
        }
        Command::Account { command: AccountCommand::Password { data, name } } => {
            set_password(&data.folder, &name)
        }
        Command::Backup { data, file } => store::backup(&data.folder, &file),
        Command::Restore { data, file } => serve::alone(&data.folder, || store::restore(&data.folder, &file)),
        Command::Check { data } => store::check(&data.folder),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told if that fails.
            drop(writeln!(std::io::stderr(), "ipop-group: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn add_account(folder: &Path, name: &str, display: &str) -> Result<()> {
    serve::make_folder(folder)?;
    let hash = password::hash(&read_password()?)?;
    let mut connection = store::open(folder)?;
    let transaction = connection.transaction()?;
    accounts::create(&transaction, name, display, &hash, store::now_s())?;
    Ok(transaction.commit()?)
}

fn set_password(folder: &Path, name: &str) -> Result<()> {
    store::check(folder)?;
    let hash = password::hash(&read_password()?)?;
    let mut connection = store::open(folder)?;
    let transaction = connection.transaction()?;
    accounts::set_password(&transaction, name, &hash)?;
    Ok(transaction.commit()?)
}

/// One line of standard input.
fn read_password() -> Result<Zeroizing<String>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        write!(std::io::stderr(), "Password, which is shown as you type it: ")?;
    }
    let mut line = Zeroizing::new(String::new());
    stdin.lock().read_line(&mut line).context("cannot read the password")?;
    let len = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(len);
    ensure!(!line.is_empty(), "no password was given on standard input");
    Ok(line)
}

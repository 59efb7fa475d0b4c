//! The daemon's command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ipop_overlay::session::Timers;
use ipop_user::daemon::{Options, run};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use tracing_subscriber::EnvFilter;

/// The IPOP daemon: one node of a virtual network. Runs in the foreground.
#[derive(Debug, Parser)]
#[command(name = "ipopd", version)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", default_value = ipop_user::config::CONFIG_FILE)]
    config: PathBuf,
    /// What to log: a level, or directives as in `info,ipop_user=debug`. RUST_LOG does the same.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Load the programs that log every packet they refuse (at level debug).
    #[arg(long)]
    log_datapath: bool,
    /// Divide the times of sessions by this, for tests: both ends of a link have to.
    #[arg(long, hide = true, value_name = "N", default_value_t = 1)]
    shorten_sessions: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    init_log(arguments.log.as_deref());
    if let Err(error) = keep_memory_private() {
        return fail(&anyhow::anyhow!("cannot keep secrets out of core dumps: {error}"));
    }
    let options = Options {
        config: arguments.config,
        log_datapath: arguments.log_datapath,
        timers: Timers::WIREGUARD.shortened(arguments.shorten_sessions),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::anyhow!("cannot start: {error}")),
    };
    match runtime.block_on(run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// No core dump, and no other process of the same user that reads this one's memory: keys are there.
fn keep_memory_private() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)
}

/// A line for each problem on stderr, whatever the log level.
#[expect(clippy::print_stderr, reason = "the last word of a daemon that stops goes to its operator")]
fn fail(error: &anyhow::Error) -> ExitCode {
    for line in format!("{error:#}").lines() {
        eprintln!("ipopd: {line}");
    }
    ExitCode::FAILURE
}

/// What the loader has to say of each relocation, and a TURN client of each step; whoever wants it asks for
/// `aya_obj=debug`.
const QUIET: &str = "aya=info,aya_obj=info,stun_proto=error,turn_client_proto=error,turn_types=error";

fn init_log(filter: Option<&str>) {
    let of_environment = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let filter = filter.or(of_environment.as_deref()).unwrap_or("info");
    let filter = EnvFilter::new(format!("{QUIET},{filter}"));
    // Under systemd the journal stamps each line itself.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    if journal {
        log.without_time().init();
    } else {
        log.init();
    }
}

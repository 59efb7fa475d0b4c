//! `cargo xtask bench`: every path of IPOP beside the bare wire, the kernel's VXLAN and virtual
//! networks of others, measured in one interleaved run. Owns the command line and the order of a run.

mod bars;
mod callers;
mod core;
mod ethernet;
mod far_end;
mod handshakes;
mod icmp;
mod lab;
mod load;
mod machine;
mod peers;
mod plan;
mod plot;
mod relays;
mod report;
mod results;
mod rounds;
mod row;
mod stats;
mod subnets;
mod turn;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::build::Profile;
use crate::{build, daemon, privilege, setup, stop, ui};
use machine::{CpuTime, Machine};
use plan::{Conditions, Metric, System, Timing, Wire};
use results::{ProductInfo, Results, Settings};

/// How long the machine is watched before the run, to tell whether it is quiet.
const BACKGROUND_WINDOW: Duration = Duration::from_millis(500);
/// Fewer repetitions than this have no spread worth the name.
const ROUNDS_MIN: usize = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fewer and shorter windows: about 90 s, for a first look
    #[arg(long)]
    quick: bool,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write bar charts as SVG
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Repetitions of every measurement (at least 5)
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Only these systems (the bare wire is always among them)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    only: Vec<System>,
    /// Only handshakes, how many and under floods (with --only: those systems and handshakes)
    #[arg(long)]
    handshakes: bool,
    /// Only links by a relay, beside bare forwarding and coturn (with --only: those systems and relays)
    #[arg(long)]
    relays: bool,
    /// Only a network behind a node, beside bare wire and forwarding (with --only: those systems and that)
    #[arg(long)]
    subnets: bool,
    /// Only a network that carries Ethernet, beside the bare wire (with --only: those systems and that)
    #[arg(long)]
    ethernet: bool,
    /// Only this wire
    #[arg(long, value_enum)]
    wire: Option<Wire>,
    /// Of all TCP streams [default: this host's, as its applications get it]
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let systems = systems(args);
    let wires = args.wire.map_or(Wire::ALL.to_vec(), |wire| vec![wire]);
    let conditions = conditions(args)?;
    let with_handshakes = args.with_handshakes();
    let (with_relays, with_subnets) = (args.with_relays(), args.with_subnets());
    let with_ethernet = args.with_ethernet();
    let is_ours = with_handshakes || with_relays || with_subnets || with_ethernet;
    let binaries = if is_ours || systems.iter().any(|system| system.datapath().is_some()) {
        Some(build::build(Profile::Release)?)
    } else {
        setup::ensure(setup::Scope::RUN)?;
        None
    };
    let callers = if with_handshakes { Some(build::build_callers()?) } else { None };
    if !privilege::is_root() {
        return privilege::again_as_root();
    }
    let (systems, products) = installed(systems);
    machine::check_congestion_control(&conditions.congestion_control)?;
    stop::watch()?;
    for left in daemon::sweep(lab::PREFIX) {
        ui::note(&format!("removed {left}, left behind by an earlier bench"));
    }
    let callers = callers.as_deref();
    let parts = Parts { callers, relays: with_relays, subnets: with_subnets, ethernet: with_ethernet };
    let results = measure(&wires, &systems, products, &conditions, binaries.as_ref(), parts)?;
    report::print(&results);
    write_files(args, &results)?;
    // What is not installed is missed only where it was asked for by name.
    let missed = !args.only.is_empty() && results.products.iter().any(|product| product.missing.is_some());
    let problems = results.rows.iter().map(|row| &row.problems);
    let problems = problems.chain(results.handshakes.iter().map(|found| &found.problems));
    let problems = problems.chain(results.relays.iter().map(|found| &found.problems));
    let problems = problems.chain(results.subnets.iter().map(|found| &found.problems));
    let mut problems = problems.chain(results.ethernet.iter().map(|found| &found.problems));
    let complete = !missed && problems.all(Vec::is_empty);
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Args {
    /// They have a wire of their own, made as the offload wire is.
    fn with_handshakes(&self) -> bool {
        self.handshakes || self.is_whole()
    }

    /// So have these.
    fn with_relays(&self) -> bool {
        self.relays || self.is_whole()
    }

    /// And these.
    fn with_subnets(&self) -> bool {
        self.subnets || self.is_whole()
    }

    /// And this.
    fn with_ethernet(&self) -> bool {
        self.ethernet || self.is_whole()
    }

    /// Only what has beds of its own.
    fn is_part(&self) -> bool {
        self.handshakes || self.relays || self.subnets || self.ethernet
    }

    fn is_whole(&self) -> bool {
        !self.is_part() && self.only.is_empty() && self.wire != Some(Wire::Nic)
    }
}

fn systems(args: &Args) -> Vec<System> {
    let only = &args.only;
    if args.is_part() && only.is_empty() {
        return Vec::new();
    }
    let wanted = |system: &System| only.is_empty() || only.contains(system) || *system == System::Bare;
    System::ALL.into_iter().filter(wanted).collect()
}

/// Leaves out those of others that are not installed, and says so, now and in the results.
fn installed(mut systems: Vec<System>) -> (Vec<System>, Vec<ProductInfo>) {
    let mut products = Vec::new();
    systems.retain(|system| {
        let Some(product) = system.product() else { return true };
        let (version, missing) = match peers::version(product) {
            Ok(version) => (Some(version), None),
            Err(error) => (None, Some(format!("{}: {error:#}", system.label()))),
        };
        let is_there = missing.is_none();
        if let Some(missing) = &missing {
            ui::note(&format!("not measured: {missing}"));
        }
        products.push(ProductInfo { system: system.system(), mtu: product.mtu(), version, missing });
        is_there
    });
    (systems, products)
}

fn conditions(args: &Args) -> Result<Conditions> {
    let timing = if args.quick { Timing::QUICK } else { Timing::FULL };
    let rounds = args.runs.unwrap_or(timing.rounds);
    if rounds < ROUNDS_MIN {
        bail!("--runs {rounds}: at least {ROUNDS_MIN} repetitions are needed for a median with a spread");
    }
    let congestion_control = match &args.congestion_control {
        Some(name) => name.clone(),
        None => machine::congestion_control()?,
    };
    Ok(Conditions { timing: Timing { rounds, ..timing }, congestion_control })
}

/// What is measured beside the systems on their wires.
struct Parts<'a> {
    /// The program for handshakes, if those are.
    callers: Option<&'a Path>,
    relays: bool,
    subnets: bool,
    ethernet: bool,
}

fn measure(
    wires: &[Wire],
    systems: &[System],
    products: Vec<ProductInfo>,
    conditions: &Conditions,
    binaries: Option<&build::Binaries>,
    Parts { callers, relays, subnets, ethernet }: Parts<'_>,
) -> Result<Results> {
    // Without systems, only what has beds of its own is asked for.
    let wires = if systems.is_empty() { &[] } else { wires };
    let mut settings = Settings::new(conditions, wires);
    let time = machine::time();
    settings.background_share = machine::background_share(BACKGROUND_WINDOW)?;
    let before = CpuTime::now()?;
    let of_handshakes = callers.map_or(0, |_| handshakes::progress_steps(conditions));
    let of_wires = rounds::progress_steps(systems.len(), conditions.timing) * wires.len() as u64;
    let of_relays = if relays { relays::progress_steps(conditions) } else { 0 };
    let of_subnets = if subnets { subnets::progress_steps(conditions) } else { 0 };
    let of_ethernet = if ethernet { ethernet::progress_steps(conditions) } else { 0 };
    let progress = progress(of_wires + of_handshakes + of_relays + of_subnets + of_ethernet);
    let step = |what: &str| {
        progress.set_message(what.to_owned());
        progress.inc(1);
    };
    let mut rows = Vec::new();
    let mut automatic = Vec::new();
    for &wire in wires {
        if let Some(binaries) = binaries.filter(|_| systems.iter().any(|system| system.is_kernel_path())) {
            automatic.extend(automatic_on(wire, binaries)?.map(|system| (wire, system)));
        }
        rows.extend(results::rows(wire, &rounds::measure(wire, systems, conditions, binaries, step)?));
    }
    let handshakes = binaries.zip(callers);
    let handshakes = handshakes
        .map(|(binaries, callers)| handshakes::measure(conditions, binaries, callers, step))
        .transpose()?;
    let relays = binaries.filter(|_| relays);
    let relays = relays.map(|binaries| relays::measure(conditions, binaries, step)).transpose()?;
    let subnets = binaries.filter(|_| subnets);
    let subnets = subnets.map(|binaries| subnets::measure(conditions, binaries, step)).transpose()?;
    let ethernet = binaries.filter(|_| ethernet);
    let ethernet = ethernet.map(|binaries| ethernet::measure(conditions, binaries, step)).transpose()?;
    progress.finish_and_clear();
    settings.steal_share = CpuTime::now()?.steal_share_since(&before);
    Ok(Results {
        machine: Machine::read(),
        kernel: machine::kernel(),
        commit: machine::commit(),
        time,
        settings,
        automatic: automatic.iter().map(|(wire, system)| (wire.name(), system.path())).collect(),
        bars: bars::evaluate(&rows, &automatic)
            .into_iter()
            .chain(handshakes.iter().flat_map(bars::of_handshakes))
            .chain(relays.iter().flat_map(bars::of_relays))
            .chain(subnets.iter().flat_map(bars::of_subnets))
            .chain(ethernet.iter().flat_map(bars::of_ethernet))
            .collect(),
        original_paper: results::original_paper(&rows),
        rows,
        handshakes,
        relays,
        subnets,
        ethernet,
        products,
    })
}

/// The kernel row that ipopd chooses by itself on `wire`. That it chooses none, or does not run,
/// is told, and is no reason to leave the rest unmeasured.
fn automatic_on(wire: Wire, binaries: &build::Binaries) -> Result<Option<System>> {
    let chosen = lab::automatic(wire, binaries);
    stop::check()?;
    let why_not = match chosen {
        Ok(Some(system)) => return Ok(Some(system)),
        Ok(None) => "ipopd chooses the user path".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    ui::note(&format!("no kernel path by itself on the {} wire: {why_not}", wire.name()));
    Ok(None)
}

/// Drawn only between windows, never by a thread of its own: that would be a third busy party.
fn progress(steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40.cyan} {percent:>3} % {msg} ({eta} left)");
    ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn write_files(args: &Args, results: &Results) -> Result<()> {
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(results).context("cannot write the results as JSON")?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        ui::note(&format!("results written to {}", file.display()));
    }
    if let Some(folder) = &args.plot {
        plot::write(results, folder)?;
        ui::note(&format!("{} charts written to {}", Metric::ALL.len(), folder.display()));
    }
    Ok(())
}

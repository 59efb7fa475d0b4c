//! `ipop-sim`: runs scenarios and prints what came of them.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people who look at it")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use clap::Parser;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressStyle};
use ipop_sim::scenario::{self, Bar, Matrix, Run, Scenario};

/// Runs networks of overlay nodes in virtual time and measures them.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Scenarios to run; if none is named, all but those that --list says are run apart.
    scenarios: Vec<String>,
    /// How many nodes, instead of the scenario's own number.
    #[arg(long)]
    nodes: Option<usize>,
    /// Seeds, one run each.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Runs at a time.
    #[arg(long)]
    jobs: Option<usize>,
    /// Where every figure of every run is written to.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How a ring's costs grow with the number of its nodes, from a hundred to ten thousand: one run of each,
    /// with the first of the seeds.
    #[arg(long, conflicts_with_all = ["scenarios", "nodes", "jobs"])]
    grow: bool,
    /// Only list the scenarios.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    if args.list {
        for Scenario { name, about, nodes, apart, .. } in scenario::ALL {
            let apart = apart.map_or(String::new(), |why| format!("; only if named: {why}"));
            println!("{name:10} {about} ({nodes} nodes{apart})");
        }
        return Ok(true);
    }
    if args.grow {
        return grow(args);
    }
    let chosen = chosen(&args.scenarios)?;
    let jobs: Vec<(&Scenario, usize, u64)> = chosen
        .iter()
        .flat_map(|scenario| {
            let nodes = args.nodes.unwrap_or(scenario.nodes);
            args.seeds.iter().map(move |seed| (*scenario, nodes, *seed))
        })
        .collect();
    if jobs.iter().any(|(_, nodes, _)| *nodes < 4) {
        bail!("--nodes: a network of fewer than 4 shows nothing");
    }
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let runs = run_all(&jobs, args.jobs.unwrap_or(cpus).max(1));
    let mut all_hold = true;
    for scenario in chosen {
        let of: Vec<&Run> = runs.iter().filter(|run| run.scenario == scenario.name).collect();
        all_hold &= report(scenario, &of);
    }
    write_figures(args, &runs)?;
    Ok(all_hold)
}

fn write_figures(args: &Args, runs: &[Run]) -> Result<()> {
    let Some(file) = &args.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(runs)?;
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Runs one ring after another, each half an order of magnitude larger, and prints what each costs.
fn grow(args: &Args) -> Result<bool> {
    const NODES: [usize; 5] = [100, 316, 1000, 3162, 10_000];
    const COLUMNS: [(&str, &str); 6] = [
        ("hops", "hops, mean"),
        ("connections", "connections per node"),
        ("sent, kbit/s", "sent per node"),
        ("by the ring, kbit/s", "of that by the ring"),
        ("by the busiest, kbit/s", "sent by the busiest"),
        ("memory, KB", "memory per node"),
    ];
    let ring = chosen(&["ring".to_owned()])?;
    let (Some(ring), Some(seed)) = (ring.first(), args.seeds.first()) else { bail!("--seeds: no seed") };
    let titles = std::iter::once("nodes").chain(COLUMNS.map(|(title, _)| title));
    let mut table = table(&titles.chain(["seconds per virtual minute"]).collect::<Vec<_>>());
    let mut runs = Vec::new();
    for nodes in NODES {
        let run = run_all(&[(ring, nodes, *seed)], 1).remove(0);
        let value = |name| run.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value);
        let shown = COLUMNS.map(|(_, name)| value(name).map_or(String::new(), |value| format!("{value:.2}")));
        let pace = format!("{:.2}", run.wall_s / run.virtual_s * 60.0);
        table.add_row(std::iter::once(nodes.to_string()).chain(shown).chain([pace]));
        runs.push(run);
    }
    println!("One ring of so many nodes, each per node (seed {seed})");
    table.lines().for_each(|line| println!("{}", line.trim_end()));
    for run in runs.iter().filter(|run| !run.holds()) {
        println!("MISSED: cargo xtask sim ring --nodes {} --seeds {seed}", run.nodes);
    }
    write_figures(args, &runs)?;
    Ok(runs.iter().all(Run::holds))
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(scenario::ALL.iter().filter(|scenario| scenario.apart.is_none()).collect());
    }
    let find = |name: &String| {
        let known = || scenario::ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
        let found = scenario::ALL.iter().find(|scenario| scenario.name == name);
        found.with_context(|| format!("there is no scenario {name}: choose of {}", known()))
    };
    names.iter().map(find).collect()
}

/// Runs do not know of each other; each is as it would be alone.
fn run_all(jobs: &[(&Scenario, usize, u64)], threads: usize) -> Vec<Run> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let bar = ProgressBar::new(jobs.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} runs, {elapsed}  {msg}") {
        bar.set_style(style);
    }
    std::thread::scope(|scope| {
        for _ in 0..threads.min(jobs.len()) {
            scope.spawn(|| {
                while let Some((scenario, nodes, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    bar.set_message(format!("{} with seed {seed}", scenario.name));
                    let run = scenario.run(*nodes, *seed);
                    bar.inc(1);
                    if let Ok(mut done) = done.lock() {
                        done.push(run);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut runs = done.into_inner().unwrap_or_default();
    runs.sort_by_key(|run| (run.scenario, run.nodes, run.seed));
    runs
}

/// Prints a scenario's figures: the median over the seeds, the least and the most.
fn report(scenario: &Scenario, runs: &[&Run]) -> bool {
    let Some(first) = runs.first() else { return true };
    let mut table = table(&["", "median", "least", "most", "asked", ""]);
    for (index, figure) in first.figures.iter().enumerate() {
        let mut values: Vec<f64> =
            runs.iter().filter_map(|run| run.figures.get(index)).map(|figure| figure.value).collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).map_or(String::new(), |value| shown(*value, figure.unit));
        let asked = match figure.bar {
            Some(Bar::AtLeast(bar)) => format!(">= {}", shown(bar, figure.unit)),
            Some(Bar::AtMost(bar)) => format!("<= {}", shown(bar, figure.unit)),
            None => String::new(),
        };
        let holds = runs.iter().filter_map(|run| run.figures.get(index)).all(|figure| figure.holds());
        let verdict = match (figure.bar, holds) {
            (None, _) => "",
            (Some(_), true) => "ok",
            (Some(_), false) => "MISSED",
        };
        let name = figure.name.to_owned();
        table.add_row([name, at(values.len() / 2), at(0), at(values.len() - 1), asked, verdict.to_owned()]);
    }
    println!("\n{}: {} ({} nodes)", scenario.name, scenario.about, first.nodes);
    table.lines().for_each(|line| println!("{}", line.trim_end()));
    first.matrices.iter().for_each(|matrix| show(matrix, first.seed));
    for run in runs {
        run.broken.iter().for_each(|broken| println!("BROKEN with seed {}: {broken}", run.seed));
        println!(
            "seed {}: trace {}, {} events, {:.0} s in {:.1} s, at most {:.0} kbit/s; again: cargo xtask sim {} --nodes {} --seeds {}",
            run.seed,
            run.trace,
            run.events,
            run.virtual_s,
            run.wall_s,
            run.busiest_kbit_s,
            run.scenario,
            run.nodes,
            run.seed
        );
    }
    runs.iter().all(|run| run.holds())
}

/// Prints what one run has for each two kinds of hosts.
fn show(matrix: &Matrix, seed: u64) {
    let header: Vec<&str> = std::iter::once("").chain(matrix.names.iter().copied()).collect();
    let mut table = table(&header);
    for (name, cells) in matrix.names.iter().zip(&matrix.cells) {
        let cells = cells.iter().map(|cell| format!("{cell:.2}"));
        table.add_row(std::iter::once((*name).to_owned()).chain(cells));
    }
    println!("{} (seed {seed})", matrix.title);
    table.lines().for_each(|line| println!("{}", line.trim_end()));
}

/// Names to the left, numbers to the right, as the tables of `cargo xtask`.
fn table(header: &[&str]) -> Table {
    const LINE: LineStyle = LineStyle::new('─', '─', '─', '─');
    const STYLE: TableStyle = TableStyle::new().header_separator(LINE).bottom_border(LINE);
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic).set_width(100);
    table.set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        if index == 0 {
            column.set_padding((0, 1));
        } else {
            column.set_padding((1, 0)).set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn shown(value: f64, unit: &str) -> String {
    let number = if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

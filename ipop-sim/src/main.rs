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
use ipop_sim::scenario::{self, Bar, Run, Scenario};

/// Runs networks of overlay nodes in virtual time and measures them.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Scenarios to run; all but `large` if none is named.
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
        for Scenario { name, about, nodes, .. } in scenario::ALL {
            println!("{name:10} {about} ({nodes} nodes)");
        }
        return Ok(true);
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
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&runs)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(all_hold)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(scenario::ALL.iter().filter(|scenario| scenario.name != "large").collect());
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

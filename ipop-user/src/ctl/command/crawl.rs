//! `ipopctl crawl`: asks each node of the ring for its connections, beginning with the own one, and says
//! whether they agree.

mod report;
mod svg;

use std::collections::{BTreeSet, VecDeque};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::api::{RingNode, SurveyOrder};
use crate::ctl::args;
use crate::ctl::client::Client;
use crate::ctl::failure::Failure;
use crate::ctl::interrupt::Interrupt;
use crate::ctl::output::Output;
use crate::key::NodeAddress;
use report::{Crawl, Silent};

/// Nodes that are asked at a time: far fewer than connections that the daemon takes.
const AT_A_TIME: usize = 16;
/// So many nodes apart, progress is told where it goes to no terminal.
const PROGRESS_APART: usize = 100;

/// Ends when all nodes found have been asked, or at the user's interrupt; tells what it has found either way.
pub(in crate::ctl) async fn run(
    client: &Client,
    crawl: &args::Crawl,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let first = client.survey(&SurveyOrder { node: None }).await?;
    let mut walk = Walk::new(first, crawl.nodes as usize);
    let finished = ask_all(client, crawl.rate, &mut walk).await;
    end_progress();
    finished?;
    let found = Crawl::new(walk.nodes, walk.silent, walk.is_cut_short || !walk.queue.is_empty());
    if let Some(path) = &crawl.svg {
        write(path, &svg::draw(&found))?;
    }
    Ok(output.show(&found, report::render)?)
}

type Answer = (NodeAddress, Result<RingNode, Failure>);

async fn ask_all(client: &Client, rate: u32, walk: &mut Walk) -> Result<(), Failure> {
    let mut interrupt = Interrupt::new()?;
    let mut running: JoinSet<Answer> = JoinSet::new();
    let mut pace = interval(Duration::from_secs(1) / rate.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !(walk.queue.is_empty() && running.is_empty()) {
        tokio::select! {
            () = interrupt.wait() => {
                walk.is_cut_short = true;
                return Ok(());
            }
            Some(answer) = running.join_next(), if !running.is_empty() => {
                let Ok((address, answer)) = answer else { continue };
                match answer {
                    // Without the daemon there are no answers at all.
                    Err(failure @ Failure::NoDaemon { .. }) => return Err(failure),
                    answer => walk.answered(address, answer.map_err(|failure| failure.to_string())),
                }
                tell_progress(walk);
            }
            _ = pace.tick(), if running.len() < AT_A_TIME && !walk.queue.is_empty() => {
                if let Some(address) = walk.queue.pop_front() {
                    let client = client.clone();
                    running.spawn(async move {
                        (address, client.survey(&SurveyOrder { node: Some(address.to_string()) }).await)
                    });
                }
            }
        }
    }
    Ok(())
}

/// What is known so far.
struct Walk {
    nodes: Vec<RingNode>,
    silent: Vec<Silent>,
    seen: BTreeSet<NodeAddress>,
    queue: VecDeque<NodeAddress>,
    nodes_max: usize,
    is_cut_short: bool,
}

impl Walk {
    fn new(first: RingNode, nodes_max: usize) -> Self {
        let mut walk = Self {
            nodes: Vec::new(),
            silent: Vec::new(),
            seen: BTreeSet::from([first.node.address]),
            queue: VecDeque::new(),
            nodes_max,
            is_cut_short: false,
        };
        walk.take(first);
        walk
    }

    fn answered(&mut self, address: NodeAddress, answer: Result<RingNode, String>) {
        match answer {
            Ok(node) => self.take(node),
            Err(error) => self.silent.push(Silent { address, error }),
        }
    }

    /// The nearest come first in what a node tells: along them the walk goes round the ring, even where it
    /// may not ask all.
    fn take(&mut self, node: RingNode) {
        for edge in &node.connections {
            if self.seen.contains(&edge.address) {
                continue;
            }
            if self.seen.len() >= self.nodes_max {
                self.is_cut_short = true;
                break;
            }
            self.seen.insert(edge.address);
            self.queue.push_back(edge.address);
        }
        self.nodes.push(node);
    }
}

/// How far it is, on standard error.
fn tell_progress(walk: &Walk) {
    let asked = walk.nodes.len() + walk.silent.len();
    let text = format!("{asked} of {} nodes asked, {} silent", walk.seen.len(), walk.silent.len());
    let mut stderr = std::io::stderr().lock();
    // There is nowhere left to complain if this fails.
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r{text}\x1b[K");
    } else if asked.is_multiple_of(PROGRESS_APART) {
        let _ = writeln!(stderr, "{text}");
    }
}

fn end_progress() {
    let mut stderr = std::io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K");
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| {
        Failure::Refused(format!("cannot write {}: {error}; choose another --svg", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn each_node_is_asked_once_and_no_more_than_may_be() {
        let mut walk = Walk::new(fake::ring_node(1), 10);
        assert_eq!(walk.queue, [2, 3].map(|byte| fake::key(byte).node_address()));
        let next = walk.queue.pop_front().unwrap();
        walk.answered(next, Ok(fake::ring_node(2)));
        assert_eq!((walk.queue.len(), walk.nodes.len(), walk.is_cut_short), (1, 2, false));
        let next = walk.queue.pop_front().unwrap();
        walk.answered(next, Err("no answer".to_owned()));
        assert_eq!((walk.queue.len(), walk.nodes.len(), walk.silent.len()), (0, 2, 1));

        let walk = Walk::new(fake::ring_node(1), 2);
        assert_eq!((walk.queue.len(), walk.is_cut_short), (1, true));
    }

    #[test]
    fn a_picture_that_cannot_be_written_is_refused() {
        let error = write(Path::new("/nowhere/ring.svg"), "").unwrap_err().to_string();
        assert!(error.starts_with("cannot write /nowhere/ring.svg: "), "{error}");
    }
}

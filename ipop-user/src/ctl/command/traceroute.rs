//! `ipopctl traceroute NODE`: one order for each hop, so that they show as they are found.

use serde::Serialize;

use crate::api::{Hop, HopEnd, TraceOrder};
use crate::ctl::args;
use crate::ctl::client::Client;
use crate::ctl::failure::Failure;
use crate::ctl::format::microseconds;
use crate::ctl::interrupt::Interrupt;
use crate::ctl::output::Output;

/// After so many hops without an answer there is no hope for more.
const SILENT_MAX: usize = 5;

/// What `--json` prints.
#[derive(Serialize)]
struct Trace<'a> {
    node: &'a str,
    arrived: bool,
    hops: Vec<Hop>,
}

/// Ends where the message ends, or at the user's interrupt.
pub(in crate::ctl) async fn run(
    client: &Client,
    trace: &args::Traceroute,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut interrupt = Interrupt::new()?;
    let mut hops: Vec<Hop> = Vec::new();
    for hop in 1..=trace.max_hops {
        let order = TraceOrder { node: trace.node.clone(), hop };
        let found = tokio::select! {
            found = client.trace(&order) => found?,
            () = interrupt.wait() => break,
        };
        if !output.json {
            output.line(&line(&found))?;
        }
        hops.push(found);
        if is_over(&hops) {
            break;
        }
    }
    let arrived = hops.last().is_some_and(|hop| hop.end == HopEnd::Arrived);
    let outcome = outcome(&hops);
    if output.json {
        output.json(&Trace { node: &trace.node, arrived, hops })?;
    }
    if arrived { Ok(()) } else { Err(Failure::Refused(format!("{}: {outcome}", trace.node))) }
}

fn is_over(hops: &[Hop]) -> bool {
    let is_silent = hops.iter().rev().take_while(|hop| hop.end == HopEnd::NoAnswer).count() >= SILENT_MAX;
    is_silent || hops.last().is_some_and(|hop| matches!(hop.end, HopEnd::Arrived | HopEnd::NoWay))
}

fn line(hop: &Hop) -> String {
    let Some(node) = &hop.node else { return format!("{:>2}  no answer", hop.hop) };
    let name = node.name.as_ref().or(node.virtual_ips.first());
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    let rtt = hop.rtt_us.map(|rtt_us| format!("  {}", microseconds(rtt_us))).unwrap_or_default();
    let end = if hop.end == HopEnd::NoWay { "  knows no way further" } else { "" };
    format!("{:>2}  {}{name}{rtt}{end}", hop.hop, node.address)
}

/// Why it did not arrive.
fn outcome(hops: &[Hop]) -> &'static str {
    match hops.last().map(|hop| hop.end) {
        Some(HopEnd::NoWay) => "it is not on the ring; is ipopd running there?",
        Some(HopEnd::NoAnswer) => {
            "no answer; the node at the last hop that answers, or the next, does not pass it on"
        }
        Some(HopEnd::OnTheWay) => "not reached; --max-hops allows more",
        Some(HopEnd::Arrived) | None => "stopped before it was reached",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    fn hop(hop: u16, end: HopEnd) -> Hop {
        Hop { hop, node: None, rtt_us: None, end }
    }

    #[test]
    fn a_hop_has_an_address_a_name_and_a_round_trip() {
        let [own, other] = [fake::node(1, Some("alpha")), fake::node(2, None)];
        let address = fake::key(1).node_address();
        let shown = Hop { node: Some(own), rtt_us: Some(180), ..hop(1, HopEnd::OnTheWay) };
        assert_eq!(line(&shown), format!(" 1  {address} (alpha)  180 us"));
        let address = fake::key(2).node_address();
        let shown = Hop { node: Some(other), rtt_us: Some(12_345), ..hop(12, HopEnd::NoWay) };
        assert_eq!(line(&shown), format!("12  {address}  12.3 ms  knows no way further"));
        assert_eq!(line(&hop(3, HopEnd::NoAnswer)), " 3  no answer");
    }

    #[test]
    fn it_ends_where_the_message_ends() {
        let silent = |count: usize| vec![hop(1, HopEnd::NoAnswer); count];
        assert!(!is_over(&[]) && !is_over(&[hop(1, HopEnd::OnTheWay)]) && !is_over(&silent(SILENT_MAX - 1)));
        assert!(is_over(&silent(SILENT_MAX)));
        for end in [HopEnd::Arrived, HopEnd::NoWay] {
            assert!(is_over(&[hop(1, HopEnd::OnTheWay), hop(2, end)]));
        }
        let broken = [silent(3), vec![hop(4, HopEnd::OnTheWay)], silent(3)].concat();
        assert!(!is_over(&broken));
    }
}

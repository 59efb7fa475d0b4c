//! `ipopctl ping NODE`: one order for each probe, so that answers show as they come.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::api::{Ping, PingOrder, Probe};
use crate::ctl::args;
use crate::ctl::client::Client;
use crate::ctl::failure::Failure;
use crate::ctl::format::microseconds;
use crate::ctl::interrupt::Interrupt;
use crate::ctl::output::Output;

/// Ends after the last probe or at the user's interrupt, with a summary either way.
pub(in crate::ctl) async fn run(
    client: &Client,
    ping: &args::Ping,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut interrupt = Interrupt::new()?;
    let mut probes = Vec::new();
    let (mut name, mut overlay) = (ping.node.clone(), ping.overlay);
    let mut pace = interval(ping.interval.max(Duration::from_millis(1)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for seq in 1..=ping.count {
        let probe = async {
            pace.tick().await;
            let peer = ping.node.clone();
            client.ping(&PingOrder { peer, count: 1, interval_ms: 0, overlay: ping.overlay }).await
        };
        let answer = tokio::select! {
            answer = probe => answer?,
            () = interrupt.wait() => break,
        };
        let (rtt_us, hops) = answer.results.first().map_or((None, None), |probe| (probe.rtt_us, probe.hops));
        let probe = Probe { seq, rtt_us, hops };
        probes.push(probe);
        (name, overlay) = (answer.peer, answer.overlay);
        if !output.json {
            output.line(&format!("{name}: {}", line(&probe)))?;
        }
    }
    let ping = Ping::of(name, overlay, probes);
    output.show(&ping, |ping, _| summary(ping))?;
    if ping.count > 0 && ping.lost == ping.count {
        let command = if ping.overlay { "traceroute" } else { "explain" };
        let advice = format!("no answer from {}; `ipopctl {command} {}` says why", ping.peer, ping.peer);
        return Err(Failure::Refused(advice));
    }
    Ok(())
}

fn line(probe: &Probe) -> String {
    let outcome = probe.rtt_us.map_or_else(|| "no answer".to_owned(), microseconds);
    let hops = match probe.hops {
        None => String::new(),
        Some(1) => ", over the overlay, 1 hop".to_owned(),
        Some(hops) => format!(", over the overlay, {hops} hops"),
    };
    format!("seq {}: {outcome}{hops}", probe.seq)
}

fn summary(ping: &Ping) -> String {
    let answered = ping.count - ping.lost;
    let loss = (u64::from(ping.lost) * 100).checked_div(u64::from(ping.count)).unwrap_or(0);
    let mut text = format!("{} sent, {answered} answered, {loss} % lost", ping.count);
    if let (Some(min), Some(avg), Some(max)) = (ping.min_us, ping.avg_us, ping.max_us) {
        text +=
            &format!("; least {}, mean {}, most {}", microseconds(min), microseconds(avg), microseconds(max));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_over_the_overlay_says_so() {
        let said = |rtt_us, hops| line(&Probe { seq: 2, rtt_us, hops });
        assert_eq!(said(Some(180), None), "seq 2: 180 us");
        assert_eq!(said(Some(180), Some(1)), "seq 2: 180 us, over the overlay, 1 hop");
        assert_eq!(said(Some(180), Some(3)), "seq 2: 180 us, over the overlay, 3 hops");
        assert_eq!(said(None, None), "seq 2: no answer");
    }

    #[test]
    fn the_summary_counts_what_was_lost() {
        let ping = |rtts_us: &[Option<u64>]| summary(&Ping::new("beta".to_owned(), rtts_us));
        assert_eq!(
            ping(&[Some(100), None, Some(300), Some(200)]),
            "4 sent, 3 answered, 25 % lost; least 100 us, mean 200 us, most 300 us\n"
        );
        assert_eq!(ping(&[None]), "1 sent, 0 answered, 100 % lost\n");
        assert_eq!(ping(&[]), "0 sent, 0 answered, 0 % lost\n");
    }
}

//! `ipopctl ping NODE`: one order for each probe, so that answers show as they come.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::api::{Ping, PingOrder};
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
    let mut rtts_us = Vec::new();
    let mut name = ping.node.clone();
    let mut pace = interval(ping.interval.max(Duration::from_millis(1)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for seq in 1..=ping.count {
        let probe = async {
            pace.tick().await;
            client.ping(&PingOrder { peer: ping.node.clone(), count: 1, interval_ms: 0 }).await
        };
        let answer = tokio::select! {
            answer = probe => answer?,
            () = interrupt.wait() => break,
        };
        let rtt_us = answer.results.first().and_then(|probe| probe.rtt_us);
        rtts_us.push(rtt_us);
        name = answer.peer;
        if !output.json {
            let outcome = rtt_us.map_or_else(|| "no answer".to_owned(), microseconds);
            output.line(&format!("{name}: seq {seq}: {outcome}"))?;
        }
    }
    let ping = Ping::new(name, &rtts_us);
    output.show(&ping, |ping, _| summary(ping))?;
    if ping.count > 0 && ping.lost == ping.count {
        let advice = format!("no answer from {}; `ipopctl explain {}` says why", ping.peer, ping.peer);
        return Err(Failure::Refused(advice));
    }
    Ok(())
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

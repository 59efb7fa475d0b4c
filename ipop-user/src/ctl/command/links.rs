//! `ipopctl links`.

use crate::api::Link;
use crate::ctl::format::{Align, count, or_nothing, table};

pub(in crate::ctl) fn render(links: &[Link], width: u16) -> String {
    if links.is_empty() {
        return "no links; `ipopctl peers` shows why\n".to_owned();
    }
    let headings = [
        ("peer", Align::Left),
        ("link", Align::Left),
        ("endpoint", Align::Left),
        ("via", Align::Left),
        ("mtu", Align::Right),
        ("lease", Align::Right),
        ("kernel", Align::Left),
        ("tx", Align::Right),
        ("rx", Align::Right),
    ];
    let rows = links.iter().map(|link| {
        vec![
            link.peer.clone(),
            link.link_id.clone(),
            link.endpoint.to_string(),
            or_nothing(link.interface.as_ref(), String::clone),
            link.mtu.to_string(),
            or_nothing(link.lease_remaining_ms, |ms| format!("{} s", ms / 1000)),
            if link.kernel { "yes" } else { "no" }.to_owned(),
            count(link.traffic.tx_packets as f64),
            count(link.traffic.rx_packets as f64),
        ]
    });
    table(&headings, rows, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn links_fit_80_columns() {
        let expected = "\
PEER  LINK    ENDPOINT          VIA   MTU  LEASE  KERNEL    TX    RX
beta  001a2b  10.200.0.2:15000  p1   1464   29 s  yes     1.2M  7.7M
";
        assert_eq!(render(&fake::links(), 80), expected);
        assert_eq!(render(&[], 80), "no links; `ipopctl peers` shows why\n");
    }
}

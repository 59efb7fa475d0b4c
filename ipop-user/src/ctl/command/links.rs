//! `ipopctl links`.

use crate::api::{Link, Path};
use crate::ctl::format::{Align, count, or_nothing, table};

pub(in crate::ctl) fn render(links: &[Link], width: u16) -> String {
    if links.is_empty() {
        return "no links; `ipopctl peers` shows why\n".to_owned();
    }
    let has_roles = links.iter().any(|link| !link.roles.is_empty() || !link.their_roles.is_empty());
    let mut headings = vec![
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
    if has_roles {
        headings.push(("for", Align::Left));
    }
    let rows = links.iter().map(|link| {
        let mut row = vec![
            link.peer.clone(),
            link.link_id.clone(),
            endpoint(link),
            or_nothing(link.interface.as_ref(), String::clone),
            link.mtu.to_string(),
            or_nothing(link.lease_remaining_ms, |ms| format!("{} s", ms / 1000)),
            if link.kernel { "yes" } else { "no" }.to_owned(),
            count(link.traffic.tx_packets as f64),
            count(link.traffic.rx_packets as f64),
        ];
        if has_roles {
            row.push(purpose(link));
        }
        row
    });
    table(&headings, rows, width)
}

/// Where packets go: to the peer, or to the relay.
fn endpoint(link: &Link) -> String {
    if link.path == Path::Relay { format!("relay {}", link.endpoint) } else { link.endpoint.to_string() }
}

/// What the link is for in the overlay, at this end and, where that differs, at the other.
fn purpose(link: &Link) -> String {
    let list = |roles: &[String]| if roles.is_empty() { "nothing".to_owned() } else { roles.join("+") };
    match (link.roles.is_empty(), link.roles == link.their_roles) {
        (true, true) => or_nothing(None::<&str>, str::to_owned),
        (_, true) => list(&link.roles),
        (_, false) => format!("{}\n(theirs: {})", list(&link.roles), list(&link.their_roles)),
    }
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

    #[test]
    fn a_link_by_a_relay_says_so() {
        let mut links = fake::links();
        links[0].path = Path::Relay;
        let expected = "\
PEER  LINK    ENDPOINT                VIA   MTU  LEASE  KERNEL    TX    RX
beta  001a2b  relay 10.200.0.2:15000  p1   1464   29 s  yes     1.2M  7.7M
";
        assert_eq!(render(&links, 80), expected);
    }

    #[test]
    fn connections_of_the_overlay_say_what_they_are_for() {
        let mut links = fake::links();
        links[0].roles = vec!["near".to_owned(), "on-demand".to_owned()];
        links[0].their_roles = vec!["near".to_owned()];
        let expected = "\
PEER  LINK    ENDPOINT          VIA   MTU  LEASE  KERNEL    TX    RX  FOR
beta  001a2b  10.200.0.2:15000  p1   1464   29 s  yes     1.2M  7.7M  near+on-demand
                                                                      (theirs: near)
";
        assert_eq!(render(&links, 100), expected);
        links[0].their_roles.push("on-demand".to_owned());
        assert!(render(&links, 100).ends_with("near+on-demand\n"));
    }
}

//! `ipopctl routes`.

use crate::api::{Route, Subnet};
use crate::ctl::format::{Align, NOTHING, or_nothing, table};

pub(in crate::ctl) fn render(routes: &[Route], width: u16) -> String {
    if routes.is_empty() {
        return "no routes; add a [[peer]] to the configuration and run `ipopctl reload`\n".to_owned();
    }
    let headings = [
        ("prefix", Align::Left),
        ("peer", Align::Left),
        ("link", Align::Left),
        ("path", Align::Left),
        ("announced", Align::Left),
    ];
    // A node that knows of no subnets needs no column for them.
    let has_subnets = routes.iter().any(|route| route.subnet.is_some());
    let columns = if has_subnets { headings.len() } else { headings.len() - 1 };
    let rows = routes.iter().map(|route| {
        let mut row = vec![
            route.prefix.clone(),
            route.peer.clone(),
            or_nothing(route.link_id.as_ref(), String::clone),
            route.path.name().to_owned(),
            route.subnet.as_ref().map_or_else(|| NOTHING.to_owned(), announced),
        ];
        row.truncate(columns);
        row
    });
    table(&headings[..columns], rows, width)
}

/// What has become of an announced subnet.
fn announced(subnet: &Subnet) -> String {
    let state = format!("{}, priority {}", subnet.state.name(), subnet.priority);
    match &subnet.reason {
        Some(reason) => format!("{state}: {reason}"),
        None => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn each_prefix_has_its_peer() {
        let expected = "\
PREFIX          PEER   LINK    PATH
10.128.0.2/32   beta   001a2b  direct-kernel
192.168.7.0/24  gamma  -       none
";
        assert_eq!(render(&fake::routes()[..2], 80), expected);
    }

    #[test]
    fn what_is_announced_says_by_whom_and_what_became_of_it() {
        let expected = "\
PREFIX          PEER     LINK    PATH           ANNOUNCED
10.128.0.2/32   beta     001a2b  direct-kernel  -
192.168.7.0/24  gamma    -       none           -
192.168.8.0/24  beta     001a2b  direct-kernel  active, priority 100
192.168.8.0/24  delta    001a2c  direct-kernel  standby, priority 50
10.128.0.0/24   epsilon  -       none           refused, priority 100: it overlaps the virtual network itself
";
        assert_eq!(render(&fake::routes(), 120), expected);
    }
}

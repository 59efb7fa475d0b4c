//! `ipopctl routes`.

use crate::api::Route;
use crate::ctl::format::{Align, or_nothing, table};

pub(in crate::ctl) fn render(routes: &[Route], width: u16) -> String {
    if routes.is_empty() {
        return "no routes; add a [[peer]] to the configuration and run `ipopctl reload`\n".to_owned();
    }
    let headings =
        [("prefix", Align::Left), ("peer", Align::Left), ("link", Align::Left), ("path", Align::Left)];
    let rows = routes.iter().map(|route| {
        vec![
            route.prefix.clone(),
            route.peer.clone(),
            or_nothing(route.link_id.as_ref(), String::clone),
            route.path.name().to_owned(),
        ]
    });
    table(&headings, rows, width)
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
        assert_eq!(render(&fake::routes(), 80), expected);
    }
}

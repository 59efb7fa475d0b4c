//! `ipopctl stations`.

use crate::api::{Station, Stations};
use crate::ctl::format::{Align, table};

pub(in crate::ctl) fn render(stations: &Stations, width: u16) -> String {
    if let Some(reason) = &stations.reason {
        return format!("frames are not carried: {reason}\n");
    }
    let headings =
        [("station", Align::Left), ("behind", Align::Left), ("seen", Align::Right), ("", Align::Left)];
    let mut text = table(&headings, stations.stations.iter().map(row), width);
    if let Some(other) = &stations.shut_by {
        text.push_str(&format!(
            "\nno frames are taken: {} bridges the same segment; unplug one of the two\n",
            other.label()
        ));
    }
    text
}

fn row(station: &Station) -> Vec<String> {
    let behind = if station.here { "this node".to_owned() } else { station.node.label() };
    let seen = station.seen_s.map_or("-".to_owned(), |seconds| format!("{seconds} s"));
    let remark = match (station.device, station.contested) {
        (true, _) => "its device",
        (false, true) => "claimed by another too",
        (false, false) => "",
    };
    vec![station.mac.clone(), behind, seen, remark.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn stations_fit_80_columns() {
        let expected = "\
STATION            BEHIND     SEEN
02:00:00:00:00:01  this node     -  its device
02:aa:00:00:00:07  beta       12 s  claimed by another too

no frames are taken: gamma bridges the same segment; unplug one of the two
";
        let rendered = render(&fake::stations(), 80);
        let trimmed: Vec<&str> = rendered.lines().map(str::trim_end).collect();
        assert_eq!(trimmed.join("\n") + "\n", expected);
    }

    #[test]
    fn why_there_are_none_is_said() {
        let off = Stations {
            reason: Some("network.mode is \"l3\"".to_owned()),
            shut_by: None,
            stations: Vec::new(),
        };
        assert_eq!(render(&off, 80), "frames are not carried: network.mode is \"l3\"\n");
    }
}

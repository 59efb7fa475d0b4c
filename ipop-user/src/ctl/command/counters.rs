//! `ipopctl counters`.

use std::collections::BTreeMap;

use crate::api::{CounterGroup, CounterValue, Counters};
use crate::ctl::format::{Align, table};

/// Narrower, and the meanings would be broken into too many lines.
const WIDTH_WITH_MEANING: u16 = 110;

/// One counter on both paths.
struct Row<'a> {
    meta: &'a CounterValue,
    kernel: u64,
    user: u64,
}

pub(in crate::ctl) fn render(counters: &Counters, all: bool, width: u16) -> String {
    let mut rows: Vec<(&str, Row<'_>)> = joined(counters).into_iter().collect();
    rows.retain(|(_, row)| all || row.kernel != 0 || row.user != 0);
    let overlay = overlay(&counters.overlay, all, width);
    if rows.is_empty() && !overlay.is_empty() {
        return overlay;
    }
    if rows.is_empty() {
        return "no packet has been counted yet; --all shows the names\n".to_owned();
    }
    rows.sort_by_key(|(name, row)| (row.meta.class_rank(), *name));
    let mut headings = vec![
        ("counter", Align::Left),
        ("class", Align::Left),
        ("kernel", Align::Right),
        ("user", Align::Right),
    ];
    let with_meaning = width >= WIDTH_WITH_MEANING;
    if with_meaning {
        headings.push(("meaning", Align::Left));
    }
    let cells = rows.iter().map(|(name, row)| {
        let mut cells =
            vec![(*name).to_owned(), row.meta.class.clone(), row.kernel.to_string(), row.user.to_string()];
        if with_meaning {
            cells.push(row.meta.help.clone());
        }
        cells
    });
    let packets = table(&headings, cells, width);
    if overlay.is_empty() { packets } else { format!("{packets}\n{overlay}") }
}

/// What the overlay has counted: messages and connections.
fn overlay(group: &CounterGroup, all: bool, width: u16) -> String {
    let mut rows: Vec<_> = group.0.iter().filter(|(_, counter)| all || counter.value != 0).collect();
    if rows.is_empty() {
        return String::new();
    }
    rows.sort_by_key(|(name, counter)| (counter.class_rank(), *name));
    let with_meaning = width >= WIDTH_WITH_MEANING;
    let mut headings = vec![("overlay", Align::Left), ("class", Align::Left), ("count", Align::Right)];
    headings.extend(with_meaning.then_some(("meaning", Align::Left)));
    let cells = rows.into_iter().map(|(name, counter)| {
        let mut cells = vec![name.clone(), counter.class.clone(), counter.value.to_string()];
        cells.extend(with_meaning.then(|| counter.help.clone()));
        cells
    });
    table(&headings, cells, width)
}

/// Both groups by name. One may have names that the other lacks.
fn joined(counters: &Counters) -> BTreeMap<&str, Row<'_>> {
    let value = |group: &CounterGroup, name: &str| group.0.get(name).map_or(0, |counter| counter.value);
    counters
        .kernel
        .0
        .iter()
        .chain(&counters.user.0)
        .map(|(name, meta)| {
            let row = Row { meta, kernel: value(&counters.kernel, name), user: value(&counters.user, name) };
            (name.as_str(), row)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ipop_common::Counter;

    use super::*;
    use crate::control::fake;

    fn counters() -> Counters {
        Counters {
            kernel: [(Counter::TxEncapsulated, 12), (Counter::RxUnknownLink, 3), (Counter::TxNoRoom, 0)]
                .into_iter()
                .collect(),
            user: [(Counter::TxEncapsulated, 1), (Counter::RxHello, 5)].into_iter().collect(),
            overlay: CounterGroup::default(),
        }
    }

    #[test]
    fn counters_of_both_paths_stand_side_by_side_by_class() {
        let expected = "\
COUNTER          CLASS    KERNEL  USER
rx_hello         ok            0     5
tx_encapsulated  ok           12     1
rx_unknown_link  refused       3     0
";
        assert_eq!(render(&counters(), false, 80), expected);
        let all = render(&counters(), true, 80);
        assert!(all.ends_with("tx_no_room       dropped       0     0\n"), "{all}");
    }

    #[test]
    fn the_overlay_s_stand_below() {
        let mut counters = counters();
        counters.overlay = CounterGroup::of_ring(&ipop_overlay::ring::Counts::default());
        let forwarded = counters.overlay.0.get_mut("overlay_forwarded").unwrap();
        forwarded.value = 7;
        let text = render(&counters, false, 120);
        let expected = "\n\
OVERLAY            CLASS  COUNT  MEANING
overlay_forwarded  ok         7  messages of other nodes that were passed on
";
        assert!(text.ends_with(expected), "{text}");
        assert!(render(&counters, true, 80).contains("overlay_false_answer       refused      0\n"));
    }

    #[test]
    fn there_is_a_meaning_where_there_is_room() {
        let text = render(&fake::counters(), true, 160);
        for counter in Counter::ALL {
            assert!(text.contains(counter.name()), "{}", counter.name());
        }
        assert!(text.contains(Counter::RxWrongInnerSource.help()), "{text}");
    }

    #[test]
    fn silence_is_said() {
        let text = render(&Counters::default(), false, 80);
        assert_eq!(text, "no packet has been counted yet; --all shows the names\n");
    }
}

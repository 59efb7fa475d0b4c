//! `ipopctl dht get|put|create|remove`.

use crate::api::{DhtAnswer, DhtKind, DhtOrder, DhtRecord, DhtVerb};
use crate::ctl::args::{self, DhtLeave};
use crate::ctl::client::Client;
use crate::ctl::failure::Failure;
use crate::ctl::format::{Align, duration, table};
use crate::ctl::output::Output;

pub(in crate::ctl) async fn run(
    client: &Client,
    command: &args::Dht,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let answer = client.dht(&order(command)).await?;
    if answer.verb == DhtVerb::Get && answer.records.is_empty() {
        return Err(Failure::Refused(format!("there is nothing under {:?}", answer.name)));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    Ok(output.show(&answer, |answer, width| render(answer, now, width))?)
}

fn order(command: &args::Dht) -> DhtOrder {
    let of = |verb, name: &String| DhtOrder {
        verb,
        name: name.clone(),
        value: None,
        base64: None,
        ttl_s: None,
        slot: 0,
        keep: false,
    };
    let leave = |verb, leave: &DhtLeave| DhtOrder {
        value: (!leave.base64).then(|| leave.value.clone()),
        base64: leave.base64.then(|| leave.value.clone()),
        ttl_s: Some(leave.ttl),
        keep: leave.keep,
        ..of(verb, &leave.name)
    };
    match command {
        args::Dht::Get { name } => of(DhtVerb::Get, name),
        args::Dht::Put { leave: what, slot } => DhtOrder { slot: *slot, ..leave(DhtVerb::Put, what) },
        args::Dht::Create { leave: what } => leave(DhtVerb::Create, what),
        args::Dht::Remove { name, slot } => DhtOrder { slot: *slot, ..of(DhtVerb::Remove, name) },
    }
}

fn render(answer: &DhtAnswer, now: u64, width: u16) -> String {
    match answer.verb {
        DhtVerb::Put => format!("put under {:?}\n", answer.name),
        DhtVerb::Create => format!("created: {:?} is this node's\n", answer.name),
        DhtVerb::Remove => format!("removed from {:?}\n", answer.name),
        DhtVerb::Get => {
            let headings = [
                ("owner", Align::Left),
                ("kind", Align::Left),
                ("slot", Align::Right),
                ("left", Align::Right),
                ("value", Align::Left),
            ];
            table(&headings, answer.records.iter().map(|record| row(record, now)), width)
        }
    }
}

fn row(record: &DhtRecord, now: u64) -> Vec<String> {
    let kind = match record.kind {
        DhtKind::Put => "put",
        DhtKind::Create => "create",
    };
    // What others have left is not to reach a terminal as it is.
    let is_text = |text: &&String| !text.chars().any(char::is_control);
    let value = record.value.as_ref().filter(is_text).cloned();
    vec![
        record.owner.short(),
        kind.to_owned(),
        record.slot.to_string(),
        duration(record.expires.saturating_sub(now)),
        value.unwrap_or_else(|| format!("base64:{}", record.base64)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn records_show_who_has_left_what_and_nothing_that_moves_a_terminal() {
        let owner = fake::key(2).node_address();
        let record = |kind, value: &str| DhtRecord {
            kind,
            owner,
            slot: 3,
            created: 1000,
            expires: 4600,
            value: Some(value.to_owned()),
            base64: "G1syag==".to_owned(),
        };
        let records = vec![record(DhtKind::Create, "10.128.0.2"), record(DhtKind::Put, "\u{1b}[2j")];
        let answer = DhtAnswer { verb: DhtVerb::Get, name: "x".to_owned(), stored: false, records };
        let expected = "\
OWNER     KIND    SLOT       LEFT  VALUE
SHORT  create     3  1 h 0 min  10.128.0.2
SHORT  put        3  1 h 0 min  base64:G1syag==
";
        assert_eq!(render(&answer, 1000, 80), expected.replace("SHORT", &owner.short()));
    }
}

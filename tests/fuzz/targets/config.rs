//! The text of a configuration file.
//!
//! Input: the text.

use std::collections::HashSet;
use std::path::Path;

use ipop_common::limits::{KERNEL_PORT, MTU_MIN};
use ipop_user::config::{Config, Mtu, Prefix, Problem, SECRET_LEN_MIN, parse};

/// Where the file would be.
const FILE: &str = "/etc/ipop/fuzz.toml";

pub(super) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match parse(text, Path::new(FILE)) {
        Ok(loaded) => {
            is_valid(&loaded.config);
            loaded.warnings.iter().for_each(|warning| is_one_line_with_a_place(warning, text));
            is_no_accident(text, &loaded.config);
        }
        Err(errors) => {
            let problems = errors.problems();
            assert!(!problems.is_empty());
            problems.iter().for_each(|problem| is_one_line_with_a_place(problem, text));
            assert!(problems.is_sorted_by_key(|problem| (problem.line, problem.column)));
            assert_eq!(errors.to_string().lines().count(), problems.len());
        }
    }
}

/// `FILE:LINE:COLUMN: REASON; ADVICE`, and the place is in the text.
fn is_one_line_with_a_place(problem: &Problem, text: &str) {
    let (line, column) = (problem.line.expect("a line"), problem.column.expect("a column"));
    let shown = problem.to_string();
    assert!(shown.starts_with(&format!("{FILE}:{line}:{column}: ")) && !shown.contains(char::is_control));
    assert!(!problem.reason.is_empty() && !problem.advice.is_empty());
    let of_text = text.split('\n').nth(line - 1).expect("a line of the text");
    assert!((1..=of_text.chars().count() + 1).contains(&column), "{shown}: no such column");
}

/// What the types of a configuration promise and cannot enforce by themselves.
fn is_valid(config: &Config) {
    // They are listed or leased, which takes an overlay.
    assert_eq!(config.network.addresses.is_empty(), config.dhcp.is_some());
    assert!(config.dhcp.is_none() || config.has_overlay());
    assert!(!config.underlay.listen.is_empty());
    assert!(config.underlay.listen.iter().all(|listen| ![0, KERNEL_PORT].contains(&listen.port())));
    assert!((1..=10).contains(&config.network.device.as_str().len()));
    assert!(!matches!(config.network.mtu, Mtu::Bytes(bytes) if bytes < MTU_MIN));
    assert!(config.underlay.trusted.iter().all(|prefix| !prefix.has_host_bits()));
    let secret_len = config.network.secret.as_ref().map(|secret| secret.expose().len());
    assert!(secret_len.is_none_or(|len| len >= SECRET_LEN_MIN));
    assert!(secret_len.is_some() || config.peers.is_empty());
    let mut names: HashSet<&str> = HashSet::from([config.node.name.as_str()]);
    assert!(config.peers.iter().all(|peer| names.insert(&peer.name)));
    let keys: HashSet<_> = config.peers.iter().map(|peer| peer.public_key).collect();
    assert_eq!(keys.len(), config.peers.len());
    nobody_shares_an_address(config);
}

fn nobody_shares_an_address(config: &Config) {
    let own = config.network.addresses.iter().map(|prefix| (usize::MAX, Prefix::host(prefix.addr())));
    let peers = config.peers.iter().enumerate();
    let theirs = peers.flat_map(|(owner, peer)| peer.addresses.iter().map(move |prefix| (owner, *prefix)));
    let claims: Vec<(usize, Prefix)> = own.chain(theirs).collect();
    for (at, (owner, prefix)) in claims.iter().enumerate() {
        assert!(*owner == usize::MAX || !prefix.has_host_bits());
        for (other_owner, other) in &claims[at + 1..] {
            assert!(owner == other_owner || !prefix.overlaps(*other), "{prefix} and {other}");
        }
    }
}

/// The same text with a remark more means the same; with a section more, nothing.
fn is_no_accident(text: &str, config: &Config) {
    let remark = parse(&format!("{text}\n# a remark\n"), Path::new(FILE)).expect("a remark changes nothing");
    assert_eq!(remark.config, *config);
    assert!(parse(&format!("{text}\n[nonsense]\n"), Path::new(FILE)).is_err(), "a section was overlooked");
}

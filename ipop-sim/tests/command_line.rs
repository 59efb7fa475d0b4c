//! The program `ipop-sim`: what it makes of its arguments.

use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ipop-sim")).args(arguments).output().expect("the program starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_scenario_that_there_is_not_is_an_error_that_names_those_there_are() {
    let output = sim(&["rign"]);
    assert_eq!(output.status.code(), Some(2));
    let said = said(&output);
    assert!(said.starts_with("error: there is no scenario rign: choose of ring, large, join,"), "{said}");
}

#[test]
fn too_few_nodes_are_an_error() {
    let output = sim(&["ring", "--nodes", "3"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--nodes"), "{}", said(&output));
}

#[test]
fn what_is_no_argument_is_an_error() {
    for arguments in [&["--seed", "1"][..], &["--seeds", "one"], &["--nodes", "-4"], &["ring", "--grow"]] {
        assert_eq!(sim(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn scenarios_are_listed() {
    let output = sim(&["--list"]);
    assert!(output.status.success());
    let said = said(&output);
    let names: Vec<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    let rings = ["ring", "large", "join", "kill", "partition", "restart", "churn"];
    assert_eq!(
        names,
        [
            &rings[..],
            &[
                "broadcast",
                "multicast",
                "addresses",
                "dht",
                "leases",
                "overlap",
                "nats",
                "collision",
                "twins",
                "clocks"
            ]
        ]
        .concat(),
        "{said}"
    );
}

#[test]
fn a_run_says_how_it_is_repeated_and_writes_its_figures() {
    let file = std::env::temp_dir().join(format!("ipop-sim-{}.json", std::process::id()));
    let json = file.to_string_lossy();
    let output = sim(&["restart", "--nodes", "12", "--seeds", "5", "--json", &json]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("cargo xtask sim restart --nodes 12 --seeds 5"), "{}", said(&output));
    let text = std::fs::read_to_string(&file).expect("the figures");
    std::fs::remove_file(&file).expect("the figures are there");
    let runs: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(runs[0]["scenario"], "restart");
    assert_eq!(runs[0]["seed"], 5);
}

//! Records in the DHT: what one node leaves others find, with the node's own tools.

use serde_json::Value;

use crate::lab::host::Host;
use crate::lab::internet::{Families, Internet};
use crate::lab::{SOON, run, wait_for};

/// What a command of a host's prints as JSON, once it succeeds: the ring may still be coming together.
#[track_caller]
fn json(host: &Host, arguments: &[&str]) -> Value {
    wait_for(&format!("{arguments:?} succeeds"), SOON, || {
        let output = host.ctl_output(&[&["--json", "dht"], arguments].concat());
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
    })
}

/// Why a command of a host's fails.
#[track_caller]
fn refusal(host: &Host, arguments: &[&str]) -> String {
    let output = host.ctl_output(&[&["dht"], arguments].concat());
    assert!(!output.status.success(), "{arguments:?} succeeds");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn values(answer: &Value) -> Vec<String> {
    let records = answer["records"].as_array().expect("records");
    records.iter().map(|record| record["value"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn what_a_node_leaves_others_find_and_nobody_else_takes() {
    run(|| {
        let mut net = Internet::new();
        for _ in 0..4 {
            net.public(Families::V4);
        }
        let mut net = net.up();
        let hosts = &net.hosts;
        let own = |host: &Host| host.ask("/v1/status")["address"].clone();
        // Many values under one name, of one owner and of several.
        json(&hosts[1], &["put", "printers", "10.128.0.9"]);
        json(&hosts[1], &["put", "printers", "10.128.0.10", "--slot", "1"]);
        json(&hosts[2], &["put", "printers", "10.128.0.11"]);
        for host in hosts {
            let found = wait_for("all values", SOON, || {
                let answer = json(host, &["get", "printers"]);
                (values(&answer).len() == 3).then_some(answer)
            });
            let mut values = values(&found);
            values.sort();
            assert_eq!(values, ["10.128.0.10", "10.128.0.11", "10.128.0.9"]);
        }
        // One alone, of whoever came first; its owner may make it again.
        json(&hosts[3], &["create", "the-one", "first"]);
        json(&hosts[3], &["create", "the-one", "again"]);
        let why = refusal(&hosts[2], &["create", "the-one", "mine"]);
        let owner = own(&hosts[3]);
        assert!(why.contains("there is a record of"), "{why}");
        let found = json(&hosts[0], &["get", "the-one"]);
        assert_eq!((values(&found), &found["records"][0]["owner"]), (vec!["again".to_owned()], &owner));
        let shown = hosts[0].ctl(&["dht", "get", "the-one"]);
        assert!(shown.contains("again") && shown.contains("create"), "{shown}");
        // Bytes that are no text come back as they were.
        json(&hosts[0], &["put", "bytes", "--base64", "AAH/"]);
        let found = json(&hosts[4], &["get", "bytes"]);
        assert_eq!(
            (&found["records"][0]["value"], &found["records"][0]["base64"]),
            (&Value::Null, &"AAH/".into())
        );
        // It outlives the node that kept a copy, and a node that leaves.
        assert!(net.hosts[4].take().terminate().success());
        net.hosts[1].take().kill();
        let hosts = &net.hosts;
        assert_eq!(values(&json(&hosts[0], &["get", "the-one"])), ["again"]);
        // Nobody takes back what is another's, nor what is not there.
        let why = refusal(&hosts[2], &["remove", "the-one"]);
        assert!(why.contains("this node has left nothing under \"the-one\""), "{why}");
        // Taken back, it is there for others to take.
        json(&hosts[3], &["remove", "the-one"]);
        wait_for("it is gone", SOON, || {
            let output = hosts[0].ctl_output(&["dht", "get", "the-one"]);
            (!output.status.success()).then_some(())
        });
        json(&hosts[2], &["create", "the-one", "mine"]);
        assert_eq!(values(&json(&hosts[0], &["get", "the-one"])), ["mine"]);
    });
}

#[test]
fn what_cannot_be_left_is_refused_in_words() {
    run(|| {
        let mut net = Internet::new();
        net.public(Families::V4);
        let net = net.up();
        let host = &net.hosts[0];
        json(host, &["put", "x", "y"]);
        let long = "n".repeat(129);
        for (arguments, why) in [
            (&["get", "nothing"][..], "there is nothing under \"nothing\""),
            (&["put", &long, "v"], "a name has 1 to 128 bytes"),
            (&["put", "x", &"v".repeat(1025)], "a value has at most 1024 bytes"),
            (&["put", "x", "--base64", "no!"], "the value is no Base64"),
            (&["put", "x", "y", "--ttl", "100000000"], "a record lives for 1 to"),
        ] {
            let shown = refusal(host, arguments);
            assert!(shown.contains(why), "{shown}");
        }
    });
}

//! What operators ask of the overlay: where a node is in it, whether another answers, by way of whom, and
//! who is there at all.

use std::time::Duration;

use serde_json::Value;

use crate::lab::crowd::Crowd;
use crate::lab::host::Host;
use crate::lab::{How, SOON, run, wait_for};

/// For a ring to find its shape.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a command prints as JSON, if it succeeds.
fn json(host: &Host, arguments: &[&str]) -> Option<Value> {
    let output = host.ctl_output(&[&["--json"], arguments].concat());
    output.status.success().then(|| {
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {text}"))
    })
}

/// One line on standard error, and exit status 1.
#[track_caller]
fn refused(host: &Host, arguments: &[&str]) -> String {
    let output = host.ctl_output(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    errors
}

fn address(host: &Host) -> String {
    host.ask("/v1/status")["address"].as_str().expect("an address").to_owned()
}

/// A crawl by a host, once all agree and nobody is missing.
#[track_caller]
fn whole_ring(host: &Host, count: usize) -> Value {
    let mut seen = Value::Null;
    let found = crate::lab::within(PATIENCE, || {
        seen = json(host, &["crawl"])?;
        let nodes = seen["nodes"].as_array().map_or(0, Vec::len);
        let is_silent = seen["silent"].as_array().is_none_or(|silent| !silent.is_empty());
        (seen["consistent"] == true && nodes == count && !is_silent).then(|| seen.clone())
    });
    found.unwrap_or_else(|| panic!("no ring of {count}: {seen:#}"))
}

/// To whom a node of a crawl is connected, in the order of their addresses.
fn connections(crawl: &Value, address: &str) -> Vec<String> {
    let nodes = crawl["nodes"].as_array().into_iter().flatten();
    let node = nodes.into_iter().find(|node| node["address"] == address).expect("a node of the crawl");
    let edges = node["connections"].as_array().into_iter().flatten();
    let mut others: Vec<String> =
        edges.map(|edge| edge["address"].as_str().expect("an address").to_owned()).collect();
    others.sort_unstable();
    others
}

#[test]
fn a_node_says_whether_it_is_alone_or_part_of_a_ring() {
    run(|| {
        let mut crowd = Crowd::new(3);
        crowd.hosts[1].start(&How::Plain);
        let status = crowd.hosts[1].ctl(&["status"]);
        let words = status.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("overlay alone: no bootstrap node has answered yet: udp://10.200.0.1:15000"),
            "{status}"
        );
        assert!(words.contains("connections none"), "{status}");
        let error = refused(&crowd.hosts[1], &["ping", "10.128.0.3", "-c", "1"]);
        assert!(error.contains("10.128.0.3"), "{error}");
        for host in [0, 2] {
            crowd.hosts[host].start(&How::Plain);
        }
        let all: Vec<String> = crowd.hosts.iter().map(address).collect();
        for (own, host) in all.iter().zip(&crowd.hosts) {
            let mut seen = Value::Null;
            let found = crate::lab::within(PATIENCE, || {
                seen = host.ask("/v1/status")["overlay"].clone();
                let mut around: Vec<&str> = ["left", "right"]
                    .iter()
                    .flat_map(|side| seen[side].as_array().into_iter().flatten())
                    .filter_map(|neighbour| neighbour["address"].as_str())
                    .collect();
                around.sort_unstable();
                around.dedup();
                let mut others: Vec<&str> =
                    all.iter().filter(|other| *other != own).map(String::as_str).collect();
                others.sort_unstable();
                (seen["state"] == "joined" && around == others && seen["nodes_estimate"] == 3).then_some(())
            });
            assert!(found.is_some(), "{}: {seen:#}", host.config.name);
        }
        let overlay = crowd.hosts[1].ask("/v1/status")["overlay"].clone();
        assert_eq!(
            (&overlay["bootstrap"][0]["answered"], &overlay["connections"]["near"]),
            (&true.into(), &2.into())
        );
        assert_eq!(overlay["bootstrap"][0]["address"], all[0]);
        // Each link says what it is for.
        let links = crowd.hosts[1].ask("/v1/links");
        let links = links.as_array().expect("links");
        assert!(
            links.len() == 2 && links.iter().all(|link| link["roles"].to_string().contains("near")),
            "{links:?}"
        );
    });
}

#[test]
fn who_carries_packets_and_why_is_said() {
    run(|| {
        let crowd = Crowd::new(3);
        crowd.isolate(&[1, 2]);
        let crowd = crowd.up();
        crowd.wait_for_path(1, 2, "overlay", PATIENCE);
        let host = &crowd.hosts[1];
        let (to, carrier) = (crowd.hosts[2].inner_v4.to_string(), crowd.hosts[0].inner_v4.to_string());
        let peers = host.ask("/v1/peers");
        let mut peers = peers.as_array().into_iter().flatten();
        let peer = peers
            .find(|peer| peer["virtual_ips"].to_string().contains(&format!("\"{to}\"")))
            .expect("a peer");
        let reason = peer["path_reason"].as_str().expect("a reason");
        assert!(reason.contains(&format!("first {carrier}: ")), "{reason}");
        let explained = json(host, &["explain", &to]).expect("an explanation");
        let step = |check: &str| {
            let steps = explained["steps"].as_array().into_iter().flatten();
            steps.into_iter().find(|step| step["check"] == check).expect("a step").clone()
        };
        assert!(step("carried by others")["detail"].to_string().contains(&carrier), "{explained:#}");
        assert_eq!(step("direct link")["ok"], false, "{explained:#}");
        // A ping goes the same way, in two hops.
        let ping = json(host, &["ping", &to, "-c", "1"]).expect("it answers");
        assert_eq!((&ping["overlay"], &ping["results"][0]["hops"]), (&true.into(), &2.into()), "{ping:#}");
        let trace = json(host, &["traceroute", &to]).expect("it arrives");
        assert_eq!(trace["hops"][0]["node"]["address"], address(&crowd.hosts[0]), "{trace:#}");
    });
}

#[test]
fn a_crawl_finds_all_and_a_trace_goes_from_one_to_the_next() {
    run(|| {
        const COUNT: usize = 10;
        let mut crowd = Crowd::new(COUNT as u8);
        for host in &mut crowd.hosts {
            host.config.datapath.insert("kernel", "off".to_owned());
        }
        let mut crowd = crowd.up();
        let addresses: Vec<String> = crowd.hosts.iter().map(address).collect();
        // What the first acquaintances were needed for is over some time later; what is compared was asked
        // while no connection came or went.
        let quiet = wait_for("two nodes have no connection for a while", 2 * PATIENCE, || {
            let crawl = whole_ring(&crowd.hosts[4], COUNT);
            let mut pairs = (0..COUNT).flat_map(|from| (0..COUNT).map(move |to| (from, to)));
            let (from, to) = pairs.find(|(from, to)| {
                from != to && !connections(&crawl, &addresses[*from]).contains(&addresses[*to])
            })?;
            let trace = json(&crowd.hosts[from], &["traceroute", &addresses[to]]);
            let ping = json(&crowd.hosts[from], &["ping", &addresses[to], "-c", "3", "-i", "0.1"]);
            let after = whole_ring(&crowd.hosts[4], COUNT);
            let is_same = addresses.iter().all(|node| connections(&crawl, node) == connections(&after, node));
            is_same.then_some((crawl, from, to, trace, ping))
        });
        let (crawl, from, to, trace, ping) = quiet;
        let host = &crowd.hosts[from];
        let (trace, ping) = (trace.expect("it arrives"), ping.expect("it answers"));
        let hops = trace["hops"].as_array().expect("hops");
        assert!(hops.len() > 1 && trace["arrived"] == true, "{trace:#}");
        let mut here = &addresses[from];
        for hop in hops {
            let next =
                addresses.iter().find(|address| hop["node"]["address"] == **address).expect("one of them");
            assert!(connections(&crawl, here).contains(next), "{here} to {next}: {trace:#}");
            here = next;
        }
        assert_eq!(here, &addresses[to]);
        assert_eq!((&ping["overlay"], &ping["lost"]), (&true.into(), &0.into()), "{ping:#}");
        assert_eq!(ping["results"][0]["hops"], hops.len(), "{ping:#}");

        let picture = host.folder.join("ring.svg");
        let text = host.ctl(&["crawl", "--svg", picture.to_str().expect("a plain path")]);
        assert!(text.contains("10 nodes"), "{text}");
        let picture = std::fs::read_to_string(picture).expect("a picture");
        assert_eq!(picture.matches("<title>ipop:").count(), COUNT, "{picture}");

        crowd.hosts[to].take().kill();
        let _ = whole_ring(&crowd.hosts[from], COUNT - 1);
        let error = refused(&crowd.hosts[from], &["traceroute", &addresses[to]]);
        assert!(error.contains("it is not on the ring"), "{error}");
    });
}

#[test]
fn a_node_is_named_by_any_of_its_addresses() {
    run(|| {
        let crowd = Crowd::new(3).up();
        let host = &crowd.hosts[1];
        let _ = whole_ring(host, 3);
        let (other, key) = (address(&crowd.hosts[2]), crowd.hosts[2].key.clone());
        // It has sent nothing yet: nobody has told this host who has the address.
        let by_ip = crowd.hosts[2].inner_v4.to_string();
        for name in [&by_ip, &other, &key, &other[..13], &other[5..13]] {
            let ping = json(host, &["ping", name, "-c", "1"]);
            let ping = ping.unwrap_or_else(|| panic!("{name}: no answer"));
            assert_eq!(ping["lost"], 0, "{name}: {ping:#}");
        }
        // By a direct link it is asked in the session; or over the ring, where there is no better way to go.
        crowd.wait_for_path(1, 2, "direct-kernel", SOON);
        let ping = json(host, &["ping", &other, "-c", "1"]).expect("it answers");
        assert_eq!((&ping["overlay"], &ping["results"][0]["hops"]), (&false.into(), &Value::Null));
        let ping = json(host, &["ping", &other, "-c", "1", "--overlay"]).expect("it answers");
        assert_eq!((&ping["overlay"], &ping["results"][0]["hops"]), (&true.into(), &1.into()));
        for (arguments, reason) in [
            (["ping", "10.128.0.77"], "no node of the network says that it has 10.128.0.77"),
            (["ping", "192.0.2.1"], "not an address of this network"),
            (["ping", "n2"], "this node itself"),
            (["ping", "zeta"], "no such node: zeta"),
            (["traceroute", "ipop:"], "no such node"),
            (["traceroute", "ipop:0"], "no node known has an address that begins with ipop:0"),
        ] {
            let error = refused(host, &arguments);
            assert!(error.contains(reason), "{arguments:?}: {error}");
        }
    });
}

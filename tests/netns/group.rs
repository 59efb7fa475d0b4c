//! Groups: a real server, machines that join it, and what certificates that do not count lead to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipop_overlay::group::document::Document;
use ipop_overlay::group::{AuthorityKey, Grant, Label, RevocationList, Serial, Validity};
use ipop_overlay::routes::Subnet;
use serde_json::{Value, json};

use crate::lab::crowd::Crowd;
use crate::lab::daemon::How;
use crate::lab::group::{GROUP, GroupServer};
use crate::lab::host::Host;
use crate::lab::ssh::spawn;
use crate::lab::{program, run, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: u64 = 3600;
const BOOTSTRAP: &str = "udp://10.200.0.1:15000";

/// So many members, and the server on the last host.
fn members(count: u8) -> (Crowd, GroupServer) {
    let mut crowd = Crowd::new(count + 1);
    let server = GroupServer::start(&crowd.hosts[usize::from(count)], &["alice"], BOOTSTRAP);
    for index in 0..usize::from(count) {
        let token = server.token(&crowd.hosts[usize::from(count)], "alice");
        server.enrol(&mut crowd.hosts[index], Some(&token));
        crowd.hosts[index].start(&How::Plain);
    }
    (crowd, server)
}

/// Two members of a group whose server gives each its address, in a network that carries this.
fn assigned(mode: &str) -> (Crowd, GroupServer) {
    let mut crowd = Crowd::new(3);
    let server = GroupServer::without_group(&crowd.hosts[2], &["alice"]);
    let (hosts, office) = crowd.hosts.split_at_mut(2);
    let access = server.access(&office[0], "alice");
    let url = server.url();
    server.managed(&office[0], &access, &["create", &url, "--lease", "assigned", "--bootstrap", BOOTSTRAP]);
    for host in hosts {
        let token = server.managed(&office[0], &access, &["token"])["token"].clone();
        server.enrol(host, token.as_str());
        host.config.network.insert("mode", format!("\"{mode}\""));
        host.start(&How::Plain);
    }
    (crowd, server)
}

fn membership(host: &Host) -> Value {
    host.ask("/v1/status")["membership"].clone()
}

/// The address that a host has leased by now.
#[track_caller]
fn leased(host: &Host) -> String {
    wait_for(&format!("{} has an address", host.config.name), PATIENCE, || {
        let status = host.ask("/v1/status");
        Some(status["virtual_ips"][0].as_str()?.split('/').next()?.to_owned())
    })
}

fn answers(from: &Host, to: &str) -> bool {
    from.ns.output("ping", &["-n", "-c", "1", "-W", "1", to]).status.success()
}

#[track_caller]
fn hears(from: &Host, to: &str) {
    wait_for(&format!("{} hears {to}", from.config.name), PATIENCE, || answers(from, to).then_some(()));
}

/// The peer of a host with this name, which members have by their certificates.
fn peer(host: &Host, name: &str) -> Option<Value> {
    let peers = host.ask("/v1/peers");
    peers.as_array()?.iter().find(|peer| peer["name"] == name).cloned()
}

/// Why a host has no link with another, as its operator sees it.
#[track_caller]
fn refusal(host: &Host, other: &str, by_other: Option<bool>) -> String {
    wait_for(&format!("{} says why there is no link with {other}", host.config.name), PATIENCE, || {
        let refused = membership(host)["refused"].clone();
        let node =
            refused.as_array()?.iter().find(|node| by_other.is_none_or(|by| node["by_other"] == by))?;
        Some(node["reason"].as_str()?.to_owned())
    })
}

#[test]
fn machines_with_tokens_join_and_the_kernel_carries() {
    run(|| {
        let (crowd, _server) = members(2);
        let [alpha, beta] = [&crowd.hosts[0], &crowd.hosts[1]];
        let address = leased(beta);
        hears(alpha, &address);
        wait_for("the kernel carries", PATIENCE, || {
            answers(alpha, &address);
            let peer = peer(alpha, "n2")?;
            let is_carried =
                peer["kernel_tx_packets"].as_u64()? > 0 && peer["kernel_rx_packets"].as_u64()? > 0;
            (is_carried && peer["path"] == "direct-kernel").then_some(())
        });
        assert_eq!(membership(alpha)["state"], "member");
        assert_eq!(membership(alpha)["user"], "alice");
        let shown = alpha.ctl(&["group", "status"]);
        assert!(shown.contains("member, a member as n1"), "{shown}");
        for host in [alpha, beta] {
            assert_eq!(host.counter("rx_refused_certificate"), 0);
        }
    });
}

#[test]
fn a_group_is_made_and_run_by_ipopctl_alone() {
    run(|| {
        let mut crowd = Crowd::new(3);
        let server = GroupServer::without_group(&crowd.hosts[2], &["alice"]);
        let (hosts, office) = crowd.hosts.split_at_mut(2);
        let office = &office[0];
        let access = server.access(office, "alice");
        let manage = |order: &[&str]| server.managed(office, &access, order);
        let made = manage(&["create", &server.url(), "--prefix", "10.128.0.0/16", "--bootstrap", BOOTSTRAP]);
        assert_eq!(made["url"], server.url());
        let token = manage(&["token", "--hours", "1"])["token"].as_str().expect("a token").to_owned();
        server.enrol(&mut hosts[0], Some(&token));
        server.enrol(&mut hosts[1], None);
        hosts.iter_mut().for_each(|host| host.start(&How::Plain));
        let status = |name: &str| {
            let members = manage(&["members"]);
            let node = members["nodes"].as_array()?.iter().find(|node| node["name"] == name)?.clone();
            Some((node["status"].as_str()?.to_owned(), node["address"].as_str()?.to_owned()))
        };
        let (_, asking) = wait_for("n2 asks to join", PATIENCE, || status("n2"));
        assert_eq!(hosts[1].ask("/v1/status")["address"], asking.as_str());
        assert_eq!(manage(&["approve", &asking])["name"], "n2");
        let address = leased(&hosts[1]);
        hears(&hosts[0], &address);
        assert_eq!(status("n2").expect("it is there").0, "approved");
        assert_eq!(manage(&["revoke", "n2"])["address"], asking.as_str());
        wait_for("n2 is cut off", PATIENCE, || (!answers(&hosts[0], &address)).then_some(()));
        // Who may not: without a token, with a file that others can read.
        let refused = |access: &Path| {
            let output = server.manage(office, access, &["members"]);
            assert_eq!(output.status.code(), Some(1));
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        fs::set_permissions(&access, fs::Permissions::from_mode(0o644)).expect("its mode is set");
        assert!(refused(&access).contains("chmod 600"), "{}", refused(&access));
        assert!(refused(Path::new("/nowhere")).contains("make one on the page of your account"));
    });
}

#[test]
fn eight_machines_of_three_people_wait_to_be_approved_and_reach_each_other() {
    run(|| {
        let mut crowd = Crowd::new(9);
        let people = ["alice", "bob", "carol"];
        let server = GroupServer::start(&crowd.hosts[8], &people, BOOTSTRAP);
        let (hosts, office) = crowd.hosts.split_at_mut(8);
        let office = &office[0];
        let start = Instant::now();
        for (index, host) in hosts.iter_mut().enumerate() {
            // Bob and Carol bring two each with tokens of theirs; Alice approves the others.
            let owner = people.get(index / 2 + 1);
            let token = owner.map(|owner| server.token(office, owner));
            server.enrol(host, token.as_deref());
            host.start(&How::Plain);
        }
        for host in &hosts[4..] {
            let address = wait_for("it asks to be approved", PATIENCE, || {
                let membership = membership(host);
                let reason = membership["reason"].as_str()?.to_owned();
                (membership["state"] == "pending").then_some(reason)
            });
            let own = host.ask("/v1/status")["address"].as_str().expect("an address").to_owned();
            assert!(address.contains(&own), "{address}");
            server.decide(office, "alice", "nodes", &host.config.name, "approved");
        }
        let addresses: Vec<String> = hosts.iter().map(leased).collect();
        for from in hosts.iter() {
            for to in addresses.iter().filter(|to| **to != leased(from)) {
                hears(from, to);
            }
        }
        println!("8 machines of 3 people reach each other after {:.1?}", start.elapsed());
    });
}

#[test]
fn a_machine_that_is_removed_is_cut_off_by_every_other_and_in_the_kernel() {
    run(|| {
        let (mut crowd, mut server) = members(4);
        let addresses: Vec<String> = crowd.hosts[..4].iter().map(leased).collect();
        for other in [0, 2, 3] {
            let host = &crowd.hosts[other];
            wait_for("the kernel carries", PATIENCE, || {
                answers(host, &addresses[1]);
                (peer(host, "n2")?["kernel_tx_packets"].as_u64()? > 0).then_some(())
            });
        }
        // What a thief has: the key and all that was granted.
        let file = crowd.hosts[1].folder.join("state/group/membership.json");
        let stolen = fs::read(&file).expect("what is kept");
        server.decide(&crowd.hosts[4], "alice", "nodes", "n2", "removed");
        let start = Instant::now();
        for other in [0, 2, 3] {
            let host = &crowd.hosts[other];
            wait_for("the link is gone", PATIENCE, || peer(host, "n2").is_none().then_some(()));
        }
        println!("cut off by all three after {:.2?}", start.elapsed());
        for other in [0, 2, 3] {
            let host = &crowd.hosts[other];
            let links = host.ask("/v1/links");
            assert!(!links.to_string().contains("\"n2\""), "{links}");
            assert!(!answers(host, &addresses[1]));
        }
        wait_for("the removed one knows", PATIENCE, || {
            (membership(&crowd.hosts[1])["state"] == "removed").then_some(())
        });
        assert!(!file.exists());
        // The server is no more, and somebody has the key: the others have the list.
        server.kill();
        let ended = crowd.hosts[1].take().terminate();
        assert!(ended.success(), "{ended}");
        fs::write(&file, stolen).expect("what was stolen");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode is set");
        crowd.hosts[1].start(&How::Plain);
        let thief = &crowd.hosts[1];
        let reason = refusal(thief, "n1", Some(true));
        assert!(reason.contains("it refuses this node: the certificate is revoked"), "{reason}");
        assert!(crowd.hosts[0].counter("rx_refused_certificate") > 0);
        assert!(refusal(&crowd.hosts[0], "n2", Some(false)).contains("revoked"));
        assert!(!answers(thief, &addresses[0]));
    });
}

#[test]
fn addresses_that_the_server_gives_are_had_by_their_members_alone() {
    run(|| {
        for mode in ["l3", "l2"] {
            let (crowd, _server) = assigned(mode);
            let [alpha, beta] = [&crowd.hosts[0], &crowd.hosts[1]];
            let addresses = [alpha, beta].map(leased);
            assert_ne!(addresses[0], addresses[1]);
            hears(alpha, &addresses[1]);
            wait_for("the kernel carries", PATIENCE, || {
                answers(alpha, &addresses[1]);
                let peer = peer(alpha, "n2")?;
                (peer["path"] == "direct-kernel" && peer["kernel_rx_packets"].as_u64()? > 0).then_some(())
            });
            assert_eq!(peer(alpha, "n2").expect("a peer")["virtual_ips"][0], addresses[1].as_str());
            for host in [alpha, beta] {
                assert_eq!(host.counter("rx_refused_claim"), 0, "{mode}");
            }
        }
    });
}

#[test]
fn a_machine_that_leaves_is_cut_off_by_the_others() {
    run(|| {
        let (crowd, mut server) = members(2);
        let [alpha, beta] = [&crowd.hosts[0], &crowd.hosts[1]];
        let address = leased(beta);
        hears(alpha, &address);
        let config = beta.config_file();
        let ipopctl = program::path("ipopctl");
        let leave = || {
            let arguments = ["group", "leave", config.to_str().expect("a path of plain letters")];
            beta.ns.succeed(ipopctl.to_str().expect("a path of plain letters"), &arguments)
        };
        let said = leave();
        assert!(said.contains("left: every member refuses this machine's certificate"), "{said}");
        wait_for("the link is gone", PATIENCE, || peer(alpha, "n2").is_none().then_some(()));
        // Its network ends before it waits anew.
        wait_for("it knows", PATIENCE, || {
            (beta.try_ask("/v1/status")?["membership"]["state"] == "removed").then_some(())
        });
        assert!(!answers(alpha, &address));
        // With nobody to say it to, that is said.
        server.kill();
        let said = leave();
        assert!(said.contains("there was nothing to forget, here alone: no answer"), "{said}");
    });
}

#[test]
fn members_go_on_without_the_server_and_one_that_is_restarted_comes_back() {
    run(|| {
        let (mut crowd, mut server) = members(3);
        let addresses: Vec<String> = crowd.hosts[..3].iter().map(leased).collect();
        hears(&crowd.hosts[0], &addresses[2]);
        server.kill();
        hears(&crowd.hosts[0], &addresses[1]);
        let ended = crowd.hosts[2].take().terminate();
        assert!(ended.success(), "{ended}");
        crowd.hosts[2].start(&How::Plain);
        let address = leased(&crowd.hosts[2]);
        hears(&crowd.hosts[0], &address);
        hears(&crowd.hosts[2], &addresses[1]);
        wait_for("what is wrong with the server is said", PATIENCE, || {
            membership(&crowd.hosts[2])["trouble"].as_str().map(str::to_owned)
        });
    });
}

/// Whether a TCP connection to a port is made; also where nobody listens, who is allowed to ask hears so at once.
fn connects(from: &Host, to: &str, port: u16) -> bool {
    let script = format!("exec 3<>/dev/tcp/{to}/{port}");
    from.ns.output("timeout", &["2", "bash", "-c", &script]).status.success()
}

/// Something that takes TCP connections on a port and answers what it hears.
fn listen(host: &Host, port: u16) -> Child {
    let script = format!(
        "import socketserver as s\n\
         class H(s.BaseRequestHandler):\n\
        \x20def handle(self):\n\
        \x20 while (d := self.request.recv(4096)): self.request.sendall(d)\n\
         s.ThreadingTCPServer.allow_reuse_address = True\n\
         s.ThreadingTCPServer(('0.0.0.0', {port}), H).serve_forever()"
    );
    spawn(host.ns.command("python3", &["-c", &script]))
}

/// A client that talks to such a one until it hears nothing for two seconds.
fn talk(from: &Host, to: &str, port: u16) -> Child {
    let script = format!(
        "import socket, time\n\
         c = socket.create_connection(('{to}', {port}), 5)\n\
         c.settimeout(2)\n\
         while True:\n\
        \x20c.sendall(b'word'); c.recv(4096); time.sleep(0.02)"
    );
    spawn(from.ns.command("python3", &["-c", &script]))
}

/// A group without a server, as its authority sees it.
struct Authority {
    key: AuthorityKey,
    name: Label,
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs()
}

impl Authority {
    fn new(seed: u8) -> Self {
        Self { key: AuthorityKey::from_seed(&[seed; 32]), name: Label::new(GROUP).expect("a name") }
    }

    /// Writes what a member has, valid from and to these times, into a host's folder.
    fn grant(&self, host: &mut Host, serial: u8, (not_before, not_after): (u64, u64)) {
        let place = "127.0.0.1:1/g/lab";
        host.config.network.insert("group", format!("\"http://{place}\""));
        host.config.is_of_group = true;
        host.config.trusted.clear();
        let public: [u8; 32] = STANDARD.decode(&host.key).expect("a key").try_into().expect("a key");
        let prefix = Subnet::new("10.128.0.0".parse().expect("an address"), 16).expect("a prefix");
        let grant = Grant {
            public_key: public,
            node: Label::new(&host.config.name).expect("a name"),
            user: None,
            tags: Vec::new(),
            nets: vec![prefix],
        };
        let validity = Validity { not_before, not_after };
        let years = Validity { not_before: now() - 1000 * HOUR, not_after: now() + 1000 * HOUR };
        let serials = [1, serial].map(|byte| Serial::from_random([byte; 16]));
        let authority = self.key.certify(&self.name, serials[0], years).expect("a certificate");
        let certificate = grant.issue(&self.key, &self.name, serials[1], validity).expect("a certificate");
        let list = RevocationList { number: 1, issued: now(), revoked: Vec::new() };
        let content = json!({
            "version": 1, "group": GROUP, "place": place, "prefix": "10.128.0.0/16",
            "lease": { "policy": "dhcp", "seconds": 3600 }, "bootstrap": [BOOTSTRAP],
            "security": { "sealed_only": true }, "rules": [],
        });
        let document = Document { number: 1, issued: now(), content: content.to_string().into_bytes() };
        let stored = json!({
            "place": place,
            "certificate": STANDARD.encode(certificate),
            "renew_at": not_after,
            "authority": STANDARD.encode(authority),
            "document": STANDARD.encode(document.sign(&self.key).expect("a document")),
            "revocations": STANDARD.encode(list.issue(&self.key, &self.name).expect("a list")),
            // Of both groups: it is the certificates that count.
            "secret": STANDARD.encode([7; 32]),
        });
        keep(&host.folder, &stored);
    }
}

fn keep(folder: &Path, stored: &Value) {
    let file = folder.join("state/group/membership.json");
    fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    fs::write(&file, stored.to_string()).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode is set");
}

#[test]
fn certificates_that_do_not_count_are_refused_in_words_at_both_ends() {
    run(|| {
        let (lab, other) = (Authority::new(1), Authority::new(2));
        let usual = (now() - 300, now() + 24 * HOUR);
        // One whose clock is an hour behind sees what this one shows.
        let early = (now() + HOUR, now() + 25 * HOUR);
        let late = (now() - 25 * HOUR, now() - HOUR);
        for (theirs, validity, word, by_other) in [
            // Each refuses the other; which of them is the first to say so is chance.
            (&other, usual, "the certificate is of another group", None),
            (&lab, early, "compare the clocks", Some(true)),
            (&lab, late, "the certificate has expired", Some(true)),
        ] {
            let mut crowd = Crowd::new(2);
            lab.grant(&mut crowd.hosts[0], 2, usual);
            theirs.grant(&mut crowd.hosts[1], 3, validity);
            crowd.hosts.iter_mut().for_each(|host| host.start(&How::Plain));
            let [good, bad] = [&crowd.hosts[0], &crowd.hosts[1]];
            let (here, there) = (refusal(good, "n2", by_other.map(|by| !by)), refusal(bad, "n1", by_other));
            assert!(here.contains(word), "{here}");
            assert!(there.contains(word), "{there}");
            assert_eq!(there.contains("it refuses this node"), by_other.is_some() || there != here);
            assert!(good.counter("rx_refused_certificate") + bad.counter("rx_refused_certificate") > 0);
            let address = good.ask("/v1/status")["address"].as_str().expect("an address").to_owned();
            let output = bad.ctl_output(&["explain", &address]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains(word), "{said}");
            for host in [good, bad] {
                let peers = host.ask("/v1/peers");
                let has_path = |peer: &Value| peer["path"] != "none";
                assert!(!peers.as_array().into_iter().flatten().any(has_path), "{peers}");
            }
        }
    });
}

#[test]
fn rules_hold_in_both_paths_and_follow_the_group_while_traffic_runs() {
    run(|| {
        let (crowd, server) = members(3);
        let office = &crowd.hosts[3];
        let [n1, n2, n3] = [&crowd.hosts[0], &crowd.hosts[1], &crowd.hosts[2]];
        let addresses: Vec<String> = crowd.hosts[..3].iter().map(leased).collect();
        let mut listeners = [5000, 5001].map(|port| listen(n2, port));
        hears(n1, &addresses[1]);
        hears(n3, &addresses[1]);
        wait_for("both ports answer", PATIENCE, || {
            (connects(n1, &addresses[1], 5000) && connects(n1, &addresses[1], 5001)).then_some(())
        });
        wait_for("the kernel carries", PATIENCE, || {
            answers(n1, &addresses[1]);
            (peer(n1, "n2")?["path"] == "direct-kernel").then_some(())
        });
        let mut running = [talk(n1, &addresses[1], 5001), talk(n1, &addresses[1], 5000)];
        server.add_rule(office, "alice", ["user:alice", "node:n2", "tcp", "5001"]);
        server.add_rule(office, "alice", ["node:n1", "node:n2", "tcp", "5000"]);
        wait_for("echo has stopped", PATIENCE, || (!answers(n1, &addresses[1])).then_some(()));
        assert!(connects(n1, &addresses[1], 5001) && connects(n3, &addresses[1], 5001));
        assert!(running.iter_mut().all(|client| client.try_wait().expect("a child").is_none()));
        // The first of them.
        server.remove_rule(office, "alice");
        let start = Instant::now();
        wait_for("the other port is closed", PATIENCE, || (!connects(n1, &addresses[1], 5001)).then_some(()));
        wait_for("what was under way is cut", PATIENCE, || running[0].try_wait().expect("a child"));
        assert!(running[1].try_wait().expect("a child").is_none(), "what is allowed goes on");
        println!("a rule holds after {:.2?}", start.elapsed());
        // Both ends have it by now, whichever was the first.
        for (host, other) in [(n1, "n2"), (n2, "n1")] {
            wait_for("the rule has come", PATIENCE, || {
                let policy = peer(host, other)?["may_begin"].as_str()?.to_owned();
                (policy != "everything").then_some(())
            });
        }
        assert!(connects(n1, &addresses[1], 5000));
        let carried = |host: &Host| peer(host, "n2").and_then(|peer| peer["kernel_tx_packets"].as_u64());
        let before = carried(n1);
        assert!(connects(n1, &addresses[1], 5000));
        assert!(carried(n1) > before, "the kernel carries what is allowed");
        assert!(!answers(n1, &addresses[1]), "echo is not allowed");
        for (from, port) in [(n1, 5001), (n3, 5000), (n2, 5000)] {
            let to = if from.config.name == "n2" { &addresses[0] } else { &addresses[1] };
            let refused = from.counter("tx_refused_rule");
            assert!(!connects(from, to, port));
            assert!(from.counter("tx_refused_rule") > refused, "{} {port}", from.config.name);
        }
        assert_eq!(n1.ask("/v1/peers").as_array().map_or(0, Vec::len), 2, "the links stay");
        server.remove_rule(office, "alice");
        wait_for("without rules everything is allowed", PATIENCE, || {
            connects(n1, &addresses[1], 5001).then_some(())
        });
        hears(n3, &addresses[0]);
        assert!(running[1].try_wait().expect("a child").is_none(), "it has gone on all along");
        running[1].kill().expect("it runs");
        listeners.iter_mut().for_each(|listener| listener.kill().expect("it runs"));
    });
}

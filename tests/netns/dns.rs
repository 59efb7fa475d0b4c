//! Names of the virtual network: what is answered and to whom, and this host's resolver, which leads there and is as
//! it was in the end. The machine's own /etc/resolv.conf is never written: a daemon that may has a copy of its own.

use std::fs;
use std::net::UdpSocket;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::host::Host;
use crate::lab::{How, Lab, SOON, run, wait_for};

const OLD: &str = "# written by hand\nnameserver 10.200.0.2\noptions timeout:2";
/// What the server elsewhere says of every name.
const ELSEWHERE: &str = "192.0.2.80";

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn dig(host: &Host, arguments: &str) -> String {
    let options = ["+time=5", "+tries=2", "+noall", "+answer", "+authority", "+comments"];
    let words: Vec<&str> = options.into_iter().chain(arguments.split(' ')).collect();
    text(&host.ns.output("dig", &words))
}

/// What comes of a name, asked of `server`.
#[track_caller]
fn short(host: &Host, arguments: &str) -> String {
    let words: Vec<&str> =
        ["+time=5", "+tries=2", "+short"].into_iter().chain(arguments.split(' ')).collect();
    text(&host.ns.output("dig", &words)).trim().to_owned()
}

/// The daemon's DNS serves by now.
#[track_caller]
fn wait_for_dns(host: &Host, ready: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    wait_for("the DNS is set up", SOON, || {
        let dns = host.ask("/v1/status")["dns"].clone();
        ready(&dns).then_some(dns)
    })
}

fn is_decided(dns: &serde_json::Value) -> bool {
    !dns["resolver"].is_null() || !dns["resolver_reason"].is_null()
}

/// Both hosts with links, the first with a host in its table that is no peer.
fn lab() -> Lab {
    let mut lab = Lab::plain();
    lab.near.config.dns.insert("hosts", "{ \"Printer\" = [\"10.128.0.9\"] }".to_owned());
    lab
}

#[test]
fn names_and_addresses_are_answered_at_the_virtual_addresses() {
    run(|| {
        let lab = lab().up("direct-kernel");
        let near = &lab.near;
        let dns = wait_for_dns(near, is_decided);
        assert_eq!(dns["listen"], serde_json::json!(["10.128.0.1:53", "[fd00:128::1]:53"]), "{dns}");
        for at in ["@10.128.0.1", "@fd00:128::1", "@10.128.0.1 +tcp", "@fd00:128::1 +tcp"] {
            assert_eq!(short(near, &format!("{at} n1.test.ipop A")), "10.128.0.1", "{at}");
            assert_eq!(short(near, &format!("{at} n2.test.ipop A")), "10.128.0.2", "{at}");
            assert_eq!(short(near, &format!("{at} N2.Test.IPOP AAAA")), "fd00:128::2", "{at}");
            assert_eq!(short(near, &format!("{at} printer.test.ipop")), "10.128.0.9", "{at}");
            assert_eq!(short(near, &format!("{at} -x 10.128.0.2")), "n2.test.ipop.", "{at}");
            assert_eq!(short(near, &format!("{at} -x fd00:128::2")), "n2.test.ipop.", "{at}");
        }
        let nobody = dig(near, "@10.128.0.1 nobody.test.ipop");
        assert!(nobody.contains("status: NXDOMAIN") && nobody.contains("flags: qr aa rd"), "{nobody}");
        assert!(nobody.contains("test.ipop.\t\t30\tIN\tSOA\tn1.test.ipop."), "{nobody}");
        let nothing = dig(near, "@10.128.0.1 printer.test.ipop AAAA");
        assert!(
            nothing.contains("status: NOERROR") && nothing.contains("ANSWER: 0, AUTHORITY: 1"),
            "{nothing}"
        );
        let elsewhere = dig(near, "@10.128.0.1 example.org");
        assert!(elsewhere.contains("status: REFUSED"), "{elsewhere}");
        let later = dig(near, "@10.128.0.1 +edns=1 +noednsneg n1.test.ipop");
        assert!(later.contains("status: BADVERS"), "{later}");
        let zone = text(&near.ns.output("dig", &["@10.128.0.1", "test.ipop", "AXFR"]));
        assert!(zone.contains("Transfer failed"), "{zone}");
        let status = near.ctl(&["status"]);
        assert!(status.contains("test.ipop at 10.128.0.1, fd00:128::1; no resolver leads"), "{status}");
        assert!(!status.contains("warning"), "what is off as configured is none: {status}");
    });
}

#[test]
fn members_are_answered_only_where_that_is_wanted() {
    run(|| {
        let mut lab = lab().up("direct-kernel");
        wait_for_dns(&lab.near, is_decided);
        let before = lab.near.counter("rx_dns_stranger");
        let asked = text(&lab.far.ns.output("dig", &["+time=1", "+tries=1", "@10.128.0.1", "n1.test.ipop"]));
        assert!(asked.contains("timed out") || asked.contains("no servers"), "{asked}");
        lab.near.wait_for_counter("rx_dns_stranger", before, 1);
        lab.near.config.dns.insert("serve", "true".to_owned());
        lab.near.config.dns.insert("forward", "[\"10.200.0.2\"]".to_owned());
        lab.near.write_config();
        lab.near.ctl(&["reload"]);
        wait_for_dns(&lab.near, |dns| dns["serve"] == true && is_decided(dns));
        for at in ["@10.128.0.1", "@fd00:128::1", "@10.128.0.1 +tcp"] {
            assert_eq!(short(&lab.far, &format!("{at} printer.test.ipop")), "10.128.0.9", "{at}");
        }
        // Nobody's questions about the rest of the world but this host's own are passed on.
        let elsewhere = dig(&lab.far, "@10.128.0.1 example.org");
        assert!(elsewhere.contains("status: REFUSED"), "{elsewhere}");
        lab.near.ping(lab.far.inner(false), &[]);
    });
}

#[test]
fn names_follow_the_configuration() {
    run(|| {
        let mut lab = lab().up("direct-kernel");
        wait_for_dns(&lab.near, is_decided);
        assert_eq!(short(&lab.near, "@10.128.0.1 elsewhere.test.ipop"), "");
        lab.near.config.peers[0].name = "elsewhere".to_owned();
        lab.near.config.dns.insert("hosts", "{ printer = [\"10.128.0.8\"] }".to_owned());
        lab.near.write_config();
        lab.near.ctl(&["reload"]);
        let answered = |name: &str, address: &str| {
            wait_for(name, SOON, || {
                (short(&lab.near, &format!("@10.128.0.1 {name}.test.ipop")) == address).then_some(())
            });
        };
        answered("elsewhere", "10.128.0.2");
        answered("n2", "");
        answered("printer", "10.128.0.8");
        lab.near.config.dns.insert("enabled", "false".to_owned());
        lab.near.write_config();
        lab.near.ctl(&["reload"]);
        let dns = wait_for_dns(&lab.near, |dns| !dns["reason"].is_null());
        assert_eq!(
            (&dns["reason"], &dns["domain"]),
            (&"dns.enabled = false in the configuration".into(), &serde_json::Value::Null)
        );
        let refused =
            text(&lab.near.ns.output("dig", &["+time=1", "+tries=1", "@10.128.0.1", "n1.test.ipop"]));
        assert!(refused.contains("connection refused") || refused.contains("timed out"), "{refused}");
    });
}

/// A server elsewhere, which gives every name one address. It ends with the test's process.
fn serve_elsewhere(host: &Host) {
    let socket = host.ns.inside(|| UdpSocket::bind((host.outer_v4, 53)).expect("port 53"));
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            // Up to the end of the question; what follows is EDNS, which this one does not know.
            let Some(name) = query[12..len].iter().position(|byte| *byte == 0) else { continue };
            let mut answer = query[..12 + name + 5].to_vec();
            let kind = answer[12 + name + 2];
            answer[2] |= 0x80;
            answer[3] = 0x80;
            answer[6..12].fill(0);
            if kind == 1 {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 80]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// A host with a copy of resolv.conf of its own, that its programs and its daemon have for /etc/resolv.conf.
struct Own {
    lab: Lab,
}

impl Own {
    fn new() -> Self {
        let mut lab = lab();
        lab.near.write_resolver(OLD);
        lab.near.config.dns.insert("resolver", "\"auto\"".to_owned());
        serve_elsewhere(&lab.far);
        lab.far.start(&How::Plain);
        Self { lab }
    }

    fn start(&mut self) {
        let how = self.lab.near.with_resolver();
        self.lab.near.start(&how);
    }

    fn up(&mut self) {
        self.start();
        let dns = wait_for_dns(&self.lab.near, is_decided);
        assert_eq!(dns["resolver"], "resolv.conf", "{dns}");
        assert!(self.has_ours(), "{}", self.text());
    }

    fn text(&self) -> String {
        fs::read_to_string(self.lab.near.resolver_file()).expect("the file is there")
    }

    fn has_ours(&self) -> bool {
        self.text().lines().nth(1) == Some("nameserver 10.128.0.1") && self.text().contains(OLD)
    }

    /// A program of this host's, which has the same file.
    fn program(&self, program: &str, arguments: &[&str]) -> Output {
        self.lab.near.program(program, arguments).output().expect("the program starts")
    }

    #[track_caller]
    fn finds(&self, name: &str, address: &str) {
        wait_for(&format!("{name} is found"), SOON, || {
            text(&self.program("getent", &["ahostsv4", name])).starts_with(address).then_some(())
        });
    }

    fn terminate(&mut self) {
        assert!(self.lab.near.take().terminate().success());
    }
}

#[test]
fn programs_find_hosts_by_name_and_the_rest_of_the_world_too() {
    run(|| {
        let mut own = Own::new();
        own.up();
        own.lab.wait_for_path("direct-kernel");
        own.finds("n2.test.ipop", "10.128.0.2");
        own.finds("printer.test.ipop", "10.128.0.9");
        own.finds("www.example.org", ELSEWHERE);
        let reverse = text(&own.program("getent", &["hosts", "10.128.0.2"]));
        assert!(reverse.contains("n2.test.ipop"), "{reverse}");
        let pinged = own.program("ping", &["-c", "1", "-W", "5", "n2.test.ipop"]);
        assert!(pinged.status.success() && text(&pinged).contains("1 received"), "{pinged:?}");
        assert!(text(&pinged).contains("n2.test.ipop"), "{pinged:?}");
        // The file is mounted by itself: it was written in place, and goes on to be what the programs see.
        own.lab.near.config.dns.insert("search", "true".to_owned());
        own.lab.near.write_config();
        own.lab.near.ctl(&["reload"]);
        own.finds("n2", "10.128.0.2");
        let dns = wait_for_dns(&own.lab.near, is_decided);
        assert_eq!(dns["forward"], serde_json::json!(["10.200.0.2:53"]), "{dns}");
        own.terminate();
        assert_eq!(own.text(), OLD);
        own.finds("www.example.org", ELSEWHERE);
    });
}

#[test]
fn the_resolver_is_as_it_was_after_a_kill_and_a_restart() {
    run(|| {
        let mut own = Own::new();
        own.up();
        own.lab.near.take().kill();
        assert!(own.has_ours(), "nobody was there to undo it");
        // The next one takes over, and undoes it in the end.
        own.up();
        own.finds("www.example.org", ELSEWHERE);
        own.lab.near.take().kill();
        own.up();
        own.terminate();
        assert_eq!(own.text(), OLD);
        // One that is to leave the resolver alone undoes what one before it has done, too.
        own.up();
        own.lab.near.take().kill();
        own.lab.near.config.dns.insert("resolver", "\"off\"".to_owned());
        own.start();
        wait_for("it is undone", SOON, || (own.text() == OLD).then_some(()));
        own.lab.near.daemon.as_ref().expect("a daemon").signal(Signal::SIGHUP);
        own.terminate();
        assert_eq!(own.text(), OLD);
    });
}

#[test]
fn what_somebody_else_has_written_is_left_alone_and_that_is_said() {
    run(|| {
        let mut own = Own::new();
        own.up();
        let theirs = "nameserver 192.0.2.99\n";
        own.lab.near.write_resolver(theirs);
        let dns = own.lab.near.ask("/v1/status")["dns"].clone();
        assert!(dns["resolver"].is_null(), "{dns}");
        let status = own.lab.near.ctl(&["status"]);
        assert!(status.contains("somebody else has written"), "{status}");
        own.terminate();
        assert_eq!(own.text(), theirs);
        assert!(own.lab.near.log().contains("somebody else has written it meanwhile"));
    });
}

#[test]
fn a_resolver_that_another_network_shares_is_left_alone() {
    run(|| {
        let mut lab = lab();
        lab.near.config.dns.insert("resolver", "\"resolv.conf\"".to_owned());
        let machine = fs::read("/etc/resolv.conf").expect("the machine's");
        // The machine's own, and read-only: also a daemon that is wrong cannot change it.
        lab.near.start(&How::WithFile { file: "/etc/resolv.conf".into(), over: "/etc/resolv.conf".into() });
        let dns = wait_for_dns(&lab.near, is_decided);
        let reason = dns["resolver_reason"].as_str().unwrap_or_default();
        assert!(reason.contains("of another network namespace"), "{dns}");
        let status = lab.near.ctl(&["status"]);
        assert!(status.contains("dns: no resolver leads here"), "a warning: {status}");
        assert_eq!(fs::read("/etc/resolv.conf").expect("the machine's"), machine);
    });
}

#[test]
fn floods_and_malformed_messages_are_counted_and_the_names_stay_known() {
    run(|| {
        let lab = lab().up("direct-kernel");
        wait_for_dns(&lab.near, is_decided);
        let socket = lab.near.ns.inside(|| UdpSocket::bind("10.128.0.1:0").expect("a socket"));
        let bad = lab.near.counter("rx_bad_dns");
        socket.send_to(b"no DNS message, and longer than a header", "10.128.0.1:53").expect("it goes");
        socket.send_to(b"short", "10.128.0.1:53").expect("it goes");
        lab.near.wait_for_counter("rx_bad_dns", bad, 2);
        let flood = lab.near.counter("rx_dns_flood");
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x02n2\x04test\x04ipop\x00\x00\x01\x00\x01");
        wait_for("more than are answered", SOON, || {
            for _ in 0..3000 {
                let _ = socket.send_to(&query, "10.128.0.1:53");
            }
            (lab.near.counter("rx_dns_flood") > flood).then_some(())
        });
        wait_for("answers again", SOON, || {
            (short(&lab.near, "@10.128.0.1 n2.test.ipop") == "10.128.0.2").then_some(())
        });
        // A flood by a member takes nothing from this host's programs, and nothing from the link.
        let member = lab.far.ns.inside(|| UdpSocket::bind("10.128.0.2:0").expect("a socket"));
        member.set_write_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        wait_for("more than a member may ask", SOON, || {
            for _ in 0..500 {
                let _ = member.send_to(&query, "10.128.0.1:53");
            }
            (lab.near.counter("rx_dns_stranger") > 0).then_some(())
        });
        assert_eq!(short(&lab.near, "@10.128.0.1 n2.test.ipop"), "10.128.0.2");
        lab.near.ping(lab.far.inner(false), &[]);
    });
}

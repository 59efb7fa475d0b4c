//! Addresses and names without a server: nodes lease addresses from a pool, know each other by name, and nobody takes
//! what is another's.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::lab::crowd::Crowd;
use crate::lab::daemon::{Daemon, How};
use crate::lab::host::Host;
use crate::lab::{SOON, run, wait_for};

/// A request to the DHT may take 20 s before it fails and is made again.
const PATIENCE: Duration = Duration::from_secs(60);
/// 32 daemons share the CPUs of one machine.
const CROWD_PATIENCE: Duration = Duration::from_secs(90);

/// Hosts that all lease their addresses; the first describes the network.
fn crowd(count: u8, dhcp: &str) -> Crowd {
    let mut crowd = Crowd::new(count);
    for host in &mut crowd.hosts {
        host.config.addresses = None;
        // Links are sealed anyway.
        host.config.trusted.clear();
    }
    crowd.hosts[0].config.more = format!("[dhcp]\n{dhcp}\n");
    crowd
}

fn addresses(host: &Host) -> Vec<IpAddr> {
    let status = host.ask("/v1/status");
    let shown = status["virtual_ips"].as_array().expect("addresses").clone();
    let address = |text: &Value| text.as_str()?.split('/').next()?.parse().ok();
    shown.iter().filter_map(address).collect()
}

/// By each host about each other one: what addresses and services lead to, and what there is none of.
#[track_caller]
fn every_kind_of_record_is_answered(hosts: &[Host], addresses: &[String]) {
    let services =
        [("_http._tcp.test.ipop", "0 0 8080 n1.test.ipop."), ("_ssh._tcp.test.ipop", "0 0 22 n4.test.ipop.")];
    for asker in hosts {
        let who = &asker.config.name;
        for (host, address) in hosts.iter().zip(addresses) {
            let name = format!("{}.", host.virtual_name());
            wait_for(&format!("{who} finds whose {address} is"), PATIENCE, || {
                (short(asker, &["-x", address]) == name).then_some(())
            });
            // The name is there and nothing of that kind at it: an answer without records (RFC 2308, section 2.2).
            let server = format!("@{}", leased(asker));
            let words = ["+time=5", "+tries=1", "+noall", "+comments", "+authority", &server, &name, "TXT"];
            let text = String::from_utf8_lossy(&asker.ns.output("dig", &words).stdout).into_owned();
            assert!(text.contains("status: NOERROR") && text.contains("ANSWER: 0, AUTHORITY: 1"), "{text}");
            assert!(text.contains("test.ipop.\t\t30\tIN\tSOA"), "{text}");
        }
        for (service, place) in services {
            wait_for(&format!("{who} finds {service}"), PATIENCE, || {
                (short(asker, &[service, "SRV"]) == place).then_some(())
            });
        }
        assert_eq!(short(asker, &["nobody.test.ipop", "A"]), "");
    }
}

/// The address that a host has leased by now.
#[track_caller]
fn leased(host: &Host) -> Ipv4Addr {
    wait_for(&format!("{} has an address", host.config.name), CROWD_PATIENCE, || {
        addresses(host).into_iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    })
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs()
}

fn answers(from: &Host, to: &str) -> bool {
    from.ns.output("ping", &["-n", "-c", "1", "-W", "1", to]).status.success()
}

#[track_caller]
fn hears(from: &Host, to: &str) {
    wait_for(&format!("{} hears {to}", from.config.name), PATIENCE, || answers(from, to).then_some(()));
}

/// What a host's own DNS says of a name.
fn short(host: &Host, question: &[&str]) -> String {
    let server = format!("@{}", leased(host));
    let words = [&["+time=5", "+tries=1", "+short", server.as_str()][..], question].concat();
    String::from_utf8_lossy(&host.ns.output("dig", &words).stdout).trim().to_owned()
}

/// What a program of a host's prints.
fn printed(host: &Host, program: &str, arguments: &[&str]) -> String {
    let output = host.program(program, arguments).output().expect("the program starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn dhcp(host: &Host) -> Value {
    host.ask("/v1/dhcp")
}

#[test]
fn all_get_an_address_of_their_own_and_find_each_other_by_name() {
    run(|| {
        let mut crowd = crowd(5, "pool = \"10.128.0.0/24\"\nipv6 = \"fd00:128::/64\"\nlease_s = 600");
        crowd.hosts[0].config.dns.insert("services", "{ \"_http._tcp\" = 8080 }".to_owned());
        crowd.hosts[3].config.dns.insert("services", "{ \"_ssh._tcp\" = 22 }".to_owned());
        let mut crowd = crowd.up();
        let leases: Vec<Ipv4Addr> = crowd.hosts.iter().map(leased).collect();
        assert_eq!(leases.iter().collect::<BTreeSet<_>>().len(), 5, "{leases:?}");
        let shown: Vec<String> = leases.iter().map(ToString::to_string).collect();
        for from in &crowd.hosts {
            shown.iter().for_each(|to| hears(from, to));
        }
        // One that follows from its key, in the network beside the pool.
        for to in &crowd.hosts {
            let beside = addresses(to).into_iter().find(IpAddr::is_ipv6).expect("an IPv6 address");
            assert!(beside.to_string().starts_with("fd00:128:"), "{beside}");
            hears(&crowd.hosts[0], &beside.to_string());
        }
        // Names are known by all, and lead to addresses that are their owners'.
        for (host, address) in crowd.hosts.iter().zip(&shown) {
            let name = format!("{}.test.ipop", host.config.name);
            for asker in &crowd.hosts {
                wait_for(&format!("{} finds {name}", asker.config.name), PATIENCE, || {
                    (short(asker, &[&name, "A"]) == *address).then_some(())
                });
            }
        }
        every_kind_of_record_is_answered(&crowd.hosts, &shown);
        let text = crowd.hosts[1].ctl(&["dhcp", "leases"]);
        assert!(text.contains("10.128.0.0/24, and fd00:128::/64 by key: 254 addresses"), "{text}");
        assert!(text.contains("this node") && text.contains("renewed"), "{text}");
        let status = crowd.hosts[1].ctl(&["status"]);
        assert!(!status.contains("warning"), "{status}");
        // A daemon that is killed has its address again at once, and its packets flow.
        crowd.hosts[2].take().kill();
        crowd.hosts[2].start(&How::Plain);
        assert_eq!(addresses(&crowd.hosts[2]).first(), Some(&IpAddr::V4(leases[2])));
        hears(&crowd.hosts[2], &shown[0]);
        hears(&crowd.hosts[0], &shown[2]);
        // One that left in order asks for the same again.
        assert!(crowd.hosts[3].take().terminate().success());
        crowd.hosts[3].start(&How::Plain);
        assert_eq!(leased(&crowd.hosts[3]), leases[3]);
        hears(&crowd.hosts[4], &shown[3]);
    });
}

#[test]
fn a_pool_that_is_used_up_says_so_until_somebody_leaves() {
    run(|| {
        let mut crowd = crowd(3, "pool = \"10.128.0.0/30\"").up();
        let have = |crowd: &Crowd| -> Vec<usize> {
            (0..3).filter(|host| !addresses(&crowd.hosts[*host]).is_empty()).collect()
        };
        let mut without = wait_for("two have addresses, and one is told why not", PATIENCE, || {
            let have = have(&crowd);
            let without = (0..3).find(|host| !have.contains(host))?;
            let trouble = dhcp(&crowd.hosts[without])["trouble"].clone();
            (have.len() == 2 && trouble.as_str()?.contains("are taken")).then_some(without)
        });
        let status = crowd.hosts[without].ctl(&["status"]);
        assert!(status.contains("no address from the pool: all addresses of the pool are taken"), "{status}");
        if without == 0 {
            without = 1;
        }
        // The way in stays.
        let leaver = (1..3).find(|host| *host != without).expect("another");
        assert!(crowd.hosts[leaver].take().terminate().success());
        let left = [0, if without == leaver { 0 } else { without }];
        for host in left {
            leased(&crowd.hosts[host]);
        }
        wait_for("no trouble any more", SOON, || {
            dhcp(&crowd.hosts[left[1]])["trouble"].is_null().then_some(())
        });
    });
}

#[test]
fn an_address_in_the_configuration_is_nobody_elses_lease() {
    run(|| {
        let mut crowd = crowd(3, "pool = \"10.128.0.0/30\"\naddress = \"10.128.0.2\"");
        crowd.hosts[1].config.addresses = Some(vec!["10.128.0.1/30".to_owned()]);
        for host in 0..2 {
            crowd.hosts[host].start(&How::Plain);
        }
        assert_eq!(leased(&crowd.hosts[0]), Ipv4Addr::new(10, 128, 0, 2));
        hears(&crowd.hosts[0], "10.128.0.1");
        hears(&crowd.hosts[1], "10.128.0.2");
        assert_eq!(dhcp(&crowd.hosts[1])["mode"], "listed");
        crowd.hosts[2].start(&How::Plain);
        wait_for("the third is told", PATIENCE, || {
            dhcp(&crowd.hosts[2])["trouble"].as_str()?.contains("are taken").then_some(())
        });
        // Whoever lists what is another's is told, and gets none of its packets.
        crowd.hosts[2].config.addresses = Some(vec!["10.128.0.2/30".to_owned()]);
        crowd.hosts[2].write_config();
        let refused = crowd.hosts[1].log().matches("another node has this node's address").count();
        crowd.hosts[2].ctl(&["reload"]);
        wait_for("it is told whose", PATIENCE, || {
            crowd.hosts[2].ctl(&["status"]).contains("10.128.0.2 is leased to ipop:").then_some(())
        });
        hears(&crowd.hosts[1], "10.128.0.2");
        let before = crowd.hosts[0].packets();
        crowd.hosts[1].ping(Ipv4Addr::new(10, 128, 0, 2).into(), &[]);
        let after = crowd.hosts[0].packets();
        assert!(after != before, "{refused}: the one that leases it has the packets");
    });
}

#[test]
fn a_claim_that_no_lease_bears_out_is_refused() {
    run(|| {
        let mut crowd = crowd(4, "pool = \"10.128.0.0/24\"");
        // It lists an address that another has by then.
        for host in 0..3 {
            crowd.hosts[host].start(&How::Plain);
        }
        let victim = leased(&crowd.hosts[2]);
        hears(&crowd.hosts[1], &victim.to_string());
        // Leases are as old as the second in which they were made; of two of one second, addresses on the ring decide.
        let made = unix_s();
        wait_for("another second", SOON, || (unix_s() > made).then_some(()));
        // The thief says that it has had the address since long ago: the older claim would stand.
        crowd.hosts[3].config.addresses = Some(vec![format!("{victim}/24")]);
        let state = crowd.hosts[3].folder.join("state");
        std::fs::create_dir_all(&state).expect("a folder");
        let text = format!("network = \"test\"\naddresses = [\"{victim}\"]\nsince = 1000\n");
        std::fs::write(state.join("overlay.toml"), text).expect("a file");
        crowd.hosts[3].start(&How::Plain);
        crowd.hosts[1].wait_for_counter("rx_refused_claim", 0, 1);
        wait_for("the thief is told", PATIENCE, || {
            crowd.hosts[3].ctl(&["status"]).contains("is leased to").then_some(())
        });
        // The address is still the victim's: it answers, and by its own name.
        hears(&crowd.hosts[1], &victim.to_string());
        wait_for("its name", PATIENCE, || {
            (short(&crowd.hosts[1], &["-x", &victim.to_string()]) == "n3.test.ipop.").then_some(())
        });
        let peers = crowd.hosts[1].ask("/v1/peers");
        let of = |key: &str| {
            let mut peers = peers.as_array().into_iter().flatten();
            peers.find(|peer| peer["public_key"] == key).map(|peer| peer["virtual_ips"].to_string())
        };
        let has = |key: &str| of(key).is_some_and(|ips| ips.contains(&format!("\"{victim}\"")));
        assert!(has(&crowd.hosts[2].key) && !has(&crowd.hosts[3].key), "{peers}");
    });
}

/// How long it takes is printed, and asserted with room to spare: this many daemons share the CPUs of one machine.
#[test]
fn a_crowd_has_addresses_and_names_soon_after_it_starts() {
    run(|| {
        let mut crowd = crowd(32, "pool = \"10.128.0.0/16\"");
        for host in &mut crowd.hosts {
            host.config.dns.insert("resolver", "\"auto\"".to_owned());
            host.write_resolver("nameserver 192.0.2.1\n");
        }
        let start = Instant::now();
        // All at the same moment, as after a power cut.
        let daemons: Vec<Daemon> =
            crowd.hosts.iter().map(|host| host.launch(&host.with_resolver())).collect();
        for (host, daemon) in crowd.hosts.iter_mut().zip(daemons) {
            host.await_answer(daemon, CROWD_PATIENCE);
        }
        let started = start.elapsed();
        let leases: Vec<Ipv4Addr> = crowd.hosts.iter().map(leased).collect();
        let have_addresses = start.elapsed();
        assert_eq!(leases.iter().collect::<BTreeSet<_>>().len(), 32, "{leases:?}");
        // By what their daemons have put into their resolv.conf: no server is named.
        for (number, address) in leases.iter().enumerate() {
            let asker = &crowd.hosts[(number + 1) % leases.len()];
            let name = crowd.hosts[number].virtual_name();
            let words = ["+time=5", "+tries=1", "+short", &name, "A"];
            wait_for(&format!("{} finds {name}", asker.config.name), CROWD_PATIENCE, || {
                (printed(asker, "dig", &words).trim() == address.to_string()).then_some(())
            });
        }
        let have_names = start.elapsed();
        for (number, address) in leases.iter().enumerate() {
            let name = crowd.hosts[number].virtual_name();
            let [looking, calling] = [5, 11].map(|step| &crowd.hosts[(number + step) % leases.len()]);
            wait_for(&format!("{} looks {name} up", looking.config.name), CROWD_PATIENCE, || {
                let found = printed(looking, "getent", &["hosts", &name]);
                let words: Vec<&str> = found.split_whitespace().collect();
                (words == [address.to_string().as_str(), name.as_str()]).then_some(())
            });
            wait_for(&format!("{} hears {name}", calling.config.name), CROWD_PATIENCE, || {
                let heard = printed(calling, "ping", &["-c", "1", "-W", "1", &name]);
                let whom = format!("PING {name} ({address})");
                (heard.starts_with(&whom) && heard.contains(" 1 received")).then_some(())
            });
        }
        println!(
            "32 daemons: started after {started:?}, addresses after {have_addresses:?}, names after {have_names:?}, \
             all called by name after {:?}",
            start.elapsed()
        );
    });
}

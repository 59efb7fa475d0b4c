//! Addresses and names without a server: nodes lease addresses from a pool, know each other by name, and nobody takes
//! what is another's.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::crowd::Crowd;
use crate::lab::daemon::How;
use crate::lab::host::Host;
use crate::lab::{SOON, run, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

/// Hosts that all lease their addresses; the first describes the network.
fn crowd(count: u8, dhcp: &str) -> Crowd {
    let mut crowd = Crowd::new(count);
    for host in &mut crowd.hosts {
        host.config.addresses.clear();
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

/// The address that a host has leased by now.
#[track_caller]
fn leased(host: &Host) -> Ipv4Addr {
    wait_for(&format!("{} has an address", host.config.name), PATIENCE, || {
        addresses(host).into_iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    })
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

fn dhcp(host: &Host) -> Value {
    host.ask("/v1/dhcp")
}

#[test]
fn all_get_an_address_of_their_own_and_find_each_other_by_name() {
    run(|| {
        let mut crowd = crowd(5, "pool = \"10.128.0.0/24\"\nipv6 = \"fd00:128::/64\"\nlease_s = 600");
        crowd.hosts[0].config.dns.insert("services", "{ \"_http._tcp\" = 8080 }".to_owned());
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
        assert_eq!(short(&crowd.hosts[1], &["-x", &shown[3]]), "n4.test.ipop.");
        assert_eq!(short(&crowd.hosts[1], &["nobody.test.ipop", "A"]), "");
        // So are services.
        wait_for("a service", PATIENCE, || {
            let found = short(&crowd.hosts[4], &["_http._tcp.test.ipop", "SRV"]);
            (found == "0 0 8080 n1.test.ipop.").then_some(())
        });
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
        crowd.hosts[1].config.addresses = vec!["10.128.0.1/30".to_owned()];
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
        crowd.hosts[2].config.addresses = vec!["10.128.0.2/30".to_owned()];
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
        // The thief says that it has had the address since long ago: the older claim would stand.
        crowd.hosts[3].config.addresses = vec![format!("{victim}/24")];
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
        let start = Instant::now();
        crowd.hosts.iter_mut().for_each(|host| host.start(&How::Plain));
        let started = start.elapsed();
        let leases: Vec<Ipv4Addr> = crowd.hosts.iter().map(leased).collect();
        let have_addresses = start.elapsed();
        assert_eq!(leases.iter().collect::<BTreeSet<_>>().len(), 32, "{leases:?}");
        for (number, address) in leases.iter().enumerate() {
            let asker = &crowd.hosts[(number + 1) % leases.len()];
            let name = format!("n{}.test.ipop", number + 1);
            wait_for(&format!("{} finds {name}", asker.config.name), PATIENCE, || {
                (short(asker, &[&name, "A"]) == address.to_string()).then_some(())
            });
        }
        let have_names = start.elapsed();
        for (number, address) in leases.iter().enumerate() {
            hears(&crowd.hosts[(number + 7) % leases.len()], &address.to_string());
        }
        println!(
            "32 daemons: started after {started:?}, addresses after {have_addresses:?}, names after {have_names:?}"
        );
    });
}

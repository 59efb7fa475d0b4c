//! What is decided of announcements, their bytes, and a client by itself, whose node is all of its network.

use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use core::net::IpAddr;
use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::address::NodeAddress;
use crate::dhcp::tests::Host;
use crate::dht::{Key, TTL_MAX_S, VALUE_MAX};
use crate::time::Instant;

fn subnet(text: &str) -> Subnet {
    let (address, len) = text.split_once('/').expect("a prefix");
    Subnet::new(address.parse().expect("an address"), len.parse().expect("a length")).expect("short enough")
}

fn key(number: u8) -> [u8; 32] {
    [number; 32]
}

fn address(number: u8) -> NodeAddress {
    NodeAddress::of_key(&key(number))
}

fn router(number: u8, priority: u8, since: u64, subnets: &[&str]) -> Router {
    let subnets = subnets.iter().map(|text| subnet(text)).collect();
    Router { public_key: key(number), priority, since, subnets }
}

/// A policy that takes these from anybody.
fn accepting(subnets: &[&str]) -> Policy {
    let accept = subnets.iter().map(|text| Accept { subnet: subnet(text), from: Vec::new() });
    Policy { own: vec![subnet("10.128.0.0/24")], accept: accept.collect(), ..Policy::default() }
}

fn table(policy: Policy, routers: Vec<Router>) -> Table {
    let mut table = Table::default();
    table.set_policy(policy);
    table.set_routers(routers);
    table
}

/// Who has a subnet, and why the others have not.
fn states(table: &Table, text: &str) -> Vec<(u8, State)> {
    let entries = table.entries().iter().filter(|entry| entry.subnet == subnet(text));
    entries.map(|entry| (entry.public_key[0], entry.state)).collect()
}

fn at(s: u64) -> Instant {
    Instant::default().after(Duration::from_secs(s))
}

/// Two routers of one site in the order in which they are used.
fn pair() -> (Table, u8, u8) {
    let routers = vec![router(1, 0, 5, &["192.168.7.0/24"]), router(2, 0, 9, &["192.168.7.0/24"])];
    let (first, second) = if address(1) < address(2) { (1, 2) } else { (2, 1) };
    (table(accepting(&["192.168.0.0/16"]), routers), first, second)
}

#[test]
fn nothing_is_taken_that_the_operator_has_not_named() {
    let routers = vec![router(1, 0, 0, &["192.168.7.0/24", "0.0.0.0/0", "::/0"])];
    let mut silent = table(Policy::default(), routers.clone());
    silent.decide(at(0));
    assert_eq!(states(&silent, "192.168.7.0/24"), [(1, State::Refused(Why::NotAccepted))]);
    assert_eq!(states(&silent, "0.0.0.0/0"), [(1, State::Refused(Why::NotExit))]);
    // A part of what is accepted is, more is not.
    for (accepted, state) in [
        ("192.168.0.0/16", State::Active),
        ("192.168.7.0/24", State::Active),
        ("192.168.7.0/25", State::Refused(Why::NotAccepted)),
        ("fd00::/8", State::Refused(Why::NotAccepted)),
    ] {
        let mut table = table(accepting(&[accepted]), routers.clone());
        table.decide(at(0));
        assert_eq!(states(&table, "192.168.7.0/24"), [(1, state)], "{accepted}");
    }
}

#[test]
fn a_subnet_may_be_taken_from_some_and_not_from_others() {
    let routers = vec![router(1, 9, 0, &["192.168.7.0/24"]), router(2, 0, 0, &["192.168.7.0/24"])];
    let accept = vec![Accept { subnet: subnet("192.168.0.0/16"), from: vec![address(2)] }];
    let mut table = table(Policy { accept, ..Policy::default() }, routers);
    table.decide(at(0));
    let refused = State::Refused(Why::NotAccepted);
    assert_eq!(states(&table, "192.168.7.0/24"), [(2, State::Active), (1, refused)]);
}

#[test]
fn everything_goes_by_the_exit_node_that_is_named_alone() {
    let routers = vec![router(1, 9, 0, &["0.0.0.0/0", "::/0"]), router(2, 0, 3, &["0.0.0.0/0"])];
    // However wide what is accepted is, it holds no exit node.
    let wide = accepting(&["0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/0", "::/0"]);
    let mut none = table(wide.clone(), routers.clone());
    none.decide(at(0));
    assert!(none.entries().iter().all(|entry| entry.state == State::Refused(Why::NotExit)));
    let mut second = table(Policy { exit: Some(address(2)), ..wide }, routers);
    second.decide(at(0));
    assert_eq!(
        states(&second, "0.0.0.0/0"),
        [(2, State::Active), (1, State::Refused(Why::NotExit))],
        "the other is refused in spite of its priority"
    );
    assert_eq!(second.router_of("9.9.9.9".parse().unwrap()).map(|entry| entry.public_key), Some(key(2)));
    assert_eq!(second.router_of("2001:db8::1".parse().unwrap()), None);
}

#[test]
fn what_is_this_nodes_own_or_a_peers_or_nobodys_is_refused() {
    let policy = Policy {
        of_peers: vec![subnet("172.20.1.0/24")],
        announced: vec![subnet("192.168.1.0/24"), subnet("0.0.0.0/0")],
        ..accepting(&["0.0.0.0/0", "::/0"])
    };
    for (announced, why) in [
        ("10.128.0.0/24", Why::OwnNetwork),
        ("10.128.0.7/32", Why::OwnNetwork),
        ("10.0.0.0/8", Why::OwnNetwork),
        ("172.20.1.9/32", Why::OfPeer),
        ("172.16.0.0/12", Why::OfPeer),
        ("192.168.1.0/24", Why::AnnouncedHere),
        ("192.168.1.0/25", Why::OverlapsAnnounced),
        ("192.168.0.0/16", Why::OverlapsAnnounced),
        ("127.0.0.0/8", Why::NotRoutable),
        ("169.254.169.254/32", Why::NotRoutable),
        ("224.0.0.0/4", Why::NotRoutable),
        ("255.255.255.255/32", Why::NotRoutable),
        ("fe80::/64", Why::NotRoutable),
        ("::1/128", Why::NotRoutable),
        ("ff02::1/128", Why::NotRoutable),
    ] {
        let mut table = table(policy.clone(), vec![router(1, 0, 0, &[announced])]);
        table.decide(at(0));
        assert_eq!(states(&table, announced), [(1, State::Refused(why))], "{announced}");
        assert_eq!(why.is_strange(), why != Why::AnnouncedHere);
    }
    let mut table = table(policy, vec![router(1, 0, 0, &["192.168.2.0/24", "fd01::/64"])]);
    table.decide(at(0));
    assert!(table.entries().iter().all(|entry| entry.state == State::Active), "{:?}", table.entries());
}

#[test]
fn of_overlapping_subnets_the_older_stands() {
    let old = router(1, 0, 100, &["192.168.0.0/17", "192.168.4.0/24"]);
    let young = router(2, 255, 101, &["192.168.4.0/25", "192.168.0.0/16", "192.168.200.0/24"]);
    for routers in [vec![old.clone(), young.clone()], vec![young, old]] {
        let mut table = table(accepting(&["192.168.0.0/16"]), routers);
        table.decide(at(0));
        let refused = |by: &str| State::Refused(Why::Overlaps { subnet: subnet(by), of: address(1) });
        assert_eq!(states(&table, "192.168.0.0/17"), [(1, State::Active)]);
        assert_eq!(states(&table, "192.168.4.0/24"), [(1, State::Active)], "a part of its own");
        assert_eq!(states(&table, "192.168.4.0/25"), [(2, refused("192.168.0.0/17"))]);
        assert_eq!(states(&table, "192.168.0.0/16"), [(2, refused("192.168.0.0/17"))]);
        assert_eq!(states(&table, "192.168.200.0/24"), [(2, State::Active)]);
        let of = |text: &str| table.router_of(text.parse().unwrap()).map(|entry| entry.subnet.to_string());
        assert_eq!(of("192.168.4.9"), Some("192.168.4.0/24".to_string()), "the longest");
        assert_eq!(of("192.168.5.9"), Some("192.168.0.0/17".to_string()));
        assert_eq!(of("192.168.129.9"), None);
    }
}

#[test]
fn of_two_equally_old_the_address_decides_whoever_is_heard_of_first() {
    let routers = [router(1, 0, 7, &["192.168.0.0/16"]), router(2, 0, 7, &["192.168.7.0/24"])];
    let [a, b] = routers;
    let mut first = table(accepting(&["192.168.0.0/16"]), vec![a.clone(), b.clone()]);
    let mut second = table(accepting(&["192.168.0.0/16"]), vec![b, a]);
    first.decide(at(0));
    second.decide(at(0));
    assert_eq!(first.entries(), second.entries());
    assert_eq!(first.entries().iter().filter(|entry| entry.state == State::Active).count(), 1);
}

#[test]
fn a_router_that_falls_silent_gives_way_at_once_and_comes_back_when_it_is_steady() {
    let (mut table, first, second) = pair();
    let site = "192.168.7.0/24";
    assert!(table.decide(at(0)));
    assert_eq!(states(&table, site), [(first, State::Active), (second, State::Standby)]);
    // The first to answer is used, until the better one has answered for long enough.
    table.set_reachable(key(second), true, at(1));
    assert!(table.decide(at(1)));
    assert_eq!(states(&table, site), [(first, State::Standby), (second, State::Active)]);
    table.set_reachable(key(first), true, at(2));
    assert!(!table.decide(at(2)));
    assert_eq!(table.poll_timeout(), Some(at(12)));
    assert!(!table.decide(at(11)));
    assert!(table.decide(at(12)));
    assert_eq!(states(&table, site)[0], (first, State::Active));
    table.set_reachable(key(first), false, at(20));
    assert!(table.decide(at(20)));
    assert_eq!(states(&table, site)[1], (second, State::Active));
    // Who comes and goes is not steady.
    for s in (21..60).step_by(6) {
        table.set_reachable(key(first), true, at(s));
        table.decide(at(s + 5));
        assert_eq!(states(&table, site)[1], (second, State::Active), "{s}");
        table.set_reachable(key(first), false, at(s + 5));
    }
    // If neither answers, it stays; there is no better way.
    table.set_reachable(key(second), false, at(70));
    assert!(!table.decide(at(70)));
    assert_eq!(states(&table, site)[1], (second, State::Active));
    table.set_reachable(key(first), true, at(71));
    table.decide(at(71));
    assert_eq!(states(&table, site)[0], (first, State::Active), "the one that answers");
}

#[test]
fn priority_goes_before_addresses() {
    let (mut table, first, second) = pair();
    let mut routers = vec![router(1, 3, 5, &["192.168.7.0/24"]), router(2, 3, 9, &["192.168.7.0/24"])];
    routers.iter_mut().filter(|r| r.public_key[0] == second).for_each(|r| r.priority = 4);
    table.set_routers(routers);
    table.decide(at(0));
    assert_eq!(states(&table, "192.168.7.0/24"), [(second, State::Active), (first, State::Standby)]);
}

#[test]
fn who_announces_a_subnet_no_more_does_not_have_it() {
    let (mut table, first, second) = pair();
    for number in [first, second] {
        table.set_reachable(key(number), true, at(0));
    }
    table.decide(at(0));
    table.set_routers(vec![router(second, 0, 9, &["192.168.7.0/24"])]);
    assert!(table.decide(at(1)));
    assert_eq!(states(&table, "192.168.7.0/24"), [(second, State::Active)]);
    table.set_policy(Policy::default());
    assert!(table.decide(at(2)));
    assert_eq!(states(&table, "192.168.7.0/24"), [(second, State::Refused(Why::NotAccepted))]);
    table.set_routers(Vec::new());
    assert!(table.decide(at(3)));
    assert_eq!(table.entries(), []);
}

#[test]
fn many_announcements_of_many_routers_are_bounded() {
    let routers = (0..ROUTERS_MAX).map(|number| Router {
        public_key: [number as u8; 32],
        priority: 0,
        since: number as u64,
        subnets: (0..SUBNETS_MAX)
            .map(|index| Subnet::new(IpAddr::from([172, 16, number as u8, index as u8]), 32).unwrap())
            .collect(),
    });
    let mut table = table(accepting(&["172.16.0.0/12"]), routers.collect());
    table.decide(at(0));
    let taken = table.entries().iter().filter(|entry| entry.stands()).count();
    assert_eq!(taken, TAKEN_MAX);
    let refused = table.entries().iter().filter(|entry| entry.state == State::Refused(Why::TooMany)).count();
    assert_eq!(refused, ROUTERS_MAX * SUBNETS_MAX - TAKEN_MAX);
}

#[test]
fn an_announcement_has_these_bytes() {
    let announcement = Announcement {
        priority: 7,
        subnets: vec![subnet("192.168.7.0/24"), subnet("fd01::/64"), subnet("::/0")],
    };
    let mut expected = vec![1, 7, 3, 0];
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 7, 0, 120]);
    expected.extend([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64]);
    expected.extend([0; 17]);
    assert_eq!(announcement.to_bytes(), expected);
    assert_eq!(Announcement::parse(&expected), Some(announcement));
    let all: Vec<Subnet> = (0..SUBNETS_MAX)
        .map(|index| Subnet::new(IpAddr::from([10, index as u8, 0, 0]), 16).unwrap())
        .collect();
    let longest = Announcement { priority: 0, subnets: all }.to_bytes();
    assert!(longest.len() <= VALUE_MAX && Announcement::parse(&longest).is_some());
}

#[test]
fn what_no_node_of_ours_writes_is_no_announcement() {
    let good = Announcement { priority: 0, subnets: vec![subnet("192.168.7.0/24"), subnet("10.0.0.0/8")] };
    let good = good.to_bytes();
    for (what, at, byte) in [
        ("another version", 0, 2),
        ("more than there are", 2, 3),
        ("less than there are", 2, 1),
        ("not zero", 3, 1),
        ("host bits", 19, 1),
        ("too long a prefix", 20, 129),
        ("a prefix that cuts the mark of IPv4", 20, 95),
    ] {
        let mut bytes = good.clone();
        bytes[at] = byte;
        assert_eq!(Announcement::parse(&bytes), None, "{what}");
    }
    let mut twice = good.clone();
    twice.copy_within(4..21, 21);
    assert_eq!(Announcement::parse(&twice), None, "a subnet twice");
    assert_eq!(Announcement::parse(&good[..good.len() - 1]), None);
    assert_eq!(Announcement::parse(&[]), None);
    let mut many = vec![1, 0, 33, 0];
    many.extend(vec![0; 33 * 17]);
    assert_eq!(Announcement::parse(&many), None);
}

#[test]
fn subnets_contain_each_other_by_family() {
    assert_eq!(subnet("192.168.7.9/24"), subnet("192.168.7.0/24"));
    assert!(subnet("::/0").covers(subnet("fd00::/8")) && !subnet("::/0").covers(subnet("10.0.0.0/8")));
    assert!(subnet("0.0.0.0/0").covers(subnet("10.0.0.0/8")));
    assert!(!subnet("10.0.0.0/8").covers(subnet("0.0.0.0/0")));
    assert_eq!(Subnet::new("10.0.0.0".parse().unwrap(), 33), None);
    assert_eq!(Subnet::new("fd00::".parse().unwrap(), 129), None);
}

proptest! {
    #[test]
    fn what_is_read_is_written_back(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Some(announcement) = Announcement::parse(&bytes) {
            prop_assert_eq!(announcement.to_bytes(), bytes);
        }
    }

    /// Whatever is announced: the order in which it is heard does not matter, each subnet has one router at most,
    /// what is taken was accepted, and of different routers nothing overlaps.
    #[test]
    fn decisions_follow_from_what_is_announced_alone(
        announced in prop::collection::vec(
            (0u8..3, 0u64..3, prop::collection::btree_set((8u8..=26, 0u8..8), 0..5)),
            0..8,
        ),
        rotation in 0usize..8,
    ) {
        let of = |(len, third): &(u8, u8)| Subnet::new(IpAddr::from([192, 168, *third, 0]), *len).unwrap();
        let routers: Vec<Router> = announced.iter().enumerate().map(|(number, (priority, since, subnets))| {
            let mut subnets: Vec<Subnet> = subnets.iter().map(of).collect();
            subnets.sort();
            subnets.dedup();
            Router { public_key: key(number as u8), priority: *priority, since: *since, subnets }
        }).collect();
        let mut turned = routers.clone();
        if !turned.is_empty() {
            let by = rotation % turned.len();
            turned.rotate_left(by);
        }
        let mut one = table(accepting(&["192.168.0.0/16"]), routers);
        let mut two = table(accepting(&["192.168.0.0/16"]), turned);
        one.decide(at(0));
        two.decide(at(0));
        let active = |table: &Table| -> Vec<(Subnet, [u8; 32])> {
            let active = table.entries().iter().filter(|entry| entry.state == State::Active);
            active.map(|entry| (entry.subnet, entry.public_key)).collect()
        };
        prop_assert_eq!(active(&one), active(&two));
        for entry in one.entries().iter().filter(|entry| entry.stands()) {
            prop_assert!(subnet("192.168.0.0/16").covers(entry.subnet));
            let others = one.entries().iter().filter(|other| other.stands());
            for other in others.filter(|other| other.public_key != entry.public_key) {
                prop_assert!(other.subnet == entry.subnet || !other.subnet.overlaps(entry.subnet));
            }
        }
        let mut subnets: Vec<Subnet> = active(&one).iter().map(|(subnet, _)| *subnet).collect();
        let count = subnets.len();
        subnets.dedup();
        prop_assert_eq!(subnets.len(), count);
    }
}

/// Lets time pass for clients that all share the only node.
fn run(host: &mut Host, clients: &mut [&mut Client], span: Duration) -> Vec<Vec<Output>> {
    let mut outputs = vec![Vec::new(); clients.len()];
    host.drive(span, |node, event, now| {
        for (client, outputs) in clients.iter_mut().zip(&mut outputs) {
            match event {
                Some(event) => drop(client.handle_event(event, now)),
                None => client.handle_timeout(node, now),
            }
            outputs.extend(core::iter::from_fn(|| client.poll_output()));
        }
        clients.iter().filter_map(|client| client.poll_timeout()).min()
    });
    outputs
}

#[test]
fn what_one_client_announces_another_reads_until_it_is_withdrawn() {
    let mut host = Host::new();
    let announcement = Announcement { priority: 3, subnets: vec![subnet("192.168.7.0/24")] };
    let mut router = Client::new("test", host.key);
    // By the same node, but not asking for its own.
    let mut reader = Client::new("test", [9; 32]);
    router.configure(Some(announcement.clone()), false, &mut host.node, host.now);
    reader.configure(None, true, &mut host.node, host.now);
    let outputs = run(&mut host, &mut [&mut router, &mut reader], Duration::from_secs(5));
    assert_eq!(outputs[0], [Output::Announced]);
    let Some(Output::Routers(found)) = outputs[1].last() else { panic!("{:?}", outputs[1]) };
    let [found] = &found[..] else { panic!("{found:?}") };
    assert_eq!((found.public_key, found.priority, &found.subnets), (host.key, 3, &announcement.subnets));
    // It is kept up far beyond its life, and its age is that of the first.
    let outputs = run(&mut host, &mut [&mut router, &mut reader], Duration::from_secs(4000));
    let Some(Output::Routers(later)) = outputs[1].last() else { panic!("{:?}", outputs[1]) };
    assert_eq!(later[0].since, found.since);
    assert!(outputs[1].len() < 70, "{} answers in 4000 s", outputs[1].len());
    router.withdraw(&mut host.node, host.now);
    reader.ask_soon(host.now);
    let outputs = run(&mut host, &mut [&mut reader], Duration::from_secs(100));
    assert_eq!(outputs[0].last(), Some(&Output::Routers(Vec::new())));
}

#[test]
fn what_cannot_be_read_is_counted_and_a_router_does_not_hear_of_itself() {
    let mut host = Host::new();
    let name = name_of_network("test");
    host.node.dht_put(&name, 0, b"nonsense", TTL_MAX_S, true, host.now).expect("a record");
    let stored = |host: &mut Host| while host.node.poll_output().is_some() {};
    stored(&mut host);
    let mut reader = Client::new("test", [9; 32]);
    let mut same = Client::new("test", host.key);
    reader.configure(None, true, &mut host.node, host.now);
    same.configure(None, true, &mut host.node, host.now);
    let outputs = run(&mut host, &mut [&mut reader, &mut same], Duration::from_secs(1));
    assert_eq!(outputs[0][..2], [Output::Malformed(1), Output::Routers(Vec::new())]);
    assert_eq!(outputs[1][0], Output::Routers(Vec::new()));
    assert!(
        Key::of_name(&name_of_network(&String::from("a").repeat(63))).is_some(),
        "all names are short enough"
    );
}

//! Announcements of subnets: the codec, and what a node with an open policy makes of two routers that say them.
//!
//! Input: a byte of how long one of them is, of the rest in 256ths; the one's announcement, the other's.

use ipop_overlay::NodeAddress;
use ipop_overlay::routes::{Accept, Announcement, Entry, Policy, Router, State, Subnet, TAKEN_MAX, Table};

pub(super) fn run(input: &[u8]) {
    let Some((cut, rest)) = input.split_first() else { return };
    let (one, two) = rest.split_at(rest.len() * usize::from(*cut) / 256);
    let routers = [(one, 1u8), (two, 2)].into_iter().filter_map(|(bytes, number)| {
        let announcement = Announcement::parse(bytes)?;
        assert_eq!(announcement.to_bytes(), bytes);
        let Announcement { priority, subnets } = announcement;
        Some(Router { public_key: [number; 32], priority, since: number.into(), subnets })
    });
    let routers: Vec<Router> = routers.collect();
    let announced: usize = routers.iter().map(|router| router.subnets.len()).sum();
    let own = subnet([10, 128, 0, 0], 16);
    let exit = NodeAddress::of_key(&[2; 32]);
    let mut table = Table::default();
    table.set_policy(Policy {
        own: vec![own],
        accept: vec![accept([0, 0, 0, 0], 1), accept([128, 0, 0, 0], 1)],
        exit: Some(exit),
        ..Policy::default()
    });
    table.set_routers(routers);
    table.decide(Default::default());
    assert_eq!(table.entries().len(), announced, "nothing is forgotten");
    let standing: Vec<&Entry> = table.entries().iter().filter(|entry| entry.stands()).collect();
    assert!(standing.len() <= TAKEN_MAX);
    for entry in &standing {
        assert!(entry.subnet.is_routable() && (entry.subnet.is_default() || !entry.subnet.overlaps(own)));
        assert!(entry.subnet.is_default() == (entry.subnet.len() == 0));
        assert!(!entry.subnet.is_default() || entry.router() == exit, "an exit node that nobody has named");
        let of_it = standing.iter().filter(|other| other.subnet == entry.subnet);
        let active = of_it.filter(|other| other.state == State::Active).count();
        assert_eq!(active, 1, "one way for each subnet");
        for other in standing.iter().filter(|other| other.public_key != entry.public_key) {
            let is_default = entry.subnet.is_default() || other.subnet.is_default();
            assert!(is_default || entry.subnet == other.subnet || !entry.subnet.overlaps(other.subnet));
        }
        assert!(table.router_of(entry.subnet.address()).is_some());
    }
}

fn subnet(address: [u8; 4], len: u8) -> Subnet {
    Subnet::new(address.into(), len).expect("a length that an address has")
}

fn accept(address: [u8; 4], len: u8) -> Accept {
    Accept { subnet: subnet(address, len), from: Vec::new() }
}

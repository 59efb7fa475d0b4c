//! A datagram on the daemon's port that may be a clear frame: read, admitted by the user path's
//! tables.
//!
//! Input: whose address it comes from, the datagram.

use std::net::IpAddr;

use ipop_common::gpe::{self, NextProtocol};
use ipop_common::ingress::{self, Clear};
use ipop_common::tables::Tables;
use ipop_common::{Address, Family};

use super::tables::{NOW_NS, STALE, peers, user, world};

pub(super) fn run(input: &[u8]) {
    let Some((&from, datagram)) = input.split_first() else { return };
    let Ok(len) = u16::try_from(datagram.len()) else { return };
    let Ok(clear) = ingress::clear(datagram, 0, len) else { return };
    encodes_back(datagram, &clear);
    let from = peers().get(usize::from(from)).map_or(IpAddr::from([198, 51, 100, 1]), |peer| peer.remote);
    both_tables_agree(&clear, from.into());
}

fn encodes_back(datagram: &[u8], clear: &Clear) {
    let next_protocol = match clear.inner.family {
        Family::V4 => NextProtocol::Ipv4,
        Family::V6 => NextProtocol::Ipv6,
    };
    let header = gpe::Header { link_id: clear.link_id, next_protocol };
    assert_eq!(header.to_bytes(), datagram[..gpe::HEADER_LEN]);
    assert_eq!(usize::from(clear.inner.total_len), datagram.len() - gpe::HEADER_LEN);
}

/// The user path's tables and the kernel's say the same of everybody, and admit a frame only from
/// its link's peer and with an inner source of that peer.
fn both_tables_agree(clear: &Clear, from: Address) {
    for address in [clear.inner.source, clear.inner.destination] {
        let by_user = user().by_address(&address);
        let by_kernel = world().by_address(&address);
        let stale = peers()[STALE].reference();
        assert!(by_user == by_kernel || by_kernel == Some(stale), "{address:?}: {by_user:?}, {by_kernel:?}");
    }
    if clear.link_id.value() == peers()[STALE].link_id {
        assert!(ingress::admit(user(), clear, from, NOW_NS).is_err());
        return;
    }
    let slot = |tables: Result<ingress::Admitted<'_>, _>| tables.map(|admitted| admitted.slot);
    let by_user = slot(ingress::admit(user(), clear, from, NOW_NS));
    assert_eq!(by_user, slot(ingress::admit(world(), clear, from, NOW_NS)));
    let Ok(slot) = by_user else { return };
    let peer = peers().iter().find(|peer| peer.slot == slot).expect("a peer");
    assert_eq!((peer.link_id, Address::from(peer.remote)), (clear.link_id.value(), from));
    assert_eq!(user().by_address(&clear.inner.source), Some(peer.reference()));
}

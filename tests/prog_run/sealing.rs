//! A node whose programs seal and open, and what is expected of them: that by `sealed`, of links to peers
//! themselves, and by `relayed`, of links by relays.

use std::net::IpAddr;

use ipop_common::Counter;
use ipop_common::maps::Link;
use ipop_common::session::Agreed;
use ipop_tests::packet;
use ipop_tests::programs::{Action, Input, Program, Programs, can_change_families};
use ipop_tests::sealed::{SealedFrame, Session};
use ipop_tests::world::{LEASE_OVER, Peer, World};

use crate::scenario::{DEVICE, HELPER, address, expect, own_v4, own_v6, same_bytes};

pub(crate) struct Node {
    pub(crate) programs: Programs,
    pub(crate) world: World,
    /// Those that it has links to, in the order of their making, and the sessions with them.
    pub(crate) links: Vec<(Peer, Session)>,
}

impl Node {
    /// A node with a session with each peer; `add` makes the links.
    pub(crate) fn new(peers: Vec<Peer>, add: impl FnOnce(&mut World, &[(Peer, Session)])) -> Self {
        let sessions = (1..).zip(peers).map(|(local, peer)| {
            let session = Session::new(local, &peer);
            (peer, session)
        });
        let links: Vec<(Peer, Session)> = sessions.collect();
        let mut world = World::new(DEVICE, HELPER);
        add(&mut world, &links);
        world.add_local(own_v4());
        world.add_local(own_v6());
        let mut programs = Programs::load();
        programs.install(&world);
        Self { programs, world, links }
    }

    /// Puts the session of `link` into its place again, changed.
    pub(crate) fn agree(&mut self, session: &Session, change: impl FnOnce(&mut Agreed)) {
        change(self.world.sessions.get_mut(&session.local).expect("the session"));
        self.programs.install(&self.world);
    }

    /// The frame must be opened, and delivered as `inner`.
    #[track_caller]
    pub(crate) fn opened(&mut self, slot: u32, frame: &SealedFrame, inner: &[u8]) {
        let bytes = frame.to_bytes();
        let before = self.programs.link_stats(slot);
        if !can_change_families() && frame.source.is_ipv4() != (inner[0] >> 4 == 4) {
            self.left_to_user(&bytes);
            return;
        }
        let opened = [Counter::RxOpened];
        let input = Input::frame(&bytes);
        let output = expect(&mut self.programs, Program::Ingress, input, Action::Redirect, &opened);
        // The Ethernet type is the skb's own from here on; the bytes stay as they came.
        same_bytes(&output.packet, &[&bytes[..14], inner].concat(), "what was in a sealed frame");
        let after = self.programs.link_stats(slot);
        assert_eq!(after.rx_packets - before.rx_packets, 1, "packets of the link");
        assert_eq!(after.rx_bytes - before.rx_bytes, inner.len() as u64, "inner bytes of the link");
    }

    #[track_caller]
    pub(crate) fn left_to_user(&mut self, frame: &[u8]) {
        let input = Input::frame(frame);
        let output = expect(&mut self.programs, Program::Ingress, input, Action::Pass, &[Counter::RxToUser]);
        same_bytes(&output.packet, frame, "a frame for the daemon");
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, frame: &SealedFrame, counter: Counter) {
        let bytes = frame.to_bytes();
        expect(&mut self.programs, Program::Ingress, Input::frame(&bytes), Action::Drop, &[counter]);
        let output = expect(&mut self.programs, Program::Xdp, Input::frame(&bytes), Action::Pass, &[]);
        same_bytes(&output.packet, &bytes, "a frame that XDP leaves to TC");
    }

    /// Runs egress on a packet that it must seal; the frame that goes out.
    #[track_caller]
    pub(crate) fn sealed(&mut self, packet: &[u8]) -> Vec<u8> {
        let sealed = [Counter::TxSealed];
        let input = Input::frame(packet);
        expect(&mut self.programs, Program::Egress, input, Action::Redirect, &sealed).packet
    }

    #[track_caller]
    pub(crate) fn missed(&mut self, packet: &[u8], counter: Counter) {
        let input = Input::frame(packet);
        let output = expect(&mut self.programs, Program::Egress, input, Action::Redirect, &[counter]);
        same_bytes(&output.packet, packet, "a packet for the user path");
    }

    /// A frame that is opened is left to the daemon once the link of its peer is gone, or its lease over.
    #[track_caller]
    pub(crate) fn opens_for_a_link_alone(&mut self, peer: &Peer, good: &SealedFrame, inner: &[u8]) {
        for change in [|link: &mut Link| link.epoch += 1, |link: &mut Link| link.lease_until_ns = LEASE_OVER]
        {
            let mut world = self.world.clone();
            world.change(peer, change);
            self.programs.install(&world);
            self.left_to_user(&good.to_bytes());
        }
        self.programs.install(&self.world);
        self.opened(peer.slot, good, inner);
    }
}

/// See `egress`: sources that make a packet look like a frame of its own family.
fn source_for(destination: IpAddr) -> IpAddr {
    if destination.is_ipv4() { address("8.0.64.1") } else { address("fd00:0:86dd::64") }
}

/// A packet of this length in all, to the peer.
pub(crate) fn packet_of(peer: &Peer, v6: bool, len: usize, port: u16) -> Vec<u8> {
    let to = if v6 { peer.inner_v6 } else { peer.inner_v4 };
    let payload: Vec<u8> = (0..len - if v6 { 48 } else { 28 }).map(|byte| (byte * 7 + len) as u8).collect();
    packet::udp(source_for(to), to, (1000, port), &payload)
}

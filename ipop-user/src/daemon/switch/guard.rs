//! Two nodes that bridge the same segment of a LAN would make a loop. Each sends a small frame into its segment now
//! and then; of those that hear one another there, the one with the lowest address goes on.

use std::time::Duration;

use ipop_common::ethernet::{ETHERTYPE_GUARD, GUARD_GROUP, Mac};
use ipop_common::ingress::ETHERNET_LEN;
use ipop_overlay::{Instant, NodeAddress};

/// How often a frame is sent.
pub(super) const APART: Duration = Duration::from_secs(2);
/// After so long without one the segment is this node's alone.
const PATIENCE: Duration = Duration::from_secs(7);
/// First bytes of the payload: what it is, and the version.
const MAGIC: [u8; 5] = *b"IPOP\x01";

/// Whether the segment on this node's side is another's.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// The other node, and until when it is believed to be there.
    other: Option<(NodeAddress, Instant)>,
    next_at: Option<Instant>,
}

impl Guard {
    /// The node that has the segment.
    pub(super) fn other(&self) -> Option<NodeAddress> {
        self.other.map(|(other, _)| other)
    }

    /// Whether it is time to send a frame.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.next_at.is_none_or(|at| at <= now);
        if is_due {
            self.next_at = Some(now.after(APART));
        }
        is_due
    }

    /// A node has been heard on this node's side. Says whether that changes anything.
    pub(super) fn heard(&mut self, other: NodeAddress, own: NodeAddress, now: Instant) -> bool {
        if other >= own || self.other.is_some_and(|(known, _)| known < other) {
            return false;
        }
        let before = self.other.replace((other, now.after(PATIENCE)));
        before.is_none_or(|(known, _)| known != other)
    }

    /// Says whether the segment is this node's again.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.other.take_if(|(_, until)| *until <= now).is_some()
    }
}

/// The frame by which a node of a network is heard in its segment.
pub(super) fn frame(mac: Mac, node: NodeAddress, network: &str) -> Vec<u8> {
    let mut frame = [&GUARD_GROUP[..], &mac, &ETHERTYPE_GUARD.to_be_bytes(), &MAGIC, &node.0].concat();
    frame.extend(network.as_bytes());
    frame
}

/// The node that has sent such a frame, where it is one of this network.
pub(super) fn sender(frame: &[u8], network: &str) -> Option<NodeAddress> {
    let payload = frame.get(ETHERNET_LEN..)?.strip_prefix(&MAGIC)?;
    let (node, name) = payload.split_first_chunk::<20>()?;
    // Short frames are filled up with zeros.
    let rest = name.strip_prefix(network.as_bytes())?;
    rest.iter().all(|byte| *byte == 0).then_some(NodeAddress(*node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }

    #[test]
    fn a_frame_names_its_node_to_its_own_network() {
        let mut sent = frame([2; 6], NodeAddress([7; 20]), "lab");
        sent.resize(60, 0);
        assert_eq!(sender(&sent, "lab"), Some(NodeAddress([7; 20])));
        for other in ["la", "labs", "other"] {
            assert_eq!(sender(&sent, other), None, "{other}");
        }
        for len in 0..39 {
            assert_eq!(sender(&sent[..len], "lab"), None);
        }
    }

    #[test]
    fn the_lowest_address_goes_on_and_the_others_come_back_when_it_is_gone() {
        let [low, own, high] = [1, 2, 3].map(|byte| NodeAddress([byte; 20]));
        let mut guard = Guard::default();
        assert!(!guard.heard(high, own, at(0)) && guard.other().is_none());
        assert!(guard.heard(low, own, at(0)));
        assert!(!guard.heard(low, own, at(2)));
        assert!(!guard.handle_timeout(at(8)));
        assert_eq!(guard.other(), Some(low));
        assert!(guard.handle_timeout(at(9)));
        assert_eq!(guard.other(), None);
    }
}

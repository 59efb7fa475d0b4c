//! Packets for tests: written field by field, and checked by sums over the whole of them, so that
//! they share no arithmetic with what they test.

use std::sync::Arc;

use ipop_common::checksum;
use ipop_common::inner::protocol;
use ipop_overlay::session::Mac1Key;
use tokio::sync::mpsc;

use super::{CarriedDatagram, GroupPacket, HandshakeDatagram, Listeners, UserEvent};

/// Public key of the node that tests receive as.
pub(super) const PUBLIC_KEY: [u8; 32] = [9; 32];

/// Where data threads turn to, with the other end in hand.
#[derive(Debug)]
pub(super) struct Ears {
    pub(super) listeners: Listeners,
    pub(super) events: mpsc::Receiver<UserEvent>,
    pub(super) handshakes: mpsc::Receiver<HandshakeDatagram>,
    pub(super) carried: mpsc::Receiver<CarriedDatagram>,
    pub(super) groups: mpsc::Receiver<GroupPacket>,
}

impl Ears {
    pub(super) fn new(capacity: usize) -> Self {
        let (events_tx, events) = mpsc::channel(capacity);
        let (handshakes_tx, handshakes) = mpsc::channel(capacity);
        let (carried_tx, carried) = mpsc::channel(capacity);
        let (groups_tx, groups) = mpsc::channel(capacity);
        let listeners = Listeners {
            stun: crate::stun::Ear::new().0,
            events: events_tx,
            handshakes: handshakes_tx,
            carried: carried_tx,
            groups: groups_tx,
            mac1: Mac1Key::new(&PUBLIC_KEY),
            cookies: Arc::default(),
        };
        Self { listeners, events, handshakes, carried, groups }
    }
}

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const URG: u8 = 0x20;
pub(super) const ECE: u8 = 0x40;
pub(super) const CWR: u8 = 0x80;

/// Everything in a TCP or UDP packet that a test may want to choose.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) v6: bool,
    pub(super) udp: bool,
    pub(super) source: u8,
    pub(super) ports: (u16, u16),
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) id: u16,
    pub(super) dont_fragment: bool,
    pub(super) sequence: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// TCP options, a multiple of four bytes.
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Packet {
    pub(super) fn tcp(payload: Vec<u8>) -> Self {
        Self {
            v6: false,
            udp: false,
            source: 1,
            ports: (40_000, 5201),
            tos: 0,
            ttl: 64,
            id: 7,
            dont_fragment: true,
            sequence: 1000,
            ack: 77,
            flags: ACK,
            window: 501,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload,
        }
    }

    pub(super) fn udp(payload: Vec<u8>) -> Self {
        Self { udp: true, ..Self::tcp(payload) }
    }

    pub(super) fn v6(self) -> Self {
        Self { v6: true, ..self }
    }

    pub(super) fn ip_len(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    pub(super) fn header_len(&self) -> usize {
        self.ip_len() + if self.udp { 8 } else { 20 + self.options.len() }
    }

    /// The packet with all its checksums.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.with_seed();
        let ip_len = self.ip_len();
        let at = ip_len + self.check_offset();
        bytes[at..at + 2].fill(0);
        let check = checksum::finish(u32::from(self.pseudo()) + checksum::sum(&bytes[ip_len..]));
        let check = if self.udp && check == 0 { 0xffff } else { check };
        bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    /// The packet as a kernel leaves it to a device: the pseudo-header's sum in the checksum field.
    pub(super) fn with_seed(&self) -> Vec<u8> {
        let mut bytes = self.ip();
        let start = bytes.len();
        let (source_port, destination_port) = self.ports;
        bytes.extend(source_port.to_be_bytes());
        bytes.extend(destination_port.to_be_bytes());
        if self.udp {
            bytes.extend((self.transport_len() as u16).to_be_bytes());
            bytes.extend([0; 2]);
        } else {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(self.ack.to_be_bytes());
            bytes.extend([((20 + self.options.len()) as u8 / 4) << 4, self.flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(&self.options);
        }
        let at = start + self.check_offset();
        bytes[at..at + 2].copy_from_slice(&self.pseudo().to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    pub(super) fn check_offset(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    fn transport_len(&self) -> usize {
        self.header_len() - self.ip_len() + self.payload.len()
    }

    fn protocol(&self) -> u8 {
        if self.udp { protocol::UDP } else { protocol::TCP }
    }

    fn addresses(&self) -> (Vec<u8>, Vec<u8>) {
        if self.v6 {
            let mut source = vec![0xfd; 16];
            source[15] = self.source;
            (source, vec![0xfe; 16])
        } else {
            (vec![10, 0, 0, self.source], vec![10, 0, 0, 200])
        }
    }

    fn pseudo(&self) -> u16 {
        let (source, destination) = self.addresses();
        let len = self.transport_len() as u32;
        checksum::fold(checksum::pseudo_header(&[source, destination].concat(), self.protocol(), len))
    }

    fn ip(&self) -> Vec<u8> {
        let (source, destination) = self.addresses();
        if self.v6 {
            let mut ip = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
            ip.extend((self.transport_len() as u16).to_be_bytes());
            ip.extend([self.protocol(), self.ttl]);
            return [ip, source, destination].concat();
        }
        let mut ip = vec![0x45, self.tos];
        ip.extend(((20 + self.transport_len()) as u16).to_be_bytes());
        ip.extend(self.id.to_be_bytes());
        ip.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, self.protocol(), 0, 0]);
        let mut ip = [ip, source, destination].concat();
        let check = checksum::finish(checksum::sum(&ip));
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        ip
    }
}

/// Whether every length and checksum of a TCP or UDP packet (no IP options) is right.
pub(super) fn is_sound(packet: &[u8]) -> bool {
    let v6 = packet[0] >> 4 == 6;
    let (ip_len, protocol, addresses) =
        if v6 { (40, packet[6], &packet[8..40]) } else { (20, packet[9], &packet[12..20]) };
    let stated = if v6 {
        usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40
    } else {
        usize::from(u16::from_be_bytes([packet[2], packet[3]]))
    };
    let transport = &packet[ip_len..];
    let pseudo = checksum::pseudo_header(addresses, protocol, transport.len() as u32);
    let udp_len = u16::from_be_bytes([transport[4], transport[5]]);
    stated == packet.len()
        && (v6 || checksum::fold(checksum::sum(&packet[..20])) == 0xffff)
        && checksum::fold(pseudo + checksum::sum(transport)) == 0xffff
        && (protocol != protocol::UDP || usize::from(udp_len) == transport.len())
}

/// Payload bytes that differ everywhere.
pub(super) fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

//! The outer headers of a link: written once as a template, completed per packet.

use core::net::SocketAddr;

use crate::address::{Address, Family};
use crate::checksum;
use crate::ethernet;
use crate::gpe::{FLAGS, HEADER_LEN, LinkId, NextProtocol};
use crate::ingress::{ETHERNET_LEN, UDP_LEN};
use crate::inner::protocol;
use crate::maps::Link;
use crate::relay;

/// Length of the completed header over IPv4, Ethernet to VXLAN-GPE.
pub const V4_LEN: usize = ETHERNET_LEN + 20 + UDP_LEN + HEADER_LEN;
/// Length of the completed header over IPv6.
pub const V6_LEN: usize = ETHERNET_LEN + 40 + UDP_LEN + HEADER_LEN;

/// Bytes that encapsulation adds to an IP packet: what an MTU has to leave free.
pub const fn overhead(outer: Family) -> u16 {
    match outer {
        Family::V4 => (V4_LEN - ETHERNET_LEN) as u16,
        Family::V6 => (V6_LEN - ETHERNET_LEN) as u16,
    }
}

/// Outer hop limit, as the kernel's own default.
const HOP_LIMIT: u8 = 64;
/// Source ports are drawn from here up: the dynamic range of RFC 6335.
const SOURCE_PORT_BASE: u16 = 0xc000;

/// What a link's header is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    pub source_mac: [u8; 6],
    pub next_hop_mac: [u8; 6],
    pub local: Address,
    /// Address of the peer, or of the relay, and the port that packets in this form go to.
    pub peer: SocketAddr,
    pub form: Form,
}

/// How the packets of a link look on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// VXLAN-GPE with this link id.
    Clear(LinkId),
    /// VXLAN with this link id, frames behind it.
    ClearFrames(LinkId),
    /// Transport messages of WireGuard from this port, on which this node's daemon receives.
    Sealed { source_port: u16 },
    /// The same in relay frames with this label.
    Relayed { source_port: u16, label: u32 },
}

/// Writes the template and the fields that depend on it into `link`.
pub fn write_template(link: &mut Link, underlay: &Underlay) {
    let peer = Address::from(underlay.peer.ip());
    let family = peer.family();
    let mut header = [0u8; 72];
    header[0..6].copy_from_slice(&underlay.next_hop_mac);
    header[6..12].copy_from_slice(&underlay.source_mac);
    header[12..14].copy_from_slice(&family.ethertype().to_be_bytes());
    let udp = match family {
        Family::V4 => {
            write_ipv4(&mut header, underlay.local, peer);
            ETHERNET_LEN + 20
        }
        Family::V6 => {
            write_ipv6(&mut header, underlay.local, peer);
            ETHERNET_LEN + 40
        }
    };
    header[udp + 2..udp + 4].copy_from_slice(&underlay.peer.port().to_be_bytes());
    match underlay.form {
        Form::Clear(link_id) => {
            let [_, a, b, c] = link_id.value().to_be_bytes();
            header[udp + 8..udp + 16].copy_from_slice(&[FLAGS, 0, 0, 0, a, b, c, 0]);
            link.flags = link.flags & !(Link::SEALED | Link::RELAYED) | Link::TAKES_CLEAR;
        }
        Form::ClearFrames(link_id) => {
            header[udp + 8..udp + 16].copy_from_slice(&ethernet::clear_header(link_id));
            link.flags = link.flags & !(Link::SEALED | Link::RELAYED) | Link::TAKES_CLEAR;
        }
        Form::Sealed { source_port } => {
            header[udp..udp + 2].copy_from_slice(&source_port.to_be_bytes());
            link.flags |= Link::SEALED;
        }
        Form::Relayed { source_port, label } => {
            header[udp..udp + 2].copy_from_slice(&source_port.to_be_bytes());
            header[udp + 8..udp + 16].copy_from_slice(&relay::header(label));
            link.label = label;
            link.flags |= Link::SEALED | Link::RELAYED;
        }
    }
    link.header = header;
    link.header_sum = checksum::sum(&header[ETHERNET_LEN..ETHERNET_LEN + 20]);
    link.outer_version = if family == Family::V4 { 4 } else { 6 };
    link.peer = peer;
    link.local = underlay.local;
}

/// DF set and identification zero: an atomic datagram (RFC 6864). DSCP and ECN are zero: the
/// compatibility mode of RFC 6040.
fn write_ipv4(header: &mut [u8; 72], local: Address, peer: Address) {
    let [.., a, b, c, d] = local.to_bytes();
    let [.., e, f, g, h] = peer.to_bytes();
    header[14..34].copy_from_slice(&[
        0x45,
        0,
        0,
        0,
        0,
        0,
        0x40,
        0,
        HOP_LIMIT,
        protocol::UDP,
        0,
        0,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
    ]);
}

fn write_ipv6(header: &mut [u8; 72], local: Address, peer: Address) {
    header[14] = 0x60;
    header[14 + 6] = protocol::UDP;
    header[14 + 7] = HOP_LIMIT;
    header[22..38].copy_from_slice(&local.to_bytes());
    header[38..54].copy_from_slice(&peer.to_bytes());
}

/// The outer UDP source port of a flow: the receiver's NIC spreads flows over its queues by it, and
/// its GRO merges within one.
#[inline(always)]
pub const fn source_port(flow_hash: u32) -> u16 {
    SOURCE_PORT_BASE | (flow_hash & 0x3fff) as u16
}

/// Writes the header of one packet: the template, completed for `inner_len` bytes of `inner`.
#[inline(always)]
pub fn write_v4(out: &mut [u8; V4_LEN], link: &Link, inner: Family, inner_len: u16, source_port: u16) {
    complete_v4(out, link, inner_len.wrapping_add(overhead(Family::V4)));
    put_u16(out, 34, source_port);
    out[45] = next_protocol(inner);
}

/// As [`write_v4`], over IPv6.
#[inline(always)]
pub fn write_v6(out: &mut [u8; V6_LEN], link: &Link, inner: Family, inner_len: u16, source_port: u16) {
    complete_v6(out, link, inner_len.wrapping_add((UDP_LEN + HEADER_LEN) as u16));
    put_u16(out, 54, source_port);
    out[65] = next_protocol(inner);
}

/// As [`write_v4`], for a frame of `frame_len` bytes.
#[inline(always)]
pub fn write_frame_v4(out: &mut [u8; V4_LEN], link: &Link, frame_len: u16, source_port: u16) {
    complete_v4(out, link, frame_len.wrapping_add(overhead(Family::V4)));
    put_u16(out, 34, source_port);
}

/// As [`write_frame_v4`], over IPv6.
#[inline(always)]
pub fn write_frame_v6(out: &mut [u8; V6_LEN], link: &Link, frame_len: u16, source_port: u16) {
    complete_v6(out, link, frame_len.wrapping_add((UDP_LEN + HEADER_LEN) as u16));
    put_u16(out, 54, source_port);
}

/// Writes the template of a link over IPv4 with the lengths and the header checksum of a packet of
/// `total_len` bytes from the outer IP header on.
#[inline(always)]
pub(crate) fn complete_v4<const N: usize>(out: &mut [u8; N], link: &Link, total_len: u16) {
    copy(out, &link.header);
    put_u16(out, 16, total_len);
    put_u16(out, 24, checksum::finish(link.header_sum + total_len as u32));
    put_u16(out, 38, total_len.wrapping_sub(20));
}

/// As [`complete_v4`], over IPv6, for `udp_len` bytes from the UDP header on.
#[inline(always)]
pub(crate) fn complete_v6<const N: usize>(out: &mut [u8; N], link: &Link, udp_len: u16) {
    copy(out, &link.header);
    put_u16(out, 18, udp_len);
    put_u16(out, 58, udp_len);
}

/// Copies the template in 8-byte words: `*out = *header` becomes a call to a bytewise memmove in
/// eBPF, which took longer than all the rest of a packet (420 against 190 ns for the program).
#[inline(always)]
fn copy<const N: usize>(out: &mut [u8; N], header: &[u8; 72]) {
    let (words, rest) = out.as_chunks_mut::<8>();
    let (from_words, _) = header.as_chunks::<8>();
    let whole = words.len();
    for (to, from) in words.iter_mut().zip(from_words) {
        *to = *from;
    }
    // What is left is shorter than a word.
    let tail = from_words.get(whole).unwrap_or(&[0; 8]);
    for (to, from) in rest.iter_mut().zip(tail) {
        *to = *from;
    }
}

#[inline(always)]
fn put_u16<const N: usize>(out: &mut [u8; N], at: usize, value: u16) {
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[inline(always)]
const fn next_protocol(inner: Family) -> u8 {
    match inner {
        Family::V4 => NextProtocol::IPV4,
        Family::V6 => NextProtocol::IPV6,
    }
}
